//! Webhooks: who is told of the feed, how far, and what became of each delivery.

use sqlx_macros::FromRow;

use super::Conn;
use super::feed::FeedRow;
use crate::error::Result;
use crate::model::Id;

/// An endpoint as stored; the secrets are sealed. `state` is `enabled` or `disabled`.
#[derive(Clone, Debug, FromRow)]
pub struct WebhookRow {
    pub id: Id,
    pub url: String,
    /// A JSON list, empty for all.
    pub kinds: String,
    pub state: String,
    pub disabled_reason: Option<String>,
    pub secret: String,
    pub former_secret: Option<String>,
    pub former_until_ms: Option<i64>,
    /// The number of the feed up to which deliveries are made.
    pub read_to: i64,
    pub due_at_ms: i64,
    /// Since when every attempt has failed.
    pub failing_since_ms: Option<i64>,
    pub created_by: String,
    pub created_at_ms: i64,
}

/// A delivery as stored. `state` is `pending`, `delivered` or `dead`.
#[derive(Clone, Debug, FromRow)]
pub struct DeliveryRow {
    pub seq: i64,
    pub id: Id,
    pub kind: String,
    pub state: String,
    pub body: String,
    pub attempts: i64,
    pub created_at_ms: i64,
    pub first_attempt_at_ms: Option<i64>,
    pub last_attempt_at_ms: Option<i64>,
    pub next_attempt_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub status: Option<i64>,
    pub answer: Option<String>,
}

/// What an attempt came to, to be stored.
#[derive(Clone, Debug)]
pub struct Attempted {
    pub state: &'static str,
    pub now_ms: i64,
    /// When to try again, of one that stays pending.
    pub next_attempt_at_ms: Option<i64>,
    pub status: Option<i64>,
    pub answer: String,
}

