//! Devices: rows, keys and search terms.

use sqlx::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::{Error, Result};
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

/// Denies a device and its channels, or lifts the denial; channels first, as everywhere. False where nothing changed.
pub async fn deny(conn: &mut Conn, id: Id, denied: Option<&str>, now_ms: i64) -> Result<bool> {
    sqlx::query("UPDATE channel SET denied = $3 WHERE bucket = $1 AND device_id = $2")
        .bind(id.bucket())
        .bind(id)
        .bind(denied)
        .execute(conn.raw())
        .await?;
    let done = sqlx::query(
        "UPDATE device SET denied = $3, denied_at_ms = $4, action_done_at_ms = NULL, \
         quarantined_at_ms = CASE WHEN $3 = 'quarantined' THEN $4 ELSE NULL END \
         WHERE bucket = $1 AND id = $2 AND COALESCE(denied, '') <> COALESCE($3, '')",
    )
    .bind(id.bucket())
    .bind(id)
    .bind(denied)
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

/// Removes a device with everything that says who it is. Its history goes by retention.
pub async fn delete(conn: &mut Conn, id: Id) -> Result<bool> {
    for table in [
        "DELETE FROM wakes WHERE bucket = $1 AND channel_id IN (SELECT id FROM channel WHERE bucket = $1 AND device_id = $2)",
        "DELETE FROM channel WHERE bucket = $1 AND device_id = $2",
        "DELETE FROM label_member WHERE bucket = $1 AND device_id = $2",
        "DELETE FROM device_term WHERE bucket = $1 AND device_id = $2",
        "DELETE FROM device_key WHERE device_id = $2 AND $1 >= 0",
    ] {
        sqlx::query(table).bind(id.bucket()).bind(id).execute(conn.raw()).await?;
    }
    let done = sqlx::query("DELETE FROM device WHERE bucket = $1 AND id = $2").bind(id.bucket()).bind(id).execute(conn.raw()).await?;
    Ok(done.rows_affected() == 1)
}

/// The bucket of a key that is looked up without its device's id.
fn key_bucket(kind: &str, key: &str) -> i64 {
    let hash = crate::model::token::hash(&format!("{kind}/{key}"));
    i64::from_str_radix(&hash[..4], 16).unwrap_or(0) % crate::model::BUCKETS
}

/// Claims a key for a device; answers the device that has it, which is another where the race was lost.
pub async fn claim_key(conn: &mut Conn, kind: &str, key: &str, device: Id) -> Result<Id> {
    sqlx::query("INSERT INTO device_key (bucket, kind, key, device_id) VALUES ($1, $2, $3, $4) ON CONFLICT (bucket, kind, key) DO NOTHING")
        .bind(key_bucket(kind, key))
        .bind(kind)
        .bind(key)
        .bind(device)
        .execute(conn.raw())
        .await?;
    Ok(by_key(conn, kind, key).await?.unwrap_or(device))
}

/// The device that has a key.
pub async fn by_key(conn: &mut Conn, kind: &str, key: &str) -> Result<Option<Id>> {
    Ok(sqlx::query_scalar("SELECT device_id FROM device_key WHERE bucket = $1 AND kind = $2 AND key = $3")
        .bind(key_bucket(kind, key))
        .bind(kind)
        .bind(key)
        .fetch_optional(conn.raw())
        .await?)
}

/// Hands a key to another device.
pub async fn move_key(conn: &mut Conn, kind: &str, key: &str, device: Id) -> Result<()> {
    sqlx::query("UPDATE device_key SET device_id = $4 WHERE bucket = $1 AND kind = $2 AND key = $3")
        .bind(key_bucket(kind, key))
        .bind(kind)
        .bind(key)
        .bind(device)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Frees a key.
pub async fn drop_key(conn: &mut Conn, kind: &str, key: &str) -> Result<()> {
    sqlx::query("DELETE FROM device_key WHERE bucket = $1 AND kind = $2 AND key = $3")
        .bind(key_bucket(kind, key))
        .bind(kind)
        .bind(key)
        .execute(conn.raw())
        .await?;
    Ok(())
}

#[derive(serde::Serialize)]
struct Term<'a> {
    bucket: i64,
    device_id: Id,
    term: &'a str,
}

const INSERT_TERMS: Sql = rows_sql!(
    "INSERT INTO device_term (bucket, device_id, term) SELECT r.bucket, r.device_id, r.term FROM ",
    rows(bucket: bigint, device_id: text, term: text),
    "WHERE r.term <> '' ON CONFLICT (bucket, device_id, term) DO NOTHING"
);

/// Replaces the words that a device is found by. `terms` are lower-case.
pub async fn put_terms(conn: &mut Conn, device: Id, terms: &[String]) -> Result<()> {
    sqlx::query("DELETE FROM device_term WHERE bucket = $1 AND device_id = $2")
        .bind(device.bucket())
        .bind(device)
        .execute(conn.raw())
        .await?;
    let rows: Vec<Term<'_>> = terms.iter().map(|term| Term { bucket: device.bucket(), device_id: device, term }).collect();
    sqlx::query(INSERT_TERMS.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

#[derive(serde::Serialize)]
struct Name<'a> {
    name: &'a str,
    term: String,
}

const RESOLVE: Sql = rows_sql!(
    "SELECT r.name, d.id FROM ",
    rows(name: text, term: text),
    "JOIN device_term t ON t.term = r.term JOIN device d ON d.bucket = t.bucket AND d.id = t.device_id \
     WHERE LOWER(d.serial) = r.term OR LOWER(d.udid) = r.term"
);

/// Devices by id, serial number or UDID, whichever each name is: those found, the names of none, the names of several.
pub async fn resolve_many(conn: &mut Conn, names: &[String]) -> Result<(Vec<Id>, Vec<String>, Vec<String>)> {
    let (mut found, mut unknown, mut ambiguous) = (Vec::new(), Vec::new(), Vec::new());
    let rows: Vec<Name<'_>> = names.iter().map(|name| Name { name, term: name.trim().to_lowercase() }).collect();
    let mut by_name: std::collections::HashMap<String, Vec<Id>> = std::collections::HashMap::new();
    for (name, id) in named(conn, &rows).await? {
        by_name.entry(name).or_default().push(id);
    }
    for name in names {
        match by_name.get(name).map(Vec::as_slice) {
            Some([id]) => found.push(*id),
            Some([_, ..]) => ambiguous.push(name.clone()),
            _ => unknown.push(name.clone()),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok((found, unknown, ambiguous))
}

async fn named(conn: &mut Conn, rows: &[Name<'_>]) -> Result<Vec<(String, Id)>> {
    let mut pairs: Vec<(String, Id)> = sqlx::query_as(RESOLVE.on(conn.dialect())).bind(rows_json(rows)).fetch_all(conn.raw()).await?;
    #[derive(serde::Serialize)]
    struct Key<'a> {
        name: &'a str,
        bucket: i64,
        id: Id,
    }
    const BY_ID: Sql = rows_sql!(
        "SELECT r.name, d.id FROM ",
        rows(name: text, bucket: bigint, id: text),
        "JOIN device d ON d.bucket = r.bucket AND d.id = r.id"
    );
    let ids: Vec<Key<'_>> = rows
        .iter()
        .filter_map(|row| {
            let id: Id = row.name.trim().parse().ok()?;
            Some(Key { name: row.name, bucket: id.bucket(), id })
        })
        .collect();
    if !ids.is_empty() {
        pairs.extend(sqlx::query_as::<_, (String, Id)>(BY_ID.on(conn.dialect())).bind(rows_json(&ids)).fetch_all(conn.raw()).await?);
    }
    pairs.sort();
    pairs.dedup();
    Ok(pairs)
}

/// The one device that a name stands for; 409 `ambiguous_device` with the ids where several do.
pub async fn resolve(conn: &mut Conn, name: &str) -> Result<Id> {
    let rows = [Name { name, term: name.trim().to_lowercase() }];
    let ids: Vec<Id> = named(conn, &rows).await?.into_iter().map(|(_, id)| id).collect();
    match ids.as_slice() {
        [] => Err(Error::NotFound("device")),
        [id] => Ok(*id),
        several => {
            let mut members = serde_json::Map::new();
            members.insert("device_ids".into(), serde_json::json!(several));
            Err(Error::refused_with("ambiguous_device", format!("{} devices have this name; use an id", several.len()), members))
        }
    }
}
