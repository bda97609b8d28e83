//! `POST /agent/v1/sync`: the request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::check::{self, Item, ParseError};
use super::event::{Event, event_items};
use super::{EVENTS_MAX, RESULTS_MAX};
use crate::model::{Fault, Id};

const ADDRESS_CHARS_MAX: usize = 4096;
const KEY_CHARS_MAX: usize = 256;
const FACTS_MAX: usize = 200;
const HAVE_MAX: usize = 1000;
const DETAILS_MAX: usize = 200;

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
#[derive(Clone, Debug, Deserialize)]
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
    #[serde(default)]
    pub at_ms: i64,
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

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    cause: Option<String>,
    #[serde(default)]
    have: Vec<String>,
    #[serde(default)]
    policy: Option<WirePolicy>,
    #[serde(default)]
    push: Option<PushAddress>,
    #[serde(default)]
    facts: BTreeMap<String, Box<RawValue>>,
    #[serde(default)]
    results: Vec<Box<RawValue>>,
    #[serde(default)]
    events: Vec<Box<RawValue>>,
    #[serde(default)]
    action_done: bool,
}

#[derive(Deserialize)]
struct WirePolicy {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    details: Vec<Box<RawValue>>,
}

/// Reads a sync request.
pub fn parse_sync(bytes: &[u8]) -> Result<SyncRequest, ParseError> {
    let wire: Wire = check::whole(bytes)?;
    let mut faults = Vec::new();
    for (pointer, length, most) in [
        ("/results", wire.results.len(), RESULTS_MAX),
        ("/events", wire.events.len(), EVENTS_MAX),
        ("/facts", wire.facts.len(), FACTS_MAX),
        ("/have", wire.have.len(), HAVE_MAX),
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
        details: policy.details.iter().take(DETAILS_MAX).filter_map(|raw| detail(raw)).collect(),
    });
    Ok(SyncRequest {
        cause: cause(wire.cause.as_deref()),
        // What is no id of ours cannot be one of our tasks.
        have: wire.have.iter().filter_map(|id| id.parse().ok()).collect(),
        policy,
        push: wire.push,
        facts: wire.facts.iter().filter_map(|(key, raw)| Some((key.clone(), fact(key, raw)?))).collect(),
        results: wire.results.iter().map(|raw| result(raw)).collect(),
        events: event_items(&wire.events),
        action_done: wire.action_done,
    })
}

fn cause(text: Option<&str>) -> &'static str {
    const KNOWN: [&str; 6] = ["push", "periodic", "manual", "event", "boot", "launch"];
    KNOWN.into_iter().find(|known| Some(*known) == text).unwrap_or("unknown")
}

fn detail(raw: &RawValue) -> Option<Detail> {
    let detail: Detail = serde_json::from_value(check::value(raw).ok()?).ok()?;
    (check::text(&detail.setting, KEY_CHARS_MAX).is_ok() && check::text(&detail.reason, KEY_CHARS_MAX).is_ok()).then_some(detail)
}

/// A fact that passes: a wrong one is left out, the others count.
fn fact(key: &str, raw: &RawValue) -> Option<Value> {
    check::text(key, KEY_CHARS_MAX).ok()?;
    let value = check::value(raw).ok()?;
    let fits = match key {
        "battery_percent" => value.as_i64().is_some_and(|percent| (0..=100).contains(&percent)),
        "storage_free_bytes" | "storage_total_bytes" => value.as_i64().is_some_and(|bytes| bytes >= 0),
        "encrypted" | "password_set" | "password_compliant" | "rooted" | "usb_debugging" | "device_admin" => value.is_boolean(),
        "model" | "os_version" | "security_patch" | "serial" | "timezone" => {
            value.as_str().is_some_and(|text| check::text(text, KEY_CHARS_MAX).is_ok())
        }
        "apps" => value.as_array().is_some_and(|apps| apps.len() <= 2000),
        _ => true,
    };
    fits.then_some(value)
}

fn result(raw: &RawValue) -> Item<TaskResult> {
    let value = match check::value(raw) {
        Ok(value) => value,
        Err(detail) => return Item::rejected(None, "data_invalid", detail),
    };
    let id = value["task_id"].as_str().filter(|id| id.len() <= KEY_CHARS_MAX).map(str::to_owned);
    match serde_json::from_value::<TaskResult>(value) {
        Ok(result) => Item::Ok(result),
        Err(error) => Item::rejected(id, "data_invalid", check::short(&error.to_string())),
    }
}

/// SHA-256 in hex over the canonical form of facts: equal inventories have equal hashes. Maps here are sorted by key.
pub fn facts_hash(facts: &BTreeMap<String, Value>) -> String {
    let text = serde_json::to_string(facts).unwrap_or_default();
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
