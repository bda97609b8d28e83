//! Operators, their sessions, and API keys.

use super::Conn;
use crate::error::Result;
use crate::model::Role;

/// A session that stands, with its operator.
#[derive(Clone, Debug)]
pub struct SessionRow {
    pub operator_id: String,
    pub name: String,
    pub role: Role,
    pub csrf: String,
}

/// The session whose secret hashes to `hash`, unless it has expired or its operator is disabled.
pub async fn session(conn: &mut Conn, hash: &str, now_ms: i64) -> Result<Option<SessionRow>> {
    let row: Option<(String, String, String, String)> = sqlx::query_as(
        "SELECT o.id, o.name, o.role, s.csrf FROM session s JOIN operator o ON o.id = s.operator_id \
         WHERE s.hash = $1 AND s.expires_at_ms > $2 AND o.disabled_at_ms IS NULL",
    )
    .bind(hash)
    .bind(now_ms)
    .fetch_optional(conn.raw())
    .await?;
    Ok(row.and_then(|(operator_id, name, role, csrf)| Some(SessionRow { operator_id, name, role: role.parse().ok()?, csrf })))
}

/// The name and role of the API key that hashes to `hash`, unless it was revoked.
pub async fn api_key(conn: &mut Conn, hash: &str) -> Result<Option<(String, Role)>> {
    let row: Option<(String, String)> = sqlx::query_as("SELECT name, role FROM api_key WHERE hash = $1 AND revoked_at_ms IS NULL")
        .bind(hash)
        .fetch_optional(conn.raw())
        .await?;
    Ok(row.and_then(|(name, role)| Some((name, role.parse().ok()?))))
}
