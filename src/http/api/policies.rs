//! Policies.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::users::PageQuery;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::http::precondition::Conditional;
use crate::ops::policies::{self as ops, Assignments, Convergence, Policy, PolicyInput, Stored, Version};
use crate::store::{Class, policies};

/// How a document is stored.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutQuery {
    /// True only stores the version; nobody gets it.
    #[serde(default)]
    pub draft: bool,
}

/// Stores a new version of a policy and publishes it. An equal document changes nothing and nobody is nudged.
#[utoipa::path(put, path = "/api/v1/policies/{name}", tag = "policies", params(("name" = String, Path), PutQuery, ("If-Match" = Option<String>, Header, description = "the ETag that was read; `*`: the policy exists"), ("If-None-Match" = Option<String>, Header, description = "`*`: the policy does not exist")), request_body = PolicyInput, responses(
    (status = 201, body = Stored), (status = 200, body = Stored, description = "an equal document was there"), (status = 412, description = "precondition_failed: another version is in force")))]
pub async fn put(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<PutQuery>,
    Conditional(asked): Conditional,
    JsonBody(input): JsonBody<PolicyInput>,
) -> Answer<(StatusCode, Json<Stored>)> {
    let draft = query.draft;
    let stored = change!(app, Class::Operators, |conn, moment| ops::put(conn, moment, &actor, &name, &input, draft, Some(&asked)).await)?;
    Ok((if stored.made { StatusCode::CREATED } else { StatusCode::OK }, Json(stored)))
}

/// Policies by name.
#[utoipa::path(get, path = "/api/v1/policies", tag = "policies", params(PageQuery), responses((status = 200, body = List<Policy>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<Policy>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let rows = List::of(policies::list(&mut conn, after.as_deref().unwrap_or(""), limit + 1).await?, limit, |row| row.name.clone());
    let items = ops::views(&mut conn, rows.items).await?;
    Ok(Json(List { items, next_cursor: rows.next_cursor }))
}

/// One policy; its ETag is the version in force.
#[utoipa::path(get, path = "/api/v1/policies/{name}", tag = "policies", params(("name" = String, Path)), responses((status = 200, body = Policy)))]
pub async fn get(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Response> {
    let policy = ops::get(&mut app.db.read().await?, &name).await?;
    Ok((etag(&policy), Json(policy)).into_response())
}

fn etag(policy: &Policy) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{}\"", policy.version.unwrap_or(0)))]
}

/// Deletes a policy; what it gave is taken from its devices.
#[utoipa::path(delete, path = "/api/v1/policies/{name}", tag = "policies", params(("name" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 204), (status = 412, description = "precondition_failed: another version is in force")))]
pub async fn delete(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    Conditional(asked): Conditional,
) -> Answer<StatusCode> {
    let actor = &actor;
    change!(app, Class::Operators, |conn, moment| async {
        ops::demand(conn, actor, &name, &asked).await?;
        ops::delete(conn, moment, actor, &name).await
    }
    .await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// One version.
#[utoipa::path(get, path = "/api/v1/policies/{name}/versions/{n}", tag = "policies", params(("name" = String, Path), ("n" = i64, Path)), responses((status = 200, body = Version)))]
pub async fn version(State(app): State<App>, _: Caller, Path((name, n)): Path<(String, String)>) -> Answer<Json<Version>> {
    let n = n.parse().map_err(|_| Error::NotFound("version of this policy"))?;
    Ok(Json(ops::version(&mut app.db.read().await?, &name, n).await?))
}

/// The assignments of a policy, strongest first; their ETag is the policy's.
#[utoipa::path(get, path = "/api/v1/policies/{name}/assignments", tag = "policies", params(("name" = String, Path)), responses((status = 200, body = Assignments)))]
pub async fn assignments(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Response> {
    let policy = ops::get(&mut app.db.read().await?, &name).await?;
    Ok((etag(&policy), Json(Assignments { assignments: policy.assignments })).into_response())
}

/// Replaces the assignments of a policy.
#[utoipa::path(put, path = "/api/v1/policies/{name}/assignments", tag = "policies", params(("name" = String, Path), ("If-Match" = Option<String>, Header)), request_body = Assignments, responses((status = 200, body = Assignments), (status = 412, description = "precondition_failed: another version is in force")))]
pub async fn assign(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    Conditional(asked): Conditional,
    JsonBody(input): JsonBody<Assignments>,
) -> Answer<Json<Assignments>> {
    let actor = &actor;
    let assigned = change!(app, Class::Operators, |conn, moment| async {
        ops::demand(conn, actor, &name, &asked).await?;
        ops::assign(conn, moment, actor, &name, &input).await
    }
    .await)?;
    Ok(Json(assigned))
}

/// How far the recent versions have come.
#[utoipa::path(get, path = "/api/v1/policies/{name}/convergence", tag = "policies", params(("name" = String, Path)), responses((status = 200, body = Convergence)))]
pub async fn convergence(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Json<Convergence>> {
    Ok(Json(ops::convergence(&mut app.db.read().await?, &name).await?))
}
