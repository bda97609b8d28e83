//! The outbox: mail that is to be sent, and what became of it. The body is sealed and is forgotten once it was sent.

use sqlx_macros::FromRow;

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// A mail as stored; `state` is `queued`, `sent` or `failed`.
#[derive(Clone, Debug, FromRow)]
pub struct MailRow {
    pub id: Id,
    /// `alarm` or `activation`.
    pub kind: String,
    /// The user of an activation.
    pub about: String,
    pub recipient: String,
    pub subject: String,
    pub body: String,
    pub state: String,
    pub attempts: i64,
    pub created_at_ms: i64,
    /// When it is tried next; of one that is being tried, when the attempt is given up.
    pub due_at_ms: i64,
    pub finished_at_ms: Option<i64>,
    pub error: Option<String>,
}

pub async fn insert(conn: &mut Conn, row: &MailRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO mail (id, kind, about, recipient, subject, body, state, attempts, created_at_ms, due_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9)",
    )
    .bind(row.id)
    .bind(&row.kind)
    .bind(&row.about)
    .bind(&row.recipient)
    .bind(&row.subject)
    .bind(&row.body)
    .bind(&row.state)
    .bind(row.created_at_ms)
    .bind(row.due_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Mail whose turn it is, the longest waiting first.
pub async fn due(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<Vec<Id>> {
    let ids = sqlx::query_scalar("SELECT id FROM mail WHERE state = 'queued' AND due_at_ms <= $1 ORDER BY due_at_ms, id LIMIT $2")
        .bind(now_ms)
        .bind(rows_max)
        .fetch_all(conn.raw())
        .await?;
    Ok(ids)
}

/// Takes a mail to be tried until `until_ms`; `None` where another process did.
pub async fn claim(conn: &mut Conn, id: Id, now_ms: i64, until_ms: i64) -> Result<Option<MailRow>> {
    let row = sqlx::query_as(
        "UPDATE mail SET due_at_ms = $3, attempts = attempts + 1 WHERE id = $1 AND state = 'queued' AND due_at_ms <= $2 RETURNING *",
    )
    .bind(id)
    .bind(now_ms)
    .bind(until_ms)
    .fetch_optional(conn.raw())
    .await?;
    Ok(row)
}

/// The server took it: the body is forgotten.
pub async fn sent(conn: &mut Conn, id: Id, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE mail SET state = 'sent', finished_at_ms = $2, body = '', error = NULL WHERE id = $1 AND state = 'queued'")
        .bind(id)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// An attempt failed: it is tried again at `again_at_ms`, or, without one, has failed.
pub async fn failed(conn: &mut Conn, id: Id, error: &str, again_at_ms: Option<i64>, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE mail SET state = $3, error = $2, due_at_ms = $4, finished_at_ms = $5 WHERE id = $1 AND state = 'queued'")
        .bind(id)
        .bind(error)
        .bind(if again_at_ms.is_some() { "queued" } else { "failed" })
        .bind(again_at_ms.unwrap_or(now_ms))
        .bind(if again_at_ms.is_some() { None } else { Some(now_ms) })
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Queues a mail again that failed; false where it did not fail.
pub async fn again(conn: &mut Conn, id: Id, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE mail SET state = 'queued', attempts = 0, due_at_ms = $2, finished_at_ms = NULL WHERE id = $1 AND state = 'failed'",
    )
    .bind(id)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// One mail.
pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<MailRow>> {
    Ok(sqlx::query_as("SELECT * FROM mail WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

/// The newest mail of a kind about somebody.
pub async fn newest(conn: &mut Conn, kind: &str, about: &str) -> Result<Option<MailRow>> {
    let row = sqlx::query_as("SELECT * FROM mail WHERE about = $2 AND kind = $1 ORDER BY id DESC LIMIT 1")
        .bind(kind)
        .bind(about)
        .fetch_optional(conn.raw())
        .await?;
    Ok(row)
}

/// A page, newest first; '' stands for every state.
pub async fn list(conn: &mut Conn, state: &str, before: Option<Id>, rows_max: i64) -> Result<Vec<MailRow>> {
    let rows = sqlx::query_as("SELECT * FROM mail WHERE id < $1 AND ($2 = '' OR state = $2) ORDER BY id DESC LIMIT $3")
        .bind(before.map_or_else(|| "~".to_owned(), |id| id.to_string()))
        .bind(state)
        .bind(rows_max)
        .fetch_all(conn.raw())
        .await?;
    Ok(rows)
}

/// How many mails of a kind were made since.
pub async fn made_since(conn: &mut Conn, kind: &str, since_ms: i64) -> Result<i64> {
    let n = sqlx::query_scalar("SELECT COUNT(*) FROM mail WHERE created_at_ms > $2 AND kind = $1")
        .bind(kind)
        .bind(since_ms)
        .fetch_one(conn.raw())
        .await?;
    Ok(n)
}

/// How many wait to be sent.
pub async fn queued(conn: &mut Conn) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM mail WHERE state = 'queued'").fetch_one(conn.raw()).await?)
}

/// Forgets up to `rows_max` mails that were sent or given up before `before_ms`.
pub async fn forget(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query("DELETE FROM mail WHERE id IN (SELECT id FROM mail WHERE finished_at_ms < $1 LIMIT $2)")
        .bind(before_ms)
        .bind(rows_max)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected())
}
