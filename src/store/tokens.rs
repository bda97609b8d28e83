//! Enrollment tokens: only their hashes are kept.

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::Result;
use crate::model::Id;

/// An enrollment token as stored.
#[derive(Clone, Debug, FromRow)]
pub struct TokenRow {
    pub id: Id,
    pub name: String,
    pub hash: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub expires_at_ms: Option<i64>,
    pub max_uses: Option<i64>,
    pub uses: i64,
    pub revoked_at_ms: Option<i64>,
    /// JSON list of label ids that its devices get.
    pub labels: String,
    pub user_id: Option<Id>,
    pub serial: Option<String>,
    /// The one device it is for.
    pub device_id: Option<Id>,
    /// The token that it was derived from, for that device.
    pub parent_id: Option<Id>,
}

/// Stores a new token.
pub async fn insert(conn: &mut Conn, token: &TokenRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO enrollment_token (id, name, hash, created_by, created_at_ms, expires_at_ms, max_uses, uses, labels, user_id, serial, device_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11)",
    )
    .bind(token.id)
    .bind(&token.name)
    .bind(&token.hash)
    .bind(&token.created_by)
    .bind(token.created_at_ms)
    .bind(token.expires_at_ms)
    .bind(token.max_uses)
    .bind(&token.labels)
    .bind(token.user_id)
    .bind(&token.serial)
    .bind(token.device_id)
    .execute(conn.raw())
    .await?;
    Ok(())
}

// A derived token that nobody has used ends with the one that it was derived from.
macro_rules! select {
    ($where:literal) => {
        concat!(
            "SELECT t.id, t.name, t.hash, t.created_by, t.created_at_ms, \
               CASE WHEN t.uses = 0 AND t.expires_at_ms IS NULL THEN p.expires_at_ms ELSE t.expires_at_ms END AS expires_at_ms, t.max_uses, t.uses, \
               CASE WHEN t.uses = 0 AND t.revoked_at_ms IS NULL THEN p.revoked_at_ms ELSE t.revoked_at_ms END AS revoked_at_ms, \
               t.labels, t.user_id, t.serial, t.device_id, t.parent_id \
             FROM enrollment_token t LEFT JOIN enrollment_token p ON p.id = t.parent_id WHERE ",
            $where
        )
    };
}

pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<TokenRow>> {
    Ok(sqlx::query_as(select!("t.id = $1")).bind(id).fetch_optional(conn.raw()).await?)
}

pub async fn by_hash(conn: &mut Conn, hash: &str) -> Result<Option<TokenRow>> {
    Ok(sqlx::query_as(select!("t.hash = $1")).bind(hash).fetch_optional(conn.raw()).await?)
}

