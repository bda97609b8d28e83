//! Users: the people who carry devices.

use askama::Template;
use axum::extract::{Path, State};

use super::confirm::confirm;
use super::form::{Asked, Posted};
use super::format::{Badge, When, number};
use super::layout::{Frame, Shown, Visitor, page, segment, told};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::api::mail::outbox;
use crate::http::api::users::preview;
use crate::http::page::List;
use crate::model::Id;
use crate::ops::mail as mail_ops;
use crate::ops::users::offboarding::{Offboarding, Way};
use crate::ops::users::{self as ops, NewUser, UserPatch};
use crate::store::{Class, mail, users};

const PAGE_ROWS: i64 = 100;
/// Devices that a question names.
const DEVICES_NAMED: usize = 10;

struct Line {
    id: Id,
    email: String,
    name: String,
    state: Badge,
    enabled: bool,
    devices: String,
    limit: String,
    /// What became of the last activation mail, and why it failed.
    mail: Option<(Badge, String)>,
    search: String,
    made: When,
}

#[derive(Template)]
#[template(path = "users.html")]
struct Users {
    frame: Frame,
    lines: Vec<Line>,
    next: Option<String>,
    can_mail: bool,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let after: Option<String> = asked.cursor();
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let rows = users::list(&mut conn, after.as_deref().unwrap_or(""), PAGE_ROWS + 1).await?;
    let found = List::of(rows, PAGE_ROWS, |row| row.email.clone());
    let mut lines = Vec::with_capacity(found.items.len());
    for row in found.items {
        let mail = mail::newest(&mut conn, "activation", &row.id.to_string()).await?;
        lines.push(Line {
            mail: mail.map(|mail| (Badge::of(&mail.state), mail.error.unwrap_or_default())),
            devices: number(users::devices(&mut conn, row.id).await?),
            limit: row.device_limit.map(|most| format!("of {most}")).unwrap_or_default(),
            search: format!("/devices?q={}", segment(&row.email)),
            enabled: row.state == "enabled",
            state: Badge::of(&row.state),
            made: When::new(row.created_at_ms, now_ms),
            id: row.id,
            email: row.email,
            name: row.name,
        });
    }
    let can_mail = app.config.mail.is_set_up();
    Ok(page(&Users { can_mail, lines, next: found.next_cursor.map(|cursor| asked.next(&cursor)), frame: asked.visitor.frame("Users") }))
}

/// Makes a user.
pub async fn create(State(app): State<App>, posted: Posted) -> Shown {
    let (fields, actor) = (&posted.fields, posted.visitor.actor());
    let limit = match fields.number("device_limit") {
        Ok(limit) => limit,
        Err(error) => return told("/users", Err(error)),
    };
    let new = NewUser {
        email: fields.text("email").to_owned(),
        name: fields.text("name").to_owned(),
        device_limit: limit,
        attributes: Default::default(),
    };
    let done = change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, actor, &new).await);
    told("/users", done.map(|user| format!("{} may now carry devices.", user.email)))
}

/// Sends the mail with an enrollment link.
pub async fn activate(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor, outbox) = (parse(&id)?, posted.visitor.actor(), outbox(&app));
    let done = change!(app, Class::Operators, |conn, moment| mail_ops::activate(conn, moment, actor, outbox, id).await);
    app.bells.mail.notify_one();
    told("/users", done.map(|mail| format!("The activation mail to {} is queued.", mail.to)))
}

/// Enables a user, and its devices with it.
pub async fn enable(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    switch(&app, &id, &posted, true).await
}

/// Asks first.
pub async fn ask_disable(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let (id, email) = named(&app, &id).await?;
    let seen = preview(&app, visitor.actor(), id, Way::Disable).await?;
    let text = format!("{} Enabling {email} again lifts that.", told_of(&seen, "sign out"));
    Ok(confirm(&visitor, "Disable this user?", &text, &format!("/users/{id}/disable"), "Disable", "/users"))
}

/// Disables a user, and its devices with it.
pub async fn disable(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    switch(&app, &id, &posted, false).await
}

/// Asks first.
pub async fn ask_delete(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let (id, email) = named(&app, &id).await?;
    let seen = preview(&app, visitor.actor(), id, Way::Delete).await?;
    let text = format!("{} The address {email} is free again. This cannot be undone.", told_of(&seen, "delete the app's data"));
    Ok(confirm(&visitor, "Delete this user?", &text, &format!("/users/{id}/delete"), "Delete", "/users"))
}

/// Deletes a user.
pub async fn delete(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let (id, actor) = (parse(&id)?, posted.visitor.actor());
    let done = change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, actor, id).await);
    told("/users", done.map(|()| "The user is deleted.".into()))
}

/// What would happen, as a sentence.
fn told_of(seen: &Offboarding, what: &str) -> String {
    let (going, all) = (seen.devices.iter().filter(|device| device.action != "none").count(), seen.devices.len());
    let named: Vec<String> = seen
        .devices
        .iter()
        .filter(|device| device.action != "none")
        .take(DEVICES_NAMED)
        .map(|device| device.serial.clone().unwrap_or_else(|| device.model.clone()))
        .collect();
    let more = if going > named.len() { ", ..." } else { "" };
    let which = if named.is_empty() { String::new() } else { format!(" ({}{more})", named.join(", ")) };
    format!(
        "{going} of {all} devices{which} {what} at their next contact. Open tasks cancelled: {}. Findings closed: {}.",
        seen.tasks_cancelled, seen.findings_closed
    )
}

async fn switch(app: &App, id: &str, posted: &Posted, enabled: bool) -> Shown {
    let (id, actor) = (parse(id)?, posted.visitor.actor());
    let patch = UserPatch { enabled: Some(enabled), ..UserPatch::default() };
    let done = change!(app, Class::Operators, |conn, moment| ops::change(conn, moment, actor, id, &patch).await);
    told("/users", done.map(|user| format!("{} is {}.", user.email, if enabled { "enabled" } else { "disabled" })))
}

fn parse(id: &str) -> Result<Id, Error> {
    id.parse().map_err(|_| Error::NotFound("user"))
}

async fn named(app: &App, id: &str) -> Result<(Id, String), Error> {
    let id = parse(id)?;
    let row = users::get(&mut app.db.read().await?, id).await?.filter(|row| row.state != "deleted");
    Ok((id, row.ok_or(Error::NotFound("user"))?.email))
}
