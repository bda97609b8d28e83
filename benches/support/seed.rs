//! A fleet as rows: the rows of one phone, copied under new ids.

use muster::clock::Clock;
use muster::model::Id;
use muster::model::token::Secret;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Column, Connection, Row};

/// Rows of one statement.
const CHUNK: usize = 10_000;
/// How long the calls of a fresh fleet are overdue, and how long before that its phones came last.
const OVERDUE_MS: i64 = 3_600_000;
const PERIOD_MS: i64 = 10_800_000;
const DAY_MS: i64 = 86_400_000;

/// The device token of every seeded phone, made from its id.
pub fn token(device: Id) -> Secret {
    Secret::device_token(device, &[7; 32])
}

/// The push address of the `n`-th seeded phone.
pub fn push(n: usize) -> String {
    format!("fleet-{n}")
}

/// Makes the phones `from..to`; answers their ids in this order. Each has a token ([`token`]), a push address ([`push`]) and a call that is
/// an hour overdue, as after an outage. One phone with its document must be there: it is what they are copied from.
pub async fn fleet(url: &str, from: usize, to: usize) -> anyhow::Result<Vec<Id>> {
    let mut conn = AnyConnection::connect(url).await?;
    let postgres = url.starts_with("postgres");
    // What is seeded may be seeded again: it need not outlive a fall of the machine.
    let hasty = if postgres { "SET synchronous_commit = off" } else { "PRAGMA synchronous = OFF; PRAGMA cache_size = -262144" };
    sqlx::raw_sql(hasty).execute(&mut conn).await?;
    let mut inserts = Vec::new();
    for (table, own) in [
        ("device", "bucket id hardware_id"),
        ("channel", "bucket id device_id token_hash push_value last_serving_ms"),
        ("wakes", "bucket channel_id phase_s due_at_ms"),
    ] {
        inserts.push(insert(&mut conn, table, &own.split(' ').collect::<Vec<_>>(), postgres).await?);
    }
    let mut moment = Clock::system().moment();
    let now_ms = moment.now_ms;
    let mut ids = Vec::with_capacity(to - from);
    for start in (from..to).step_by(CHUNK) {
        let rows: Vec<Value> = (start..to.min(start + CHUNK))
            .map(|n| {
                // Enrolled a day ago, a thousand a second: the times in the ids are as far apart as they would be.
                moment.now_ms = now_ms - DAY_MS + n as i64;
                let device = moment.id();
                let channel = moment.id_beside(device);
                ids.push(device);
                let phase_s = n as i64 % 10_800;
                json!({"device_bucket": device.bucket(), "device_id": device, "device_hardware_id": push(n),
                    "channel_bucket": channel.bucket(), "channel_id": channel, "channel_device_id": device,
                    "channel_token_hash": token(device).hash(), "channel_push_value": push(n),
                    "channel_last_serving_ms": now_ms - OVERDUE_MS - PERIOD_MS,
                    "wakes_bucket": channel.bucket(), "wakes_channel_id": channel, "wakes_phase_s": phase_s,
                    "wakes_due_at_ms": now_ms - OVERDUE_MS})
            })
            .collect();
        let rows = Value::from(rows).to_string();
        let mut transaction = conn.begin().await?;
        for insert in &inserts {
            sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(&rows).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    if postgres {
        // What autovacuum would do within the minute.
        sqlx::raw_sql("ANALYZE").execute(&mut conn).await?;
    } else {
        sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await?;
    }
    Ok(ids)
}

/// The statement that copies a row of `table` for each row of its parameter, with columns of its `own`.
async fn insert(conn: &mut AnyConnection, table: &str, own: &[&str], postgres: bool) -> anyhow::Result<String> {
    let one = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {table} LIMIT 1"))).fetch_one(conn).await?;
    let names: Vec<&str> = one.columns().iter().map(Column::name).collect();
    let picked: Vec<String> =
        names.iter().map(|name| if own.contains(name) { format!("r.{table}_{name}") } else { format!("t.{name}") }).collect();
    let rows = if postgres {
        let is_number = |name: &str| name == "bucket" || name.ends_with("_s") || name.ends_with("_ms");
        let typed: Vec<String> =
            own.iter().map(|name| format!("{table}_{name} {}", if is_number(name) { "bigint" } else { "text" })).collect();
        format!("json_to_recordset($1::json) AS r({})", typed.join(", "))
    } else {
        let picked: Vec<String> = own.iter().map(|name| format!("value->>'{table}_{name}' AS {table}_{name}")).collect();
        format!("(SELECT {} FROM jsonb_each($1)) AS r", picked.join(", "))
    };
    Ok(format!("INSERT INTO {table} ({}) SELECT {} FROM {rows}, (SELECT * FROM {table} LIMIT 1) AS t", names.join(", "), picked.join(", ")))
}

/// What a statement counts.
pub async fn count(url: &str, sql: &'static str) -> anyhow::Result<i64> {
    let mut conn = AnyConnection::connect(url).await?;
    Ok(sqlx::query_scalar(sql).fetch_one(&mut conn).await?)
}
