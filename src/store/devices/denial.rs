//! Denied devices: `device.denied` and `channel.denied` say the same in one transaction.

use crate::error::Result;
use crate::model::{Denial, Id};
use crate::store::batch::rows_sql;
use crate::store::{Conn, Sql, channels_lock, keys_json};

const CHANNELS: Sql = rows_sql!(
    "SELECT c.id FROM ",
    rows(bucket: bigint, id: text),
    "JOIN channel c ON c.bucket = r.bucket AND c.device_id = r.id ORDER BY c.bucket, c.id"
);

// A stronger denial takes the place of a weaker one: the ranks are those of model::Denial, 1 for the weakest.
const DENY: Sql = rows_sql!(
    "UPDATE device SET denied = $2, denied_at_ms = $4, action_done_at_ms = NULL, \
       quarantined_at_ms = CASE WHEN $3 = 3 THEN $4 ELSE quarantined_at_ms END FROM ",
    rows(bucket: bigint, id: text),
    "WHERE device.bucket = r.bucket AND device.id = r.id \
       AND CASE device.denied WHEN 'user_disabled' THEN 1 WHEN 'operator' THEN 2 WHEN 'quarantined' THEN 3 WHEN 'user_deleted' THEN 4 \
         WHEN 'retired' THEN 5 ELSE 0 END < $3 RETURNING device.id"
);

const LIFT: Sql = rows_sql!(
    "UPDATE device SET denied = NULL, denied_at_ms = NULL, action_done_at_ms = NULL, quarantined_at_ms = NULL FROM ",
    rows(bucket: bigint, id: text),
    "WHERE device.bucket = r.bucket AND device.id = r.id AND device.denied IS NOT NULL AND ($2 = '' OR device.denied = $2) \
     RETURNING device.id"
);

const MIRROR: Sql = rows_sql!(
    "UPDATE channel SET denied = NULLIF($2, '') FROM ",
    rows(bucket: bigint, id: text),
    "WHERE channel.bucket = r.bucket AND channel.device_id = r.id"
);

const STANDING: Sql = rows_sql!(
    "SELECT d.id, d.denied FROM ",
    rows(bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id"
);

/// Locks these devices' channels; answers how they are denied: (device, denial).
pub async fn denials(conn: &mut Conn, devices: &[Id]) -> Result<Vec<(Id, Option<String>)>> {
    lock(conn, devices).await?;
    Ok(sqlx::query_as(STANDING.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}

/// Denies devices and their channels, but for those that an equal or stronger denial holds; answers the ones it concerned.
pub async fn deny(conn: &mut Conn, devices: &[Id], denial: Denial, now_ms: i64) -> Result<Vec<Id>> {
    lock(conn, devices).await?;
    let rank = Denial::ALL.iter().position(|other| *other == denial).and_then(|at| i64::try_from(at + 1).ok()).unwrap_or(0);
    let denied: Vec<Id> = sqlx::query_scalar(DENY.on(conn.dialect()))
        .bind(keys_json(devices))
        .bind(denial.name())
        .bind(rank)
        .bind(now_ms)
        .fetch_all(conn.raw())
        .await?;
    mirror(conn, &denied, denial.name()).await?;
    Ok(denied)
}

/// Lifts denials, all or only those of one kind; answers the devices it concerned.
pub async fn lift(conn: &mut Conn, devices: &[Id], only: Option<Denial>) -> Result<Vec<Id>> {
    lock(conn, devices).await?;
    let only = only.map_or("", Denial::name);
    let lifted: Vec<Id> = sqlx::query_scalar(LIFT.on(conn.dialect())).bind(keys_json(devices)).bind(only).fetch_all(conn.raw()).await?;
    mirror(conn, &lifted, "").await?;
    Ok(lifted)
}

/// The channels first, as in every transaction.
async fn lock(conn: &mut Conn, devices: &[Id]) -> Result<()> {
    let channels = channels_of(conn, devices).await?;
    channels_lock(conn, &channels).await
}

/// The channels of devices, in the order of their keys.
pub async fn channels_of(conn: &mut Conn, devices: &[Id]) -> Result<Vec<Id>> {
    Ok(sqlx::query_scalar(CHANNELS.on(conn.dialect())).bind(keys_json(devices)).fetch_all(conn.raw()).await?)
}

async fn mirror(conn: &mut Conn, devices: &[Id], denied: &str) -> Result<()> {
    if !devices.is_empty() {
        sqlx::query(MIRROR.on(conn.dialect())).bind(keys_json(devices)).bind(denied).execute(conn.raw()).await?;
    }
    Ok(())
}
