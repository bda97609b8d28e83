//! Devices: rows, keys and search terms.

mod denial;
mod keys;
mod merge;
pub mod page;

pub use denial::{channels_of, denials, deny, lift};
pub use keys::{MERGED, by_key, claim_key, drop_key, merged_into, move_key, put_terms, resolve, resolve_many, user_channel};
pub use merge::Merge;

use sqlx_macros::FromRow;

use super::{Conn, channels_lock};
use crate::error::Result;
use crate::model::Id;

/// A device as stored.
#[derive(Clone, Debug, FromRow)]
pub struct DeviceRow {
    pub id: Id,
    pub user_id: Option<Id>,
    pub platform: String,
    pub app: String,
    pub hardware_id: Option<String>,
    pub serial: Option<String>,
    pub udid: Option<String>,
    pub model: String,
    pub os_version: String,
    pub agent_version: String,
    pub management_mode: String,
    /// `expected`, `pending_approval`, `active`, `idle`, `silent` or `unmanaged`.
    pub state: String,
    pub state_since_ms: i64,
    /// Why it may not go on: `operator`, `user_disabled`, `user_deleted`, `retired`, `quarantined`.
    pub denied: Option<String>,
    pub denied_at_ms: Option<i64>,
    pub quarantined_at_ms: Option<i64>,
    pub facts: String,
    pub facts_hash: String,
    pub facts_at_ms: Option<i64>,
    pub created_at_ms: i64,
}

const COLUMNS: &str = "SELECT id, user_id, platform, app, hardware_id, serial, udid, model, os_version, agent_version, management_mode, state, \
     state_since_ms, denied, denied_at_ms, quarantined_at_ms, facts, facts_hash, facts_at_ms, created_at_ms FROM device \
     WHERE bucket = $1 AND id = $2";

/// Stores a new device.
pub async fn insert(conn: &mut Conn, device: &DeviceRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO device (bucket, id, user_id, platform, app, hardware_id, serial, udid, model, os_version, agent_version, management_mode, \
         state, state_since_ms, facts, facts_hash, created_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, '{}', '', $15)",
    )
    .bind(device.id.bucket())
    .bind(device.id)
    .bind(device.user_id)
    .bind(&device.platform)
    .bind(&device.app)
    .bind(&device.hardware_id)
    .bind(&device.serial)
    .bind(&device.udid)
    .bind(&device.model)
    .bind(&device.os_version)
    .bind(&device.agent_version)
    .bind(&device.management_mode)
    .bind(&device.state)
    .bind(device.state_since_ms)
    .bind(device.created_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Writes who the device is and whose; its state, facts and denial have functions of their own.
pub async fn update(conn: &mut Conn, device: &DeviceRow) -> Result<()> {
    sqlx::query(
        "UPDATE device SET user_id = $3, platform = $4, app = $5, hardware_id = $6, serial = $7, udid = $8, model = $9, os_version = $10, \
         agent_version = $11, management_mode = $12 WHERE bucket = $1 AND id = $2",
    )
    .bind(device.id.bucket())
    .bind(device.id)
    .bind(device.user_id)
    .bind(&device.platform)
    .bind(&device.app)
    .bind(&device.hardware_id)
    .bind(&device.serial)
    .bind(&device.udid)
    .bind(&device.model)
    .bind(&device.os_version)
    .bind(&device.agent_version)
    .bind(&device.management_mode)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// The device that an operator announced for this user under this serial number, in whatever case.
pub async fn announced(conn: &mut Conn, user: Id, serial: &str) -> Result<Option<Id>> {
    Ok(sqlx::query_scalar("SELECT id FROM device WHERE user_id = $1 AND state = 'expected' AND LOWER(serial) = $2 ORDER BY id LIMIT 1")
        .bind(user)
        .bind(serial.trim().to_lowercase())
        .fetch_optional(conn.raw())
        .await?)
}

pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<DeviceRow>> {
    Ok(sqlx::query_as(COLUMNS).bind(id.bucket()).bind(id).fetch_optional(conn.raw()).await?)
}

/// Moves a device into a state; false where it was in it.
pub async fn set_state(conn: &mut Conn, id: Id, state: &str, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE device SET state = $3, state_since_ms = $4 WHERE bucket = $1 AND id = $2 AND state <> $3")
        .bind(id.bucket())
        .bind(id)
        .bind(state)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that the device did what its denial asked for.
pub async fn action_done(conn: &mut Conn, id: Id, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE device SET action_done_at_ms = $3 WHERE bucket = $1 AND id = $2 AND action_done_at_ms IS NULL")
        .bind(id.bucket())
        .bind(id)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a device with everything that says who it is, but for its keys, which the caller knows ([`drop_key`]). Its history goes by
/// retention.
pub async fn delete(conn: &mut Conn, id: Id) -> Result<bool> {
    let channels = channels_of(conn, &[id]).await?;
    channels_lock(conn, &channels).await?;
    for table in [
        "DELETE FROM wakes WHERE bucket = $1 AND channel_id IN (SELECT id FROM channel WHERE bucket = $1 AND device_id = $2)",
        "DELETE FROM channel WHERE bucket = $1 AND device_id = $2",
        "DELETE FROM label_member WHERE bucket = $1 AND device_id = $2",
        "DELETE FROM device_term WHERE bucket = $1 AND device_id = $2",
    ] {
        sqlx::query(table).bind(id.bucket()).bind(id).execute(conn.raw()).await?;
    }
    let done = sqlx::query("DELETE FROM device WHERE bucket = $1 AND id = $2").bind(id.bucket()).bind(id).execute(conn.raw()).await?;
    Ok(done.rows_affected() == 1)
}
