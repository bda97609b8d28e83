//! Tasks: the list, and what may be done with one.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::form::{Asked, Posted};
use super::format::{Badge, When, cut, pretty, reason, words};
use super::layout::{Frame, Shown, local, page, told};
use super::line::{Link, device_name};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::http::page::List;
use crate::model::{Id, kind};
use crate::ops::tasks::{self as ops, Task};
use crate::store::console::Named;
use crate::store::tasks::{self, Filter, TaskView};
use crate::store::{Class, devices};

const PAGE_ROWS: i64 = 50;
/// Characters of the device's own words that a line shows.
const ERROR_CHARS_MAX: usize = 300;
/// Characters of parameters and result on a page; the API has the whole of them.
const RAW_CHARS_MAX: usize = 16_000;
/// A task as one row.
pub struct TaskLine {
    pub id: Id,
    pub job_id: Id,
    pub kind: String,
    pub device: Link,
    pub state: Badge,
    /// Why it waits, how far it is, or what the device said.
    pub said: String,
    pub since: Option<When>,
    pub finished: Option<When>,
    pub made: When,
    pub next: Option<When>,
    pub can_cancel: bool,
    pub can_retry: bool,
    /// Parameters, result and whatever else there is, as JSON.
    pub raw: String,
}

#[derive(Template)]
#[template(path = "tasks.html")]
struct Tasks {
    frame: Frame,
    states: &'static [&'static str],
    reasons: &'static [&'static str],
    kinds: &'static [&'static str],
    state: String,
    reason: String,
    kind: String,
    device: String,
    lines: Vec<TaskLine>,
    next: Option<String>,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let fields = &asked.fields;
    let mut conn = app.db.read().await?;
    let device = match fields.some("device") {
        Some(name) => Some(devices::resolve(&mut conn, &name).await?),
        None => None,
    };
    let filter = Filter {
        device,
        state: fields.some("state"),
        reason: fields.some("reason"),
        kind: fields.some("kind"),
        before: asked.cursor(),
        ..Filter::default()
    };
    let rows = tasks::list(&mut conn, &filter, &app.callers(), PAGE_ROWS + 1).await?;
    let found = List::of(rows, PAGE_ROWS, |row| row.id);
    let shown = Tasks {
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        lines: lines(found.items, app.clock.now_ms()),
        states: &kind::STATES,
        reasons: &tasks::REASONS,
        kinds: &kind::NAMES,
        state: filter.state.unwrap_or_default(),
        reason: filter.reason.unwrap_or_default(),
        kind: filter.kind.unwrap_or_default(),
        device: fields.text("device").to_owned(),
        frame: asked.visitor.frame("Tasks"),
    };
    Ok(page(&shown))
}

/// Cancels a task.
pub async fn cancel(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (actor, callers) = (posted.visitor.actor(), app.callers());
    let done = match parse(&id) {
        Ok(id) => change!(app, Class::Operators, |conn, moment| ops::cancel(conn, moment, actor, id, &callers).await),
        Err(error) => Err(error),
    };
    told(local(posted.fields.text("back"), "/tasks"), done.map(|task| format!("The task {} is cancelled.", words(&task.kind))))
}

/// Orders again what failed, expired or was cancelled.
pub async fn retry(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (actor, callers) = (posted.visitor.actor(), app.callers());
    let done = match parse(&id) {
        Ok(id) => change!(app, Class::Operators, |conn, moment| ops::retry(conn, moment, actor, id, &callers).await),
        Err(error) => Err(error),
    };
    told(local(posted.fields.text("back"), "/tasks"), done.map(|task| format!("Ordered again: {}.", words(&task.kind))))
}

fn parse(id: &str) -> Result<Id> {
    id.parse().map_err(|_| Error::NotFound("task"))
}

/// Tasks as rows.
pub fn lines(rows: Vec<TaskView>, now_ms: i64) -> Vec<TaskLine> {
    rows.into_iter().map(|row| line(Task::of(row, now_ms), now_ms)).collect()
}

fn line(task: Task, now_ms: i64) -> TaskLine {
    let is_open = task.finished_at_ms.is_none();
    let named = Named { id: None, model: task.device.model.clone(), serial: task.device.serial.clone(), email: task.device.email.clone() };
    let (said, since) = match (&task.reason, is_open) {
        (Some(word), true) => (reason(word).to_owned(), task.reason_since_ms.map(|at| When::new(at, now_ms))),
        _ => (in_words(&task), None),
    };
    TaskLine {
        raw: raw(&task),
        can_cancel: is_open,
        can_retry: matches!(task.state.as_str(), "failed" | "expired" | "cancelled") && task.retried_by.is_none() && !is_impossible(&task),
        device: Link { id: task.device_id, name: device_name(task.device_id, Some(&named)) },
        state: Badge::of(&task.state),
        made: When::new(task.created_at_ms, now_ms),
        next: task.next_attempt_at_ms.filter(|_| is_open).map(|at| When::new(at.max(now_ms), now_ms)),
        finished: task.finished_at_ms.map(|at| When::new(at, now_ms)),
        id: task.id,
        job_id: task.job_id,
        kind: task.kind,
        said,
        since,
    }
}

/// True where ordering it again would only be refused again.
fn is_impossible(task: &Task) -> bool {
    matches!(task.error["code"].as_str(), Some("unsupported" | "no_channel"))
}

/// How a finished task came to its end, in the device's own words where it failed.
fn in_words(task: &Task) -> String {
    let message = task.error["message"].as_str().unwrap_or_default();
    let code = task.error["code"].as_str().unwrap_or_default();
    let said = match (task.state.as_str(), message, code) {
        ("done", _, _) => String::new(),
        (_, "", "") => words(&task.state),
        (_, "", code) => words(code),
        (_, message, "") => message.to_owned(),
        (_, message, code) => format!("{message} ({code})"),
    };
    said.chars().take(ERROR_CHARS_MAX).collect()
}

fn raw(task: &Task) -> String {
    let parts =
        [("params", &task.params), ("progress", &task.progress), ("result", &task.result), ("error", &task.error), ("late", &task.late)];
    let is_empty = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let shown: serde_json::Map<String, Value> =
        parts.into_iter().filter(|(_, value)| !is_empty(value)).map(|(name, value)| (name.to_owned(), value.clone())).collect();
    if shown.is_empty() { String::new() } else { cut(pretty(&json!(shown)), RAW_CHARS_MAX) }
}
