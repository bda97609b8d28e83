//! Jobs: what an operator ordered in one go, and how far the background has come with them.

use serde::Deserialize;
use sqlx_macros::FromRow;

use super::batch::{ids_sql, parameters, read_sql};
use super::{Conn, Dialect, Sql, keys_json};
use crate::error::Result;
use crate::model::Id;

/// The background makes the job's tasks.
pub const MAKE: &str = "make";
/// The background cancels the job's open tasks.
pub const CANCEL: &str = "cancel";
/// The background orders again what failed, expired or was cancelled.
pub const RETRY: &str = "retry";

/// A job as stored.
#[derive(Clone, Debug, FromRow)]
pub struct JobRow {
    pub id: Id,
    pub kind: String,
    pub params: String,
    pub lane: String,
    /// JSON: `{"devices": [ids]}`, `{"label": id}` or `{"all": true}`; with `"bulk": true` where more than a thousand are aimed at.
    pub selector: String,
    /// `awaiting_approval`, `expanding`, `running`, `done`, `cancelled` or `rejected`.
    pub state: String,
    pub tasks: i64,
    pub unknown_devices: String,
    pub duplicate_devices: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub expires_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    /// [`MAKE`], [`CANCEL`], [`RETRY`] or '' where the background has nothing to do.
    pub walk: String,
    /// When the present walk was ordered.
    pub walk_at_ms: i64,
    /// Where the walk stands: the last device, or the last task, that was looked at.
    pub expand_after: String,
}

/// Stores a new job.
pub async fn insert(conn: &mut Conn, job: &JobRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO job (id, kind, params, lane, selector, state, tasks, unknown_devices, duplicate_devices, created_by, created_at_ms, \
         expires_at_ms, finished_at_ms, walk, walk_at_ms, expand_after) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
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
    .bind(&job.walk)
    .bind(job.walk_at_ms)
    .bind(&job.expand_after)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// One job.
pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM job WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

/// One job, locked: walks, cancelling, ordering again and ending exclude each other. A job's row is locked before any channel.
pub async fn lock(conn: &mut Conn, id: Id) -> Result<Option<JobRow>> {
    let text = match conn.dialect() {
        Dialect::Sqlite => "SELECT * FROM job WHERE id = $1",
        Dialect::Postgres => "SELECT * FROM job WHERE id = $1 FOR UPDATE",
    };
    Ok(sqlx::query_as(text).bind(id).fetch_optional(conn.raw()).await?)
}

/// A page, newest first; '' stands for every state and every kind.
pub async fn list(conn: &mut Conn, state: &str, kind: &str, before: Option<Id>, rows_max: i64) -> Result<Vec<JobRow>> {
    let rows =
        sqlx::query_as("SELECT * FROM job WHERE id < $1 AND ($2 = '' OR state = $2) AND ($3 = '' OR kind = $3) ORDER BY id DESC LIMIT $4")
            .bind(before.map_or_else(|| "~".to_owned(), |id| id.to_string()))
            .bind(state)
            .bind(kind)
            .bind(rows_max)
            .fetch_all(conn.raw())
            .await?;
    Ok(rows)
}

/// Jobs whose tasks are still being made; at most so many are looked at for a device that comes in early.
pub async fn making(conn: &mut Conn) -> Result<Vec<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM job WHERE walk = 'make' ORDER BY id LIMIT 100").fetch_all(conn.raw()).await?)
}

// An urgent order to six hundred phones does not stand behind a message to a million.
macro_rules! next_walk {
    ($lock:literal) => {
        concat!("SELECT * FROM job WHERE walk <> '' ORDER BY CASE WHEN walk = 'cancel' THEN 0 WHEN lane = 'urgent' THEN 1 ELSE 2 END, walk_at_ms, id LIMIT 1", $lock)
    };
}

/// The job whose walk goes on next, locked; one that another process is at is passed over.
pub async fn next_walk(conn: &mut Conn) -> Result<Option<JobRow>> {
    let text = match conn.dialect() {
        Dialect::Sqlite => next_walk!(""),
        Dialect::Postgres => next_walk!(" FOR UPDATE SKIP LOCKED"),
    };
    Ok(sqlx::query_as(text).fetch_optional(conn.raw()).await?)
}

