//! One device: how it stands in plain words, what it has and should have, what it was asked and what it told.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::Value;

use super::confirm::confirm;
use super::devices::{channel_standing, has_held, name_of, standing};
use super::form::Posted;
use super::format::{Badge, When, cut, fact, fact_name, pretty, relative, sentence, words};
use super::layout::{Frame, Shown, Visitor, page, segment, told};
use super::tasks::{TaskLine, lines};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::model::{Id, kind::Kind};
use crate::ops::devices::{self as ops, Device};
use crate::ops::mdm::USER_ENROLLMENT;
use crate::ops::settle::{self, Reader};
use crate::store::findings::Which;
use crate::store::tasks::Filter;
use crate::store::{Class, console, contacts, devices, events, findings, tasks};

/// The orders that have a button of their own, where the device can do them.
const ORDERS: [&str; 7] = ["lock", "message", "locate", "scan", "restart", "refresh", "wipe"];
const TASKS_SHOWN: i64 = 30;
const FINDINGS_SHOWN: i64 = 20;
const EVENTS_SHOWN: i64 = 20;
const CONTACTS_SHOWN: i64 = 15;
/// Characters of a fact on the page; the API has the whole of it.
const FACT_CHARS_MAX: usize = 300;

struct ChannelLine {
    kind: String,
    push: Badge,
    seen: When,
    cause: String,
    desired: String,
    applied: String,
    standing: Badge,
    held: Option<Badge>,
    hold: String,
    /// What it says of settings that it does not obey.
    details: Vec<(String, String)>,
}

pub struct FindingLine {
    pub kind: String,
    pub subject: String,
    pub state: Badge,
    pub opened: When,
    pub due: When,
    pub closed: String,
}

pub struct EventLine {
    pub kind: String,
    pub at: When,
    pub late: bool,
    pub data: String,
}

struct ContactLine {
    at: When,
    cause: String,
    carried: String,
    after: String,
}

struct DocumentPart {
    policies: Vec<(String, String, i64)>,
    version: String,
    text: String,
    missing: String,
    held: String,
}

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    frame: Frame,
    id: Id,
    path: String,
    said: String,
    badges: Vec<Badge>,
    can_sync: bool,
    can_authorize: bool,
    can_unauthorize: bool,
    /// True where it may be the app of a device that Apple's MDM manages.
    can_merge: bool,
    orders: Vec<&'static str>,
    about: Vec<(&'static str, String)>,
    labels: Vec<(String, String)>,
    channels: Vec<ChannelLine>,
    open: Vec<TaskLine>,
    past: Vec<TaskLine>,
    findings: Vec<FindingLine>,
    events: Vec<EventLine>,
    contacts: Vec<ContactLine>,
    facts: Vec<(String, String)>,
    documents: Vec<DocumentPart>,
}

