//! Operators, their sessions, and API keys.

use super::{Conn, Dialect};
use crate::error::Result;
use crate::model::{Id, Role};

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

/// An operator as stored.
#[derive(Clone, Debug, sqlx_macros::FromRow)]
pub struct OperatorRow {
    pub id: Id,
    pub name: String,
    pub role: String,
    pub password_hash: Option<String>,
    pub created_at_ms: i64,
    pub disabled_at_ms: Option<i64>,
}

/// Adds an operator unless one has the name; answers the id and the role of whoever has it. One who is there is enabled again and gets
/// this role, or keeps the present one where none is given; a new one is then an operator.
pub async fn ensure(conn: &mut Conn, id: Id, name: &str, role: Option<Role>, now_ms: i64) -> Result<(Id, String)> {
    sqlx::query(
        "INSERT INTO operator (id, name, role, created_at_ms) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name) DO UPDATE SET disabled_at_ms = NULL, role = CASE WHEN $5 = 1 THEN excluded.role ELSE operator.role END",
    )
    .bind(id)
    .bind(name)
    .bind(role.unwrap_or(Role::Operator).name())
    .bind(now_ms)
    .bind(i64::from(role.is_some()))
    .execute(conn.raw())
    .await?;
    Ok(sqlx::query_as("SELECT id, role FROM operator WHERE name = $1").bind(name).fetch_one(conn.raw()).await?)
}

pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<OperatorRow>> {
    Ok(sqlx::query_as("SELECT * FROM operator WHERE id = $1").bind(id).fetch_optional(conn.raw()).await?)
}

pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Option<OperatorRow>> {
    Ok(sqlx::query_as("SELECT * FROM operator WHERE name = $1").bind(name).fetch_optional(conn.raw()).await?)
}

