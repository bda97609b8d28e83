//! Forgetting what has served its time, in small chunks; each function answers how many rows it took.

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// Contacts of one bucket from before `before_ms`.
pub async fn contacts(conn: &mut Conn, bucket: i64, before_ms: i64, rows_max: i64) -> Result<u64> {
    let text =
        "DELETE FROM contact WHERE bucket = $1 AND id IN (SELECT id FROM contact WHERE bucket = $1 AND id < $2 ORDER BY id LIMIT $3)";
    let done = sqlx::query(text).bind(bucket).bind(Id::first_of(before_ms)).bind(rows_max).execute(conn.raw()).await?;
    Ok(done.rows_affected())
}

/// Tasks of one bucket that were finished before `before_ms`; open ones stay, however old.
pub async fn tasks(conn: &mut Conn, bucket: i64, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM task WHERE bucket = $1 AND id IN \
           (SELECT id FROM task WHERE bucket = $1 AND id < $2 AND finished_at_ms < $3 ORDER BY id LIMIT $4)",
    )
    .bind(bucket)
    .bind(Id::first_of(before_ms))
    .bind(before_ms)
    .bind(rows_max)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected())
}

/// Jobs that were finished before `before_ms` and have no task left, with their counts.
pub async fn jobs(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let gone: Vec<Id> = sqlx::query_scalar(
        "SELECT id FROM job WHERE id < $1 AND finished_at_ms < $2 AND NOT EXISTS (SELECT 1 FROM task t WHERE t.job_id = job.id) \
         ORDER BY id LIMIT $3",
    )
    .bind(Id::first_of(before_ms))
    .bind(before_ms)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    for id in &gone {
        let topic = format!("job:{id}");
        for text in ["DELETE FROM tally WHERE topic = $1", "DELETE FROM tally_in WHERE topic = $1"] {
            sqlx::query(text).bind(&topic).execute(conn.raw()).await?;
        }
        sqlx::query("DELETE FROM job WHERE id = $1").bind(id).execute(conn.raw()).await?;
    }
    Ok(gone.len() as u64)
}

/// Sessions that have ended at `now_ms`.
pub async fn sessions(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<u64> {
    chunk(conn, "DELETE FROM session WHERE hash IN (SELECT hash FROM session WHERE expires_at_ms <= $1 LIMIT $2)", now_ms, rows_max).await
}

/// Sign-in links that ended before `before_ms`.
pub async fn sign_in_links(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM sign_in_link WHERE hash IN (SELECT hash FROM sign_in_link WHERE expires_at_ms < $1 LIMIT $2)";
    chunk(conn, text, before_ms, rows_max).await
}

/// Idempotency keys whose time has run out at `now_ms`.
pub async fn idempotency(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM idempotency WHERE (actor, key) IN (SELECT actor, key FROM idempotency WHERE expires_at_ms <= $1 LIMIT $2)";
    chunk(conn, text, now_ms, rows_max).await
}

/// Slots of the funnel from before `before_ms`.
pub async fn funnel(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM funnel WHERE (slot_ms, process, stage) IN \
       (SELECT slot_ms, process, stage FROM funnel WHERE slot_ms < $1 ORDER BY slot_ms LIMIT $2)";
    chunk(conn, text, before_ms, rows_max).await
}

async fn chunk(conn: &mut Conn, text: &'static str, at_ms: i64, rows_max: i64) -> Result<u64> {
    Ok(sqlx::query(text).bind(at_ms).bind(rows_max).execute(conn.raw()).await?.rows_affected())
}
