//! Tasks: what each device shall do once.

mod intake;
mod list;

pub use intake::{Applied, Key, OpenTask, TaskChange, TaskRow, apply, find, open_for};
pub use list::{Filter, TaskView, get, list, of_job, reasons};

use serde::Serialize;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::Result;
use crate::model::Id;

/// A task to be stored.
#[derive(Clone, Debug, Serialize)]
pub struct NewTask {
    pub bucket: i64,
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub kind: String,
    pub lane: i64,
    pub state: String,
    pub attempt: i64,
    pub created_at_ms: i64,
    pub expires_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    pub error: Option<String>,
}

const INSERT: Sql = rows_sql!(
    "INSERT INTO task (bucket, id, job_id, device_id, channel_id, kind, lane, state, attempt, created_at_ms, expires_at_ms, state_since_ms, \
       finished_at_ms, error) \
     SELECT r.bucket, r.id, r.job_id, r.device_id, r.channel_id, r.kind, r.lane, r.state, r.attempt, r.created_at_ms, r.expires_at_ms, \
       $2, r.finished_at_ms, r.error FROM ",
    rows(bucket: bigint, id: text, job_id: text, device_id: text, channel_id: text, kind: text, lane: bigint, state: text, attempt: bigint,
         created_at_ms: bigint, expires_at_ms: bigint, finished_at_ms: bigint, error: text),
    "WHERE r.bucket >= 0 ON CONFLICT (bucket, id) DO NOTHING RETURNING id"
);

/// Stores tasks; answers the ids of those that were not there yet.
pub async fn insert(conn: &mut Conn, tasks: &[NewTask], now_ms: i64) -> Result<Vec<Id>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(INSERT.on(conn.dialect())).bind(rows_json(tasks)).bind(now_ms).fetch_all(conn.raw()).await?)
}

/// What ended a task outside the intake.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Ended {
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    /// The state it had.
    pub was: String,
}

/// Ends up to `limit` open tasks whose time is over.
pub async fn expire(conn: &mut Conn, now_ms: i64, limit: i64) -> Result<Vec<Ended>> {
    let due: Vec<Ended> = sqlx::query_as(
        "SELECT id, job_id, device_id, channel_id, state AS was FROM task WHERE finished_at_ms IS NULL AND expires_at_ms <= $1 LIMIT $2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?;
    let endings: Vec<Ending> = due.into_iter().map(|ended| Ending { ended, state: "expired", error: None }).collect();
    end(conn, endings, now_ms).await
}

/// A task and what it ends as.
#[derive(Clone, Debug)]
pub struct Ending {
    pub ended: Ended,
    pub state: &'static str,
    /// JSON text of {code, message, chain}.
    pub error: Option<String>,
}

#[derive(Serialize)]
struct EndRow<'a> {
    bucket: i64,
    id: Id,
    was: &'a str,
    state: &'a str,
    error: Option<&'a str>,
    final_at_ms: Option<i64>,
}

const END: Sql = rows_sql!(
    "UPDATE task AS t SET state = r.state, state_since_ms = $2, finished_at_ms = r.final_at_ms, \
       error = CASE WHEN r.error IS NULL THEN t.error ELSE r.error END FROM ",
    rows(bucket: bigint, id: text, was: text, state: text, error: text, final_at_ms: bigint),
    "WHERE ($3 < 0 OR t.bucket = $3) AND t.bucket = r.bucket AND t.id = r.id AND t.finished_at_ms IS NULL AND t.state = r.was RETURNING t.id"
);
const END_SQLITE: &str = "UPDATE task AS t SET state = r.state, state_since_ms = $2, finished_at_ms = r.final_at_ms, \
       error = CASE WHEN r.error IS NULL THEN t.error ELSE r.error END \
     FROM (SELECT value->>'bucket' AS bucket, value->>'id' AS id, value->>'was' AS was, value->>'state' AS state, value->>'error' AS error, \
       value->>'final_at_ms' AS final_at_ms FROM json_each($1)) AS r \
     WHERE ($3 < 0 OR t.bucket = $3) AND t.bucket = r.bucket AND t.id = r.id AND t.finished_at_ms IS NULL AND t.state = r.was RETURNING id";

/// Ends tasks that are still in the state they were seen in; answers those that were. `awaiting_approval` stays open.
pub async fn end(conn: &mut Conn, endings: Vec<Ending>, now_ms: i64) -> Result<Vec<Ended>> {
    if endings.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<EndRow<'_>> = endings
        .iter()
        .map(|ending| EndRow {
            bucket: ending.ended.id.bucket(),
            id: ending.ended.id,
            was: &ending.ended.was,
            state: ending.state,
            error: ending.error.as_deref(),
            final_at_ms: (ending.state != "awaiting_approval").then_some(now_ms),
        })
        .collect();
    rows.sort_by_key(|row| (row.bucket, row.id));
    let text = match conn.dialect() {
        super::Dialect::Sqlite => END_SQLITE,
        super::Dialect::Postgres => END.postgres,
    };
    let done: Vec<Id> = sqlx::query_scalar(text).bind(rows_json(&rows)).bind(now_ms).bind(-1_i64).fetch_all(conn.raw()).await?;
    let done: std::collections::HashSet<Id> = done.into_iter().collect();
    Ok(endings.into_iter().map(|ending| ending.ended).filter(|ended| done.contains(&ended.id)).collect())
}

#[derive(Serialize)]
struct ChannelKey {
    id: Id,
}

const OPEN_OF: Sql = rows_sql!(
    "SELECT t.id, t.job_id, t.device_id, t.channel_id, t.state AS was, t.kind FROM ",
    rows(id: text),
    "JOIN task t ON t.channel_id = r.id WHERE t.finished_at_ms IS NULL"
);

/// All open tasks of channels, with their kinds.
pub async fn open_of(conn: &mut Conn, channels: &[Id]) -> Result<Vec<(Ended, String)>> {
    let rows: Vec<ChannelKey> = channels.iter().map(|id| ChannelKey { id: *id }).collect();
    let found: Vec<(Id, Id, Id, Id, String, String)> =
        sqlx::query_as(OPEN_OF.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?;
    let ended = |(id, job_id, device_id, channel_id, was, kind)| (Ended { id, job_id, device_id, channel_id, was }, kind);
    Ok(found.into_iter().map(ended).collect())
}

/// Notes that a task was ordered again.
pub async fn retried(conn: &mut Conn, id: Id, by: Id) -> Result<bool> {
    let done =
        sqlx::query("UPDATE task SET retried_by = $3 WHERE bucket = $1 AND id = $2 AND finished_at_ms IS NOT NULL AND retried_by IS NULL")
            .bind(id.bucket())
            .bind(id)
            .bind(by)
            .execute(conn.raw())
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets up to `limit` tasks that ended before `before_ms`.
pub async fn forget(conn: &mut Conn, before_ms: i64, limit: i64) -> Result<u64> {
    let done = sqlx::query("DELETE FROM task WHERE (bucket, id) IN (SELECT bucket, id FROM task WHERE finished_at_ms < $1 LIMIT $2)")
        .bind(before_ms)
        .bind(limit)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected())
}

/// Up to `limit` open tasks of a job.
pub async fn open_of_job(conn: &mut Conn, job: Id, limit: i64) -> Result<Vec<Ended>> {
    Ok(sqlx::query_as(
        "SELECT id, job_id, device_id, channel_id, state AS was FROM task WHERE job_id = $1 AND finished_at_ms IS NULL ORDER BY id LIMIT $2",
    )
    .bind(job)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?)
}
