//! The funnel's counts: slots of five minutes, by process and stage.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::Result;

/// The length of a slot.
pub const SLOT_MS: i64 = 300_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A stage of an order's way, in the order of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Tasks and document versions that devices are to fetch.
    Queued,
    /// Nudges put on the wire.
    Sent,
    /// Of these, those that the provider took.
    Accepted,
    /// Serving contacts, whatever their cause.
    Contacted,
    /// Tasks and documents handed out.
    Served,
    /// What devices first said of a task or of a document.
    Acknowledged,
    /// Ends with a proof: final results, and documents applied.
    Verified,
}

impl Stage {
    pub const ALL: [Stage; 7] =
        [Stage::Queued, Stage::Sent, Stage::Accepted, Stage::Contacted, Stage::Served, Stage::Acknowledged, Stage::Verified];

    /// The word in the database, the API and the console.
    pub fn name(self) -> &'static str {
        ["queued", "sent", "accepted", "contacted", "served", "acknowledged", "verified"][self as usize]
    }
}

/// A stage and what reached it.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Step {
    /// `queued`, `sent`, `accepted`, `contacted`, `served`, `acknowledged`, `verified`: in the order of the way.
    pub stage: &'static str,
    pub last_hour: i64,
    pub last_day: i64,
}

#[derive(Serialize)]
struct Row<'a> {
    slot_ms: i64,
    process: &'a str,
    stage: &'a str,
    n: i64,
}

const ADD: Sql = rows_sql!(
    "INSERT INTO funnel (slot_ms, process, stage, n) SELECT r.slot_ms, r.process, r.stage, r.n FROM ",
    rows(slot_ms: bigint, process: text, stage: text, n: bigint),
    "WHERE r.n <> 0 ON CONFLICT (slot_ms, process, stage) DO UPDATE SET n = funnel.n + excluded.n"
);

/// Adds what this process has counted to the slot of `now_ms`.
pub async fn add(conn: &mut Conn, process: &str, counts: &[(&'static str, i64)], now_ms: i64) -> Result<()> {
    let slot_ms = now_ms - now_ms.rem_euclid(SLOT_MS);
    let rows: Vec<Row<'_>> = counts.iter().map(|(stage, n)| Row { slot_ms, process, stage, n: *n }).collect();
    sqlx::query(ADD.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

/// Every stage with its sums over all processes; what was counted within the last seconds may still be on its way.
pub async fn steps(conn: &mut Conn, now_ms: i64) -> Result<Vec<Step>> {
    let hour = sums(conn, now_ms - HOUR_MS).await?;
    let day = sums(conn, now_ms - DAY_MS).await?;
    let of = |sums: &BTreeMap<String, i64>, stage: Stage| sums.get(stage.name()).copied().unwrap_or(0);
    Ok(Stage::ALL.into_iter().map(|stage| Step { stage: stage.name(), last_hour: of(&hour, stage), last_day: of(&day, stage) }).collect())
}

/// The sums by stage over all processes, of slots that began at or after `since_ms`.
async fn sums(conn: &mut Conn, since_ms: i64) -> Result<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT stage, CAST(SUM(n) AS BIGINT) FROM funnel WHERE slot_ms >= $1 GROUP BY stage")
        .bind(since_ms)
        .fetch_all(conn.raw())
        .await?;
    Ok(rows.into_iter().collect())
}
