//! Events of devices: recorded once, put in order, and what they mean for the state of their device.

mod effect;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

pub use self::effect::skew_ms;
use self::effect::{CLEAN_SCAN, Effect, Times, finding_subject};
use super::findings::{self, Change, To};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::protocol::agent::{Event, EventData, EventOutcome, Item};
use crate::store::events::{EventKey, Head, HeadKey, NewEvent};
use crate::store::feed::{self, Entry};
use crate::store::{Conn, events, findings as found};

/// Feed entries that travel in one statement.
const ENTRIES_MAX: usize = 500;
/// Bytes of an event's data that its feed entry repeats; the event itself keeps all.
const FEED_DATA_BYTES_MAX: usize = 2048;
/// Blocked pages that one feed entry names; further ones are only counted.
const PAGES_MAX: usize = 10;
/// The subject of the head that every event of a channel moves.
const ANY: &str = "";
const RECORDED: &str = "recorded";
const DUPLICATE: &str = "duplicate";
const WEB_PAGE_BLOCKED: &str = "event.web_page_blocked";

/// The events that one contact brought. At most one for each channel in a batch; the caller holds the channels' locks.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub channel_id: Id,
    pub device_id: Id,
    /// The activation of the channel that the contact's credential belongs to.
    pub activation: i64,
    /// How far the device's clock is ahead of the server's, as [`skew_ms`] measures it; negative where it is behind.
    pub skew_ms: i64,
    /// When the device last told all its facts, before this contact.
    pub told_ms: Option<i64>,
    pub events: Vec<Item<Event>>,
}

/// A fact that an event changed, to be merged into its device's facts by the caller, and handed to [`findings::from_facts`].
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub device_id: Id,
    pub key: String,
    pub value: Value,
    /// True where the device has told its facts since it was so: what is known of this one is newer.
    pub is_late: bool,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// For each [`Arrived`], one for each of its events, in order.
    pub outcomes: Vec<Vec<EventOutcome>>,
    /// In order; a later one of the same key wins.
    pub facts: Vec<Fact>,
}

/// A good event on its way through a batch.
struct Taken<'a> {
    arrived: usize,
    at: usize,
    event: &'a Event,
    id: Id,
    effects: Vec<Effect>,
    occurred_at_ms: i64,
}

/// Records the events of a batch of contacts and applies what they mean, in a number of statements that does not grow with the
/// number of contacts but by the thousand events. A bad event is rejected and fails nothing.
pub async fn apply(conn: &mut Conn, moment: &mut Moment, batch: &[Arrived]) -> Result<Applied> {
    let mut applied = Applied { outcomes: batch.iter().map(|arrived| Vec::with_capacity(arrived.events.len())).collect(), facts: vec![] };
    let items = admit(moment, batch, &mut applied.outcomes);
    if items.is_empty() {
        return Ok(applied);
    }
    let rows: Vec<NewEvent> = items.iter().map(|item| row(item, &batch[item.arrived], moment.now_ms)).collect();
    let recorded = events::record(conn, &rows).await?;
    let (mut fresh, repeated): (Vec<Taken>, Vec<Taken>) = items.into_iter().partition(|item| recorded.contains(&item.id));
    for item in repeated {
        applied.outcomes[item.arrived][item.at].outcome = DUPLICATE;
    }
    // Within a contact the order is that of the events, not that of their arrival.
    fresh.sort_by_key(|item| (item.arrived, item.event.seq));
    take_effect(conn, moment, batch, &fresh, &mut applied.facts).await?;
    Ok(applied)
}

/// Sorts out what is refused or repeated within its own contact; what is left may be new.
fn admit<'a>(moment: &mut Moment, batch: &'a [Arrived], outcomes: &mut [Vec<EventOutcome>]) -> Vec<Taken<'a>> {
    let mut taken = Vec::new();
    for (arrived, contact) in batch.iter().enumerate() {
        let times = Times { skew_ms: contact.skew_ms, received_at_ms: moment.now_ms };
        let mut seen = HashSet::new();
        for (at, item) in contact.events.iter().enumerate() {
            outcomes[arrived].push(match item {
                Item::Rejected { id, code, detail } => {
                    EventOutcome { event_id: id.clone(), outcome: "rejected", code: Some(code), detail: Some(detail.clone()) }
                }
                Item::Ok(event) if !seen.insert(event.event_id) => outcome(event, DUPLICATE),
                Item::Ok(event) => {
                    let (effects, occurred_at_ms) = (effect::effects(event, times), times.corrected(event.occurred_at_ms));
                    taken.push(Taken { arrived, at, event, id: moment.id_beside(contact.device_id), effects, occurred_at_ms });
                    outcome(event, RECORDED)
                }
            });
        }
    }
    taken
}

fn outcome(event: &Event, outcome: &'static str) -> EventOutcome {
    EventOutcome { event_id: Some(event.sent_id.clone()), outcome, code: None, detail: None }
}

