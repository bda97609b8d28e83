//! Labels and who has them.

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, keys_json, rows_json};
use crate::error::Result;
use crate::model::Id;

/// A label as stored.
#[derive(Clone, Debug, FromRow)]
pub struct LabelRow {
    pub id: Id,
    pub name: String,
    pub description: String,
    pub created_at_ms: i64,
}

/// Makes a label, or changes the description of the one of that name; true where it is new.
pub async fn put(conn: &mut Conn, id: Id, name: &str, description: Option<&str>, now_ms: i64) -> Result<bool> {
    let made =
        sqlx::query("INSERT INTO label (id, name, description, created_at_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING")
            .bind(id)
            .bind(name)
            .bind(description.unwrap_or(""))
            .bind(now_ms)
            .execute(conn.raw())
            .await?;
    if made.rows_affected() == 0
        && let Some(description) = description
    {
        sqlx::query("UPDATE label SET description = $2 WHERE name = $1").bind(name).bind(description).execute(conn.raw()).await?;
    }
    Ok(made.rows_affected() == 1)
}

pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Option<LabelRow>> {
    Ok(sqlx::query_as("SELECT id, name, description, created_at_ms FROM label WHERE name = $1")
        .bind(name)
        .fetch_optional(conn.raw())
        .await?)
}

