//! Finding devices. The one place where a statement is composed: of static fragments, never of input.

use sqlx::AssertSqlSafe;

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// What to look for; everything must fit.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The beginning of a word that the device is found by.
    pub q: Option<String>,
    /// A label's name.
    pub label: Option<String>,
    pub state: Option<String>,
    pub platform: Option<String>,
    /// Devices after this (bucket, id).
    pub after: Option<(i64, String)>,
}

/// A page of ids in the order of the primary key.
pub async fn devices(conn: &mut Conn, search: &Search, limit: i64) -> Result<Vec<Id>> {
    let mut text = String::from(
        "SELECT d.id FROM device d WHERE (d.bucket > $1 OR (d.bucket = $1 AND d.id > $2)) AND ($3 = '' OR d.state = $3) \
         AND ($4 = '' OR d.platform = $4)",
    );
    // Words and labels have indexes of their own: each is asked only where it is wanted. The parameters stay the same eight.
    if search.q.is_some() {
        text.push_str(
            " AND EXISTS (SELECT 1 FROM device_term t WHERE t.bucket = d.bucket AND t.device_id = d.id AND t.term >= $5 AND t.term < $6)",
        );
    } else {
        text.push_str(" AND CAST($5 AS TEXT) = CAST($6 AS TEXT)");
    }
    if search.label.is_some() {
        text.push_str(
            " AND EXISTS (SELECT 1 FROM label_member m JOIN label l ON l.id = m.label_id \
             WHERE m.bucket = d.bucket AND m.device_id = d.id AND l.name = $7)",
        );
    } else {
        text.push_str(" AND $7 = ''");
    }
    text.push_str(" ORDER BY d.bucket, d.id LIMIT $8");
    let (bucket, after) = search.after.clone().unwrap_or((-1, String::new()));
    let from = search.q.as_deref().unwrap_or("").trim().to_lowercase();
    // Texts compare as bytes; nothing that begins with `from` lies beyond it followed by the last character there is.
    let to = if search.q.is_some() { format!("{from}\u{10ffff}") } else { from.clone() };
    Ok(sqlx::query_scalar(AssertSqlSafe(text))
        .bind(bucket)
        .bind(after)
        .bind(search.state.clone().unwrap_or_default())
        .bind(search.platform.clone().unwrap_or_default())
        .bind(from)
        .bind(to)
        .bind(search.label.clone().unwrap_or_default())
        .bind(limit)
        .fetch_all(conn.raw())
        .await?)
}
