//! Batches: many rows in one statement, which travel as **one** JSON text parameter, always `$1`.
//!
//! A long list of `$N` is quadratic on SQLite and defeats the statement cache on both; one JSON parameter is neither.

use super::Dialect;

/// One statement in both dialects.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    pub sqlite: &'static str,
    pub postgres: &'static str,
}

impl Sql {
    /// The text for this database.
    pub fn on(self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Sqlite => self.sqlite,
            Dialect::Postgres => self.postgres,
        }
    }
}

/// Makes a [`Sql`] whose text is the same on both but for the place where the rows come from:
/// `rows_sql!("UPDATE t SET a = r.a FROM ", rows(id: text, a: bigint), "WHERE t.id = r.id")`. The rows are named `r`.
///
/// SQLite gets `(SELECT value->>'id' AS id, ... FROM jsonb_each($1)) AS r`, PostgreSQL `json_to_recordset($1::json) AS r(id text, ...)`
/// behind the condition that a column is null which never has a value: PostgreSQL takes such a set for a single row, not for a hundred,
/// and so looks each row up by its key, whatever it knows of the table (a plan that reads the table whole costs a thousand times as much).
macro_rules! rows_sql {
    ($head:literal, rows($($column:ident : $type:ident),+ $(,)?), $tail:literal) => {
        $crate::store::Sql {
            sqlite: concat!(
                $head, "(SELECT 0 AS _row", $(", value->>'", stringify!($column), "' AS ", stringify!($column),)+ " FROM jsonb_each($1)) AS r ", $tail
            ),
            postgres: concat!(
                $head, "(SELECT * FROM json_to_recordset($1::json) AS r(_row int", $(", ", stringify!($column), " ", stringify!($type),)+
                ") WHERE _row IS NULL) AS r ", $tail
            ),
        }
    };
}
pub(crate) use rows_sql;
