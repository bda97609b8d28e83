//! What PostgreSQL reads where its statistics are of yesterday: a server that has ended everything, looked at, and then a job for
//! all of its devices. Each statement shall read what it is about, not all that is open.

use std::collections::HashSet;

use super::{devices, each_database};
use crate::clock::Clock;
use crate::model::Id;
use crate::store::feed::{self, Entry};
use crate::store::findings::{self, Closing, FindingKey, NewFinding};
use crate::store::jobs::{self, JobRow};
use crate::store::tasks::{self, Ending, Key, NewTask, Of};
use crate::store::{Class, Conn, Db, Dialect, channels_lock};
use crate::store::{meta, statistics, tallies};

const START_MS: i64 = 1_800_000_000_000;
const FLEET: usize = 400;
const FEW: usize = 5;
/// Rows that a statement about [`FEW`] may read: one of each, read and found again under its lock, and what stands beside them.
const ROWS_MAX: i64 = 8 * FEW as i64;

fn job(id: Id) -> JobRow {
    JobRow {
        id,
        kind: "refresh".into(),
        params: "{}".into(),
        lane: "change".into(),
        selector: r#"{"all": true}"#.into(),
        state: "running".into(),
        tasks: 0,
        unknown_devices: "[]".into(),
        duplicate_devices: "[]".into(),
        created_by: "test".into(),
        created_at_ms: START_MS,
        expires_at_ms: START_MS + 86_400_000,
        finished_at_ms: None,
        walk: String::new(),
        walk_at_ms: 0,
        expand_after: String::new(),
    }
}

async fn on_postgres(test: impl AsyncFn(Db)) {
    each_database(async |db| {
        if db.dialect() == Dialect::Postgres {
            test(db).await;
        }
    })
    .await;
}

/// A job for all of these devices; `finished_at_ms` of its tasks.
async fn order(db: &Db, clock: &Clock, fleet: &[(Id, Id)], finished_at_ms: Option<i64>) -> Id {
    let mut moment = clock.moment();
    let ordered = job(moment.id());
    let rows: Vec<NewTask> = fleet
        .iter()
        .map(|(device_id, channel_id)| NewTask {
            bucket: device_id.bucket(),
            id: moment.id_beside(*device_id),
            device_id: *device_id,
            channel_id: *channel_id,
            state: if finished_at_ms.is_some() { "done" } else { "queued" }.into(),
            expires_at_ms: ordered.expires_at_ms,
            finished_at_ms,
            error: None,
            command_uuid: None,
        })
        .collect();
    let mut conn = db.begin(Class::Background).await.unwrap();
    jobs::insert(&mut conn, &ordered).await.unwrap();
    let of = Of { job_id: ordered.id, kind: &ordered.kind, lane: 1 };
    assert_eq!(tasks::insert(&mut conn, of, &rows, moment.now_ms).await.unwrap().len(), fleet.len());
    conn.commit().await.unwrap();
    ordered.id
}

/// Lets PostgreSQL look at the tables now.
async fn look(db: &Db) {
    for table in ["task", "finding", "tally_in", "feed_in"] {
        let text = format!("VACUUM (ANALYZE, TRUNCATE false) {table}");
        sqlx::query(sqlx::AssertSqlSafe(text)).execute(db.read().await.unwrap().raw()).await.unwrap();
    }
}

/// Rows of a table that this connection has read so far, since it told its figures last.
async fn read_of(conn: &mut Conn, table: &str) -> i64 {
    const READ: &str = "SELECT CAST(seq_tup_read + COALESCE(idx_tup_fetch, 0) AS BIGINT) FROM pg_stat_xact_user_tables \
        WHERE relname = $1 AND schemaname = CURRENT_SCHEMA";
    sqlx::query_scalar(READ).bind(table).fetch_one(conn.raw()).await.unwrap()
}

