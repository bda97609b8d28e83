//! `migrations/distribute.sql` against the schema. Citus itself is not here: functions of its names take its place, which look whether
//! each table could be spread as it is asked for.

use sqlx::{Connection, PgConnection};

use crate::support::postgres;
use crate::support::server::TestServer;

const DISTRIBUTE: &str = include_str!("../../migrations/distribute.sql");

/// What Citus has: a list of what is spread, and a refusal where a unique key lacks the column by which rows are spread.
const CITUS: &str = "
    CREATE TABLE pg_dist_partition (logicalrelid REGCLASS PRIMARY KEY, how TEXT NOT NULL);
    CREATE FUNCTION create_distributed_table(t REGCLASS, c TEXT, distribution_type TEXT DEFAULT 'hash', colocate_with TEXT DEFAULT 'default')
    RETURNS VOID LANGUAGE plpgsql AS $$
    BEGIN
      IF EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t AND i.indisunique AND NOT EXISTS (
          SELECT FROM pg_attribute a WHERE a.attrelid = t AND a.attname = c AND a.attnum = ANY (i.indkey::INT2[]))) THEN
        RAISE EXCEPTION '% has a unique key without %', t, c;
      END IF;
      IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = t AND attname = c) THEN RAISE EXCEPTION '% has no %', t, c; END IF;
      INSERT INTO pg_dist_partition VALUES (t, 'by ' || c || ' beside ' || colocate_with);
    END $$;
    CREATE FUNCTION create_reference_table(t REGCLASS) RETURNS VOID LANGUAGE sql AS $$ INSERT INTO pg_dist_partition VALUES (t, 'everywhere') $$;
    CREATE FUNCTION citus_add_local_table_to_metadata(t REGCLASS) RETURNS VOID LANGUAGE sql AS $$
      INSERT INTO pg_dist_partition VALUES (t, 'local') $$;
";

#[tokio::test]
async fn every_table_is_spread_once_by_its_bucket_where_it_has_one_and_running_it_again_changes_nothing() {
    let Some(url) = postgres::fresh_database().await else { return };
    TestServer::at(&url, None, |_| {}).await.stop().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(DISTRIBUTE).execute(&mut conn).await.unwrap();
    let tables = "SELECT tablename::TEXT FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_sqlx%' ORDER BY 1";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut conn).await.unwrap();
    assert!(tables.len() > 40, "{tables:?}");
    sqlx::raw_sql(CITUS).execute(&mut conn).await.unwrap();
    for _ in 0..2 {
        sqlx::raw_sql(DISTRIBUTE).execute(&mut conn).await.unwrap();
    }
    let spread = "SELECT logicalrelid::TEXT, how FROM pg_dist_partition ORDER BY logicalrelid::TEXT COLLATE \"C\"";
    let spread: Vec<(String, String)> = sqlx::query_as(spread).fetch_all(&mut conn).await.unwrap();
    let mut names: Vec<String> = spread.iter().map(|(table, _)| table.clone()).collect();
    let mut expected = tables.clone();
    names.sort();
    expected.sort();
    assert_eq!(names, expected, "a table that distribute.sql forgets, or one that is not there");
    let with_bucket = "SELECT table_name::TEXT FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'bucket'";
    let with_bucket: Vec<String> = sqlx::query_scalar(with_bucket).fetch_all(&mut conn).await.unwrap();
    for (table, how) in spread {
        assert_eq!(how.starts_with("by bucket beside "), with_bucket.contains(&table), "{table}: {how}");
        assert_eq!(how == "by bucket beside none", table == "device", "all rows of a device lie together");
    }
}
