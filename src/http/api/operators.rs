//! Operators and API keys.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::users::PageQuery;
use super::webhooks::Named as ById;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::model::{Id, Role};
use crate::ops::operators::{self as ops, MadeKey};
use crate::store::operators::{KeyRow, OperatorRow};
use crate::store::{Class, operators};

/// An operator.
#[derive(Debug, Serialize, ToSchema)]
pub struct Operator {
    pub id: Id,
    pub name: String,
    pub role: String,
    pub enabled: bool,
    pub created_at_ms: i64,
}

impl From<OperatorRow> for Operator {
    fn from(row: OperatorRow) -> Operator {
        Operator { id: row.id, name: row.name, role: row.role, enabled: row.disabled_at_ms.is_none(), created_at_ms: row.created_at_ms }
    }
}

/// A name and a role.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub name: String,
    pub role: Role,
}

/// An operator with a one-time sign-in link.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invited {
    #[serde(flatten)]
    pub operator: Operator,
    /// Signs in once, within 15 minutes.
    pub link: String,
}

/// Adds an operator.
#[utoipa::path(post, path = "/api/v1/operators", tag = "operators", request_body = Named, responses((status = 201, body = Invited)))]
pub async fn create(
    State(app): State<App>,
    Caller(actor): Caller,
    JsonBody(named): JsonBody<Named>,
) -> Answer<(StatusCode, Json<Invited>)> {
    let linked = change!(app, Class::Operators, |conn, moment| ops::link(conn, moment, &actor, &named.name, Some(named.role)).await)?;
    let row = operators::by_name(&mut app.db.read().await?, &linked.name).await?.ok_or(Error::NotFound("operator"))?;
    let link = format!("{}/sign-in/{}", app.config.public_url.trim_end_matches('/'), linked.secret.reveal());
    Ok((StatusCode::CREATED, Json(Invited { operator: row.into(), link })))
}

/// Operators by name, for everybody who may read.
#[utoipa::path(get, path = "/api/v1/operators", tag = "operators", params(PageQuery), responses((status = 200, body = List<Operator>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<Operator>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::decode(query.cursor.as_deref())?;
    let rows = operators::list(&mut app.db.read().await?, after.as_deref().unwrap_or(""), limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.name.clone()).map(Operator::from)))
}

/// Disables an operator and ends all sessions.
#[utoipa::path(delete, path = "/api/v1/operators/{id}", tag = "operators", params(("id" = String, Path)), responses((status = 204)))]
pub async fn delete(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<StatusCode> {
    let id: Id = id.parse().map_err(|_| Error::NotFound("operator"))?;
    change!(app, Class::Operators, |conn, moment| ops::disable(conn, moment, &actor, id).await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Disables the operator that the query names.
#[utoipa::path(delete, path = "/api/v1/operators", tag = "operators", params(ById), responses((status = 204)))]
pub async fn delete_named(State(app): State<App>, caller: Caller, QueryOf(named): QueryOf<ById>) -> Answer<StatusCode> {
    delete(State(app), caller, Path(named.id)).await
}

/// Makes an API key; its value is shown in this answer alone.
#[utoipa::path(post, path = "/api/v1/keys", tag = "operators", request_body = Named, responses((status = 201, body = MadeKey)))]
pub async fn create_key(
    State(app): State<App>,
    Caller(actor): Caller,
    JsonBody(named): JsonBody<Named>,
) -> Answer<(StatusCode, Json<MadeKey>)> {
    let key = change!(app, Class::Operators, |conn, moment| ops::make_key(conn, moment, &actor, &named.name, named.role).await)?;
    Ok((StatusCode::CREATED, Json(key)))
}

/// API keys, oldest first, for everybody who may read; their values are kept nowhere.
#[utoipa::path(get, path = "/api/v1/keys", tag = "operators", params(PageQuery), responses((status = 200, body = List<KeyRow>)))]
pub async fn keys(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<KeyRow>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::decode(query.cursor.as_deref())?;
    let rows = operators::keys(&mut app.db.read().await?, after.as_deref().unwrap_or(""), limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.id)))
}

/// Revokes an API key.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", tag = "operators", params(("id" = String, Path)), responses((status = 204)))]
pub async fn delete_key(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<StatusCode> {
    let id: Id = id.parse().map_err(|_| Error::NotFound("key"))?;
    change!(app, Class::Operators, |conn, moment| ops::revoke_key(conn, moment, &actor, id).await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes the API key that the query names.
#[utoipa::path(delete, path = "/api/v1/keys", tag = "operators", params(ById), responses((status = 204)))]
pub async fn delete_named_key(State(app): State<App>, caller: Caller, QueryOf(named): QueryOf<ById>) -> Answer<StatusCode> {
    delete_key(State(app), caller, Path(named.id)).await
}
