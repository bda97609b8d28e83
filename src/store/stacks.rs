//! Label sets, stacks, and the channels that follow them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx_macros::FromRow;

use super::batch::{ids_sql, parameters, read_sql, rows_sql};
use super::{Conn, Dialect, Sql, keys_json, rows_json};
use crate::error::Result;
use crate::model::Id;

/// A label set as stored.
#[derive(Clone, Debug, FromRow)]
pub struct SetRow {
    pub id: String,
    /// JSON list of label ids, sorted.
    pub labels: String,
    pub stack_id: String,
    pub generation: i64,
    /// 0 while none of its channels is to be moved; each reason to move some adds one.
    pub moving: i64,
}

#[derive(Serialize)]
struct Name<'a> {
    id: &'a str,
}

fn names(ids: &[String]) -> String {
    rows_json(&ids.iter().map(|id| Name { id }).collect::<Vec<_>>())
}

const SETS: Sql = rows_sql!(
    "SELECT s.id, s.labels, s.stack_id, s.generation, s.moving FROM ",
    rows(id: text),
    "JOIN label_set s ON s.id = r.id ORDER BY s.id"
);

/// Sets by id; those that do not exist are left out.
pub async fn sets_of(conn: &mut Conn, ids: &[String]) -> Result<Vec<SetRow>> {
    Ok(sqlx::query_as(SETS.on(conn.dialect())).bind(names(ids)).fetch_all(conn.raw()).await?)
}

const SHARED: &str = "SELECT s.id, s.labels, s.stack_id, s.generation, s.moving FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int, id text) WHERE _row IS NULL) AS r \
     JOIN label_set s ON s.id = r.id ORDER BY s.id FOR SHARE OF s";

/// The same, and nobody points them elsewhere until this transaction ends: whoever moves a set's channels afterwards sees those that
/// were put into it here. SQLite's writer is alone anyway.
pub async fn sets_held(conn: &mut Conn, ids: &[String]) -> Result<Vec<SetRow>> {
    match conn.dialect() {
        Dialect::Sqlite => sets_of(conn, ids).await,
        Dialect::Postgres => Ok(sqlx::query_as(SHARED).bind(names(ids)).fetch_all(conn.raw()).await?),
    }
}

/// Every label set: as many as there are different combinations of labels on devices.
pub async fn sets(conn: &mut Conn) -> Result<Vec<SetRow>> {
    Ok(sqlx::query_as("SELECT id, labels, stack_id, generation, moving FROM label_set ORDER BY id").fetch_all(conn.raw()).await?)
}

pub async fn insert_set(conn: &mut Conn, set: &SetRow, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO label_set (id, labels, stack_id, generation, moving, created_at_ms) VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&set.id)
    .bind(&set.labels)
    .bind(&set.stack_id)
    .bind(set.generation)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Points a set to another stack: its channels are stale from now on.
pub async fn repoint(conn: &mut Conn, id: &str, stack_id: &str) -> Result<()> {
    sqlx::query("UPDATE label_set SET stack_id = $2, generation = generation + 1, moving = moving + 1 WHERE id = $1")
        .bind(id)
        .bind(stack_id)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// The sets whose channels are being moved.
pub async fn moving(conn: &mut Conn) -> Result<Vec<SetRow>> {
    Ok(sqlx::query_as("SELECT id, labels, stack_id, generation, moving FROM label_set WHERE moving > 0 ORDER BY id")
        .fetch_all(conn.raw())
        .await?)
}

/// Ends a move, unless there was one more reason to move since `set` was read.
pub async fn moved(conn: &mut Conn, set: &SetRow) -> Result<()> {
    sqlx::query("UPDATE label_set SET moving = 0 WHERE id = $1 AND generation = $2 AND moving = $3")
        .bind(&set.id)
        .bind(set.generation)
        .bind(set.moving)
        .execute(conn.raw())
        .await?;
    Ok(())
}

const UNSETTLE: Sql = rows_sql!(
    "UPDATE channel AS c SET generation = -1 FROM ",
    rows(bucket: bigint, id: text),
    "WHERE c.bucket = r.bucket AND c.device_id = r.id"
);

const MOVE_SETS: Sql = rows_sql!(
    "UPDATE label_set SET moving = moving + 1 WHERE id IN (SELECT c.label_set_id FROM ",
    rows(bucket: bigint, id: text),
    "JOIN channel c ON c.bucket = r.bucket AND c.device_id = r.id)"
);

/// Leaves the channels of these devices to the mover, or to their own next contact: their labels have changed.
pub async fn unsettle(conn: &mut Conn, devices: &[Id]) -> Result<()> {
    let dialect = conn.dialect();
    lock_of_devices(conn, devices).await?;
    sqlx::query(UNSETTLE.on(dialect)).bind(keys_json(devices)).execute(conn.raw()).await?;
    sqlx::query(MOVE_SETS.on(dialect)).bind(keys_json(devices)).execute(conn.raw()).await?;
    Ok(())
}

/// How many channels a set has, counted no further than `most`.
pub async fn size(conn: &mut Conn, id: &str, most: i64) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM (SELECT 1 AS one FROM channel WHERE label_set_id = $1 LIMIT $2) AS counted")
        .bind(id)
        .bind(most)
        .fetch_one(conn.raw())
        .await?)
}

