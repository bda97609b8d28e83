//! What a group of contacts reads and writes, each in one statement for all of them.

use serde::{Deserialize, Serialize};
use sqlx_macros::FromRow;

use super::batch::{parameters, read_sql, rows_sql};
use super::{Conn, Dialect, Sql, keys_json, rows_json};
use crate::error::Result;
use crate::model::Id;

/// A channel as its contact finds it, with its wake and its device.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct Standing {
    pub id: Id,
    pub device_id: Id,
    /// '' but for a user's channel of an Apple device.
    pub subject: String,
    pub platform: String,
    pub token_hash: Option<String>,
    pub fresh_token_hash: Option<String>,
    pub activation: i64,
    pub denied: Option<String>,
    pub push_provider: Option<String>,
    pub push_kind: Option<String>,
    pub push_value: Option<String>,
    pub push_state: String,
    pub last_serving_ms: Option<i64>,
    /// When it last told its facts, changed or not.
    pub last_facts_ms: Option<i64>,
    pub label_set_id: String,
    pub generation: i64,
    pub stack_id: String,
    pub desired: Option<String>,
    pub desired_at_ms: i64,
    /// Of an Apple MDM channel: the version of its declarations that it was told to fetch.
    pub declared: Option<String>,
    pub hold: Option<String>,
    pub reported: Option<String>,
    pub applied: Option<String>,
    pub applied_at_ms: Option<i64>,
    pub details: Option<String>,
    /// The generation of the channel's label set: above `generation` the channel is stale.
    pub set_generation: i64,
    pub facts_hash: String,
    pub created_at_ms: i64,
    pub work_seq: i64,
    pub lane: i64,
    pub open_work: i64,
    pub step: i64,
    pub attempt: i64,
    pub fruitless: i64,
    pub unanswered: i64,
    pub nudged_at_ms: Option<i64>,
    /// Rank of the lane of the nudge that left then.
    pub nudged_lane: Option<i64>,
    pub due_at_ms: i64,
    pub lease_id: Option<Id>,
    pub leased_lane: Option<i64>,
    pub gap_ms: i64,
    pub phase_s: i64,
    pub lazy: i64,
    pub skew_ms: i64,
    /// 1 for a user of an Apple device who waits until everything was said.
    pub awaiting_configuration: i64,
    /// How many jobs are still making their tasks.
    pub making: i64,
}

impl Standing {
    /// The nudge that is on its way to the device, where one is and nobody has come during it: since when it is leased, and the rank of
    /// its lane. Its provider's answer may not be written yet when the device comes for it.
    pub fn on_its_way(&self, now_ms: i64) -> Option<(i64, i64)> {
        let lease_id = self.lease_id.filter(|_| self.due_at_ms > now_ms)?;
        Some((lease_id.at_ms(), self.leased_lane?))
    }
}

/// Which of a device's channels is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Way {
    #[default]
    Agent,
    /// Apple's own; a user's where the user part is not empty.
    Mdm(String),
}

impl Way {
    /// How the store names its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Way::Agent => "agent",
            Way::Mdm(_) => "mdm",
        }
    }

    fn subject(&self) -> &str {
        match self {
            Way::Agent => "",
            Way::Mdm(subject) => subject,
        }
    }
}

#[derive(Serialize)]
struct WayKey<'a> {
    bucket: i64,
    device_id: Id,
    kind: &'a str,
    subject: &'a str,
}

// The channel rows are locked, in the order of their keys, by a statement of its own; what comes after reads behind the locks.
const LOCK: &str = "SELECT COUNT(*) FROM (SELECT c.id FROM channel c \
     JOIN (SELECT * FROM json_to_recordset($1::json) AS r(_row int, bucket bigint, device_id text, kind text, subject text) WHERE _row IS NULL) AS r ON c.bucket = r.bucket AND c.device_id = r.device_id \
     AND c.kind = r.kind AND c.subject = r.subject ORDER BY c.bucket, c.id FOR UPDATE OF c) AS locked";

const OPEN: Sql = read_sql!(
    [
        c(
            id, device_id, subject, platform, token_hash, fresh_token_hash, activation, denied, push_provider, push_kind, push_value, push_state,
            last_serving_ms, last_facts_ms, label_set_id, generation, stack_id, desired, desired_at_ms, declared, hold, reported, applied,
            applied_at_ms, details, skew_ms, awaiting_configuration
        ),
        d(facts_hash, created_at_ms),
        w(
            work_seq, lane, open_work, step, attempt, fruitless, unanswered, nudged_at_ms, nudged_lane, due_at_ms, lease_id, leased_lane, gap_ms,
            phase_s, lazy
        );
        set_generation = "COALESCE(s.generation, 0)", making = "(SELECT COUNT(*) FROM job WHERE walk <> '' AND walk = 'make')"
    ],
    rows(bucket: bigint, device_id: text, kind: text, subject: text),
    "JOIN channel c ON c.bucket = r.bucket AND c.device_id = r.device_id AND c.kind = r.kind AND c.subject = r.subject \
     JOIN wakes w ON w.bucket = c.bucket AND w.channel_id = c.id \
     JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id \
     LEFT JOIN label_set s ON s.id = c.label_set_id \
     WHERE ($2 < 0 OR c.bucket = $2)"
);

