//! The nudge queue: at most one row a channel. `model::schedule` does the arithmetic.

mod answer;
mod claim;
mod contact;
#[cfg(test)]
mod interleavings;

pub use answer::{Answered, Died, Restored, answer, kill, restore};
pub use claim::{Claim, Claimed, Target, claim, due_lanes, due_urgent, postpone, targets};
pub use contact::{Readdress, Reset, readdress, reset};

use serde::Serialize;

use super::batch::rows_sql;
use super::{Conn, Dialect, Sql, keys_json, rows_json};
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
}

// Every right-hand side sees the row as it was. While leased, the change goes to next_due_ms; the answer's write-back obeys it.
// A never-nudged channel (nudged_at_ms null) may be nudged at once. The gap is that of the lane in which the row ends, and what is due
// sooner in a lane as good stays so: a change does not put a lock off.
const RAISE: Sql = rows_sql!(
    "UPDATE wakes AS w SET work_seq = w.work_seq + 1, open_work = 1, attempt = 0, step = 0, fruitless = 0, changed_at_ms = $2, \
       urgent_open = CASE WHEN r.lane = 0 THEN 1 ELSE w.urgent_open END, \
       lane = CASE WHEN w.open_work = 0 OR r.lane < w.lane THEN r.lane ELSE w.lane END, \
       due_at_ms = CASE WHEN w.lease_id IS NOT NULL THEN w.due_at_ms \
         WHEN w.open_work = 1 AND w.lane <= r.lane AND w.due_at_ms < $2 THEN w.due_at_ms \
         WHEN w.nudged_at_ms IS NULL OR w.nudged_at_ms + CASE WHEN (r.lane = 0 OR w.open_work = 1 AND w.lane = 0) AND w.gap_ms < $4 THEN $4 \
           WHEN r.lane > 0 AND (w.open_work = 0 OR w.lane > 0) AND w.gap_ms < $5 THEN $5 ELSE w.gap_ms END < $2 THEN $2 \
         WHEN w.open_work = 1 AND w.lane <= r.lane AND w.due_at_ms < w.nudged_at_ms + CASE WHEN w.lane = 0 AND w.gap_ms < $4 THEN $4 \
           WHEN w.lane > 0 AND w.gap_ms < $5 THEN $5 ELSE w.gap_ms END THEN w.due_at_ms \
         ELSE w.nudged_at_ms + CASE WHEN (r.lane = 0 OR w.open_work = 1 AND w.lane = 0) AND w.gap_ms < $4 THEN $4 \
           WHEN r.lane > 0 AND (w.open_work = 0 OR w.lane > 0) AND w.gap_ms < $5 THEN $5 ELSE w.gap_ms END END, \
       next_due_ms = CASE WHEN w.lease_id IS NULL THEN NULL ELSE $2 END \
     FROM ",
    rows(bucket: bigint, channel_id: text, lane: bigint),
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
        .map(|raise| RaiseRow { bucket: raise.channel_id.bucket(), channel_id: raise.channel_id, lane: raise.lane.rank() })
        .collect();
    // One row a channel, the best lane: an UPDATE ... FROM that meets a row twice would take either.
    rows.sort_by_key(|row| (row.bucket, row.channel_id, row.lane));
    rows.dedup_by_key(|row| row.channel_id);
    lock(conn, &rows.iter().map(|row| row.channel_id).collect::<Vec<_>>()).await?;
    sqlx::query(RAISE.on(conn.dialect()))
        .bind(rows_json(&rows))
        .bind(now_ms)
        .bind(-1_i64)
        .bind(GAP_URGENT_MS)
        .bind(GAP_MS)
        .execute(conn.raw())
        .await?;
    Ok(())
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
        sqlx::query(LOCK.postgres).bind(keys_json(channels)).execute(conn.raw()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::model::schedule::LEASE_MS;
    use crate::store::testing::each_database;
    use crate::store::testing::fleet::{fleet, numbers};
    use crate::store::{Class, Db};

    const START_MS: i64 = 1_800_000_000_000;

    async fn raise_at(db: &Db, channel_id: Id, lane: Lane, now_ms: i64) {
        let mut conn = db.begin(Class::Operators).await.unwrap();
        raise(&mut conn, &[Raise { channel_id, lane }], now_ms).await.unwrap();
        conn.commit().await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_comes_back_is_as_old_as_it_was() {
        each_database(async |db| {
            let id = fleet(&db, &Clock::moved(START_MS, 5), 1, 0).await[0].channel_id;
            let since = async || numbers(&db, "SELECT push_since_ms - 1800000000000 FROM channel").await;
            let mut conn = db.begin(Class::Nudger).await.unwrap();
            let addresses = interleavings::died(&mut conn, &[id]).await;
            kill(&mut conn, "quarantined", &addresses, START_MS + 5_000).await.unwrap();
            conn.commit().await.unwrap();
            assert_eq!(since().await, [5_000]);
            let mut conn = db.begin(Class::Nudger).await.unwrap();
            restore(&mut conn, "fcm", "fcm", Restored::Since(START_MS + 5_000), 10, START_MS + 9_000).await.unwrap();
            conn.commit().await.unwrap();
            // Or a death that the provider dates before the quarantine would be that of an earlier registration.
            assert_eq!(since().await, [0]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_does_not_put_a_lock_off_and_a_lock_hastens_a_change() {
        each_database(async |db| {
            let clock = Clock::moved(START_MS, 5);
            let id = fleet(&db, &clock, 1, 0).await[0].channel_id;
            raise_at(&db, id, Lane::Change, START_MS).await;
            let lease_id = clock.moment().id();
            let claim_ =
                Claim { sender: "fcm", lane: Lane::Change, now_ms: START_MS, lapses_at_ms: START_MS + LEASE_MS, lease_id, rows_max: 1 };
            let mut conn = db.begin(Class::Nudger).await.unwrap();
            let wake = claim(&mut conn, &claim_).await.unwrap().remove(0);
            let answered = Answered {
                bucket: id.bucket(),
                channel_id: id,
                lease_id,
                lane: wake.lane,
                due_at_ms: START_MS + 1_800_000,
                step: 1,
                attempt: 0,
                nudged_at_ms: Some(START_MS),
                accepted: 1,
                told_seq: wake.work_seq,
                high_day: 0,
                high_count: 0,
            };
            answer(&mut conn, &[answered]).await.unwrap();
            conn.commit().await.unwrap();
            let due = async || numbers(&db, "SELECT due_at_ms - 1800000000000 FROM wakes").await;
            raise_at(&db, id, Lane::Change, START_MS + 1_000).await;
            assert_eq!(due().await, [GAP_MS], "the gap of its lane after the last nudge");
            raise_at(&db, id, Lane::Urgent, START_MS + 2_000).await;
            assert_eq!(due().await, [GAP_URGENT_MS]);
            raise_at(&db, id, Lane::Change, START_MS + 3_000).await;
            assert_eq!(due().await, [GAP_URGENT_MS], "it is called in for both");
            raise_at(&db, id, Lane::Bulk, START_MS + 30_000).await;
            assert_eq!(due().await, [GAP_URGENT_MS], "what is overdue keeps its place");
        })
        .await;
    }
}
