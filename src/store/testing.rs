//! Databases for unit tests: a fresh SQLite file and, where it is installed, a fresh PostgreSQL database.

#[path = "../../tests/stories/support/postgres.rs"]
mod postgres;

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;

use super::{Db, Dialect};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Class, meta};

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
