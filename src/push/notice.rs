//! What a sender tells the operator: its state, and notices that become alarms.

use std::collections::VecDeque;

use serde::Serialize;

/// More notices than this waiting to be taken drop the oldest.
const NOTICES_MAX: usize = 64;
/// The same bug is told once in this time.
const BUG_EVERY_MS: i64 = 600_000;

/// Something that happened to a sender and that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The sender stopped: credential, project or permission. `code` is the provider's word.
    Fault { code: String, detail: String },
    /// No fault is left.
    Recovered,
    /// So many addresses were called wrong that the fault is ours: every address set aside as suspect since `since_ms` (Unix
    /// milliseconds) is to be used again. A `Fault` with code `mass_death` comes with it. Told once more a minute later, for the
    /// answers that were then on their way to the store.
    MassDeath { since_ms: i64 },
    /// The provider calls our request malformed.
    Bug { detail: String },
    /// More than 30 % of the last answers said that the device is gone.
    DeathRush,
}

/// A bounded queue of notices.
#[derive(Debug, Default)]
pub(super) struct Notices {
    queue: VecDeque<Notice>,
    bug: Option<(&'static str, i64)>,
}

impl Notices {
    pub(super) fn push(&mut self, notice: Notice) {
        if self.queue.len() >= NOTICES_MAX {
            self.queue.pop_front();
        }
        self.queue.push_back(notice);
    }

    /// A bug, unless the same reason was told a short while ago.
    pub(super) fn bug(&mut self, now_ms: i64, reason: &'static str, detail: &str) {
        if self.bug.is_none_or(|(last, at_ms)| last != reason || now_ms - at_ms >= BUG_EVERY_MS) {
            self.bug = Some((reason, now_ms));
            self.push(Notice::Bug { detail: format!("{reason}: {detail}") });
        }
    }

    /// Takes notices back that could not be heeded, to be taken again before any other.
    pub(super) fn put_back(&mut self, notices: impl DoubleEndedIterator<Item = Notice>) {
        for notice in notices.rev() {
            if self.queue.len() < NOTICES_MAX {
                self.queue.push_front(notice);
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<Notice> {
        self.queue.drain(..).collect()
    }
}

/// Whether a sender can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SenderState {
    Ok,
    /// Asked by the provider to wait, or the provider is failing; it resumes by itself.
    Paused,
    /// The credential or the project is at fault; it resumes after a probe or a new credential.
    Fault,
    /// It has no credential.
    Unconfigured,
}

/// Where a credential in use came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialSource {
    /// A file that the settings name.
    File,
    /// Set by the API or at the console; it wins over a file.
    Api,
}

/// A sender as the operator sees it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct SenderStatus {
    pub name: String,
    pub state: SenderState,
    /// Why it is not `ok`.
    pub reason: Option<String>,
    /// Unix milliseconds since when it has been in this state.
    pub since_ms: Option<i64>,
    /// Unix milliseconds at which it tries again.
    pub paused_until_ms: Option<i64>,
    /// The reason for which pushes bridged to iOS stand still, if they do.
    pub bridge_fault: Option<String>,
    /// Requests under way.
    pub in_flight: usize,
    /// Requests that may be under way at present.
    pub concurrency_limit: usize,
    /// Sends a second that the ramp has reached.
    pub pace_per_s: u32,
    /// Sends a second at most: of FCM's quota the part of this server among those that share its database.
    pub quota_per_s: u32,
    /// Age of the access token in seconds.
    pub token_age_s: Option<i64>,
    /// The provider's last answer since the start that its description does not know: status and words. It was judged by its status.
    pub strange_answer: Option<String>,
    /// Where the credential in use came from.
    pub credential_from: Option<CredentialSource>,
    /// The project of the credential.
    pub project_id: Option<String>,
    /// The APNs topic of the credential.
    pub topic: Option<String>,
    /// Unix milliseconds at which the certificate in use ends.
    pub credential_ends_at_ms: Option<i64>,
}
