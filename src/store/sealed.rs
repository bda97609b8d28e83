//! Sealed secrets by name. What is stored here opens only under the master key.

use super::Conn;
use crate::error::Result;

/// Stores a sealed secret; its version goes up.
pub async fn put(conn: &mut Conn, name: &str, sealed: &str, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO sealed (name, sealed, version, updated_at_ms) VALUES ($1, $2, 1, $3) \
         ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, version = sealed.version + 1, updated_at_ms = excluded.updated_at_ms",
    )
    .bind(name)
    .bind(sealed)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Stores a sealed secret unless there is one; answers the one that then stands. The first insert wins, also between processes.
pub async fn put_if_absent(conn: &mut Conn, name: &str, sealed: &str, now_ms: i64) -> Result<String> {
    sqlx::query("INSERT INTO sealed (name, sealed, version, updated_at_ms) VALUES ($1, $2, 1, $3) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(sealed)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(get(conn, name).await?.unwrap_or_else(|| sealed.to_owned()))
}

/// The version of a secret; 0 where there is none.
pub async fn version(conn: &mut Conn, name: &str) -> Result<i64> {
    let version: Option<i64> =
        sqlx::query_scalar("SELECT version FROM sealed WHERE name = $1").bind(name).fetch_optional(conn.raw()).await?;
    Ok(version.unwrap_or(0))
}

/// A sealed secret; `None` also where one was taken away.
pub async fn get(conn: &mut Conn, name: &str) -> Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT sealed FROM sealed WHERE name = $1 AND sealed <> ''").bind(name).fetch_optional(conn.raw()).await?)
}

/// Takes a secret away; false where there is none. Its version goes up and stays, for who follows it.
pub async fn remove(conn: &mut Conn, name: &str, now_ms: i64) -> Result<bool> {
    let removed = sqlx::query("UPDATE sealed SET sealed = '', version = version + 1, updated_at_ms = $2 WHERE name = $1 AND sealed <> ''");
    Ok(removed.bind(name).bind(now_ms).execute(conn.raw()).await?.rows_affected() > 0)
}

/// The secrets whose names begin with `prefix`, with their versions, by name; those too that were taken away.
pub async fn versions(conn: &mut Conn, prefix: &str) -> Result<Vec<(String, i64)>> {
    let found = sqlx::query_as("SELECT name, version FROM sealed WHERE substr(name, 1, length($1)) = $1 ORDER BY name LIMIT 1000");
    Ok(found.bind(prefix).fetch_all(conn.raw()).await?)
}