fn row(item: &Taken, contact: &Arrived, received_at_ms: i64) -> NewEvent {
    let event = item.event;
    NewEvent {
        bucket: contact.channel_id.bucket(),
        channel_id: contact.channel_id,
        event_id: event.event_id.to_string(),
        id: item.id,
        device_id: contact.device_id,
        r#type: event.data.name(),
        activation: contact.activation,
        seq: event.seq,
        occurred_at_ms: item.occurred_at_ms,
        claimed_at_ms: event.occurred_at_ms,
        first_attempt_at_ms: event.first_attempt_at_ms,
        received_at_ms,
        attempt: event.attempt,
        boot_id: event.boot_id.clone(),
        uptime_ms: event.uptime_ms,
        policy_version: event.policy_version.clone(),
        data: event.raw.to_string(),
    }
}

/// The newest (activation, seq) of each subject that a batch touches, as the store has it and as the batch moves it.
#[derive(Default)]
struct Heads {
    at: HashMap<HeadKey, (i64, i64)>,
    moved: HashSet<HeadKey>,
}

impl Heads {
    fn newest(&self, channel_id: Id, subject: &str) -> Option<(i64, i64)> {
        self.at.get(&head_key(channel_id, subject)).copied()
    }

    fn advance(&mut self, channel_id: Id, subject: &str, order: (i64, i64)) {
        let key = head_key(channel_id, subject);
        if self.at.get(&key).is_none_or(|newest| *newest < order) {
            self.at.insert(key.clone(), order);
            self.moved.insert(key);
        }
    }

    fn rows(self) -> Vec<Head> {
        let row = |key: HeadKey| {
            let (activation, seq) = self.at.get(&key).copied().unwrap_or_default();
            Head { bucket: key.bucket, channel_id: key.channel_id, subject: key.subject, activation, seq }
        };
        let mut rows: Vec<Head> = self.moved.into_iter().map(row).collect();
        rows.sort_by(|a, b| (a.bucket, a.channel_id, &a.subject).cmp(&(b.bucket, b.channel_id, &b.subject)));
        rows
    }
}

fn head_key(channel_id: Id, subject: &str) -> HeadKey {
    HeadKey { bucket: channel_id.bucket(), channel_id, subject: subject.to_owned() }
}

