//! What a provider's answer means, in classes that both providers share; `fcm::answer` and `apns::answer` read them from the wire.

use super::breaker::Health;
use super::fault::Probe;

/// The class of one answer. Reasons are from a fixed set, fit for metric labels; details are sentences for the operator without any
/// secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    /// The address is gone for good.
    Dead(&'static str),
    /// The address looks wrong, unless the fault is ours.
    Suspect(&'static str),
    /// Too much for this one device; the sender goes on.
    DeviceThrottled {
        reason: &'static str,
        wait_ms: i64,
    },
    /// Too much for the whole project: the sender pauses.
    Throttled {
        reason: &'static str,
        retry_after_ms: Option<i64>,
    },
    /// The provider is in trouble and says so (503): less in flight, and a pause if it names one.
    Overloaded {
        reason: &'static str,
        retry_after_ms: Option<i64>,
    },
    /// The provider failed (500, HTML of a proxy) or the connection broke after the request was sent.
    Failed {
        reason: &'static str,
        wait_ms: i64,
    },
    /// No answer in time.
    TimedOut,
    /// The request never reached the provider: no connection, or no access token to be had.
    Unsent {
        reason: &'static str,
    },
    /// The provider never looked at it, several times over: less in flight.
    Refused {
        reason: &'static str,
    },
    /// Nothing will work until an operator mends the credential or the project.
    Config {
        code: &'static str,
        detail: String,
    },
    /// The same for pushes that FCM bridges to APNs only.
    BridgeConfig {
        code: &'static str,
        detail: String,
    },
    /// Our request is wrong; the address is not to blame.
    Bug {
        reason: &'static str,
        detail: String,
    },
    /// The access token was refused: fetch another and try once more.
    Unauthenticated {
        detail: String,
    },
}

impl Verdict {
    /// The metric labels `result` and `reason`.
    pub(super) fn labels(&self) -> (&'static str, &'static str) {
        match self {
            Verdict::Accepted => ("accepted", "none"),
            Verdict::Dead(reason) => ("dead", reason),
            Verdict::Suspect(reason) => ("suspect", reason),
            Verdict::DeviceThrottled { reason, .. }
            | Verdict::Throttled { reason, .. }
            | Verdict::Overloaded { reason, .. }
            | Verdict::Failed { reason, .. } => ("failed", reason),
            Verdict::TimedOut => ("failed", "timeout"),
            Verdict::Unsent { reason } | Verdict::Refused { reason } => ("given_back", reason),
            Verdict::Config { code, .. } | Verdict::BridgeConfig { code, .. } => ("fault", code),
            Verdict::Bug { reason, .. } => ("bug", reason),
            Verdict::Unauthenticated { .. } => ("fault", "UNAUTHENTICATED"),
        }
    }

    /// What it says about the provider, about the credential, and about the credential that FCM holds for the bridge to APNs.
    pub(super) fn signs(&self) -> (Health, Probe, Probe) {
        match self {
            Verdict::Accepted | Verdict::Dead(_) | Verdict::Suspect(_) | Verdict::Bug { .. } | Verdict::DeviceThrottled { .. } => {
                (Health::Good, Probe::Works, Probe::Works)
            }
            Verdict::Throttled { .. } | Verdict::Refused { .. } => (Health::Neutral, Probe::Unclear, Probe::Unclear),
            Verdict::Overloaded { .. } | Verdict::Failed { .. } | Verdict::TimedOut | Verdict::Unsent { .. } => {
                (Health::Bad, Probe::Unclear, Probe::Unclear)
            }
            Verdict::Config { .. } | Verdict::Unauthenticated { .. } => (Health::Neutral, Probe::StillBroken, Probe::Unclear),
            Verdict::BridgeConfig { .. } => (Health::Neutral, Probe::Works, Probe::StillBroken),
        }
    }
}
