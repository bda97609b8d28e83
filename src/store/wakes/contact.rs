//! What a serving contact does to the wakes of its channel.

use serde::Serialize;

use super::lock;
use crate::error::Result;
use crate::model::Id;
use crate::model::schedule::GAP_URGENT_MS;
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, rows_json};

/// Where a channel's wake stands after it came.
#[derive(Clone, Debug, Serialize)]
pub struct Reset {
    pub bucket: i64,
    pub channel_id: Id,
    /// The `work_seq` that the contact read before it read the open work.
    pub seen: i64,
    pub lane: i64,
    pub due_at_ms: i64,
    pub open_work: i64,
    pub urgent_open: i64,
    pub fruitless: i64,
}

// work_seq has moved where work appeared after the contact looked: the schedule is then left alone, so no wake-up is lost.
macro_rules! reset {
    ($from:literal) => {
        concat!(
            "UPDATE wakes AS w SET open_work = r.open_work, urgent_open = r.urgent_open, lane = r.lane, step = 0, attempt = 0, \
               fruitless = r.fruitless, unanswered = 0, leased_lane = NULL, told_seq = w.work_seq, \
               due_at_ms = CASE WHEN w.lease_id IS NULL THEN r.due_at_ms ELSE w.due_at_ms END, \
               next_due_ms = CASE WHEN w.lease_id IS NULL THEN NULL ELSE r.due_at_ms END FROM ",
            $from,
            " WHERE ($2 < 0 OR w.bucket = $2) AND w.bucket = r.bucket AND w.channel_id = r.channel_id AND w.work_seq = r.seen"
        )
    };
}

// On PostgreSQL the rows are locked in the order of their keys by the same statement: none is changed before its lock was had in its turn,
// and the condition is looked at again in what the lock has found.
const RESET: Sql = Sql {
    sqlite: reset!(
        "(SELECT value->>'bucket' AS bucket, value->>'channel_id' AS channel_id, value->>'seen' AS seen, value->>'lane' AS lane, \
           value->>'due_at_ms' AS due_at_ms, value->>'open_work' AS open_work, value->>'urgent_open' AS urgent_open, \
           value->>'fruitless' AS fruitless FROM jsonb_each($1)) AS r"
    ),
    postgres: concat!(
        "WITH r AS MATERIALIZED (SELECT r.* FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int, bucket bigint, channel_id text, \
           seen bigint, lane bigint, due_at_ms bigint, open_work bigint, urgent_open bigint, fruitless bigint) WHERE _row IS NULL) AS r \
           JOIN wakes w ON w.bucket = r.bucket AND w.channel_id = r.channel_id ORDER BY w.bucket, w.channel_id FOR UPDATE OF w) ",
        reset!("r")
    ),
};

/// Resets the wakes of channels that came; answers how many were still as the contact had seen them.
pub async fn reset(conn: &mut Conn, resets: &[Reset]) -> Result<u64> {
    if resets.is_empty() {
        return Ok(0);
    }
    let done = sqlx::query(RESET.on(conn.dialect())).bind(rows_json(resets)).bind(-1_i64).execute(conn.raw()).await?;
    Ok(done.rows_affected())
}

/// A channel whose push address is new.
#[derive(Clone, Debug, Serialize)]
pub struct Readdress {
    pub bucket: i64,
    pub channel_id: Id,
    /// The sender it now belongs to; '' where it cannot be nudged.
    pub sender: String,
}

// Due now with open work, but never before the gap since the last nudge has passed.
const READDRESS: Sql = rows_sql!(
    "UPDATE wakes AS w SET sender = r.sender, attempt = 0, \
       due_at_ms = CASE WHEN w.open_work = 0 OR w.lease_id IS NOT NULL THEN w.due_at_ms \
         WHEN w.nudged_at_ms IS NULL OR w.nudged_at_ms + CASE WHEN w.gap_ms > $4 THEN w.gap_ms ELSE $4 END < $2 THEN $2 \
         ELSE w.nudged_at_ms + CASE WHEN w.gap_ms > $4 THEN w.gap_ms ELSE $4 END END, \
       next_due_ms = CASE WHEN w.open_work = 1 AND w.lease_id IS NOT NULL THEN $2 ELSE w.next_due_ms END FROM ",
    rows(bucket: bigint, channel_id: text, sender: text),
    "WHERE ($3 < 0 OR w.bucket = $3) AND w.bucket = r.bucket AND w.channel_id = r.channel_id"
);

/// Hands wakes to the sender of a new address; with open work they are due now.
pub async fn readdress(conn: &mut Conn, addresses: &[Readdress], now_ms: i64) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    lock(conn, &addresses.iter().map(|address| address.channel_id).collect::<Vec<_>>()).await?;
    sqlx::query(READDRESS.on(conn.dialect()))
        .bind(rows_json(addresses))
        .bind(now_ms)
        .bind(-1_i64)
        .bind(GAP_URGENT_MS)
        .execute(conn.raw())
        .await?;
    Ok(())
}
