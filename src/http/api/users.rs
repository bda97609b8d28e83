//! Users.

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
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::model::{Actor, Id};
use crate::ops::users::offboarding::{self, Offboarding, Way};
use crate::ops::users::{self as ops, NewUser, User, UserPatch};
use crate::store::{Class, users};

/// A page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Items, 1 to 1000; 100 unless given.
    pub limit: Option<i64>,
}

/// Makes a user.
#[utoipa::path(post, path = "/api/v1/users", tag = "users", request_body = NewUser, responses((status = 201, body = User), (status = 409, description = "email_taken")))]
pub async fn create(State(app): State<App>, Caller(actor): Caller, JsonBody(new): JsonBody<NewUser>) -> Answer<(StatusCode, Json<User>)> {
    let user = change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, &actor, &new).await)?;
    Ok((StatusCode::CREATED, Json(user)))
}

/// Users by e-mail address.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", params(PageQuery), responses((status = 200, body = List<User>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<User>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::decode(query.cursor.as_deref())?;
    let rows = users::list(&mut app.db.read().await?, after.as_deref().unwrap_or(""), limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.email.clone()).map(User::from)))
}

/// One user.
#[utoipa::path(get, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)), responses((status = 200, body = User), (status = 404)))]
pub async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<User>> {
    let row = users::get(&mut app.db.read().await?, parse(&id)?).await?;
    Ok(Json(row.filter(|row| row.state != "deleted").ok_or(Error::NotFound("user"))?.into()))
}

/// Changes a user; disabling one signs its devices out.
#[utoipa::path(patch, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)), request_body = UserPatch, responses((status = 200, body = User)))]
pub async fn patch(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    JsonBody(patch): JsonBody<UserPatch>,
) -> Answer<Json<User>> {
    let id = parse(&id)?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::change(conn, moment, &actor, id, &patch).await)?))
}

/// Deletes a user: its devices delete the app's data.
#[utoipa::path(delete, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)), responses((status = 204)))]
pub async fn delete(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<StatusCode> {
    let id = parse(&id)?;
    change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, &actor, id).await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which way of going is looked at.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WayQuery {
    /// `delete`, unless `disable` is asked for.
    way: Option<String>,
}

/// What would happen to devices, tasks and findings if the user were deleted or disabled. Nothing happens.
#[utoipa::path(get, path = "/api/v1/users/{id}/offboarding", tag = "users", params(("id" = String, Path), WayQuery), responses((status = 200, body = Offboarding), (status = 404)))]
pub async fn get_offboarding(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<WayQuery>,
) -> Answer<Json<Offboarding>> {
    let way = one_of("?way", query.way, &["disable", "delete"])?;
    let way = if way.as_deref() == Some("disable") { Way::Disable } else { Way::Delete };
    Ok(Json(preview(&app, &actor, parse(&id)?, way).await?))
}

/// Lets a user go in a transaction that is undone.
pub async fn preview(app: &App, actor: &Actor, id: Id, way: Way) -> Result<Offboarding, Error> {
    let mut change = app.begin(Class::Operators).await?;
    let (conn, moment) = change.parts();
    let seen = offboarding::preview(conn, moment, actor, id, way).await;
    change.undo().await?;
    seen
}

fn parse(id: &str) -> Answer<Id> {
    id.parse().map_err(|_| Error::NotFound("user").into())
}