/// Writes where a job stands that the caller has locked: its state, its walk, its count of tasks.
pub async fn put(conn: &mut Conn, job: &JobRow) -> Result<()> {
    sqlx::query("UPDATE job SET state = $2, tasks = $3, finished_at_ms = $4, walk = $5, walk_at_ms = $6, expand_after = $7 WHERE id = $1")
        .bind(job.id)
        .bind(&job.state)
        .bind(job.tasks)
        .bind(job.finished_at_ms)
        .bind(&job.walk)
        .bind(job.walk_at_ms)
        .bind(&job.expand_after)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Moves a job that waits for a second operator on; false where it does not wait any more: of two who decide at once one does.
pub async fn decide(conn: &mut Conn, id: Id, state: &str, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE job SET state = $2, finished_at_ms = CASE WHEN $2 = 'rejected' THEN $3 ELSE finished_at_ms END \
         WHERE id = $1 AND state = 'awaiting_approval'",
    )
    .bind(id)
    .bind(state)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Up to `rows_max` jobs that waited for a second operator until their time was over.
pub async fn waited_in_vain(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<Vec<Id>> {
    let rows =
        sqlx::query_scalar("SELECT id FROM job WHERE state = 'awaiting_approval' AND expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT $2")
            .bind(now_ms)
            .bind(rows_max)
            .fetch_all(conn.raw())
            .await?;
    Ok(rows)
}

/// Names devices whose channel has a task with the command's id already. The caller has made the job, or holds its row.
pub async fn put_duplicates(conn: &mut Conn, id: Id, duplicates: &str) -> Result<()> {
    sqlx::query("UPDATE job SET duplicate_devices = $2 WHERE id = $1").bind(id).bind(duplicates).execute(conn.raw()).await?;
    Ok(())
}

const EVERYBODY: Sql = ids_sql!(
    "SELECT d.id FROM device d WHERE d.id > $1 AND d.created_at_ms <= $2 \
       AND d.state NOT IN ('expected', 'pending_approval', 'unmanaged') ORDER BY d.id LIMIT $3"
);

/// Devices of everybody, after `after` by id, that were made no later than `made_ms`. Announced, parked and unmanaged devices are no
/// part of a set.
pub async fn everybody(conn: &mut Conn, after: &str, made_ms: i64, rows_max: i64) -> Result<Vec<Id>> {
    EVERYBODY.read_column(conn, parameters![after, made_ms, rows_max]).await
}

const LABELLED: Sql = ids_sql!(
    "SELECT m.device_id AS id FROM label_member m JOIN device d ON d.bucket = m.bucket AND d.id = m.device_id \
       WHERE m.label_id = $1 AND m.device_id > $2 AND d.created_at_ms <= $3 \
         AND d.state NOT IN ('expected', 'pending_approval', 'unmanaged') ORDER BY m.device_id LIMIT $4"
);

/// Devices that have a label, after `after` by id, that were made no later than `made_ms`.
pub async fn labelled(conn: &mut Conn, label: Id, after: &str, made_ms: i64, rows_max: i64) -> Result<Vec<Id>> {
    LABELLED.read_column(conn, parameters![label, after, made_ms, rows_max]).await
}

/// How many devices a set has, counted no further than `most`: of a label, or everybody.
pub async fn count(conn: &mut Conn, label: Option<Id>, most: i64) -> Result<i64> {
    let query = match label {
        Some(label) => {
            sqlx::query_scalar("SELECT COUNT(*) FROM (SELECT device_id FROM label_member WHERE label_id = $2 LIMIT $1) AS members")
                .bind(most)
                .bind(label)
        }
        None => sqlx::query_scalar("SELECT COUNT(*) FROM (SELECT id FROM device LIMIT $1) AS devices").bind(most),
    };
    Ok(query.fetch_one(conn.raw()).await?)
}

/// Remembers which job a key made, unless it has made one; answers (body hash, job id) of the one that stands.
pub async fn remember(conn: &mut Conn, new: &Remembered<'_>, now_ms: i64) -> Result<(String, Id)> {
    // One whose time is over gives way; of two at once the second waits for the first and then reads it.
    sqlx::query(
        "INSERT INTO idempotency (actor, key, body_hash, job_id, expires_at_ms) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (actor, key) DO UPDATE SET body_hash = excluded.body_hash, job_id = excluded.job_id, expires_at_ms = excluded.expires_at_ms \
         WHERE idempotency.expires_at_ms <= $6",
    )
    .bind(new.actor)
    .bind(&new.key_hash)
    .bind(&new.body_hash)
    .bind(new.job_id)
    .bind(new.expires_at_ms)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    let row = sqlx::query_as("SELECT body_hash, job_id FROM idempotency WHERE actor = $1 AND key = $2")
        .bind(new.actor)
        .bind(&new.key_hash)
        .fetch_one(conn.raw())
        .await?;
    Ok(row)
}

/// What an Idempotency-Key made.
#[derive(Debug)]
pub struct Remembered<'a> {
    pub actor: &'a str,
    pub key_hash: String,
    pub body_hash: String,
    pub job_id: Id,
    pub expires_at_ms: i64,
}

/// What a task has to know of its device.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct Aim {
    pub device_id: Id,
    /// The agent's channel; none where the device has not activated.
    pub agent_id: Option<Id>,
    /// Apple's own channel; none where the device has not enrolled or has left. Between Authenticate and TokenUpdate it is there: what is
    /// ordered then waits for the push address.
    pub mdm_id: Option<Id>,
    pub platform: String,
    /// `user_enrollment` where a person brought the device along.
    pub management_mode: String,
    pub denied: Option<String>,
}

