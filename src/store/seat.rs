//! A connection that a writer keeps between its transactions.
//!
//! A pool asks a connection whether it lives, once when it is given out and once when it comes back; for a writer that commits hundreds of
//! times a second these two questions cost more than some of its statements. A seat keeps the connection instead. That it has died is
//! found by the `BEGIN`, before anything could be lost, and another one takes its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool};
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use super::turns::Turn;
use crate::error::Trouble;

type Kept = Option<PoolConnection<Any>>;

/// Where one writer's connection waits for its next transaction.
#[derive(Debug, Default)]
pub struct Seat {
    kept: Arc<Mutex<Kept>>,
    /// True while a transaction may be open in the connection that waits here.
    open: AtomicBool,
}

impl Seat {
    /// The connection, without an open transaction: the kept one, or a new one.
    pub(super) async fn writer(&self, pool: &AnyPool) -> Result<OwnedMappedMutexGuard<Kept, PoolConnection<Any>>, sqlx::Error> {
        let mut kept = self.kept.clone().lock_owned().await;
        self.tidy(&mut kept).await;
        if kept.is_none() {
            *kept = Some(pool.acquire().await?);
        }
        OwnedMutexGuard::try_map(kept, Option::as_mut).map_err(|_| sqlx::Error::PoolClosed)
    }

    /// Gives the connection back to its pool.
    pub(super) async fn leave(&self) {
        let mut kept = self.kept.lock().await;
        self.tidy(&mut kept).await;
        *kept = None;
    }

    /// Undoes what was left open. A connection that can't is closed, which does the same.
    async fn tidy(&self, kept: &mut Kept) {
        let Some(conn) = kept.as_mut().filter(|_| self.open.load(Ordering::Relaxed)) else { return };
        if sqlx::raw_sql("ROLLBACK").execute(&mut **conn).await.is_err() {
            discard(kept).await;
        }
        self.open.store(false, Ordering::Relaxed);
    }
}

async fn discard(kept: &mut Kept) {
    if let Some(conn) = kept.take() {
        conn.close().await.ok();
    }
}

/// A transaction on a seat's connection.
#[derive(Debug)]
pub(super) struct Seated {
    pub conn: OwnedMappedMutexGuard<Kept, PoolConnection<Any>>,
    seat: Arc<Seat>,
    // Last, so that the connection waits in its seat before the next writer gets its turn.
    turn: Option<Turn>,
}

impl Seated {
    /// Begins with this statement, on the kept connection or a new one.
    pub async fn begin(seat: Arc<Seat>, pool: &AnyPool, begin: &'static str, mut turn: Option<Turn>) -> Result<Seated, sqlx::Error> {
        for last in [false, true] {
            let conn = seat.writer(pool).await?;
            seat.open.store(true, Ordering::Relaxed);
            // Made before it has begun: cut off in the middle of the statement, it is undone like any other.
            let mut seated = Seated { conn, seat: seat.clone(), turn: turn.take() };
            let Err(error) = sqlx::raw_sql(begin).execute(&mut **seated.conn).await else { return Ok(seated) };
            seat.open.store(false, Ordering::Relaxed);
            // Somebody else writes: the connection is sound.
            if Trouble::of(&error) == Trouble::Repeat {
                return Err(error);
            }
            turn = seated.turn.take();
            drop(seated);
            discard(&mut *seat.kept.lock().await).await;
            if last {
                return Err(error);
            }
        }
        Err(sqlx::Error::PoolClosed)
    }

    /// Makes it durable.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    /// Undoes it.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    async fn end(&mut self, how: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(how).execute(&mut **self.conn).await?;
        self.seat.open.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Seated {
    /// What did not end is undone at once, not when the next transaction begins: it holds locks.
    fn drop(&mut self) {
        if !self.seat.open.load(Ordering::Relaxed) {
            return;
        }
        let seat = self.seat.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let mut kept = seat.kept.clone().lock_owned().await;
                seat.tidy(&mut kept).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::each_database;
    use crate::store::{Class, Conn, Dialect};

    async fn put(conn: &mut Conn, name: &str) {
        sqlx::query("INSERT INTO meta (name, value) VALUES ($1, '')").bind(name).execute(conn.raw()).await.unwrap();
    }

    async fn known(conn: &mut Conn) -> Vec<String> {
        sqlx::query_scalar("SELECT name FROM meta WHERE name LIKE 'seat-%' ORDER BY name").fetch_all(conn.raw()).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_dropped_is_undone_at_once_and_what_is_committed_stays() {
        each_database(async |db| {
            let seat = Arc::default();
            let mut conn = db.begin_at(&seat, Class::Results).await.unwrap();
            put(&mut conn, "seat-dropped").await;
            drop(conn);
            // Another writer is not held up by what was dropped: it takes the same row.
            let mut other = db.begin(Class::Operators).await.unwrap();
            put(&mut other, "seat-dropped").await;
            other.rollback().await.unwrap();
            let mut conn = db.begin_at(&seat, Class::Results).await.unwrap();
            put(&mut conn, "seat-undone").await;
            conn.rollback().await.unwrap();
            let mut conn = db.begin_at(&seat, Class::Results).await.unwrap();
            put(&mut conn, "seat-kept").await;
            conn.commit().await.unwrap();
            assert_eq!(known(&mut db.read().await.unwrap()).await, ["seat-kept"]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_failed_statement_leaves_a_sound_connection_and_a_dead_connection_is_replaced() {
        each_database(async |db| {
            let seat = Arc::default();
            let mut conn = db.begin_at(&seat, Class::Results).await.unwrap();
            put(&mut conn, "seat-a").await;
            assert!(sqlx::query("INSERT INTO meta (name, value) VALUES ('seat-a', '')").execute(conn.raw()).await.is_err());
            conn.rollback().await.unwrap();
            if db.dialect() == Dialect::Postgres {
                let mut conn = db.begin_at(&seat, Class::Results).await.unwrap();
                let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn.raw()).await.unwrap();
                conn.commit().await.unwrap();
                let ended = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid);
                ended.execute(db.read().await.unwrap().raw()).await.unwrap();
            }
            let mut conn = db.begin_at(&seat, Class::Results).await.unwrap();
            put(&mut conn, "seat-b").await;
            conn.commit().await.unwrap();
            assert_eq!(known(&mut db.read().await.unwrap()).await, ["seat-b"]);
        })
        .await;
    }
}
