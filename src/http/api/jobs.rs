//! Jobs.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

use super::tasks::{TaskQuery, listed};
use super::users::PageQuery;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::model::Id;
use crate::ops::jobs::{self as ops, Job, NewJob};
use crate::ops::tasks::Task;
use crate::store::{Class, jobs};

/// Orders something of devices. With `Idempotency-Key` the same body makes the same job for seven days.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", params(("Idempotency-Key" = Option<String>, Header)), request_body = NewJob, responses(
    (status = 202, body = Job), (status = 422, description = "invalid, idempotency_mismatch")))]
pub async fn create(
    State(app): State<App>,
    Caller(actor): Caller,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewJob>,
) -> Answer<(StatusCode, Json<Job>)> {
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    let seal = &app.seal;
    let job = change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, &actor, &new, key, Some(seal)).await)?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(PageQuery), responses((status = 200, body = List<Job>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<Job>>> {
    let limit = page::limit(query.limit)?;
    let before: Option<String> = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let rows = List::of(jobs::list(&mut conn, before.as_deref().unwrap_or("~"), limit + 1).await?, limit, |row| row.id);
    let mut items = Vec::with_capacity(rows.items.len());
    for row in rows.items {
        items.push(ops::view(&mut conn, row).await?);
    }
    Ok(Json(List { items, next_cursor: rows.next_cursor }))
}

/// One job with its counts by state and reason.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)), responses((status = 200, body = Job)))]
pub async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<Job>> {
    let id = parse(&id)?;
    Ok(Json(ops::get(&mut app.db.read().await?, id, Some(&app.sender_names())).await?))
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
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)), responses((status = 200, body = Job)))]
pub async fn cancel(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Job>> {
    let id = parse(&id)?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::cancel(conn, moment, &actor, id).await)?))
}

/// Orders again what failed, expired or was cancelled.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", tag = "jobs", params(("id" = String, Path)), responses((status = 202, body = Job)))]
pub async fn retry(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<(StatusCode, Json<Job>)> {
    let id = parse(&id)?;
    let job = change!(app, Class::Operators, |conn, moment| ops::retry(conn, moment, &actor, id).await)?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

fn parse(id: &str) -> Answer<Id> {
    id.parse().map_err(|_| Error::NotFound("job").into())
}
