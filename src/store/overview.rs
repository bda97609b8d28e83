//! Everything at a glance.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::funnel::{self, Step};
use super::{Conn, tasks};
use crate::error::Result;

/// Open tasks whose reasons are counted at most.
const REASONS_COUNTED_MAX: i64 = 50_000;

/// What the overview shows.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Overview {
    /// Devices by state.
    pub devices: BTreeMap<String, i64>,
    /// Devices that may not go on.
    pub unauthorized: i64,
    /// Open tasks by reason.
    pub tasks: BTreeMap<String, i64>,
    /// Open findings by kind.
    pub findings: BTreeMap<String, i64>,
    /// Of these, those whose clock has run out.
    pub findings_overdue: i64,
    /// Jobs that are not finished.
    pub jobs_running: i64,
    /// Open alarms.
    pub alarms: i64,
    /// Channels by how they stand to their document.
    pub documents: BTreeMap<String, i64>,
    /// How far orders came.
    pub funnel: Vec<Step>,
}

/// Counts it all.
pub async fn get(conn: &mut Conn, senders: &str, now_ms: i64) -> Result<Overview> {
    let devices: Vec<(String, i64)> = sqlx::query_as("SELECT state, COUNT(*) FROM device GROUP BY state").fetch_all(conn.raw()).await?;
    let findings: Vec<(String, i64)> =
        sqlx::query_as("SELECT kind, COUNT(*) FROM finding WHERE closed_at_ms IS NULL GROUP BY kind").fetch_all(conn.raw()).await?;
    let documents: Vec<(String, i64)> = sqlx::query_as(
        "SELECT state, COUNT(*) FROM (SELECT CASE WHEN hold IS NOT NULL THEN 'held' WHEN reported = desired AND details IS NOT NULL THEN 'failed' \
         WHEN applied = desired THEN 'applied' ELSE 'pending' END AS state FROM channel WHERE denied IS NULL AND desired IS NOT NULL) AS s GROUP BY state",
    )
    .fetch_all(conn.raw())
    .await?;
    let count = async |conn: &mut Conn, text: &'static str| -> Result<i64> { Ok(sqlx::query_scalar(text).fetch_one(conn.raw()).await?) };
    Ok(Overview {
        devices: devices.into_iter().collect(),
        unauthorized: count(conn, "SELECT COUNT(*) FROM device WHERE denied IS NOT NULL").await?,
        tasks: tasks::reasons(conn, None, senders, REASONS_COUNTED_MAX).await?.into_iter().collect(),
        findings: findings.into_iter().collect(),
        findings_overdue: count(conn, "SELECT COUNT(*) FROM finding WHERE closed_at_ms IS NULL AND overdue_at_ms IS NOT NULL").await?,
        jobs_running: count(conn, "SELECT COUNT(*) FROM job WHERE state IN ('expanding', 'running')").await?,
        alarms: count(conn, "SELECT COUNT(*) FROM alarm WHERE closed_at_ms IS NULL").await?,
        documents: documents.into_iter().collect(),
        funnel: funnel::steps(conn, now_ms).await?,
    })
}