/// A page by name.
pub async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<LabelRow>> {
    Ok(sqlx::query_as("SELECT id, name, description, created_at_ms FROM label WHERE name > $1 ORDER BY name LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// The names of labels by their ids; ids of labels that are gone are left out.
pub async fn names_of(conn: &mut Conn, ids: &[Id]) -> Result<Vec<(Id, String)>> {
    #[derive(Serialize)]
    struct Row {
        id: Id,
    }
    const NAMES: Sql = rows_sql!("SELECT l.id, l.name FROM ", rows(id: text), "JOIN label l ON l.id = r.id ORDER BY l.name");
    let rows: Vec<Row> = ids.iter().map(|id| Row { id: *id }).collect();
    Ok(sqlx::query_as(NAMES.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?)
}

/// The names of labels, sorted; ids of labels that are gone are left out.
pub async fn names(conn: &mut Conn, ids: &[Id]) -> Result<Vec<String>> {
    Ok(names_of(conn, ids).await?.into_iter().map(|(_, name)| name).collect())
}

/// Locks a label for the change of its members.
pub async fn lock(conn: &mut Conn, name: &str) -> Result<Option<LabelRow>> {
    Ok(sqlx::query_as("UPDATE label SET name = name WHERE name = $1 RETURNING id, name, description, created_at_ms")
        .bind(name)
        .fetch_optional(conn.raw())
        .await?)
}

/// Removes a label. Its memberships, which count no longer, are swept in the background; assignments are removed by the caller first.
pub async fn delete(conn: &mut Conn, id: Id) -> Result<()> {
    sqlx::query("DELETE FROM label WHERE id = $1").bind(id).execute(conn.raw()).await?;
    sqlx::query("INSERT INTO label_gone (id) VALUES ($1)").bind(id).execute(conn.raw()).await?;
    Ok(())
}

/// Removes up to `limit` memberships of a label that is gone; true where one was gone.
pub async fn sweep(conn: &mut Conn, limit: i64) -> Result<bool> {
    let gone: Option<Id> = sqlx::query_scalar("SELECT id FROM label_gone ORDER BY id LIMIT 1").fetch_optional(conn.raw()).await?;
    let Some(id) = gone else { return Ok(false) };
    let swept = sqlx::query(
        "DELETE FROM label_member WHERE (bucket, device_id, label_id) IN \
           (SELECT bucket, device_id, label_id FROM label_member WHERE label_id = $1 LIMIT $2)",
    )
    .bind(id)
    .bind(limit)
    .execute(conn.raw())
    .await?;
    if swept.rows_affected() == 0 {
        sqlx::query("DELETE FROM label_gone WHERE id = $1").bind(id).execute(conn.raw()).await?;
    }
    Ok(true)
}

#[derive(Serialize)]
struct Member {
    bucket: i64,
    device_id: Id,
    label_id: Id,
}

fn members(labels: &[Id], devices: &[Id]) -> Vec<Member> {
    let pairs = devices.iter().flat_map(|device| labels.iter().map(move |label| (*device, *label)));
    pairs.map(|(device_id, label_id)| Member { bucket: device_id.bucket(), device_id, label_id }).collect()
}

const ADD: Sql = rows_sql!(
    "INSERT INTO label_member (bucket, device_id, label_id, added_at_ms) SELECT r.bucket, r.device_id, r.label_id, $2 FROM ",
    rows(bucket: bigint, device_id: text, label_id: text),
    "WHERE EXISTS (SELECT 1 FROM label l WHERE l.id = r.label_id) ON CONFLICT (bucket, device_id, label_id) DO NOTHING"
);

/// Gives every device every label that is still there.
pub async fn add_members(conn: &mut Conn, labels: &[Id], devices: &[Id], now_ms: i64) -> Result<()> {
    let rows = members(labels, devices);
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(ADD.on(conn.dialect())).bind(rows_json(&rows)).bind(now_ms).execute(conn.raw()).await?;
    Ok(())
}

// DELETE ... USING exists on one of the two only; a row-value IN on both.
const REMOVE: Sql = rows_sql!(
    "DELETE FROM label_member WHERE (bucket, device_id, label_id) IN (SELECT r.bucket, r.device_id, r.label_id FROM ",
    rows(bucket: bigint, device_id: text, label_id: text),
    ")"
);

/// Takes a label from devices.
pub async fn remove_members(conn: &mut Conn, label: Id, devices: &[Id]) -> Result<()> {
    let rows = members(&[label], devices);
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(REMOVE.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

/// Gives one device exactly these labels.
pub async fn set_of_device(conn: &mut Conn, device: Id, labels: &[Id], now_ms: i64) -> Result<()> {
    sqlx::query("DELETE FROM label_member WHERE bucket = $1 AND device_id = $2")
        .bind(device.bucket())
        .bind(device)
        .execute(conn.raw())
        .await?;
    add_members(conn, labels, &[device], now_ms).await
}

/// A page of the devices that have a label, by id.
pub async fn devices(conn: &mut Conn, label: Id, after: &str, limit: i64) -> Result<Vec<Id>> {
    Ok(sqlx::query_scalar("SELECT device_id FROM label_member WHERE label_id = $1 AND device_id > $2 ORDER BY device_id LIMIT $3")
        .bind(label)
        .bind(after)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// How many devices have a label.
pub async fn count(conn: &mut Conn, label: Id) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM label_member WHERE label_id = $1").bind(label).fetch_one(conn.raw()).await?)
}

/// The names of a device's labels.
pub async fn of_device(conn: &mut Conn, device: Id) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "SELECT l.name FROM label_member m JOIN label l ON l.id = m.label_id WHERE m.bucket = $1 AND m.device_id = $2 ORDER BY l.name",
    )
    .bind(device.bucket())
    .bind(device)
    .fetch_all(conn.raw())
    .await?)
}

const COUNTS: Sql = rows_sql!(
    "SELECT r.id, (SELECT COUNT(*) FROM label_member m WHERE m.label_id = r.id) AS devices FROM ",
    rows(id: text),
    ""
);

/// How many devices have each of these labels.
pub async fn counts(conn: &mut Conn, labels: &[LabelRow]) -> Result<Vec<(Id, i64)>> {
    #[derive(Serialize)]
    struct Row {
        id: Id,
    }
    let rows: Vec<Row> = labels.iter().map(|label| Row { id: label.id }).collect();
    Ok(sqlx::query_as(COUNTS.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?)
}

const OF_DEVICES: Sql = rows_sql!(
    "SELECT m.device_id, m.label_id FROM ",
    rows(bucket: bigint, id: text),
    "JOIN label_member m ON m.bucket = r.bucket AND m.device_id = r.id JOIN label l ON l.id = m.label_id ORDER BY m.device_id, m.label_id"
);

/// The label ids of many devices, sorted.
pub async fn of_devices(conn: &mut Conn, devices: &[Id]) -> Result<Vec<(Id, Id)>> {
    Ok(sqlx::query_as(OF_DEVICES.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}
