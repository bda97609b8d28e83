//! Webhooks: who is told of the feed, and what became of each delivery.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;

use super::confirm::confirm;
use super::form::{Asked, Posted};
use super::format::{Badge, When};
use super::layout::{Frame, Shown, Trouble, Visitor, page, to, told};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::http::api::webhooks::admit;
use crate::http::page::List;
use crate::model::{Id, Role};
use crate::ops::webhooks::{self as ops, Again, Made};
use crate::store::webhooks::{self, DeliveryRow, WebhookRow};
use crate::store::{Class, Conn};

const PAGE_ROWS: i64 = 50;
/// Endpoints on the page: more are for the API.
const SHOWN_MAX: i64 = 1000;
const PLACE: &str = "/settings/webhooks";

struct HookLine {
    id: Id,
    url: String,
    kinds: String,
    state: Badge,
    failing: Option<When>,
    made: When,
}

struct DeliveryLine {
    id: Id,
    kind: String,
    state: Badge,
    attempts: i64,
    status: String,
    answer: String,
    last: When,
    next: Option<When>,
    finished: bool,
}

#[derive(Template)]
#[template(path = "webhooks.html")]
struct Webhooks {
    frame: Frame,
    secret: Option<String>,
    lines: Vec<HookLine>,
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct Webhook {
    frame: Frame,
    hook: HookLine,
    disabled: Option<String>,
    lines: Vec<DeliveryLine>,
    next: Option<String>,
}

/// All of them.
pub async fn list(State(app): State<App>, visitor: Visitor) -> Shown {
    shown(&app, &visitor, None).await
}

async fn shown(app: &App, visitor: &Visitor, secret: Option<String>) -> std::result::Result<Response, Trouble> {
    let now_ms = app.clock.now_ms();
    let rows = webhooks::list(&mut app.db.read().await?, "", SHOWN_MAX).await?;
    let lines = rows.into_iter().map(|row| line(visitor, row, now_ms)).collect();
    Ok(page(&Webhooks { secret, lines, frame: visitor.frame("Webhooks") }))
}

/// One with its deliveries.
pub async fn show(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Shown {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let row = row(&mut conn, &id).await?;
    let found = webhooks::deliveries(&mut conn, row.id, "", asked.cursor(), PAGE_ROWS + 1).await?;
    let found = List::of(found, PAGE_ROWS, |row| row.seq);
    Ok(page(&Webhook {
        disabled: row.disabled_reason.clone(),
        hook: line(&asked.visitor, row, now_ms),
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        lines: found.items.into_iter().map(|row| delivery_line(row, now_ms)).collect(),
        frame: asked.visitor.frame("Webhook"),
    }))
}

/// Makes one and shows its secret this once.
pub async fn create(State(app): State<App>, posted: Posted) -> Shown {
    let actor = posted.visitor.actor();
    let url = posted.fields.text("url");
    let kinds: Vec<String> =
        posted.fields.text("kinds").split([',', ' ', '\n']).map(str::trim).filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
    let seal = &app.seal;
    let made = match actor.require(Role::Admin) {
        Ok(()) => admit(&app, url).await,
        Err(error) => Err(error),
    };
    let made = match made {
        Ok(()) => change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, actor, seal, url, &kinds).await),
        Err(error) => Err(error),
    };
    once(&app, &posted.visitor, made).await
}

/// Where the answer to a form is asked for again: the page without the secret that was shown once.
pub async fn home() -> Response {
    to(PLACE)
}

/// Makes a new secret and shows it this once.
pub async fn rotate(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor, seal) = (id_of(&id)?, posted.visitor.actor(), &app.seal);
    let made = change!(app, Class::Operators, |conn, moment| ops::rotate(conn, moment, actor, seal, id).await);
    once(&app, &posted.visitor, made).await
}

async fn once(app: &App, visitor: &Visitor, made: Result<Made>) -> Shown {
    match made {
        Ok(made) => shown(app, visitor, Some(made.secret)).await,
        Err(error) => told(PLACE, Err(error)),
    }
}

/// Enables one again.
pub async fn enable(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor) = (id_of(&id)?, posted.visitor.actor());
    let done = change!(app, Class::Operators, |conn, moment| ops::enable(conn, moment, actor, id).await);
    told(&format!("{PLACE}/{id}"), done.map(|_| "The webhook is enabled; what waited is being delivered.".into()))
}

/// Sends one delivery, or all dead letters, again.
pub async fn redeliver(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor) = (id_of(&id)?, posted.visitor.actor());
    let which = match posted.fields.some("delivery") {
        Some(delivery) => Again::One(delivery.parse().map_err(|_| Error::NotFound("delivery"))?),
        None => Again::Dead,
    };
    let done = change!(app, Class::Operators, |conn, moment| ops::redeliver(conn, moment, actor, id, which).await);
    told(&format!("{PLACE}/{id}"), done.map(|count| format!("{count} sent again.")))
}

/// Asks first.
pub async fn ask_delete(visitor: Visitor, Path(id): Path<String>) -> Shown {
    let id = id_of(&id)?;
    let text = "The endpoint is told nothing more; what waits for it is not delivered.";
    Ok(confirm(&visitor, "Delete this webhook?", text, &format!("{PLACE}/{id}/delete"), "Delete", &format!("{PLACE}/{id}")))
}

/// Takes one away.
pub async fn delete(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor) = (id_of(&id)?, posted.visitor.actor());
    let done = change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, actor, id).await);
    told(PLACE, done.map(|()| "The webhook is deleted.".into()))
}

fn id_of(text: &str) -> Result<Id> {
    text.parse().map_err(|_| Error::NotFound("webhook"))
}

async fn row(conn: &mut Conn, id: &str) -> Result<WebhookRow> {
    webhooks::get(conn, id_of(id)?).await?.ok_or(Error::NotFound("webhook"))
}

fn line(visitor: &Visitor, row: WebhookRow, now_ms: i64) -> HookLine {
    let kinds: Vec<String> = serde_json::from_str(&row.kinds).unwrap_or_default();
    HookLine {
        id: row.id,
        url: ops::url_for(visitor.actor(), &row.url),
        kinds: if kinds.is_empty() { "all".into() } else { kinds.join(", ") },
        state: Badge::of(&row.state),
        failing: row.failing_since_ms.map(|since_ms| When::new(since_ms, now_ms)),
        made: When::new(row.created_at_ms, now_ms),
    }
}

fn delivery_line(row: DeliveryRow, now_ms: i64) -> DeliveryLine {
    DeliveryLine {
        id: row.id,
        kind: row.kind,
        finished: row.state != "pending",
        state: Badge::of(&row.state),
        attempts: row.attempts,
        status: row.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        answer: row.answer.unwrap_or_default(),
        last: When::maybe(row.last_attempt_at_ms, now_ms),
        next: row.next_attempt_at_ms.map(|at_ms| When::new(at_ms, now_ms)),
    }
}
