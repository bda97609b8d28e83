//! The Apple Push Notification service: one contentless push per request over HTTP/2. Devices under MDM are called with the push
//! certificate, apps on iOS with a provider token. The words are a2's; the connections are our own.

mod answer;
mod connection;
mod identity;
mod key;
mod pool;
mod provider_token;
mod request;
mod tls;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::Nudge;
use super::strange::Strange;
use super::verdict::Verdict;
use crate::clock::Clock;
use connection::Lost;
pub use identity::Identity;
pub use key::AppKey;
use pool::Pool;
use provider_token::ProviderToken;
pub use tls::SettingsError;
use tls::Target;

/// Apple's production address.
pub const ENDPOINT: &str = "https://api.push.apple.com";
/// Apple names no quota; this is what one process sends at most.
pub const QUOTA_PER_S: u32 = 20_000;
/// Requests in flight at most, over all connections.
const CONCURRENCY_MAX: usize = 4_000;
/// An answer that takes longer is not waited for.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that the peer never looked at are sent again at once, but not without end.
const REFUSALS_MAX: usize = 16;

/// How a sender reaches APNs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The base URL to which `/3/device/...` is appended; plain http only on loopback, which then is HTTP/2 with prior knowledge.
    pub endpoint: String,
    /// PEM file with further roots that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { endpoint: ENDPOINT.into(), ca_file: None }
    }
}

impl Settings {
    /// Whether connections could be made ready under these settings and this certificate. Nothing is sent and nothing changes.
    pub fn check(&self, identity: Option<&Identity>) -> anyhow::Result<()> {
        Target::new(self)?.tls(identity)?;
        Ok(())
    }
}

