//! The agent protocol, `/agent/v1`. Unknown fields are ignored; one bad item never fails its neighbours.

mod activate;
mod answer;
mod check;
mod event;
mod facts;
mod service_token;
mod sync;
#[cfg(test)]
mod tests;

pub use activate::{ActivateAnswer, ActivateRequest, DeviceInfo, ManagementMode, Platform, parse_activate};
pub use answer::{DeniedMembers, EventOutcome, EventsAnswer, PolicyAnswer, ResultOutcome, SyncAnswer, TaskAnswer};
pub use check::{Item, Members, ParseError, storable};
pub use event::{Event, EventBody, EventData, EventsBody, ProfileChange, ScanOutcome, TYPES as EVENT_TYPES, parse_events};
pub use facts::facts_hash;
pub use service_token::{ServiceTokenAnswer, ServiceTokenBody, parse_service_token};
pub use sync::{
    Detail, PolicyBody, PolicyReport, PushAddress, PushKind, PushProvider, SyncBody, SyncRequest, TaskResult, TaskStatus, parse_sync,
};

/// A request's body at most.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Results in a request at most.
pub const RESULTS_MAX: usize = 256;
/// Events in a request at most.
pub const EVENTS_MAX: usize = 256;
/// Tasks in an answer at most; `more` says that there are others.
pub const TASKS_MAX: usize = 50;
