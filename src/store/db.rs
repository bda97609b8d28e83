//! The database: pools, transactions and the one writer of SQLite.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions, Connection, Transaction};

use super::migrate;
use super::seat::{Seat, Seated};
use super::turns::{Class, Turn, Turns};
use crate::error::Result;
use crate::files;

/// How long anything waits for a connection before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// One of them writes the log back (see [`super::checkpoint`]).
const SQLITE_READERS_MAX: u32 = 5;
/// The pages that a SQLite file may grow to where nothing else is said: 4 TiB.
const SQLITE_PAGES_MAX: i64 = 1_073_741_823;
/// Few, so that each has planned its statements soon; the intake needs two, the nudger and the workers one each.
const POSTGRES_WRITERS_MAX: u32 = 12;
const POSTGRES_READERS_MAX: u32 = 12;
/// What writers write they find by key: one plan for good, and never one that reads a table whole because it was small when planned.
/// A pooler that keeps no session's settings only makes this slower.
const POSTGRES_WRITER: &str = "SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off;";
/// Readers ask of tables that grow under them, for what may not be there at all: planned each time, for the tables as they are then.
const POSTGRES_READER: &str = "SET jit = off; SET plan_cache_mode = force_custom_plan;";

/// Which of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
}

/// Why a database could not be opened; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("database_url must begin with sqlite:// or postgres://")]
    Scheme,
    #[error("the folder of the database, {0:?}, cannot be made: {1}")]
    Folder(PathBuf, std::io::Error),
    #[error("the file of the database, {0:?}, cannot be made: {1}")]
    File(PathBuf, std::io::Error),
    #[error("the database cannot be opened: {0}")]
    Connect(sqlx::Error),
    #[error("the schema cannot be brought up to date: {0}")]
    Migrate(sqlx::migrate::MigrateError),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> OpenError {
        OpenError::Connect(error)
    }
}

impl From<sqlx::migrate::MigrateError> for OpenError {
    fn from(error: sqlx::migrate::MigrateError) -> OpenError {
        OpenError::Migrate(error)
    }
}

/// One database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    dialect: Dialect,
    writers: AnyPool,
    readers: AnyPool,
    turns: Turns,
    /// Where SQLite's one writer waits.
    seat: Arc<Seat>,
    /// The pages that SQLite's file may grow to.
    pages_max: Arc<AtomicI64>,
}

/// A connection in use: inside a transaction (from [`Db::begin`]) or for reading (from [`Db::read`]).
#[derive(Debug)]
pub struct Conn {
    dialect: Dialect,
    inner: Inner,
    #[cfg(test)]
    statements: usize,
}

#[derive(Debug)]
enum Inner {
    Writing(Transaction<'static, Any>),
    Seated(Seated),
    Reading(PoolConnection<Any>),
}

impl Db {
    /// Opens the database that `url` names and brings no schema; `sqlite://` files and their folder are made.
    pub async fn open(url: &str) -> std::result::Result<Db, OpenError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        if let Some(path) = url.strip_prefix("sqlite://") {
            open_sqlite(path).await
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            open_postgres(url).await
        } else {
            Err(OpenError::Scheme)
        }
    }

    /// Brings the schema up to date; does nothing where it is.
    pub async fn migrate(&self) -> std::result::Result<(), OpenError> {
        let _turn = self.writer_turn(Class::Operators).await;
        self.seat.leave().await;
        let mut conn = self.writers.acquire().await?;
        migrate::run(&mut conn, self.dialect).await?;
        Ok(())
    }

