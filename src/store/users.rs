//! People who carry devices.

use serde::Serialize;
use sqlx_macros::FromRow;

use super::{Conn, Dialect, rows_json};
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

/// Writes everything that can change of a user; false where another has the e-mail address. The transaction then has to be undone.
pub async fn update(conn: &mut Conn, user: &UserRow) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE users SET email = $2, name = $3, state = $4, device_limit = $5, attributes = $6, updated_at_ms = $7 WHERE id = $1",
    )
    .bind(user.id)
    .bind(&user.email)
    .bind(&user.name)
    .bind(&user.state)
    .bind(user.device_limit)
    .bind(&user.attributes)
    .bind(user.updated_at_ms)
    .execute(conn.raw())
    .await;
    match done {
        Ok(done) => Ok(done.rows_affected() == 1),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A user by id, deleted ones included.
pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<UserRow>> {
    Ok(sqlx::query_as("SELECT * FROM users WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

/// A user by id, its row locked until the transaction ends: who changes a user, or counts its devices, is alone.
pub async fn locked(conn: &mut Conn, id: Id) -> Result<Option<UserRow>> {
    // In a statement of its own: what is read behind the lock is what stands.
    if conn.dialect() == Dialect::Postgres {
        sqlx::query("SELECT id FROM users WHERE id = $1 FOR UPDATE").bind(id).execute(conn.raw()).await?;
    }
    get(conn, id).await
}

#[derive(Serialize)]
struct Key<'a> {
    key: &'a str,
}

const LOCK_USERS: &str = "SELECT COUNT(*) FROM (SELECT u.id FROM users u WHERE u.id IN (\
       SELECT n.id FROM users n JOIN (SELECT * FROM json_to_recordset($1::json) AS r(_row int, key text) WHERE _row IS NULL) AS r ON n.email = r.key WHERE n.state <> 'deleted' \
       UNION SELECT t.user_id FROM enrollment_token t JOIN (SELECT * FROM json_to_recordset($1::json) AS r(_row int, key text) WHERE _row IS NULL) AS r ON t.hash = r.key) \
     ORDER BY u.id FOR UPDATE) AS locked";
const LOCK_TOKENS: &str = "SELECT COUNT(*) FROM (SELECT t.id FROM enrollment_token t WHERE t.hash IN (\
       SELECT r.key FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int, key text) WHERE _row IS NULL) AS r) ORDER BY t.id FOR UPDATE) AS locked";

/// Locks the users with these lower-case e-mail addresses, those that the enrollment tokens with these hashes name, and then the
/// tokens, each in the order of ids. SQLite's writer is alone anyway.
pub async fn lock_with_tokens(conn: &mut Conn, emails: &[String], hashes: &[String]) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        let keys: Vec<Key<'_>> = emails.iter().chain(hashes).map(|key| Key { key }).collect();
        sqlx::query(LOCK_USERS).bind(rows_json(&keys)).execute(conn.raw()).await?;
        let keys: Vec<Key<'_>> = hashes.iter().map(|key| Key { key }).collect();
        sqlx::query(LOCK_TOKENS).bind(rows_json(&keys)).execute(conn.raw()).await?;
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

/// How many devices count against the user's limit: those that came in and have not gone, denied or not.
pub async fn devices(conn: &mut Conn, id: Id) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM device WHERE user_id = $1 AND state IN ('active', 'idle', 'silent')")
        .bind(id)
        .fetch_one(conn.raw())
        .await?)
}

/// The ids of all devices of a user, in lock order.
pub async fn device_ids(conn: &mut Conn, id: Id) -> Result<Vec<Id>> {
    Ok(sqlx::query_scalar("SELECT id FROM device WHERE user_id = $1 ORDER BY bucket, id").bind(id).fetch_all(conn.raw()).await?)
}