async fn take_effect(conn: &mut Conn, moment: &mut Moment, batch: &[Arrived], fresh: &[Taken<'_>], facts: &mut Vec<Fact>) -> Result<()> {
    let mut threats = open_threats(conn, batch, fresh).await?;
    let mut heads = read_heads(conn, batch, fresh, &threats).await?;
    let (mut changes, mut late, mut tellings) = (Vec::new(), Vec::new(), Vec::new());
    for item in fresh {
        let Arrived { channel_id, device_id, activation, told_ms, .. } = batch[item.arrived];
        let order = (activation, item.event.seq);
        let mut is_late = false;
        for effect in &item.effects {
            let subject = effect.subject();
            let passed_by = |subject: &str| heads.newest(channel_id, subject).is_some_and(|newest| newest > order);
            let malware = matches!(effect, Effect::Finding { kind: findings::MALWARE, .. });
            if passed_by(&subject) || (malware && passed_by(CLEAN_SCAN)) {
                is_late = true;
                continue;
            }
            heads.advance(channel_id, &subject, order);
            match effect {
                Effect::Finding { kind, subject, to } => {
                    if malware && matches!(to, To::Open { .. }) {
                        threats.entry(device_id).or_default().insert(subject.clone());
                    }
                    changes.push(Change { device_id, kind, subject: subject.clone(), to: to.clone() });
                }
                Effect::CleanScan { by } => {
                    let open = threats.get(&device_id).into_iter().flatten();
                    let older = |threat: &&String| {
                        heads.newest(channel_id, &finding_subject(findings::MALWARE, threat)).is_none_or(|newest| newest <= order)
                    };
                    for threat in open.filter(older) {
                        let to = To::Closed { by: by.clone() };
                        changes.push(Change { device_id, kind: findings::MALWARE, subject: threat.clone(), to });
                    }
                }
                Effect::Fact { key, value } => {
                    let is_old = effect::is_before(item.occurred_at_ms, told_ms);
                    is_late |= is_old;
                    facts.push(Fact { device_id, key: key.clone(), value: value.clone(), is_late: is_old });
                }
            }
        }
        if is_late {
            late.push(EventKey { bucket: channel_id.bucket(), channel_id, event_id: item.event.event_id.to_string() });
        }
        let before = heads.newest(channel_id, ANY).filter(|newest| newest.0 == activation).map_or(0, |newest| newest.1);
        heads.advance(channel_id, ANY, order);
        tellings.push(Telling { item, device_id, late: is_late, missing: (order.1 - before - 1).max(0) });
    }
    events::mark_late(conn, &late).await?;
    events::advance(conn, &heads.rows()).await?;
    for entries in tell(&tellings).chunks(ENTRIES_MAX) {
        feed::append(conn, moment, entries).await?;
    }
    findings::apply(conn, moment, changes).await
}

/// The open malware findings of devices that report a clean scan; empty, and no statement, where none does.
async fn open_threats(conn: &mut Conn, batch: &[Arrived], fresh: &[Taken<'_>]) -> Result<HashMap<Id, HashSet<String>>> {
    let scanned = fresh.iter().filter(|item| item.effects.iter().any(|effect| matches!(effect, Effect::CleanScan { .. })));
    let mut devices: Vec<Id> = scanned.map(|item| batch[item.arrived].device_id).collect();
    devices.dedup();
    let mut threats: HashMap<Id, HashSet<String>> = HashMap::new();
    for met in found::open_of(conn, &devices, findings::MALWARE).await? {
        threats.entry(met.device_id).or_default().insert(met.subject);
    }
    Ok(threats)
}

async fn read_heads(conn: &mut Conn, batch: &[Arrived], fresh: &[Taken<'_>], threats: &HashMap<Id, HashSet<String>>) -> Result<Heads> {
    let mut keys = HashSet::new();
    for item in fresh {
        let Arrived { channel_id, device_id, .. } = batch[item.arrived];
        keys.insert(head_key(channel_id, ANY));
        for effect in &item.effects {
            keys.insert(head_key(channel_id, &effect.subject()));
            if matches!(effect, Effect::Finding { kind: findings::MALWARE, .. }) {
                keys.insert(head_key(channel_id, CLEAN_SCAN));
            }
        }
        for threat in threats.get(&device_id).into_iter().flatten() {
            keys.insert(head_key(channel_id, &finding_subject(findings::MALWARE, threat)));
        }
    }
    let keys: Vec<HeadKey> = keys.into_iter().collect();
    let mut heads = Heads::default();
    for head in events::heads(conn, &keys).await? {
        heads.at.insert(HeadKey { bucket: head.bucket, channel_id: head.channel_id, subject: head.subject }, (head.activation, head.seq));
    }
    Ok(heads)
}

/// What the feed has to say of one event.
struct Telling<'a> {
    item: &'a Taken<'a>,
    device_id: Id,
    late: bool,
    /// Events between this one and the newest before it that have not come.
    missing: i64,
}

/// One entry for each event, but one for all pages blocked for a device in this batch: a page that reloads would flood the feed.
fn tell(tellings: &[Telling]) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(tellings.len());
    let mut blocked: Vec<(Id, Vec<&Telling>)> = Vec::new();
    for telling in tellings {
        if !matches!(telling.item.event.data, EventData::WebPageBlocked { .. }) {
            entries.push(entry(telling));
            continue;
        }
        match blocked.last_mut().filter(|(device_id, _)| *device_id == telling.device_id) {
            Some((_, group)) => group.push(telling),
            None => blocked.push((telling.device_id, vec![telling])),
        }
    }
    for (device_id, group) in blocked {
        let count = |telling: &&Telling| telling.item.event.raw["count"].as_i64().unwrap_or(1).max(1);
        let times = group.iter().map(count).fold(0_i64, i64::saturating_add);
        let page = |telling: &&Telling| {
            let raw = &telling.item.event.raw;
            json!({"id": telling.item.id, "url": raw["url"], "category": raw["category"], "action": raw["action"]})
        };
        let pages: Vec<Value> = group.iter().take(PAGES_MAX).map(page).collect();
        let data = json!({"events": group.len(), "count": times, "pages": pages});
        entries.push(Entry { kind: WEB_PAGE_BLOCKED, actor: None, device_id: Some(device_id), data });
    }
    entries
}

fn entry(telling: &Telling) -> Entry {
    let Taken { event, id, occurred_at_ms, .. } = telling.item;
    let mut data = Map::new();
    data.insert("id".into(), json!(id));
    data.insert("event_id".into(), json!(event.event_id));
    data.insert("seq".into(), json!(event.seq));
    data.insert("occurred_at_ms".into(), json!(occurred_at_ms));
    if telling.late {
        data.insert("late".into(), json!(true));
    }
    if telling.missing > 0 {
        data.insert("missing".into(), json!(telling.missing));
    }
    if event.raw.to_string().len() <= FEED_DATA_BYTES_MAX {
        data.insert("data".into(), event.raw.clone());
    }
    Entry { kind: feed_kind(&event.data), actor: None, device_id: Some(telling.device_id), data: Value::Object(data) }
}

/// The kind of the feed entry that tells of an event.
fn feed_kind(data: &EventData) -> &'static str {
    match data {
        EventData::ProfileChanged { .. } => "event.profile_changed",
        EventData::DeviceAdminChanged { .. } => "event.device_admin_changed",
        EventData::WebPageBlocked { .. } => WEB_PAGE_BLOCKED,
        EventData::PasswordOverdue { .. } => "event.password_overdue",
        EventData::MalwareUnresolved { .. } => "event.malware_unresolved",
        EventData::UsbDebuggingChanged { .. } => "event.usb_debugging_changed",
        EventData::ScanFinished { .. } => "event.scan_finished",
        EventData::FactChanged { .. } => "event.fact_changed",
    }
}
