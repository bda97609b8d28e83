//! PostgreSQL's statistics while tables grow. A plan is kept until its tables are analyzed anew, and autovacuum comes round once a minute:
//! among the first thousands who enroll on a fresh server each would be looked for in a whole bucket, because that looked as good when the
//! tables were empty. So a table that has doubled is analyzed at once; autovacuum does the rest.

use std::collections::HashSet;

use super::{Conn, Db, Dialect};
use crate::error::Result;

macro_rules! analyze {
    ($($table:literal),+ $(,)?) => { [$(($table, concat!("ANALYZE (SKIP_LOCKED) ", $table))),+] };
}

/// The tables that grow with the fleet and its work. Not the queues: they are empty again by the time they are looked at.
pub(super) const TABLES: [(&str, &str); 19] = analyze![
    "apple_enrollment",
    "apple_status",
    "certificate",
    "channel",
    "contact",
    "device",
    "device_key",
    "device_term",
    "enrollment_token",
    "enrollment_use",
    "event",
    "event_head",
    "finding",
    "label_member",
    "mail",
    "task",
    "users",
    "wakes",
    "webhook_delivery",
];

// Below a hundred rows no plan is a bad one. A table that was never looked at has -1 rows.
const DOUBLED: &str = "SELECT CAST(s.relname AS TEXT) FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid \
   WHERE s.schemaname = CURRENT_SCHEMA AND s.n_live_tup > 100 AND s.n_live_tup > 2 * c.reltuples";

impl Db {
    /// Has PostgreSQL look at the tables that have doubled since it last did; answers which they were. Several processes may do so side by
    /// side: what another, or autovacuum, is at is left to it. Nothing on SQLite, which plans by the schema alone.
    pub async fn analyze_doubled(&self) -> Result<Vec<&'static str>> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(Vec::new());
        }
        let mut conn = self.read().await?;
        let doubled = doubled(&mut conn).await?;
        let mut done = Vec::new();
        for (table, text) in TABLES.into_iter().filter(|(table, _)| doubled.contains(*table)) {
            sqlx::query(text).execute(conn.raw()).await?;
            done.push(table);
        }
        Ok(done)
    }
}

async fn doubled(conn: &mut Conn) -> Result<HashSet<String>> {
    let found: Vec<String> = sqlx::query_scalar(DOUBLED).fetch_all(conn.raw()).await?;
    Ok(found.into_iter().collect())
}
