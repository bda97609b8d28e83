//! Reads of the console that no other noun needs: sums over everything, and devices in words.

use std::collections::HashMap;

use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::jobs::JobRow;
use super::{Conn, Sql, keys_json};
use crate::error::Result;
use crate::model::{Callers, Id};

/// Open findings of one kind.
#[derive(Clone, Debug, FromRow)]
pub struct FindingCount {
    pub kind: String,
    pub open: i64,
    /// Those whose clock has run out.
    pub overdue: i64,
}

/// How many findings are open, by kind.
pub async fn findings(conn: &mut Conn) -> Result<Vec<FindingCount>> {
    Ok(sqlx::query_as(
        "SELECT kind, COUNT(*) AS open, CAST(SUM(CASE WHEN overdue_at_ms IS NULL THEN 0 ELSE 1 END) AS BIGINT) AS overdue \
         FROM finding WHERE closed_at_ms IS NULL GROUP BY kind ORDER BY overdue DESC, open DESC, kind",
    )
    .fetch_all(conn.raw())
    .await?)
}

/// How many channels have a push address of a sender ('' for none), by its state.
pub async fn addresses(conn: &mut Conn) -> Result<Vec<(String, String, i64)>> {
    Ok(sqlx::query_as(
        "SELECT CASE WHEN push_provider IS NULL THEN '' WHEN push_provider <> 'apns' THEN push_provider WHEN kind = 'agent' THEN 'apns_app' \
           ELSE 'apns_mdm/' || COALESCE(push_topic, '') END AS sender, push_state, COUNT(*) FROM channel WHERE denied IS NULL \
         GROUP BY sender, push_state ORDER BY sender, push_state",
    )
    .fetch_all(conn.raw())
    .await?)
}

/// The newest jobs that are not at their end.
pub async fn jobs_under_way(conn: &mut Conn, limit: i64) -> Result<Vec<JobRow>> {
    Ok(sqlx::query_as("SELECT * FROM job WHERE state IN ('awaiting_approval', 'expanding', 'running') ORDER BY id DESC LIMIT $1")
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// A device in words.
#[derive(Clone, Debug, Default, FromRow)]
pub struct Named {
    pub id: Option<Id>,
    pub model: String,
    pub serial: Option<String>,
    pub email: Option<String>,
}

const NAMED: Sql = rows_sql!(
    "SELECT d.id, d.model, d.serial, u.email FROM ",
    rows(bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id LEFT JOIN users u ON u.id = d.user_id"
);

/// Devices in words, by id; those that are gone are left out.
pub async fn named(conn: &mut Conn, devices: impl IntoIterator<Item = Id>) -> Result<HashMap<Id, Named>> {
    let mut ids: Vec<Id> = devices.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<Named> = sqlx::query_as(NAMED.on(conn.dialect())).bind(keys_json(&ids)).fetch_all(conn.raw()).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.id?, row))).collect())
}

/// When the channels of a device are called next, the earliest; `None` where no push can be sent.
pub async fn next_nudge(conn: &mut Conn, device: Id, callers: &Callers) -> Result<Option<i64>> {
    let due: Vec<(String, i64)> = sqlx::query_as(
        "SELECT w.sender, COALESCE(w.next_due_ms, w.due_at_ms) FROM channel c JOIN wakes w ON w.bucket = c.bucket AND w.channel_id = c.id \
         WHERE c.bucket = $1 AND c.device_id = $2 AND w.sender <> ''",
    )
    .bind(device.bucket())
    .bind(device)
    .fetch_all(conn.raw())
    .await?;
    Ok(due.iter().map(|(sender, due_ms)| callers.calls_at_ms(sender, *due_ms)).min())
}
