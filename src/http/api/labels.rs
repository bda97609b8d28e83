//! Labels.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::users::PageQuery;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::http::precondition::Conditional;
use crate::model::{Actor, Id};
use crate::ops::devices::{self as device_ops, Device};
use crate::ops::labels::{self as ops, Given, Label, LabelInput, Membership};
use crate::store::{Class, labels};

/// Devices by id, serial number or UDID.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Members {
    pub devices: Vec<String>,
}

/// Makes a label, or describes it.
#[utoipa::path(put, path = "/api/v1/labels/{name}", tag = "labels", params(("name" = String, Path), ("If-None-Match" = Option<String>, Header, description = "`*`: the label does not exist")), request_body = LabelInput, responses((status = 201, body = Label), (status = 200, body = Label), (status = 412, description = "precondition_failed")))]
pub async fn put(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    Conditional(asked): Conditional,
    JsonBody(input): JsonBody<LabelInput>,
) -> Answer<(StatusCode, Json<Label>)> {
    let actor = &actor;
    let (label, made) = change!(app, Class::Operators, |conn, moment| async {
        let (label, made) = ops::put(conn, moment, actor, &name, &input).await?;
        // Whether it was there is known for certain once it is written; a refusal undoes that.
        if asked.holds(!made, None) { Ok((label, made)) } else { Err(unlike(made)) }
    }
    .await)?;
    Ok((if made { StatusCode::CREATED } else { StatusCode::OK }, Json(label)))
}

fn unlike(is_absent: bool) -> Error {
    Error::refused("precondition_failed", if is_absent { "there is no such label" } else { "this label is there already" })
}

/// Labels by name.
#[utoipa::path(get, path = "/api/v1/labels", tag = "labels", params(PageQuery), responses((status = 200, body = List<Label>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<Label>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let rows = List::of(labels::list(&mut conn, after.as_deref().unwrap_or(""), limit + 1).await?, limit, |row| row.name.clone());
    Ok(Json(List { items: ops::views(&mut conn, rows.items).await?, next_cursor: rows.next_cursor }))
}

/// One label.
#[utoipa::path(get, path = "/api/v1/labels/{name}", tag = "labels", params(("name" = String, Path)), responses((status = 200, body = Label)))]
pub async fn get(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Json<Label>> {
    Ok(Json(ops::get(&mut app.db.read().await?, &name).await?))
}

/// Deletes a label; what it gave is taken from its devices.
#[utoipa::path(delete, path = "/api/v1/labels/{name}", tag = "labels", params(("name" = String, Path)), responses((status = 204)))]
pub async fn delete(State(app): State<App>, Caller(actor): Caller, Path(name): Path<String>) -> Answer<StatusCode> {
    change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, &actor, &name).await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The devices that have a label.
#[utoipa::path(get, path = "/api/v1/labels/{name}/devices", tag = "labels", params(("name" = String, Path), PageQuery), responses((status = 200, body = List<Device>)))]
pub async fn devices(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Answer<Json<List<Device>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<Id> = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let label = labels::by_name(&mut conn, &name).await?.ok_or(Error::NotFound("label"))?;
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let found = List::of(labels::devices(&mut conn, label.id, &after, limit + 1).await?, limit, |id| *id);
    let items = device_ops::views(&mut conn, &found.items).await?;
    Ok(Json(List { items, next_cursor: found.next_cursor }))
}

/// Gives the label to exactly these devices.
#[utoipa::path(put, path = "/api/v1/labels/{name}/devices", tag = "labels", params(("name" = String, Path)), request_body = Members, responses(
    (status = 204), (status = 200, body = Given, description = "some names stand for no device, or for several; the rest is done")))]
pub async fn replace(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    JsonBody(members): JsonBody<Members>,
) -> Answer<Response> {
    membership(&app, &actor, &name, Membership::Replace, &members).await
}

/// Gives the label to these devices as well.
#[utoipa::path(post, path = "/api/v1/labels/{name}/devices", tag = "labels", params(("name" = String, Path)), request_body = Members, responses(
    (status = 204), (status = 200, body = Given, description = "some names stand for no device, or for several; the rest is done")))]
pub async fn add(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    JsonBody(members): JsonBody<Members>,
) -> Answer<Response> {
    membership(&app, &actor, &name, Membership::Add, &members).await
}

/// Takes the label from these devices.
#[utoipa::path(delete, path = "/api/v1/labels/{name}/devices", tag = "labels", params(("name" = String, Path)), request_body = Members, responses(
    (status = 204), (status = 200, body = Given, description = "some names stand for no device, or for several; the rest is done")))]
pub async fn remove(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    JsonBody(members): JsonBody<Members>,
) -> Answer<Response> {
    membership(&app, &actor, &name, Membership::Remove, &members).await
}

async fn membership(app: &App, actor: &Actor, name: &str, how: Membership, members: &Members) -> Answer<Response> {
    let given = change!(app, Class::Operators, |conn, moment| ops::change(conn, moment, actor, name, how, &members.devices).await)?;
    if given.unknown_devices.is_empty() && given.ambiguous_devices.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(given).into_response())
}
