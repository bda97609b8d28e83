//! Firebase Cloud Messaging, HTTP v1: one contentless push per request, with an OAuth token of a service account.

mod account;
mod answer;
mod body;
mod canary;
mod token;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::Nudge;
use super::strange::Strange;
use super::verdict::Verdict;
use crate::clock::Clock;
pub use account::CredentialError;
use account::ServiceAccount;
use canary::Canary;
use token::{MintError, Tokens};
pub use wire::SettingsError;
use wire::Wire;

/// Google's own address of FCM.
pub const ENDPOINT: &str = "https://fcm.googleapis.com";
/// 80 % of FCM's default quota of 600,000 messages a minute.
pub const QUOTA_PER_S: u32 = 8_000;
/// Requests in flight at most, over all connections: at an answer in 100 ms they carry FCM's whole quota.
pub const CONCURRENCY_MAX: u32 = 1_600;
/// Google asks for at least 10 s.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A 500 is not tried again before this.
const INTERNAL_WAIT_MS: i64 = 10_000;

/// How the sender reaches FCM and how much it may send.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The base URL to which FCM's paths are appended; plain http only on loopback, which then speaks HTTP/1.1.
    pub endpoint: String,
    /// PEM file with further roots that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Sends a second at full pace.
    pub quota_per_s: u32,
    /// Requests in flight at most.
    pub concurrency_max: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { endpoint: ENDPOINT.into(), ca_file: None, quota_per_s: QUOTA_PER_S, concurrency_max: CONCURRENCY_MAX }
    }
}

impl Settings {
    /// Whether this service account could be used under these settings. Nothing is sent and nothing changes.
    pub fn check(&self, json: &[u8]) -> Result<(), CredentialError> {
        credential(&self.endpoint, json).map(drop)
    }
}

/// The transport of an FCM sender.
pub(super) struct Fcm {
    endpoint: String,
    wire: Arc<Wire>,
    credential: RwLock<Option<Arc<Credential>>>,
    strange: Strange,
    clock: Clock,
    /// Bounds one nudge on the wire: fetching a token, sending, and once more of both after a 401.
    deadline: Duration,
}

/// A service account with what is derived from it.
struct Credential {
    url: reqwest::Url,
    account: Arc<ServiceAccount>,
    tokens: Arc<Tokens>,
    canary: Canary,
}

fn credential(endpoint: &str, json: &[u8]) -> Result<Credential, CredentialError> {
    let account = ServiceAccount::parse(json)?;
    let url = format!("{}/v1/projects/{}/messages:send", endpoint.trim_end_matches('/'), account.project_id);
    let url = reqwest::Url::parse(&url).map_err(|_| CredentialError::Invalid("project_id"))?;
    Ok(Credential { url, account: Arc::new(account), tokens: Arc::new(Tokens::default()), canary: Canary::default() })
}

impl Fcm {
    pub(super) fn new(settings: Settings, timeout: Duration, clock: Clock) -> Result<Fcm, SettingsError> {
        let deadline = timeout * 2;
        let wire = Arc::new(Wire::new(&settings, timeout, clock.now_ms())?);
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        Ok(Fcm { endpoint, wire, credential: RwLock::new(None), strange: Strange::default(), clock, deadline })
    }

    pub(super) fn replace(&self, json: &[u8]) -> Result<(), CredentialError> {
        let credential = credential(&self.endpoint, json)?;
        *self.credential.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(credential));
        Ok(())
    }

    pub(super) fn remove(&self) {
        *self.credential.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn project_id(&self) -> Option<String> {
        self.credential().map(|credential| credential.account.project_id.clone())
    }

    /// The last answer that FCM's description does not know.
    pub(super) fn strange(&self) -> Option<String> {
        self.strange.last()
    }

    pub(super) fn token_age_s(&self, now_ms: i64) -> Option<i64> {
        self.credential()?.tokens.age_s(now_ms)
    }

    /// Requests that may be under way, over all connections.
    pub(super) fn concurrency_limit(&self) -> usize {
        self.wire.concurrency_limit()
    }

    /// How many requests the limits of the connections let through in `window_ms`.
    pub(super) fn throughput(&self, window_ms: i64) -> usize {
        self.wire.throughput(window_ms)
    }

    pub(super) async fn deliver(&self, nudge: &Nudge) -> Verdict {
        let Some(credential) = self.credential() else { return Verdict::Unsent { reason: "unconfigured" } };
        match tokio::time::timeout(self.deadline, self.deliver_as(&credential, nudge)).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::TimedOut,
        }
    }

    /// Sends, and after a 401 once more with a fresh access token.
    async fn deliver_as(&self, credential: &Credential, nudge: &Nudge) -> Verdict {
        let body = bytes::Bytes::from(body::of(nudge, self.clock.now_ms()));
        let mut retried = false;
        loop {
            let token = match credential.tokens.get(&credential.account, &self.wire, &self.clock).await {
                Ok(token) => token,
                Err(MintError::Refused(detail)) => return Verdict::Config { code: "invalid_grant", detail },
                Err(MintError::Unavailable(reason)) => return Verdict::Unsent { reason },
            };
            let send = async |body, address: &str| {
                let now_ms = self.clock.now_ms();
                let judge = |reply: &wire::Reply| answer::read(reply, address, now_ms, &self.strange);
                self.wire.post(&credential.url, &token.header, body, now_ms, judge).await
            };
            match send(body.clone(), &nudge.address.value).await {
                Verdict::Unauthenticated { .. } if !retried => {
                    retried = true;
                    credential.tokens.drop_if(&token);
                }
                Verdict::Accepted => {
                    credential.canary.accepted(nudge, self.clock.now_ms());
                    return Verdict::Accepted;
                }
                Verdict::Bug { reason: answer::INVALID_ARGUMENT, detail } => {
                    let now_ms = self.clock.now_ms();
                    let look = async |trial: Nudge| send(body::for_a_look(&trial, now_ms).into(), &trial.address.value).await;
                    if credential.canary.passes(nudge, now_ms, look).await {
                        return Verdict::Suspect(answer::INVALID_ARGUMENT);
                    }
                    return Verdict::Bug { reason: answer::INVALID_ARGUMENT, detail };
                }
                verdict => return verdict,
            }
        }
    }

    fn credential(&self) -> Option<Arc<Credential>> {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
