//! What a device is found by without its id: unique keys, search terms, serial numbers and UDIDs.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::model::Id;
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, rows_json};

/// The bucket of a key that is looked up without its device's id.
fn key_bucket(kind: &str, key: &str) -> i64 {
    let hash = crate::model::token::hash(&format!("{kind}/{key}"));
    i64::from_str_radix(&hash[..4], 16).unwrap_or(0) % crate::model::BUCKETS
}

/// Claims a key for a device; `None` where it was free, else the device that has it. The first insert wins, also between processes.
pub async fn claim_key(conn: &mut Conn, kind: &str, key: &str, device: Id) -> Result<Option<Id>> {
    let done = sqlx::query(
        "INSERT INTO device_key (bucket, kind, key, device_id) VALUES ($1, $2, $3, $4) ON CONFLICT (bucket, kind, key) DO NOTHING",
    )
    .bind(key_bucket(kind, key))
    .bind(kind)
    .bind(key)
    .bind(device)
    .execute(conn.raw())
    .await?;
    if done.rows_affected() == 1 { Ok(None) } else { by_key(conn, kind, key).await }
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

/// The key of a device that is a part of another now: its id.
pub const MERGED: &str = "merged";

/// The device that another has become a part of.
pub async fn merged_into(conn: &mut Conn, device: Id) -> Result<Option<Id>> {
    by_key(conn, MERGED, &device.to_string()).await
}

/// Hands a key to a device, whoever had it.
pub async fn move_key(conn: &mut Conn, kind: &str, key: &str, device: Id) -> Result<()> {
    sqlx::query(
        "INSERT INTO device_key (bucket, kind, key, device_id) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (bucket, kind, key) DO UPDATE SET device_id = excluded.device_id",
    )
    .bind(key_bucket(kind, key))
    .bind(kind)
    .bind(key)
    .bind(device)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Frees a key, if this device has it.
pub async fn drop_key(conn: &mut Conn, kind: &str, key: &str, device: Id) -> Result<()> {
    sqlx::query("DELETE FROM device_key WHERE bucket = $1 AND kind = $2 AND key = $3 AND device_id = $4")
        .bind(key_bucket(kind, key))
        .bind(kind)
        .bind(key)
        .bind(device)
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

const DELETE_TERMS: Sql = rows_sql!(
    "DELETE FROM device_term WHERE (bucket, device_id) IN (SELECT r.bucket, r.device_id FROM ",
    rows(bucket: bigint, device_id: text),
    ")"
);

/// Replaces the words that devices are found by; they are lower-case.
pub async fn put_terms(conn: &mut Conn, devices: &[(Id, Vec<String>)]) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let all: Vec<Term<'_>> = devices.iter().map(|(id, _)| Term { bucket: id.bucket(), device_id: *id, term: "" }).collect();
    sqlx::query(DELETE_TERMS.on(conn.dialect())).bind(rows_json(&all)).execute(conn.raw()).await?;
    let rows: Vec<Term<'_>> =
        devices.iter().flat_map(|(id, terms)| terms.iter().map(|term| Term { bucket: id.bucket(), device_id: *id, term })).collect();
    sqlx::query(INSERT_TERMS.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

#[derive(serde::Serialize)]
struct Name<'a> {
    name: &'a str,
    term: String,
}

#[derive(serde::Serialize)]
struct Key<'a> {
    name: &'a str,
    bucket: i64,
    id: Id,
}

// gone is 1 for a device that stands for nothing any more, or not yet: it has a name only while no other device has it.
const BY_TERM: Sql = rows_sql!(
    "SELECT r.name, d.id, CASE WHEN d.state IN ('unmanaged', 'pending_approval') THEN 1 ELSE 0 END AS gone FROM ",
    rows(name: text, term: text),
    "JOIN device_term t ON t.term = r.term JOIN device d ON d.bucket = t.bucket AND d.id = t.device_id \
     WHERE r.term <> '' AND (LOWER(d.serial) = r.term OR LOWER(d.udid) = r.term)"
);

const BY_ID: Sql = rows_sql!(
    "SELECT r.name, d.id FROM ",
    rows(name: text, bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id"
);

#[derive(serde::Serialize)]
struct Gone<'a> {
    name: &'a str,
    bucket: i64,
    key: String,
}

impl<'a> Gone<'a> {
    fn of(key: &Key<'a>) -> Gone<'a> {
        let text = key.id.to_string();
        Gone { name: key.name, bucket: key_bucket(MERGED, &text), key: text }
    }
}

const BY_MERGED: Sql = rows_sql!(
    "SELECT r.name, k.device_id FROM ",
    rows(name: text, bucket: bigint, key: text),
    "JOIN device_key k ON k.bucket = r.bucket AND k.kind = 'merged' AND k.key = r.key"
);

/// The devices that each name stands for: the one with that id, or all with that serial number or UDID in whatever case. Of the
/// latter, those that are managed come before those that are not.
async fn named<'a>(conn: &mut Conn, names: &'a [String]) -> Result<HashMap<&'a str, Vec<Id>>> {
    let mut found: HashMap<&str, Vec<Id>> = HashMap::new();
    let ids: Vec<Key<'_>> = names
        .iter()
        .filter_map(|name| {
            let id: Id = name.trim().parse().ok()?;
            Some(Key { name, bucket: id.bucket(), id })
        })
        .collect();
    let by_id: Vec<(String, Id)> = match ids.len() {
        0 => Vec::new(),
        _ => sqlx::query_as(BY_ID.on(conn.dialect())).bind(rows_json(&ids)).fetch_all(conn.raw()).await?,
    };
    let mut by_id: HashMap<String, Id> = by_id.into_iter().collect();
    let gone: Vec<Gone<'_>> = ids.iter().filter(|key| !by_id.contains_key(key.name)).map(Gone::of).collect();
    if !gone.is_empty() {
        // Names that devices had before they became a part of others.
        let merged: Vec<(String, Id)> = sqlx::query_as(BY_MERGED.on(conn.dialect())).bind(rows_json(&gone)).fetch_all(conn.raw()).await?;
        let into: Vec<Key<'_>> = merged.iter().map(|(name, id)| Key { name, bucket: id.bucket(), id: *id }).collect();
        let there: Vec<(String, Id)> = sqlx::query_as(BY_ID.on(conn.dialect())).bind(rows_json(&into)).fetch_all(conn.raw()).await?;
        by_id.extend(there);
    }
    let others: Vec<Name<'_>> =
        names.iter().filter(|name| !by_id.contains_key(*name)).map(|name| Name { name, term: name.trim().to_lowercase() }).collect();
    let by_term: Vec<(String, Id, i64)> = match others.len() {
        0 => Vec::new(),
        _ => sqlx::query_as(BY_TERM.on(conn.dialect())).bind(rows_json(&others)).fetch_all(conn.raw()).await?,
    };
    let mut ranked: HashMap<String, [Vec<Id>; 2]> = HashMap::new();
    for (name, id, gone) in by_term {
        ranked.entry(name).or_default()[usize::from(gone == 1)].push(id);
    }
    for name in names {
        let mut ids = match (by_id.get(name), ranked.get(name)) {
            (Some(id), _) => vec![*id],
            (None, Some([managed, gone])) if managed.is_empty() => gone.clone(),
            (None, Some([managed, _])) => managed.clone(),
            (None, None) => continue,
        };
        ids.sort_unstable();
        ids.dedup();
        found.insert(name, ids);
    }
    Ok(found)
}

/// Devices by id, serial number or UDID, whichever each name is: those found, the names of none, the names of several.
pub async fn resolve_many(conn: &mut Conn, names: &[String]) -> Result<(Vec<Id>, Vec<String>, Vec<String>)> {
    let (mut found, mut unknown, mut ambiguous) = (Vec::new(), Vec::new(), Vec::new());
    let by_name = named(conn, names).await?;
    for name in names {
        match by_name.get(name.as_str()).map(Vec::as_slice) {
            Some([id]) => found.push(*id),
            Some([_, ..]) => ambiguous.push(name.clone()),
            _ => unknown.push(name.clone()),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok((found, unknown, ambiguous))
}

/// The device and the channel that `UDID:USER` stands for; the device may be named otherwise too, but by a name that it alone has.
pub async fn user_channel(conn: &mut Conn, name: &str) -> Result<Option<(Id, Id)>> {
    let Some((device, user)) = name.split_once(':').filter(|(_, user)| !user.is_empty()) else { return Ok(None) };
    let ids = named(conn, &[device.to_owned()]).await?.remove(device).unwrap_or_default();
    let device = match ids.as_slice() {
        [] => return Ok(None),
        [id] => *id,
        several => return Err(ambiguous(device, several)),
    };
    let channel = crate::store::apple::channel_of(conn, device, user).await?;
    Ok(channel.map(|channel| (device, channel)))
}

/// The one device that a name stands for; 409 `ambiguous_device` with the ids where several do.
pub async fn resolve(conn: &mut Conn, name: &str) -> Result<Id> {
    let names = [name.to_owned()];
    let ids = named(conn, &names).await?.remove(name).unwrap_or_default();
    match ids.as_slice() {
        [] => user_channel(conn, name).await?.map(|(device, _)| device).ok_or(Error::NotFound("device")),
        [id] => Ok(*id),
        several => Err(ambiguous(name, several)),
    }
}

fn ambiguous(name: &str, ids: &[Id]) -> Error {
    let mut members = serde_json::Map::new();
    members.insert("device_ids".into(), serde_json::json!(ids));
    Error::refused_with("ambiguous_device", format!("{} devices have the name {name:?}; use an id", ids.len()), members)
}
