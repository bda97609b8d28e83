//! Events of devices, and the heads that say which was the newest of each subject.

use std::collections::HashSet;

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::Result;
use crate::model::Id;

/// Rows that travel in one statement; a storm's batch takes several.
const ROWS_MAX: usize = 1000;

/// An event to be recorded.
#[derive(Clone, Debug, Serialize)]
pub struct NewEvent {
    pub bucket: i64,
    pub channel_id: Id,
    /// The device's own id of it, a UUID.
    pub event_id: String,
    pub id: Id,
    pub device_id: Id,
    pub r#type: &'static str,
    pub activation: i64,
    pub seq: i64,
    /// Corrected by the skew of the device's clock, never later than `received_at_ms`.
    pub occurred_at_ms: i64,
    /// By the device's own clock.
    pub claimed_at_ms: i64,
    pub first_attempt_at_ms: Option<i64>,
    pub received_at_ms: i64,
    pub attempt: i64,
    pub boot_id: Option<String>,
    pub uptime_ms: Option<i64>,
    pub policy_version: Option<String>,
    /// JSON.
    pub data: String,
}

// WHERE TRUE tells SQLite's parser that ON belongs to the INSERT.
const RECORD: Sql = rows_sql!(
    "INSERT INTO event (bucket, channel_id, event_id, id, device_id, type, activation, seq, occurred_at_ms, claimed_at_ms, \
       first_attempt_at_ms, received_at_ms, attempt, boot_id, uptime_ms, policy_version, late, data) \
     SELECT r.bucket, r.channel_id, r.event_id, r.id, r.device_id, r.type, r.activation, r.seq, r.occurred_at_ms, r.claimed_at_ms, \
       r.first_attempt_at_ms, r.received_at_ms, r.attempt, r.boot_id, r.uptime_ms, r.policy_version, 0, r.data FROM ",
    rows(
        bucket: bigint, channel_id: text, event_id: text, id: text, device_id: text, type: text, activation: bigint, seq: bigint,
        occurred_at_ms: bigint, claimed_at_ms: bigint, first_attempt_at_ms: bigint, received_at_ms: bigint, attempt: bigint,
        boot_id: text, uptime_ms: bigint, policy_version: text, data: text
    ),
    "WHERE TRUE ON CONFLICT (bucket, channel_id, event_id) DO NOTHING RETURNING id"
);

/// Records events and answers the ids of those that are new; the others had been recorded before.
pub async fn record(conn: &mut Conn, events: &[NewEvent]) -> Result<HashSet<Id>> {
    let mut recorded = HashSet::with_capacity(events.len());
    for rows in events.chunks(ROWS_MAX) {
        let ids: Vec<Id> = sqlx::query_scalar(RECORD.on(conn.dialect())).bind(rows_json(rows)).fetch_all(conn.raw()).await?;
        recorded.extend(ids);
    }
    Ok(recorded)
}

/// One event by its whole key.
#[derive(Clone, Debug, Serialize)]
pub struct EventKey {
    pub bucket: i64,
    pub channel_id: Id,
    pub event_id: String,
}

const MARK_LATE: Sql = rows_sql!(
    "UPDATE event AS e SET late = 1 FROM ",
    rows(bucket: bigint, channel_id: text, event_id: text),
    "WHERE e.bucket = r.bucket AND e.channel_id = r.channel_id AND e.event_id = r.event_id"
);

/// Marks events that came after a newer one of their subject.
pub async fn mark_late(conn: &mut Conn, events: &[EventKey]) -> Result<()> {
    for rows in events.chunks(ROWS_MAX) {
        sqlx::query(MARK_LATE.on(conn.dialect())).bind(rows_json(rows)).execute(conn.raw()).await?;
    }
    Ok(())
}

/// What a head is kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HeadKey {
    pub bucket: i64,
    pub channel_id: Id,
    pub subject: String,
}

/// The newest event of a subject on a channel.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct Head {
    pub bucket: i64,
    pub channel_id: Id,
    pub subject: String,
    pub activation: i64,
    pub seq: i64,
}

