//! Counts that many devices share: writers append, one folder at a time adds up.

use std::collections::BTreeMap;

use serde::Serialize;

use super::batch::rows_sql;
use super::{Conn, Sql, rows_json};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;

#[derive(Serialize)]
struct Row<'a> {
    id: Id,
    topic: &'a str,
    key: &'a str,
    n: i64,
}

const ADD: Sql = rows_sql!(
    "INSERT INTO tally_in (id, topic, key, n) SELECT r.id, r.topic, r.key, r.n FROM ",
    rows(id: text, topic: text, key: text, n: bigint),
    ""
);

/// Appends changes of counts: (topic, key, by how many).
pub async fn add(conn: &mut Conn, moment: &mut Moment, changes: &[(String, String, i64)]) -> Result<()> {
    let mut sums: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (topic, key, n) in changes {
        *sums.entry((topic, key)).or_default() += n;
    }
    let rows: Vec<Row<'_>> =
        sums.into_iter().filter(|(_, n)| *n != 0).map(|((topic, key), n)| Row { id: moment.id(), topic, key, n }).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(ADD.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

/// The counts of several topics, exact, in one statement: (topic, key, count).
pub async fn read_many(conn: &mut Conn, topics: &[String]) -> Result<Vec<(String, String, i64)>> {
    macro_rules! read_many {
        ($topics:literal) => {
            concat!(
                "SELECT topic, key, CAST(SUM(n) AS BIGINT) FROM (SELECT topic, key, n FROM tally WHERE topic IN (",
                $topics,
                ") UNION ALL SELECT topic, key, n FROM tally_in WHERE topic IN (",
                $topics,
                ")) AS t GROUP BY topic, key"
            )
        };
    }
    const READ_MANY: Sql =
        Sql { sqlite: read_many!("SELECT value FROM json_each($1)"), postgres: read_many!("SELECT json_array_elements_text($1::json)") };
    Ok(sqlx::query_as(READ_MANY.on(conn.dialect())).bind(rows_json(topics)).fetch_all(conn.raw()).await?)
}

/// The counts of a topic, exact: what is folded and what is not yet.
pub async fn read(conn: &mut Conn, topic: &str) -> Result<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT key, CAST(SUM(n) AS BIGINT) FROM (SELECT key, n FROM tally WHERE topic = $1 UNION ALL SELECT key, n FROM tally_in WHERE topic = $1) AS t \
         GROUP BY key",
    )
    .bind(topic)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows.into_iter().filter(|(_, n)| *n != 0).collect())
}

/// What was folded.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// The topics of the changes.
    pub topics: Vec<String>,
    /// How many changes they were.
    pub changes: i64,
    /// How much was put in a queue: the sum of what was added under the key `queued`.
    pub queued: i64,
}

// Up to an id, not one by one: the queue is empty so often that PostgreSQL would look through the whole of it for each.
const TAKE: &str = "DELETE FROM tally_in WHERE id <= (SELECT MAX(id) FROM (SELECT id FROM tally_in ORDER BY id LIMIT $1) AS oldest) \
   RETURNING topic, key, n";

/// Folds up to `limit` appended changes. One process at a time, by lease.
pub async fn fold(conn: &mut Conn, limit: i64) -> Result<Folded> {
    let taken: Vec<(String, String, i64)> = sqlx::query_as(TAKE).bind(limit).fetch_all(conn.raw()).await?;
    let changes = i64::try_from(taken.len()).unwrap_or(limit);
    let queued = taken.iter().filter(|(_, key, n)| key == "queued" && *n > 0).map(|(_, _, n)| n).sum();
    let mut sums: BTreeMap<(String, String), i64> = BTreeMap::new();
    for (topic, key, n) in taken {
        *sums.entry((topic, key)).or_default() += n;
    }
    #[derive(Serialize)]
    struct Sum<'a> {
        topic: &'a str,
        key: &'a str,
        n: i64,
    }
    const FOLD: Sql = rows_sql!(
        "INSERT INTO tally (topic, key, n) SELECT r.topic, r.key, r.n FROM ",
        rows(topic: text, key: text, n: bigint),
        "WHERE r.topic <> '' ON CONFLICT (topic, key) DO UPDATE SET n = tally.n + excluded.n"
    );
    let rows: Vec<Sum<'_>> = sums.iter().map(|((topic, key), n)| Sum { topic, key, n: *n }).collect();
    if !rows.is_empty() {
        sqlx::query(FOLD.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    }
    let mut topics: Vec<String> = sums.into_keys().map(|(topic, _)| topic).collect();
    topics.dedup();
    Ok(Folded { topics, changes, queued })
}
