//! One push credential in use: takes nudges, keeps to the provider's limits, and says what became of each nudge.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::Instant as At;

use super::apns::{self, Apns, AppKey, Identity};
use super::fcm::{self, Fcm};
use super::gate::{Gate, Leave, unreached};
use super::notice::{CredentialSource, Notice, SenderStatus};
use super::overtaking::Overtaking;
use super::slots::{Slot, Slots};
use super::verdict::Verdict;
use super::{Answer, Nudge, Trip};
use crate::clock::Clock;
use crate::model::Lane;

/// How the senders of Apple's MDM are named: the topic follows.
pub(super) const APNS_MDM: &str = "apns_mdm/";
/// Nudges are claimed for this long ahead.
const CLAIM_WINDOW_MS: i64 = 2_000;
/// Urgent nudges that may be claimed beyond that, because they overtake: the other lanes keep half of the window.
const EXPRESS_WINDOW_MS: i64 = CLAIM_WINDOW_MS / 2;
/// A nudge that finds no free request slot for so long goes back. With both windows, once for its own instant and once for that of the
/// urgent nudge that overtook it, and two tries on the wire it stays below the lease of a claim.
const SLOT_WAIT: Duration = Duration::from_secs(5);
/// When a nudge comes back that found no free request slot.
const SLOT_WAIT_MS: i64 = 2_000;

/// A sender. Share it in an `Arc`; every method takes `&self` and none blocks.
pub struct Sender {
    name: String,
    transport: Transport,
    gate: Mutex<Gate>,
    overtaking: Overtaking,
    slots: Slots,
    held: AtomicUsize,
    held_urgent: AtomicUsize,
    credential_from: Mutex<Option<CredentialSource>>,
    clock: Clock,
}

enum Transport {
    Fcm(Fcm),
    ApnsApp(Apns),
    /// The topic is the sender's: another topic has another sender.
    ApnsMdm {
        apns: Apns,
        topic: String,
    },
}

impl Transport {
    /// Requests that may be under way, over all connections.
    fn concurrency_limit(&self) -> usize {
        match self {
            Transport::Fcm(fcm) => fcm.concurrency_limit(),
            Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. } => apns.concurrency_limit(),
        }
    }

    /// How many requests the limits of the connections let through in `window_ms`, going by the answer times seen.
    fn throughput(&self, window_ms: i64) -> usize {
        match self {
            Transport::Fcm(fcm) => fcm.throughput(window_ms),
            Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. } => apns.throughput(window_ms),
        }
    }
}

