//! Alarms: what an operator must know about the server itself. At most one is open for (kind, subject).

use sqlx_macros::FromRow;

use super::Conn;
use crate::error::Result;
use crate::model::Id;

/// An alarm as it is kept; `state` is `open`, `acknowledged` or `closed`.
#[derive(Clone, Debug, FromRow)]
pub struct AlarmRow {
    pub id: Id,
    pub kind: String,
    pub subject: String,
    pub state: String,
    pub detail: String,
    pub opened_at_ms: i64,
    pub changed_at_ms: i64,
    pub closed_at_ms: Option<i64>,
}

/// Opens an alarm under `id`, or brings the detail of the open one up to date; answers the id of the one that is open, or `None`
/// where nothing has changed.
pub async fn open(conn: &mut Conn, id: Id, kind: &str, subject: &str, detail: &str, now_ms: i64) -> Result<Option<Id>> {
    let open = sqlx::query_scalar(
        "INSERT INTO alarm (id, kind, subject, state, detail, opened_at_ms, changed_at_ms) VALUES ($1, $2, $3, 'open', $4, $5, $5) \
         ON CONFLICT (kind, subject) WHERE closed_at_ms IS NULL DO UPDATE SET detail = excluded.detail, changed_at_ms = excluded.changed_at_ms \
         WHERE alarm.detail <> excluded.detail RETURNING id",
    )
    .bind(id)
    .bind(kind)
    .bind(subject)
    .bind(detail)
    .bind(now_ms)
    .fetch_optional(conn.raw())
    .await?;
    Ok(open)
}

/// An alarm that stands is open, and told of to nobody.
pub async fn untell(conn: &mut Conn, id: Id) -> Result<()> {
    let sql = "UPDATE alarm SET state = 'open', mailed_at_ms = NULL WHERE id = $1 AND closed_at_ms IS NULL";
    sqlx::query(sql).bind(id).execute(conn.raw()).await?;
    Ok(())
}

/// The subjects of alarms of a kind that stand and have told nothing new since `before_ms`.
pub async fn quiet(conn: &mut Conn, kind: &str, before_ms: i64, rows_max: i64) -> Result<Vec<String>> {
    let subjects = sqlx::query_scalar("SELECT subject FROM alarm WHERE kind = $1 AND closed_at_ms IS NULL AND changed_at_ms < $2 LIMIT $3")
        .bind(kind)
        .bind(before_ms)
        .bind(rows_max)
        .fetch_all(conn.raw())
        .await?;
    Ok(subjects)
}

/// The subjects of alarms of a kind that stand.
pub async fn standing(conn: &mut Conn, kind: &str, rows_max: i64) -> Result<Vec<String>> {
    let sql = "SELECT subject FROM alarm WHERE kind = $1 AND closed_at_ms IS NULL ORDER BY subject LIMIT $2";
    Ok(sqlx::query_scalar(sql).bind(kind).bind(rows_max).fetch_all(conn.raw()).await?)
}

/// The alarms of a kind that stand: (subject, detail).
pub async fn standing_details(conn: &mut Conn, kind: &str, rows_max: i64) -> Result<Vec<(String, String)>> {
    let sql = "SELECT subject, detail FROM alarm WHERE kind = $1 AND closed_at_ms IS NULL ORDER BY subject LIMIT $2";
    Ok(sqlx::query_as(sql).bind(kind).bind(rows_max).fetch_all(conn.raw()).await?)
}

/// The alarms of a kind that stand: (subject, when they told something new last).
pub async fn standing_since(conn: &mut Conn, kind: &str, rows_max: i64) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT subject, changed_at_ms FROM alarm WHERE kind = $1 AND closed_at_ms IS NULL ORDER BY subject LIMIT $2";
    Ok(sqlx::query_as(sql).bind(kind).bind(rows_max).fetch_all(conn.raw()).await?)
}

/// Closes the open alarm of (kind, subject); answers its id where there was one.
pub async fn close(conn: &mut Conn, kind: &str, subject: &str, now_ms: i64) -> Result<Option<Id>> {
    let closed = sqlx::query_scalar(
        "UPDATE alarm SET state = 'closed', changed_at_ms = $3, closed_at_ms = $3 WHERE kind = $1 AND subject = $2 AND closed_at_ms IS NULL \
         RETURNING id",
    )
    .bind(kind)
    .bind(subject)
    .bind(now_ms)
    .fetch_optional(conn.raw())
    .await?;
    Ok(closed)
}

