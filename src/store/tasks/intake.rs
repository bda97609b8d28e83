//! Tasks as contacts meet them: many channels in one statement.

use serde::{Deserialize, Serialize};
use sqlx_macros::FromRow;

use super::lock;
use crate::error::Result;
use crate::model::Id;
use crate::store::batch::{parameters, read_sql, rows_sql};
use crate::store::{Conn, Sql, rows_json};

/// A channel.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Key {
    pub id: Id,
    /// How many tasks are wanted at most.
    pub most: i64,
}

/// An open task with what its delivery needs.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct OpenTask {
    pub id: Id,
    pub channel_id: Id,
    pub job_id: Id,
    pub kind: String,
    pub lane: i64,
    pub state: String,
    pub attempt: i64,
    pub expires_at_ms: i64,
    pub delivered_at_ms: Option<i64>,
    pub progressed_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    /// The job's parameters, JSON text.
    pub params: String,
    /// What has come of it so far, JSON text.
    pub progress: Option<String>,
    /// An Apple command's own id, where the operator chose it.
    pub command_uuid: Option<String>,
}

const OPEN: Sql = Sql {
    sqlite: "SELECT json_group_array(json_object('id', id, 'channel_id', channel_id, 'job_id', job_id, 'kind', kind, 'lane', lane, \
       'state', state, 'attempt', attempt, 'expires_at_ms', expires_at_ms, 'delivered_at_ms', delivered_at_ms, 'progressed_at_ms', progressed_at_ms, \
       'finished_at_ms', finished_at_ms, 'params', params, 'progress', progress, 'command_uuid', command_uuid)) FROM \
       (SELECT t.id, t.channel_id, t.job_id, t.kind, t.lane, t.state, t.attempt, t.expires_at_ms, t.delivered_at_ms, t.progressed_at_ms, t.finished_at_ms, j.params, t.progress, t.command_uuid, r.most, \
         ROW_NUMBER() OVER (PARTITION BY t.channel_id ORDER BY t.lane, t.job_id, t.id) AS place \
         FROM (SELECT value->>'id' AS id, value->>'most' AS most FROM jsonb_each($1)) AS r \
         JOIN task t ON t.channel_id = r.id JOIN job j ON j.id = t.job_id \
         WHERE t.finished_at_ms IS NULL AND t.expires_at_ms > $2 AND t.state <> 'awaiting_approval' AND j.state NOT IN ('cancelled', 'rejected')) AS o \
       WHERE place <= most",
    // Each channel's tasks are read by themselves, in the order of the index, and no more of them than it wants. Then they are locked in the
    // order of their keys, and read as the locks find them. What has ended meanwhile is left out by the caller: with the condition here the
    // small index of open tasks would look as good as the key.
    postgres: "WITH o AS MATERIALIZED (SELECT o.* FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int, id text, most bigint) WHERE _row IS NULL) AS r \
       CROSS JOIN LATERAL (SELECT t.bucket, t.id, j.params FROM task t JOIN job j ON j.id = t.job_id \
         WHERE t.channel_id = r.id AND t.finished_at_ms IS NULL AND t.expires_at_ms > $2 AND t.state <> 'awaiting_approval' \
           AND j.state NOT IN ('cancelled', 'rejected') ORDER BY t.lane, t.job_id, t.id LIMIT r.most) AS o) \
       SELECT t.id, t.channel_id, t.job_id, t.kind, t.lane, t.state, t.attempt, t.expires_at_ms, t.delivered_at_ms, t.progressed_at_ms, \
         t.finished_at_ms, o.params, t.progress, t.command_uuid \
       FROM o JOIN task t ON t.bucket = o.bucket AND t.id = o.id ORDER BY t.bucket, t.id FOR UPDATE OF t",
};

/// The open tasks of channels, in the order of delivery, no more than each wants. They are locked: what is answered as open cannot be
/// cancelled or expire before the caller has committed that it was delivered.
pub async fn open_for(conn: &mut Conn, channels: &[Key], now_ms: i64) -> Result<Vec<OpenTask>> {
    let mut open: Vec<OpenTask> = OPEN.read(conn, parameters![rows_json(channels), now_ms]).await?;
    open.retain(|task| task.finished_at_ms.is_none());
    open.sort_by_key(|task| (task.channel_id, task.lane, task.job_id, task.id));
    Ok(open)
}

/// A task that a result speaks of.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct TaskRow {
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub kind: String,
    pub state: String,
    pub finished_at_ms: Option<i64>,
    pub late: Option<String>,
    pub attempt: i64,
}

