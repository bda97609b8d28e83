//! The destructive budget: how many devices were let be wiped or retired lately, counted for the whole server.

use super::{Conn, Dialect, meta};
use crate::error::Result;
use crate::model::Id;

/// The server's own fact that holds the budget; its row is the lock that keeps orders from passing each other.
pub const NAME: &str = "wipes_per_hour";

/// The budget, its row locked until the transaction ends; `None` where none was set.
pub async fn lock(conn: &mut Conn) -> Result<Option<i64>> {
    let text = match conn.dialect() {
        Dialect::Sqlite => "SELECT value FROM meta WHERE name = $1",
        Dialect::Postgres => "SELECT value FROM meta WHERE name = $1 FOR UPDATE",
    };
    let value: Option<String> = sqlx::query_scalar(text).bind(NAME).fetch_optional(conn.raw()).await?;
    Ok(value.and_then(|value| value.parse().ok()))
}

/// Sets the budget.
pub async fn put(conn: &mut Conn, per_hour: i64) -> Result<()> {
    meta::put(conn, NAME, &per_hour.to_string()).await
}

/// How many devices were let through since `since_ms`; what is older is forgotten.
pub async fn spent(conn: &mut Conn, since_ms: i64) -> Result<i64> {
    sqlx::query("DELETE FROM destroyed WHERE at_ms <= $1").bind(since_ms).execute(conn.raw()).await?;
    Ok(sqlx::query_scalar("SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) FROM destroyed").fetch_one(conn.raw()).await?)
}

/// Notes that `n` devices of a job were let through.
pub async fn spend(conn: &mut Conn, id: Id, job: Id, n: i64, now_ms: i64) -> Result<()> {
    sqlx::query("INSERT INTO destroyed (id, job_id, at_ms, n) VALUES ($1, $2, $3, $4)")
        .bind(id)
        .bind(job)
        .bind(now_ms)
        .bind(n)
        .execute(conn.raw())
        .await?;
    Ok(())
}
