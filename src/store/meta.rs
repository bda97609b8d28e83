//! The server's own facts, and the leases of work that one process at a time does.

use super::Conn;
use crate::error::Result;

/// A fact of the server, such as the fingerprint of its master key.
pub async fn get(conn: &mut Conn, name: &str) -> Result<Option<String>> {
    let value = sqlx::query_scalar("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(conn.raw()).await?;
    Ok(value)
}

/// Stores a fact unless it is there; answers the one that then stands.
pub async fn put_if_absent(conn: &mut Conn, name: &str, value: &str) -> Result<String> {
    sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(value)
        .execute(conn.raw())
        .await?;
    Ok(get(conn, name).await?.unwrap_or_else(|| value.to_owned()))
}

/// Stores a fact, whatever it was.
pub async fn put(conn: &mut Conn, name: &str, value: &str) -> Result<()> {
    sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
        .bind(name)
        .bind(value)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Drops a fact.
pub async fn forget(conn: &mut Conn, name: &str) -> Result<()> {
    sqlx::query("DELETE FROM meta WHERE name = $1").bind(name).execute(conn.raw()).await?;
    Ok(())
}

/// Takes or renews the lease `name` until `until_ms`; false while another holder's has not run out at `now_ms`.
pub async fn take_lease(conn: &mut Conn, name: &str, holder: &str, now_ms: i64, until_ms: i64) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO lease (name, holder, until_ms) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_ms = excluded.until_ms \
         WHERE lease.holder = excluded.holder OR lease.until_ms <= $4",
    )
    .bind(name)
    .bind(holder)
    .bind(until_ms)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// True where `holder` has the lease and keeps it beyond `until_ms`.
pub async fn holds_lease(conn: &mut Conn, name: &str, holder: &str, until_ms: i64) -> Result<bool> {
    let held: Option<i64> = sqlx::query_scalar("SELECT until_ms FROM lease WHERE name = $1 AND holder = $2 AND until_ms > $3")
        .bind(name)
        .bind(holder)
        .bind(until_ms)
        .fetch_optional(conn.raw())
        .await?;
    Ok(held.is_some())
}

/// Says that the server process `process` is there until `lives_ms` from now; answers how many are, itself included.
pub async fn present(conn: &mut Conn, process: &str, now_ms: i64, lives_ms: i64) -> Result<u32> {
    take_lease(conn, &server(process), process, now_ms, now_ms + lives_ms).await?;
    // Of those that were killed nothing is left behind.
    sqlx::query("DELETE FROM lease WHERE name LIKE 'server/%' AND until_ms <= $1").bind(now_ms).execute(conn.raw()).await?;
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM lease WHERE name LIKE 'server/%'").fetch_one(conn.raw()).await?;
    Ok(u32::try_from(count).unwrap_or(1).max(1))
}

/// The server process is there no more.
pub async fn left(conn: &mut Conn, process: &str) -> Result<()> {
    drop_lease(conn, &server(process), process).await
}

fn server(process: &str) -> String {
    format!("server/{process}")
}

/// Gives the lease back, so that another process need not wait for it to run out.
pub async fn drop_lease(conn: &mut Conn, name: &str, holder: &str) -> Result<()> {
    sqlx::query("DELETE FROM lease WHERE name = $1 AND holder = $2").bind(name).bind(holder).execute(conn.raw()).await?;
    Ok(())
}

/// What waits for the background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// A job whose tasks are made, cancelled or ordered again.
    pub walk: bool,
    /// A label set whose channels move to another stack.
    pub moving: bool,
    /// Memberships that a deleted label has left.
    pub gone: bool,
    /// Counts to fold.
    pub counts: bool,
    /// Tasks whose time is over.
    pub expired: bool,
    /// Jobs that waited for a second operator in vain.
    pub unapproved: bool,
}

impl Waiting {
    pub fn anything(&self) -> bool {
        *self != Waiting::default()
    }
}

/// What waits for the background; one read that spares the writer when nothing does. What has a condition is asked for in the order of its index:
/// of what merely exists PostgreSQL believes that a look from the table's start meets one soon, and reads it whole where none does.
pub async fn waiting(conn: &mut Conn, now_ms: i64) -> Result<Waiting> {
    type Flags = (i64, i64, i64, i64, i64, i64);
    macro_rules! flags {
        ($($first:literal),+) => {
            concat!("SELECT ", flags!(@ $($first),+))
        };
        (@ $first:literal) => { concat!("CAST(CASE WHEN (SELECT ", $first, " LIMIT 1) IS NULL THEN 0 ELSE 1 END AS BIGINT)") };
        (@ $first:literal, $($more:literal),+) => { concat!(flags!(@ $first), ", ", flags!(@ $($more),+)) };
    }
    let (walk, moving, gone, counts, expired, unapproved): Flags = sqlx::query_as(flags!(
        "walk FROM job WHERE walk <> '' ORDER BY walk",
        "id FROM label_set WHERE moving > 0 ORDER BY id",
        "id FROM label_gone",
        "id FROM tally_in",
        "expires_at_ms FROM task WHERE finished_at_ms IS NULL AND expires_at_ms > 0 AND expires_at_ms <= $1 ORDER BY expires_at_ms",
        "expires_at_ms FROM job WHERE state = 'awaiting_approval' AND expires_at_ms <= $1 ORDER BY expires_at_ms"
    ))
    .bind(now_ms)
    .fetch_one(conn.raw())
    .await?;
    let [walk, moving, gone, counts, expired, unapproved] = [walk, moving, gone, counts, expired, unapproved].map(|flag| flag == 1);
    Ok(Waiting { walk, moving, gone, counts, expired, unapproved })
}