const HEADS: Sql = rows_sql!(
    "SELECT h.bucket, h.channel_id, h.subject, h.activation, h.seq FROM ",
    rows(bucket: bigint, channel_id: text, subject: text),
    "JOIN event_head h ON h.bucket = r.bucket AND h.channel_id = r.channel_id AND h.subject = r.subject"
);

/// The heads there are.
pub async fn heads(conn: &mut Conn, keys: &[HeadKey]) -> Result<Vec<Head>> {
    let mut found = Vec::new();
    for rows in keys.chunks(ROWS_MAX) {
        let heads: Vec<Head> = sqlx::query_as(HEADS.on(conn.dialect())).bind(rows_json(rows)).fetch_all(conn.raw()).await?;
        found.extend(heads);
    }
    Ok(found)
}

const ADVANCE: Sql = rows_sql!(
    "INSERT INTO event_head (bucket, channel_id, subject, activation, seq) SELECT r.bucket, r.channel_id, r.subject, r.activation, r.seq FROM ",
    rows(bucket: bigint, channel_id: text, subject: text, activation: bigint, seq: bigint),
    "WHERE TRUE ON CONFLICT (bucket, channel_id, subject) DO UPDATE SET activation = excluded.activation, seq = excluded.seq \
     WHERE event_head.activation < excluded.activation OR (event_head.activation = excluded.activation AND event_head.seq < excluded.seq)"
);

/// Moves heads forward, never back; each key at most once.
pub async fn advance(conn: &mut Conn, heads: &[Head]) -> Result<()> {
    for rows in heads.chunks(ROWS_MAX) {
        sqlx::query(ADVANCE.on(conn.dialect())).bind(rows_json(rows)).execute(conn.raw()).await?;
    }
    Ok(())
}

/// An event as it is kept.
#[derive(Clone, Debug, FromRow)]
pub struct EventRow {
    pub id: Id,
    pub event_id: String,
    pub device_id: Id,
    pub channel_id: Id,
    pub r#type: String,
    pub activation: i64,
    pub seq: i64,
    pub occurred_at_ms: i64,
    pub claimed_at_ms: i64,
    pub first_attempt_at_ms: Option<i64>,
    pub received_at_ms: i64,
    pub attempt: i64,
    pub boot_id: Option<String>,
    pub uptime_ms: Option<i64>,
    pub policy_version: Option<String>,
    pub late: i64,
    pub data: String,
}

macro_rules! list_sql {
    ($where:literal) => {
        concat!(
            "SELECT id, event_id, device_id, channel_id, type, activation, seq, occurred_at_ms, claimed_at_ms, first_attempt_at_ms, \
               received_at_ms, attempt, boot_id, uptime_ms, policy_version, late, data FROM event WHERE id < $1 ",
            $where,
            " ORDER BY id DESC LIMIT $2"
        )
    };
}

/// Later than every id.
const NEWEST: &str = "~";

/// Events, newest first, `rows_max` at most, from before `before`; each filter has a text, and an index, of its own.
pub async fn list(conn: &mut Conn, device: Option<Id>, kind: Option<&str>, before: Option<Id>, rows_max: i64) -> Result<Vec<EventRow>> {
    let before = before.map_or_else(|| NEWEST.to_owned(), |id| id.to_string());
    let rows = match (device, kind) {
        (None, None) => sqlx::query_as(list_sql!("")).bind(before).bind(rows_max),
        (Some(device), None) => sqlx::query_as(list_sql!("AND device_id = $3")).bind(before).bind(rows_max).bind(device),
        (None, Some(kind)) => sqlx::query_as(list_sql!("AND type = $3")).bind(before).bind(rows_max).bind(kind),
        (Some(device), Some(kind)) => {
            sqlx::query_as(list_sql!("AND device_id = $3 AND type = $4")).bind(before).bind(rows_max).bind(device).bind(kind)
        }
    };
    Ok(rows.fetch_all(conn.raw()).await?)
}

/// Forgets up to `rows_max` events received before `before_ms`; answers how many.
pub async fn forget(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM event WHERE (bucket, channel_id, event_id) IN \
           (SELECT bucket, channel_id, event_id FROM event WHERE id < $1 ORDER BY id LIMIT $2)",
    )
    .bind(Id::first_of(before_ms))
    .bind(rows_max)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected())
}