pub async fn insert(conn: &mut Conn, row: &WebhookRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO webhook (id, url, kinds, state, secret, read_to, due_at_ms, created_by, created_at_ms) \
         VALUES ($1, $2, $3, 'enabled', $4, $5, 0, $6, $7)",
    )
    .bind(row.id)
    .bind(&row.url)
    .bind(&row.kinds)
    .bind(&row.secret)
    .bind(row.read_to)
    .bind(&row.created_by)
    .bind(row.created_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<WebhookRow>> {
    Ok(sqlx::query_as("SELECT * FROM webhook WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

/// How many there are.
pub async fn count(conn: &mut Conn) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM webhook").fetch_one(conn.raw()).await?)
}

/// Those behind an id, '' for the first, oldest first.
pub async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<WebhookRow>> {
    Ok(sqlx::query_as("SELECT * FROM webhook WHERE id > $1 ORDER BY id LIMIT $2").bind(after).bind(limit).fetch_all(conn.raw()).await?)
}

/// Takes an endpoint away; its deliveries go by retention.
pub async fn delete(conn: &mut Conn, id: Id) -> Result<bool> {
    Ok(sqlx::query("DELETE FROM webhook WHERE id = $1").bind(id).execute(conn.raw()).await?.rows_affected() == 1)
}

/// Puts a new secret in the place of the present one, which signs too until `former_until_ms`.
pub async fn rotate(conn: &mut Conn, id: Id, sealed: &str, former_until_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE webhook SET former_secret = secret, former_until_ms = $3, secret = $2 WHERE id = $1")
        .bind(id)
        .bind(sealed)
        .bind(former_until_ms)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Disables an endpoint; false where it was.
pub async fn disable(conn: &mut Conn, id: Id, reason: &str) -> Result<bool> {
    let done = sqlx::query("UPDATE webhook SET state = 'disabled', disabled_reason = $2 WHERE id = $1 AND state = 'enabled'")
        .bind(id)
        .bind(reason)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Enables an endpoint; what waits is tried at once and has its whole time again.
pub async fn enable(conn: &mut Conn, id: Id) -> Result<bool> {
    let text = "UPDATE webhook SET state = 'enabled', disabled_reason = NULL, failing_since_ms = NULL, due_at_ms = 0 WHERE id = $1";
    let done = sqlx::query(text).bind(id).execute(conn.raw()).await?;
    let text = "UPDATE webhook_delivery SET attempts = 0, first_attempt_at_ms = NULL, next_attempt_at_ms = NULL WHERE webhook_id = $1 AND state = 'pending'";
    sqlx::query(text).bind(id).execute(conn.raw()).await?;
    Ok(done.rows_affected() == 1)
}

/// Enabled endpoints that have something due and that no other process is at, the longest waiting first.
pub async fn due(conn: &mut Conn, process: &str, now_ms: i64, rows_max: i64) -> Result<Vec<Id>> {
    let rows = sqlx::query_scalar(
        "SELECT w.id FROM webhook w WHERE w.state = 'enabled' AND w.due_at_ms <= $1 \
           AND (w.read_to < (SELECT COALESCE(MAX(seq), 0) FROM feed) \
             OR EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.state = 'pending')) \
           AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.name = 'webhook/' || w.id AND l.holder <> $2 AND l.until_ms > $1) \
         ORDER BY w.due_at_ms, w.id LIMIT $3",
    )
    .bind(now_ms)
    .bind(process)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// The delivery that goes next: the first that waits.
pub async fn head(conn: &mut Conn, id: Id) -> Result<Option<DeliveryRow>> {
    let text = "SELECT seq, id, kind, state, body, attempts, created_at_ms, first_attempt_at_ms, last_attempt_at_ms, next_attempt_at_ms, \
         finished_at_ms, status, answer FROM webhook_delivery WHERE webhook_id = $1 AND state = 'pending' ORDER BY seq LIMIT 1";
    Ok(sqlx::query_as(text).bind(id).fetch_optional(conn.raw()).await?)
}

/// Makes the delivery of an entry; twice does no harm.
pub async fn insert_delivery(conn: &mut Conn, webhook: Id, entry: &FeedRow, body: &str, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO webhook_delivery (webhook_id, seq, id, kind, state, body, attempts, created_at_ms) \
         VALUES ($1, $2, $3, $4, 'pending', $5, 0, $6) ON CONFLICT (webhook_id, seq) DO NOTHING",
    )
    .bind(webhook)
    .bind(entry.seq)
    .bind(entry.id)
    .bind(&entry.kind)
    .bind(body)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Moves on how far deliveries are made; false where somebody else has.
pub async fn advance(conn: &mut Conn, id: Id, from: i64, to: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE webhook SET read_to = $3 WHERE id = $1 AND read_to = $2")
        .bind(id)
        .bind(from)
        .bind(to)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Stores what an attempt came to; false where the delivery no longer waits.
pub async fn attempted(conn: &mut Conn, webhook: Id, seq: i64, made: &Attempted) -> Result<bool> {
    let finished = (made.state != "pending").then_some(made.now_ms);
    let done = sqlx::query(
        "UPDATE webhook_delivery SET state = $3, attempts = attempts + 1, first_attempt_at_ms = COALESCE(first_attempt_at_ms, $4), \
           last_attempt_at_ms = $4, next_attempt_at_ms = $5, finished_at_ms = $6, status = $7, answer = $8 \
         WHERE webhook_id = $1 AND seq = $2 AND state = 'pending'",
    )
    .bind(webhook)
    .bind(seq)
    .bind(made.state)
    .bind(made.now_ms)
    .bind(made.next_attempt_at_ms)
    .bind(finished)
    .bind(made.status)
    .bind(&made.answer)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets when the endpoint is next tried and since when it fails.
pub async fn set_due(conn: &mut Conn, id: Id, due_at_ms: i64, failing_since_ms: Option<i64>) -> Result<()> {
    sqlx::query("UPDATE webhook SET due_at_ms = $2, failing_since_ms = $3 WHERE id = $1")
        .bind(id)
        .bind(due_at_ms)
        .bind(failing_since_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Deliveries, newest first, from before the number `before`; '' stands for every state.
pub async fn deliveries(conn: &mut Conn, webhook: Id, state: &str, before: Option<i64>, rows_max: i64) -> Result<Vec<DeliveryRow>> {
    let rows = sqlx::query_as(
        "SELECT seq, id, kind, state, body, attempts, created_at_ms, first_attempt_at_ms, last_attempt_at_ms, next_attempt_at_ms, \
           finished_at_ms, status, answer FROM webhook_delivery WHERE webhook_id = $1 AND seq < $2 AND ($3 = '' OR state = $3) \
         ORDER BY seq DESC LIMIT $4",
    )
    .bind(webhook)
    .bind(before.unwrap_or(i64::MAX))
    .bind(state)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// Makes finished deliveries wait again: the one named, or the `rows_max` oldest dead ones; answers how many.
pub async fn redeliver(conn: &mut Conn, webhook: Id, delivery: Option<Id>, rows_max: i64) -> Result<u64> {
    const AGAIN: &str = "UPDATE webhook_delivery SET state = 'pending', attempts = 0, first_attempt_at_ms = NULL, next_attempt_at_ms = NULL, \
         finished_at_ms = NULL WHERE webhook_id = $1 AND id = $2 AND state <> 'pending'";
    const DEAD: &str = "UPDATE webhook_delivery SET state = 'pending', attempts = 0, first_attempt_at_ms = NULL, next_attempt_at_ms = NULL, \
         finished_at_ms = NULL WHERE webhook_id = $1 AND seq IN (SELECT seq FROM webhook_delivery WHERE webhook_id = $1 AND state = 'dead' \
         ORDER BY seq LIMIT $2)";
    let done = match delivery {
        Some(delivery) => sqlx::query(AGAIN).bind(webhook).bind(delivery).execute(conn.raw()).await?,
        None => sqlx::query(DEAD).bind(webhook).bind(rows_max).execute(conn.raw()).await?,
    };
    Ok(done.rows_affected())
}

/// True where the endpoint has a delivery of this id.
pub async fn has_delivery(conn: &mut Conn, webhook: Id, delivery: Id) -> Result<bool> {
    let text = "SELECT seq FROM webhook_delivery WHERE webhook_id = $1 AND id = $2 LIMIT 1";
    let found: Option<i64> = sqlx::query_scalar(text).bind(webhook).bind(delivery).fetch_optional(conn.raw()).await?;
    Ok(found.is_some())
}

/// How many deliveries wait, and how many endpoints fail or are disabled.
pub async fn counts(conn: &mut Conn) -> Result<(i64, i64)> {
    let row = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM webhook w JOIN webhook_delivery d ON d.webhook_id = w.id AND d.state = 'pending'), \
           (SELECT COUNT(*) FROM webhook WHERE state = 'disabled' OR failing_since_ms IS NOT NULL)",
    )
    .fetch_one(conn.raw())
    .await?;
    Ok(row)
}

/// Forgets up to `rows_max` deliveries that were finished before `before_ms`, and those of endpoints that are gone.
pub async fn forget(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let old = "DELETE FROM webhook_delivery WHERE (webhook_id, seq) IN \
         (SELECT webhook_id, seq FROM webhook_delivery WHERE finished_at_ms < $1 ORDER BY finished_at_ms LIMIT $2)";
    let orphans = "DELETE FROM webhook_delivery WHERE (webhook_id, seq) IN \
         (SELECT d.webhook_id, d.seq FROM webhook_delivery d WHERE NOT EXISTS (SELECT 1 FROM webhook w WHERE w.id = d.webhook_id) LIMIT $1)";
    let done = sqlx::query(old).bind(before_ms).bind(rows_max).execute(conn.raw()).await?.rows_affected();
    Ok(done + sqlx::query(orphans).bind(rows_max).execute(conn.raw()).await?.rows_affected())
}
