//! SQLite's log (WAL) is written back into the file beside the writer. Where the writer does it, as is SQLite's own way, one commit in some
//! hundred waits for thousands of pages and a flush of the file, and with it whoever came in meanwhile.

use super::turns::Class;
use super::{Conn, Db, Dialect};
use crate::error::Result;

/// Pages (of 4 KiB) in the log that are worth a flush of the file.
const PAGES_MIN: i64 = 1000;
/// What may be left for the writer's turn, in pages: some milliseconds.
const LEFT_MAX: i64 = 500;
/// While the writer goes on, each round leaves what was written during it, which is less each time where the disk keeps up.
const ROUNDS_MAX: usize = 4;

/// Only tells how the log stands.
const NOOP: &str = "PRAGMA wal_checkpoint(NOOP)";
/// Waits for nobody: what a reader still needs stays.
const PASSIVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// How the log stands, in pages.
struct Log {
    pages: i64,
    written_back: i64,
}

impl Log {
    fn left(&self) -> i64 {
        self.pages - self.written_back
    }
}

impl Db {
    /// One look at the log: where much is to be written back, that is done; answers whether it was. The writer goes on meanwhile, but for a
    /// last turn in which nothing is added: after it the log begins anew. Where readers or a slow disk keep that from coming, the log grows
    /// to 64 MiB, and the writer then does it itself. PostgreSQL has its own checkpointer.
    ///
    /// `always` has it done however little there is: where the disk is full the log cannot grow, but what it holds has its place in the file,
    /// and a log that begins anew has room for small changes.
    pub async fn write_back(&self, always: bool) -> Result<bool> {
        if self.dialect() == Dialect::Postgres {
            return Ok(false);
        }
        let mut conn = self.read().await?;
        let mut log = checkpoint(&mut conn, NOOP).await?;
        if log.left() < if always { 1 } else { PAGES_MIN } {
            return Ok(false);
        }
        for _ in 0..ROUNDS_MAX {
            log = checkpoint(&mut conn, PASSIVE).await?;
            if log.left() <= LEFT_MAX {
                break;
            }
        }
        if (1..=LEFT_MAX).contains(&log.left()) {
            let _turn = self.writer_turn(Class::Operators).await;
            checkpoint(&mut conn, PASSIVE).await?;
        }
        Ok(true)
    }
}

async fn checkpoint(conn: &mut Conn, how: &'static str) -> Result<Log> {
    let (_busy, pages, written_back): (i64, i64, i64) = sqlx::query_as(how).fetch_one(conn.raw()).await?;
    Ok(Log { pages, written_back })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(folder: &tempfile::TempDir) -> Db {
        let db = Db::open(&format!("sqlite://{}", folder.path().join("muster.db").display())).await.unwrap();
        db.migrate().await.unwrap();
        db.write_back(false).await.unwrap();
        db
    }

    /// Writes so many rows of more than a page each.
    async fn write(db: &Db, name: &str, rows: usize) {
        let mut conn = db.begin(Class::Operators).await.unwrap();
        for n in 0..rows {
            let row = sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2)").bind(format!("{name}{n}")).bind("x".repeat(5_000));
            row.execute(conn.raw()).await.unwrap();
        }
        conn.commit().await.unwrap();
    }

    async fn log(db: &Db) -> Log {
        checkpoint(&mut db.read().await.unwrap(), NOOP).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_much_is_written_back_and_the_log_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(&folder).await;
        write(&db, "little", 10).await;
        assert!(!db.write_back(false).await.unwrap(), "so little waits");
        assert!(db.write_back(true).await.unwrap(), "unless the disk is full");
        assert_eq!(log(&db).await.left(), 0);
        write(&db, "much", 1_000).await;
        assert!(log(&db).await.left() >= PAGES_MIN, "the writer leaves it");
        assert!(db.write_back(false).await.unwrap());
        assert_eq!(log(&db).await.left(), 0);
        write(&db, "more", 1).await;
        assert!(log(&db).await.pages < 100, "it began anew");
    }

    #[tokio::test]
    async fn a_reader_keeps_what_it_sees_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(&folder).await;
        let count = async |conn: &mut Conn| -> i64 { sqlx::query_scalar("SELECT COUNT(*) FROM meta").fetch_one(conn.raw()).await.unwrap() };
        let mut reader = db.read().await.unwrap();
        sqlx::raw_sql("BEGIN").execute(reader.raw()).await.unwrap();
        let before = count(&mut reader).await;
        write(&db, "much", 1_000).await;
        assert!(db.write_back(false).await.unwrap());
        assert!(log(&db).await.left() >= PAGES_MIN, "the reader still needs the file as it was");
        assert_eq!(count(&mut reader).await, before);
        write(&db, "more", 1).await;
        sqlx::raw_sql("COMMIT").execute(reader.raw()).await.unwrap();
        assert!(db.write_back(false).await.unwrap());
        assert_eq!(log(&db).await.left(), 0);
        assert_eq!(count(&mut reader).await, before + 1_001);
    }
}