/// Locks these channels and reads where they stand; at most one of a device. `work_seq` is read here, before any open work.
pub async fn open(conn: &mut Conn, channels: &[(Id, &Way)]) -> Result<Vec<Standing>> {
    let rows: Vec<WayKey<'_>> =
        channels.iter().map(|(id, way)| WayKey { bucket: id.bucket(), device_id: *id, kind: way.kind(), subject: way.subject() }).collect();
    let json = rows_json(&rows);
    if conn.dialect() == Dialect::Postgres {
        sqlx::query(LOCK).bind(&json).execute(conn.raw()).await?;
    }
    OPEN.read(conn, parameters![json, -1_i64]).await
}

/// What every contact writes.
#[derive(Clone, Debug, Serialize)]
pub struct Touch {
    pub bucket: i64,
    pub id: Id,
    pub cause: String,
    pub serving: i64,
    /// 1 where it told its facts.
    pub facts: i64,
}

// Touches no index: the cheapest write there is.
const TOUCH: Sql = rows_sql!(
    "UPDATE channel AS c SET last_contact_ms = $2, last_cause = r.cause, last_serving_ms = CASE WHEN r.serving = 1 THEN $2 ELSE c.last_serving_ms END, \
       last_facts_ms = CASE WHEN r.facts = 1 THEN $2 ELSE c.last_facts_ms END FROM ",
    rows(bucket: bigint, id: text, cause: text, serving: bigint, facts: bigint),
    "WHERE ($3 < 0 OR c.bucket = $3) AND c.bucket = r.bucket AND c.id = r.id"
);

/// Notes that these channels came.
pub async fn touch(conn: &mut Conn, touches: &[Touch], now_ms: i64) -> Result<()> {
    sqlx::query(TOUCH.on(conn.dialect())).bind(rows_json(touches)).bind(now_ms).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

/// What a contact changed about its channel, whole; written only where something did.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    pub bucket: i64,
    pub id: Id,
    pub token_hash: Option<String>,
    pub fresh_token_hash: Option<String>,
    pub push_provider: Option<String>,
    pub push_kind: Option<String>,
    pub push_value: Option<String>,
    pub push_state: String,
    pub push_changed: i64,
    pub skew_ms: i64,
    pub reported: Option<String>,
    pub applied: Option<String>,
    pub applied_at_ms: Option<i64>,
    pub details: Option<String>,
}

const CHANGE: Sql = rows_sql!(
    "UPDATE channel AS c SET token_hash = r.token_hash, fresh_token_hash = r.fresh_token_hash, push_provider = r.push_provider, \
       push_kind = r.push_kind, push_value = r.push_value, push_state = r.push_state, \
       push_since_ms = CASE WHEN r.push_changed = 1 THEN $2 ELSE c.push_since_ms END, skew_ms = r.skew_ms, \
       reported = r.reported, reported_at_ms = $2, applied = r.applied, applied_at_ms = r.applied_at_ms, details = r.details \
     FROM ",
    rows(bucket: bigint, id: text, token_hash: text, fresh_token_hash: text, push_provider: text, push_kind: text, push_value: text,
         push_state: text, push_changed: bigint, skew_ms: bigint, reported: text, applied: text, applied_at_ms: bigint, details: text),
    "WHERE ($3 < 0 OR c.bucket = $3) AND c.bucket = r.bucket AND c.id = r.id"
);

/// Writes what contacts changed about their channels.
pub async fn change(conn: &mut Conn, changes: &[Changed], now_ms: i64) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query(CHANGE.on(conn.dialect())).bind(rows_json(changes)).bind(now_ms).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

// Both at once, where the database can: history is $4.
const VISIT: &str = "WITH kept AS (INSERT INTO contact (bucket, id, device_id, channel_id, cause, at_ms, after_nudge_ms, results, events, tasks, policy) \
     SELECT r.bucket, r.id, r.device_id, r.channel_id, r.cause, $2, r.after_nudge_ms, r.results, r.events, r.tasks, r.policy \
     FROM json_to_recordset($4::json) AS r(bucket bigint, id text, device_id text, channel_id text, cause text, after_nudge_ms bigint, \
       results bigint, events bigint, tasks bigint, policy text)) \
     UPDATE channel AS c SET last_contact_ms = $2, last_cause = r.cause, \
       last_serving_ms = CASE WHEN r.serving = 1 THEN $2 ELSE c.last_serving_ms END, \
       last_facts_ms = CASE WHEN r.facts = 1 THEN $2 ELSE c.last_facts_ms END \
     FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int, bucket bigint, id text, cause text, serving bigint, facts bigint) \
       WHERE _row IS NULL) AS r \
     WHERE ($3 < 0 OR c.bucket = $3) AND c.bucket = r.bucket AND c.id = r.id";