/// Operators behind a name, '' for the first, by name.
pub async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<OperatorRow>> {
    Ok(sqlx::query_as("SELECT * FROM operator WHERE name > $1 ORDER BY name LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// The administrators who may sign in, locked: of two who take each other's role away, the second is looked at after the first.
pub async fn admins(conn: &mut Conn) -> Result<Vec<Id>> {
    let text = match conn.dialect() {
        Dialect::Sqlite => "SELECT id FROM operator WHERE role = 'admin' AND disabled_at_ms IS NULL ORDER BY id",
        Dialect::Postgres => "SELECT id FROM operator WHERE role = 'admin' AND disabled_at_ms IS NULL ORDER BY id FOR UPDATE",
    };
    Ok(sqlx::query_scalar(text).fetch_all(conn.raw()).await?)
}

pub async fn disable(conn: &mut Conn, id: Id, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE operator SET disabled_at_ms = $2 WHERE id = $1").bind(id).bind(now_ms).execute(conn.raw()).await?;
    Ok(())
}

pub async fn set_password(conn: &mut Conn, id: Id, password_hash: &str) -> Result<()> {
    sqlx::query("UPDATE operator SET password_hash = $2 WHERE id = $1").bind(id).bind(password_hash).execute(conn.raw()).await?;
    Ok(())
}

pub async fn insert_link(conn: &mut Conn, hash: &str, operator_id: Id, now_ms: i64, expires_at_ms: i64) -> Result<()> {
    sqlx::query("INSERT INTO sign_in_link (hash, operator_id, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4)")
        .bind(hash)
        .bind(operator_id)
        .bind(now_ms)
        .bind(expires_at_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// True where there is such a link, used or not.
pub async fn knows_link(conn: &mut Conn, hash: &str) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sign_in_link WHERE hash = $1").bind(hash).fetch_optional(conn.raw()).await?;
    Ok(found.is_some())
}

/// Uses a link up; the operator it was for, once.
pub async fn use_link(conn: &mut Conn, hash: &str, now_ms: i64) -> Result<Option<Id>> {
    Ok(sqlx::query_scalar(
        "UPDATE sign_in_link SET used_at_ms = $2 WHERE hash = $1 AND used_at_ms IS NULL AND expires_at_ms > $2 RETURNING operator_id",
    )
    .bind(hash)
    .bind(now_ms)
    .fetch_optional(conn.raw())
    .await?)
}

pub async fn insert_session(conn: &mut Conn, hash: &str, operator_id: Id, csrf: &str, now_ms: i64, expires_at_ms: i64) -> Result<()> {
    sqlx::query("INSERT INTO session (hash, operator_id, csrf, created_at_ms, expires_at_ms) VALUES ($1, $2, $3, $4, $5)")
        .bind(hash)
        .bind(operator_id)
        .bind(csrf)
        .bind(now_ms)
        .bind(expires_at_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

pub async fn delete_session(conn: &mut Conn, hash: &str) -> Result<()> {
    sqlx::query("DELETE FROM session WHERE hash = $1").bind(hash).execute(conn.raw()).await?;
    Ok(())
}

/// Ends all sessions of an operator but the one whose secret hashes to `keep`.
pub async fn delete_sessions(conn: &mut Conn, operator_id: Id, keep: &str) -> Result<()> {
    sqlx::query("DELETE FROM session WHERE operator_id = $1 AND hash <> $2").bind(operator_id).bind(keep).execute(conn.raw()).await?;
    Ok(())
}

// A key may have been made with a key, and that one with another. UNION leaves out what is known: it ends, whatever refers to what.
const MAKERS: &str = "WITH RECURSIVE made (name, maker) AS ( \
       SELECT name, created_by FROM api_key WHERE name = $1 \
       UNION SELECT k.name, k.created_by FROM api_key k JOIN made m ON m.maker = 'key:' || k.name) \
     SELECT COUNT(*) FROM made WHERE maker = $2";

/// True where this operator made a key of that name, or a key that made it, whether they stand or are revoked.
pub async fn made_key(conn: &mut Conn, key: &str, operator: &str) -> Result<bool> {
    let found: i64 = sqlx::query_scalar(MAKERS).bind(key).bind(operator).fetch_one(conn.raw()).await?;
    Ok(found > 0)
}

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub id: Id,
    pub name: String,
    pub role: Role,
    pub hash: String,
    pub created_by: String,
    pub created_at_ms: i64,
}

/// Stores a key; false where one that stands has its name.
pub async fn insert_key(conn: &mut Conn, key: &NewKey) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO api_key (id, name, role, hash, created_by, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (name) WHERE revoked_at_ms IS NULL DO NOTHING",
    )
    .bind(key.id)
    .bind(&key.name)
    .bind(key.role.name())
    .bind(&key.hash)
    .bind(&key.created_by)
    .bind(key.created_at_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The names of the API keys that stand and that `maker` made, or a key of theirs did; at most `most`. A name may have been another key's
/// before: a key was made with the one that stood under the name at that time.
pub async fn keys_of(conn: &mut Conn, maker: &str, most: i64) -> Result<Vec<String>> {
    let sql = "WITH RECURSIVE made (id, name, created_at_ms, revoked_at_ms) AS ( \
                 SELECT id, name, created_at_ms, revoked_at_ms FROM api_key WHERE created_by = $1 \
                 UNION SELECT k.id, k.name, k.created_at_ms, k.revoked_at_ms FROM api_key k JOIN made m ON k.created_by = 'key:' || m.name \
                   AND k.created_at_ms >= m.created_at_ms AND k.created_at_ms <= COALESCE(m.revoked_at_ms, k.created_at_ms)) \
               SELECT name FROM made WHERE revoked_at_ms IS NULL ORDER BY name LIMIT $2";
    Ok(sqlx::query_scalar(sql).bind(maker).bind(most).fetch_all(conn.raw()).await?)
}

/// A key as it is shown.
#[derive(Clone, Debug, sqlx_macros::FromRow, serde::Serialize, utoipa::ToSchema)]
pub struct KeyRow {
    pub id: Id,
    pub name: String,
    pub role: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub revoked_at_ms: Option<i64>,
}

pub async fn keys(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<KeyRow>> {
    Ok(sqlx::query_as("SELECT id, name, role, created_by, created_at_ms, revoked_at_ms FROM api_key WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

pub async fn revoke_key(conn: &mut Conn, id: Id, now_ms: i64) -> Result<Option<String>> {
    let revoked = sqlx::query_scalar("UPDATE api_key SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL RETURNING name");
    Ok(revoked.bind(id).bind(now_ms).fetch_optional(conn.raw()).await?)
}