/// The page. A serial number or a UDID leads to it as well.
pub async fn show(State(app): State<App>, visitor: Visitor, Path(name): Path<String>) -> Shown {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let id = devices::resolve(&mut conn, &name).await?;
    let device = ops::view(&mut conn, id).await?;
    let (filter, callers) = (Filter { device: Some(id), ..Filter::default() }, app.callers());
    let all = tasks::list(&mut conn, &filter, &callers, TASKS_SHOWN).await?;
    let (open, past): (Vec<_>, Vec<_>) = all.into_iter().partition(|row| row.finished_at_ms.is_none());
    let which = Which { device: Some(id), ..Which::default() };
    let found = findings::list(&mut conn, &which, FINDINGS_SHOWN).await?;
    let told = events::list(&mut conn, Some(id), None, None, EVENTS_SHOWN).await?;
    let carried = contacts::history(&mut conn, id, None, CONTACTS_SHOWN).await?;
    // An Apple device follows none before there is something to declare.
    let channels: Vec<Id> = device.channels.iter().filter(|channel| channel.desired.is_some()).map(|channel| channel.id).collect();
    let documents = settle::documents(&mut conn, Reader::Operator, &channels, now_ms).await?;
    let next = console::next_nudge(&mut conn, id, &callers).await?;
    let shown = DevicePage {
        id,
        path: format!("/devices/{id}"),
        said: said(&device, open.len(), found.iter().filter(|row| row.closed_at_ms.is_none()).count(), next, now_ms),
        badges: badges(&device),
        can_sync: !device.channels.is_empty(),
        can_authorize: device.unauthorized || device.state == "pending_approval",
        can_unauthorize: !device.unauthorized && device.state != "expected",
        can_merge: device.platform == "ios" && !device.channels.is_empty() && device.channels.iter().all(|channel| channel.kind == "agent"),
        orders: ORDERS.into_iter().filter(|name| can_do(&device, name)).collect(),
        about: about(&device),
        labels: device.labels.iter().map(|label| (label.clone(), format!("/labels/{}", segment(label)))).collect(),
        channels: device.channels.iter().map(|channel| channel_line(channel, now_ms)).collect(),
        open: lines(open, now_ms),
        past: lines(past, now_ms),
        findings: found.into_iter().map(|row| finding_line(&row, now_ms)).collect(),
        events: told.into_iter().map(|row| event_line(&row, now_ms)).collect(),
        contacts: carried.into_iter().map(|row| contact_line(&row, now_ms)).collect(),
        facts: facts(&device.facts),
        documents: documents.into_iter().map(document).collect(),
        frame: visitor.frame(name_of(&device)),
    };
    Ok(page(&shown))
}

/// True where one of the device's channels can do this kind of task.
pub fn can_do(device: &Device, kind: &str) -> bool {
    let theirs = device.management_mode == USER_ENROLLMENT;
    let channels = device.channels.iter().map(|channel| channel.kind.as_str());
    Kind::named(kind).is_some_and(|kind| kind.is_for(&device.platform, theirs, channels))
}

/// Calls the device in.
pub async fn sync(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::call_in(conn, moment, actor, id).await);
    told(&format!("/devices/{id}"), done.map(|_| "The device is being called in.".into()))
}

/// Authorizes the device, or admits a parked one.
pub async fn authorize(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::authorize(conn, moment, actor, id).await);
    told(&format!("/devices/{id}"), done.map(|_| "The device may go on.".into()))
}

/// Asks first.
pub async fn ask_unauthorize(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let (id, name) = named(&app, &id).await?;
    let text = format!("{name} signs out and clears its cache at its next contact. Its enrollment stays; you can authorize it again.");
    let path = format!("/devices/{id}");
    Ok(confirm(&visitor, "Unauthorize this device?", &text, &format!("{path}/unauthorize"), "Unauthorize", &path))
}

/// Takes the device's authorization away.
pub async fn unauthorize(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::unauthorize(conn, moment, actor, id).await);
    told(&format!("/devices/{id}"), done.map(|_| "The device is unauthorized.".into()))
}

/// Joins an app's device to the one that Apple's MDM manages.
pub async fn merge(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let (actor, into) = (posted.visitor.actor(), posted.fields.text("into"));
    let done = change!(app, Class::Operators, |conn, moment| ops::merge(conn, moment, actor, id, into).await);
    let at = done.as_ref().map_or(id, |device| device.id);
    told(&format!("/devices/{at}"), done.map(|_| "The app is now a channel of this device.".into()))
}

/// Asks first.
pub async fn ask_retire(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let (id, name) = named(&app, &id).await?;
    let text = format!(
        "The management of {name} ends: the app deletes its data on the device. This cannot be undone; the device may enroll anew."
    );
    let path = format!("/devices/{id}");
    Ok(confirm(&visitor, "Retire this device?", &text, &format!("{path}/retire"), "Retire", &path))
}

/// Ends the management of the device.
pub async fn retire(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::retire(conn, moment, actor, id).await);
    told(&format!("/devices/{id}"), done.map(|_| "The device is being retired.".into()))
}

fn parse(id: &str) -> Result<Id, Error> {
    id.parse().map_err(|_| Error::NotFound("device"))
}

async fn named(app: &App, id: &str) -> Result<(Id, String), Error> {
    let id = parse(id)?;
    Ok((id, name_of(&ops::view(&mut app.db.read().await?, id).await?)))
}

