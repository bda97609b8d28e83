//! The feed: entries are appended beside the rows they tell of, and one sequencer at a time gives committed ones their number.

use serde::Serialize;
use sqlx_macros::FromRow;

use super::batch::rows_sql;
use super::{Conn, Dialect, Sql, keys_json, rows_json};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Id, feed_kind};

/// Something that happened, to be told.
#[derive(Clone, Debug)]
pub struct Entry {
    /// One of [`feed_kind::KINDS`]: `task.done`, `policy.published`, `device.activated`.
    pub kind: &'static str,
    /// Who did it (an [`crate::model::Actor`]'s name); what has an actor is the audit.
    pub actor: Option<String>,
    pub device_id: Option<Id>,
    /// An object; never a secret.
    pub data: serde_json::Value,
}

#[derive(Serialize)]
struct Row<'a> {
    bucket: i64,
    id: Id,
    at_ms: i64,
    kind: &'a str,
    actor: Option<&'a str>,
    device_id: Option<Id>,
    data: String,
}

const APPEND: Sql = rows_sql!(
    "INSERT INTO feed_in (bucket, id, at_ms, kind, actor, device_id, data) SELECT r.bucket, r.id, r.at_ms, r.kind, r.actor, r.device_id, r.data FROM ",
    rows(bucket: bigint, id: text, at_ms: bigint, kind: text, actor: text, device_id: text, data: text),
    ""
);

/// Appends entries in the caller's transaction.
pub async fn append(conn: &mut Conn, moment: &mut Moment, entries: &[Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    // Readers get entries in the order of their ids: those of one call stay in theirs.
    let mut ids: Vec<Id> = entries.iter().map(|_| moment.id()).collect();
    ids.sort_unstable();
    let mut rows = Vec::with_capacity(entries.len());
    for (entry, id) in entries.iter().zip(ids) {
        // What is not in the list no webhook can be told of. Tests of the feed itself have kinds of their own.
        debug_assert!(cfg!(test) || feed_kind::KINDS.contains(&entry.kind), "{} is missing in model::feed_kind", entry.kind);
        let id = entry.device_id.map_or(id, |device| id.in_bucket_of(device));
        rows.push(Row {
            bucket: id.bucket(),
            id,
            at_ms: moment.now_ms,
            kind: entry.kind,
            actor: entry.actor.as_deref(),
            device_id: entry.device_id,
            data: entry.data.to_string(),
        });
    }
    sqlx::query(APPEND.on(conn.dialect())).bind(rows_json(&rows)).execute(conn.raw()).await?;
    Ok(())
}

/// An entry as readers get it.
#[derive(Clone, Debug, FromRow)]
pub struct FeedRow {
    /// Counts up by commit, without a gap where nothing was forgotten.
    pub seq: i64,
    pub id: Id,
    pub at_ms: i64,
    pub kind: String,
    pub actor: Option<String>,
    pub device_id: Option<Id>,
    /// JSON.
    pub data: String,
}

/// Which entries to read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The number after which to read.
    pub after: i64,
    /// A whole kind (`task.done`) or its first word (`task`); '' for all.
    pub kind: String,
    pub rows_max: i64,
}

/// What a reading came to.
#[derive(Debug)]
pub struct Read {
    pub rows: Vec<FeedRow>,
    /// The number up to which every entry has been looked at: where to read on.
    pub read_to: i64,
    /// Nothing was left at the time of reading.
    pub at_end: bool,
}

/// Numbers looked at in one statement while looking for a kind.
const LOOKED_AT_MAX: i64 = 20_000;

/// Entries in order. Looks at a bounded part of the feed, so it may find nothing and still not be at the end.
pub async fn read(conn: &mut Conn, reading: &Reading) -> Result<Read> {
    let (_, newest) = range(conn).await?;
    let look_to = newest.min(reading.after.saturating_add(LOOKED_AT_MAX));
    // '/' follows '.': everything that begins with the word and a dot.
    let rows: Vec<FeedRow> = sqlx::query_as(
        "SELECT seq, id, at_ms, kind, actor, device_id, data FROM feed WHERE seq > $1 AND seq <= $2 \
           AND ($3 = '' OR kind = $3 OR (kind >= $4 AND kind < $5)) ORDER BY seq LIMIT $6",
    )
    .bind(reading.after)
    .bind(look_to)
    .bind(&reading.kind)
    .bind(format!("{}.", reading.kind))
    .bind(format!("{}/", reading.kind))
    .bind(reading.rows_max)
    .fetch_all(conn.raw())
    .await?;
    let full = i64::try_from(rows.len()).is_ok_and(|found| found >= reading.rows_max);
    let read_to = match rows.last() {
        Some(last) if full => last.seq,
        _ => look_to.max(reading.after),
    };
    Ok(Read { rows, read_to, at_end: read_to >= newest })
}

