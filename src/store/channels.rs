//! Channels and the wakes that each is born with.

use sqlx::FromRow;

use super::Conn;
use crate::error::Result;
use crate::model::Id;
use crate::model::schedule::{self, Rhythm};

/// What a channel is made of.
#[derive(Clone, Debug)]
pub struct NewChannel {
    pub id: Id,
    pub device_id: Id,
    pub platform: String,
    pub token_hash: String,
    pub enrollment_token_id: Option<Id>,
    pub push: Option<Push>,
}

/// A push address as stored.
#[derive(Clone, Debug)]
pub struct Push {
    pub provider: String,
    pub kind: String,
    pub value: String,
    pub sender: String,
}

/// Makes an agent channel with its wake, which lies in the periodic lane: the device syncs by itself right after its activation.
pub async fn insert(conn: &mut Conn, channel: &NewChannel, now_ms: i64) -> Result<()> {
    let push = channel.push.as_ref();
    sqlx::query(
        "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, token_hash, enrollment_token_id, activation, activated_at_ms, \
         push_provider, push_kind, push_value, push_state, push_since_ms, skew_ms, label_set_id, generation, stack_id, desired_at_ms) \
         VALUES ($1, $2, $3, 'agent', '', $4, $5, $6, 1, $7, $8, $9, $10, $11, $7, 0, '', 0, '', $7)",
    )
    .bind(channel.id.bucket())
    .bind(channel.id)
    .bind(channel.device_id)
    .bind(&channel.platform)
    .bind(&channel.token_hash)
    .bind(channel.enrollment_token_id)
    .bind(now_ms)
    .bind(push.map(|push| push.provider.clone()))
    .bind(push.map(|push| push.kind.clone()))
    .bind(push.map(|push| push.value.clone()))
    .bind(if push.is_some() { "active" } else { "none" })
    .execute(conn.raw())
    .await?;
    let phase_s = schedule::phase_s(channel.id);
    let lazy = channel.platform == "android";
    let gap_ms = if channel.platform == "ios" { schedule::GAP_IOS_APP_MS } else { 0 };
    let rhythm = Rhythm { phase_s, lazy, gap_ms, last_serving_ms: Some(now_ms) };
    sqlx::query(
        "INSERT INTO wakes (bucket, channel_id, sender, lane, due_at_ms, work_seq, open_work, urgent_open, step, attempt, fruitless, \
         changed_at_ms, unanswered, high_day, high_count, gap_ms, phase_s, lazy) \
         VALUES ($1, $2, $3, 4, $4, 0, 0, 0, 0, 0, 0, $5, 0, 0, 0, $6, $7, $8)",
    )
    .bind(channel.id.bucket())
    .bind(channel.id)
    .bind(push.map_or("", |push| push.sender.as_str()))
    .bind(rhythm.periodic_ms(now_ms))
    .bind(now_ms)
    .bind(gap_ms)
    .bind(phase_s)
    .bind(i64::from(lazy))
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// A fresh activation of a channel that is there: its old tokens end, its numbering begins anew.
pub async fn reactivate(conn: &mut Conn, channel: &NewChannel, now_ms: i64) -> Result<()> {
    let push = channel.push.as_ref();
    sqlx::query(
        "UPDATE channel SET token_hash = $3, fresh_token_hash = NULL, enrollment_token_id = $4, activation = activation + 1, activated_at_ms = $5, \
         push_provider = $6, push_kind = $7, push_value = $8, push_state = $9, push_since_ms = $5, reported = NULL, applied = NULL, details = NULL \
         WHERE bucket = $1 AND id = $2",
    )
    .bind(channel.id.bucket())
    .bind(channel.id)
    .bind(&channel.token_hash)
    .bind(channel.enrollment_token_id)
    .bind(now_ms)
    .bind(push.map(|push| push.provider.clone()))
    .bind(push.map(|push| push.kind.clone()))
    .bind(push.map(|push| push.value.clone()))
    .bind(if push.is_some() { "active" } else { "none" })
    .execute(conn.raw())
    .await?;
    sqlx::query("UPDATE wakes SET sender = $3, attempt = 0, unanswered = 0 WHERE bucket = $1 AND channel_id = $2")
        .bind(channel.id.bucket())
        .bind(channel.id)
        .bind(push.map_or("", |push| push.sender.as_str()))
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// Keeps a fresh device token beside the present one, which lives until the fresh one is used.
pub async fn put_fresh_token(conn: &mut Conn, id: Id, fresh_token_hash: &str) -> Result<()> {
    sqlx::query("UPDATE channel SET fresh_token_hash = $3 WHERE bucket = $1 AND id = $2")
        .bind(id.bucket())
        .bind(id)
        .bind(fresh_token_hash)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// A channel as the operator API shows it.
#[derive(Clone, Debug, FromRow, serde::Serialize, utoipa::ToSchema)]
pub struct ChannelView {
    pub id: Id,
    /// `agent` or `mdm`.
    pub kind: String,
    /// `none`, `active`, `quarantined` or `dead`.
    pub push_state: String,
    pub last_contact_ms: Option<i64>,
    pub last_cause: Option<String>,
    /// The document version it should have.
    pub desired: Option<String>,
    /// The document version it proved to have.
    pub applied: Option<String>,
    /// Why the desired version is not delivered: `variable_missing:user.email`.
    pub hold: Option<String>,
    pub activation: i64,
    /// What it says of settings that it does not obey, as JSON text.
    #[serde(skip)]
    pub details: Option<String>,
}

/// The channels of a device.
pub async fn of_device(conn: &mut Conn, device: Id) -> Result<Vec<ChannelView>> {
    Ok(sqlx::query_as(
        "SELECT id, kind, push_state, last_contact_ms, last_cause, desired, applied, hold, activation, details FROM channel \
         WHERE bucket = $1 AND device_id = $2 ORDER BY id",
    )
    .bind(device.bucket())
    .bind(device)
    .fetch_all(conn.raw())
    .await?)
}

/// What activation asks of an agent channel.
#[derive(Clone, Debug, FromRow)]
pub struct Credentials {
    pub id: Id,
    pub token_hash: Option<String>,
    pub fresh_token_hash: Option<String>,
    pub enrollment_token_id: Option<Id>,
}

/// The agent channel of a device, locked.
pub async fn credentials(conn: &mut Conn, device: Id) -> Result<Option<Credentials>> {
    let text = match conn.dialect() {
        super::Dialect::Sqlite => {
            "SELECT id, token_hash, fresh_token_hash, enrollment_token_id FROM channel WHERE bucket = $1 AND device_id = $2 AND kind = 'agent' AND subject = ''"
        }
        super::Dialect::Postgres => {
            "SELECT id, token_hash, fresh_token_hash, enrollment_token_id FROM channel WHERE bucket = $1 AND device_id = $2 AND kind = 'agent' AND subject = '' FOR UPDATE"
        }
    };
    Ok(sqlx::query_as(text).bind(device.bucket()).bind(device).fetch_optional(conn.raw()).await?)
}