/// The state in plain words: how alive it is, whether it has what it should have, what waits for it, when it is called next.
fn said(device: &Device, open: usize, findings: usize, next: Option<i64>, now_ms: i64) -> String {
    let last = device.channels.iter().filter_map(|channel| Some((channel.last_contact_ms?, channel.last_cause.as_deref()?))).max();
    let mut parts = Vec::new();
    parts.push(match (device.state.as_str(), last) {
        ("expected", _) => "It is expected and has not come yet.".to_owned(),
        ("pending_approval", Some(_)) => "Its app asks to be activated anew. Authorize it to let it in.".to_owned(),
        ("pending_approval", None) => {
            "It asks to be admitted: its hardware is known from another enrollment. Authorize it to let it in.".to_owned()
        }
        (state, Some((at, cause))) => format!("It is {state} and last came {}{}.", relative(at, now_ms), in_brackets(&cause_of(cause))),
        (state, None) => format!("It is {state} and has not come yet."),
    });
    if let Some(why) = &device.unauthorized_reason {
        parts.push(format!("It may not go on ({}).", words(why)));
    }
    parts.push(
        match standing(device) {
            "applied" => "It has the policy document that it should have.",
            "pending" => "It has not yet proved to have the policy document that it should have.",
            "failed" => "It has the policy document, but does not obey all of it.",
            _ if device.channels.is_empty() => "It has no channel yet.",
            _ => "No policy declares anything to it.",
        }
        .to_owned(),
    );
    if has_held(device) {
        parts.push("A policy is held for it beside that: a variable has no value.".to_owned());
    }
    let count = |n: usize, one: &str, many: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {many}") };
    if open > 0 {
        parts.push(format!("{} for it.", count(open, "task waits", "tasks wait")));
    }
    if findings > 0 {
        parts.push(format!("{} open.", count(findings, "finding is", "findings are")));
    }
    if let Some(at) = next.filter(|at| *at < i64::MAX / 2) {
        parts.push(if at <= now_ms { "It is being called.".into() } else { format!("It is called next {}.", relative(at, now_ms)) });
    }
    parts.join(" ")
}

/// What made a device come, in words; nothing where it does not say: Apple's clients never do.
fn cause_of(cause: &str) -> String {
    if cause == "unknown" { String::new() } else { words(cause) }
}

