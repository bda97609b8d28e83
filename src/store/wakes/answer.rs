//! Writing the providers' answers back, in groups, each ending its lease.

use serde::Serialize;

use super::lock;
use crate::error::Result;
use crate::model::Id;
use crate::model::schedule::{GAP_MS, GAP_URGENT_MS, LAZY_MS, PERIOD_S, SPREAD_MS};
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, rows_json};

/// Where one claimed wake goes on.
#[derive(Clone, Debug, Serialize)]
pub struct Answered {
    pub bucket: i64,
    pub channel_id: Id,
    pub lease_id: Id,
    /// Rank of the lane it goes on in.
    pub lane: i64,
    pub due_at_ms: i64,
    pub step: i64,
    pub attempt: i64,
    /// When the nudge left; `None` where none did.
    pub nudged_at_ms: Option<i64>,
    /// 1 where the provider took it, else 0.
    pub accepted: i64,
    /// The changes that it was called for, counted by `work_seq`.
    pub told_seq: i64,
    pub high_day: i64,
    pub high_count: i64,
}

// A change or a contact that came while the wake was leased left next_due_ms: it wins over what the answer says, but never before
// the gap since the nudge has passed. A contact has taken leased_lane away as well: this nudge has its answer already.
const ANSWER: Sql = rows_sql!(
    "UPDATE wakes AS w SET lease_id = NULL, next_due_ms = NULL, high_day = r.high_day, high_count = r.high_count, \
       told_seq = CASE WHEN r.accepted = 1 AND r.told_seq > w.told_seq THEN r.told_seq ELSE w.told_seq END, \
       nudged_at_ms = CASE WHEN r.nudged_at_ms IS NULL THEN w.nudged_at_ms ELSE r.nudged_at_ms END, \
       nudged_lane = CASE WHEN r.nudged_at_ms IS NULL OR w.leased_lane IS NULL THEN w.nudged_lane ELSE w.leased_lane END, leased_lane = NULL, \
       lane = CASE WHEN w.next_due_ms IS NULL THEN r.lane ELSE w.lane END, \
       step = CASE WHEN w.next_due_ms IS NULL THEN r.step ELSE w.step END, \
       attempt = CASE WHEN w.next_due_ms IS NULL THEN r.attempt ELSE w.attempt END, \
       unanswered = CASE WHEN w.leased_lane IS NULL THEN w.unanswered ELSE w.unanswered + r.accepted END, \
       due_at_ms = CASE WHEN w.next_due_ms IS NULL THEN r.due_at_ms \
         WHEN r.nudged_at_ms IS NOT NULL AND r.nudged_at_ms + CASE WHEN w.lane = 0 AND w.gap_ms < $3 THEN $3 WHEN w.gap_ms < $4 AND w.lane > 0 THEN $4 \
           ELSE w.gap_ms END > w.next_due_ms \
         THEN r.nudged_at_ms + CASE WHEN w.lane = 0 AND w.gap_ms < $3 THEN $3 WHEN w.gap_ms < $4 AND w.lane > 0 THEN $4 ELSE w.gap_ms END \
         ELSE w.next_due_ms END \
     FROM ",
    rows(bucket: bigint, channel_id: text, lease_id: text, lane: bigint, due_at_ms: bigint, step: bigint, attempt: bigint,
         nudged_at_ms: bigint, accepted: bigint, told_seq: bigint, high_day: bigint, high_count: bigint),
    "WHERE ($2 < 0 OR w.bucket = $2) AND w.bucket = r.bucket AND w.channel_id = r.channel_id AND w.lease_id = r.lease_id"
);

/// Ends the leases of up to 500 wakes in one statement; a wake whose lease has gone to another claimer is left alone.
pub async fn answer(conn: &mut Conn, answers: &[Answered]) -> Result<u64> {
    if answers.is_empty() {
        return Ok(0);
    }
    lock(conn, &answers.iter().map(|answer| answer.channel_id).collect::<Vec<_>>()).await?;
    let done = sqlx::query(ANSWER.on(conn.dialect()))
        .bind(rows_json(answers))
        .bind(-1_i64)
        .bind(GAP_URGENT_MS)
        .bind(GAP_MS)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected())
}

