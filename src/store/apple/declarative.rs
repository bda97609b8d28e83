//! What Apple's MDM channels say of their declarations.

use serde::Serialize;
use sqlx::FromRow;

use crate::error::Result;
use crate::model::Id;
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, rows_json};

/// What a channel has said.
#[derive(Clone, Debug, FromRow)]
pub struct StatusRow {
    pub channel_id: Id,
    /// JSON: everything, merged.
    pub status: String,
    /// JSON list of the types of declarations that it supports; none until it has said so.
    pub supported: Option<String>,
    pub updated_at_ms: i64,
}

#[derive(Serialize)]
struct Key {
    bucket: i64,
    id: Id,
}

const OF: Sql = rows_sql!(
    "SELECT s.channel_id, s.status, s.supported, s.updated_at_ms FROM ",
    rows(bucket: bigint, id: text),
    "JOIN apple_status s ON s.bucket = r.bucket AND s.channel_id = r.id"
);

/// What these channels have said; those that have said nothing are left out.
pub async fn of_channels(conn: &mut Conn, channels: &[Id]) -> Result<Vec<StatusRow>> {
    let rows: Vec<Key> = channels.iter().map(|id| Key { bucket: id.bucket(), id: *id }).collect();
    Ok(sqlx::query_as(OF.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?)
}

/// Keeps what a channel has said.
pub async fn put(conn: &mut Conn, row: &StatusRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO apple_status (bucket, channel_id, status, supported, updated_at_ms) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (bucket, channel_id) DO UPDATE SET status = excluded.status, supported = excluded.supported, updated_at_ms = excluded.updated_at_ms",
    )
    .bind(row.channel_id.bucket())
    .bind(row.channel_id)
    .bind(&row.status)
    .bind(&row.supported)
    .bind(row.updated_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Forgets what the channels of a device have said, and with it whatever they had proved: it enrolls anew, or is deleted. What they should
/// have is settled again when each of them comes.
pub async fn forget(conn: &mut Conn, device: Id) -> Result<()> {
    for statement in [
        "DELETE FROM apple_status WHERE bucket = $1 AND channel_id IN (SELECT id FROM channel WHERE bucket = $1 AND device_id = $2)",
        "UPDATE channel SET declared = NULL, desired = NULL, reported = NULL, reported_at_ms = NULL, applied = NULL, applied_at_ms = NULL, \
         details = NULL \
         WHERE bucket = $1 AND device_id = $2 AND kind = 'mdm'",
    ] {
        sqlx::query(statement).bind(device.bucket()).bind(device).execute(conn.raw()).await?;
    }
    Ok(())
}

/// A channel that was told to fetch a version of its declarations and said yes; none where it is to be told again.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    pub bucket: i64,
    pub id: Id,
    pub version: Option<String>,
}

const TELL: Sql = rows_sql!(
    "UPDATE channel AS c SET declared = r.version FROM ",
    rows(bucket: bigint, id: text, version: text),
    "WHERE ($2 < 0 OR c.bucket = $2) AND c.bucket = r.bucket AND c.id = r.id"
);

/// Notes what channels were told.
pub async fn told(conn: &mut Conn, told: &[Told]) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    sqlx::query(TELL.on(conn.dialect())).bind(rows_json(told)).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

/// What a status report proves of a channel.
#[derive(Clone, Debug)]
pub struct Proved {
    pub id: Id,
    pub reported: Option<String>,
    /// The version that is applied now; none leaves what is there.
    pub applied: Option<String>,
    pub details: Option<String>,
}

/// Writes what was proved; true where the version was not applied before.
pub async fn prove(conn: &mut Conn, proved: &Proved, now_ms: i64) -> Result<bool> {
    let moved = sqlx::query(
        "UPDATE channel SET reported = $3, reported_at_ms = $4, details = $5 WHERE bucket = $1 AND id = $2 \
           AND (reported IS NULL OR reported <> COALESCE($3, '') OR COALESCE(details, '') <> COALESCE($5, ''))",
    );
    moved.bind(proved.id.bucket()).bind(proved.id).bind(&proved.reported).bind(now_ms).bind(&proved.details).execute(conn.raw()).await?;
    let Some(applied) = &proved.applied else { return Ok(false) };
    let done = sqlx::query(
        "UPDATE channel SET applied = $3, applied_at_ms = $4 WHERE bucket = $1 AND id = $2 AND (applied IS NULL OR applied <> $3)",
    )
    .bind(proved.id.bucket())
    .bind(proved.id)
    .bind(applied)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}
