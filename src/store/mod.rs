//! All the SQL, as plain functions over a [`Conn`]; the caller begins and commits.

mod batch;
mod db;
mod id_column;
mod migrate;
mod turns;

pub mod feed;
pub mod meta;
pub mod operators;
pub mod wakes;

pub use batch::Sql;
pub use db::{Conn, Db, Dialect, OpenError};
pub use turns::Class;

/// A batch of rows as the one JSON parameter of a statement made by [`batch::rows_sql!`].
pub(crate) fn rows_json<T: serde::Serialize>(rows: &[T]) -> String {
    // Serialising plain structs of strings and integers into a String cannot fail; an empty batch is the harmless answer.
    serde_json::to_string(rows).unwrap_or_else(|_| "[]".to_owned())
}
