//! What a page of devices shows: a statement for each kind of thing, however many devices.

use sqlx_macros::FromRow;

use super::DeviceRow;
use crate::error::Result;
use crate::model::Id;
use crate::store::batch::rows_sql;
use crate::store::channels::ChannelView;
use crate::store::{Conn, Sql, keys_json};

const MANY: Sql = rows_sql!(
    "SELECT d.id, d.user_id, d.platform, d.app, d.hardware_id, d.serial, d.udid, d.model, d.os_version, d.agent_version, d.management_mode, \
       d.state, d.state_since_ms, d.denied, d.denied_at_ms, d.quarantined_at_ms, d.facts, d.facts_hash, d.facts_at_ms, d.created_at_ms FROM ",
    rows(bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id"
);

/// Many devices, in no order; those that do not exist are left out.
pub async fn many(conn: &mut Conn, devices: &[Id]) -> Result<Vec<DeviceRow>> {
    Ok(sqlx::query_as(MANY.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}

/// Who carries a device.
#[derive(Clone, Debug, FromRow)]
pub struct Carrying {
    pub device_id: Id,
    pub email: String,
    pub name: String,
}

const CARRYING: Sql = rows_sql!(
    "SELECT d.id AS device_id, u.email, u.name FROM ",
    rows(bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id JOIN users u ON u.id = d.user_id"
);

/// The users of many devices, deleted ones included.
pub async fn carrying(conn: &mut Conn, devices: &[Id]) -> Result<Vec<Carrying>> {
    Ok(sqlx::query_as(CARRYING.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}

const LABELS: Sql = rows_sql!(
    "SELECT m.device_id, l.name FROM ",
    rows(bucket: bigint, id: text),
    "JOIN label_member m ON m.bucket = r.bucket AND m.device_id = r.id JOIN label l ON l.id = m.label_id ORDER BY l.name"
);

/// The names of the labels of many devices, sorted.
pub async fn labels(conn: &mut Conn, devices: &[Id]) -> Result<Vec<(Id, String)>> {
    Ok(sqlx::query_as(LABELS.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}

/// A channel with its device.
#[derive(Clone, Debug, FromRow)]
pub struct ChannelOf {
    pub device_id: Id,
    #[sqlx(flatten)]
    pub channel: ChannelView,
}

const CHANNELS: Sql = rows_sql!(
    "SELECT c.device_id, c.id, c.kind, c.push_state, c.last_contact_ms, c.last_cause, c.desired, c.reported, c.applied, c.hold, c.activation, \
       c.details FROM ",
    rows(bucket: bigint, id: text),
    "JOIN channel c ON c.bucket = r.bucket AND c.device_id = r.id ORDER BY c.id"
);

/// The channels of many devices, the older first.
pub async fn channels(conn: &mut Conn, devices: &[Id]) -> Result<Vec<ChannelOf>> {
    Ok(sqlx::query_as(CHANNELS.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}
