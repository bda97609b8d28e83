//! Jobs: the list, one with its tasks, and the form that orders something.

use askama::Template;
use axum::extract::{Path, State};

use super::confirm::confirm;
use super::form::{Asked, Posted};
use super::format::{Badge, Bar, When, number, pretty, reason, who, words};
use super::layout::{Frame, Shown, page, told};
use super::tasks::{TaskLine, lines};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::page::List;
use crate::model::Id;
use crate::ops::jobs::{self as ops, Job};
use crate::store::tasks::Filter;
use crate::store::{Class, jobs, tasks};

const PAGE_ROWS: i64 = 50;

/// A job as one row.
pub struct JobLine {
    pub id: Id,
    pub kind: String,
    pub state: Badge,
    pub bar: Bar,
    pub tasks: String,
    pub by: String,
    pub made: When,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct Jobs {
    frame: Frame,
    lines: Vec<JobLine>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    frame: Frame,
    line: JobLine,
    path: String,
    params: String,
    lane: String,
    expires: When,
    finished: Option<When>,
    unknown: String,
    duplicate: String,
    reasons: Vec<(String, &'static str, String)>,
    /// Something of it waits for a second operator.
    waits: bool,
    /// This operator may be the second.
    can_approve: bool,
    can_cancel: bool,
    can_retry: bool,
    states: Vec<String>,
    state: String,
    tasks: Vec<TaskLine>,
    next: Option<String>,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let (state, kind) = (asked.fields.text("state"), asked.fields.text("kind"));
    let mut conn = app.db.read().await?;
    let rows = List::of(jobs::list(&mut conn, state, kind, asked.cursor(), PAGE_ROWS + 1).await?, PAGE_ROWS, |row| row.id);
    let lines = ops::views(&mut conn, rows.items).await?.iter().map(|job| job_line(job, app.clock.now_ms())).collect();
    Ok(page(&Jobs { lines, next: rows.next_cursor.map(|cursor| asked.next(&cursor)), frame: asked.visitor.frame("Jobs") }))
}

/// One job with its tasks.
pub async fn show(State(app): State<App>, asked: Asked, Path(id): Path<String>) -> Shown {
    let id = parse(&id)?;
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let job = ops::get(&mut conn, id, Some(&app.callers().names)).await?;
    let filter = Filter { job: Some(id), state: asked.fields.some("state"), before: asked.cursor(), ..Filter::default() };
    let found = List::of(tasks::list(&mut conn, &filter, &app.callers(), PAGE_ROWS + 1).await?, PAGE_ROWS, |row| row.id);
    let count = |states: &[&str]| states.iter().filter_map(|state| job.counts.get(*state)).sum::<i64>();
    let params = if job.params.as_object().is_some_and(serde_json::Map::is_empty) { String::new() } else { pretty(&job.params) };
    let shown = JobPage {
        line: job_line(&job, now_ms),
        path: format!("/jobs/{id}"),
        params,
        lane: job.lane.clone(),
        expires: When::new(job.expires_at_ms, now_ms),
        finished: job.finished_at_ms.map(|at| When::new(at, now_ms)),
        unknown: job.unknown_devices.join(", "),
        duplicate: job.duplicate_devices.join(", "),
        reasons: job.reasons.iter().flatten().map(|(word, n)| (word.clone(), reason(word), number(*n))).collect(),
        waits: job.state == ops::AWAITING || count(&[ops::AWAITING]) > 0,
        can_approve: ops::may_approve(&mut conn, asked.visitor.actor(), &job.created_by).await?,
        can_cancel: matches!(job.state.as_str(), "expanding" | "running" | "awaiting_approval"),
        can_retry: count(&["failed", "expired", "cancelled"]) > 0,
        states: job.counts.keys().cloned().collect(),
        state: filter.state.unwrap_or_default(),
        tasks: lines(found.items, now_ms),
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        frame: asked.visitor.frame(format!("Job: {}", words(&job.kind))),
    };
    Ok(page(&shown))
}

/// Asks first.
pub async fn ask_cancel(State(app): State<App>, asked: Asked, Path(id): Path<String>) -> Shown {
    let id = parse(&id)?;
    let job = ops::get(&mut app.db.read().await?, id, None).await?;
    let text = format!(
        "What is still open of this job ({}, {} tasks) is cancelled. Results that come later are recorded as late.",
        job.kind, job.tasks
    );
    let path = format!("/jobs/{id}");
    Ok(confirm(&asked.visitor, "Cancel this job?", &text, &format!("{path}/cancel"), "Cancel the job", &path))
}

/// Cancels what is open.
pub async fn cancel(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::cancel(conn, moment, actor, id).await);
    told(&format!("/jobs/{id}"), done.map(|_| "The job is cancelled.".into()))
}

/// Orders again what failed, expired or was cancelled.
pub async fn retry(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::retry(conn, moment, actor, id).await);
    told(&format!("/jobs/{id}"), done.map(|_| "What had failed is ordered again.".into()))
}

/// Asks first: what is approved cannot be taken back.
pub async fn ask_approve(State(app): State<App>, asked: Asked, Path(id): Path<String>) -> Shown {
    let id = parse(&id)?;
    let job = ops::get(&mut app.db.read().await?, id, None).await?;
    let (kind, by) = (words(&job.kind), who(&job.created_by));
    let text = format!("{by} ordered: {kind}, for {} devices. What is approved goes out at once and cannot be undone.", number(job.tasks));
    let path = format!("/jobs/{id}");
    Ok(confirm(&asked.visitor, "Approve this job?", &text, &format!("{path}/approve"), "Approve", &path))
}

/// Lets what waits for a second operator go on.
pub async fn approve(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::approve(conn, moment, actor, id).await);
    told(&format!("/jobs/{id}"), done.map(|_| "Approved: the devices are called.".into()))
}

/// Ends what waits for a second operator.
pub async fn reject(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id = parse(&id)?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::reject(conn, moment, actor, id).await);
    told(&format!("/jobs/{id}"), done.map(|_| "Rejected: nothing of it goes out.".into()))
}

fn parse(id: &str) -> Result<Id, Error> {
    id.parse().map_err(|_| Error::NotFound("job"))
}

/// A job as one row.
pub fn job_line(job: &Job, now_ms: i64) -> JobLine {
    JobLine {
        id: job.id,
        kind: job.kind.clone(),
        state: Badge::of(&job.state),
        bar: Bar::of(&job.counts),
        tasks: number(job.tasks),
        by: who(&job.created_by),
        made: When::new(job.created_at_ms, now_ms),
    }
}
