//! Claiming due wakes: a lease, nothing more.

use serde::Deserialize;
use sqlx_macros::FromRow;

use crate::error::Result;
use crate::model::schedule::{LAZY_MS, PERIOD_S, SPREAD_MS};
use crate::model::{Id, Lane};
use crate::store::batch::{json_list, parameters, read_sql};
use crate::store::{Conn, Dialect, Sql, keys_json};

/// What to claim.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub sender: &'a str,
    pub lane: Lane,
    pub now_ms: i64,
    /// When the lease lapses by itself.
    pub lapses_at_ms: i64,
    pub lease_id: Id,
    pub rows_max: i64,
}

/// A wake that is now ours until its lease lapses.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct Claimed {
    pub channel_id: Id,
    pub lane: i64,
    pub step: i64,
    pub attempt: i64,
    pub open_work: i64,
    /// How many changes there have been, and of those how many the device was called for or came for.
    pub work_seq: i64,
    pub told_seq: i64,
    pub nudged_at_ms: Option<i64>,
    pub unanswered: i64,
    pub high_day: i64,
    pub high_count: i64,
    pub gap_ms: i64,
    pub phase_s: i64,
    pub lazy: i64,
}

// SQLite's writer is alone: what it reads is what it then leases.
const DUE: &str = "SELECT json_group_array(json_object('channel_id', channel_id, 'lane', lane, 'step', step, 'attempt', attempt, \
       'open_work', open_work, 'work_seq', work_seq, 'told_seq', told_seq, 'nudged_at_ms', nudged_at_ms, 'unanswered', unanswered, \
       'high_day', high_day, 'high_count', high_count, 'gap_ms', gap_ms, 'phase_s', phase_s, 'lazy', lazy)) FROM \
     (SELECT * FROM wakes WHERE ($1 < 0 OR bucket = $1) AND sender = $2 AND lane = $3 AND due_at_ms <= $4 ORDER BY due_at_ms, rowid LIMIT $5) AS d";
const LEASE: &str = "UPDATE wakes SET due_at_ms = $6, lease_id = $7, leased_lane = lane, next_due_ms = NULL WHERE rowid IN \
     (SELECT rowid FROM wakes WHERE ($1 < 0 OR bucket = $1) AND sender = $2 AND lane = $3 AND due_at_ms <= $4 ORDER BY due_at_ms, rowid LIMIT $5)";

// Several processes claim side by side, each what no other has locked.
const CLAIM: &str = "WITH d AS MATERIALIZED (SELECT bucket, channel_id FROM wakes \
       WHERE ($1 < 0 OR bucket = $1) AND sender = $2 AND lane = $3 AND due_at_ms <= $4 ORDER BY due_at_ms LIMIT $5 FOR UPDATE SKIP LOCKED) \
     UPDATE wakes AS w SET due_at_ms = $6, lease_id = $7, leased_lane = w.lane, next_due_ms = NULL FROM d \
     WHERE ($1 < 0 OR w.bucket = $1) AND w.bucket = d.bucket AND w.channel_id = d.channel_id \
     RETURNING w.channel_id, w.lane, w.step, w.attempt, w.open_work, w.work_seq, w.told_seq, w.nudged_at_ms, w.unanswered, w.high_day, \
       w.high_count, w.gap_ms, w.phase_s, w.lazy";

/// Leases up to `rows_max` due wakes of one sender and lane, oldest first.
pub async fn claim(conn: &mut Conn, claim: &Claim<'_>) -> Result<Vec<Claimed>> {
    let leased = parameters![-1_i64, claim.sender, claim.lane.rank(), claim.now_ms, claim.rows_max, claim.lapses_at_ms, claim.lease_id];
    if conn.dialect() == Dialect::Postgres {
        return Ok(sqlx::query_as_with(CLAIM, leased).fetch_all(conn.raw()).await?);
    }
    let due = parameters![-1_i64, claim.sender, claim.lane.rank(), claim.now_ms, claim.rows_max];
    let claimed: Vec<Claimed> = json_list(conn, DUE, due).await?;
    if !claimed.is_empty() {
        sqlx::query_with(LEASE, leased).execute(conn.raw()).await?;
    }
    Ok(claimed)
}

macro_rules! oldest {
    ($lane:literal) => {
        concat!(
            "(SELECT due_at_ms FROM wakes WHERE sender = $1 AND lane = ",
            $lane,
            " AND due_at_ms <= $2 ORDER BY sender, lane, due_at_ms LIMIT 1)"
        )
    };
}