    /// True where the schema is the one this program was built for.
    pub async fn schema_is_current(&self) -> Result<bool> {
        let mut conn = self.readers.acquire().await?;
        Ok(migrate::is_current(&mut conn).await?)
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// A connection for reading, outside any transaction.
    pub async fn read(&self) -> Result<Conn> {
        Ok(self.conn(Inner::Reading(self.readers.acquire().await?)))
    }

    /// Begins a transaction that may write. On SQLite it waits for its class's turn and holds the write lock from the start, so
    /// that reading first and writing later cannot fail.
    pub async fn begin(&self, class: Class) -> Result<Conn> {
        let inner = match self.dialect {
            Dialect::Sqlite => {
                let turn = self.writer_turn(class).await;
                Inner::Seated(Seated::begin(self.seat.clone(), &self.writers, "BEGIN IMMEDIATE", turn).await?)
            }
            Dialect::Postgres => Inner::Writing(self.writers.begin().await?),
        };
        Ok(self.conn(inner))
    }

    /// Like [`Db::begin`], for a writer that has a seat of its own: on PostgreSQL it keeps its connection there. SQLite's one writer
    /// has one seat for all.
    pub async fn begin_at(&self, seat: &Arc<Seat>, class: Class) -> Result<Conn> {
        match self.dialect {
            Dialect::Sqlite => self.begin(class).await,
            Dialect::Postgres => Ok(self.conn(Inner::Seated(Seated::begin(seat.clone(), &self.writers, "BEGIN", None).await?))),
        }
    }

    fn conn(&self, inner: Inner) -> Conn {
        Conn {
            dialect: self.dialect,
            inner,
            #[cfg(test)]
            statements: 0,
        }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.seat.leave().await;
        self.writers.close().await;
        self.readers.close().await;
    }

    /// For drills of a full disk: SQLite's file may grow by `pages` more (of 4 KiB) and no further; `None` takes the limit away. Does
    /// nothing on PostgreSQL.
    pub async fn cap_growth(&self, pages: Option<i64>) -> Result<()> {
        if self.dialect == Dialect::Postgres {
            return Ok(());
        }
        let _turn = self.writer_turn(Class::Operators).await;
        let mut conn = self.seat.writer(&self.writers).await?;
        let most = match pages {
            Some(more) => sqlx::query_scalar::<_, i64>("PRAGMA page_count").fetch_one(&mut **conn).await? + more,
            None => SQLITE_PAGES_MAX,
        };
        self.pages_max.store(most, Ordering::Relaxed);
        cap(&mut conn, most).await?;
        Ok(())
    }

    /// For tests that live through days: SQLite's commits no longer wait for the disk.
    #[cfg(test)]
    pub async fn hasten(&self) {
        if self.dialect == Dialect::Sqlite {
            let mut conn = self.seat.writer(&self.writers).await.unwrap();
            sqlx::raw_sql("PRAGMA synchronous = OFF").execute(&mut **conn).await.unwrap();
        }
    }

    pub(super) async fn writer_turn(&self, class: Class) -> Option<Turn> {
        match self.dialect {
            Dialect::Sqlite => Some(self.turns.take(class).await),
            Dialect::Postgres => None,
        }
    }
}

impl Conn {
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The connection that statements run on.
    pub(super) fn raw(&mut self) -> &mut AnyConnection {
        #[cfg(test)]
        {
            self.statements += 1;
        }
        match &mut self.inner {
            Inner::Writing(transaction) => transaction,
            Inner::Seated(seated) => &mut seated.conn,
            Inner::Reading(connection) => connection,
        }
    }

    /// How many statements ran on it.
    #[cfg(test)]
    pub fn statements(&self) -> usize {
        self.statements
    }

    /// Makes everything since [`Db::begin`] durable. A connection for reading has nothing to commit.
    pub async fn commit(self) -> Result<()> {
        match self.inner {
            Inner::Writing(transaction) => Ok(transaction.commit().await?),
            Inner::Seated(seated) => Ok(seated.commit().await?),
            Inner::Reading(_) => Ok(()),
        }
    }

    /// Undoes everything since [`Db::begin`]. Dropping does the same, but later.
    pub async fn rollback(self) -> Result<()> {
        match self.inner {
            Inner::Writing(transaction) => Ok(transaction.rollback().await?),
            Inner::Seated(seated) => Ok(seated.rollback().await?),
            Inner::Reading(_) => Ok(()),
        }
    }
}

async fn open_sqlite(path: &str) -> std::result::Result<Db, OpenError> {
    let file = path.split('?').next().unwrap_or(path);
    if let Some(folder) = Path::new(file).parent().filter(|folder| !folder.as_os_str().is_empty()) {
        files::private_folder(folder).map_err(|error| OpenError::Folder(folder.into(), error))?;
    }
    // SQLite gives its log and the index of it the mode of the file, which holds devices' data.
    files::private_empty(Path::new(file)).map_err(|error| OpenError::File(file.into(), error))?;
    let separator = if path.contains('?') { '&' } else { '?' };
    let options = quiet(&format!("sqlite://{path}{separator}mode=rwc"))?;
    let pages_max = Arc::new(AtomicI64::new(SQLITE_PAGES_MAX));
    let pool = |connections: u32, setup: &'static str| {
        let pages_max = pages_max.clone();
        AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |conn, _| {
                let most = pages_max.load(Ordering::Relaxed);
                Box::pin(async move {
                    sqlx::raw_sql(setup).execute(&mut *conn).await?;
                    cap(conn, most).await
                })
            })
            // A full disk or a failed write makes SQLite undo the transaction by itself. The driver then believes it still open, and
            // every further one would fail for ever: such a connection is closed, and another takes its place.
            .before_acquire(|conn, _| Box::pin(async move { Ok(!conn.is_in_transaction()) }))
            .connect_with(options.clone())
    };
    // The writer first: it turns the file to WAL, which the readers then find. Statistics that somebody's ANALYZE has left are dropped:
    // without them SQLite looks every row up by its key; those of a table that was small that day make it read the table whole.
    let writers = pool(
        1,
        "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864; \
         PRAGMA wal_autocheckpoint = 16384; DROP TABLE IF EXISTS sqlite_stat1; DROP TABLE IF EXISTS sqlite_stat4; \
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768;",
    )
    .await?;
    let readers = pool(
        SQLITE_READERS_MAX,
        "PRAGMA busy_timeout = 5000; PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;",
    )
    .await?;
    Ok(Db { dialect: Dialect::Sqlite, writers, readers, turns: Turns::default(), seat: Arc::default(), pages_max })
}

