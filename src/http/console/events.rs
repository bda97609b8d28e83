//! Findings first, then what devices reported by themselves.

use askama::Template;
use axum::extract::State;

use super::device::{EventLine, FindingLine, event_line, finding_line};
use super::form::Asked;
use super::layout::{Frame, Shown, page};
use super::line::{Link, link};
use crate::app::App;
use crate::http::page::List;
use crate::ops::findings::KINDS;
use crate::protocol::agent::EVENT_TYPES;
use crate::store::findings::Which;
use crate::store::{console, events, findings};

const FINDINGS_ROWS: i64 = 50;
const EVENTS_ROWS: i64 = 50;

#[derive(Template)]
#[template(path = "events.html")]
struct Events {
    frame: Frame,
    kinds: &'static [&'static str],
    types: &'static [&'static str],
    kind: String,
    which: String,
    event_type: String,
    findings: Vec<(Link, FindingLine)>,
    findings_next: Option<String>,
    events: Vec<(Link, EventLine)>,
    next: Option<String>,
}

/// The page. `before` pages the findings, `cursor` the events.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let fields = &asked.fields;
    let now_ms = app.clock.now_ms();
    let open = match fields.text("which") {
        "all" => None,
        "closed" => Some(false),
        _ => Some(true),
    };
    let which = Which { device: None, kind: fields.some("kind"), open, before: fields.some("before").and_then(|id| id.parse().ok()) };
    let event_type = fields.some("type");
    let mut conn = app.db.read().await?;
    let found = List::of(findings::list(&mut conn, &which, FINDINGS_ROWS + 1).await?, FINDINGS_ROWS, |row| row.id);
    let told = events::list(&mut conn, None, event_type.as_deref(), asked.cursor(), EVENTS_ROWS + 1).await?;
    let told = List::of(told, EVENTS_ROWS, |row| row.id);
    let ids = found.items.iter().map(|row| row.device_id).chain(told.items.iter().map(|row| row.device_id));
    let names = console::named(&mut conn, ids).await?;
    // Its cursor is the plain id: this page has two lists, and only one can have the usual one.
    let last = found.items.last().filter(|_| found.next_cursor.is_some()).map(|row| row.id);
    let kind = which.kind.clone().unwrap_or_default();
    let word = fields.some("which").unwrap_or_else(|| "open".into());
    let query = |id| {
        let mut query = form_urlencoded::Serializer::new(String::from("/events?"));
        query.append_pair("kind", &kind).append_pair("which", &word).append_pair("before", &format!("{id}"));
        query.finish()
    };
    let shown = Events {
        kinds: &KINDS,
        types: &EVENT_TYPES,
        findings_next: last.map(query),
        findings: found.items.iter().map(|row| (link(row.device_id, &names), finding_line(row, now_ms))).collect(),
        next: told.next_cursor.map(|cursor| asked.next(&cursor)),
        events: told.items.iter().map(|row| (link(row.device_id, &names), event_line(row, now_ms))).collect(),
        event_type: event_type.unwrap_or_default(),
        which: word,
        kind,
        frame: asked.visitor.frame("Events"),
    };
    Ok(page(&shown))
}