/// The audit: entries that somebody caused, newest first, from before `before`; '' stands for every actor and every kind.
pub async fn audit(conn: &mut Conn, actor: &str, kind: &str, before: Option<i64>, rows_max: i64) -> Result<Vec<FeedRow>> {
    let rows = sqlx::query_as(
        "SELECT seq, id, at_ms, kind, actor, device_id, data FROM feed WHERE actor IS NOT NULL AND seq < $1 \
           AND ($2 = '' OR actor = $2) AND ($3 = '' OR kind = $3 OR (kind >= $4 AND kind < $5)) ORDER BY seq DESC LIMIT $6",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(actor)
    .bind(kind)
    .bind(format!("{kind}."))
    .bind(format!("{kind}/"))
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// The numbers of the oldest and the newest entry; (1, 0) while there is none.
pub async fn range(conn: &mut Conn) -> Result<(i64, i64)> {
    let (oldest, newest): (Option<i64>, Option<i64>) =
        sqlx::query_as("SELECT (SELECT MIN(seq) FROM feed), (SELECT MAX(seq) FROM feed)").fetch_one(conn.raw()).await?;
    Ok((oldest.unwrap_or(1), newest.unwrap_or(0)))
}

/// A committed entry that waits for its number.
#[derive(Clone, Debug, FromRow, Serialize)]
struct Waiting {
    bucket: i64,
    id: Id,
    at_ms: i64,
    kind: String,
    actor: Option<String>,
    device_id: Option<Id>,
    data: String,
}

/// True where an entry waits for its number; a read that spares the writer when none does.
pub async fn any_waiting(conn: &mut Conn) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar("SELECT bucket FROM feed_in LIMIT 1").fetch_optional(conn.raw()).await?;
    Ok(found.is_some())
}

/// How many entries wait for their number.
pub async fn waiting_count(conn: &mut Conn) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM feed_in").fetch_one(conn.raw()).await?)
}

const NUMBER: Sql = Sql {
    // SQLite's writer is alone: what it numbers is what it then takes away.
    sqlite: "INSERT INTO feed (seq, id, at_ms, kind, actor, device_id, data) \
       SELECT (SELECT COALESCE(MAX(seq), 0) FROM feed) + ROW_NUMBER() OVER (ORDER BY w.id), w.id, w.at_ms, w.kind, w.actor, w.device_id, w.data \
       FROM (SELECT * FROM feed_in ORDER BY id LIMIT $1) AS w",
    postgres: rows_sql!(
        "INSERT INTO feed (seq, id, at_ms, kind, actor, device_id, data) \
         SELECT (SELECT COALESCE(MAX(seq), 0) FROM feed) + ROW_NUMBER() OVER (ORDER BY r.id), r.id, r.at_ms, r.kind, r.actor, r.device_id, r.data FROM ",
        rows(id: text, at_ms: bigint, kind: text, actor: text, device_id: text, data: text),
        ""
    )
    .postgres,
};
const TAKE: Sql = Sql {
    sqlite: "DELETE FROM feed_in WHERE rowid IN (SELECT rowid FROM feed_in ORDER BY id LIMIT $1)",
    // A join, or an IN, would look through the whole of feed_in for each of them where statistics believe the queue empty; a list goes by the index.
    postgres: "DELETE FROM feed_in WHERE id = ANY(ARRAY(SELECT r.id FROM json_to_recordset($1::json) AS r(id text)))",
};

/// Gives committed entries, oldest first, `rows_max` at most, their numbers; answers how many. The caller is the only one who does,
/// in a transaction that holds the sequencer's lease.
pub async fn number(conn: &mut Conn, rows_max: i64) -> Result<usize> {
    if conn.dialect() == Dialect::Sqlite {
        let numbered = sqlx::query(NUMBER.sqlite).bind(rows_max).execute(conn.raw()).await?.rows_affected();
        if numbered > 0 {
            sqlx::query(TAKE.sqlite).bind(rows_max).execute(conn.raw()).await?;
        }
        return Ok(usize::try_from(numbered).unwrap_or(usize::MAX));
    }
    // What is committed between two statements must not be taken away without a number.
    let waiting: Vec<Waiting> = sqlx::query_as("SELECT bucket, id, at_ms, kind, actor, device_id, data FROM feed_in ORDER BY id LIMIT $1")
        .bind(rows_max)
        .fetch_all(conn.raw())
        .await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    sqlx::query(NUMBER.postgres).bind(rows_json(&waiting)).execute(conn.raw()).await?;
    sqlx::query(TAKE.postgres).bind(keys_json(waiting.iter().map(|row| row.id))).execute(conn.raw()).await?;
    Ok(waiting.len())
}

/// Forgets entries from before `before_ms` among the oldest `rows_max`; never the newest of all, which holds the count.
pub async fn forget(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM feed WHERE seq IN (SELECT seq FROM feed ORDER BY seq LIMIT $2) AND at_ms < $1 AND seq < (SELECT MAX(seq) FROM feed)",
    )
    .bind(before_ms)
    .bind(rows_max)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected())
}

/// Unix milliseconds of the newest numbered entry.
pub async fn newest_ms(conn: &mut Conn) -> Result<Option<i64>> {
    Ok(sqlx::query_scalar("SELECT at_ms FROM feed ORDER BY seq DESC LIMIT 1").fetch_optional(conn.raw()).await?)
}
