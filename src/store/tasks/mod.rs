//! Tasks: what each device shall do once.

mod commands;
mod intake;
mod list;

pub use commands::{Command, Spoken, commands, taken};
pub use intake::{Applied, Key, OpenTask, TaskChange, TaskRow, apply, apply_held, find, open_for};
pub use list::{Filter, REASONS, TaskView, get, list, reasons};

use serde::Serialize;

use super::batch::{json_list, parameters, rows_sql};
use super::{Conn, Dialect, Sql, keys_json, rows_json};
use crate::error::Result;
use crate::model::Id;

// "Open" is said as `finished_at_ms IS NULL` where an index of open tasks shall be read, in its order or for one channel at a time, and else
// as `COALESCE(finished_at_ms, 0) = 0`: PostgreSQL would join rows with an index that its statistics believe empty by reading it whole for each.

/// A task to be stored.
#[derive(Clone, Debug, Serialize)]
pub struct NewTask {
    pub bucket: i64,
    pub id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub state: String,
    pub expires_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// An Apple command's own id, where the operator chose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_uuid: Option<String>,
}

/// What the tasks of one job have in common.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    pub job_id: Id,
    pub kind: &'a str,
    /// Its rank.
    pub lane: i64,
}

macro_rules! insert {
    ($tail:literal) => {
        rows_sql!(
            "INSERT INTO task (bucket, id, job_id, device_id, channel_id, kind, lane, state, attempt, created_at_ms, expires_at_ms, state_since_ms, \
               finished_at_ms, error, command_uuid) \
             SELECT r.bucket, r.id, $3, r.device_id, r.channel_id, $4, $5, r.state, 0, $2, r.expires_at_ms, $2, r.finished_at_ms, r.error, \
               r.command_uuid FROM ",
            rows(bucket: bigint, id: text, device_id: text, channel_id: text, state: text, expires_at_ms: bigint, finished_at_ms: bigint,
                 error: text, command_uuid: text),
            $tail
        )
    };
}
const INSERT: Sql = Sql {
    sqlite: insert!("WHERE r.bucket >= 0 ON CONFLICT DO NOTHING").sqlite,
    postgres: insert!("ON CONFLICT DO NOTHING RETURNING id").postgres,
};
// SQLite numbers what is inserted upwards: the newest of the table are what the statement before has stored.
const STORED: &str = "SELECT json_group_array(id) FROM (SELECT id FROM task ORDER BY rowid DESC LIMIT $1) AS stored";

/// Stores tasks of a job; answers the ids of those that were not there yet.
pub async fn insert(conn: &mut Conn, of: Of<'_>, tasks: &[NewTask], now_ms: i64) -> Result<Vec<Id>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let parameters = parameters![rows_json(tasks), now_ms, of.job_id, of.kind, of.lane];
    if conn.dialect() == Dialect::Postgres {
        return Ok(sqlx::query_scalar_with(INSERT.postgres, parameters).fetch_all(conn.raw()).await?);
    }
    let stored = sqlx::query_with(INSERT.sqlite, parameters).execute(conn.raw()).await?.rows_affected();
    if usize::try_from(stored) == Ok(tasks.len()) {
        return Ok(tasks.iter().map(|task| task.id).collect());
    }
    json_list(conn, STORED, parameters![i64::try_from(stored).unwrap_or(i64::MAX)]).await
}

/// What ended a task outside the intake.
#[derive(Clone, Debug, sqlx_macros::FromRow)]
pub struct Ended {
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub kind: String,
    /// The state it had.
    pub was: String,
}

/// What an expired task says of itself.
const EXPIRED: &str = r#"{"code":"expired","message":"the device did not finish it in time","chain":[]}"#;

/// Up to `limit` open tasks whose time is over, each as it ends.
pub async fn expired(conn: &mut Conn, now_ms: i64, limit: i64) -> Result<Vec<Ending>> {
    let due: Vec<Ended> = sqlx::query_as(
        "SELECT id, job_id, device_id, channel_id, kind, state AS was FROM task WHERE finished_at_ms IS NULL AND expires_at_ms > 0 \
         AND expires_at_ms <= $1 ORDER BY expires_at_ms LIMIT $2",
    )
    .bind(now_ms)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?;
    Ok(due.into_iter().map(|ended| Ending { ended, state: "expired", error: Some(EXPIRED.to_owned()), result: None }).collect())
}

/// A task and what it ends as.
#[derive(Clone, Debug)]
pub struct Ending {
    pub ended: Ended,
    pub state: &'static str,
    /// JSON text of `{code, message, chain}`.
    pub error: Option<String>,
    /// JSON text.
    pub result: Option<String>,
}

#[derive(Serialize)]
struct EndRow<'a> {
    bucket: i64,
    id: Id,
    was: &'a str,
    state: &'a str,
    error: Option<&'a str>,
    result: Option<&'a str>,
    final_at_ms: Option<i64>,
}

