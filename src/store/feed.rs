//! The feed: entries are appended beside the rows they tell of, and one sequencer at a time gives committed ones their number.

use serde::Serialize;
use sqlx::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;

/// Something that happened, to be told.
#[derive(Clone, Debug)]
pub struct Entry {
    /// A dotted word: `task.done`, `policy.published`, `device.activated`.
    pub kind: &'static str,
    /// Who did it (an [`crate::model::Actor`]'s name); what has an actor is the audit.
    pub actor: Option<String>,
    pub device_id: Option<Id>,
    /// An object; never a secret.
    pub data: serde_json::Value,
}

#[derive(Serialize)]
struct Row<'a> {
    bucket: i64,
    id: Id,
    at_ms: i64,
    kind: &'a str,
    actor: Option<&'a str>,
    device_id: Option<Id>,
    data: String,
}

const APPEND: Sql = rows_sql!(
    "INSERT INTO feed_in (bucket, id, at_ms, kind, actor, device_id, data) SELECT r.bucket, r.id, r.at_ms, r.kind, r.actor, r.device_id, r.data FROM ",
    rows(bucket: bigint, id: text, at_ms: bigint, kind: text, actor: text, device_id: text, data: text),
    ""
);

/// Appends entries in the caller's transaction.
pub async fn append(conn: &mut Conn, moment: &mut Moment, entries: &[Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut rows = Vec::with_capacity(entries.len());
    for entry in entries {
        let id = match entry.device_id {
            Some(device) => moment.id_beside(device),
            None => moment.id(),
        };
        rows.push(Row {
            bucket: id.bucket(),
            id,
            at_ms: moment.now_ms,
            kind: entry.kind,
            actor: entry.actor.as_deref(),
            device_id: entry.device_id,
            data: entry.data.to_string(),
        });
    }
    sqlx::query(APPEND.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

/// An entry that has its number, or ("seq" 0) still waits for it.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct FeedRow {
    pub bucket: i64,
    pub seq: i64,
    pub id: Id,
    pub at_ms: i64,
    pub kind: String,
    pub actor: Option<String>,
    pub device_id: Option<Id>,
    /// JSON.
    pub data: String,
}

/// Committed entries that wait for their number, oldest first, `rows_max` at most.
pub async fn waiting(conn: &mut Conn, rows_max: i64) -> Result<Vec<FeedRow>> {
    let text = "SELECT bucket, CAST(0 AS BIGINT) AS seq, id, at_ms, kind, actor, device_id, data FROM feed_in ORDER BY id LIMIT $1";
    Ok(sqlx::query_as(text).bind(rows_max).fetch_all(conn.raw()).await?)
}
