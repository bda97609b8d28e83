//! Tasks.

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
use crate::model::{Id, kind};
use crate::ops::tasks::{self as ops, Task};
use crate::store::tasks::{self, Filter};
use crate::store::{Class, devices};

/// Which tasks to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    pub state: Option<String>,
    /// Why open tasks wait.
    pub reason: Option<String>,
    pub kind: Option<String>,
    /// Id, serial number or UDID.
    pub device: Option<String>,
    pub cursor: Option<String>,
    pub limit: Option<i64>,
}

/// Tasks, newest first.
#[utoipa::path(get, path = "/api/v1/tasks", tag = "tasks", params(TaskQuery), responses((status = 200, body = List<Task>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<TaskQuery>) -> Answer<Json<List<Task>>> {
    let device = match &query.device {
        Some(name) => Some(devices::resolve(&mut app.db.read().await?, name).await?),
        None => None,
    };
    listed(&app, query, None, device).await
}

/// One page of tasks: of a job, of a device, or of all.
pub async fn listed(app: &App, query: TaskQuery, job: Option<Id>, device: Option<Id>) -> Answer<Json<List<Task>>> {
    let limit = page::limit(query.limit)?;
    let filter = Filter {
        job,
        device,
        state: one_of("?state", query.state, &kind::STATES)?,
        reason: one_of("?reason", query.reason, &tasks::REASONS)?,
        kind: one_of("?kind", query.kind, &kind::NAMES)?,
        before: page::decode(query.cursor.as_deref())?,
    };
    let rows = tasks::list(&mut app.db.read().await?, &filter, &app.callers(), limit + 1).await?;
    let now_ms = app.clock.now_ms();
    Ok(Json(List::of(rows, limit, |row| row.id).map(|row| Task::of(row, now_ms))))
}

/// One task.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "tasks", params(("id" = String, Path)), responses((status = 200, body = Task)))]
pub async fn get(State(app): State<App>, _: Caller, Path(id): Path<String>) -> Answer<Json<Task>> {
    let moment = app.clock.moment();
    Ok(Json(ops::get(&mut app.db.read().await?, &moment, parse(&id)?, &app.callers()).await?))
}

/// Cancels a task; one that was delivered may be carried out all the same.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/cancel", tag = "tasks", params(("id" = String, Path)), responses((status = 200, body = Task), (status = 409, description = "task_finished")))]
pub async fn cancel(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Task>> {
    let (id, callers) = (parse(&id)?, app.callers());
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::cancel(conn, moment, &actor, id, &callers).await)?))
}

/// Orders a task again that failed, expired or was cancelled; the answer is the new task.
#[utoipa::path(post, path = "/api/v1/tasks/{id}/retry", tag = "tasks", params(("id" = String, Path)), responses((status = 201, body = Task), (status = 409, description = "task_not_retryable, task_retried")))]
pub async fn retry(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<(StatusCode, Json<Task>)> {
    let (id, callers) = (parse(&id)?, app.callers());
    let task = change!(app, Class::Operators, |conn, moment| ops::retry(conn, moment, &actor, id, &callers).await)?;
    Ok((StatusCode::CREATED, Json(task)))
}

fn parse(id: &str) -> Answer<Id> {
    id.parse().map_err(|_| Error::NotFound("task").into())
}
