//! The ceiling of whatever makes rows: a bare multi-row insert into a table of the same database, as durable as the server's own.

use std::time::{Duration, Instant};

use muster::clock::{Clock, Moment};
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection};

use crate::times::row;

/// Rows of a statement, which is a transaction of its own: as many as the server makes tasks at once.
const ROWS: usize = 500;
/// How long each form is measured; what makes the rows of a statement is not counted.
const MEASURED: Duration = Duration::from_secs(2);

/// About what a task is, and no index but that of its key, in whose order the rows come.
const TABLE: &str = "CREATE TABLE bench_ceiling (id TEXT NOT NULL PRIMARY KEY, bucket BIGINT NOT NULL, job_id TEXT NOT NULL, \
    device_id TEXT NOT NULL, channel_id TEXT NOT NULL, kind TEXT NOT NULL, lane BIGINT NOT NULL, state TEXT NOT NULL, \
    attempt BIGINT NOT NULL, created_at_ms BIGINT NOT NULL, expires_at_ms BIGINT NOT NULL, state_since_ms BIGINT NOT NULL)";
const COLUMNS: [(&str, &str); 12] = [
    ("id", "text"),
    ("bucket", "bigint"),
    ("job_id", "text"),
    ("device_id", "text"),
    ("channel_id", "text"),
    ("kind", "text"),
    ("lane", "bigint"),
    ("state", "text"),
    ("attempt", "bigint"),
    ("created_at_ms", "bigint"),
    ("expires_at_ms", "bigint"),
    ("state_since_ms", "bigint"),
];

/// Rows a second of the fastest plain form, of two: rows that travel as one JSON parameter, as the server's do, and `VALUES` with the rows
/// in the statement's text (a parameter for each value is slower than either). No server should be at the database meanwhile; the table is
/// gone afterwards.
pub async fn ceiling(url: &str) -> anyhow::Result<f64> {
    let mut conn = AnyConnection::connect(url).await?;
    let postgres = url.starts_with("postgres");
    if !postgres {
        // As the server's writer has it.
        let durable = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 16384; PRAGMA cache_size = -32768";
        sqlx::raw_sql(durable).execute(&mut conn).await?;
    }
    sqlx::raw_sql("DROP TABLE IF EXISTS bench_ceiling").execute(&mut conn).await?;
    sqlx::raw_sql(TABLE).execute(&mut conn).await?;
    let json = form(&mut conn, &insert_json(postgres), |rows| rows.to_string(), true).await?;
    let values = form(&mut conn, "", insert_values, false).await?;
    sqlx::raw_sql("DROP TABLE bench_ceiling").execute(&mut conn).await?;
    let (rate, name) = if json > values { (json, "one JSON parameter") } else { (values, "VALUES") };
    row("bare insert of 500 rows a transaction", format!("{rate:.0} rows/s as {name}; JSON {json:.0}, VALUES {values:.0}"));
    Ok(rate)
}

/// What one form makes: `text` makes of rows what travels, as the parameter of `statement` or as the statement itself.
async fn form(conn: &mut AnyConnection, statement: &str, text: impl Fn(&Value) -> String, is_parameter: bool) -> anyhow::Result<f64> {
    let mut moment = Clock::system().moment();
    let job = moment.id().to_string();
    let (mut made, mut taken) = (0, Duration::ZERO);
    while taken < MEASURED {
        let text = text(&rows(&mut moment, &job));
        let began = Instant::now();
        if is_parameter {
            sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).bind(text).execute(&mut *conn).await?;
        } else {
            sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *conn).await?;
        }
        taken += began.elapsed();
        made += ROWS;
    }
    Ok(made as f64 / taken.as_secs_f64())
}

fn rows(moment: &mut Moment, job: &str) -> Value {
    let one = |_| {
        moment.now_ms += 1;
        let (id, device) = (moment.id(), moment.id());
        json!({"id": id, "bucket": device.bucket(), "job_id": job, "device_id": device, "channel_id": moment.id_beside(device),
            "kind": "message", "lane": 2, "state": "queued", "attempt": 1, "created_at_ms": moment.now_ms,
            "expires_at_ms": moment.now_ms + 604_800_000, "state_since_ms": moment.now_ms})
    };
    (0..ROWS).map(one).collect()
}

fn names() -> String {
    COLUMNS.map(|(name, _)| name).join(", ")
}

fn insert_json(postgres: bool) -> String {
    let from = if postgres {
        format!("SELECT * FROM json_to_recordset($1::json) AS r({})", COLUMNS.map(|(name, kind)| format!("{name} {kind}")).join(", "))
    } else {
        format!("SELECT {} FROM jsonb_each($1)", COLUMNS.map(|(name, _)| format!("value->>'{name}'")).join(", "))
    };
    format!("INSERT INTO bench_ceiling ({}) {from}", names())
}

fn insert_values(rows: &Value) -> String {
    let one = |row: &Value| {
        let value = |(name, _): (&str, &str)| match &row[name] {
            Value::String(text) => format!("'{text}'"),
            other => other.to_string(),
        };
        format!("({})", COLUMNS.map(value).join(", "))
    };
    let rows: Vec<String> = rows.as_array().into_iter().flatten().map(one).collect();
    format!("INSERT INTO bench_ceiling ({}) VALUES {}", names(), rows.join(", "))
}
