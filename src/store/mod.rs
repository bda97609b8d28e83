//! All the SQL, as plain functions over a [`Conn`]; the caller begins and commits.

mod batch;
mod db;
mod id_column;
mod migrate;
mod seat;
mod turns;

pub mod agents;
pub mod alarms;
pub mod apple;
pub mod backup;
pub mod budget;
pub mod canary;
pub mod certificates;
pub mod channels;
mod checkpoint;
pub mod console;
pub mod contacts;
pub mod devices;
pub mod events;
pub mod feed;
pub mod findings;
pub mod funnel;
pub mod gauges;
pub mod jobs;
pub mod labels;
pub mod liveness;
pub mod mail;
pub mod meta;
pub mod operators;
pub mod overview;
pub mod policies;
pub mod retention;
pub mod sealed;
pub mod search;
pub mod stacks;
mod statistics;
pub mod tallies;
pub mod tasks;
#[cfg(test)]
pub mod testing;
pub mod tokens;
pub mod users;
pub mod wakes;
pub mod webhooks;

pub use batch::Sql;
pub use db::{Conn, Db, Dialect, OpenError};
pub use seat::Seat;
pub use turns::Class;

use std::borrow::Borrow;

use crate::model::Id;

/// A batch of rows as the one JSON parameter of a statement made by [`batch::rows_sql!`].
pub(crate) fn rows_json<T: serde::Serialize>(rows: &[T]) -> String {
    // Serialising plain structs of strings and integers into a String cannot fail; an empty batch is the harmless answer.
    serde_json::to_string(rows).unwrap_or_else(|_| "[]".to_owned())
}

/// Rows that are known by their ids, as such a parameter: `(bucket, id)`.
pub(crate) fn keys_json(ids: impl IntoIterator<Item = impl Borrow<Id>>) -> String {
    #[derive(serde::Serialize)]
    struct Key {
        bucket: i64,
        id: Id,
    }
    rows_json(&ids.into_iter().map(|id| Key { bucket: id.borrow().bucket(), id: *id.borrow() }).collect::<Vec<_>>())
}

/// Locks channels in the order of their keys, in a statement of its own, before anything else of them is touched. SQLite's writer is
/// alone anyway.
pub(crate) async fn channels_lock(conn: &mut Conn, channels: &[Id]) -> crate::error::Result<()> {
    const LOCK: Sql = batch::rows_sql!(
        "SELECT COUNT(*) FROM (SELECT c.id FROM channel c JOIN ",
        rows(bucket: bigint, id: text),
        "ON c.bucket = r.bucket AND c.id = r.id ORDER BY c.bucket, c.id FOR UPDATE OF c) AS locked"
    );
    if conn.dialect() == Dialect::Postgres && !channels.is_empty() {
        sqlx::query(LOCK.postgres).bind(keys_json(channels)).execute(conn.raw()).await?;
    }
    Ok(())
}
