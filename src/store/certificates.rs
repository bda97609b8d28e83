//! Challenges of enrollment profiles, and the identities that were issued against them.

use sqlx_macros::FromRow;

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// A challenge, as it is kept.
#[derive(Clone, Debug, FromRow)]
pub struct Challenge {
    pub hash: String,
    /// The enrollment token whose profile carries it.
    pub token_id: Option<Id>,
    /// The device whose identity it renews.
    pub device_id: Option<Id>,
    pub created_at_ms: i64,
    pub expires_at_ms: i64,
}

/// Keeps a challenge.
pub async fn put_challenge(conn: &mut Conn, challenge: &Challenge) -> Result<()> {
    sqlx::query("INSERT INTO scep_challenge (hash, token_id, device_id, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5)")
        .bind(&challenge.hash)
        .bind(challenge.token_id)
        .bind(challenge.device_id)
        .bind(challenge.created_at_ms)
        .bind(challenge.expires_at_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Uses a challenge up; `None` where it is unknown, expired or was used before.
pub async fn take_challenge(conn: &mut Conn, hash: &str, now_ms: i64) -> Result<Option<Challenge>> {
    Ok(sqlx::query_as(
        "UPDATE scep_challenge SET used_at_ms = $2 WHERE hash = $1 AND used_at_ms IS NULL AND expires_at_ms > $2 \
         RETURNING hash, token_id, device_id, created_at_ms, expires_at_ms",
    )
    .bind(hash)
    .bind(now_ms)
    .fetch_optional(conn.raw())
    .await?)
}

/// An identity that this server issued.
#[derive(Clone, Debug, FromRow)]
pub struct Certificate {
    /// SHA-256 of its DER, lower-case hex.
    pub hash: String,
    /// Base64.
    pub der: String,
    /// Names the request that it answers.
    pub request_hash: String,
    /// Lower-case hex.
    pub serial: String,
    pub token_id: Option<Id>,
    /// The device whose identity it renews.
    pub device_id: Option<Id>,
    pub issued_at_ms: i64,
    pub expires_at_ms: i64,
    pub revoked_at_ms: Option<i64>,
}

/// Keeps an identity that was issued; false where there is one for the same request, which stays.
pub async fn insert(conn: &mut Conn, certificate: &Certificate) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO certificate (hash, der, request_hash, serial, token_id, device_id, issued_at_ms, expires_at_ms, revoked_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
    )
    .bind(&certificate.hash)
    .bind(&certificate.der)
    .bind(&certificate.request_hash)
    .bind(&certificate.serial)
    .bind(certificate.token_id)
    .bind(certificate.device_id)
    .bind(certificate.issued_at_ms)
    .bind(certificate.expires_at_ms)
    .bind(certificate.revoked_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT hash, der, request_hash, serial, token_id, device_id, issued_at_ms, expires_at_ms, revoked_at_ms FROM certificate ",
            $tail
        )
    };
}

/// An identity by its hash.
pub async fn find(conn: &mut Conn, hash: &str) -> Result<Option<Certificate>> {
    Ok(sqlx::query_as(select!("WHERE hash = $1")).bind(hash).fetch_optional(conn.raw()).await?)
}

/// Identities of a serial number, lower-case hex.
pub async fn of_serial(conn: &mut Conn, serial: &str, rows_max: i64) -> Result<Vec<Certificate>> {
    Ok(sqlx::query_as(select!("WHERE serial = $1 LIMIT $2")).bind(serial).bind(rows_max).fetch_all(conn.raw()).await?)
}

/// The identity that a request was answered with.
pub async fn answered(conn: &mut Conn, request_hash: &str) -> Result<Option<Certificate>> {
    Ok(sqlx::query_as(select!("WHERE request_hash = $1")).bind(request_hash).fetch_optional(conn.raw()).await?)
}