#[derive(Serialize)]
struct FindRow {
    bucket: i64,
    id: Id,
    channel_id: Id,
}

// Read in the order of the locks, so that one statement does both.
const FIND: Sql = read_sql!(
    [t(id, job_id, device_id, channel_id, kind, state, finished_at_ms, late, attempt)],
    rows(bucket: bigint, id: text, channel_id: text),
    "JOIN task t ON t.bucket = r.bucket AND t.id = r.id AND t.channel_id = r.channel_id WHERE ($2 < 0 OR t.bucket = $2)",
    "ORDER BY t.bucket, t.id FOR UPDATE OF t"
);

/// Tasks by (channel, id), finished ones included, locked; another channel's task is not found.
pub async fn find(conn: &mut Conn, tasks: &[(Id, Id)]) -> Result<Vec<TaskRow>> {
    let rows: Vec<FindRow> =
        tasks.iter().map(|(channel_id, id)| FindRow { bucket: id.bucket(), id: *id, channel_id: *channel_id }).collect();
    FIND.read(conn, parameters![rows_json(&rows), -1_i64]).await
}

/// What a contact does to a task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskChange {
    pub bucket: i64,
    pub id: Id,
    /// `delivered`, `received`, `running`, `done` or `failed`; `late` records a result that came after the end.
    pub state: String,
    pub progress: Option<String>,
    pub error: Option<String>,
    pub result: Option<String>,
    pub late: Option<String>,
}

impl TaskChange {
    /// The task goes out with an answer.
    pub fn delivered(id: Id) -> TaskChange {
        TaskChange { bucket: id.bucket(), id, state: "delivered".into(), progress: None, error: None, result: None, late: None }
    }
}

/// A task that was changed.
#[derive(Clone, Debug, FromRow)]
pub struct Applied {
    pub id: Id,
    pub state: String,
}

// The condition on finished_at_ms is what makes the first final result win, also between two servers.
const APPLY: Sql = rows_sql!(
    "UPDATE task SET \
       late = CASE WHEN r.state = 'late' THEN r.late ELSE task.late END, \
       state = CASE WHEN r.state = 'late' OR (r.state = 'delivered' AND task.state <> 'queued') \
         OR (r.state = 'received' AND task.state = 'running') THEN task.state ELSE r.state END, \
       state_since_ms = CASE WHEN r.state = 'late' OR r.state = task.state OR (r.state = 'delivered' AND task.state <> 'queued') \
         OR (r.state = 'received' AND task.state = 'running') THEN task.state_since_ms ELSE $2 END, \
       attempt = CASE WHEN r.state = 'delivered' THEN task.attempt + 1 ELSE task.attempt END, \
       delivered_at_ms = CASE WHEN r.state = 'delivered' OR (r.state <> 'late' AND task.delivered_at_ms IS NULL) THEN $2 ELSE task.delivered_at_ms END, \
       progressed_at_ms = CASE WHEN r.state IN ('received', 'running') THEN $2 ELSE task.progressed_at_ms END, \
       progress = CASE WHEN r.progress IS NULL THEN task.progress ELSE r.progress END, \
       finished_at_ms = CASE WHEN r.state IN ('done', 'failed') THEN $2 ELSE task.finished_at_ms END, \
       error = CASE WHEN r.error IS NULL THEN task.error ELSE r.error END, \
       result = CASE WHEN r.result IS NULL THEN task.result ELSE r.result END \
     FROM ",
    rows(bucket: bigint, id: text, state: text, progress: text, error: text, result: text, late: text),
    "WHERE ($3 < 0 OR task.bucket = $3) AND task.bucket = r.bucket AND task.id = r.id \
       AND ((r.state = 'late' AND task.finished_at_ms IS NOT NULL AND task.late IS NULL) OR (r.state <> 'late' AND task.finished_at_ms IS NULL)) \
     RETURNING task.id, task.state"
);

/// Applies changes, at most one a task; answers those that took.
pub async fn apply(conn: &mut Conn, changes: &[TaskChange], now_ms: i64) -> Result<Vec<Applied>> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    lock(conn, changes.iter().map(|change| change.id)).await?;
    apply_held(conn, changes, now_ms).await
}

/// Like [`apply`], for tasks that this transaction has locked already: those of [`find`] and [`open_for`].
pub async fn apply_held(conn: &mut Conn, changes: &[TaskChange], now_ms: i64) -> Result<Vec<Applied>> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_as(APPLY.on(conn.dialect())).bind(rows_json(changes)).bind(now_ms).bind(-1_i64).fetch_all(conn.raw()).await?)
}