/// Alarms, newest first, `rows_max` at most; '' stands for every state. There are few: open ones are unique, closed ones age out.
pub async fn list(conn: &mut Conn, state: &str, before: Option<Id>, rows_max: i64) -> Result<Vec<AlarmRow>> {
    let rows = sqlx::query_as(
        "SELECT id, kind, subject, state, detail, opened_at_ms, changed_at_ms, closed_at_ms FROM alarm \
         WHERE id < $1 AND ($3 = '' OR state = $3) ORDER BY id DESC LIMIT $2",
    )
    .bind(before.map_or_else(|| "~".to_owned(), |id| id.to_string()))
    .bind(rows_max)
    .bind(state)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// Alarms that are not closed: those that nobody has acknowledged first, the newest of each before the others.
pub async fn not_closed(conn: &mut Conn, rows_max: i64) -> Result<Vec<AlarmRow>> {
    let text = "SELECT id, kind, subject, state, detail, opened_at_ms, changed_at_ms, closed_at_ms FROM alarm \
       WHERE closed_at_ms IS NULL ORDER BY CASE state WHEN 'open' THEN 0 ELSE 1 END, id DESC LIMIT $1";
    Ok(sqlx::query_as(text).bind(rows_max).fetch_all(conn.raw()).await?)
}

/// When the alarm of (kind, subject) was opened that is not closed; `None` where there is none.
pub async fn opened_at_ms(conn: &mut Conn, kind: &str, subject: &str) -> Result<Option<i64>> {
    let at = sqlx::query_scalar("SELECT opened_at_ms FROM alarm WHERE kind = $1 AND subject = $2 AND closed_at_ms IS NULL")
        .bind(kind)
        .bind(subject)
        .fetch_optional(conn.raw())
        .await?;
    Ok(at)
}

/// True where somebody has yet to be told of an alarm by mail; a read that spares the writer when nobody has. `but` is a kind that is
/// never mailed.
pub async fn any_untold(conn: &mut Conn, but: &str) -> Result<bool> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT opened_at_ms FROM alarm WHERE closed_at_ms IS NULL AND mailed_at_ms IS NULL AND kind <> $1 LIMIT 1")
            .bind(but)
            .fetch_optional(conn.raw())
            .await?;
    Ok(found.is_some())
}

/// Alarms that stand and that nobody was told of by mail, oldest first.
pub async fn untold(conn: &mut Conn, but: &str, rows_max: i64) -> Result<Vec<AlarmRow>> {
    let rows = sqlx::query_as(
        "SELECT id, kind, subject, state, detail, opened_at_ms, changed_at_ms, closed_at_ms FROM alarm \
         WHERE closed_at_ms IS NULL AND mailed_at_ms IS NULL AND kind <> $1 ORDER BY id LIMIT $2",
    )
    .bind(but)
    .bind(rows_max)
    .fetch_all(conn.raw())
    .await?;
    Ok(rows)
}

/// Notes that an alarm is told by mail; false where another process does that.
pub async fn told(conn: &mut Conn, id: Id, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE alarm SET mailed_at_ms = $2 WHERE id = $1 AND mailed_at_ms IS NULL")
        .bind(id)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// How many alarms are not closed.
pub async fn open_count(conn: &mut Conn) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM alarm WHERE closed_at_ms IS NULL").fetch_one(conn.raw()).await?)
}

/// One alarm.
pub async fn get(conn: &mut Conn, id: Id) -> Result<Option<AlarmRow>> {
    let row = sqlx::query_as("SELECT id, kind, subject, state, detail, opened_at_ms, changed_at_ms, closed_at_ms FROM alarm WHERE id = $1")
        .bind(id)
        .fetch_optional(conn.raw())
        .await?;
    Ok(row)
}

/// Marks an open alarm as seen; false where it was not open.
pub async fn acknowledge(conn: &mut Conn, id: Id, now_ms: i64) -> Result<bool> {
    let done = sqlx::query("UPDATE alarm SET state = 'acknowledged', changed_at_ms = $2 WHERE id = $1 AND state = 'open'")
        .bind(id)
        .bind(now_ms)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets up to `rows_max` alarms that were closed before `before_ms`.
pub async fn forget(conn: &mut Conn, before_ms: i64, rows_max: i64) -> Result<u64> {
    let done = sqlx::query("DELETE FROM alarm WHERE id IN (SELECT id FROM alarm WHERE closed_at_ms < $1 LIMIT $2)")
        .bind(before_ms)
        .bind(rows_max)
        .execute(conn.raw())
        .await?;
    Ok(done.rows_affected())
}
