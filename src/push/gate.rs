//! What stands between a nudge and the wire: pause, breakers, guard and limits joined into one state machine. Pure: the caller brings
//! time and jitter. Both providers use it.

mod status;

pub(super) use status::unreached;

use super::Answer;
use super::breaker::{Health, ProviderBreaker};
use super::fault::{CredentialBreaker, Probe};
use super::guard::{Fate, Guard, Judgement};
use super::malformed::Malformed;
use super::notice::{Notice, Notices};
use super::outage::Outage;
use super::pace::Pace;
use super::retry_budget::RetryBudget;
use super::verdict::Verdict;
use crate::model::Id;

/// When a nudge comes back that could not be sent for want of a credential.
const UNCONFIGURED_WAIT_MS: i64 = 60_000;
/// When a nudge comes back that found no connection.
const UNSENT_WAIT_MS: i64 = 10_000;
/// When a nudge comes back that the provider refused to look at.
const REFUSED_WAIT_MS: i64 = 1_000;
/// When a nudge comes back whose request the provider calls malformed.
const BUG_WAIT_MS: i64 = 600_000;
/// The code of that fault.
const REQUEST_REFUSED: &str = "request_refused";
/// A probe that found the address itself doubtful comes so long after the next one: another nudge is the next.
const PROBED_WAIT_MS: i64 = 60_000;
/// A nudge is given back for at least so long, also while a probe is under way.
const REOPEN_MS_MIN: i64 = 1_000;
/// The pause after a refusal for the whole project that names none; doubled up to the maximum while refusals follow each other.
const THROTTLE_MS: i64 = 60_000;
const THROTTLE_MS_MAX: i64 = 960_000;
/// The shortest wait of a device whose push failed at the provider.
const FAILED_WAIT_MS: i64 = 10_000;
/// The shortest wait after a refusal for too many requests.
const THROTTLED_WAIT_MS: i64 = 60_000;

/// The state machine. One lock around it is held for well under a microsecond per send.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) pace: Pace,
    pub(super) retries: RetryBudget,
    provider: ProviderBreaker,
    credential: CredentialBreaker,
    bridge: CredentialBreaker,
    guard: Guard,
    notices: Notices,
    configured: bool,
    /// Raised with each credential: answers to an older one no longer judge the sender.
    epoch: u64,
    paused_since_ms: i64,
    paused_until_ms: i64,
    throttles: u32,
    worked_at_ms: i64,
    malformed: Malformed,
    outage: Outage,
    /// The last mass death, until it has been told a second time: answers given before it may reach the store after the first telling.
    mass_death_since_ms: Option<i64>,
    /// The last reason for which the provider failed.
    trouble: &'static str,
    in_flight: usize,
}

/// Leave to send one request; it must come back through [`Gate::settle`] or [`Gate::abandon`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave {
    /// The channel that it is for, once the sender has said so.
    pub(super) of: Option<Id>,
    epoch: u64,
    sent_at_ms: i64,
    trial: bool,
    probe: bool,
    bridge_probe: bool,
}

/// A nudge that may not leave now.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) due_ms: i64,
}

impl Gate {
    pub(super) fn new(quota_per_s: u32, now_ms: i64) -> Gate {
        Gate {
            pace: Pace::new(quota_per_s, now_ms),
            retries: RetryBudget::default(),
            provider: ProviderBreaker::default(),
            credential: CredentialBreaker::default(),
            bridge: CredentialBreaker::default(),
            guard: Guard::default(),
            notices: Notices::default(),
            configured: false,
            epoch: 0,
            paused_since_ms: 0,
            paused_until_ms: 0,
            throttles: 0,
            worked_at_ms: 0,
            malformed: Malformed::default(),
            outage: Outage::default(),
            mass_death_since_ms: None,
            trouble: "",
            in_flight: 0,
        }
    }

    /// A fresh credential: faults end, the window of the guard and the ramp begin anew. A pause that the provider asked for stays.
    pub(super) fn renew(&mut self, now_ms: i64) {
        self.epoch += 1;
        self.configured = true;
        if self.credential.fault().is_some() || self.bridge.fault().is_some() {
            self.notices.push(Notice::Recovered);
        }
        self.credential = CredentialBreaker::default();
        self.worked_at_ms = 0;
        self.malformed.clear();
        self.bridge = CredentialBreaker::default();
        self.repeat_mass_death();
        self.guard.forget();
        self.pace.restart(now_ms);
    }

    /// There is no credential any more: nothing is at fault, and nothing is sent.
    pub(super) fn unconfigure(&mut self, now_ms: i64) {
        self.renew(now_ms);
        self.configured = false;
        self.outage = Outage::default();
    }

