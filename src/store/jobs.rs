//! Jobs: what an operator ordered in one go.

use sqlx::FromRow;

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// A job as stored.
#[derive(Clone, Debug, FromRow)]
pub struct JobRow {
    pub id: Id,
    pub kind: String,
    pub params: String,
    pub lane: String,
    /// JSON: {"devices": [ids]}, {"label": id} or {"all": true}.
    pub selector: String,
    /// `expanding`, `running`, `done`, `cancelled`...
    pub state: String,
    pub tasks: i64,
    pub unknown_devices: String,
    pub duplicate_devices: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub expires_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    /// Where its expansion stands: the last device that was looked at.
    pub expand_bucket: i64,
    pub expand_after: String,
}

pub async fn insert(conn: &mut Conn, job: &JobRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO job (id, kind, params, lane, selector, state, tasks, unknown_devices, duplicate_devices, created_by, created_at_ms, \
         expires_at_ms, finished_at_ms, expand_bucket, expand_after) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(job.id)
    .bind(&job.kind)
    .bind(&job.params)
    .bind(&job.lane)
    .bind(&job.selector)
    .bind(&job.state)
    .bind(job.tasks)
    .bind(&job.unknown_devices)
    .bind(&job.duplicate_devices)
    .bind(&job.created_by)
    .bind(job.created_at_ms)
    .bind(job.expires_at_ms)
    .bind(job.finished_at_ms)
    .bind(job.expand_bucket)
    .bind(&job.expand_after)
    .execute(conn.raw())
    .await?;
    Ok(())
}

pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM job WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

/// A page, newest first.
pub async fn list(conn: &mut Conn, before: &str, limit: i64) -> Result<Vec<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM job WHERE id < $1 ORDER BY id DESC LIMIT $2").bind(before).bind(limit).fetch_all(conn.raw()).await?)
}

/// Jobs whose tasks are still being made.
pub async fn expanding(conn: &mut Conn) -> Result<Vec<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM job WHERE state = 'expanding' ORDER BY id LIMIT 100").fetch_all(conn.raw()).await?)
}

/// Notes how far the expansion has come; false where the job was cancelled meanwhile.
pub async fn expanded(conn: &mut Conn, id: Id, bucket: i64, after: &str, made: i64, state: &str) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE job SET expand_bucket = $2, expand_after = $3, tasks = tasks + $4, state = $5 WHERE id = $1 AND state = 'expanding'",
    )
    .bind(id)
    .bind(bucket)
    .bind(after)
    .bind(made)
    .bind(state)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Counts tasks that were made beside the expansion.
pub async fn add_tasks(conn: &mut Conn, id: Id, made: i64) -> Result<()> {
    sqlx::query("UPDATE job SET tasks = tasks + $2 WHERE id = $1").bind(id).bind(made).execute(conn.raw()).await?;
    Ok(())
}

/// Moves a job from one of two states; false where it was in neither.
pub async fn set_state(conn: &mut Conn, id: Id, state: &str, finished_at_ms: Option<i64>) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE job SET state = $2, finished_at_ms = $3 WHERE id = $1 AND state <> $2 AND state NOT IN ('cancelled', 'rejected')",
    )
    .bind(id)
    .bind(state)
    .bind(finished_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The devices that a large job aims at, after (bucket, id): those with the label, or all; none made after the job.
pub async fn targets(conn: &mut Conn, job: &JobRow, label: Option<Id>, limit: i64) -> Result<Vec<Id>> {
    const ALL: &str = "SELECT d.id FROM device d WHERE (d.bucket > $1 OR (d.bucket = $1 AND d.id > $2)) AND d.created_at_ms <= $3 AND $4 = '' \
         AND d.state NOT IN ('expected', 'pending_approval') ORDER BY d.bucket, d.id LIMIT $5";
    const LABEL: &str = "SELECT d.id FROM label_member m JOIN device d ON d.bucket = m.bucket AND d.id = m.device_id \
         WHERE m.label_id = $4 AND (d.bucket > $1 OR (d.bucket = $1 AND d.id > $2)) AND d.created_at_ms <= $3 \
         AND d.state NOT IN ('expected', 'pending_approval') ORDER BY d.bucket, d.id LIMIT $5";
    Ok(sqlx::query_scalar(if label.is_some() { LABEL } else { ALL })
        .bind(job.expand_bucket)
        .bind(&job.expand_after)
        .bind(job.created_at_ms)
        .bind(label.map(|id| id.to_string()).unwrap_or_default())
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// Remembers which job a key made, unless it has made one; answers (body hash, job id) of the one that stands.
pub async fn remember(
    conn: &mut Conn,
    actor: &str,
    key: &str,
    body_hash: &str,
    job: Id,
    expires_at_ms: i64,
    now_ms: i64,
) -> Result<(String, Id)> {
    sqlx::query("DELETE FROM idempotency WHERE actor = $1 AND key = $2 AND expires_at_ms <= $3")
        .bind(actor)
        .bind(key)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    sqlx::query("INSERT INTO idempotency (actor, key, body_hash, job_id, expires_at_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (actor, key) DO NOTHING")
        .bind(actor)
        .bind(key)
        .bind(body_hash)
        .bind(job)
        .bind(expires_at_ms)
        .execute(conn.raw())
        .await?;
    Ok(sqlx::query_as("SELECT body_hash, job_id FROM idempotency WHERE actor = $1 AND key = $2")
        .bind(actor)
        .bind(key)
        .fetch_one(conn.raw())
        .await?)
}

/// What a task's channel has to be for a device.
#[derive(Clone, Debug, FromRow)]
pub struct Aim {
    pub device_id: Id,
    pub channel_id: Option<Id>,
    pub platform: String,
    pub denied: Option<String>,
}

/// The agent channels of devices.
pub async fn aims(conn: &mut Conn, devices: &[Id]) -> Result<Vec<Aim>> {
    #[derive(serde::Serialize)]
    struct Key {
        bucket: i64,
        id: Id,
    }
    const AIMS: super::Sql = super::batch::rows_sql!(
        "SELECT d.id AS device_id, c.id AS channel_id, d.platform, d.denied FROM ",
        rows(bucket: bigint, id: text),
        "JOIN device d ON d.bucket = r.bucket AND d.id = r.id \
         LEFT JOIN channel c ON c.bucket = d.bucket AND c.device_id = d.id AND c.kind = 'agent' AND c.subject = '' ORDER BY d.bucket, d.id"
    );
    let rows: Vec<Key> = devices.iter().map(|id| Key { bucket: id.bucket(), id: *id }).collect();
    Ok(sqlx::query_as(AIMS.on(conn.dialect())).bind(super::rows_json(&rows)).fetch_all(conn.raw()).await?)
}

/// A job that was done has open tasks again.
pub async fn reopen(conn: &mut Conn, id: Id) -> Result<()> {
    sqlx::query("UPDATE job SET state = 'running', finished_at_ms = NULL WHERE id = $1 AND state IN ('done', 'cancelled')")
        .bind(id)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Cancelled jobs that still have open tasks.
pub async fn cancelled_with_open(conn: &mut Conn) -> Result<Vec<Id>> {
    Ok(sqlx::query_scalar(
        "SELECT j.id FROM job j WHERE j.state = 'cancelled' AND EXISTS \
         (SELECT 1 FROM task t WHERE t.job_id = j.id AND t.finished_at_ms IS NULL) ORDER BY j.id LIMIT 10",
    )
    .fetch_all(conn.raw())
    .await?)
}