/// Runs the statement in a transaction of its own; answers what it said, once it is sure that it read no more than what it is about.
macro_rules! reads_few {
    ($db:expr, $table:literal, |$conn:ident| $statement:expr) => {{
        let mut conn = $db.begin(Class::Background).await.unwrap();
        let before = read_of(&mut conn, $table).await;
        let $conn = &mut conn;
        let said = $statement.await.unwrap();
        let read = read_of(&mut conn, $table).await - before;
        assert!(read <= ROWS_MAX, "{}: {read} rows read", stringify!($statement));
        conn.commit().await.unwrap();
        said
    }};
}

#[tokio::test]
async fn a_look_at_few_tasks_reads_few_though_statistics_say_that_none_is_open() {
    on_postgres(async |db| {
        let clock = Clock::moved(START_MS, 1);
        let fleet = devices(&db, &clock, FLEET).await;
        order(&db, &clock, &fleet, Some(START_MS)).await;
        look(&db).await;
        let first = order(&db, &clock, &fleet, None).await;
        let second = order(&db, &clock, &fleet, None).await;
        let few: Vec<Id> = fleet.iter().take(FEW).map(|(_, channel)| *channel).collect();
        let keys: Vec<Key> = few.iter().map(|id| Key { id: *id, most: 9 }).collect();

        let open = reads_few!(db, "task", |conn| tasks::open_for(conn, &keys, START_MS));
        assert_eq!(open.len(), 2 * FEW);
        assert_eq!(reads_few!(db, "task", |conn| tasks::open_of(conn, &few)).len(), 2 * FEW);
        let equal = reads_few!(db, "task", |conn| tasks::undelivered_like(conn, &few, second, "refresh", "{}"));
        assert_eq!(equal.iter().map(|ended| ended.job_id).collect::<HashSet<_>>(), HashSet::from([first]));
        assert_eq!(equal.len(), FEW);
        let endings =
            || equal.iter().cloned().map(|ended| Ending { ended, state: "superseded", error: None, result: None }).collect::<Vec<_>>();
        assert_eq!(reads_few!(db, "task", |conn| tasks::end(conn, endings(), START_MS)).len(), FEW);
        let limit = i64::try_from(FEW).unwrap();
        assert_eq!(reads_few!(db, "task", |conn| tasks::open_of_job(conn, second, "", limit)).len(), FEW);
        assert_eq!(reads_few!(db, "task", |conn| tasks::expired(conn, START_MS + 86_400_000, limit)).len(), FEW);
        assert_eq!(reads_few!(db, "task", |conn| tasks::expired(conn, START_MS, limit)).len(), 0);

        let mut reader = db.read().await.unwrap();
        let before = read_of(&mut reader, "task").await;
        assert!(!meta::waiting(&mut reader, START_MS).await.unwrap().expired);
        let read = read_of(&mut reader, "task").await - before;
        assert!(read <= ROWS_MAX, "{read} rows read to learn that no task has expired");
    })
    .await;
}

#[tokio::test]
async fn a_look_at_few_findings_reads_few_though_statistics_say_that_none_is_open() {
    on_postgres(async |db| {
        let clock = Clock::moved(START_MS, 2);
        let mut moment = clock.moment();
        let fleet = devices(&db, &clock, FLEET).await;
        let key = |device_id: Id| FindingKey { bucket: device_id.bucket(), device_id, kind: "malware", subject: String::new() };
        let mut found = |(device_id, _): &(Id, Id)| NewFinding {
            id: moment.id_beside(*device_id),
            key: key(*device_id),
            due_at_ms: START_MS,
            detail: "{}".into(),
        };
        let (before, after): (Vec<_>, Vec<_>) = fleet.iter().map(|member| (found(member), found(member))).unzip();
        let closings: Vec<Closing> =
            fleet.iter().map(|(device_id, _)| Closing { key: key(*device_id), closed_by: "test".into() }).collect();
        let mut conn = db.begin(Class::Background).await.unwrap();
        findings::open(&mut conn, &before, START_MS).await.unwrap();
        findings::close(&mut conn, &closings, START_MS).await.unwrap();
        conn.commit().await.unwrap();
        look(&db).await;
        let mut conn = db.begin(Class::Background).await.unwrap();
        findings::open(&mut conn, &after, START_MS).await.unwrap();
        conn.commit().await.unwrap();

        let few: Vec<Id> = fleet.iter().take(FEW).map(|(device, _)| *device).collect();
        let open = reads_few!(db, "finding", |conn| findings::open_of(conn, &few, ""));
        assert_eq!(open.len(), FEW);
        let ids: Vec<Id> = open.iter().map(|met| met.id).collect();
        assert_eq!(reads_few!(db, "finding", |conn| findings::overdue_among(conn, &ids, START_MS)).len(), FEW);
        assert_eq!(reads_few!(db, "finding", |conn| findings::overdue(conn, START_MS, 5)).len(), 5);
        assert_eq!(reads_few!(db, "finding", |conn| findings::close(conn, &closings[..FEW], START_MS)).len(), FEW);
    })
    .await;
}