    /// Whether anything may be sent at all; asked before a nudge waits for its place.
    pub(super) fn closed(&mut self, now_ms: i64) -> Option<Refusal> {
        if !self.configured {
            return Some(Refusal { reason: "unconfigured", due_ms: now_ms + UNCONFIGURED_WAIT_MS });
        }
        let reopens_ms = self.reopens_at_ms(now_ms)?;
        let (reason, due_ms) = if self.credential.fault().is_some() {
            ("fault", now_ms)
        } else if self.paused_until_ms > now_ms {
            ("paused", reopens_ms)
        } else {
            ("breaker_open", reopens_ms)
        };
        Some(Refusal { reason, due_ms })
    }

    /// Asks for leave to send one request now.
    pub(super) fn admit(&mut self, now_ms: i64, bridged: bool) -> Result<Leave, Refusal> {
        if let Some(refusal) = self.closed(now_ms) {
            return Err(refusal);
        }
        let fault = |due_ms| Refusal { reason: "fault", due_ms };
        let bridge_probe = if bridged { self.bridge.admit(now_ms).map_err(fault)? } else { false };
        let mut leave = Leave { of: None, epoch: self.epoch, sent_at_ms: now_ms, trial: false, probe: false, bridge_probe };
        match self.credential.admit(now_ms) {
            Ok(probe) => leave.probe = probe,
            Err(_) => {
                self.end_probes(&leave, now_ms, Probe::Unclear, Probe::Unclear);
                return Err(fault(now_ms));
            }
        }
        match self.provider.admit(now_ms) {
            Ok(trial) => leave.trial = trial,
            Err(due_ms) => {
                self.end_probes(&leave, now_ms, Probe::Unclear, Probe::Unclear);
                return Err(Refusal { reason: "breaker_open", due_ms });
            }
        }
        if leave.probe {
            self.repeat_mass_death();
        }
        self.in_flight += 1;
        Ok(leave)
    }

    fn repeat_mass_death(&mut self) {
        if let Some(since_ms) = self.mass_death_since_ms.take() {
            self.notices.push(Notice::MassDeath { since_ms });
        }
    }

    /// The request of `leave` was dropped without an answer.
    pub(super) fn abandon(&mut self, leave: Leave, now_ms: i64) {
        self.in_flight -= 1;
        self.provider.finished(now_ms, leave.trial, Health::Neutral);
        self.end_probes(&leave, now_ms, Probe::Unclear, Probe::Unclear);
    }

    /// The request of `leave` ended with `verdict`; `jitter` is between 0 and 1. Returns what became of the nudge.
    pub(super) fn settle(&mut self, leave: Leave, verdict: Verdict, now_ms: i64, jitter: f64) -> Answer {
        self.in_flight -= 1;
        let (health, probe, bridge_probe) = verdict.signs();
        let (_, reason) = verdict.labels();
        if health == Health::Bad {
            self.trouble = reason;
        }
        self.outage.heard(now_ms, health, reason);
        if self.provider.finished(now_ms, leave.trial, health) {
            self.pace.restart(now_ms);
        }
        if leave.epoch == self.epoch {
            self.settle_probes(&leave, &verdict, now_ms, probe, bridge_probe);
        }
        self.answer(leave, verdict, now_ms, jitter)
    }

