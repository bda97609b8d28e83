//! Apple enrollments and their channels.

mod channels;
pub mod declarative;

pub use channels::{Address, NewChannel, address, awaits, channel_of, end_users, leave, pin, put_user, reset};

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Dialect, Sql, keys_json, rows_json};
use crate::error::Result;
use crate::model::Id;

/// The enrollment of a device.
#[derive(Clone, Debug, FromRow)]
pub struct Enrollment {
    pub device_id: Id,
    /// UDID or EnrollmentID.
    pub identifier: String,
    /// `pending`, `enrolled` or `left`.
    pub state: String,
    /// The enrollment token that it came in by.
    pub token_id: Option<Id>,
    /// SHA-256 of the pinned certificate, lower-case hex.
    pub certificate_hash: String,
    /// The one before it, which stands until TokenUpdate.
    pub former_certificate_hash: Option<String>,
    /// When it is next given a profile that renews its certificate; none for one that was issued elsewhere.
    pub renew_at_ms: Option<i64>,
    pub topic: String,
    /// Sealed.
    pub unlock_token: Option<String>,
    /// Sealed.
    pub bootstrap_token: Option<String>,
    pub awaiting_configuration: i64,
    pub authenticated_at_ms: i64,
    pub enrolled_at_ms: Option<i64>,
    /// When the server began to ask the device about itself; none while it does not.
    pub refresh_started_ms: Option<i64>,
    pub refresh_step: i64,
    pub refreshed_at_ms: Option<i64>,
    /// By whom it is in lost mode, as `ops::mdm::lost` has it.
    pub lost_mode: Option<String>,
}

impl Enrollment {
    /// True for the pinned certificate, and for the one before it until TokenUpdate.
    pub fn admits(&self, certificate_hash: &str) -> bool {
        self.certificate_hash == certificate_hash || self.former_certificate_hash.as_deref() == Some(certificate_hash)
    }
}

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT device_id, identifier, state, token_id, certificate_hash, former_certificate_hash, renew_at_ms, topic, unlock_token, bootstrap_token, \
               awaiting_configuration, authenticated_at_ms, enrolled_at_ms, refresh_started_ms, refresh_step, refreshed_at_ms, lost_mode \
             FROM apple_enrollment WHERE bucket = $1 AND device_id = $2",
            $tail
        )
    };
}

/// The enrollment of a device.
pub async fn get(conn: &mut Conn, device: Id) -> Result<Option<Enrollment>> {
    Ok(sqlx::query_as(select!("")).bind(device.bucket()).bind(device).fetch_optional(conn.raw()).await?)
}

/// The same, locked: check-ins of one device wait for each other.
pub async fn locked(conn: &mut Conn, device: Id) -> Result<Option<Enrollment>> {
    let text = match conn.dialect() {
        Dialect::Sqlite => select!(""),
        Dialect::Postgres => select!(" FOR UPDATE"),
    };
    Ok(sqlx::query_as(text).bind(device.bucket()).bind(device).fetch_optional(conn.raw()).await?)
}

const OF: Sql = rows_sql!(
    "SELECT e.device_id, e.identifier, e.state, e.token_id, e.certificate_hash, e.former_certificate_hash, e.renew_at_ms, e.topic, e.unlock_token, \
       e.bootstrap_token, e.awaiting_configuration, e.authenticated_at_ms, e.enrolled_at_ms, e.refresh_started_ms, e.refresh_step, \
       e.refreshed_at_ms, e.lost_mode FROM ",
    rows(bucket: bigint, id: text),
    "JOIN apple_enrollment e ON e.bucket = r.bucket AND e.device_id = r.id WHERE ($2 < 0 OR e.bucket = $2)"
);

/// The enrollments of devices.
pub async fn of_devices(conn: &mut Conn, devices: &[Id]) -> Result<Vec<Enrollment>> {
    Ok(sqlx::query_as(OF.on(conn.dialect())).bind(keys_json(devices)).bind(-1_i64).fetch_all(conn.raw()).await?)
}

