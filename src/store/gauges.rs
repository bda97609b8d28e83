//! What the gauges of the schedule show, each from the range of an index.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Conn, liveness, meta};
use crate::error::Result;
use crate::model::Lane;

/// Rows that are counted at most: a queue of that depth is deep, however much deeper it is.
pub const COUNTED_MAX: i64 = 100_000;

/// Due wakes of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    pub lane: Lane,
    /// At most [`COUNTED_MAX`].
    pub wakes: i64,
    /// Unix milliseconds since which the oldest waits; `None` where nothing is due.
    pub oldest_ms: Option<i64>,
}

/// The depth of each lane of one sender. What is on the wire is not due: its lease has not lapsed.
pub async fn depths(conn: &mut Conn, sender: &str, now_ms: i64) -> Result<Vec<Depth>> {
    let mut depths = Vec::with_capacity(Lane::ALL.len());
    for lane in Lane::ALL {
        let (wakes, oldest_ms): (i64, Option<i64>) = sqlx::query_as(
            "SELECT COUNT(*), MIN(due_at_ms) FROM (SELECT due_at_ms FROM wakes WHERE sender = $1 AND lane = $2 AND due_at_ms <= $3 \
             ORDER BY sender, lane, due_at_ms LIMIT $4) AS due",
        )
        .bind(sender)
        .bind(lane.rank())
        .bind(now_ms)
        .bind(COUNTED_MAX)
        .fetch_one(conn.raw())
        .await?;
        depths.push(Depth { lane, wakes, oldest_ms });
    }
    Ok(depths)
}

/// How many channels each sender calls, by its name. Reads an index to its end: for a person who asks.
pub async fn called_by(conn: &mut Conn) -> Result<Vec<(String, i64)>> {
    let text = "SELECT sender, COUNT(*) FROM wakes WHERE sender <> '' GROUP BY sender ORDER BY sender";
    Ok(sqlx::query_as(text).fetch_all(conn.raw()).await?)
}

/// How many devices a sender calls, or would call; at most `most`.
pub async fn devices_of(conn: &mut Conn, sender: &str, most: i64) -> Result<i64> {
    let found = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT w.channel_id FROM wakes w JOIN channel c ON c.bucket = w.bucket AND c.id = w.channel_id \
         WHERE w.sender = $1 AND c.subject = '' LIMIT $2) AS called",
    )
    .bind(sender)
    .bind(most)
    .fetch_one(conn.raw())
    .await?;
    Ok(found)
}

/// Channels by what is expected of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Called at least once, and not yet come.
    pub armed: i64,
    /// Of these, called three times or more in vain.
    pub overdue: i64,
}

/// Counts the channels that were nudged and have not come since, by the index of those alone.
pub async fn expected(conn: &mut Conn) -> Result<Expected> {
    let (armed, overdue): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN unanswered >= 3 THEN 1 ELSE 0 END), 0) AS BIGINT) \
         FROM (SELECT unanswered FROM wakes WHERE unanswered > 0 LIMIT $1) AS called",
    )
    .bind(COUNTED_MAX)
    .fetch_one(conn.raw())
    .await?;
    Ok(Expected { armed, overdue })
}

/// Channels whose document's version is behind that of their label set, at most [`COUNTED_MAX`].
pub async fn stale(conn: &mut Conn) -> Result<i64> {
    let found = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT c.id FROM label_set s JOIN channel c ON c.label_set_id = s.id AND c.generation < s.generation \
         LIMIT $1) AS behind",
    )
    .bind(COUNTED_MAX)
    .fetch_one(conn.raw())
    .await?;
    Ok(found)
}

/// Where the fleet's counts are kept, in `meta`.
const FLEET: &str = "fleet_counts";

/// Devices and push addresses by their states, as they were last counted. One process counts them at the end of each lap of the clocks,
/// because that reads an index to its end, and every process shows the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    pub devices: BTreeMap<String, i64>,
    pub tokens: BTreeMap<String, i64>,
}

/// Counts the fleet.
pub async fn count_fleet(conn: &mut Conn) -> Result<Fleet> {
    let devices = liveness::counts(conn).await?.into_iter().collect();
    let tokens = liveness::push_counts(conn).await?.into_iter().collect();
    Ok(Fleet { devices, tokens })
}

/// Keeps what was counted.
pub async fn keep_fleet(conn: &mut Conn, fleet: &Fleet) -> Result<()> {
    meta::put(conn, FLEET, &serde_json::to_string(fleet).unwrap_or_default()).await
}

/// What was counted last; nothing before the first lap.
pub async fn fleet(conn: &mut Conn) -> Result<Fleet> {
    let kept = meta::get(conn, FLEET).await?;
    Ok(kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}
