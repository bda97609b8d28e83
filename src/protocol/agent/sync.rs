//! `POST /agent/v1/sync`: the request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::check::{self, Item, Members, ParseError, or_default};
use super::event::{Event, EventBody, event_items};
use super::facts::{self, FACTS_MAX};
use super::{EVENTS_MAX, RESULTS_MAX};
use crate::model::{Fault, Id};

const ADDRESS_CHARS_MAX: usize = 4096;
const KEY_CHARS_MAX: usize = 256;
/// More than one channel is ever given; an agent that has many tasks in hand must still be able to say so.
const HAVE_MAX: usize = 20_000;
const DETAILS_MAX: usize = 1000;
const DETAIL_BYTES_MAX: usize = 64 * 1024;
/// A result with what it brought: an inventory of apps is long.
const RESULT_BYTES_MAX: usize = 512 * 1024;
/// A longer message is cut: the end of a task counts more than its last words.
const MESSAGE_CHARS_MAX: usize = 16 * 1024;

/// A sync, read and checked.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// `push`, `periodic`, `manual`, `event`, `boot`, `launch`, or `unknown`.
    pub cause: &'static str,
    /// Tasks that the agent has stored and not finished.
    pub have: Vec<Id>,
    /// `None` where the agent said nothing of its policy.
    pub policy: PolicyReport,
    pub push: Option<PushAddress>,
    /// Keyed values that passed the checks; empty where none were sent.
    pub facts: BTreeMap<String, Value>,
    pub results: Vec<Item<TaskResult>>,
    pub events: Vec<Item<Event>>,
    /// The agent confirms what a 403 asked for.
    pub action_done: bool,
}

/// What the agent says of its policy; without a version it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyReport {
    pub version: Option<String>,
    pub details: Vec<Detail>,
}

/// A setting that the agent does not obey, with the Android Management API's reason (`API_LEVEL`, `PENDING`...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detail {
    pub setting: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Value>,
}

/// Where the agent can be nudged.
#[derive(Clone, PartialEq, Eq, Deserialize, ToSchema)]
pub struct PushAddress {
    pub provider: PushProvider,
    pub kind: PushKind,
    pub value: String,
}

impl std::fmt::Debug for PushAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.provider, self.kind)
    }
}

impl PushAddress {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<Fault> {
        let empty = self.value.is_empty().then(|| "must not be empty".to_owned());
        let detail = empty.or_else(|| check::text(&self.value, ADDRESS_CHARS_MAX).err())?;
        Some(Fault { pointer: "/push/value".into(), detail })
    }
}

/// Who delivers the nudge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PushProvider {
    Fcm,
    Apns,
}

impl PushProvider {
    pub fn name(self) -> &'static str {
        match self {
            PushProvider::Fcm => "fcm",
            PushProvider::Apns => "apns",
        }
    }

    /// The sender whose credential reaches such an address.
    pub fn sender(self) -> &'static str {
        match self {
            PushProvider::Fcm => "fcm",
            PushProvider::Apns => "apns_app",
        }
    }
}

/// How the address is named: a registration token, or a Firebase Installation ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PushKind {
    Token,
    Fid,
}

impl PushKind {
    pub fn name(self) -> &'static str {
        match self {
            PushKind::Token => "token",
            PushKind::Fid => "fid",
        }
    }
}

/// What became of a task.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct TaskResult {
    pub task_id: Id,
    pub status: TaskStatus,
    #[serde(default)]
    pub progress: Option<Value>,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub data: Option<Value>,
    /// By the device's clock; 0 where it was not sent.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<i64>)]
    pub at_ms: i64,
    /// Why its data is not here, where it sent some that cannot be kept.
    #[serde(skip)]
    pub left_out: Option<String>,
}

/// The states of a task that an agent reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    Done,
    Failed,
    Received,
    Running,
}

/// A sync as it is sent. All of it may be absent, and null means the same.
#[derive(Deserialize, ToSchema)]
#[schema(as = SyncRequest)]
pub struct SyncBody {
    /// `push`, `periodic`, `manual`, `event`, `boot` or `launch`.
    #[serde(default)]
    cause: Option<String>,
    /// Ids of tasks that the agent has stored and not finished.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<Vec<String>>)]
    have: Vec<String>,
    #[serde(default)]
    policy: Option<PolicyBody>,
    #[serde(default)]
    push: Option<PushAddress>,
    /// Keyed values; at most 200.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<BTreeMap<String, Value>>)]
    facts: Members,
    /// At most 256.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<Vec<TaskResult>>)]
    results: Vec<Box<RawValue>>,
    /// At most 256.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<Vec<EventBody>>)]
    events: Vec<Box<RawValue>>,
    /// The agent has done what a 403 asked for.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
    action_done: bool,
}

