//! Databases for unit tests: a fresh SQLite file and, where it is installed, a fresh PostgreSQL database.

#[path = "../../tests/stories/support/postgres.rs"]
mod postgres;

pub mod fleet;
mod plans;

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;

use super::{Class, Conn, Db, Dialect};
use crate::clock::{Clock, Moment};
use crate::model::Id;

/// Runs `test` on a fresh database of each kind, with the schema in place; a failure names the database.
pub async fn each_database(test: impl AsyncFn(Db)) {
    let folder = tempfile::tempdir().unwrap();
    run(&test, &format!("sqlite://{}", folder.path().join("muster.db").display())).await;
    if let Some(url) = postgres::fresh_database().await {
        run(&test, &url).await;
    }
}

async fn run(test: &impl AsyncFn(Db), url: &str) {
    let db = Db::open(url).await.unwrap();
    db.migrate().await.unwrap();
    let dialect = db.dialect();
    if let Err(panic) = AssertUnwindSafe(test(db.clone())).catch_unwind().await {
        eprintln!("the test failed on {dialect:?}");
        resume_unwind(panic);
    }
    db.close().await;
}

/// Hash of the device token of every device made here.
pub const TOKEN_HASH: &str = "test";

/// An active Android device with one agent channel and its wake, activated now; answers the ids of device and channel.
pub async fn device(db: &Db, clock: &Clock) -> (Id, Id) {
    devices(db, clock, 1).await[0]
}

/// Many such devices, made in one transaction.
pub async fn devices(db: &Db, clock: &Clock, count: usize) -> Vec<(Id, Id)> {
    let mut moment = clock.moment();
    let mut conn = db.begin(Class::Operators).await.unwrap();
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        made.push(insert_device(&mut conn, &mut moment).await);
    }
    conn.commit().await.unwrap();
    made
}

async fn insert_device(conn: &mut Conn, moment: &mut Moment) -> (Id, Id) {
    let id = moment.id();
    let channel_id = moment.id_beside(id);
    let at_ms = moment.now_ms;
    sqlx::query(
        "INSERT INTO device (bucket, id, platform, app, model, os_version, agent_version, management_mode, state, state_since_ms, facts, \
           facts_hash, created_at_ms) VALUES ($1, $2, 'android', 'org.example.agent', 'm', '1', '1', 'device_owner', 'active', $3, '{}', '', $3)",
    )
    .bind(id.bucket())
    .bind(id)
    .bind(at_ms)
    .execute(conn.raw())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, token_hash, activation, activated_at_ms, push_state, push_since_ms, skew_ms, \
           label_set_id, generation, stack_id, desired_at_ms) VALUES ($1, $2, $3, 'agent', '', 'android', $5, 1, $4, 'none', $4, 0, '', 0, '', $4)",
    )
    .bind(id.bucket())
    .bind(channel_id)
    .bind(id)
    .bind(at_ms)
    .bind(TOKEN_HASH)
    .execute(conn.raw())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO wakes (bucket, channel_id, sender, lane, due_at_ms, work_seq, open_work, urgent_open, step, attempt, fruitless, \
           changed_at_ms, unanswered, high_day, high_count, gap_ms, phase_s, lazy) \
           VALUES ($1, $2, '', 4, $3, 0, 0, 0, 0, 0, 0, $3, 0, 0, 0, 0, 0, 1)",
    )
    .bind(id.bucket())
    .bind(channel_id)
    .bind(at_ms)
    .execute(conn.raw())
    .await
    .unwrap();
    (id, channel_id)
}

/// An API key of this role, by the hash of its secret.
pub async fn api_key(db: &Db, hash: &str, role: &str) {
    let mut conn = db.begin(Class::Operators).await.unwrap();
    sqlx::query("INSERT INTO api_key (id, name, role, hash, created_by, created_at_ms) VALUES ($1, $2, $3, $1, 'test', 0)")
        .bind(hash)
        .bind(role)
        .bind(role)
        .execute(conn.raw())
        .await
        .unwrap();
    conn.commit().await.unwrap();
}

/// Revokes the key of [`api_key`].
pub async fn end_api_key(db: &Db, hash: &str) {
    let mut conn = db.begin(Class::Operators).await.unwrap();
    sqlx::query("UPDATE api_key SET revoked_at_ms = 1 WHERE hash = $1").bind(hash).execute(conn.raw()).await.unwrap();
    conn.commit().await.unwrap();
}

/// Runs a statement with an id and a number, for what no function of the store would do.
pub async fn bend(db: &Db, text: &'static str, id: Id, number: i64) {
    let mut conn = db.begin(Class::Operators).await.unwrap();
    let done = sqlx::query(text).bind(id).bind(number).execute(conn.raw()).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
    conn.commit().await.unwrap();
}

/// A number that a statement answers.
pub async fn number(db: &Db, text: &'static str) -> i64 {
    sqlx::query_scalar(text).fetch_one(db.read().await.unwrap().raw()).await.unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::meta;

    #[tokio::test]
    async fn each_database_is_fresh_and_has_the_schema() {
        for _ in 0..2 {
            each_database(async |db| {
                assert!(db.schema_is_current().await.unwrap());
                let mut conn = db.begin(Class::Operators).await.unwrap();
                let text = if db.dialect() == Dialect::Sqlite { "file" } else { "cluster" };
                assert_eq!(meta::put_if_absent(&mut conn, "kind", text).await.unwrap(), text);
                conn.commit().await.unwrap();
            })
            .await;
        }
    }
}
