//! Jobs.

#[cfg(test)]
mod tests;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::one_of;
use super::tasks::{TaskQuery, listed};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::model::{Id, kind};
use crate::ops::jobs::{self as ops, Job, NewJob};
use crate::ops::tasks::Task;
use crate::store::{Class, jobs};

const STATES: [&str; 6] = ["awaiting_approval", "expanding", "running", "done", "cancelled", "rejected"];

/// Orders something of devices. With `Idempotency-Key` the same body makes the same job for seven days.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", params(("Idempotency-Key" = Option<String>, Header)), request_body = NewJob, responses(
    (status = 202, body = Job), (status = 409, description = "ambiguous_device: several devices have a name of the target; `device_ids` are theirs"),
    (status = 422, description = "invalid, idempotency_mismatch")))]
pub async fn create(
    State(app): State<App>,
    Caller(actor): Caller,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewJob>,
) -> Answer<(StatusCode, Json<Job>)> {
    let key = idempotency_key(&headers)?;
    let seal = &app.seal;
    let job = change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, &actor, &new, key, Some(seal)).await)?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

fn idempotency_key(headers: &HeaderMap) -> Answer<Option<&str>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    // A key that cannot be read must not pass for none: the job would be made twice.
    value.to_str().map(Some).map_err(|_| Error::invalid("Idempotency-Key", "take visible ASCII characters").into())
}

/// Which jobs to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    pub state: Option<String>,
    pub kind: Option<String>,
    pub cursor: Option<String>,
    pub limit: Option<i64>,
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(JobQuery), responses((status = 200, body = List<Job>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<JobQuery>) -> Answer<Json<List<Job>>> {
    let limit = page::limit(query.limit)?;
    let state = one_of("?state", query.state, &STATES)?.unwrap_or_default();
    let kind = one_of("?kind", query.kind, &kind::NAMES)?.unwrap_or_default();
    let before = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let page = List::of(jobs::list(&mut conn, &state, &kind, before, limit + 1).await?, limit, |row| row.id);
    Ok(Json(List { items: ops::views(&mut conn, page.items).await?, next_cursor: page.next_cursor }))
}

/// One job with its counts by state and reason.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)), responses((status = 200, body = Job)))]
pub async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<Job>> {
    let id = parse(&id)?;
    Ok(Json(ops::get(&mut app.db.read().await?, id, Some(&app.callers().names)).await?))
}

/// The tasks of a job, newest first.
#[utoipa::path(get, path = "/api/v1/jobs/{id}/tasks", tag = "jobs", params(("id" = String, Path), TaskQuery), responses((status = 200, body = List<Task>)))]
pub async fn tasks(
    State(app): State<App>,
    _: Caller,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<TaskQuery>,
) -> Answer<Json<List<Task>>> {
    let id = parse(&id)?;
    jobs::get(&mut app.db.read().await?, id).await?.ok_or(Error::NotFound("job"))?;
    listed(&app, query, Some(id), None).await
}

/// Cancels what is open of a job.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 409, description = "job_finished")))]
pub async fn cancel(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Job>> {
    let id = parse(&id)?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::cancel(conn, moment, &actor, id).await)?))
}

/// Orders again what failed, expired or was cancelled.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 202, body = Job), (status = 409, description = "job_expanding, job_cancelling, job_not_approved")))]
pub async fn retry(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<(StatusCode, Json<Job>)> {
    let id = parse(&id)?;
    let job = change!(app, Class::Operators, |conn, moment| ops::retry(conn, moment, &actor, id).await)?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

/// Lets a job go on that waits for a second operator: another person than the one who ordered it, never an API key.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/approve", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 403, description = "second_operator_needed, role_insufficient"), (status = 409, description = "job_not_waiting")))]
pub async fn approve(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Job>> {
    let id = parse(&id)?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::approve(conn, moment, &actor, id).await)?))
}

/// Ends what waits for a second operator.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/reject", tag = "jobs", params(("id" = String, Path)), responses(
    (status = 200, body = Job), (status = 409, description = "job_not_waiting")))]
pub async fn reject(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Job>> {
    let id = parse(&id)?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::reject(conn, moment, &actor, id).await)?))
}

fn parse(id: &str) -> Answer<Id> {
    id.parse().map_err(|_| Error::NotFound("job").into())
}
