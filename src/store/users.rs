//! People who carry devices.

use sqlx::FromRow;

use super::{Conn, Dialect};
use crate::error::Result;
use crate::model::Id;

/// A user as stored.
#[derive(Clone, Debug, FromRow)]
pub struct UserRow {
    pub id: Id,
    pub email: String,
    pub name: String,
    /// `enabled`, `disabled` or `deleted`.
    pub state: String,
    pub device_limit: Option<i64>,
    /// A JSON object of texts.
    pub attributes: String,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// Stores a new user; false where another has the e-mail address.
pub async fn insert(conn: &mut Conn, user: &UserRow) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO users (id, email, name, state, device_limit, attributes, created_at_ms, updated_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (email) WHERE state <> 'deleted' DO NOTHING",
    )
    .bind(user.id)
    .bind(&user.email)
    .bind(&user.name)
    .bind(&user.state)
    .bind(user.device_limit)
    .bind(&user.attributes)
    .bind(user.created_at_ms)
    .bind(user.updated_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes everything that can change of a user.
pub async fn update(conn: &mut Conn, user: &UserRow) -> Result<()> {
    sqlx::query("UPDATE users SET email = $2, name = $3, state = $4, device_limit = $5, attributes = $6, updated_at_ms = $7 WHERE id = $1")
        .bind(user.id)
        .bind(&user.email)
        .bind(&user.name)
        .bind(&user.state)
        .bind(user.device_limit)
        .bind(&user.attributes)
        .bind(user.updated_at_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// A user by id, deleted ones included.
pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<UserRow>> {
    Ok(sqlx::query_as("SELECT * FROM users WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

/// Locks a user's row, so that the device limit is counted by one at a time. SQLite's writer is alone anyway.
pub async fn lock(conn: &mut Conn, id: Id) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        sqlx::query("SELECT id FROM users WHERE id = $1 FOR UPDATE").bind(id).execute(conn.raw()).await?;
    }
    Ok(())
}

/// A user by lower-case e-mail address; deleted ones have none.
pub async fn by_email(conn: &mut Conn, email: &str) -> Result<Option<UserRow>> {
    Ok(sqlx::query_as("SELECT * FROM users WHERE email = $1 AND state <> 'deleted'").bind(email).fetch_optional(conn.raw()).await?)
}

/// A page of users by e-mail address.
pub async fn list(conn: &mut Conn, after_email: &str, limit: i64) -> Result<Vec<UserRow>> {
    Ok(sqlx::query_as("SELECT * FROM users WHERE state <> 'deleted' AND email > $1 ORDER BY email LIMIT $2")
        .bind(after_email)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// How many devices count against the user's limit: all that are not denied and not gone.
pub async fn devices(conn: &mut Conn, id: Id) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "SELECT COUNT(*) FROM device WHERE user_id = $1 AND denied IS NULL AND state NOT IN ('unmanaged', 'pending_approval')",
    )
    .bind(id)
    .fetch_one(conn.raw())
    .await?)
}

/// The ids of all devices of a user, in lock order.
pub async fn device_ids(conn: &mut Conn, id: Id) -> Result<Vec<Id>> {
    Ok(sqlx::query_scalar("SELECT id FROM device WHERE user_id = $1 ORDER BY bucket, id").bind(id).fetch_all(conn.raw()).await?)
}
