//! How alive devices are, by evidence: read in pages by the clock worker, and moved by it alone.

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::Result;
use crate::model::Id;

/// What is known of a device that should come in.
#[derive(Clone, Debug, FromRow)]
pub struct Evidence {
    pub id: Id,
    /// `active`, `idle` or `silent`; devices in other states are not walked.
    pub state: String,
    /// The last contact of its liveliest channel; before the first, its activation.
    pub seen_ms: i64,
    /// Accepted nudges since then that no channel has answered: the fewest of its channels.
    pub unanswered: i64,
    /// The last contact of our app on it; before the first, its activation. `None` where it has none.
    pub app_seen_ms: Option<i64>,
    /// [`DEVICE_SILENT`] where a finding of silence is open, and [`APP_SILENT`] where one of its app's silence is.
    pub silences: i64,
    /// 1 where it may not go on (unauthorized, its user disabled): its silence is no finding.
    pub denied: i64,
}

/// In [`Evidence::silences`]: a finding that the device is silent is open.
pub const DEVICE_SILENT: i64 = 1;
/// In [`Evidence::silences`]: a finding that its app alone is silent is open.
pub const APP_SILENT: i64 = 2;

/// Devices in the order of their keys, `rows_max` at most, from after `(bucket, after)` within one bucket.
pub async fn page(conn: &mut Conn, bucket: i64, after: &str, rows_max: i64) -> Result<Vec<Evidence>> {
    let rows = sqlx::query_as(
        "SELECT d.id, d.state, \
           COALESCE((SELECT MAX(CASE WHEN c.last_contact_ms > COALESCE(c.activated_at_ms, 0) THEN c.last_contact_ms ELSE c.activated_at_ms END) \
             FROM channel c WHERE c.bucket = d.bucket AND c.device_id = d.id), d.created_at_ms) AS seen_ms, \
           COALESCE((SELECT MIN(w.unanswered) FROM channel c JOIN wakes w ON w.bucket = c.bucket AND w.channel_id = c.id \
             WHERE c.bucket = d.bucket AND c.device_id = d.id), 0) AS unanswered, \
           (SELECT CASE WHEN c.last_contact_ms > COALESCE(c.activated_at_ms, 0) THEN c.last_contact_ms ELSE c.activated_at_ms END \
             FROM channel c WHERE c.bucket = d.bucket AND c.device_id = d.id AND c.kind = 'agent' AND c.subject = '') AS app_seen_ms, \
           COALESCE((SELECT SUM(CASE f.kind WHEN 'silence' THEN 1 ELSE 2 END) FROM finding f WHERE f.bucket = d.bucket AND f.device_id = d.id \
             AND f.kind IN ('silence', 'client_silent') AND f.closed_at_ms IS NULL), 0) AS silences, \
           CASE WHEN d.denied IS NULL THEN 0 ELSE 1 END AS denied \
         FROM device d WHERE d.bucket = $1 AND d.id > $2 ORDER BY d.id LIMIT $3",
    )
    .bind(bucket)
    .bind(after)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// A device that changes its state.
#[derive(Clone, Debug, Serialize)]
pub struct Move {
    pub bucket: i64,
    pub id: Id,
    pub from_state: String,
    pub to_state: &'static str,
}

const MOVE: Sql = rows_sql!(
    "UPDATE device SET state = r.to_state, state_since_ms = $2 FROM ",
    rows(bucket: bigint, id: text, from_state: text, to_state: text),
    "WHERE device.bucket = r.bucket AND device.id = r.id AND device.state = r.from_state RETURNING device.id"
);

/// Moves devices that are still in the state they were read in; answers those.
pub async fn advance(conn: &mut Conn, moves: &[Move], now_ms: i64) -> Result<Vec<Id>> {
    Ok(sqlx::query_scalar(MOVE.on(conn.dialect())).bind(rows_json(moves)).bind(now_ms).fetch_all(conn.raw()).await?)
}

/// How many devices are in each state.
pub async fn counts(conn: &mut Conn) -> Result<Vec<(String, i64)>> {
    Ok(sqlx::query_as("SELECT state, COUNT(*) FROM device GROUP BY state").fetch_all(conn.raw()).await?)
}

/// How many push addresses are in each state; channels without one are not counted.
pub async fn push_counts(conn: &mut Conn) -> Result<Vec<(String, i64)>> {
    let counted = "SELECT push_state, COUNT(*) FROM channel WHERE push_value IS NOT NULL GROUP BY push_state";
    Ok(sqlx::query_as(counted).fetch_all(conn.raw()).await?)
}