/// Why a credential cannot be used; never shows a secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error(transparent)]
    Fcm(#[from] fcm::CredentialError),
    #[error(transparent)]
    Apns(#[from] apns::CredentialError),
}

impl Sender {
    /// An FCM sender without a credential; it sends nothing until [`Sender::replace_credential`]. Fails when the settings are
    /// unusable: an endpoint that is no URL, plain http beyond loopback, an unreadable `ca_file`.
    pub fn fcm(settings: fcm::Settings, clock: Clock) -> Result<Sender, fcm::SettingsError> {
        Sender::fcm_within(settings, fcm::REQUEST_TIMEOUT, clock)
    }

    /// As [`Sender::fcm`], with another limit on the time that an answer may take.
    pub fn fcm_within(settings: fcm::Settings, timeout: Duration, clock: Clock) -> Result<Sender, fcm::SettingsError> {
        let gate = Gate::new(settings.quota_per_s, clock.now_ms());
        Ok(Sender::new("fcm".into(), Transport::Fcm(Fcm::new(settings, timeout, clock.clone())?), gate, clock))
    }

    /// A sender of background pushes to our app on iOS, without a key; it sends nothing until [`Sender::replace_credential`]. Fails
    /// when the settings are unusable.
    pub fn apns_app(settings: &apns::Settings, clock: Clock) -> Result<Sender, apns::SettingsError> {
        Sender::apns_app_within(settings, apns::REQUEST_TIMEOUT, clock)
    }

    /// As [`Sender::apns_app`], with another limit on the time that an answer may take.
    pub fn apns_app_within(settings: &apns::Settings, timeout: Duration, clock: Clock) -> Result<Sender, apns::SettingsError> {
        let apns = Apns::new(settings, timeout, clock.clone())?;
        Ok(Sender::new("apns_app".into(), Transport::ApnsApp(apns), apns_gate(&clock), clock))
    }

    /// A sender of MDM pushes for one topic, without its certificate; it sends nothing until [`Sender::replace_credential`]. Fails when
    /// the settings are unusable.
    pub fn apns_mdm(settings: &apns::Settings, topic: &str, clock: Clock) -> Result<Sender, apns::SettingsError> {
        Sender::apns_mdm_within(settings, topic, apns::REQUEST_TIMEOUT, clock)
    }

    /// As [`Sender::apns_mdm`], with another limit on the time that an answer may take.
    pub fn apns_mdm_within(settings: &apns::Settings, topic: &str, timeout: Duration, clock: Clock) -> Result<Sender, apns::SettingsError> {
        let apns = Apns::new(settings, timeout, clock.clone())?;
        let transport = Transport::ApnsMdm { apns, topic: topic.to_owned() };
        Ok(Sender::new(format!("{APNS_MDM}{topic}"), transport, apns_gate(&clock), clock))
    }

    fn new(name: String, transport: Transport, gate: Gate, clock: Clock) -> Sender {
        let slots = Slots::new(transport.concurrency_limit());
        Sender {
            name,
            transport,
            gate: Mutex::new(gate),
            overtaking: Overtaking::default(),
            slots,
            held: AtomicUsize::new(0),
            held_urgent: AtomicUsize::new(0),
            credential_from: Mutex::default(),
            clock,
        }
    }

    /// The word by which channels, metrics and the console know this sender: `fcm`, `apns_app`, `apns_mdm/<topic>`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends one nudge, waiting for its place in the pace (a few seconds at most, if no more than [`Sender::capacity`] and
    /// [`Sender::express_capacity`] are brought) and for a request slot; an urgent one overtakes the others at both. Ends within 55 s,
    /// less than the lease of a claim. Dropping the future is safe.
    pub async fn send(&self, nudge: &Nudge) -> Trip {
        let mut left_ms = None;
        let answer = self.send_noting(nudge, &mut left_ms).await;
        Trip { answer, left_ms }
    }

    /// As [`Sender::send`]; `left_ms` becomes the time at which the nudge left.
    async fn send_noting(&self, nudge: &Nudge, left_ms: &mut Option<i64>) -> Answer {
        let urgent = nudge.lane == Lane::Urgent;
        let _held = (Held::one(&self.held), urgent.then(|| Held::one(&self.held_urgent)));
        let now_ms = self.clock.now_ms();
        let leaves_at_ms = {
            let mut gate = self.gate();
            if let Some(refusal) = gate.closed(now_ms) {
                return Answer::GivenBack { reason: refusal.reason.into(), due_ms: refusal.due_ms };
            }
            if nudge.again && !urgent {
                if let Err(due_ms) = gate.retries.admit(now_ms) {
                    let lane = nudge.lane.name();
                    metrics::counter!("muster_retry_budget_exhausted", "provider" => self.name.clone(), "lane" => lane).increment(1);
                    return Answer::GivenBack { reason: "retry_budget".into(), due_ms };
                }
            } else {
                gate.retries.sent(now_ms);
            }
            gate.pace.reserve(now_ms)
        };
        let leaves_at = At::now() + Duration::from_millis((leaves_at_ms - now_ms).max(0).unsigned_abs());
        self.overtaking.wait(leaves_at, urgent).await;
        let Ok(slot) = tokio::time::timeout(SLOT_WAIT, self.slots.acquire(urgent)).await else {
            return Answer::GivenBack { reason: "no_stream".into(), due_ms: self.clock.now_ms() + SLOT_WAIT_MS };
        };
        let now_ms = self.clock.now_ms();
        let leave = match self.gate().admit(now_ms, nudge.ios) {
            Ok(mut leave) => {
                leave.of = Some(nudge.channel_id);
                leave
            }
            Err(refusal) => return Answer::GivenBack { reason: refusal.reason.into(), due_ms: refusal.due_ms },
        };
        let request = Request { sender: self, leave: Some(leave), _slot: slot };
        *left_ms = Some(now_ms);
        let started = Instant::now();
        let verdict = match &self.transport {
            Transport::Fcm(fcm) => fcm.deliver(nudge).await,
            Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. } => apns.deliver(nudge).await,
        };
        let took_s = started.elapsed().as_secs_f64();
        let (result, reason) = verdict.labels();
        metrics::counter!("muster_nudges_total", "provider" => self.name.clone(), "lane" => nudge.lane.name(), "result" => result, "reason" => reason)
            .increment(1);
        metrics::histogram!("muster_send_seconds", "provider" => self.name.clone(), "lane" => nudge.lane.name()).record(took_s);
        request.settle(verdict)
    }

    /// How many more nudges may be claimed now, to be sent within the next 2 s: 0 while paused, broken or without a credential.
    pub fn capacity(&self) -> usize {
        let held = self.held.load(Ordering::Relaxed);
        let now_ms = self.clock.now_ms();
        let room = self.transport.throughput(CLAIM_WINDOW_MS);
        let limit = self.transport.concurrency_limit();
        // Connections open and end also while nothing is answered.
        self.slots.set_limit(limit);
        let mut gate = self.gate();
        let capacity = gate.capacity(now_ms, CLAIM_WINDOW_MS, room, held);
        metrics::gauge!("muster_in_flight", "provider" => self.name.clone()).set(gate.in_flight() as f64);
        metrics::gauge!("muster_concurrency_limit", "provider" => self.name.clone()).set(limit as f64);
        metrics::gauge!("muster_breaker_state", "provider" => self.name.clone()).set(gate.breaker_state(now_ms));
        let reopens_s = gate.reopens_at_ms(now_ms).map_or(0.0, |at_ms| at_ms as f64 / 1_000.0);
        metrics::gauge!("muster_paused_until", "provider" => self.name.clone()).set(reopens_s);
        let age_s = match &self.transport {
            Transport::Fcm(fcm) => {
                metrics::gauge!("muster_fcm_quota_used_ratio").set(gate.pace.used_ratio());
                fcm.token_age_s(now_ms)
            }
            Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. } => apns.token_age_s(now_ms),
        };
        if let Some(age_s) = age_s {
            metrics::gauge!("muster_provider_token_age_seconds", "provider" => self.name.clone()).set(age_s as f64);
        }
        capacity
    }

    /// Keeps connections open while there is nothing to send, so that the next nudge finds one; call it every second, where nudges are sent.
    pub fn keep_warm(&self) {
        if let (Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. }, true) = (&self.transport, self.reopens_at_ms().is_none())
            && let Some(Verdict::Config { code, detail }) = apns.keep_warm(self.slots.has_waiting())
        {
            self.gate().denied(self.clock.now_ms(), code, detail);
        }
    }

    /// How many urgent nudges may be claimed now, also where nudges of other lanes fill the next 2 s already: they overtake them.
    pub fn express_capacity(&self) -> usize {
        let room = self.transport.throughput(EXPRESS_WINDOW_MS);
        self.gate().express_capacity(self.clock.now_ms(), EXPRESS_WINDOW_MS, room, self.held_urgent.load(Ordering::Relaxed))
    }

    /// Unix milliseconds at which a sender that is paused or at fault tries again; `None` while it sends.
    pub fn reopens_at_ms(&self) -> Option<i64> {
        self.gate().reopens_at_ms(self.clock.now_ms())
    }

    /// The sender's state for the console and `GET /push`.
    pub fn status(&self) -> SenderStatus {
        let now_ms = self.clock.now_ms();
        let mut status = self.gate().status(self.name(), now_ms);
        status.concurrency_limit = self.transport.concurrency_limit();
        status.credential_from = *self.credential_from.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.transport {
            Transport::Fcm(fcm) => {
                status.token_age_s = fcm.token_age_s(now_ms);
                status.project_id = fcm.project_id();
                status.strange_answer = fcm.strange();
            }
            Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. } => {
                status.token_age_s = apns.token_age_s(now_ms);
                status.topic = apns.topic();
                status.strange_answer = apns.strange();
                status.credential_ends_at_ms = apns.ends_at_ms();
            }
        }
        status
    }

    /// Takes the notices that have gathered (at most 64), oldest first.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.gate().take_notices()
    }

    /// Gives notices back that could not be heeded: they are taken again, in this order, before any other.
    pub fn put_back(&self, notices: impl DoubleEndedIterator<Item = Notice>) {
        self.gate().put_back(notices);
    }

    /// Unix milliseconds at which a nudge was last accepted under the credential in use; 0 where none was.
    pub fn worked_at_ms(&self) -> i64 {
        self.gate().worked_at_ms()
    }

    /// What its alarm says where the provider has answered nothing of use for five minutes.
    pub fn outage(&self) -> Option<String> {
        self.gate().outage().map(|(_, reason)| unreached(reason))
    }

    /// What is at fault, of the credential or of the one that FCM holds for the bridge to APNs, as its alarm says it.
    pub fn fault(&self) -> Option<String> {
        self.gate().fault()
    }

    /// How much of its pace it may use, in thousandths: what the server itself has room for.
    pub fn set_headroom(&self, permille: u32) {
        self.gate().pace.set_share(permille);
    }

    /// So many servers send under this credential: a quota is divided among them. Apple names none.
    pub fn share_quota(&self, servers: u32) {
        if matches!(self.transport, Transport::Fcm(_)) {
            self.gate().pace.divide(servers);
        }
    }

    /// Puts a credential in the place of the present one, at run time. The JSON is FCM's service account, `{"key", "key_id", "team_id",
    /// "topic"}` of an app, or `{"certificate", "key"}` of MDM. Requests under way finish with the old one; its tokens, its connections
    /// and any fault are dropped. On an error everything stays as it was.
    pub fn replace_credential(&self, json: &[u8]) -> Result<(), CredentialError> {
        match &self.transport {
            Transport::Fcm(fcm) => fcm.replace(json)?,
            Transport::ApnsApp(apns) => apns.use_key(&self.name, &AppKey::parse(json)?)?,
            Transport::ApnsMdm { apns, topic } => {
                let identity = Identity::parse(json)?;
                if identity.topic() != topic {
                    return Err(apns::CredentialError::OtherTopic(topic.clone()).into());
                }
                apns.use_identity(&self.name, &identity)?;
            }
        }
        self.gate().renew(self.clock.now_ms());
        Ok(())
    }

    /// Sends nothing from now on, until another credential comes. Requests under way finish.
    pub fn remove_credential(&self) {
        match &self.transport {
            Transport::Fcm(fcm) => fcm.remove(),
            Transport::ApnsApp(apns) | Transport::ApnsMdm { apns, .. } => apns.remove(&self.name),
        }
        *self.credential_from.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.gate().unconfigure(self.clock.now_ms());
    }

    /// Notes where the credential in use came from.
    pub fn came_from(&self, source: CredentialSource) {
        *self.credential_from.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("name", &self.name()).finish_non_exhaustive()
    }
}

fn apns_gate(clock: &Clock) -> Gate {
    Gate::new(apns::QUOTA_PER_S, clock.now_ms())
}

/// Counts a nudge that waits or is under way.
struct Held<'a>(&'a AtomicUsize);

impl Held<'_> {
    fn one(count: &AtomicUsize) -> Held<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Held(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request under way; one that is dropped gives its place back.
struct Request<'a> {
    sender: &'a Sender,
    leave: Option<Leave>,
    _slot: Slot<'a>,
}

impl Request<'_> {
    fn settle(mut self, verdict: Verdict) -> Answer {
        let now_ms = self.sender.clock.now_ms();
        let jitter = if matches!(verdict, Verdict::Accepted) { 0.0 } else { self.sender.clock.moment().below(1_000) as f64 / 1_000.0 };
        self.sender.slots.set_limit(self.sender.transport.concurrency_limit());
        match self.leave.take() {
            Some(leave) => self.sender.gate().settle(leave, verdict, now_ms, jitter),
            None => Answer::GivenBack { reason: "shutdown".into(), due_ms: now_ms },
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            self.sender.gate().abandon(leave, self.sender.clock.now_ms());
        }
    }
}
