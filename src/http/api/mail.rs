//! Mail that the server sends: what became of it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::one_of;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::QueryOf;
use crate::http::page::{self, List};
use crate::model::Id;
use crate::ops::mail::{self as ops, Mail, Outbox};
use crate::store::{Class, mail};

/// The outbox of this server.
pub(crate) fn outbox(app: &App) -> Outbox<'_> {
    Outbox { seal: &app.seal, is_set_up: app.config.mail.is_set_up(), public_url: &app.config.public_url }
}

/// The states of a mail.
pub(crate) const STATES: [&str; 3] = ["queued", "sent", "failed"];

/// Which mail to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MailQuery {
    /// `queued`, `sent` or `failed`.
    state: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// Mail, newest first.
#[utoipa::path(get, path = "/api/v1/mail", tag = "server", params(MailQuery), responses((status = 200, body = List<Mail>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<MailQuery>) -> Answer<Json<List<Mail>>> {
    let limit = page::limit(query.limit)?;
    let state = one_of("?state", query.state, &STATES)?.unwrap_or_default();
    let before = page::decode(query.cursor.as_deref())?;
    let rows = mail::list(&mut app.db.read().await?, &state, before, limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.id).map(Mail::from)))
}

/// One mail.
#[utoipa::path(get, path = "/api/v1/mail/{id}", tag = "server", params(("id" = String, Path)), responses((status = 200, body = Mail)))]
pub async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<Mail>> {
    let row = mail::get(&mut app.db.read().await?, parse(&id, "mail")?).await?;
    Ok(Json(row.ok_or(Error::NotFound("mail"))?.into()))
}

/// Sends a mail again that failed.
#[utoipa::path(post, path = "/api/v1/mail/{id}/resend", tag = "server", params(("id" = String, Path)), responses(
    (status = 202, body = Mail), (status = 409, description = "mail_not_failed")))]
pub async fn resend(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<(StatusCode, Json<Mail>)> {
    let id = parse(&id, "mail")?;
    let mail = change!(app, Class::Operators, |conn, moment| ops::again(conn, moment, &actor, id).await)?;
    app.bells.mail.notify_one();
    Ok((StatusCode::ACCEPTED, Json(mail)))
}

/// Sends a user the mail with an enrollment link; asked again, another one.
#[utoipa::path(post, path = "/api/v1/users/{id}/activation", tag = "users", params(("id" = String, Path)), responses(
    (status = 202, body = Mail), (status = 409, description = "mail_unconfigured, user_not_enabled")))]
pub async fn activate(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<(StatusCode, Json<Mail>)> {
    let (id, outbox) = (parse(&id, "user")?, outbox(&app));
    let mail = change!(app, Class::Operators, |conn, moment| ops::activate(conn, moment, &actor, outbox, id).await)?;
    app.bells.mail.notify_one();
    Ok((StatusCode::ACCEPTED, Json(mail)))
}

/// What became of the last activation mail of a user.
#[utoipa::path(get, path = "/api/v1/users/{id}/activation", tag = "users", params(("id" = String, Path)), responses((status = 200, body = Mail)))]
pub async fn activation(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<Mail>> {
    let id = parse(&id, "user")?;
    let row = mail::newest(&mut app.db.read().await?, "activation", &id.to_string()).await?;
    Ok(Json(row.ok_or(Error::NotFound("activation mail of this user"))?.into()))
}

fn parse(id: &str, what: &'static str) -> Answer<Id> {
    id.parse().map_err(|_| Error::NotFound(what).into())
}