/// Why a channel is not given all of its policies: `variable_missing:NAME`, with `(kept)` behind it where it keeps what it has.
fn hold_of(hold: &str) -> String {
    let (_, name) = hold.split_once(':').unwrap_or(("", hold));
    match name.strip_suffix(" (kept)") {
        Some(name) => format!("there is no value for {name} any more; it keeps the document that it has"),
        None => format!("there is no value for {name}; the policies that name it are left out"),
    }
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

fn badges(device: &Device) -> Vec<Badge> {
    let mut badges = vec![Badge::of(&device.state)];
    if device.unauthorized {
        badges.push(Badge::of(if device.quarantined { "quarantined" } else { "unauthorized" }));
    }
    badges.push(Badge::of(standing(device)));
    if has_held(device) {
        badges.push(Badge::of("held"));
    }
    badges
}

fn about(device: &Device) -> Vec<(&'static str, String)> {
    let user =
        device.user.as_ref().map(|user| if user.name.is_empty() { user.email.clone() } else { format!("{} <{}>", user.name, user.email) });
    let all = [
        ("User", user.unwrap_or_default()),
        ("Platform", format!("{} {}", device.platform, device.os_version)),
        ("Model", device.model.clone()),
        ("Serial number", device.serial.clone().unwrap_or_default()),
        ("UDID", device.udid.clone().unwrap_or_default()),
        ("Management mode", words(&device.management_mode)),
        ("Agent version", device.agent_version.clone()),
        ("Id", device.id.to_string()),
    ];
    all.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect()
}

fn channel_line(channel: &crate::store::channels::ChannelView, now_ms: i64) -> ChannelLine {
    let details: Vec<Value> = channel.details.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ChannelLine {
        kind: channel.kind.clone(),
        push: Badge::of(&channel.push_state),
        seen: When::maybe(channel.last_contact_ms, now_ms),
        cause: cause_of(channel.last_cause.as_deref().unwrap_or_default()),
        desired: channel.desired.clone().unwrap_or_else(|| "none".into()),
        applied: channel.applied.clone().unwrap_or_else(|| "none".into()),
        standing: Badge::of(channel_standing(channel)),
        held: channel.hold.is_some().then(|| Badge::of("held")),
        hold: channel.hold.as_deref().map(hold_of).unwrap_or_default(),
        details: details.iter().map(|detail| (text(&detail["setting"]), text(&detail["reason"]))).collect(),
    }
}

/// A finding as a row.
pub fn finding_line(row: &findings::FindingRow, now_ms: i64) -> FindingLine {
    let state = match (row.closed_at_ms, row.overdue_at_ms) {
        (Some(_), _) => "closed",
        (None, Some(_)) => "overdue",
        (None, None) => "running",
    };
    let closed =
        row.closed_at_ms.map(|at| format!("{}, {}", relative(at, now_ms), closed_by(row.closed_by.as_deref().unwrap_or_default())));
    FindingLine {
        kind: sentence(&row.kind),
        subject: row.subject.clone(),
        state: Badge::of(state),
        opened: When::new(row.opened_at_ms, now_ms),
        due: When::new(row.due_at_ms, now_ms),
        closed: closed.unwrap_or_default(),
    }
}

/// What closed a finding, in words: an event of the device, a fact that it told, its report, its contact; or why it is judged no more.
fn closed_by(word: &str) -> String {
    match word.split_once(':') {
        Some(("event", _)) => "by an event of the device".into(),
        Some(("fact", key)) => format!("by the fact {}", words(key)),
        _ if matches!(word, "report" | "contact") => format!("by a {word} of the device"),
        _ if word.is_empty() => "by the server".into(),
        _ => words(word),
    }
}

/// An event as a row.
pub fn event_line(row: &events::EventRow, now_ms: i64) -> EventLine {
    let data: Value = serde_json::from_str(&row.data).unwrap_or_default();
    EventLine {
        kind: sentence(&row.r#type),
        at: When::new(row.occurred_at_ms, now_ms),
        late: row.late == 1,
        data: super::format::members(&data),
    }
}

fn contact_line(row: &contacts::ContactRow, now_ms: i64) -> ContactLine {
    let counted = [(row.results, "result", "in"), (row.events, "event", "in"), (row.tasks, "task", "out")];
    let said = |(n, what, way): &(i64, &str, &str)| format!("{n} {what}{} {way}", if *n == 1 { "" } else { "s" });
    let mut carried: Vec<String> = counted.iter().filter(|(n, _, _)| *n > 0).map(said).collect();
    if row.policy.is_some() {
        carried.push("a policy document out".into());
    }
    ContactLine {
        at: When::new(row.at_ms, now_ms),
        cause: Some(cause_of(&row.cause)).filter(|cause| !cause.is_empty()).unwrap_or_else(|| "contact".into()),
        carried: carried.join(", "),
        after: row.after_nudge_ms.map(|ms| format!("{:.1} s after its nudge", ms as f64 / 1000.0)).unwrap_or_default(),
    }
}

fn facts(facts: &Value) -> Vec<(String, String)> {
    let Some(object) = facts.as_object() else { return Vec::new() };
    object.iter().map(|(key, value)| (cut(fact_name(key), FACT_CHARS_MAX), cut(fact(key, value), FACT_CHARS_MAX))).collect()
}

fn document(delivered: settle::Delivered) -> DocumentPart {
    let policies = delivered.items.into_iter().map(|item| (format!("/policies/{}", segment(&item.name)), item.name, item.version));
    DocumentPart {
        policies: policies.collect(),
        version: delivered.version,
        text: pretty(&delivered.document),
        missing: delivered.variables_missing.join(", "),
        held: delivered.held.join(", "),
    }
}
