//! Canaries: one call through a sender whose credential has just come, and what came of it. At most one row a sender.

use sqlx_macros::FromRow;

use super::Conn;
use crate::error::Result;
use crate::model::Id;
use crate::model::schedule::GAP_MS;

/// Of a sender's wakes so many are looked at for a fit channel: those that came last stand first.
const LOOKED_AT_MAX: i64 = 10_000;

/// A canary as it is kept; `state` is `waiting`, `watched` or `ended`.
#[derive(Clone, Debug, FromRow)]
pub struct CanaryRow {
    pub sender: String,
    pub state: String,
    pub starts_at_ms: i64,
    pub ends_at_ms: i64,
    pub device_id: Option<Id>,
    pub channel_id: Option<Id>,
    pub called_at_ms: Option<i64>,
    pub answer: Option<String>,
    pub answered_at_ms: Option<i64>,
    pub contact_at_ms: Option<i64>,
    pub contact_cause: Option<String>,
}

/// The canaries of all senders, by name.
pub async fn list(conn: &mut Conn) -> Result<Vec<CanaryRow>> {
    let text = "SELECT sender, state, starts_at_ms, ends_at_ms, device_id, channel_id, called_at_ms, answer, answered_at_ms, contact_at_ms, \
                contact_cause FROM canary ORDER BY sender LIMIT 1000";
    Ok(sqlx::query_as(text).fetch_all(conn.raw()).await?)
}

/// Puts a canary in the place of the sender's former one; `unless_open` leaves one alone that has not ended. Answers whether it was put.
pub async fn put(conn: &mut Conn, sender: &str, starts_at_ms: i64, ends_at_ms: i64, unless_open: bool) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO canary (sender, state, starts_at_ms, ends_at_ms) VALUES ($1, 'waiting', $2, $3) \
         ON CONFLICT (sender) DO UPDATE SET state = 'waiting', starts_at_ms = excluded.starts_at_ms, ends_at_ms = excluded.ends_at_ms, \
           device_id = NULL, channel_id = NULL, called_at_ms = NULL, answer = NULL, answered_at_ms = NULL, contact_at_ms = NULL, \
           contact_cause = NULL \
         WHERE $4 = 0 OR canary.state = 'ended'",
    )
    .bind(sender)
    .bind(starts_at_ms)
    .bind(ends_at_ms)
    .bind(i64::from(unless_open))
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A canary that waits is watched from now on, or has ended where no channel was fit; false where another process was faster.
pub async fn begin(conn: &mut Conn, sender: &str, starts_at_ms: i64, fit: Option<(Id, Id)>, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE canary SET state = $3, channel_id = $4, device_id = $5, called_at_ms = $6 \
         WHERE sender = $1 AND starts_at_ms = $2 AND state = 'waiting'",
    )
    .bind(sender)
    .bind(starts_at_ms)
    .bind(if fit.is_some() { "watched" } else { "ended" })
    .bind(fit.map(|(channel, _)| channel))
    .bind(fit.map(|(_, device)| device))
    .bind(fit.map(|_| now_ms))
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A channel that may be called through the sender now: it came at or after `seen_since_ms`, nothing keeps it from coming, no call of it
/// is under way and the gap since its last one has passed. No user's channel: that user may not be at the Mac. Answers channel and device.
pub async fn fit(conn: &mut Conn, sender: &str, seen_since_ms: i64, now_ms: i64) -> Result<Option<(Id, Id)>> {
    let text = "SELECT c.id, c.device_id FROM \
         (SELECT bucket, channel_id, nudged_at_ms, gap_ms, lease_id FROM wakes WHERE sender = $1 \
          ORDER BY sender DESC, lane DESC, due_at_ms DESC LIMIT $5) AS w \
         JOIN channel c ON c.bucket = w.bucket AND c.id = w.channel_id \
         WHERE c.subject = '' AND w.lease_id IS NULL AND (w.nudged_at_ms IS NULL OR w.nudged_at_ms + CASE WHEN w.gap_ms > $4 THEN w.gap_ms ELSE $4 END <= $3) \
           AND c.push_state = 'active' AND c.denied IS NULL AND c.last_contact_ms >= $2 \
         ORDER BY c.last_contact_ms DESC, c.id LIMIT 1";
    let found = sqlx::query_as(text).bind(sender).bind(seen_since_ms).bind(now_ms).bind(GAP_MS).bind(LOOKED_AT_MAX);
    Ok(found.fetch_optional(conn.raw()).await?)
}

/// What is to be seen of a channel that was called.
#[derive(Clone, Debug, FromRow)]
pub struct Seen {
    pub nudged_at_ms: Option<i64>,
    pub attempt: i64,
    pub push_state: String,
    pub push_since_ms: i64,
    pub last_contact_ms: Option<i64>,
    pub last_cause: Option<String>,
}

/// How a channel stands; `None` where it is gone.
pub async fn seen(conn: &mut Conn, channel: Id) -> Result<Option<Seen>> {
    let text = "SELECT w.nudged_at_ms, w.attempt, c.push_state, c.push_since_ms, c.last_contact_ms, c.last_cause FROM channel c \
         JOIN wakes w ON w.bucket = c.bucket AND w.channel_id = c.id WHERE c.bucket = $1 AND c.id = $2";
    Ok(sqlx::query_as(text).bind(channel.bucket()).bind(channel).fetch_optional(conn.raw()).await?)
}

/// The fault of a sender that has come up at or after `since_ms` and stands.
pub async fn fault_since(conn: &mut Conn, sender: &str, since_ms: i64) -> Result<Option<String>> {
    let text = "SELECT detail FROM alarm WHERE kind = 'push_fault' AND subject = $1 AND closed_at_ms IS NULL AND opened_at_ms >= $2";
    Ok(sqlx::query_scalar(text).bind(sender).bind(since_ms).fetch_optional(conn.raw()).await?)
}

/// Writes down what has been seen of a watched canary; what is known already stays. False where nothing is new.
pub async fn watch(conn: &mut Conn, row: &CanaryRow) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE canary SET state = $3, answer = COALESCE(answer, $4), answered_at_ms = COALESCE(answered_at_ms, $5), \
           contact_at_ms = COALESCE(contact_at_ms, $6), contact_cause = COALESCE(contact_cause, $7) \
         WHERE sender = $1 AND called_at_ms = $2 AND state = 'watched' \
           AND (state <> $3 OR (answer IS NULL AND $4 IS NOT NULL) OR (contact_at_ms IS NULL AND $6 IS NOT NULL))",
    )
    .bind(&row.sender)
    .bind(row.called_at_ms)
    .bind(&row.state)
    .bind(&row.answer)
    .bind(row.answered_at_ms)
    .bind(row.contact_at_ms)
    .bind(&row.contact_cause)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}