/// What the agent says of its policy.
#[derive(Deserialize, ToSchema)]
#[schema(as = PolicyReport)]
pub struct PolicyBody {
    /// Null: I have none.
    #[serde(default)]
    version: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<Vec<Detail>>)]
    details: Vec<Box<RawValue>>,
}

/// Reads a sync request.
pub fn parse_sync(bytes: &[u8]) -> Result<SyncRequest, ParseError> {
    let wire: SyncBody = check::whole(bytes)?;
    let mut faults = Vec::new();
    for (pointer, length, most) in [
        ("/results", wire.results.len(), RESULTS_MAX),
        ("/events", wire.events.len(), EVENTS_MAX),
        ("/facts", wire.facts.len(), FACTS_MAX),
        ("/have", wire.have.len(), HAVE_MAX),
        ("/policy/details", wire.policy.as_ref().map_or(0, |policy| policy.details.len()), DETAILS_MAX),
    ] {
        if length > most {
            faults.push(Fault { pointer: pointer.into(), detail: format!("at most {most}; send the rest in the next request") });
        }
    }
    faults.extend(wire.push.as_ref().and_then(PushAddress::fault));
    if !faults.is_empty() {
        return Err(ParseError::Invalid(faults));
    }
    let policy = wire.policy.map_or_else(PolicyReport::default, |policy| PolicyReport {
        version: policy.version.filter(|version| check::text(version, KEY_CHARS_MAX).is_ok()),
        details: policy.details.iter().map(|raw| detail(raw)).collect(),
    });
    Ok(SyncRequest {
        cause: cause(wire.cause.as_deref()),
        // What is no id of ours cannot be one of our tasks.
        have: wire.have.iter().filter_map(|id| id.parse().ok()).collect(),
        policy,
        push: wire.push,
        facts: facts::read(&wire.facts),
        results: wire.results.iter().map(|raw| result(raw)).collect(),
        events: event_items(&wire.events),
        action_done: wire.action_done,
    })
}

fn cause(text: Option<&str>) -> &'static str {
    const KNOWN: [&str; 6] = ["push", "periodic", "manual", "event", "boot", "launch"];
    KNOWN.into_iter().find(|known| Some(*known) == text).unwrap_or("unknown")
}

/// A detail that cannot be read still says that something is not obeyed: without it the document would count as applied.
fn detail(raw: &RawValue) -> Detail {
    let read = || {
        let detail: Detail = serde_json::from_value(check::object(raw, DETAIL_BYTES_MAX).ok()?).ok()?;
        let fits = check::text(&detail.setting, KEY_CHARS_MAX).is_ok() && check::text(&detail.reason, KEY_CHARS_MAX).is_ok();
        fits.then_some(detail)
    };
    read().unwrap_or_else(|| Detail { setting: "unreadable".into(), reason: "UNKNOWN".into(), current: None })
}

/// A result counts by its task and its status: what cannot be kept of all else is cleaned or left out, for the task has ended all the same.
fn result(raw: &RawValue) -> Item<TaskResult> {
    let read = || {
        let members: Members = serde_json::from_str(raw.get())?;
        let (mut fields, mut left_out) = (Map::new(), None);
        for (name, raw) in members.named() {
            let value = match name.as_str() {
                "code" => words(raw, KEY_CHARS_MAX),
                "message" => words(raw, MESSAGE_CHARS_MAX),
                "at_ms" => time(raw),
                "data" => {
                    let value = check::value(raw, RESULT_BYTES_MAX);
                    left_out = value.as_ref().err().cloned();
                    value.ok()
                }
                "task_id" | "status" | "progress" => check::value(raw, RESULT_BYTES_MAX).ok(),
                _ => continue,
            };
            // Of two members of one name the later counts.
            match value {
                Some(value) => fields.insert(name, value),
                None => fields.remove(&name),
            };
        }
        Ok(TaskResult { left_out, ..serde_json::from_value(Value::Object(fields))? })
    };
    read().map_or_else(
        |error: serde_json::Error| Item::rejected(check::id_of(raw, "task_id"), "data_invalid", check::short(&error.to_string())),
        Item::Ok,
    )
}

/// A text without U+0000, cut where it is too long; of any other value, its JSON.
fn words(raw: &RawValue, characters_max: usize) -> Option<Value> {
    let text: Option<String> = serde_json::from_str(raw.get()).unwrap_or_else(|_| Some(raw.get().to_owned()));
    text.map(|text| json!(text.chars().filter(|character| *character != '\0').take(characters_max).collect::<String>()))
}

/// A time in whole milliseconds, also where its sender counts parts of one.
fn time(raw: &RawValue) -> Option<Value> {
    let value = check::value(raw, RESULT_BYTES_MAX).ok()?;
    // Numbers beyond 1e15 are refused before, so that the cast loses nothing but the parts.
    value.as_i64().or_else(|| value.as_f64().map(|ms| ms.floor() as i64)).map(|ms| json!(ms))
}