/// Notes that these channels came, and keeps in history what of it carried something.
pub async fn visited(conn: &mut Conn, touches: &[Touch], carried: &[Carried], now_ms: i64) -> Result<()> {
    if conn.dialect() == Dialect::Postgres && !carried.is_empty() {
        let both = sqlx::query(VISIT).bind(rows_json(touches)).bind(now_ms).bind(-1_i64).bind(rows_json(carried));
        both.execute(conn.raw()).await?;
        return Ok(());
    }
    carry(conn, carried, now_ms).await?;
    touch(conn, touches, now_ms).await
}

/// A contact that carried something, either way.
#[derive(Clone, Debug, Serialize)]
pub struct Carried {
    pub bucket: i64,
    pub id: Id,
    pub device_id: Id,
    pub channel_id: Id,
    pub cause: String,
    pub after_nudge_ms: Option<i64>,
    pub results: i64,
    pub events: i64,
    pub tasks: i64,
    pub policy: Option<String>,
}

const CARRY: Sql = rows_sql!(
    "INSERT INTO contact (bucket, id, device_id, channel_id, cause, at_ms, after_nudge_ms, results, events, tasks, policy) \
     SELECT r.bucket, r.id, r.device_id, r.channel_id, r.cause, $2, r.after_nudge_ms, r.results, r.events, r.tasks, r.policy FROM ",
    rows(bucket: bigint, id: text, device_id: text, channel_id: text, cause: text, after_nudge_ms: bigint, results: bigint, events: bigint,
         tasks: bigint, policy: text),
    ""
);

/// Keeps contacts in history.
pub async fn carry(conn: &mut Conn, carried: &[Carried], now_ms: i64) -> Result<()> {
    if carried.is_empty() {
        return Ok(());
    }
    sqlx::query(CARRY.on(conn.dialect())).bind(rows_json(carried)).bind(now_ms).execute(conn.raw()).await?;
    Ok(())
}

/// The facts of a device.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct FactsRow {
    pub id: Id,
    pub facts: String,
    pub model: String,
    pub os_version: String,
    pub serial: Option<String>,
    /// Where Apple's MDM manages it.
    pub udid: Option<String>,
}

const FACTS: Sql = read_sql!(
    [d(id, facts, model, os_version, serial, udid)],
    rows(bucket: bigint, id: text),
    "JOIN device d ON d.bucket = r.bucket AND d.id = r.id WHERE ($2 < 0 OR d.bucket = $2)"
);

/// The stored facts of devices that report new ones.
pub async fn facts(conn: &mut Conn, devices: &[Id]) -> Result<Vec<FactsRow>> {
    FACTS.read(conn, parameters![keys_json(devices), -1_i64]).await
}

/// Facts to be stored.
#[derive(Clone, Debug, Serialize)]
pub struct FactsChange {
    pub bucket: i64,
    pub id: Id,
    pub facts: String,
    pub facts_hash: String,
    pub model: String,
    pub os_version: String,
    pub serial: Option<String>,
}

const PUT_FACTS: Sql = rows_sql!(
    "UPDATE device AS d SET facts = r.facts, facts_hash = r.facts_hash, facts_at_ms = $2, model = r.model, os_version = r.os_version, \
       serial = r.serial FROM ",
    rows(bucket: bigint, id: text, facts: text, facts_hash: text, model: text, os_version: text, serial: text),
    "WHERE ($3 < 0 OR d.bucket = $3) AND d.bucket = r.bucket AND d.id = r.id"
);

/// Stores facts that differ from the stored ones.
pub async fn put_facts(conn: &mut Conn, changes: &[FactsChange], now_ms: i64) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query(PUT_FACTS.on(conn.dialect())).bind(rows_json(changes)).bind(now_ms).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

/// A contact as history shows it.
#[derive(Clone, Debug, FromRow, Serialize, utoipa::ToSchema)]
pub struct ContactRow {
    pub id: Id,
    pub cause: String,
    pub at_ms: i64,
    /// How long after the nudge that called it.
    pub after_nudge_ms: Option<i64>,
    pub results: i64,
    pub events: i64,
    /// Tasks that it was given for the first time.
    pub tasks: i64,
    /// The document version that it was given.
    pub policy: Option<String>,
}

/// The contacts of a device that carried something, newest first.
pub async fn history(conn: &mut Conn, device: Id, before: Option<Id>, limit: i64) -> Result<Vec<ContactRow>> {
    let before = before.map_or_else(|| "~".to_owned(), |id| id.to_string());
    Ok(sqlx::query_as(
        "SELECT id, cause, at_ms, after_nudge_ms, results, events, tasks, policy FROM contact WHERE device_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
    )
    .bind(device)
    .bind(before)
    .bind(limit)
    .fetch_all(conn.raw())
    .await?)
}
