//! Findings: states of non-compliance with clocks that the server keeps. At most one is open for (device, kind, subject).

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Sql, keys_json, rows_json};
use crate::error::Result;
use crate::model::Id;

// "Open" is said as `closed_at_ms IS NULL` where an index of open findings shall be read in its order, and else as `COALESCE(closed_at_ms, 0) = 0`:
// PostgreSQL would join rows with an index that its statistics believe empty by reading it whole for each.

/// Rows that travel in one statement.
const ROWS_MAX: usize = 500;

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct FindingKey {
    pub bucket: i64,
    pub device_id: Id,
    pub kind: &'static str,
    /// What of its kind: the threat, the profile; '' where there is only one.
    pub subject: String,
}

/// A finding to be opened, or to be brought up to date where it is open.
#[derive(Clone, Debug, Serialize)]
pub struct NewFinding {
    #[serde(flatten)]
    pub key: FindingKey,
    pub id: Id,
    pub due_at_ms: i64,
    /// JSON.
    pub detail: String,
}

/// A finding as a statement met it.
#[derive(Clone, Debug, FromRow)]
pub struct Met {
    pub id: Id,
    pub device_id: Id,
    pub kind: String,
    pub subject: String,
    pub due_at_ms: i64,
}

// An open one keeps its id and its opening, so the caller sees by the id whether it is new; its due time only moves forward to now.
const OPEN: Sql = rows_sql!(
    "INSERT INTO finding (bucket, id, device_id, kind, subject, opened_at_ms, due_at_ms, detail) \
     SELECT r.bucket, r.id, r.device_id, r.kind, r.subject, $2, r.due_at_ms, r.detail FROM ",
    rows(bucket: bigint, id: text, device_id: text, kind: text, subject: text, due_at_ms: bigint, detail: text),
    "WHERE TRUE ON CONFLICT (bucket, device_id, kind, subject) WHERE closed_at_ms IS NULL DO UPDATE SET \
       due_at_ms = CASE WHEN excluded.due_at_ms < finding.due_at_ms THEN excluded.due_at_ms ELSE finding.due_at_ms END, \
       detail = excluded.detail \
     RETURNING id, device_id, kind, subject, due_at_ms"
);

/// Opens findings, each key at most once; answers every one, new or not.
pub async fn open(conn: &mut Conn, findings: &[NewFinding], now_ms: i64) -> Result<Vec<Met>> {
    let mut met = Vec::new();
    for rows in findings.chunks(ROWS_MAX) {
        let found: Vec<Met> = sqlx::query_as(OPEN.on(conn.dialect())).bind(rows_json(rows)).bind(now_ms).fetch_all(conn.raw()).await?;
        met.extend(found);
    }
    Ok(met)
}

/// A finding to be closed, and what closed it.
#[derive(Clone, Debug, Serialize)]
pub struct Closing {
    #[serde(flatten)]
    pub key: FindingKey,
    pub closed_by: String,
}

const CLOSE: Sql = rows_sql!(
    "UPDATE finding SET closed_at_ms = $2, closed_by = r.closed_by FROM ",
    rows(bucket: bigint, device_id: text, kind: text, subject: text, closed_by: text),
    "WHERE finding.bucket = r.bucket AND finding.device_id = r.device_id AND finding.kind = r.kind AND finding.subject = r.subject AND COALESCE(finding.closed_at_ms, 0) = 0 \
     RETURNING finding.id, finding.device_id, finding.kind, finding.subject, finding.due_at_ms"
);

/// Closes the open findings among these; answers the ones that were open.
pub async fn close(conn: &mut Conn, closings: &[Closing], now_ms: i64) -> Result<Vec<Met>> {
    let mut met = Vec::new();
    for rows in closings.chunks(ROWS_MAX) {
        let found: Vec<Met> = sqlx::query_as(CLOSE.on(conn.dialect())).bind(rows_json(rows)).bind(now_ms).fetch_all(conn.raw()).await?;
        met.extend(found);
    }
    Ok(met)
}

const OPEN_OF: Sql = rows_sql!(
    "SELECT f.id, f.device_id, f.kind, f.subject, f.due_at_ms FROM ",
    rows(bucket: bigint, id: text),
    "JOIN finding f ON f.bucket = r.bucket AND f.device_id = r.id WHERE COALESCE(f.closed_at_ms, 0) = 0 AND ($2 = '' OR f.kind = $2)"
);

/// The open findings of these devices, of one kind, or of all kinds for ''.
pub async fn open_of(conn: &mut Conn, devices: &[Id], kind: &str) -> Result<Vec<Met>> {
    let mut found = Vec::new();
    for some in devices.chunks(ROWS_MAX) {
        let met: Vec<Met> = sqlx::query_as(OPEN_OF.on(conn.dialect())).bind(keys_json(some)).bind(kind).fetch_all(conn.raw()).await?;
        found.extend(met);
    }
    Ok(found)
}