/// Writes an enrollment, whether it was there or not.
pub async fn put(conn: &mut Conn, row: &Enrollment) -> Result<()> {
    sqlx::query(
        "INSERT INTO apple_enrollment (bucket, device_id, identifier, state, token_id, certificate_hash, former_certificate_hash, topic, \
           unlock_token, bootstrap_token, awaiting_configuration, authenticated_at_ms, enrolled_at_ms, refresh_started_ms, refresh_step, \
           refreshed_at_ms, renew_at_ms, lost_mode) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
         ON CONFLICT (bucket, device_id) DO UPDATE SET identifier = excluded.identifier, state = excluded.state, token_id = excluded.token_id, \
           certificate_hash = excluded.certificate_hash, former_certificate_hash = excluded.former_certificate_hash, topic = excluded.topic, \
           unlock_token = excluded.unlock_token, bootstrap_token = excluded.bootstrap_token, \
           awaiting_configuration = excluded.awaiting_configuration, authenticated_at_ms = excluded.authenticated_at_ms, \
           enrolled_at_ms = excluded.enrolled_at_ms, refresh_started_ms = excluded.refresh_started_ms, refresh_step = excluded.refresh_step, \
           refreshed_at_ms = excluded.refreshed_at_ms, renew_at_ms = excluded.renew_at_ms, lost_mode = excluded.lost_mode",
    )
    .bind(row.device_id.bucket())
    .bind(row.device_id)
    .bind(&row.identifier)
    .bind(&row.state)
    .bind(row.token_id)
    .bind(&row.certificate_hash)
    .bind(&row.former_certificate_hash)
    .bind(&row.topic)
    .bind(&row.unlock_token)
    .bind(&row.bootstrap_token)
    .bind(row.awaiting_configuration)
    .bind(row.authenticated_at_ms)
    .bind(row.enrolled_at_ms)
    .bind(row.refresh_started_ms)
    .bind(row.refresh_step)
    .bind(row.refreshed_at_ms)
    .bind(row.renew_at_ms)
    .bind(&row.lost_mode)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// The device has been told that its configuration is complete.
pub async fn configured(conn: &mut Conn, device: Id) -> Result<()> {
    sqlx::query("UPDATE apple_enrollment SET awaiting_configuration = 0 WHERE bucket = $1 AND device_id = $2")
        .bind(device.bucket())
        .bind(device)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Notes when a device is next given a profile that renews its certificate.
pub async fn renew_at(conn: &mut Conn, device: Id, at_ms: i64) -> Result<()> {
    sqlx::query("UPDATE apple_enrollment SET renew_at_ms = $3 WHERE bucket = $1 AND device_id = $2")
        .bind(device.bucket())
        .bind(device)
        .bind(at_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Notes by whom a device is in lost mode; `None` where it is not.
pub async fn lost_mode(conn: &mut Conn, device: Id, lost_mode: Option<&str>) -> Result<()> {
    sqlx::query("UPDATE apple_enrollment SET lost_mode = $3 WHERE bucket = $1 AND device_id = $2")
        .bind(device.bucket())
        .bind(device)
        .bind(lost_mode)
        .execute(conn.raw())
        .await?;
    Ok(())
}

#[derive(Serialize)]
struct LostKey {
    bucket: i64,
    id: Id,
    task: Id,
}

const LOST_TO: Sql = rows_sql!(
    "SELECT c.id FROM ",
    rows(bucket: bigint, id: text, task: text),
    "JOIN apple_enrollment e ON e.bucket = r.bucket AND e.device_id = r.id AND e.lost_mode = r.task \
     JOIN channel c ON c.bucket = e.bucket AND c.device_id = e.device_id AND c.kind = 'mdm' AND c.subject = '' WHERE ($2 < 0 OR c.bucket = $2)"
);

/// The channels of those devices among these that are lost by the task beside them.
pub async fn lost_to(conn: &mut Conn, locating: &[(Id, Id)]) -> Result<Vec<Id>> {
    let rows: Vec<LostKey> = locating.iter().map(|(id, task)| LostKey { bucket: id.bucket(), id: *id, task: *task }).collect();
    Ok(sqlx::query_scalar(LOST_TO.on(conn.dialect())).bind(rows_json(&rows)).bind(-1_i64).fetch_all(conn.raw()).await?)
}

/// Removes the enrollment of a deleted device.
pub async fn delete(conn: &mut Conn, device: Id) -> Result<()> {
    sqlx::query("DELETE FROM apple_enrollment WHERE bucket = $1 AND device_id = $2")
        .bind(device.bucket())
        .bind(device)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// How far the server has come with asking a device about itself.
#[derive(Clone, Debug, Serialize)]
pub struct Refresh {
    pub bucket: i64,
    pub id: Id,
    pub started_ms: Option<i64>,
    pub step: i64,
    pub refreshed_at_ms: Option<i64>,
}

const REFRESH: Sql = rows_sql!(
    "UPDATE apple_enrollment AS e SET refresh_started_ms = r.started_ms, refresh_step = r.step, refreshed_at_ms = r.refreshed_at_ms FROM ",
    rows(bucket: bigint, id: text, started_ms: bigint, step: bigint, refreshed_at_ms: bigint),
    "WHERE ($2 < 0 OR e.bucket = $2) AND e.bucket = r.bucket AND e.device_id = r.id"
);

/// Writes how far it has come; the caller holds the channels.
pub async fn refresh(conn: &mut Conn, rows: &[Refresh]) -> Result<()> {
    if !rows.is_empty() {
        sqlx::query(REFRESH.on(conn.dialect())).bind(rows_json(rows)).bind(-1_i64).execute(conn.raw()).await?;
    }
    Ok(())
}
