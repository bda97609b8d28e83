//! Tasks as contacts meet them: many channels in one statement.

use serde::Serialize;
use sqlx::FromRow;

use crate::error::Result;
use crate::model::Id;
use crate::store::batch::rows_sql;
use crate::store::{Conn, Dialect, Sql, rows_json};

/// A channel.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Key {
    pub id: Id,
    /// How many tasks are wanted at most.
    pub most: i64,
}

/// An open task with what its delivery needs.
#[derive(Clone, Debug, FromRow)]
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
    /// The job's parameters, JSON text.
    pub params: String,
}

const OPEN: Sql = rows_sql!(
    "SELECT id, channel_id, job_id, kind, lane, state, attempt, expires_at_ms, delivered_at_ms, progressed_at_ms, params FROM \
       (SELECT t.id, t.channel_id, t.job_id, t.kind, t.lane, t.state, t.attempt, t.expires_at_ms, t.delivered_at_ms, t.progressed_at_ms, j.params, r.most, \
         ROW_NUMBER() OVER (PARTITION BY t.channel_id ORDER BY t.lane, t.job_id, t.id) AS place FROM ",
    rows(id: text, most: bigint),
    "JOIN task t ON t.channel_id = r.id JOIN job j ON j.id = t.job_id \
       WHERE t.finished_at_ms IS NULL AND t.expires_at_ms > $2 AND t.state <> 'awaiting_approval') AS o \
     WHERE place <= most ORDER BY channel_id, lane, job_id, id"
);

/// The open tasks of channels, in the order of delivery, no more than each wants.
pub async fn open_for(conn: &mut Conn, channels: &[Key], now_ms: i64) -> Result<Vec<OpenTask>> {
    Ok(sqlx::query_as(OPEN.on(conn.dialect())).bind(rows_json(channels)).bind(now_ms).fetch_all(conn.raw()).await?)
}

/// A task that a result speaks of.
#[derive(Clone, Debug, FromRow)]
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

const FIND: Sql = rows_sql!(
    "SELECT t.id, t.job_id, t.device_id, t.channel_id, t.kind, t.state, t.finished_at_ms, t.late, t.attempt FROM ",
    rows(bucket: bigint, id: text, channel_id: text),
    "JOIN task t ON t.bucket = r.bucket AND t.id = r.id AND t.channel_id = r.channel_id WHERE ($2 < 0 OR t.bucket = $2)"
);

/// Tasks by (channel, id), finished ones included; another channel's task is not found.
pub async fn find(conn: &mut Conn, tasks: &[(Id, Id)]) -> Result<Vec<TaskRow>> {
    let rows: Vec<FindRow> =
        tasks.iter().map(|(channel_id, id)| FindRow { bucket: id.bucket(), id: *id, channel_id: *channel_id }).collect();
    Ok(sqlx::query_as(FIND.on(conn.dialect())).bind(rows_json(&rows)).bind(-1_i64).fetch_all(conn.raw()).await?)
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

/// A task that was changed.
#[derive(Clone, Debug, FromRow)]
pub struct Applied {
    pub id: Id,
    pub state: String,
}

macro_rules! apply_text {
    ($rows:literal, $returning:literal) => {
        concat!(
            "UPDATE task AS t SET \
               late = CASE WHEN r.state = 'late' THEN r.late ELSE t.late END, \
               state = CASE WHEN r.state = 'late' OR (r.state = 'delivered' AND t.state <> 'queued') \
                 OR (r.state = 'received' AND t.state = 'running') THEN t.state ELSE r.state END, \
               state_since_ms = CASE WHEN r.state = 'late' OR r.state = t.state OR (r.state = 'delivered' AND t.state <> 'queued') \
                 THEN t.state_since_ms ELSE $2 END, \
               attempt = CASE WHEN r.state = 'delivered' THEN t.attempt + 1 ELSE t.attempt END, \
               delivered_at_ms = CASE WHEN r.state = 'delivered' OR t.delivered_at_ms IS NULL THEN $2 ELSE t.delivered_at_ms END, \
               progressed_at_ms = CASE WHEN r.state IN ('received', 'running') THEN $2 ELSE t.progressed_at_ms END, \
               progress = CASE WHEN r.progress IS NULL THEN t.progress ELSE r.progress END, \
               finished_at_ms = CASE WHEN r.state IN ('done', 'failed') THEN $2 ELSE t.finished_at_ms END, \
               error = CASE WHEN r.error IS NULL THEN t.error ELSE r.error END, \
               result = CASE WHEN r.result IS NULL THEN t.result ELSE r.result END \
             FROM ",
            $rows,
            " WHERE ($3 < 0 OR t.bucket = $3) AND t.bucket = r.bucket AND t.id = r.id \
               AND ((r.state = 'late' AND t.finished_at_ms IS NOT NULL AND t.late IS NULL) OR (r.state <> 'late' AND t.finished_at_ms IS NULL)) ",
            $returning
        )
    };
}

// The condition on finished_at_ms is what makes the first final result win, also between two servers.
const APPLY: Sql = Sql {
    sqlite: apply_text!(
        "(SELECT value->>'bucket' AS bucket, value->>'id' AS id, value->>'state' AS state, value->>'progress' AS progress, \
          value->>'error' AS error, value->>'result' AS result, value->>'late' AS late FROM json_each($1)) AS r",
        "RETURNING id, state"
    ),
    postgres: apply_text!(
        "json_to_recordset($1::json) AS r(bucket bigint, id text, state text, progress text, error text, result text, late text)",
        "RETURNING t.id, t.state"
    ),
};

/// Applies changes, at most one a task; answers those that took.
pub async fn apply(conn: &mut Conn, changes: &[TaskChange], now_ms: i64) -> Result<Vec<Applied>> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    if conn.dialect() == Dialect::Postgres {
        lock(conn, changes).await?;
    }
    Ok(sqlx::query_as(APPLY.on(conn.dialect())).bind(rows_json(changes)).bind(now_ms).bind(-1_i64).fetch_all(conn.raw()).await?)
}

async fn lock(conn: &mut Conn, changes: &[TaskChange]) -> Result<()> {
    #[derive(Serialize)]
    struct Row {
        bucket: i64,
        id: Id,
    }
    const LOCK: &str = "SELECT COUNT(*) FROM (SELECT t.id FROM task t JOIN json_to_recordset($1::json) AS r(bucket bigint, id text) \
         ON t.bucket = r.bucket AND t.id = r.id ORDER BY t.bucket, t.id FOR UPDATE OF t) AS locked";
    let rows: Vec<Row> = changes.iter().map(|change| Row { bucket: change.bucket, id: change.id }).collect();
    sqlx::query(LOCK).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}
