//! The events that a device reports by itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::EVENTS_MAX;
use super::check::{self, Item, ParseError};
use crate::model::Fault;

/// An event of a known type whose required data is there.
#[derive(Clone, Debug)]
pub struct Event {
    /// Made on the device, never reused.
    pub event_id: Uuid,
    /// From 1 in each activation.
    pub seq: i64,
    /// By the device's clock, Unix milliseconds.
    pub occurred_at_ms: i64,
    pub first_attempt_at_ms: Option<i64>,
    pub attempt: i64,
    pub boot_id: Option<String>,
    pub uptime_ms: Option<i64>,
    pub policy_version: Option<String>,
    /// The type with what the server acts on.
    pub data: EventData,
    /// All of the data, unknown fields included, as it is stored.
    pub raw: Value,
}

/// What the server acts on in each type of event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum EventData {
    ProfileChanged {
        change: ProfileChange,
        #[serde(default)]
        profile: Option<String>,
        #[serde(default)]
        managed: bool,
    },
    DeviceAdminChanged {
        enabled: bool,
        #[serde(default)]
        component: Option<String>,
    },
    WebPageBlocked {
        url: String,
    },
    PasswordOverdue {
        due_at_ms: i64,
        #[serde(default)]
        resolved: bool,
    },
    MalwareUnresolved {
        threat: String,
        #[serde(default)]
        detected_at_ms: Option<i64>,
        #[serde(default)]
        resolved: bool,
    },
    UsbDebuggingChanged {
        enabled: bool,
    },
    ScanFinished {
        outcome: ScanOutcome,
        #[serde(default)]
        threats: Vec<Value>,
    },
    FactChanged {
        key: String,
        #[serde(default)]
        value: Value,
    },
}

/// What happened to a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileChange {
    Added,
    Removed,
    Changed,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanOutcome {
    Clean,
    Infected,
    Aborted,
}

/// Every type of event.
pub const TYPES: [&str; 8] = [
    "profile_changed",
    "device_admin_changed",
    "web_page_blocked",
    "password_overdue",
    "malware_unresolved",
    "usb_debugging_changed",
    "scan_finished",
    "fact_changed",
];
const TEXT_CHARS_MAX: usize = 256;

impl EventData {
    /// The type's word on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            EventData::ProfileChanged { .. } => TYPES[0],
            EventData::DeviceAdminChanged { .. } => TYPES[1],
            EventData::WebPageBlocked { .. } => TYPES[2],
            EventData::PasswordOverdue { .. } => TYPES[3],
            EventData::MalwareUnresolved { .. } => TYPES[4],
            EventData::UsbDebuggingChanged { .. } => TYPES[5],
            EventData::ScanFinished { .. } => TYPES[6],
            EventData::FactChanged { .. } => TYPES[7],
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    event_id: Uuid,
    seq: i64,
    occurred_at_ms: i64,
    #[serde(default)]
    first_attempt_at_ms: Option<i64>,
    #[serde(default)]
    attempt: Option<i64>,
    #[serde(default)]
    boot_id: Option<String>,
    #[serde(default)]
    uptime_ms: Option<i64>,
    #[serde(default)]
    policy_version: Option<String>,
}

#[derive(Deserialize)]
struct WireEvents {
    events: Vec<Box<RawValue>>,
}

/// Reads the body of `POST /agent/v1/events`.
pub fn parse_events(bytes: &[u8]) -> Result<Vec<Item<Event>>, ParseError> {
    let wire: WireEvents = check::whole(bytes)?;
    if wire.events.len() > EVENTS_MAX {
        let detail = format!("at most {EVENTS_MAX}; send the rest in the next request");
        return Err(ParseError::Invalid(vec![Fault { pointer: "/events".into(), detail }]));
    }
    Ok(event_items(&wire.events))
}

/// Reads events one by one.
pub(super) fn event_items(raw: &[Box<RawValue>]) -> Vec<Item<Event>> {
    raw.iter().map(|raw| event(raw)).collect()
}

fn event(raw: &RawValue) -> Item<Event> {
    let value = match check::value(raw) {
        Ok(value) => value,
        Err(detail) => return Item::rejected(id_of(raw), "data_invalid", detail),
    };
    let id = value["event_id"].as_str().filter(|id| id.len() <= TEXT_CHARS_MAX).map(str::to_owned);
    let kind = value["type"].as_str().unwrap_or("");
    if !TYPES.contains(&kind) {
        return Item::rejected(id, "type_unknown", format!("the types are {}", TYPES.join(", ")));
    }
    match typed(&value) {
        Ok(event) => Item::Ok(event),
        Err(detail) => Item::rejected(id, "data_invalid", detail),
    }
}

fn typed(value: &Value) -> Result<Event, String> {
    let envelope = Envelope::deserialize(value).map_err(|error| check::short(&error.to_string()))?;
    let data = EventData::deserialize(value).map_err(|error| check::short(&error.to_string()))?;
    if envelope.seq < 1 {
        return Err("seq counts from 1".into());
    }
    for text in [&envelope.boot_id, &envelope.policy_version].into_iter().flatten() {
        check::text(text, TEXT_CHARS_MAX)?;
    }
    let subject = match &data {
        EventData::MalwareUnresolved { threat, .. } => Some(threat),
        EventData::FactChanged { key, .. } => Some(key),
        EventData::ProfileChanged { profile, .. } => profile.as_ref(),
        _ => None,
    };
    if let Some(subject) = subject {
        check::text(subject, TEXT_CHARS_MAX)?;
    }
    Ok(Event {
        event_id: envelope.event_id,
        seq: envelope.seq,
        occurred_at_ms: envelope.occurred_at_ms,
        first_attempt_at_ms: envelope.first_attempt_at_ms,
        attempt: envelope.attempt.unwrap_or(1),
        boot_id: envelope.boot_id,
        uptime_ms: envelope.uptime_ms,
        policy_version: envelope.policy_version,
        data,
        raw: value["data"].clone(),
    })
}

/// The id of an event that could not be read as a whole.
fn id_of(raw: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        event_id: String,
    }
    serde_json::from_str::<Named>(raw.get()).ok().map(|named| named.event_id).filter(|id| id.len() <= TEXT_CHARS_MAX && !id.contains('\0'))
}
