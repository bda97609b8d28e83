//! What Apple's MDM channels say of their declarations.

use serde::Serialize;
use sqlx_macros::FromRow;

use crate::error::Result;
use crate::model::Id;
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, keys_json, rows_json};

/// What a channel has said.
#[derive(Clone, Debug, FromRow)]
pub struct StatusRow {
    pub channel_id: Id,
    /// JSON: everything, merged.
    pub status: String,
    /// JSON list of the types of declarations that it supports; none until it has said so.
    pub supported: Option<String>,
    /// JSON: of which version of its document it said that it knows no declarations, and how.
    pub refused: Option<String>,
    /// PayloadUUID of the policy's profile that it has by command.
    pub installed: Option<String>,
    /// JSON: the profile that it did not take, and why.
    pub failed: Option<String>,
    pub updated_at_ms: i64,
}

const OF: Sql = rows_sql!(
    "SELECT s.channel_id, s.status, s.supported, s.refused, s.installed, s.failed, s.updated_at_ms FROM ",
    rows(bucket: bigint, id: text),
    "JOIN apple_status s ON s.bucket = r.bucket AND s.channel_id = r.id"
);

/// What these channels have said; those that have said nothing are left out.
pub async fn of_channels(conn: &mut Conn, channels: &[Id]) -> Result<Vec<StatusRow>> {
    Ok(sqlx::query_as(OF.on(conn.dialect())).bind(keys_json(channels)).fetch_all(conn.raw()).await?)
}

/// Keeps what a channel has said. What it has by command stays as it is.
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

/// Notes that a channel knows no declarations; `None` once it does. What it did not take before may be tried again.
pub async fn refuse(conn: &mut Conn, channel: Id, refused: Option<&str>, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO apple_status (bucket, channel_id, status, refused, updated_at_ms) VALUES ($1, $2, '{}', $3, $4) \
         ON CONFLICT (bucket, channel_id) DO UPDATE SET refused = excluded.refused, failed = NULL",
    )
    .bind(channel.bucket())
    .bind(channel)
    .bind(refused)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

const HEAR: Sql = rows_sql!(
    "INSERT INTO apple_status (bucket, channel_id, status, updated_at_ms) SELECT r.bucket, r.id, '{}', $2 FROM ",
    rows(bucket: bigint, id: text),
    "WHERE r.bucket >= 0 ON CONFLICT (bucket, channel_id) DO NOTHING"
);

/// Notes when channels heard of their declarations that have said nothing yet.
pub async fn heard(conn: &mut Conn, told: &[Told], now_ms: i64) -> Result<()> {
    if told.is_empty() {
        return Ok(());
    }
    let mut channels: Vec<Id> = told.iter().map(|told| told.id).collect();
    channels.sort_by_key(|id| (id.bucket(), *id));
    sqlx::query(HEAR.on(conn.dialect())).bind(keys_json(channels)).bind(now_ms).execute(conn.raw()).await?;
    Ok(())
}

/// Notes which profile a channel has by command, and which it did not take.
pub async fn given(conn: &mut Conn, channel: Id, installed: Option<&str>, failed: Option<&str>) -> Result<()> {
    sqlx::query("UPDATE apple_status SET installed = $3, failed = $4 WHERE bucket = $1 AND channel_id = $2")
        .bind(channel.bucket())
        .bind(channel)
        .bind(installed)
        .bind(failed)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// What a channel had proved is not so any more: it is to be told again.
pub async fn disprove(conn: &mut Conn, channel: Id) -> Result<()> {
    sqlx::query("UPDATE channel SET declared = NULL, reported = NULL, applied = NULL, applied_at_ms = NULL WHERE bucket = $1 AND id = $2")
        .bind(channel.bucket())
        .bind(channel)
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
    /// The version of the document that it is about.
    pub version: String,
    pub reported: Option<String>,
    /// True where it applies; where it does not, an earlier proof of just this version is taken back.
    pub applies: bool,
    pub details: Option<String>,
}

/// Writes what was proved; true where the version was not applied before.
pub async fn prove(conn: &mut Conn, proved: &Proved, now_ms: i64) -> Result<bool> {
    let moved = sqlx::query(
        "UPDATE channel SET reported = $3, reported_at_ms = $4, details = $5 WHERE bucket = $1 AND id = $2 \
           AND (reported IS NULL OR reported <> COALESCE($3, '') OR COALESCE(details, '') <> COALESCE($5, ''))",
    );
    moved.bind(proved.id.bucket()).bind(proved.id).bind(&proved.reported).bind(now_ms).bind(&proved.details).execute(conn.raw()).await?;
    if !proved.applies {
        sqlx::query("UPDATE channel SET applied = NULL, applied_at_ms = NULL WHERE bucket = $1 AND id = $2 AND applied = $3")
            .bind(proved.id.bucket())
            .bind(proved.id)
            .bind(&proved.version)
            .execute(conn.raw())
            .await?;
        return Ok(false);
    }
    let done = sqlx::query(
        "UPDATE channel SET applied = $3, applied_at_ms = $4 WHERE bucket = $1 AND id = $2 AND (applied IS NULL OR applied <> $3)",
    )
    .bind(proved.id.bucket())
    .bind(proved.id)
    .bind(&proved.version)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}