/// Why a credential cannot be used; never shows a secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("{0} is missing or not in PEM form")]
    Pem(&'static str),
    #[error("the certificate cannot be read")]
    Certificate,
    #[error("the key does not belong to the certificate")]
    Mismatch,
    #[error("the certificate is no MDM push certificate: its subject has no UID that begins with com.apple.mgmt.")]
    NoTopic,
    #[error("the certificate ended before now")]
    Expired,
    #[error("this sender is for the topic {0}")]
    OtherTopic(String),
    #[error("the key must be a P-256 key as Apple's .p8 files hold it")]
    Key,
    #[error("{0} is empty or holds characters that it cannot have")]
    Field(&'static str),
    #[error("the body is not the JSON of this credential: {0}")]
    Json(String),
    #[error("the TLS client cannot be set up: {0}")]
    Tls(#[source] rustls::Error),
}

/// The transport of an APNs sender.
pub(super) struct Apns {
    target: Arc<Target>,
    current: RwLock<Option<Arc<Current>>>,
    strange: Strange,
    clock: Clock,
    timeout: Duration,
}

/// A credential in use, with its connections: another credential has others.
struct Current {
    pool: Arc<Pool>,
    topic: HeaderValue,
    /// Absent where the client certificate speaks for us.
    token: Option<ProviderToken>,
    ends_at_ms: Option<i64>,
    shown: String,
}

impl Apns {
    pub(super) fn new(settings: &Settings, timeout: Duration, clock: Clock) -> Result<Apns, SettingsError> {
        Ok(Apns { target: Arc::new(Target::new(settings)?), current: RwLock::new(None), strange: Strange::default(), clock, timeout })
    }

    /// Sends with this certificate from now on. The connections of the one before end with their last answers.
    pub(super) fn use_identity(&self, name: &str, identity: &Identity) -> Result<(), CredentialError> {
        let topic = HeaderValue::from_str(identity.topic()).map_err(|_| CredentialError::NoTopic)?;
        let tls = self.target.tls(Some(identity))?;
        let (shown, ends_at_ms) = (identity.topic().to_owned(), Some(identity.not_after_ms()));
        metrics::gauge!("muster_credential_expiry_timestamp", "provider" => name.to_owned()).set(identity.not_after_ms() as f64 / 1_000.0);
        self.put(Current { pool: self.pool(name, tls), topic, token: None, ends_at_ms, shown });
        Ok(())
    }

    /// Sends with tokens of this key from now on.
    pub(super) fn use_key(&self, name: &str, key: &AppKey) -> Result<(), CredentialError> {
        let topic = HeaderValue::from_str(&key.topic).map_err(|_| CredentialError::Field("topic"))?;
        let pool = self.pool(name, self.target.tls(None)?);
        self.put(Current { pool, topic, token: Some(ProviderToken::new(key)?), ends_at_ms: None, shown: key.topic.clone() });
        Ok(())
    }

    /// Sends nothing from now on. The connections end with their last answers.
    pub(super) fn remove(&self, name: &str) {
        // No number: 0 would be one that has ended long ago.
        metrics::gauge!("muster_credential_expiry_timestamp", "provider" => name.to_owned()).set(f64::NAN);
        if let Some(before) = self.current.write().unwrap_or_else(PoisonError::into_inner).take() {
            before.pool.retire();
        }
    }

    fn pool(&self, name: &str, tls: Arc<rustls::ClientConfig>) -> Arc<Pool> {
        Pool::new(name.to_owned(), self.target.clone(), tls)
    }

    fn put(&self, current: Current) {
        let before = self.current.write().unwrap_or_else(PoisonError::into_inner).replace(Arc::new(current));
        if let Some(before) = before {
            before.pool.retire();
        }
    }

    fn current(&self) -> Option<Arc<Current>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps connections open while nothing is sent, and shows what their peers allow, which changes meanwhile; `waiting` says that nudges
    /// find no place. Answers, once, that the provider ended all connections because of the credential.
    pub(super) fn keep_warm(&self, waiting: bool) -> Option<Verdict> {
        self.current().and_then(|current| current.pool.keep_warm(waiting))
    }

    /// Requests that may be under way, over all connections.
    pub(super) fn concurrency_limit(&self) -> usize {
        self.current().map_or(0, |current| current.pool.concurrency_limit()).clamp(1, CONCURRENCY_MAX)
    }

    /// How many requests the limits of the connections let through in `window_ms`.
    pub(super) fn throughput(&self, window_ms: i64) -> usize {
        self.current().map_or(0, |current| current.pool.throughput(window_ms))
    }

    /// The topic of the credential in use.
    pub(super) fn topic(&self) -> Option<String> {
        self.current().map(|current| current.shown.clone())
    }

    /// Unix milliseconds at which the certificate in use ends.
    pub(super) fn ends_at_ms(&self) -> Option<i64> {
        self.current()?.ends_at_ms
    }

    /// The last answer that Apple's table does not have.
    pub(super) fn strange(&self) -> Option<String> {
        self.strange.last()
    }

    pub(super) fn token_age_s(&self, now_ms: i64) -> Option<i64> {
        self.current()?.token.as_ref()?.age_s(now_ms)
    }

    pub(super) async fn deliver(&self, nudge: &Nudge) -> Verdict {
        let patience = tokio::time::sleep(self.timeout * 2);
        tokio::pin!(patience);
        let mut is_out = false;
        loop {
            let Some(current) = self.current() else { return Verdict::Unsent { reason: "unconfigured" } };
            let verdict = tokio::select! {
                verdict = self.deliver_as(&current, nudge, &mut is_out) => verdict,
                () = &mut patience => return if is_out { Verdict::TimedOut } else { Verdict::Refused { reason: "no_stream" } },
            };
            let replaced = matches!(verdict, Verdict::Refused { .. }) && self.current().is_some_and(|now| !Arc::ptr_eq(&now, &current));
            if !replaced {
                return verdict;
            }
        }
    }

    /// Sends; what the peer never looked at goes out again on another connection, and an expired token is minted anew once. `is_out` while
    /// the peer has a request of which it has said nothing.
    async fn deliver_as(&self, current: &Current, nudge: &Nudge, is_out: &mut bool) -> Verdict {
        let body = request::body(nudge);
        let (mut refusals, mut minted, mut moved) = (0, false, false);
        loop {
            let now_ms = self.clock.now_ms();
            let token = match current.token.as_ref().map(|token| token.get(now_ms)).transpose() {
                Ok(token) => token,
                Err(detail) => return Verdict::Config { code: "provider_token", detail },
            };
            let id = self.clock.moment().id();
            let bearer = token.as_ref().map(|minted| minted.header.clone());
            let parts =
                request::Parts { authority: &self.target.authority, scheme: self.target.scheme(), topic: &current.topic, bearer, id };
            let Some(head) = request::head(nudge, parts) else { return Verdict::Suspect("BadDeviceToken") };
            let stream = match current.pool.stream().await {
                Ok(stream) => stream,
                Err(verdict) => return verdict,
            };
            *is_out = true;
            let started = Instant::now();
            let heard = |verdict: &Verdict| {
                stream.heard(verdict, self.clock.now_ms(), started.elapsed().as_secs_f64() * 1_000.0);
            };
            let reply = match tokio::time::timeout(self.timeout, stream.send(head, body.clone())).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(Lost::Refused)) => {
                    *is_out = false;
                    refusals += 1;
                    metrics::counter!("muster_refused_stream_total", "provider" => current.pool.name().to_owned()).increment(1);
                    if refusals > REFUSALS_MAX {
                        let verdict = Verdict::Refused { reason: "refused_stream" };
                        heard(&verdict);
                        return verdict;
                    }
                    continue;
                }
                Ok(Err(Lost::Broken)) => return Verdict::Failed { reason: "connection_lost", wait_ms: 0 },
                Ok(Err(Lost::Denied { code, detail })) => {
                    current.pool.drain();
                    return Verdict::Config { code, detail };
                }
                Err(_) => {
                    // The peer may be gone without a word: whoever comes next opens another connection.
                    heard(&Verdict::TimedOut);
                    stream.suspect();
                    return Verdict::TimedOut;
                }
            };
            let said = answer::read(&reply, &nudge.address.value);
            if let Some((status, words)) = said.strange() {
                self.strange.note(current.pool.name(), status, words, now_ms);
            }
            match said.reason.as_str() {
                "ExpiredProviderToken" if !minted => {
                    let renewed = current.token.as_ref().zip(token).is_some_and(|(tokens, used)| tokens.renew(&used, now_ms));
                    if renewed {
                        minted = true;
                        continue;
                    }
                }
                "UnrelatedKeyIdInToken" | "IdleTimeout" | "Shutdown" if !moved => {
                    moved = true;
                    stream.suspect();
                    continue;
                }
                "TooManyProviderTokenUpdates" => {
                    if let Some(tokens) = &current.token {
                        tokens.rest(now_ms);
                    }
                    stream.suspect();
                }
                _ => {}
            }
            let verdict = match said.verdict(nudge.registered_at_ms, now_ms) {
                // Apple's support asks for it.
                Verdict::Config { code, detail } => Verdict::Config { code, detail: format!("{detail}; apns-id {id}") },
                Verdict::Bug { reason, detail } => Verdict::Bug { reason, detail: format!("{detail}; apns-id {id}") },
                verdict => verdict,
            };
            heard(&verdict);
            if matches!(verdict, Verdict::Config { .. }) {
                current.pool.drain();
            }
            return verdict;
        }
    }
}
