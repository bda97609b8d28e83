//! The nudge queue: at most one row a channel. `model::schedule` does the arithmetic.

mod answer;
mod claim;
mod contact;
#[cfg(test)]
mod interleavings;

pub use answer::{Answered, Restored, answer, kill, restore};
pub use claim::{Claim, Claimed, Target, claim, due_lanes, postpone, targets};
pub use contact::{Readdress, Reset, readdress, reset};

use serde::Serialize;

use super::batch::rows_sql;
use super::{Conn, Dialect, Sql, rows_json};
use crate::error::Result;
use crate::model::schedule::{GAP_MS, GAP_URGENT_MS};
use crate::model::{Id, Lane};

/// Work that has appeared for a channel.
#[derive(Clone, Copy, Debug)]
pub struct Raise {
    pub channel_id: Id,
    pub lane: Lane,
}

#[derive(Serialize)]
struct RaiseRow {
    bucket: i64,
    channel_id: Id,
    lane: i64,
    gap_ms: i64,
}

// Every right-hand side sees the row as it was. While leased, the change goes to next_due_ms; the answer's write-back obeys it.
// A never-nudged channel (nudged_at_ms null) may be nudged at once.
const RAISE: Sql = rows_sql!(
    "UPDATE wakes AS w SET work_seq = w.work_seq + 1, open_work = 1, attempt = 0, step = 0, fruitless = 0, changed_at_ms = $2, \
       urgent_open = CASE WHEN r.lane = 0 THEN 1 ELSE w.urgent_open END, \
       lane = CASE WHEN w.open_work = 0 OR r.lane < w.lane THEN r.lane ELSE w.lane END, \
       due_at_ms = CASE WHEN w.lease_id IS NOT NULL THEN w.due_at_ms \
         WHEN w.open_work = 1 AND w.lane <= r.lane AND w.due_at_ms < $2 THEN w.due_at_ms \
         WHEN w.nudged_at_ms IS NULL OR w.nudged_at_ms + CASE WHEN r.gap_ms > w.gap_ms THEN r.gap_ms ELSE w.gap_ms END < $2 THEN $2 \
         ELSE w.nudged_at_ms + CASE WHEN r.gap_ms > w.gap_ms THEN r.gap_ms ELSE w.gap_ms END END, \
       next_due_ms = CASE WHEN w.lease_id IS NULL THEN NULL ELSE $2 END \
     FROM ",
    rows(bucket: bigint, channel_id: text, lane: bigint, gap_ms: bigint),
    "WHERE ($3 < 0 OR w.bucket = $3) AND w.bucket = r.bucket AND w.channel_id = r.channel_id"
);

/// Says in the transaction that makes the work that each channel has more to fetch: `work_seq + 1`, the better lane, due now or when
/// the gap to the last nudge has passed. Sets of over [`crate::model::BULK_ABOVE`] channels go in lane `bulk`; the caller says so.
pub async fn raise(conn: &mut Conn, raises: &[Raise], now_ms: i64) -> Result<()> {
    if raises.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<RaiseRow> = raises
        .iter()
        .map(|raise| RaiseRow {
            bucket: raise.channel_id.bucket(),
            channel_id: raise.channel_id,
            lane: raise.lane.rank(),
            gap_ms: if raise.lane == Lane::Urgent { GAP_URGENT_MS } else { GAP_MS },
        })
        .collect();
    // One row a channel, the best lane: an UPDATE ... FROM that meets a row twice would take either.
    rows.sort_by_key(|row| (row.bucket, row.channel_id, row.lane));
    rows.dedup_by_key(|row| row.channel_id);
    lock(conn, &rows.iter().map(|row| row.channel_id).collect::<Vec<_>>()).await?;
    sqlx::query(RAISE.on(conn.dialect())).bind(rows_json(&rows)).bind(now_ms).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

#[derive(Serialize)]
struct KeyRow {
    bucket: i64,
    id: Id,
}

const LOCK: Sql = rows_sql!(
    "SELECT COUNT(*) FROM (SELECT w.channel_id FROM wakes w JOIN ",
    rows(bucket: bigint, id: text),
    "ON w.bucket = r.bucket AND w.channel_id = r.id ORDER BY w.bucket, w.channel_id FOR UPDATE OF w) AS locked"
);

/// Locks the wakes of these channels in the order of their keys, as every transaction does, so that none can deadlock with another.
/// SQLite's writer is alone anyway.
pub async fn lock(conn: &mut Conn, channels: &[Id]) -> Result<()> {
    if conn.dialect() == Dialect::Postgres && channels.len() > 1 {
        let rows: Vec<KeyRow> = channels.iter().map(|id| KeyRow { bucket: id.bucket(), id: *id }).collect();
        sqlx::query(LOCK.postgres).bind(rows_json(&rows)).execute(conn.raw()).await?;
    }
    Ok(())
}