    fn answer(&mut self, leave: Leave, verdict: Verdict, now_ms: i64, jitter: f64) -> Answer {
        let failed = |reason: &'static str, wait_ms| Answer::Failed { reason: reason.into(), retry_after_ms: Some(wait_ms) };
        match verdict {
            Verdict::Accepted => {
                self.throttles = 0;
                self.malformed.clear();
                if leave.epoch == self.epoch {
                    self.worked_at_ms = now_ms;
                }
                self.judge(&leave, now_ms, Fate::Alive);
                Answer::Accepted
            }
            Verdict::Dead(reason) => {
                self.judge(&leave, now_ms, Fate::Dead);
                Answer::Dead { reason: reason.into() }
            }
            Verdict::Suspect(reason) => {
                self.judge(&leave, now_ms, Fate::Suspect);
                match self.credential.fault() {
                    Some(_) => Answer::GivenBack { reason: reason.into(), due_ms: self.after_probe(&leave, now_ms) },
                    None if leave.epoch != self.epoch => Answer::GivenBack { reason: reason.into(), due_ms: now_ms },
                    None => Answer::Suspect { reason: reason.into() },
                }
            }
            Verdict::DeviceThrottled { reason, wait_ms } => failed(reason, wait_ms.max(THROTTLED_WAIT_MS)),
            Verdict::Throttled { reason, retry_after_ms } => {
                // Refusals of requests that left before the pause are echoes of the one that began it.
                if leave.sent_at_ms >= self.paused_until_ms {
                    self.throttles += 1;
                }
                let doublings = self.throttles.saturating_sub(1).min(4);
                let wait_ms = retry_after_ms.unwrap_or((THROTTLE_MS << doublings).min(THROTTLE_MS_MAX));
                self.pause(now_ms, wait_ms, jitter);
                failed(reason, wait_ms)
            }
            Verdict::Overloaded { reason, retry_after_ms } => {
                if let Some(wait_ms) = retry_after_ms {
                    self.pause(now_ms, wait_ms, jitter);
                }
                match self.reopens_at_ms(now_ms).filter(|_| leave.trial) {
                    // No device has a part in it, and a lock on the ladder of failures would wait for half an hour after the provider's return.
                    Some(reopens_ms) => Answer::GivenBack { reason: reason.into(), due_ms: reopens_ms + REFUSED_WAIT_MS },
                    None => failed(reason, retry_after_ms.unwrap_or(0).max(FAILED_WAIT_MS)),
                }
            }
            Verdict::Failed { reason, wait_ms } => failed(reason, wait_ms.max(FAILED_WAIT_MS)),
            Verdict::TimedOut => failed("timeout", FAILED_WAIT_MS),
            Verdict::Unsent { reason } => {
                let due_ms = self.reopens_at_ms(now_ms).unwrap_or(now_ms + UNSENT_WAIT_MS + (jitter * 1_000.0) as i64);
                Answer::GivenBack { reason: reason.into(), due_ms }
            }
            Verdict::Refused { reason } => Answer::GivenBack { reason: reason.into(), due_ms: now_ms + REFUSED_WAIT_MS },
            // A sender at fault claims nothing but its probes, so what is due stays where it is until a probe or another credential works.
            Verdict::Config { code, .. } => Answer::GivenBack { reason: code.into(), due_ms: now_ms },
            Verdict::Unauthenticated { .. } => Answer::GivenBack { reason: "UNAUTHENTICATED".into(), due_ms: now_ms },
            // Behind a bridge at fault it goes on claiming: what is for the bridge waits for the probe.
            Verdict::BridgeConfig { code, .. } => {
                let due_ms = self.bridge.fault().map_or(now_ms, |fault| fault.probe_at_ms);
                Answer::GivenBack { reason: code.into(), due_ms }
            }
            Verdict::Bug { reason, detail } => {
                self.notices.bug(now_ms, reason, &detail);
                let waits = self.credential.fault().is_none();
                let due_ms = if waits { now_ms + BUG_WAIT_MS } else { self.after_probe(&leave, now_ms) };
                Answer::GivenBack { reason: reason.into(), due_ms }
            }
        }
    }

    /// When a nudge is due again that was refused while the sender stands still: one that is wrong itself must not be every probe.
    fn after_probe(&self, leave: &Leave, now_ms: i64) -> i64 {
        self.credential.fault().filter(|_| leave.probe).map_or(now_ms, |fault| fault.probe_at_ms + PROBED_WAIT_MS)
    }

    /// Opens, keeps or closes the credential breakers by what this answer says of the credential.
    fn settle_probes(&mut self, leave: &Leave, verdict: &Verdict, now_ms: i64, probe: Probe, bridge_probe: Probe) {
        // After a mass death an address that is called wrong proves nothing; nor does a malformed request after those that stopped the sender.
        let stands = |code: &str| self.credential.fault().is_some_and(|fault| fault.code == code);
        let doubtful = matches!(verdict, Verdict::Suspect(_)) && stands("mass_death")
            || matches!(verdict, Verdict::Bug { .. }) && stands(REQUEST_REFUSED);
        self.end_probes(leave, now_ms, if doubtful { Probe::StillBroken } else { probe }, bridge_probe);
        let is_ours = matches!(verdict, Verdict::Bug { .. }) && leave.of.is_some_and(|of| self.malformed.add(of));
        let (code, detail, breaker) = match verdict {
            Verdict::Bug { detail, .. } if is_ours => (REQUEST_REFUSED, detail, &mut self.credential),
            Verdict::Config { code, detail } => (*code, detail, &mut self.credential),
            Verdict::Unauthenticated { detail } => ("UNAUTHENTICATED", detail, &mut self.credential),
            Verdict::BridgeConfig { code, detail } => (*code, detail, &mut self.bridge),
            _ => return,
        };
        if breaker.trip(now_ms, code, detail.clone()) {
            self.notices.push(Notice::Fault { code: code.into(), detail: detail.clone() });
        }
    }

