//! Policies, their immutable versions, and their assignments to labels.

use serde::{Deserialize, Serialize};
use sqlx_macros::FromRow;
use utoipa::ToSchema;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::error::Result;
use crate::model::Id;

/// A policy as stored.
#[derive(Clone, Debug, FromRow)]
pub struct PolicyRow {
    pub id: Id,
    pub name: String,
    pub latest: i64,
    pub published: Option<i64>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

/// One version.
#[derive(Clone, Debug, FromRow)]
pub struct VersionRow {
    pub n: i64,
    pub document: String,
    pub hash: String,
    pub message: String,
    pub created_by: String,
    pub created_at_ms: i64,
    pub published_at_ms: Option<i64>,
}

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// A label's name, or `all`.
    pub label: String,
    /// `include` or `exclude`; an exclusion wins.
    pub mode: String,
    /// The greater is the stronger.
    pub rank: i64,
}

/// Takes the lock under which stacks are computed: publishing, assigning and the birth of label sets go one after the other.
pub async fn lock(conn: &mut Conn) -> Result<()> {
    sqlx::query(
        "INSERT INTO meta (name, value) VALUES ('policy_lock', '1') ON CONFLICT (name) DO UPDATE SET value = CASE WHEN meta.value = '1' THEN '0' ELSE '1' END",
    )
    .execute(conn.raw())
    .await?;
    Ok(())
}

pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Option<PolicyRow>> {
    Ok(sqlx::query_as("SELECT * FROM policy WHERE name = $1").bind(name).fetch_optional(conn.raw()).await?)
}

/// A page by name.
pub async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<PolicyRow>> {
    Ok(sqlx::query_as("SELECT * FROM policy WHERE name > $1 ORDER BY name LIMIT $2").bind(after).bind(limit).fetch_all(conn.raw()).await?)
}

