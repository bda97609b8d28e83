//! Findings open and close, and their clocks run out; each is told in the feed.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::store::Conn;
use crate::store::feed::{self, Entry};
use crate::store::findings::{self as store, Closing, FindingKey, Met, NewFinding};

pub const MALWARE: &str = "malware";
pub const PASSWORD_OVERDUE: &str = "password_overdue";
pub const PASSWORD_NOT_SET: &str = "password_not_set";
pub const PASSWORD_NOT_COMPLIANT: &str = "password_not_compliant";
pub const USB_DEBUGGING: &str = "usb_debugging";
pub const DEVICE_ADMIN: &str = "device_admin";
pub const PROFILE_CHANGED: &str = "profile_changed";
pub const ENCRYPTION_OFF: &str = "encryption_off";
pub const ROOTED: &str = "rooted";
/// An app is installed that the policy blocks; the subject is the app.
pub const APP_BLOCKED: &str = "app_blocked";
/// An app is not installed that the policy wants; the subject is the app.
pub const APP_MISSING: &str = "app_missing";
pub const SILENCE: &str = "silence";
/// The device is there, by its MDM client, and our app on it does not come: removed, ended by its user, or not let into the background.
pub const CLIENT_SILENT: &str = "client_silent";

/// Every kind of finding.
pub const KINDS: [&str; 13] = [
    MALWARE,
    PASSWORD_OVERDUE,
    PASSWORD_NOT_SET,
    PASSWORD_NOT_COMPLIANT,
    USB_DEBUGGING,
    DEVICE_ADMIN,
    PROFILE_CHANGED,
    ENCRYPTION_OFF,
    ROOTED,
    APP_BLOCKED,
    APP_MISSING,
    SILENCE,
    CLIENT_SILENT,
];

pub const HOUR_MS: i64 = 3_600_000;
pub const DAY_MS: i64 = 24 * HOUR_MS;
/// A device has so long to be encrypted.
const ENCRYPTION_MS: i64 = 7 * DAY_MS;
/// A lock-screen password must be set within this time.
const PASSWORD_MS: i64 = DAY_MS;
/// Bytes of an event's data that a finding keeps as its detail.
const DETAIL_BYTES_MAX: usize = 4096;

/// Where a finding goes.
#[derive(Clone, Debug, PartialEq)]
pub enum To {
    Open { due_at_ms: i64, detail: Value },
    Closed { by: String },
}

/// One move of one finding.
#[derive(Clone, Debug)]
pub struct Change {
    pub device_id: Id,
    pub kind: &'static str,
    pub subject: String,
    pub to: To,
}

/// What a batch does to one finding, folded: whether it closes what was open before, and where it ends.
#[derive(Default)]
struct Folded {
    closed_by: Option<String>,
    open: Option<(i64, Value)>,
}

/// Applies moves in order: a constant number of statements whatever their number. Opening what is open changes its detail, and its
/// due time only to an earlier one; closing what is not open does nothing.
pub async fn apply(conn: &mut Conn, moment: &mut Moment, changes: Vec<Change>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut folded: BTreeMap<FindingKey, Folded> = BTreeMap::new();
    for Change { device_id, kind, subject, to } in changes {
        let fold = folded.entry(FindingKey { bucket: device_id.bucket(), device_id, kind, subject }).or_default();
        match to {
            To::Closed { by } => *fold = Folded { closed_by: Some(by), open: None },
            To::Open { due_at_ms, detail } => {
                let due_at_ms = fold.open.as_ref().map_or(due_at_ms, |(earlier, _)| due_at_ms.min(*earlier));
                fold.open = Some((due_at_ms, detail));
            }
        }
    }
    let (mut closings, mut openings) = (Vec::new(), Vec::new());
    for (key, Folded { closed_by, open }) in folded {
        if let Some(closed_by) = closed_by {
            closings.push(Closing { key: key.clone(), closed_by });
        }
        if let Some((due_at_ms, detail)) = open {
            let id = moment.id_beside(key.device_id);
            openings.push(NewFinding { key, id, due_at_ms, detail: bounded(&detail) });
        }
    }
    let mut entries = Vec::new();
    for met in store::close(conn, &closings, moment.now_ms).await? {
        entries.push(entry("finding.closed", &met));
    }
    let new: HashSet<Id> = openings.iter().map(|opening| opening.id).collect();
    let met = store::open(conn, &openings, moment.now_ms).await?;
    entries.extend(met.iter().filter(|met| new.contains(&met.id)).map(|met| entry("finding.opened", met)));
    let due: Vec<Id> = met.iter().filter(|met| met.due_at_ms <= moment.now_ms).map(|met| met.id).collect();
    for met in store::overdue_among(conn, &due, moment.now_ms).await? {
        entries.push(entry("finding.overdue", &met));
    }
    feed::append(conn, moment, &entries).await
}

