//! What an event means for the state of its device; pure.

use serde_json::{Value, json};

use crate::ops::findings::{self, DAY_MS, HOUR_MS, To};
use crate::protocol::agent::{Event, EventData, Item, ScanOutcome};

/// Characters of a threat's or a profile's name that count.
const SUBJECT_CHARS_MAX: usize = 200;
/// The words for a threat that a scan has found and that is no longer there.
const GONE: [&str; 5] = ["removed", "deleted", "quarantined", "cleaned", "resolved"];
/// The subject whose order clean scans follow: a threat reported before one of them is gone.
pub const CLEAN_SCAN: &str = "clean_scan";

/// One thing that an event does.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Finding {
        kind: &'static str,
        subject: String,
        to: To,
    },
    /// Every threat reported before is gone.
    CleanScan {
        by: String,
    },
    Fact {
        key: String,
        value: Value,
    },
}

impl Effect {
    /// What the effect's order is kept for: of two events about it, the later made wins, whichever comes first.
    pub fn subject(&self) -> String {
        match self {
            Effect::Finding { kind, subject, .. } => finding_subject(kind, subject),
            Effect::CleanScan { .. } => CLEAN_SCAN.to_owned(),
            Effect::Fact { key, .. } => format!("fact:{key}"),
        }
    }
}

/// The subject of the order of a finding.
pub fn finding_subject(kind: &str, subject: &str) -> String {
    format!("{kind}:{subject}")
}

/// When things happened, by the server's clock.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How far the device's clock is ahead of the server's; negative where it is behind.
    pub skew_ms: i64,
    pub received_at_ms: i64,
}

impl Times {
    /// A time of the device's clock as the server's clock showed it, never later than it was received.
    pub fn corrected(self, claimed_ms: i64) -> i64 {
        claimed_ms.saturating_sub(self.skew_ms).clamp(0, self.received_at_ms)
    }
}

/// A device's clock that is off by less counts as right: that much a request may take.
const SKEW_MIN_MS: i64 = 60_000;

/// True where something happened before the device told its facts, and by more than its clock may be off.
pub fn is_before(occurred_at_ms: i64, told_ms: Option<i64>) -> bool {
    told_ms.is_some_and(|told_ms| occurred_at_ms.saturating_add(SKEW_MIN_MS) < told_ms)
}

/// How far the device's clock is ahead of the server's, as this request shows: an event that is sent for the first time is sent at
/// the device's own now. Where none is, `known_ms`, the skew that an earlier contact measured.
pub fn skew_ms(events: &[Item<Event>], known_ms: i64, now_ms: i64) -> i64 {
    let first = |item: &Item<Event>| match item {
        Item::Ok(event) if event.attempt <= 1 => event.first_attempt_at_ms,
        _ => None,
    };
    match events.iter().filter_map(first).max() {
        Some(device_now_ms) => {
            let skew_ms = device_now_ms.saturating_sub(now_ms);
            if skew_ms.saturating_abs() < SKEW_MIN_MS { 0 } else { skew_ms }
        }
        None => known_ms,
    }
}

/// The effects of an event, in order.
pub fn effects(event: &Event, times: Times) -> Vec<Effect> {
    let by = format!("event:{}", event.event_id);
    let now_ms = times.received_at_ms;
    let one = |kind, subject: &str, to| vec![Effect::Finding { kind, subject: shortened(subject), to }];
    let open = |due_at_ms| To::Open { due_at_ms, detail: event.raw.clone() };
    match &event.data {
        // What was ours is no longer as it should be; the next proof of the right document closes it.
        EventData::ProfileChanged { profile, managed: true, .. } => {
            let subject = profile.as_deref().or(event.raw["payload_type"].as_str()).unwrap_or_default();
            one(findings::PROFILE_CHANGED, subject, open(now_ms))
        }
        EventData::ProfileChanged { .. } | EventData::WebPageBlocked { .. } => vec![],
        EventData::DeviceAdminChanged { enabled: true, .. } => one(findings::DEVICE_ADMIN, "", To::Closed { by }),
        EventData::DeviceAdminChanged { .. } => one(findings::DEVICE_ADMIN, "", open(now_ms)),
        EventData::UsbDebuggingChanged { enabled: false } => one(findings::USB_DEBUGGING, "", To::Closed { by }),
        EventData::UsbDebuggingChanged { .. } => one(findings::USB_DEBUGGING, "", open(now_ms)),
        EventData::PasswordOverdue { resolved: true, .. } => one(findings::PASSWORD_OVERDUE, "", To::Closed { by }),
        EventData::PasswordOverdue { .. } => {
            one(findings::PASSWORD_OVERDUE, "", open(times.corrected(event.occurred_at_ms).saturating_add(DAY_MS)))
        }
        EventData::MalwareUnresolved { threat, resolved: true, .. } => one(findings::MALWARE, threat, To::Closed { by }),
        EventData::MalwareUnresolved { threat, detected_at_ms, .. } => {
            // The event itself says that the hour has passed; the time of detection can only confirm it.
            let detected_at_ms = times.corrected(detected_at_ms.unwrap_or(event.occurred_at_ms));
            one(findings::MALWARE, threat, open(detected_at_ms.saturating_add(HOUR_MS).min(now_ms)))
        }
        EventData::ScanFinished { outcome: ScanOutcome::Clean, .. } => vec![Effect::CleanScan { by }],
        EventData::ScanFinished { outcome: ScanOutcome::Infected, threats } => infected(threats, &by, now_ms),
        EventData::ScanFinished { outcome: ScanOutcome::Aborted, .. } => vec![],
        EventData::FactChanged { key, value } => vec![Effect::Fact { key: key.clone(), value: value.clone() }],
    }
}

/// An infected scan opens the clock of every threat that is still there, and closes those that it has removed.
fn infected(threats: &[Value], by: &str, now_ms: i64) -> Vec<Effect> {
    let due_at_ms = now_ms.saturating_add(HOUR_MS);
    if threats.is_empty() {
        let to = To::Open { due_at_ms, detail: json!({}) };
        return vec![Effect::Finding { kind: findings::MALWARE, subject: String::new(), to }];
    }
    let effect = |threat: &Value| {
        let gone = threat["state"].as_str().is_some_and(|state| GONE.contains(&state));
        let to = match gone {
            true => To::Closed { by: by.to_owned() },
            false => To::Open { due_at_ms, detail: threat.clone() },
        };
        // A threat is told by an object or by its name alone.
        let name = threat["name"].as_str().or(threat.as_str()).unwrap_or_default();
        Effect::Finding { kind: findings::MALWARE, subject: shortened(name), to }
    };
    threats.iter().map(effect).collect()
}

fn shortened(text: &str) -> String {
    text.chars().take(SUBJECT_CHARS_MAX).collect()
}
