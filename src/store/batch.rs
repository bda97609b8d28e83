//! Batches: many rows in one statement, which travel as **one** JSON text parameter, always `$1`.
//!
//! A long list of `$N` is quadratic on SQLite and defeats the statement cache on both; one JSON parameter is neither.
//!
//! What SQLite answers to a batch comes back likewise, as one JSON text: its driver runs in a thread of its own, and row by row each value is
//! copied and each few rows wake the other side.

use serde::de::DeserializeOwned;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::{Any, Decode, FromRow, Type};

use super::{Conn, Dialect};
use crate::error::{Error, Result};

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

    /// What it finds: on SQLite as one JSON list of objects, on PostgreSQL as rows. For texts made by [`read_sql!`], or like them.
    pub(super) async fn read<T>(self, conn: &mut Conn, parameters: AnyArguments) -> Result<Vec<T>>
    where
        T: DeserializeOwned + for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        match conn.dialect() {
            Dialect::Sqlite => json_list(conn, self.sqlite, parameters).await,
            Dialect::Postgres => Ok(sqlx::query_as_with(self.postgres, parameters).fetch_all(conn.raw()).await?),
        }
    }

    /// As [`Sql::read`], of one column: on SQLite one JSON list of its values.
    pub(super) async fn read_column<T>(self, conn: &mut Conn, parameters: AnyArguments) -> Result<Vec<T>>
    where
        T: DeserializeOwned + Type<Any> + for<'r> Decode<'r, Any> + Send + Unpin,
    {
        match conn.dialect() {
            Dialect::Sqlite => json_list(conn, self.sqlite, parameters).await,
            Dialect::Postgres => Ok(sqlx::query_scalar_with(self.postgres, parameters).fetch_all(conn.raw()).await?),
        }
    }
}

/// What a statement answers as one JSON list.
pub(super) async fn json_list<T: DeserializeOwned>(conn: &mut Conn, text: &'static str, parameters: AnyArguments) -> Result<Vec<T>> {
    let json: String = sqlx::query_scalar_with(text, parameters).fetch_one(conn.raw()).await?;
    // The error's own words may quote a value, which may be a secret.
    let unfit = |error: serde_json::Error| format!("a row is not what it should be ({:?} at {})", error.classify(), error.column());
    serde_json::from_str(&json).map_err(|error| Error::Database(sqlx::Error::Decode(unfit(error).into())))
}

/// The parameters of a statement, in their order: `parameters![rows_json(&rows), -1_i64]`.
macro_rules! parameters {
    ($($value:expr),+ $(,)?) => {{
        let mut parameters = sqlx::any::AnyArguments::default();
        $(sqlx::Arguments::add(&mut parameters, $value).map_err(sqlx::Error::Encode)?;)+
        parameters
    }};
}
pub(crate) use parameters;

/// Makes a [`Sql`] whose text is the same on both but for the place where the rows come from:
/// `rows_sql!("UPDATE t SET a = r.a FROM ", rows(id: text, a: bigint), "WHERE t.id = r.id")`. The rows are named `r`,
/// and what follows them may come in pieces.
///
/// SQLite gets `(SELECT value->>'id' AS id, ... FROM jsonb_each($1)) AS r`, PostgreSQL `json_to_recordset($1::json) AS r(id text, ...)`
/// behind the condition that a column is null which never has a value: PostgreSQL takes such a set for a single row, not for a hundred,
/// and so looks each row up by its key, whatever it knows of the table (a plan that reads the table whole costs a thousand times as much).
macro_rules! rows_sql {
    ($head:literal, rows($($column:ident : $type:ident),+ $(,)?), $($tail:literal),+) => {
        $crate::store::Sql {
            sqlite: concat!(
                $head, "(SELECT 0 AS _row", $(", value->>'", stringify!($column), "' AS ", stringify!($column),)+ " FROM jsonb_each($1)) AS r ", $($tail),+
            ),
            postgres: concat!(
                $head, "(SELECT * FROM json_to_recordset($1::json) AS r(_row int", $(", ", stringify!($column), " ", stringify!($type),)+
                ") WHERE _row IS NULL) AS r ", $($tail),+
            ),
        }
    };
}
pub(crate) use rows_sql;

/// Makes a [`Sql`] for [`Sql::read_column`] of a SELECT whose one column is `id`, in its order.
macro_rules! ids_sql {
    ($select:literal) => {
        $crate::store::Sql { sqlite: concat!("SELECT json_group_array(id) FROM (", $select, ") AS found"), postgres: $select }
    };
}
pub(crate) use ids_sql;

/// Makes a [`Sql`] for [`Sql::read`]: columns of tables, then others with their names, from rows as [`rows_sql!`] has them:
/// `read_sql!([t(id, state), d(app); n = "r.n + 1"], rows(bucket: bigint, id: text, n: bigint), "JOIN t ON t.bucket = r.bucket AND ...")`.
/// What follows stands on PostgreSQL alone: the order of the rows, which SQLite does not keep, and their locks.
macro_rules! read_sql {
    (
        [$($table:ident($($name:ident),+ $(,)?)),+ $(; $($as:ident = $value:literal),+)?],
        rows($($column:ident : $type:ident),+ $(,)?), $tail:literal $(, $postgres:literal)?
    ) => {
        $crate::store::Sql {
            sqlite: concat!(
                "SELECT json_group_array(json_object(",
                $($("'", stringify!($name), "', ", stringify!($table), ".", stringify!($name), ", ",)+)+
                $($("'", stringify!($as), "', ", $value, ", ",)+)?
                "'_row', 0)) FROM (SELECT 0 AS _row", $(", value->>'", stringify!($column), "' AS ", stringify!($column),)+
                " FROM jsonb_each($1)) AS r ", $tail
            ),
            postgres: concat!(
                "SELECT ",
                $($(stringify!($table), ".", stringify!($name), ", ",)+)+
                $($($value, " AS ", stringify!($as), ", ",)+)?
                "r._row FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int",
                $(", ", stringify!($column), " ", stringify!($type),)+ ") WHERE _row IS NULL) AS r ", $tail $(, " ", $postgres)?
            ),
        }
    };
}
pub(crate) use read_sql;
