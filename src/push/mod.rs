//! Nudge in, answer out: the senders. This module knows the providers' wire protocols and no database.

mod aimd;
pub mod apns;
mod breaker;
mod fault;
pub mod fcm;
mod gate;
#[cfg(test)]
mod gate_model;
mod guard;
pub mod http_date;
mod malformed;
mod notice;
mod outage;
mod overtaking;
mod pace;
pub mod retry_after;
mod retry_budget;
mod sender;
mod senders;
mod slots;
mod strange;
mod verdict;

use crate::model::{Id, Lane};
pub use notice::{CredentialSource, Notice, SenderState, SenderStatus};
pub use sender::{CredentialError, Sender};
pub use senders::Senders;

/// Where a nudge goes: what the device registered.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Which of the provider's names it is.
    pub kind: AddressKind,
    /// The provider's opaque value. A secret of the device: shortened in Debug.
    pub value: String,
}

/// The ways in which a device is named.
#[derive(Clone, PartialEq, Eq)]
pub enum AddressKind {
    /// A registration token of FCM, or an app's device token of APNs in hex.
    Token,
    /// A Firebase Installation ID.
    Fid,
    /// The device token of an MDM client in hex, with the secret word that makes it listen.
    Mdm { magic: String },
}

impl std::fmt::Debug for AddressKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AddressKind::Token => "Token",
            AddressKind::Fid => "Fid",
            AddressKind::Mdm { .. } => "Mdm",
        })
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}:{}...", self.kind, self.value.chars().take(6).collect::<String>())
    }
}

/// One contentless push.
#[derive(Clone, Debug)]
pub struct Nudge {
    pub channel_id: Id,
    pub address: Address,
    /// The app's package name: FCM's `restricted_package_name`.
    pub app: String,
    /// True where the registration is an iOS app's, bridged by FCM to APNs.
    pub ios: bool,
    pub lane: Lane,
    /// FCM priority HIGH, else NORMAL; the caller keeps the daily limit.
    pub high: bool,
    /// True where the last try failed at the provider: it falls under the retry budget, unless it is urgent.
    pub again: bool,
    /// Unix milliseconds until which the provider shall hold the nudge for an offline device.
    pub expires_at_ms: i64,
    /// Unix milliseconds at which the device registered this address: a death before that is another's.
    pub registered_at_ms: i64,
}

/// What became of a nudge. `reason` is the provider's own word or a short one of ours, fit for a metric label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The provider took it: accepted, never "delivered".
    Accepted,
    /// This device's try failed (5xx, timeout, 429): counts as an attempt; a longer `retry_after_ms` wins over the ladder.
    Failed { reason: String, retry_after_ms: Option<i64> },
    /// Never processed, or not this device's fault (refused stream, breaker open, credential fault, shutdown): no attempt counted,
    /// due again at `due_ms` (Unix milliseconds); at once where the sender is at fault, which then claims nothing.
    GivenBack { reason: String, due_ms: i64 },
    /// The address is gone for good (UNREGISTERED): no nudge until the device registers again.
    Dead { reason: String },
    /// The address looks wrong, but the fault could be ours: set aside until the device comes or 24 hours pass.
    Suspect { reason: String },
}

/// One nudge on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    pub answer: Answer,
    /// Unix milliseconds at which it left for the provider, after it had waited for its place; `None` where it did not leave.
    pub left_ms: Option<i64>,
}