async fn open_postgres(url: &str) -> std::result::Result<Db, OpenError> {
    let options = quiet(url)?;
    let pool = |connections: u32, setup: &'static str| {
        AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |conn, _| Box::pin(async move { sqlx::raw_sql(setup).execute(conn).await.map(|_| ()) }))
            .connect_with(options.clone())
    };
    let writers = match pool(POSTGRES_WRITERS_MAX, POSTGRES_WRITER).await {
        Ok(writers) => writers,
        // The pool only says that it waited in vain; a connection by itself says for what.
        Err(sqlx::Error::PoolTimedOut) => {
            let alone = tokio::time::timeout(ACQUIRE_TIMEOUT, AnyConnection::connect_with(&options)).await;
            return Err(alone.ok().and_then(std::result::Result::err).unwrap_or(sqlx::Error::PoolTimedOut).into());
        }
        Err(error) => return Err(error.into()),
    };
    let readers = pool(POSTGRES_READERS_MAX, POSTGRES_READER).await?;
    Ok(Db { dialect: Dialect::Postgres, writers, readers, turns: Turns::default(), seat: Arc::default(), pages_max: Arc::default() })
}

/// The text is a number of ours; a PRAGMA takes no parameters.
async fn cap(conn: &mut AnyConnection, pages_max: i64) -> std::result::Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages_max}"))).execute(conn).await.map(|_| ())
}

/// Statements are not logged: their parameters are devices' data.
fn quiet(url: &str) -> std::result::Result<AnyConnectOptions, sqlx::Error> {
    Ok(url.parse::<AnyConnectOptions>()?.disable_statement_logging())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[tokio::test]
    async fn a_new_sqlite_file_its_log_and_its_folder_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("deep/data");
        let db = Db::open(&format!("sqlite://{}", data.join("muster.db").display())).await.unwrap();
        db.migrate().await.unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&folder.path().join("deep"))), (0o700, 0o700));
        for name in ["muster.db", "muster.db-wal", "muster.db-shm"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
        db.close().await;
        // What somebody has opened to a group stays so.
        std::fs::set_permissions(data.join("muster.db"), std::fs::Permissions::from_mode(0o640)).unwrap();
        Db::open(&format!("sqlite://{}", data.join("muster.db").display())).await.unwrap().close().await;
        assert_eq!(mode(&data.join("muster.db")), 0o640);
    }

    #[tokio::test]
    async fn statistics_left_in_a_sqlite_file_are_dropped_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("muster.db").display());
        let analyzed = async |db: &Db| -> i64 {
            let found = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'sqlite_stat1'";
            sqlx::query_scalar(found).fetch_one(db.begin(Class::Operators).await.unwrap().raw()).await.unwrap()
        };
        let db = Db::open(&url).await.unwrap();
        db.migrate().await.unwrap();
        let mut conn = db.begin(Class::Operators).await.unwrap();
        sqlx::raw_sql("INSERT INTO meta (name, value) VALUES ('a', 'b'); ANALYZE").execute(conn.raw()).await.unwrap();
        conn.commit().await.unwrap();
        assert_eq!(analyzed(&db).await, 1);
        db.close().await;
        assert_eq!(analyzed(&Db::open(&url).await.unwrap()).await, 0);
    }
}
