//! The events that a device reports by itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::check::{self, Item, ParseError, or_default};
use super::{EVENTS_MAX, facts};
use crate::model::Fault;

/// An event of a known type whose required data is there.
#[derive(Clone, Debug)]
pub struct Event {
    /// Made on the device, never reused.
    pub event_id: Uuid,
    /// The id as the device spells it, for the answer: some write it in capitals.
    pub sent_id: String,
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
        #[serde(default, deserialize_with = "or_default")]
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
        #[serde(default, deserialize_with = "or_default")]
        resolved: bool,
    },
    MalwareUnresolved {
        threat: String,
        #[serde(default)]
        detected_at_ms: Option<i64>,
        #[serde(default, deserialize_with = "or_default")]
        resolved: bool,
    },
    UsbDebuggingChanged {
        enabled: bool,
    },
    ScanFinished {
        outcome: ScanOutcome,
        #[serde(default, deserialize_with = "or_default")]
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
/// An event with its envelope at most; its data has 64 KiB of it.
const EVENT_BYTES_MAX: usize = 68 * 1024;

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

/// An event as it is sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody {
    /// A UUID made on the device, never reused.
    event_id: String,
    #[schema(example = "scan_finished")]
    #[expect(dead_code, reason = "read with the data; it stands here for the schema")]
    r#type: String,
    /// From 1 in each activation.
    #[schema(minimum = 1)]
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
    /// What the type asks for; unknown fields are kept.
    data: Value,
}

/// Events alone.
#[derive(Deserialize, ToSchema)]
#[schema(as = EventsRequest)]
pub struct EventsBody {
    /// At most 256.
    #[schema(value_type = Vec<EventBody>)]
    events: Vec<Box<RawValue>>,
}

/// Reads the body of `POST /agent/v1/events`.
pub fn parse_events(bytes: &[u8]) -> Result<Vec<Item<Event>>, ParseError> {
    let wire: EventsBody = check::whole(bytes)?;
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
    let rejected = |code, detail: String| Item::rejected(check::id_of(raw, "event_id"), code, detail);
    let value = match check::object(raw, EVENT_BYTES_MAX) {
        Ok(value) => value,
        Err(detail) => return rejected("data_invalid", detail),
    };
    if !value["type"].as_str().is_some_and(|kind| TYPES.contains(&kind)) {
        return rejected("type_unknown", format!("the types are {}", TYPES.join(", ")));
    }
    match typed(value) {
        Ok(event) => Item::Ok(event),
        Err(detail) => rejected("data_invalid", detail),
    }
}

fn typed(value: Value) -> Result<Event, String> {
    if !value["data"].is_object() {
        return Err("data must be an object".into());
    }
    let mut data = EventData::deserialize(&value).map_err(|error| check::short(&error.to_string()))?;
    let body: EventBody = serde_json::from_value(value).map_err(|error| check::short(&error.to_string()))?;
    let event_id: Uuid = body.event_id.parse().map_err(|_| "event_id must be a UUID".to_owned())?;
    if body.seq < 1 {
        return Err("seq counts from 1".into());
    }
    for text in [&body.boot_id, &body.policy_version].into_iter().flatten() {
        check::text(text, TEXT_CHARS_MAX)?;
    }
    let subject = match &data {
        EventData::MalwareUnresolved { threat, .. } => Some(threat),
        EventData::FactChanged { key, .. } => Some(key),
        EventData::ProfileChanged { profile, .. } => profile.as_ref(),
        EventData::DeviceAdminChanged { component, .. } => component.as_ref(),
        _ => None,
    };
    if let Some(subject) = subject {
        check::text(subject, TEXT_CHARS_MAX)?;
    }
    // A fact is the same fact whichever way it comes.
    if let EventData::FactChanged { key, value } = &mut data {
        *value = facts::checked(key, value.take()).ok_or_else(|| format!("{key} is no such value"))?;
    }
    Ok(Event {
        event_id,
        sent_id: body.event_id,
        seq: body.seq,
        occurred_at_ms: body.occurred_at_ms,
        first_attempt_at_ms: body.first_attempt_at_ms,
        attempt: body.attempt.unwrap_or(1),
        boot_id: body.boot_id,
        uptime_ms: body.uptime_ms,
        policy_version: body.policy_version,
        data,
        raw: body.data,
    })
}