const END: Sql = rows_sql!(
    "UPDATE task SET state = r.state, state_since_ms = $2, finished_at_ms = r.final_at_ms, \
       error = CASE WHEN r.error IS NULL THEN task.error ELSE r.error END, \
       result = CASE WHEN r.result IS NULL THEN task.result ELSE r.result END FROM ",
    rows(bucket: bigint, id: text, was: text, state: text, error: text, result: text, final_at_ms: bigint),
    "WHERE ($3 < 0 OR task.bucket = $3) AND task.bucket = r.bucket AND task.id = r.id AND COALESCE(task.finished_at_ms, 0) = 0 AND task.state = r.was \
     RETURNING task.id"
);

/// Ends tasks that are still in the state they were seen in; answers those that were. `awaiting_approval` and
/// `queued`, what a second operator let go on, stay open.
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
            result: ending.result.as_deref(),
            final_at_ms: (!matches!(ending.state, "awaiting_approval" | "queued")).then_some(now_ms),
        })
        .collect();
    rows.sort_by_key(|row| (row.bucket, row.id));
    lock(conn, rows.iter().map(|row| row.id)).await?;
    let done: Vec<Id> =
        sqlx::query_scalar(END.on(conn.dialect())).bind(rows_json(&rows)).bind(now_ms).bind(-1_i64).fetch_all(conn.raw()).await?;
    let done: std::collections::HashSet<Id> = done.into_iter().collect();
    Ok(endings.into_iter().map(|ending| ending.ended).filter(|ended| done.contains(&ended.id)).collect())
}

// On PostgreSQL each channel's open tasks are read by themselves, and what else is asked is asked of them: that index and no other.
const UNDELIVERED_LIKE: Sql = Sql {
    sqlite: "SELECT t.id, t.job_id, t.device_id, t.channel_id, t.kind, t.state AS was FROM (SELECT value AS id FROM json_each($1)) AS r \
       JOIN task t ON t.channel_id = r.id JOIN job j ON j.id = t.job_id \
       WHERE t.finished_at_ms IS NULL AND t.state = 'queued' AND t.kind = $3 AND t.job_id < $2 AND j.params = $4",
    postgres: "SELECT o.* FROM json_array_elements_text($1::json) AS r(id) CROSS JOIN LATERAL \
       (SELECT t.id, t.job_id, t.device_id, t.channel_id, t.kind, t.state AS was FROM task t \
         WHERE t.channel_id = r.id AND t.finished_at_ms IS NULL OFFSET 0) AS o JOIN job j ON j.id = o.job_id \
       WHERE o.was = 'queued' AND o.kind = $3 AND o.job_id < $2 AND j.params = $4",
};

/// Tasks of earlier jobs on these channels, of the same kind and parameters, that were not delivered yet.
pub async fn undelivered_like(conn: &mut Conn, channels: &[Id], job: Id, kind: &str, params: &str) -> Result<Vec<Ended>> {
    if channels.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query_as(UNDELIVERED_LIKE.on(conn.dialect()))
        .bind(rows_json(channels))
        .bind(job)
        .bind(kind)
        .bind(params)
        .fetch_all(conn.raw())
        .await?;
    Ok(found)
}