pub async fn insert(conn: &mut Conn, id: Id, name: &str, now_ms: i64) -> Result<()> {
    sqlx::query("INSERT INTO policy (id, name, latest, created_at_ms, updated_at_ms) VALUES ($1, $2, 0, $3, $3)")
        .bind(id)
        .bind(name)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

pub async fn insert_version(conn: &mut Conn, policy: Id, version: &VersionRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO policy_version (policy_id, n, document, hash, message, created_by, created_at_ms, published_at_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(policy)
    .bind(version.n)
    .bind(&version.document)
    .bind(&version.hash)
    .bind(&version.message)
    .bind(&version.created_by)
    .bind(version.created_at_ms)
    .bind(version.published_at_ms)
    .execute(conn.raw())
    .await?;
    sqlx::query("UPDATE policy SET latest = $2, updated_at_ms = $3 WHERE id = $1")
        .bind(policy)
        .bind(version.n)
        .bind(version.created_at_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Makes a version the published one.
pub async fn publish(conn: &mut Conn, policy: Id, n: i64, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE policy SET published = $2, updated_at_ms = $3 WHERE id = $1")
        .bind(policy)
        .bind(n)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    sqlx::query("UPDATE policy_version SET published_at_ms = $3 WHERE policy_id = $1 AND n = $2")
        .bind(policy)
        .bind(n)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(())
}

pub async fn version(conn: &mut Conn, policy: Id, n: i64) -> Result<Option<VersionRow>> {
    Ok(sqlx::query_as(
        "SELECT n, document, hash, message, created_by, created_at_ms, published_at_ms FROM policy_version WHERE policy_id = $1 AND n = $2",
    )
    .bind(policy)
    .bind(n)
    .fetch_optional(conn.raw())
    .await?)
}

/// The documents of these versions (policy, number), each with its policy.
pub async fn documents(conn: &mut Conn, versions: &[(Id, i64)]) -> Result<Vec<(Id, String)>> {
    #[derive(Serialize)]
    struct Numbered {
        policy: Id,
        n: i64,
    }
    const DOCUMENTS: Sql = rows_sql!(
        "SELECT v.policy_id, v.document FROM ",
        rows(policy: text, n: bigint),
        "JOIN policy_version v ON v.policy_id = r.policy AND v.n = r.n"
    );
    let rows: Vec<Numbered> = versions.iter().map(|(policy, n)| Numbered { policy: *policy, n: *n }).collect();
    Ok(sqlx::query_as(DOCUMENTS.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?)
}

/// The newest versions first.
pub async fn versions(conn: &mut Conn, policy: Id, limit: i64) -> Result<Vec<VersionRow>> {
    Ok(sqlx::query_as(
        "SELECT n, document, hash, message, created_by, created_at_ms, published_at_ms FROM policy_version WHERE policy_id = $1 \
         ORDER BY n DESC LIMIT $2",
    )
    .bind(policy)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?)
}

pub async fn delete(conn: &mut Conn, policy: Id) -> Result<()> {
    for text in [
        "DELETE FROM assignment WHERE policy_id = $1",
        "DELETE FROM policy_version WHERE policy_id = $1",
        "DELETE FROM policy WHERE id = $1",
    ] {
        sqlx::query(text).bind(policy).execute(conn.raw()).await?;
    }
    Ok(())
}

/// The assignments of these policies, each with its policy, strongest first.
pub async fn assignments_of(conn: &mut Conn, policies: &[Id]) -> Result<Vec<(Id, Assignment)>> {
    #[derive(Serialize)]
    struct Of {
        policy: Id,
    }
    const ASSIGNMENTS: Sql = rows_sql!(
        "SELECT a.policy_id, COALESCE(l.name, a.label_id) AS label, a.mode, a.rank FROM ",
        rows(policy: text),
        "JOIN assignment a ON a.policy_id = r.policy LEFT JOIN label l ON l.id = a.label_id ORDER BY a.rank DESC, label"
    );
    let rows: Vec<Of> = policies.iter().map(|policy| Of { policy: *policy }).collect();
    let found: Vec<(Id, String, String, i64)> =
        sqlx::query_as(ASSIGNMENTS.on(conn.dialect())).bind(rows_json(&rows)).fetch_all(conn.raw()).await?;
    Ok(found.into_iter().map(|(policy, label, mode, rank)| (policy, Assignment { label, mode, rank })).collect())
}

/// The assignments of a policy, strongest first.
pub async fn assignments(conn: &mut Conn, policy: Id) -> Result<Vec<Assignment>> {
    Ok(assignments_of(conn, &[policy]).await?.into_iter().map(|(_, assignment)| assignment).collect())
}

/// Replaces the assignments of a policy: (label id or `all`, mode, rank).
pub async fn assign(conn: &mut Conn, policy: Id, assignments: &[(String, String, i64)]) -> Result<()> {
    sqlx::query("DELETE FROM assignment WHERE policy_id = $1").bind(policy).execute(conn.raw()).await?;
    for (label_id, mode, rank) in assignments {
        sqlx::query("INSERT INTO assignment (policy_id, label_id, mode, rank) VALUES ($1, $2, $3, $4)")
            .bind(policy)
            .bind(label_id)
            .bind(mode)
            .bind(*rank)
            .execute(conn.raw())
            .await?;
    }
    Ok(())
}

/// Removes all assignments to a label; answers the names of the policies that had them.
pub async fn unassign_label(conn: &mut Conn, label_id: &str) -> Result<Vec<String>> {
    let text = "SELECT p.name FROM assignment a JOIN policy p ON p.id = a.policy_id WHERE a.label_id = $1 ORDER BY p.name";
    let names = sqlx::query_scalar(text).bind(label_id).fetch_all(conn.raw()).await?;
    sqlx::query("DELETE FROM assignment WHERE label_id = $1").bind(label_id).execute(conn.raw()).await?;
    Ok(names)
}

/// An assignment of a published version, as stacks are computed from them.
#[derive(Clone, Debug, FromRow)]
pub struct InForce {
    pub policy_id: Id,
    pub name: String,
    pub version: i64,
    pub label_id: String,
    pub mode: String,
    pub rank: i64,
}

/// Every assignment of every published policy. There are as many as operators wrote.
pub async fn in_force(conn: &mut Conn) -> Result<Vec<InForce>> {
    Ok(sqlx::query_as(
        "SELECT p.id AS policy_id, p.name, p.published AS version, a.label_id, a.mode, a.rank FROM policy p JOIN assignment a ON a.policy_id = p.id \
         WHERE p.published IS NOT NULL ORDER BY p.name, a.label_id",
    )
    .fetch_all(conn.raw())
    .await?)
}
