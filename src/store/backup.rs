//! Whole databases as lines of JSON, out of one snapshot and into an empty one: the same on SQLite and PostgreSQL.

use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;

use super::{Conn, Db, Dialect, migrate};
use crate::error::Result;

/// A table by its name and its columns, as the database's own catalogue has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub columns: Vec<String>,
}

/// The version of the schema that this program has.
pub fn schema_version() -> i64 {
    migrate::newest()
}

/// A reading connection whose every statement sees the database as it is now. End it with [`release`].
pub async fn snapshot(db: &Db) -> Result<Conn> {
    let mut conn = db.read().await?;
    let begin = match conn.dialect() {
        // The first read takes the snapshot; writers go on beside it in the log.
        Dialect::Sqlite => "BEGIN",
        Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    };
    sqlx::raw_sql(begin).execute(conn.raw()).await?;
    Ok(conn)
}

/// Ends a snapshot.
pub async fn release(mut conn: Conn) -> Result<()> {
    sqlx::raw_sql("COMMIT").execute(conn.raw()).await?;
    Ok(())
}

/// Every table of ours but the leases, which are of processes and not of data; in the order of their names.
pub async fn tables(conn: &mut Conn) -> Result<Vec<Table>> {
    let text = match conn.dialect() {
        Dialect::Sqlite => {
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' \
             AND m.name NOT IN ('_sqlx_migrations', 'lease') ORDER BY m.name, c.cid"
        }
        Dialect::Postgres => {
            "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name NOT IN ('_sqlx_migrations', 'lease') \
             ORDER BY table_name COLLATE \"C\", ordinal_position"
        }
    };
    let rows: Vec<(String, String)> = sqlx::query_as(text).fetch_all(conn.raw()).await?;
    let mut tables: Vec<Table> = Vec::new();
    for (name, column) in rows {
        match tables.last_mut() {
            Some(table) if table.name == name => table.columns.push(column),
            _ => tables.push(Table { name, columns: vec![column] }),
        }
    }
    Ok(tables)
}

/// How many rows a table has.
pub async fn count(conn: &mut Conn, table: &Table) -> Result<i64> {
    Ok(sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM {}", table.name))).fetch_one(conn.raw()).await?)
}

/// Hands every row to `each` as one JSON object without a line break; memory holds a few of them at a time. The names that stand in the
/// statement come from the database's own catalogue.
pub async fn rows(conn: &mut Conn, table: &Table, mut each: impl FnMut(&str) -> std::io::Result<()>) -> anyhow::Result<()> {
    let text = match conn.dialect() {
        Dialect::Sqlite => {
            let members: Vec<String> = table.columns.iter().map(|column| format!("'{column}', \"{column}\"")).collect();
            format!("SELECT json_object({}) FROM {}", members.join(", "), table.name)
        }
        Dialect::Postgres => format!("SELECT CAST(row_to_json(t) AS TEXT) FROM {} t", table.name),
    };
    let mut found = sqlx::query_scalar::<_, String>(AssertSqlSafe(text)).fetch(conn.raw());
    while let Some(row) = found.try_next().await? {
        each(&row)?;
    }
    Ok(())
}

/// Inserts rows, given as one JSON array of objects.
pub async fn insert(conn: &mut Conn, table: &Table, rows: &str) -> Result<()> {
    let columns = table.columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
    let text = match conn.dialect() {
        Dialect::Sqlite => {
            let values: Vec<String> = table.columns.iter().map(|column| format!("value->>'{column}'")).collect();
            format!("INSERT INTO {} ({columns}) SELECT {} FROM jsonb_each($1)", table.name, values.join(", "))
        }
        Dialect::Postgres => {
            format!(
                "INSERT INTO {0} ({columns}) SELECT {columns} FROM json_populate_recordset(CAST(NULL AS {0}), CAST($1 AS json))",
                table.name
            )
        }
    };
    sqlx::query(AssertSqlSafe(text)).bind(rows).execute(conn.raw()).await?;
    Ok(())
}