/// A stack as stored; immutable.
#[derive(Clone, Debug, FromRow)]
pub struct StackRow {
    pub id: String,
    /// JSON list of {policy, name, version, rank}, strongest first.
    pub items: String,
    pub document: String,
    pub version: String,
    /// JSON list of the variables that the document references.
    pub variables: String,
    /// The same for Apple's MDM channels: `{"device": {"document", "version", "variables"}, "users": {...}}`.
    pub apple: String,
}

pub async fn stack(conn: &mut Conn, id: &str) -> Result<Option<StackRow>> {
    Ok(sqlx::query_as("SELECT id, items, document, version, variables, apple FROM stack WHERE id = $1")
        .bind(id)
        .fetch_optional(conn.raw())
        .await?)
}

/// What a stack is made of.
#[derive(Clone, Debug, FromRow)]
pub struct StackItems {
    pub id: String,
    /// As in [`StackRow::items`].
    pub items: String,
}

/// What every stack is made of: for reports, not for contacts.
pub async fn stacks(conn: &mut Conn) -> Result<Vec<StackItems>> {
    Ok(sqlx::query_as("SELECT id, items FROM stack ORDER BY id").fetch_all(conn.raw()).await?)
}

pub async fn insert_stack(conn: &mut Conn, stack: &StackRow, now_ms: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO stack (id, items, document, version, variables, apple, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&stack.id)
    .bind(&stack.items)
    .bind(&stack.document)
    .bind(&stack.version)
    .bind(&stack.variables)
    .bind(&stack.apple)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// A channel with the values that documents may reference.
#[derive(Clone, Debug, Deserialize, FromRow)]
pub struct Follower {
    pub id: Id,
    pub device_id: Id,
    /// `agent` or `mdm`.
    pub kind: String,
    /// '' but for a user's channel of an Apple device.
    pub subject: String,
    pub platform: String,
    pub label_set_id: String,
    pub generation: i64,
    pub stack_id: String,
    pub desired: Option<String>,
    pub hold: Option<String>,
    /// As in [`Settled::held`].
    pub held: String,
    pub applied: Option<String>,
    pub last_serving_ms: Option<i64>,
    pub serial: Option<String>,
    pub model: String,
    pub os_version: String,
    pub user_id: Option<Id>,
    pub email: Option<String>,
    pub name: Option<String>,
    pub attributes: Option<String>,
    /// By the name that a document gives it: the enrollment token that the device's own is derived from. Filled in by who resolves.
    #[sqlx(skip)]
    #[serde(skip)]
    pub tokens: BTreeMap<String, Id>,
}

macro_rules! followers {
    ($from:literal) => {
        read_sql!(
            [
                c(
                    id, device_id, kind, subject, platform, label_set_id, generation, stack_id, desired, hold, held, applied, last_serving_ms
                ),
                d(serial, model, os_version, user_id), u(email, name, attributes)
            ],
            rows(bucket: bigint, id: text),
            $from,
            "ORDER BY c.bucket, c.id"
        )
    };
}

const BY_DEVICE: Sql = followers!(
    "JOIN channel c ON c.bucket = r.bucket AND c.device_id = r.id JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id \
     LEFT JOIN users u ON u.id = d.user_id"
);
const BY_CHANNEL: Sql = followers!(
    "JOIN channel c ON c.bucket = r.bucket AND c.id = r.id JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id \
     LEFT JOIN users u ON u.id = d.user_id"
);

// In the order of their keys, as everybody locks them.
const LOCK: &str = "SELECT COUNT(*) FROM (SELECT c.id FROM (SELECT * FROM json_to_recordset($1::json) AS r(_row int, bucket bigint, id text) WHERE _row IS NULL) AS r \
     JOIN channel c ON c.bucket = r.bucket AND c.device_id = r.id ORDER BY c.bucket, c.id FOR UPDATE OF c) AS locked";

/// Locks the channels of devices, before their labels are read: of two that change the labels of one device at once, the second then
/// sees what the first did. SQLite's writer is alone anyway.
pub async fn lock_of_devices(conn: &mut Conn, devices: &[Id]) -> Result<()> {
    if conn.dialect() == Dialect::Postgres {
        sqlx::query(LOCK).bind(keys_json(devices)).execute(conn.raw()).await?;
    }
    Ok(())
}

/// The channels of devices.
pub async fn of_devices(conn: &mut Conn, devices: &[Id]) -> Result<Vec<Follower>> {
    BY_DEVICE.read(conn, parameters![keys_json(devices)]).await
}

/// Channels by id.
pub async fn of_channels(conn: &mut Conn, channels: &[Id]) -> Result<Vec<Follower>> {
    BY_CHANNEL.read(conn, parameters![keys_json(channels)]).await
}

// In the order of the index, or PostgreSQL gathers all that are stale for each few.
const STALE: Sql =
    ids_sql!("SELECT id FROM channel WHERE label_set_id = $1 AND generation < $2 ORDER BY label_set_id, generation LIMIT $3");

/// Up to `limit` stale channels of a set. They are locked by the caller before they are changed.
pub async fn stale(conn: &mut Conn, set: &SetRow, limit: i64) -> Result<Vec<Id>> {
    STALE.read_column(conn, parameters![&set.id, set.generation, limit]).await
}

/// Where a channel stands after it was settled.
#[derive(Clone, Debug, Serialize)]
pub struct Settled {
    pub bucket: i64,
    pub id: Id,
    pub label_set_id: String,
    pub generation: i64,
    pub stack_id: String,
    pub desired: Option<String>,
    pub hold: Option<String>,
    /// The ids of the policies of its stack that it is not given for now, between spaces; '' where it is given all.
    pub held: String,
    /// 1 where `desired` is another than before.
    pub moved: i64,
}

const SETTLE: Sql = rows_sql!(
    "UPDATE channel AS c SET label_set_id = r.label_set_id, generation = r.generation, stack_id = r.stack_id, desired = r.desired, hold = r.hold, held = r.held, \
       desired_at_ms = CASE WHEN r.moved = 1 THEN $2 ELSE c.desired_at_ms END FROM ",
    rows(bucket: bigint, id: text, label_set_id: text, generation: bigint, stack_id: text, desired: text, hold: text, held: text, moved: bigint),
    "WHERE ($3 < 0 OR c.bucket = $3) AND c.bucket = r.bucket AND c.id = r.id"
);

/// Writes where channels stand now.
pub async fn settle(conn: &mut Conn, settled: &[Settled], now_ms: i64) -> Result<()> {
    if settled.is_empty() {
        return Ok(());
    }
    sqlx::query(SETTLE.on(conn.dialect())).bind(rows_json(settled)).bind(now_ms).bind(-1_i64).execute(conn.raw()).await?;
    Ok(())
}

/// How many channels of a stack stand how.
#[derive(Clone, Debug, FromRow)]
pub struct Standing {
    pub stack_id: String,
    /// As in [`Settled::held`].
    pub held: String,
    /// `applied`, `failed` or `pending`; `none` where nothing is desired.
    state: String,
    pub n: i64,
}

impl Standing {
    /// How these channels stand to a policy of their stack: `held` where it is held for them; `None` where they are to have nothing.
    pub fn to(&self, policy: Id) -> Option<&str> {
        if is_held(&self.held, policy) {
            return Some("held");
        }
        Some(self.state.as_str()).filter(|state| *state != "none")
    }
}

/// True where this policy is among those held.
pub fn is_held(held: &str, policy: Id) -> bool {
    !held.is_empty() && held.split(' ').any(|id| id == policy.to_string())
}

macro_rules! standings {
    ($where:literal) => {
        concat!(
            "SELECT stack_id, held, state, COUNT(*) AS n FROM (SELECT stack_id, held, CASE WHEN desired IS NULL THEN 'none' \
               WHEN reported = desired AND details IS NOT NULL THEN 'failed' WHEN applied = desired THEN 'applied' ELSE 'pending' END AS state \
             FROM channel WHERE denied IS NULL",
            $where,
            ") AS s GROUP BY stack_id, held, state"
        )
    };
}

/// Counts the channels of a stack.
pub async fn standings(conn: &mut Conn, stack_id: &str) -> Result<Vec<Standing>> {
    Ok(sqlx::query_as(standings!(" AND stack_id = $1")).bind(stack_id).fetch_all(conn.raw()).await?)
}

/// Counts the channels of every stack.
pub async fn all_standings(conn: &mut Conn) -> Result<Vec<Standing>> {
    Ok(sqlx::query_as(standings!("")).fetch_all(conn.raw()).await?)
}

/// A place in the order in which channels applied their document.
#[derive(Clone, Debug, FromRow)]
pub struct AppliedAt {
    /// From 1.
    pub place: i64,
    pub at_ms: i64,
}

const APPLIED_AT: Sql = rows_sql!(
    "SELECT place, at_ms FROM (SELECT c.applied_at_ms AS at_ms, ROW_NUMBER() OVER (ORDER BY c.applied_at_ms) AS place FROM ",
    rows(id: text),
    "JOIN channel c ON c.stack_id = r.id WHERE c.applied = c.desired AND c.denied IS NULL AND c.applied_at_ms IS NOT NULL \
       AND (c.held = '' OR c.held NOT LIKE '%' || $5 || '%') \
       AND (c.details IS NULL OR c.reported IS NULL OR c.reported <> c.desired)) AS applied WHERE place IN ($2, $3, $4)"
);

/// When so many channels (three numbers from 1) of these stacks had applied a policy of theirs; places that none has reached are left out.
pub async fn applied_at(conn: &mut Conn, stack_ids: &[String], policy: Id, places: [i64; 3]) -> Result<Vec<AppliedAt>> {
    Ok(sqlx::query_as(APPLIED_AT.on(conn.dialect()))
        .bind(names(stack_ids))
        .bind(places[0])
        .bind(places[1])
        .bind(places[2])
        .bind(policy)
        .fetch_all(conn.raw())
        .await?)
}