/// True where a clock has run out that nobody has told of; a read that spares the writer when none has.
pub async fn any_due(conn: &mut Conn, now_ms: i64) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT due_at_ms FROM finding WHERE closed_at_ms IS NULL AND overdue_at_ms IS NULL AND due_at_ms > 0 AND due_at_ms <= $1 \
         ORDER BY due_at_ms LIMIT 1",
    )
    .bind(now_ms)
    .fetch_optional(conn.raw())
    .await?;
    Ok(found.is_some())
}

const OVERDUE: &str = "UPDATE finding SET overdue_at_ms = $1 WHERE COALESCE(closed_at_ms, overdue_at_ms) IS NULL AND (bucket, id) IN \
       (SELECT bucket, id FROM finding WHERE closed_at_ms IS NULL AND overdue_at_ms IS NULL AND due_at_ms > 0 AND due_at_ms <= $1 \
        ORDER BY due_at_ms LIMIT $2) \
     RETURNING id, device_id, kind, subject, due_at_ms";

/// Marks up to `rows_max` findings whose clock has run out; answers them.
pub async fn overdue(conn: &mut Conn, now_ms: i64, rows_max: i64) -> Result<Vec<Met>> {
    Ok(sqlx::query_as(OVERDUE).bind(now_ms).bind(rows_max).fetch_all(conn.raw()).await?)
}

const OVERDUE_AMONG: Sql = rows_sql!(
    "UPDATE finding SET overdue_at_ms = $2 FROM ",
    rows(bucket: bigint, id: text),
    "WHERE finding.bucket = r.bucket AND finding.id = r.id AND COALESCE(finding.closed_at_ms, finding.overdue_at_ms) IS NULL AND finding.due_at_ms <= $2 \
     RETURNING finding.id, finding.device_id, finding.kind, finding.subject, finding.due_at_ms"
);

/// The same for known ones, so that what is due at once is told at once.
pub async fn overdue_among(conn: &mut Conn, ids: &[Id], now_ms: i64) -> Result<Vec<Met>> {
    let mut met = Vec::new();
    for some in ids.chunks(ROWS_MAX) {
        let found: Vec<Met> =
            sqlx::query_as(OVERDUE_AMONG.on(conn.dialect())).bind(keys_json(some)).bind(now_ms).fetch_all(conn.raw()).await?;
        met.extend(found);
    }
    Ok(met)
}

/// A finding as it is kept.
#[derive(Clone, Debug, FromRow)]
pub struct FindingRow {
    pub id: Id,
    pub device_id: Id,
    pub kind: String,
    pub subject: String,
    pub opened_at_ms: i64,
    pub due_at_ms: i64,
    pub overdue_at_ms: Option<i64>,
    pub closed_at_ms: Option<i64>,
    pub closed_by: Option<String>,
    pub detail: String,
}

macro_rules! list_sql {
    ($where:literal) => {
        concat!(
            "SELECT id, device_id, kind, subject, opened_at_ms, due_at_ms, overdue_at_ms, closed_at_ms, closed_by, detail FROM finding \
             WHERE id < $1 AND ($3 = '' OR kind = $3) ",
            $where,
            " ORDER BY id DESC LIMIT $2"
        )
    };
}

/// Which findings to list.
#[derive(Clone, Debug, Default)]
pub struct Which {
    pub device: Option<Id>,
    pub kind: Option<String>,
    /// Only the open, or only the closed ones.
    pub open: Option<bool>,
    pub before: Option<Id>,
}

/// Findings, newest first, `rows_max` at most.
pub async fn list(conn: &mut Conn, which: &Which, rows_max: i64) -> Result<Vec<FindingRow>> {
    let text = match (which.device.is_some(), which.open) {
        (false, None) => list_sql!(""),
        (false, Some(true)) => list_sql!("AND id > '' AND closed_at_ms IS NULL"),
        (false, Some(false)) => list_sql!("AND closed_at_ms IS NOT NULL"),
        (true, None) => list_sql!("AND device_id = $4"),
        (true, Some(true)) => list_sql!("AND device_id = $4 AND closed_at_ms IS NULL"),
        (true, Some(false)) => list_sql!("AND device_id = $4 AND closed_at_ms IS NOT NULL"),
    };
    // "~" is later than every id.
    let before = which.before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    let mut query = sqlx::query_as(text).bind(before).bind(rows_max).bind(which.kind.clone().unwrap_or_default());
    if let Some(device) = which.device {
        query = query.bind(device);
    }
    Ok(query.fetch_all(conn.raw()).await?)
}

/// Forgets up to `rows_max` findings of one bucket that were closed before `before_ms`.
pub async fn forget(conn: &mut Conn, bucket: i64, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM finding WHERE bucket = $1 AND id IN \
           (SELECT id FROM finding WHERE bucket = $1 AND id < $2 AND closed_at_ms < $3 ORDER BY id LIMIT $4)",
    )
    .bind(bucket)
    .bind(Id::first_of(before_ms))
    .bind(before_ms)
    .bind(rows_max)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected())
}