/// A page, oldest first; without those that were derived for single devices.
pub async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<TokenRow>> {
    Ok(sqlx::query_as("SELECT * FROM enrollment_token WHERE id > $1 AND parent_id IS NULL ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}

/// Counts one use; false where the token has none left, has expired or was revoked meanwhile.
pub async fn take_use(conn: &mut Conn, id: Id, now_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE enrollment_token SET uses = uses + 1 WHERE id = $1 AND revoked_at_ms IS NULL \
         AND (max_uses IS NULL OR uses < max_uses) AND (expires_at_ms IS NULL OR expires_at_ms > $2)",
    )
    .bind(id)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a use back that the same transaction counted.
pub async fn give_back_use(conn: &mut Conn, id: Id) -> Result<()> {
    sqlx::query("UPDATE enrollment_token SET uses = uses - 1 WHERE id = $1 AND uses > 0").bind(id).execute(conn.raw()).await?;
    Ok(())
}

/// True where this token let this device in, or is what a parked newcomer came with.
pub async fn was_used_by(conn: &mut Conn, token_id: Id, device_id: Id) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar("SELECT at_ms FROM enrollment_use WHERE bucket = $1 AND device_id = $2 AND token_id = $3")
        .bind(device_id.bucket())
        .bind(device_id)
        .bind(token_id)
        .fetch_optional(conn.raw())
        .await?;
    Ok(found.is_some())
}

/// Ends a token; false where it had ended before.
pub async fn revoke(conn: &mut Conn, id: Id, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE enrollment_token SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL")
        .bind(id)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes which device a token admitted, and from where.
pub async fn note_use(conn: &mut Conn, token_id: Id, device_id: Id, remote: &str, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO enrollment_use (bucket, device_id, token_id, at_ms, remote) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (bucket, device_id, token_id) DO UPDATE SET at_ms = excluded.at_ms, remote = excluded.remote",
    )
    .bind(device_id.bucket())
    .bind(device_id)
    .bind(token_id)
    .bind(now_ms)
    .bind(remote)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// A device that a token admitted.
#[derive(Clone, Debug, FromRow, serde::Serialize, utoipa::ToSchema)]
pub struct UseRow {
    pub device_id: Id,
    pub at_ms: i64,
    pub remote: String,
}

/// The devices that a token, or one derived from it, admitted at or after `since_ms`, oldest first; newcomers that wait for an operator are none.
pub async fn uses(conn: &mut Conn, token_id: Id, since_ms: i64, limit: i64) -> Result<Vec<UseRow>> {
    Ok(sqlx::query_as(
        "SELECT u.device_id, u.at_ms, u.remote FROM enrollment_use u LEFT JOIN device d ON d.bucket = u.bucket AND d.id = u.device_id \
         WHERE (u.token_id = $1 OR u.token_id IN (SELECT id FROM enrollment_token WHERE parent_id = $1)) AND u.at_ms >= $2 AND COALESCE(d.state, '') NOT IN ('pending_approval', 'expected') \
         ORDER BY u.at_ms, u.device_id LIMIT $3",
    )
    .bind(token_id)
    .bind(since_ms)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?)
}

/// An enrollment token that policies refer to by its name.
#[derive(Clone, Debug, FromRow)]
pub struct Named {
    pub id: Id,
    pub name: String,
    pub expires_at_ms: Option<i64>,
    pub revoked_at_ms: Option<i64>,
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
}

const NAMED: Sql = rows_sql!(
    "SELECT t.id, t.name, t.expires_at_ms, t.revoked_at_ms FROM ",
    rows(name: text),
    "JOIN enrollment_token t ON t.name = r.name WHERE t.parent_id IS NULL ORDER BY t.id"
);

/// The tokens of these names, oldest first, whether they are good or not.
pub async fn named(conn: &mut Conn, names: &[&str]) -> Result<Vec<Named>> {
    let rows: Vec<Name<'_>> = names.iter().map(|name| Name { name }).collect();
    Ok(sqlx::query_as(NAMED.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?)
}

#[derive(Serialize)]
struct Pair {
    parent_id: Id,
    device_id: Id,
}

const DERIVED: Sql = rows_sql!(
    "SELECT t.parent_id, t.device_id FROM ",
    rows(parent_id: text, device_id: text),
    "JOIN enrollment_token t ON t.parent_id = r.parent_id AND t.device_id = r.device_id"
);

/// Of these tokens and devices those pairs for which one was derived already.
pub async fn derived(conn: &mut Conn, pairs: impl Iterator<Item = (Id, Id)>) -> Result<Vec<(Id, Id)>> {
    let rows: Vec<Pair> = pairs.map(|(parent_id, device_id)| Pair { parent_id, device_id }).collect();
    Ok(sqlx::query_as(DERIVED.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?)
}

/// A token that was derived for one device.
#[derive(Clone, Debug, Serialize)]
pub struct NewBound {
    pub id: Id,
    pub hash: String,
    pub parent_id: Id,
    pub device_id: Id,
    pub user_id: Option<Id>,
}

const KEEP: Sql = rows_sql!(
    "INSERT INTO enrollment_token (id, name, hash, created_by, created_at_ms, max_uses, uses, labels, user_id, device_id, parent_id) \
     SELECT r.id, p.name, r.hash, p.created_by, $2, 1, 0, p.labels, r.user_id, r.device_id, p.id FROM ",
    rows(id: text, hash: text, parent_id: text, device_id: text, user_id: text),
    "JOIN enrollment_token p ON p.id = r.parent_id WHERE p.id <> '' ON CONFLICT (hash) DO NOTHING"
);

/// Keeps derived tokens, each for one use; those that are kept already stay as they are.
pub async fn keep(conn: &mut Conn, bound: &[NewBound], now_ms: i64) -> Result<()> {
    if !bound.is_empty() {
        sqlx::query(KEEP.on(conn.dialect())).bind(rows_json(bound)).bind(now_ms).execute(conn.raw()).await?;
    }
    Ok(())
}

/// A named token that has ended and from which tokens were derived that nobody has used.
#[derive(Clone, Debug, FromRow)]
pub struct EndedName {
    pub id: Id,
    pub name: String,
    /// 1 where another token of this name is good.
    pub is_replaced: i64,
}

/// Those that ended before `before_ms`.
pub async fn ended(conn: &mut Conn, before_ms: i64, now_ms: i64, rows_max: i64) -> Result<Vec<EndedName>> {
    Ok(sqlx::query_as(
        "SELECT p.id, p.name, CAST(CASE WHEN EXISTS (SELECT 1 FROM enrollment_token g WHERE g.name = p.name AND g.parent_id IS NULL \
             AND g.revoked_at_ms IS NULL AND (g.expires_at_ms IS NULL OR g.expires_at_ms > $2)) THEN 1 ELSE 0 END AS BIGINT) AS is_replaced \
         FROM enrollment_token p WHERE p.parent_id IS NULL AND (p.revoked_at_ms < $1 OR p.expires_at_ms < $1) \
           AND EXISTS (SELECT 1 FROM enrollment_token t WHERE t.parent_id = p.id AND t.uses = 0) ORDER BY p.id LIMIT $3",
    )
    .bind(before_ms)
    .bind(now_ms)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?)
}

/// Forgets tokens that were derived from this one and never used; answers how many.
pub async fn forget_unused(conn: &mut Conn, parent: Id, rows_max: i64) -> Result<u64> {
    let text = "DELETE FROM enrollment_token WHERE id IN (SELECT id FROM enrollment_token WHERE parent_id = $1 AND uses = 0 LIMIT $2)";
    Ok(sqlx::query(text).bind(parent).bind(rows_max).execute(conn.raw()).await?.rows_affected())
}