#[derive(Serialize)]
struct Death<'a> {
    bucket: i64,
    channel_id: Id,
    value: &'a str,
    since_ms: i64,
}

/// Channels by their keys. Not `id`: what a statement returns of its table by that name would be either of two.
fn keys(ids: &[Id]) -> String {
    #[derive(Serialize)]
    struct Key {
        bucket: i64,
        channel_id: Id,
    }
    rows_json(&ids.iter().map(|id| Key { bucket: id.bucket(), channel_id: *id }).collect::<Vec<_>>())
}

/// An address that the provider calls dead or wrong, as it was registered when it was tried.
#[derive(Clone, Debug)]
pub struct Died {
    pub channel_id: Id,
    pub value: String,
    pub since_ms: i64,
}

// Only the address that was tried dies: one that the device registered meanwhile lives, and so does the same one that it registered anew.
const KILL: Sql = rows_sql!(
    "UPDATE channel AS c SET push_state = $2, push_since_ms = $3, push_registered_ms = c.push_since_ms FROM ",
    rows(bucket: bigint, channel_id: text, value: text, since_ms: bigint),
    "WHERE ($4 < 0 OR c.bucket = $4) AND c.bucket = r.bucket AND c.id = r.channel_id AND c.push_value = r.value AND c.push_since_ms = r.since_ms \
       AND c.push_state = 'active'"
);
const MUTE: Sql = rows_sql!(
    "UPDATE wakes AS w SET sender = '', lease_id = NULL, next_due_ms = NULL FROM ",
    rows(bucket: bigint, channel_id: text),
    "WHERE ($2 < 0 OR w.bucket = $2) AND w.bucket = r.bucket AND w.channel_id = r.channel_id \
       AND EXISTS (SELECT 1 FROM channel c WHERE ($2 < 0 OR c.bucket = $2) AND c.bucket = r.bucket AND c.id = r.channel_id \
         AND c.push_state IN ('dead', 'quarantined'))"
);