/// Tells of up to `rows_max` findings whose clock has run out; answers how many there were.
pub async fn run_out(conn: &mut Conn, moment: &mut Moment, rows_max: i64) -> Result<usize> {
    let met = store::overdue(conn, moment.now_ms, rows_max).await?;
    let entries: Vec<Entry> = met.iter().map(|met| entry("finding.overdue", met)).collect();
    feed::append(conn, moment, &entries).await?;
    Ok(met.len())
}

/// What changed facts mean: `(device, changed facts)` of reports and of `fact_changed` events.
pub async fn from_facts(conn: &mut Conn, moment: &mut Moment, devices: &[(Id, Vec<(String, Value)>)]) -> Result<()> {
    let mut changes = Vec::new();
    for (device_id, facts) in devices {
        for (key, value) in facts {
            let Some(value) = value.as_bool() else { continue };
            let now_ms = moment.now_ms;
            let (kind, opened, due_at_ms) = match key.as_str() {
                "encrypted" => (ENCRYPTION_OFF, !value, now_ms + ENCRYPTION_MS),
                "rooted" => (ROOTED, value, now_ms),
                "usb_debugging" => (USB_DEBUGGING, value, now_ms),
                "device_admin" => (DEVICE_ADMIN, !value, now_ms),
                "password_set" => (PASSWORD_NOT_SET, !value, now_ms + PASSWORD_MS),
                // The word of an Apple device, in which its profiles' rules count.
                "passcode_compliant" => (PASSWORD_NOT_COMPLIANT, !value, now_ms + PASSWORD_MS),
                // Only an event says that the password's date has passed; a report can only say that it is right again.
                "password_compliant" if value => (PASSWORD_OVERDUE, false, now_ms),
                _ => continue,
            };
            let to = if opened { To::Open { due_at_ms, detail: json!({key: value}) } } else { To::Closed { by: format!("fact:{key}") } };
            changes.push(Change { device_id: *device_id, kind, subject: String::new(), to });
        }
    }
    apply(conn, moment, changes).await
}

/// Devices have proved to have what they should have: what was changed by hand is right again.
pub async fn documents_proved(conn: &mut Conn, moment: &mut Moment, devices: &[Id]) -> Result<()> {
    close_open(conn, moment, devices, PROFILE_CHANGED, "report").await
}

/// Devices are no longer ours to judge (left, retired): all their findings close, `by` says why.
pub async fn close_all(conn: &mut Conn, moment: &mut Moment, devices: &[Id], by: &str) -> Result<()> {
    close_open(conn, moment, devices, "", by).await
}

async fn close_open(conn: &mut Conn, moment: &mut Moment, devices: &[Id], kind: &str, by: &str) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let open = store::open_of(conn, devices, kind).await?;
    let change = |met: Met| {
        let kind = KINDS.into_iter().find(|kind| *kind == met.kind)?;
        Some(Change { device_id: met.device_id, kind, subject: met.subject, to: To::Closed { by: by.to_owned() } })
    };
    apply(conn, moment, open.into_iter().filter_map(change).collect()).await
}

fn entry(kind: &'static str, met: &Met) -> Entry {
    let data = json!({"id": met.id, "kind": met.kind, "subject": met.subject, "due_at_ms": met.due_at_ms});
    Entry { kind, actor: None, device_id: Some(met.device_id), data }
}

fn bounded(detail: &Value) -> String {
    let text = detail.to_string();
    if text.len() <= DETAIL_BYTES_MAX { text } else { "{}".to_owned() }
}
