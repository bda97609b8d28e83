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
    /// Accepted nudges since then that no channel has answered: the fewest of its channels. 0 of a device that was seen lately.
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

/// Devices in the order of their keys, `rows_max` at most, from after `(bucket, after)` within one bucket. What their nudges came to is
/// read of those alone that were not seen since `seen_ms`; of others it is 0.
pub async fn page(conn: &mut Conn, bucket: i64, after: &str, seen_ms: i64, rows_max: i64) -> Result<Vec<Evidence>> {
    let rows = sqlx::query_as(
        "SELECT e.id, e.state, e.seen_ms, e.app_seen_ms, CASE WHEN e.seen_ms > $3 THEN 0 ELSE \
           COALESCE((SELECT MIN(w.unanswered) FROM channel c JOIN wakes w ON w.bucket = c.bucket AND w.channel_id = c.id \
             WHERE c.bucket = $1 AND c.device_id = e.id), 0) END AS unanswered, \
           COALESCE((SELECT SUM(CASE f.kind WHEN 'silence' THEN 1 ELSE 2 END) FROM finding f WHERE f.bucket = $1 AND f.device_id = e.id \
             AND f.kind IN ('silence', 'client_silent') AND f.closed_at_ms IS NULL), 0) AS silences, \
           CASE WHEN e.denied IS NULL THEN 0 ELSE 1 END AS denied \
         FROM (SELECT d.id, d.state, d.denied, COALESCE(MAX(c.seen_ms), d.created_at_ms) AS seen_ms, \
             MAX(CASE WHEN c.kind = 'agent' AND c.subject = '' THEN c.seen_ms END) AS app_seen_ms \
           FROM (SELECT id, state, denied, created_at_ms FROM device WHERE bucket = $1 AND id > $2 ORDER BY id LIMIT $4) AS d \
           LEFT JOIN (SELECT bucket, device_id, kind, subject, \
               CASE WHEN last_contact_ms > COALESCE(activated_at_ms, 0) THEN last_contact_ms ELSE activated_at_ms END AS seen_ms FROM channel) AS c \
             ON c.bucket = $1 AND c.device_id = d.id \
           GROUP BY d.id, d.state, d.denied, d.created_at_ms) AS e ORDER BY e.id",
    )
    .bind(bucket)
    .bind(after)
    .bind(seen_ms)
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
