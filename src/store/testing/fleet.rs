//! Whole fleets of reachable devices, made in a few statements.

use serde::Serialize;

use super::TOKEN_HASH;
use crate::clock::Clock;
use crate::model::Id;
use crate::model::schedule::{GAP_IOS_APP_MS, LAZY_MS, next_point_ms, phase_s};
use crate::store::batch::rows_sql;
use crate::store::{Class, Db, Sql, rows_json};

/// Rows of one statement.
const ROWS: usize = 1_000;

/// One device with an agent channel that FCM reaches by the channel's id.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    pub bucket: i64,
    pub id: Id,
    pub channel_id: Id,
    pub platform: &'static str,
    pub phase_s: i64,
    /// 1 on Android, whose agent keeps its own time.
    pub lazy: i64,
    pub gap_ms: i64,
    pub due_at_ms: i64,
}

const DEVICES: Sql = rows_sql!(
    "INSERT INTO device (bucket, id, platform, app, model, os_version, agent_version, management_mode, state, state_since_ms, facts, facts_hash, \
       created_at_ms) SELECT r.bucket, r.id, r.platform, 'org.example.agent', 'm', '1', '1', 'device_owner', 'active', $2, '{}', '', $2 FROM ",
    rows(bucket: bigint, id: text, platform: text),
    ""
);
const CHANNELS: Sql = rows_sql!(
    "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, token_hash, activation, activated_at_ms, push_provider, push_kind, \
       push_value, push_state, push_since_ms, last_serving_ms, skew_ms, label_set_id, generation, stack_id, desired_at_ms) \
     SELECT r.bucket, r.channel_id, r.id, 'agent', '', r.platform, $3, 1, $2, 'fcm', 'token', r.channel_id, 'active', $2, $2, 0, '', 0, '', $2 FROM ",
    rows(bucket: bigint, id: text, channel_id: text, platform: text),
    ""
);
const WAKES: Sql = rows_sql!(
    "INSERT INTO wakes (bucket, channel_id, sender, lane, due_at_ms, work_seq, open_work, urgent_open, step, attempt, fruitless, \
       changed_at_ms, unanswered, high_day, high_count, gap_ms, phase_s, lazy) \
     SELECT r.bucket, r.channel_id, 'fcm', 4, r.due_at_ms, 0, 0, 0, 0, 0, 0, $2, 0, 0, 0, r.gap_ms, r.phase_s, r.lazy FROM ",
    rows(bucket: bigint, channel_id: text, due_at_ms: bigint, gap_ms: bigint, phase_s: bigint, lazy: bigint),
    ""
);

/// Makes `android` Android devices and `ios` devices with our app, all seen just now and armed for their next points.
pub async fn fleet(db: &Db, clock: &Clock, android: usize, ios: usize) -> Vec<Member> {
    let mut moment = clock.moment();
    let now_ms = moment.now_ms;
    let mut members = Vec::with_capacity(android + ios);
    for n in 0..android + ios {
        let id = moment.id();
        let channel_id = moment.id_beside(id);
        let (platform, lazy, gap_ms) = if n < android { ("android", 1, 0) } else { ("ios", 0, GAP_IOS_APP_MS) };
        let phase_s = phase_s(channel_id);
        let due_at_ms = next_point_ms(now_ms, phase_s) + lazy * LAZY_MS;
        members.push(Member { bucket: id.bucket(), id, channel_id, platform, phase_s, lazy, gap_ms, due_at_ms });
    }
    for chunk in members.chunks(ROWS) {
        let json = rows_json(chunk);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let dialect = conn.dialect();
        for statement in [DEVICES, WAKES] {
            sqlx::query(statement.on(dialect)).bind(&json).bind(now_ms).execute(conn.raw()).await.unwrap();
        }
        sqlx::query(CHANNELS.on(dialect)).bind(&json).bind(now_ms).bind(TOKEN_HASH).execute(conn.raw()).await.unwrap();
        conn.commit().await.unwrap();
    }
    members
}

/// The numbers that a statement answers, one a row.
pub async fn numbers(db: &Db, text: &'static str) -> Vec<i64> {
    sqlx::query_scalar(text).fetch_all(db.read().await.unwrap().raw()).await.unwrap()
}

/// Chi-square of counts against an even spread.
pub fn chi_square(counts: &[u32]) -> f64 {
    let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum()
}
