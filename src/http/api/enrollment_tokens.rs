//! Enrollment tokens.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::users::PageQuery;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{self, JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::model::Id;
use crate::ops::tokens::{self as ops, NewToken, Token};
use crate::store::{Class, tokens};

/// Makes a token; its value is shown in this answer alone.
#[utoipa::path(post, path = "/api/v1/enrollment-tokens", tag = "enrollment", request_body = NewToken, responses((status = 201, body = Token)))]
pub async fn create(State(app): State<App>, Caller(actor): Caller, JsonBody(new): JsonBody<NewToken>) -> Answer<(StatusCode, Json<Token>)> {
    let token = change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, &actor, &new).await)?;
    Ok((StatusCode::CREATED, Json(token)))
}

/// Tokens, oldest first.
#[utoipa::path(get, path = "/api/v1/enrollment-tokens", tag = "enrollment", params(PageQuery), responses((status = 200, body = List<Token>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<Token>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let rows = tokens::list(&mut conn, after.as_deref().unwrap_or(""), limit + 1).await?;
    let rows = List::of(rows, limit, |row| row.id.to_string());
    let items = ops::views(&mut conn, rows.items, app.clock.now_ms()).await?;
    Ok(Json(List { items, next_cursor: rows.next_cursor }))
}

/// One token with the devices it admitted.
#[utoipa::path(get, path = "/api/v1/enrollment-tokens/{id}", tag = "enrollment", params(("id" = String, Path)), responses((status = 200, body = Token)))]
pub async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<Token>> {
    let id = parse(&id)?;
    Ok(Json(ops::get(&mut app.db.read().await?, id, app.clock.now_ms()).await?))
}

/// What else a revocation does.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Also quarantines every device that the token admitted since.
    #[serde(default)]
    pub quarantine_since_ms: Option<i64>,
}

/// Ends a token. Devices that it admitted stay signed in unless they are quarantined.
#[utoipa::path(post, path = "/api/v1/enrollment-tokens/{id}/revoke", tag = "enrollment", params(("id" = String, Path)), request_body = Revocation, responses((status = 200, body = Token)))]
pub async fn revoke(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>, request: Request) -> Answer<Json<Token>> {
    let id = parse(&id)?;
    let body = extract::body(request, extract::BODY_BYTES_MAX).await?;
    let revocation: Revocation = if body.is_empty() { Revocation::default() } else { extract::parse(&body)? };
    let since = revocation.quarantine_since_ms;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::revoke(conn, moment, &actor, id, since).await)?))
}

fn parse(id: &str) -> Answer<Id> {
    id.parse().map_err(|_| Error::NotFound("enrollment token").into())
}
