//! What the server answers to agents.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The answer to a sync.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SyncAnswer {
    pub server_time_ms: i64,
    pub sync_every_s: i64,
    pub next_sync_in_s: i64,
    /// Sync again at once: there is more than one answer holds.
    pub more: bool,
    /// Null: what you have is right.
    pub policy: Option<PolicyAnswer>,
    pub tasks: Vec<TaskAnswer>,
    pub results: Vec<ResultOutcome>,
    pub events: Vec<EventOutcome>,
}

/// A document to apply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PolicyAnswer {
    pub version: String,
    pub document: Value,
}

/// A task to carry out, once.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TaskAnswer {
    pub id: String,
    pub kind: String,
    pub params: Value,
    pub expires_at_ms: i64,
    pub attempt: i64,
}

/// What became of a reported result: `recorded`, `duplicate`, `late` or `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResultOutcome {
    pub task_id: Option<String>,
    pub outcome: &'static str,
}

/// What became of an event: `recorded`, `duplicate` or, for good, `rejected` with a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventOutcome {
    pub event_id: Option<String>,
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer of `POST /agent/v1/events`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EventsAnswer {
    pub events: Vec<EventOutcome>,
}

/// The members of the 403 problem that a denied device gets.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeniedMembers {
    /// `sign_out`: sign out and clear the cache; `wipe_app_data`: delete the app's data.
    pub action: &'static str,
    /// Apps to remove, by package or bundle id.
    pub remove_apps: Vec<String>,
    pub tasks: Vec<TaskAnswer>,
    pub results: Vec<ResultOutcome>,
    pub events: Vec<EventOutcome>,
}