/// Marks addresses as `state` (`dead` or `quarantined`) and takes their wakes from the sender. Channels before wakes, as everywhere.
pub async fn kill(conn: &mut Conn, state: &str, addresses: &[Died], now_ms: i64) -> Result<()> {
    let mut rows: Vec<Death<'_>> = addresses
        .iter()
        .map(|one| Death { bucket: one.channel_id.bucket(), channel_id: one.channel_id, value: &one.value, since_ms: one.since_ms })
        .collect();
    rows.sort_by_key(|row| (row.bucket, row.channel_id));
    let json = rows_json(&rows);
    crate::store::channels_lock(conn, &rows.iter().map(|row| row.channel_id).collect::<Vec<_>>()).await?;
    sqlx::query(KILL.on(conn.dialect())).bind(&json).bind(state).bind(now_ms).bind(-1_i64).execute(conn.raw()).await?;
    lock(conn, &rows.iter().map(|row| row.channel_id).collect::<Vec<_>>()).await?;
    sqlx::query(MUTE.on(conn.dialect())).bind(&json).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

/// Which quarantined addresses come back.
#[derive(Clone, Copy, Debug)]
pub enum Restored {
    /// Those set aside at or after this instant: the fault was ours.
    Since(i64),
    /// Those set aside before this instant: their day is over.
    Before(i64),
}

/// Gives up to `rows_max` quarantined addresses of `provider` back to `sender`; answers how many.
pub async fn restore(conn: &mut Conn, provider: &str, sender: &str, which: Restored, rows_max: i64, now_ms: i64) -> Result<u64> {
    let (since_ms, before_ms) = match which {
        Restored::Since(at) => (at, i64::MAX),
        Restored::Before(at) => (i64::MIN, at),
    };
    let ids: Vec<Id> = sqlx::query_scalar(
        "SELECT id FROM channel WHERE push_state = 'quarantined' AND push_provider = $1 AND COALESCE(push_topic, '') = $5 AND push_since_ms >= $2 AND push_since_ms < $3 \
         ORDER BY bucket, id LIMIT $4",
    )
    .bind(provider)
    .bind(since_ms)
    .bind(before_ms)
    .bind(rows_max)
    .bind(sender.strip_prefix("apns_mdm/").unwrap_or(""))
    .fetch_all(conn.raw())
    .await?;
    crate::store::channels_lock(conn, &ids).await?;
    // Between the look and the lock a device may have registered anew, or its address may have died: those are left alone.
    let revived: Vec<Id> =
        sqlx::query_scalar(REVIVE.on(conn.dialect())).bind(keys(&ids)).bind(now_ms).bind(-1_i64).fetch_all(conn.raw()).await?;
    lock(conn, &revived).await?;
    sqlx::query(UNMUTE.on(conn.dialect()))
        .bind(keys(&revived))
        .bind(sender)
        .bind(now_ms)
        .bind(SPREAD_MS)
        .bind(PERIOD_S)
        .bind(LAZY_MS)
        .bind(GAP_URGENT_MS)
        .bind(GAP_MS)
        .bind(-1_i64)
        .execute(conn.raw())
        .await?;
    Ok(ids.len() as u64)
}

// An address that comes back is as old as it was: the provider may say yet that it had died before it was set aside.
const REVIVE: Sql = rows_sql!(
    "UPDATE channel AS c SET push_state = 'active', \
       push_since_ms = CASE WHEN c.push_registered_ms IS NULL THEN $2 ELSE c.push_registered_ms END FROM ",
    rows(bucket: bigint, channel_id: text),
    "WHERE ($3 < 0 OR c.bucket = $3) AND c.bucket = r.bucket AND c.id = r.channel_id AND COALESCE(c.push_state, '') = 'quarantined' RETURNING id"
);
// A fleet that comes back together is no herd: what has nothing open waits for its point, what has is called within ten minutes by its
// phase, the urgent at once; and none before its gap has passed.
const UNMUTE: Sql = rows_sql!(
    "UPDATE wakes AS w SET sender = $2, attempt = 0, due_at_ms = CASE \
       WHEN w.open_work = 0 THEN $3 - ($3 - w.phase_s * 1000) % ($5 * 1000) + $5 * 1000 + w.lazy * $6 \
       WHEN w.lane = 0 AND w.nudged_at_ms IS NOT NULL AND w.nudged_at_ms + CASE WHEN w.gap_ms > $7 THEN w.gap_ms ELSE $7 END > $3 \
         THEN w.nudged_at_ms + CASE WHEN w.gap_ms > $7 THEN w.gap_ms ELSE $7 END \
       WHEN w.lane = 0 THEN $3 \
       WHEN w.nudged_at_ms IS NOT NULL AND w.nudged_at_ms + CASE WHEN w.gap_ms > $8 THEN w.gap_ms ELSE $8 END > $3 + w.phase_s * $4 / $5 \
         THEN w.nudged_at_ms + CASE WHEN w.gap_ms > $8 THEN w.gap_ms ELSE $8 END \
       ELSE $3 + w.phase_s * $4 / $5 END FROM ",
    rows(bucket: bigint, channel_id: text),
    "WHERE ($9 < 0 OR w.bucket = $9) AND w.bucket = r.bucket AND w.channel_id = r.channel_id AND w.sender = ''"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Class;
    use crate::store::testing::{devices, each_database};

    #[tokio::test]
    async fn an_address_that_was_registered_anew_outlives_what_was_said_of_it_before() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 5);
            let (_, channel_id) = devices(&db, &clock, 1).await[0];
            let mut conn = db.begin(Class::Nudger).await.unwrap();
            sqlx::query("UPDATE channel SET push_value = 'address', push_state = 'active', push_since_ms = 2000 WHERE id = $1")
                .bind(channel_id)
                .execute(conn.raw())
                .await
                .unwrap();
            for (since_ms, state) in [(1_000, "active"), (2_000, "dead")] {
                let died = Died { channel_id, value: "address".into(), since_ms };
                kill(&mut conn, "dead", &[died], clock.now_ms()).await.unwrap();
                let found: String = sqlx::query_scalar("SELECT push_state FROM channel WHERE id = $1")
                    .bind(channel_id)
                    .fetch_one(conn.raw())
                    .await
                    .unwrap();
                assert_eq!(found, state, "tried as registered at {since_ms}");
            }
            conn.commit().await.unwrap();
        })
        .await;
    }
}