/// Up to `limit` open tasks of a job, from after `after`.
pub async fn open_of_job(conn: &mut Conn, job: Id, after: &str, limit: i64) -> Result<Vec<Ended>> {
    let rows = sqlx::query_as(
        "SELECT id, job_id, device_id, channel_id, kind, state AS was FROM task WHERE job_id = $1 AND id > $2 AND COALESCE(finished_at_ms, 0) = 0 \
         ORDER BY id LIMIT $3",
    )
    .bind(job)
    .bind(after)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// Up to `limit` tasks of a job that wait for a second operator.
pub async fn awaiting_of_job(conn: &mut Conn, job: Id, limit: i64) -> Result<Vec<Ended>> {
    let rows = sqlx::query_as(
        "SELECT id, job_id, device_id, channel_id, kind, state AS was FROM task WHERE job_id = $1 AND state = 'awaiting_approval' \
         AND COALESCE(finished_at_ms, 0) = 0 ORDER BY id LIMIT $2",
    )
    .bind(job)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// A task that may be ordered again.
#[derive(Clone, Debug, sqlx_macros::FromRow)]
pub struct Over {
    pub id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub state: String,
}

/// Tasks of a job, from after `after`, that had failed, expired or been cancelled by `before_ms` and were not ordered again.
pub async fn over_of_job(conn: &mut Conn, job: Id, after: &str, before_ms: i64, limit: i64) -> Result<Vec<Over>> {
    let rows = sqlx::query_as(
        "SELECT id, device_id, channel_id, state FROM task WHERE job_id = $1 AND id > $2 AND finished_at_ms <= $3 AND retried_by IS NULL \
         AND state IN ('failed', 'expired', 'cancelled') ORDER BY id LIMIT $4",
    )
    .bind(job)
    .bind(after)
    .bind(before_ms)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// How many [`over_of_job`] has in all. Reads every task of the job.
pub async fn over_count(conn: &mut Conn, job: Id, before_ms: i64) -> Result<i64> {
    let text = "SELECT COUNT(*) FROM task WHERE job_id = $1 AND finished_at_ms <= $2 AND retried_by IS NULL \
       AND state IN ('failed', 'expired', 'cancelled')";
    Ok(sqlx::query_scalar(text).bind(job).bind(before_ms).fetch_one(conn.raw()).await?)
}

const OPEN_OF: Sql = Sql {
    sqlite: "SELECT t.id, t.job_id, t.device_id, t.channel_id, t.state AS was, t.kind FROM (SELECT value AS id FROM json_each($1)) AS r \
       JOIN task t ON t.channel_id = r.id WHERE t.finished_at_ms IS NULL",
    postgres: "SELECT o.* FROM json_array_elements_text($1::json) AS r(id) CROSS JOIN LATERAL \
       (SELECT t.id, t.job_id, t.device_id, t.channel_id, t.state AS was, t.kind FROM task t \
         WHERE t.channel_id = r.id AND t.finished_at_ms IS NULL OFFSET 0) AS o",
};

/// All open tasks of channels.
pub async fn open_of(conn: &mut Conn, channels: &[Id]) -> Result<Vec<Ended>> {
    Ok(sqlx::query_as(OPEN_OF.on(conn.dialect())).bind(rows_json(channels)).fetch_all(conn.raw()).await?)
}

const MOVED: Sql = rows_sql!(
    "SELECT t.id FROM ",
    rows(bucket: bigint, id: text),
    "JOIN task t ON t.bucket = r.bucket AND t.id = r.id WHERE ($2 < 0 OR t.bucket = $2) LIMIT 1"
);

/// The task that has this id in another bucket: its device was merged into one of that bucket.
pub async fn moved(conn: &mut Conn, id: Id) -> Result<Option<Id>> {
    Ok(sqlx::query_scalar(MOVED.on(conn.dialect())).bind(keys_json(id.in_each_bucket())).bind(-1_i64).fetch_optional(conn.raw()).await?)
}

/// A task that was ordered again, and the one that was made for it.
#[derive(Clone, Debug, Serialize)]
pub struct Again {
    pub bucket: i64,
    pub id: Id,
    pub by: Id,
}

const RETRIED: Sql = rows_sql!(
    "UPDATE task SET retried_by = r.by FROM ",
    rows(bucket: bigint, id: text, by: text),
    "WHERE task.bucket = r.bucket AND task.id = r.id AND task.finished_at_ms IS NOT NULL AND task.retried_by IS NULL RETURNING task.id"
);

/// Notes which tasks were ordered again; answers those that were not before.
pub async fn retried(conn: &mut Conn, again: &[Again]) -> Result<Vec<Id>> {
    if again.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(RETRIED.on(conn.dialect())).bind(rows_json(again)).fetch_all(conn.raw()).await?)
}

const LOCK: Sql = rows_sql!(
    "SELECT COUNT(*) FROM (SELECT t.id FROM task t JOIN ",
    rows(bucket: bigint, id: text),
    "ON t.bucket = r.bucket AND t.id = r.id ORDER BY t.bucket, t.id FOR UPDATE OF t) AS locked"
);

/// Locks tasks in the order of their keys, so that two transactions that change the same ones cannot deadlock. SQLite's writer is
/// alone anyway.
async fn lock(conn: &mut Conn, tasks: impl Iterator<Item = Id>) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        sqlx::query(LOCK.postgres).bind(keys_json(tasks)).execute(conn.raw()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Class;
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn of_tasks_that_are_there_in_part_the_new_ones_are_answered() {
        each_database(async |db| {
            let device = Clock::moved(1_800_000_000_000, 3).moment().id();
            let id = |n: u8| Id::v7(1_800_000_000_000, [n; 10]).in_bucket_of(device);
            let mut conn = db.begin(Class::Background).await.unwrap();
            for (wanted, new) in [(&[1, 5, 3][..], &[1, 3, 5][..]), (&[4, 1, 6, 5, 2], &[2, 4, 6]), (&[2, 3], &[])] {
                let rows = wanted.iter().map(|n| NewTask {
                    bucket: device.bucket(),
                    id: id(*n),
                    device_id: device,
                    channel_id: device,
                    state: "queued".into(),
                    expires_at_ms: 1,
                    finished_at_ms: None,
                    error: None,
                    command_uuid: None,
                });
                let of = Of { job_id: device, kind: "scan", lane: 1 };
                let mut stored = insert(&mut conn, of, &rows.collect::<Vec<_>>(), 1).await.unwrap();
                stored.sort_unstable();
                assert_eq!(stored, new.iter().map(|n| id(*n)).collect::<Vec<_>>());
            }
        })
        .await;
    }
}
