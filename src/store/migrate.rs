//! The migrations, compiled into the program.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, AssertSqlSafe, SqlSafeStr};

use super::Dialect;

/// Every migration: its version, its name, its text.
const MIGRATIONS: &[(i64, &str, &str)] = &[(1, "base", include_str!("../../migrations/0001_base.sql"))];
const POSTGRES_SETTINGS: &str = include_str!("../../migrations/postgres.sql");

/// Applies what is missing.
pub async fn run(conn: &mut AnyConnection, dialect: Dialect) -> Result<(), MigrateError> {
    let migrations = MIGRATIONS.iter().map(|(version, name, text)| {
        let sql = match dialect {
            Dialect::Sqlite => (*text).to_owned(),
            // Ids and prefixes must compare as bytes whatever the cluster's locale.
            Dialect::Postgres => text.replace(" TEXT", " TEXT COLLATE \"C\""),
        };
        Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, AssertSqlSafe(sql).into_sql_str(), false)
    });
    let migrator = Migrator { migrations: migrations.collect(), ..Migrator::DEFAULT };
    migrator.run(&mut *conn).await?;
    if dialect == Dialect::Postgres {
        sqlx::raw_sql(POSTGRES_SETTINGS).execute(conn).await?;
    }
    Ok(())
}

/// The version of the newest migration of this program.
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|(version, _, _)| *version).max().unwrap_or(0)
}

/// True where exactly the migrations of this program have been applied.
pub async fn is_current(conn: &mut AnyConnection) -> sqlx::Result<bool> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(conn).await?;
    Ok(newest == Some(self::newest()))
}
