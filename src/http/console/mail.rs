//! The outbox of mail: what is queued, what was sent, and what could not be.

use askama::Template;
use axum::extract::{Path, State};

use super::form::{Asked, Posted};
use super::format::{Badge, When, words};
use super::layout::{Frame, Shown, page, told};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::api::mail::STATES;
use crate::http::page::List;
use crate::model::Id;
use crate::ops::mail as ops;
use crate::store::mail::MailRow;
use crate::store::{Class, mail};

const PAGE_ROWS: i64 = 100;

struct Line {
    id: Id,
    kind: String,
    to: String,
    subject: String,
    state: Badge,
    attempts: i64,
    error: String,
    made: When,
    /// When it is tried next, or when its last try was.
    then: When,
    is_queued: bool,
    is_failed: bool,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct Outbox {
    frame: Frame,
    is_set_up: bool,
    states: &'static [&'static str],
    state: String,
    lines: Vec<Line>,
    next: Option<String>,
}

/// The list, newest first.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let now_ms = app.clock.now_ms();
    let state = asked.fields.some("state").filter(|word| STATES.contains(&word.as_str())).unwrap_or_default();
    let rows = mail::list(&mut app.db.read().await?, &state, asked.cursor(), PAGE_ROWS + 1).await?;
    let found = List::of(rows, PAGE_ROWS, |row| row.id);
    Ok(page(&Outbox {
        is_set_up: app.config.mail.is_set_up(),
        states: &STATES,
        state,
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        lines: found.items.into_iter().map(|row| line(row, now_ms)).collect(),
        frame: asked.visitor.frame("Mail"),
    }))
}

/// Queues a mail again that failed.
pub async fn resend(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id: Id = id.parse().map_err(|_| Error::NotFound("mail"))?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::again(conn, moment, actor, id).await);
    app.bells.mail.notify_one();
    told("/settings/mail", done.map(|mail| format!("The mail to {} is queued again.", mail.to)))
}

fn line(row: MailRow, now_ms: i64) -> Line {
    let is_queued = row.state == "queued";
    let then = if is_queued { Some(row.due_at_ms) } else { row.finished_at_ms };
    Line {
        id: row.id,
        kind: words(&row.kind),
        to: row.recipient,
        subject: row.subject,
        state: Badge::of(&row.state),
        attempts: row.attempts,
        error: row.error.unwrap_or_default(),
        made: When::new(row.created_at_ms, now_ms),
        then: When::maybe(then, now_ms),
        is_queued,
        is_failed: row.state == "failed",
    }
}