const AIMS: Sql = read_sql!(
    [d(platform, management_mode, denied); device_id = "d.id", agent_id = "c.id", mdm_id = "m.id"],
    rows(bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id \
     LEFT JOIN channel c ON c.bucket = d.bucket AND c.device_id = d.id AND c.kind = 'agent' AND c.subject = '' \
     LEFT JOIN apple_enrollment e ON e.bucket = d.bucket AND e.device_id = d.id AND e.state <> 'left' \
     LEFT JOIN channel m ON m.bucket = e.bucket AND m.device_id = e.device_id AND m.kind = 'mdm' AND m.subject = ''"
);

const AIMS_OF_USERS: Sql = read_sql!(
    [d(platform, management_mode, denied); device_id = "d.id", agent_id = "CAST(NULL AS TEXT)", mdm_id = "c.id"],
    rows(bucket: bigint, id: text),
    "JOIN channel c ON c.bucket = r.bucket AND c.id = r.id AND c.kind = 'mdm' AND c.subject <> '' \
     JOIN apple_enrollment e ON e.bucket = c.bucket AND e.device_id = c.device_id AND e.state <> 'left' \
     JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id"
);

/// The channels among these that are a user's, each as its device's only one.
pub async fn aims_of_users(conn: &mut Conn, channels: &[Id]) -> Result<Vec<Aim>> {
    let mut aims: Vec<Aim> = AIMS_OF_USERS.read(conn, parameters![keys_json(channels)]).await?;
    aims.sort_by_key(|aim| (aim.mdm_id.map(Id::bucket), aim.mdm_id));
    Ok(aims)
}

impl Aim {
    /// True where nobody is there who could do anything.
    pub fn is_nobody(&self) -> bool {
        self.agent_id.is_none() && self.mdm_id.is_none()
    }
}

/// The devices among these that exist, with their channels.
pub async fn aims(conn: &mut Conn, devices: &[Id]) -> Result<Vec<Aim>> {
    let mut aims: Vec<Aim> = AIMS.read(conn, parameters![keys_json(devices)]).await?;
    aims.sort_by_key(|aim| (aim.device_id.bucket(), aim.device_id));
    Ok(aims)
}