#[tokio::test]
async fn taking_few_out_of_a_queue_reads_few_though_it_was_empty_when_it_was_looked_at() {
    async fn fill(db: &Db, clock: &Clock) {
        let mut moment = clock.moment();
        let mut conn = db.begin(Class::Background).await.unwrap();
        let changes: Vec<(String, String, i64)> = (0..FLEET).map(|n| (format!("topic {n}"), "key".to_owned(), 1)).collect();
        tallies::add(&mut conn, &mut moment, &changes).await.unwrap();
        let entry = |_| Entry { kind: "device.state", actor: None, device_id: None, data: serde_json::json!({}) };
        feed::append(&mut conn, &mut moment, &(0..FLEET).map(entry).collect::<Vec<_>>()).await.unwrap();
        conn.commit().await.unwrap();
    }
    on_postgres(async |db| {
        let clock = Clock::moved(START_MS, 3);
        let (all, few) = (i64::try_from(FLEET).unwrap(), i64::try_from(FEW).unwrap());
        fill(&db, &clock).await;
        let mut conn = db.begin(Class::Background).await.unwrap();
        assert_eq!(tallies::fold(&mut conn, all).await.unwrap().changes, all);
        assert_eq!(feed::number(&mut conn, all).await.unwrap(), FLEET);
        conn.commit().await.unwrap();
        look(&db).await;
        fill(&db, &clock).await;
        assert_eq!(reads_few!(db, "tally_in", |conn| tallies::fold(conn, few)).changes, few);
        assert_eq!(reads_few!(db, "feed_in", |conn| feed::number(conn, few)), FEW);
    })
    .await;
}

#[tokio::test]
async fn what_was_planned_for_an_empty_fleet_is_planned_anew_once_it_has_grown() {
    each_database(async |db| {
        if db.dialect() == Dialect::Sqlite {
            assert!(db.analyze_doubled().await.unwrap().is_empty());
            return;
        }
        let clock = Clock::moved(START_MS, 4);
        let mut fleet = devices(&db, &clock, FEW).await;
        let mut conn = db.begin(Class::Background).await.unwrap();
        channels_lock(&mut conn, &fleet.iter().map(|(_, channel)| *channel).collect::<Vec<_>>()).await.unwrap();
        conn.commit().await.unwrap();
        assert!(db.analyze_doubled().await.unwrap().is_empty(), "a handful of devices is no matter");
        fleet.extend(devices(&db, &clock, 2 * FLEET).await);
        let mut analyzed = HashSet::new();
        // What a connection has written it tells at the end of a transaction, once a second.
        for _ in 0..100 {
            analyzed.extend(db.analyze_doubled().await.unwrap());
            if ["channel", "device", "wakes"].iter().all(|table| analyzed.contains(table)) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            fleet.extend(devices(&db, &clock, 1).await);
        }
        assert!(["channel", "device", "wakes"].iter().all(|table| analyzed.contains(table)), "{analyzed:?}");
        let few: Vec<Id> = fleet.iter().rev().take(FEW).map(|(_, channel)| *channel).collect();
        reads_few!(db, "channel", |conn| channels_lock(conn, &few));
        // Each of the list is a table: one that is renamed would drop out of it unseen.
        let mut conn = db.read().await.unwrap();
        for (_, text) in statistics::TABLES {
            sqlx::query(text).execute(conn.raw()).await.unwrap();
        }
    })
    .await;
}