/// The lanes of this sender in which something is due, each with the instant since which its oldest wake waits; a read that spares the
/// writer when nothing is.
pub async fn due_lanes(conn: &mut Conn, sender: &str, now_ms: i64) -> Result<Vec<(Lane, i64)>> {
    type Oldest = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
    let text = concat!("SELECT ", oldest!(0), ", ", oldest!(1), ", ", oldest!(2), ", ", oldest!(3), ", ", oldest!(4));
    let (urgent, change, bulk, retry, periodic): Oldest = sqlx::query_as(text).bind(sender).bind(now_ms).fetch_one(conn.raw()).await?;
    Ok(Lane::ALL.into_iter().zip([urgent, change, bulk, retry, periodic]).filter_map(|(lane, oldest)| Some((lane, oldest?))).collect())
}

/// As [`due_lanes`], of the urgent lane alone.
pub async fn due_urgent(conn: &mut Conn, sender: &str, now_ms: i64) -> Result<Option<(Lane, i64)>> {
    let oldest: Option<i64> = sqlx::query_scalar(concat!("SELECT ", oldest!(0))).bind(sender).bind(now_ms).fetch_one(conn.raw()).await?;
    Ok(oldest.map(|oldest_ms| (Lane::Urgent, oldest_ms)))
}

// The newest first: as long as any is left, the oldest is, and says that there is more to do. What a dead process had claimed lapsed
// long ago; a late answer of it no longer matches.
macro_rules! postpone {
    ($lock:literal) => {
        concat!(
            "WITH d AS MATERIALIZED (SELECT bucket, channel_id FROM wakes \
             WHERE ($1 < 0 OR bucket = $1) AND sender = $2 AND lane = $3 AND due_at_ms <= $4 \
             ORDER BY sender DESC, lane DESC, due_at_ms DESC LIMIT $5",
            $lock,
            ") UPDATE wakes AS w SET lease_id = NULL, next_due_ms = NULL, due_at_ms = CASE WHEN w.open_work = 1 THEN $4 + w.phase_s * $6 / $7 \
             ELSE $4 - ($4 - w.phase_s * 1000) % ($7 * 1000) + $7 * 1000 + w.lazy * $8 END FROM d \
             WHERE ($1 < 0 OR w.bucket = $1) AND w.bucket = d.bucket AND w.channel_id = d.channel_id"
        )
    };
}
const POSTPONE: Sql = Sql { sqlite: postpone!(""), postgres: postpone!(" FOR UPDATE SKIP LOCKED") };

/// Spreads up to `rows_max` overdue wakes of one sender and lane by their phases: those without open work go to their next point, those
/// with it over the next [`SPREAD_MS`]. Answers how many.
pub async fn postpone(conn: &mut Conn, sender: &str, lane: Lane, rows_max: i64, now_ms: i64) -> Result<u64> {
    let done = sqlx::query(POSTPONE.on(conn.dialect()))
        .bind(-1_i64)
        .bind(sender)
        .bind(lane.rank())
        .bind(now_ms)
        .bind(rows_max)
        .bind(SPREAD_MS)
        .bind(PERIOD_S)
        .bind(LAZY_MS)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected())
}

/// What a claimed wake needs to become a nudge, read just before sending.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct Target {
    pub channel_id: Id,
    pub device_id: Id,
    pub app: String,
    /// '' but for a user's channel of an Apple device.
    pub subject: String,
    pub platform: String,
    pub push_kind: Option<String>,
    pub push_value: Option<String>,
    /// The sealed PushMagic of an MDM channel.
    pub push_secret: Option<String>,
    /// Unix milliseconds at which this address was registered.
    pub push_since_ms: i64,
    pub last_serving_ms: Option<i64>,
    /// Set where a change or a contact came after the claim.
    pub next_due_ms: Option<i64>,
    pub open_work: i64,
}

const TARGETS: Sql = read_sql!(
    [
        c(device_id, subject, platform, push_kind, push_value, push_secret, push_since_ms, last_serving_ms), d(app), w(next_due_ms, open_work);
        channel_id = "c.id"
    ],
    rows(bucket: bigint, id: text),
    "JOIN channel c ON c.bucket = r.bucket AND c.id = r.id \
     JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id \
     JOIN wakes w ON w.bucket = c.bucket AND w.channel_id = c.id \
     WHERE ($2 < 0 OR c.bucket = $2) AND w.lease_id = $3"
);

/// The targets of the wakes that `lease_id` still holds.
pub async fn targets(conn: &mut Conn, channels: &[Id], lease_id: Id) -> Result<Vec<Target>> {
    TARGETS.read(conn, parameters![keys_json(channels), -1_i64, lease_id]).await
}
