//! Tasks as Apple's reports name them: by the id of their command.

use serde::Serialize;
use sqlx_macros::FromRow;

use super::{NewTask, lock};
use crate::error::Result;
use crate::model::Id;
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, rows_json};

/// What a report names.
#[derive(Clone, Debug, Serialize)]
pub struct Spoken {
    pub bucket: i64,
    pub channel_id: Id,
    /// The task's own id, where the command has it.
    pub id: Option<Id>,
    pub command_uuid: String,
}

/// A task that a report speaks of, finished ones included.
#[derive(Clone, Debug, FromRow)]
pub struct Command {
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub kind: String,
    pub state: String,
    pub finished_at_ms: Option<i64>,
    pub late: Option<String>,
    pub progress: Option<String>,
    pub command_uuid: Option<String>,
    /// The job's parameters, JSON text.
    pub params: String,
}

const BY_ID: Sql = rows_sql!(
    "SELECT t.id, t.job_id, t.device_id, t.channel_id, t.kind, t.state, t.finished_at_ms, t.late, t.progress, t.command_uuid, j.params FROM ",
    rows(bucket: bigint, channel_id: text, id: text),
    "JOIN task t ON t.bucket = r.bucket AND t.id = r.id AND t.channel_id = r.channel_id JOIN job j ON j.id = t.job_id \
     WHERE t.command_uuid IS NULL AND ($2 < 0 OR t.bucket = $2)"
);

// Tasks by a command's own id. On PostgreSQL one after the other, or the index of the few that have one is read whole for each.
macro_rules! by_uuid {
    ($select:literal, $rows:tt, $tail:literal) => {
        Sql {
            sqlite: by_uuid!(@ $select, $rows, "JOIN task t ON t.bucket = r.bucket AND t.channel_id = r.channel_id AND \
                t.command_uuid = r.command_uuid AND t.command_uuid IS NOT NULL ", $tail).sqlite,
            postgres: by_uuid!(@ $select, $rows, "CROSS JOIN LATERAL (SELECT * FROM task t WHERE t.bucket = r.bucket AND t.channel_id = r.channel_id \
                AND t.command_uuid = r.command_uuid AND t.command_uuid IS NOT NULL OFFSET 0) AS t ", $tail).postgres,
        }
    };
    (@ $select:literal, ($($row:tt)*), $join:literal, $tail:literal) => { rows_sql!($select, rows($($row)*), $join, $tail) };
}

const BY_UUID: Sql = by_uuid!(
    "SELECT t.id, t.job_id, t.device_id, t.channel_id, t.kind, t.state, t.finished_at_ms, t.late, t.progress, t.command_uuid, j.params FROM ",
    (bucket: bigint, channel_id: text, command_uuid: text),
    "JOIN job j ON j.id = t.job_id WHERE ($2 < 0 OR t.bucket = $2)"
);

const TAKEN: Sql = by_uuid!(
    "SELECT r.device_id FROM ",
    (bucket: bigint, id: text, device_id: text, channel_id: text, command_uuid: text),
    "WHERE t.id <> r.id ORDER BY r.device_id"
);

/// The devices among those of these tasks whose channel has another task with the same command's id.
pub async fn taken(conn: &mut Conn, tasks: &[NewTask]) -> Result<Vec<Id>> {
    let named: Vec<&NewTask> = tasks.iter().filter(|task| task.command_uuid.is_some()).collect();
    if named.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(TAKEN.on(conn.dialect())).bind(rows_json(&named)).fetch_all(conn.raw()).await?)
}

/// The tasks that reports name, locked; another channel's command is not found.
pub async fn commands(conn: &mut Conn, spoken: &[Spoken]) -> Result<Vec<Command>> {
    if spoken.is_empty() {
        return Ok(Vec::new());
    }
    lock(conn, spoken.iter().filter_map(|one| one.id)).await?;
    let named: Vec<&Spoken> = spoken.iter().filter(|one| one.id.is_some()).collect();
    let mut found: Vec<Command> = Vec::new();
    if !named.is_empty() {
        found = sqlx::query_as(BY_ID.on(conn.dialect())).bind(rows_json(&named)).bind(-1_i64).fetch_all(conn.raw()).await?;
    }
    if found.len() < spoken.len() {
        let by_uuid: Vec<Command> =
            sqlx::query_as(BY_UUID.on(conn.dialect())).bind(rows_json(spoken)).bind(-1_i64).fetch_all(conn.raw()).await?;
        found.extend(by_uuid);
    }
    Ok(found)
}