    fn end_probes(&mut self, leave: &Leave, now_ms: i64, probe: Probe, bridge_probe: Probe) {
        if leave.epoch != self.epoch {
            return;
        }
        let mended =
            (leave.probe && self.credential.probed(now_ms, probe)) | (leave.bridge_probe && self.bridge.probed(now_ms, bridge_probe));
        if mended && self.credential.fault().is_none() && self.bridge.fault().is_none() {
            self.notices.push(Notice::Recovered);
            self.pace.restart(now_ms);
        }
    }

    fn judge(&mut self, leave: &Leave, now_ms: i64, fate: Fate) {
        if leave.epoch != self.epoch || self.credential.fault().is_some() {
            return;
        }
        match self.guard.record(now_ms, fate) {
            Judgement::Fine => {}
            Judgement::DeathRush => self.notices.push(Notice::DeathRush),
            Judgement::MassDeath { since_ms } => {
                let detail = "too many addresses are refused: does the credential belong to the project of the apps?";
                self.credential.trip(now_ms, "mass_death", detail.into());
                self.mass_death_since_ms = Some(since_ms);
                self.notices.push(Notice::MassDeath { since_ms });
                self.notices.push(Notice::Fault { code: "mass_death".into(), detail: detail.into() });
            }
        }
    }

    /// Stops the whole sender for `wait_ms` and up to a tenth more, so that several processes do not come back as one.
    fn pause(&mut self, now_ms: i64, wait_ms: i64, jitter: f64) {
        if self.paused_until_ms <= now_ms {
            self.paused_since_ms = now_ms;
        }
        let until_ms = now_ms + wait_ms + (wait_ms as f64 * 0.1 * jitter) as i64;
        self.paused_until_ms = self.paused_until_ms.max(until_ms);
        self.pace.restart(self.paused_until_ms);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Unix milliseconds at which the sender may send again; `None` while it may.
    pub(super) fn reopens_at_ms(&self, now_ms: i64) -> Option<i64> {
        let probe_at_ms = self.credential.fault().filter(|_| self.credential.free(now_ms) == 0).map(|fault| fault.probe_at_ms);
        let paused = (self.paused_until_ms > now_ms).then_some(self.paused_until_ms);
        let latest = [probe_at_ms, paused, self.provider.open_until_ms(now_ms)].into_iter().flatten().max();
        latest.map(|at_ms| at_ms.max(now_ms + REOPEN_MS_MIN))
    }

    /// How many more nudges can be sent within `window_ms`, in which the connections have `room` for so many, when `held` are waiting or
    /// under way already.
    pub(super) fn capacity(&mut self, now_ms: i64, window_ms: i64, room: usize, held: usize) -> usize {
        if self.closed(now_ms).is_some() {
            return 0;
        }
        self.slots(now_ms, room, held).min(self.pace.free_within(now_ms, window_ms))
    }

    /// As [`Gate::capacity`] for nudges that overtake those of other lanes; `held` counts their own kind alone.
    pub(super) fn express_capacity(&mut self, now_ms: i64, window_ms: i64, room: usize, held: usize) -> usize {
        if self.closed(now_ms).is_some() {
            return 0;
        }
        let places = i64::from(self.pace.level_per_s()) * window_ms / 1_000;
        self.slots(now_ms, room, held).min(usize::try_from(places).unwrap_or(0).saturating_sub(held))
    }

    fn slots(&mut self, now_ms: i64, room: usize, held: usize) -> usize {
        room.saturating_sub(held).min(self.credential.free(now_ms)).min(self.provider.free(now_ms))
    }

    pub(super) fn put_back(&mut self, notices: impl DoubleEndedIterator<Item = Notice>) {
        self.notices.put_back(notices);
    }

    /// Unix milliseconds at which a nudge was last accepted under this credential; 0 where none was.
    pub(super) fn worked_at_ms(&self) -> i64 {
        self.worked_at_ms
    }

    /// Since when (Unix milliseconds) and why the provider has answered nothing of use, where that has lasted for five minutes.
    pub(super) fn outage(&self) -> Option<(i64, &'static str)> {
        self.outage.standing()
    }

    /// What is at fault, as [`Notice::Fault`] is told.
    pub(super) fn fault(&self) -> Option<String> {
        self.credential.fault().or_else(|| self.bridge.fault()).map(|fault| format!("{}: {}", fault.code, fault.detail))
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        self.notices.take()
    }
}
