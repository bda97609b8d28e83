//! Enrollment tokens: made and shown once, with the devices that each admitted; ended.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;

use super::confirm::confirm_also;
use super::form::{Asked, Posted};
use super::format::{Badge, When, who};
use super::layout::{Frame, Shown, Trouble, Visitor, page, told};
use super::line::{Link, link};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::page::List;
use crate::model::Id;
use crate::ops::tokens::{self as ops, NewToken, Token};
use crate::store::{Class, console, tokens};

const PAGE_ROWS: i64 = 100;
const DAY_MS: i64 = 86_400_000;

struct Line {
    id: Id,
    name: String,
    state: Badge,
    live: bool,
    uses: String,
    expires: Option<When>,
    labels: String,
    made: When,
    by: String,
}

/// A value that is shown this once.
struct Once {
    name: String,
    value: String,
    link: String,
}

#[derive(Template)]
#[template(path = "enrollment.html")]
struct Enrollment {
    frame: Frame,
    once: Option<Once>,
    lines: Vec<Line>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "token.html")]
struct TokenPage {
    frame: Frame,
    line: Line,
    devices: Vec<(Link, When, String)>,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    shown(&app, &asked.visitor, Some(&asked), None).await
}

/// Makes a token and shows its value this once.
pub async fn create(State(app): State<App>, posted: Posted) -> Shown {
    let actor = posted.visitor.actor();
    let done = match new_token(&posted, app.clock.now_ms()) {
        Ok(new) => change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, actor, &new).await),
        Err(error) => Err(error),
    };
    match done {
        Ok(token) => {
            let value = token.token.unwrap_or_default();
            let link = format!("{}/enroll/{value}", app.config.public_url.trim_end_matches('/'));
            shown(&app, &posted.visitor, None, Some(Once { name: token.name, value, link })).await
        }
        Err(error) => told("/enrollment", Err(error)),
    }
}

/// One token with the devices that it admitted.
pub async fn show(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let token = ops::get(&mut conn, parse(&id)?, now_ms).await?;
    let uses = token.devices.clone().unwrap_or_default();
    let names = console::named(&mut conn, uses.iter().map(|used| used.device_id)).await?;
    let devices = uses.into_iter().map(|used| (link(used.device_id, &names), When::new(used.at_ms, now_ms), used.remote)).collect();
    Ok(page(&TokenPage { frame: visitor.frame(token.name.clone()), line: line(token, now_ms), devices }))
}

/// Asks first.
pub async fn ask_revoke(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let id = parse(&id)?;
    let token = ops::get(&mut app.db.read().await?, id, app.clock.now_ms()).await?;
    let text = format!("The token {} admits no device from now on. The devices that it admitted stay.", token.name);
    let also = format!("Quarantine the {} devices that it admitted as well", token.uses);
    Ok(confirm_also(
        &visitor,
        "Revoke this token?",
        &text,
        &format!("/enrollment/{id}/revoke"),
        "Revoke",
        &format!("/enrollment/{id}"),
        &also,
    ))
}

/// Ends a token, with its devices if that was ticked.
pub async fn revoke(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor) = (parse(&id)?, posted.visitor.actor());
    let since_ms = (posted.fields.text("also") == "yes").then_some(0);
    let done = change!(app, Class::Operators, |conn, moment| ops::revoke(conn, moment, actor, id, since_ms).await);
    told(&format!("/enrollment/{id}"), done.map(|_| "The token is revoked.".into()))
}

async fn shown(app: &App, visitor: &Visitor, asked: Option<&Asked>, once: Option<Once>) -> Result<Response, Trouble> {
    let now_ms = app.clock.now_ms();
    let after: Option<Id> = asked.and_then(Asked::cursor);
    let mut conn = app.db.read().await?;
    let rows = tokens::list(&mut conn, &after.map(|id| id.to_string()).unwrap_or_default(), PAGE_ROWS + 1).await?;
    let found = List::of(rows, PAGE_ROWS, |row| row.id);
    let lines = ops::views(&mut conn, found.items, now_ms).await?.into_iter().map(|token| line(token, now_ms)).collect();
    let next = found.next_cursor.and_then(|cursor| asked.map(|asked| asked.next(&cursor)));
    Ok(page(&Enrollment { frame: visitor.frame("Enrollment"), once, lines, next }))
}

fn new_token(posted: &Posted, now_ms: i64) -> Result<NewToken, Error> {
    let fields = &posted.fields;
    let days = fields.number("days")?;
    if days.is_some_and(|days| !(1..=3650).contains(&days)) {
        return Err(Error::invalid("days", "take 1 to 3650 days"));
    }
    Ok(NewToken {
        name: fields.text("name").to_owned(),
        expires_at_ms: days.map(|days| now_ms + days * DAY_MS),
        max_uses: fields.number("max_uses")?,
        labels: fields.text("labels").split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        user: fields.some("user"),
        serial: fields.some("serial"),
    })
}

fn line(token: Token, now_ms: i64) -> Line {
    Line {
        id: token.id,
        live: token.state == "live",
        state: Badge::of(token.state),
        uses: token.max_uses.map_or_else(|| token.uses.to_string(), |most| format!("{} of {most}", token.uses)),
        expires: token.expires_at_ms.map(|at| When::new(at, now_ms)),
        labels: token.labels.join(", "),
        made: When::new(token.created_at_ms, now_ms),
        by: who(&token.created_by),
        name: token.name,
    }
}

fn parse(id: &str) -> Result<Id, Error> {
    id.parse().map_err(|_| Error::NotFound("enrollment token"))
}
