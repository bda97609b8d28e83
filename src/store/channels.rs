//! Channels and the wakes that each is born with.

use sqlx_macros::FromRow;

use super::Conn;
use super::wakes::{self, Readdress};
use crate::error::Result;
use crate::model::schedule::{self, Rhythm};
use crate::model::{Id, Lane};

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
    let rhythm = rhythm_of(channel, now_ms);
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
    .bind(rhythm.gap_ms)
    .bind(rhythm.phase_s)
    .bind(i64::from(rhythm.lazy))
    .execute(conn.raw())
    .await?;
    Ok(())
}

fn rhythm_of(channel: &NewChannel, now_ms: i64) -> Rhythm {
    let gap_ms = if channel.platform == "ios" { schedule::GAP_IOS_APP_MS } else { 0 };
    Rhythm { phase_s: schedule::phase_s(channel.id), lazy: channel.platform == "android", gap_ms, last_serving_ms: Some(now_ms) }
}

/// A fresh activation of a channel that is there: its old tokens end at once, its numbering begins anew. [`rest`] belongs to it.
pub async fn reactivate(conn: &mut Conn, channel: &NewChannel, now_ms: i64) -> Result<()> {
    let push = channel.push.as_ref();
    sqlx::query(
        "UPDATE channel SET token_hash = $3, fresh_token_hash = NULL, enrollment_token_id = $4, activation = activation + 1, activated_at_ms = $5, \
         push_provider = $6, push_kind = $7, push_value = $8, push_state = $9, push_since_ms = $5, reported = NULL, applied = NULL, \
         applied_at_ms = NULL, details = NULL WHERE bucket = $1 AND id = $2",
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
    Ok(())
}

/// Puts the wake of a channel that has activated again to rest until its next point: it syncs by itself, and nothing nudges it before
/// that sync. A nudge that is on its way belongs to the former activation; its answer finds no lease.
pub async fn rest(conn: &mut Conn, channel: &NewChannel, now_ms: i64) -> Result<()> {
    let rhythm = rhythm_of(channel, now_ms);
    sqlx::query(
        "UPDATE wakes SET sender = $3, lane = $4, due_at_ms = $5, next_due_ms = NULL, lease_id = NULL, open_work = 0, urgent_open = 0, \
         step = 0, attempt = 0, fruitless = 0, unanswered = 0 WHERE bucket = $1 AND channel_id = $2",
    )
    .bind(channel.id.bucket())
    .bind(channel.id)
    .bind(channel.push.as_ref().map_or("", |push| push.sender.as_str()))
    .bind(Lane::Periodic.rank())
    .bind(rhythm.periodic_ms(now_ms))
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// Keeps a fresh device token beside the one that was used now, which lives until the fresh one is used. The push address is the one
/// that came with it, if one did.
pub async fn renew(conn: &mut Conn, id: Id, used_hash: &str, fresh_hash: &str, push: Option<&Push>, now_ms: i64) -> Result<()> {
    sqlx::query("UPDATE channel SET token_hash = $3, fresh_token_hash = $4 WHERE bucket = $1 AND id = $2")
        .bind(id.bucket())
        .bind(id)
        .bind(used_hash)
        .bind(fresh_hash)
        .execute(conn.raw())
        .await?;
    let Some(push) = push else { return Ok(()) };
    let moved = sqlx::query(
        "UPDATE channel SET push_provider = $3, push_kind = $4, push_value = $5, push_state = 'active', push_since_ms = $6 \
         WHERE bucket = $1 AND id = $2 AND (COALESCE(push_value, '') <> $5 OR push_state IN ('none', 'quarantined'))",
    )
    .bind(id.bucket())
    .bind(id)
    .bind(&push.provider)
    .bind(&push.kind)
    .bind(&push.value)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    if moved.rows_affected() == 1 {
        let address = Readdress { bucket: id.bucket(), channel_id: id, sender: push.sender.clone() };
        wakes::readdress(conn, &[address], now_ms).await?;
    }
    Ok(())
}

/// Ends the agent channels of a device whose place another takes: no token opens them, no nudge is sent.
pub async fn end(conn: &mut Conn, device: Id) -> Result<()> {
    for statement in [
        "UPDATE channel SET token_hash = NULL, fresh_token_hash = NULL, push_state = 'none', push_value = NULL \
         WHERE bucket = $1 AND device_id = $2 AND kind = 'agent'",
        "UPDATE wakes SET sender = '', open_work = 0, urgent_open = 0 \
         WHERE bucket = $1 AND channel_id IN (SELECT id FROM channel WHERE bucket = $1 AND device_id = $2 AND kind = 'agent')",
    ] {
        sqlx::query(statement).bind(device.bucket()).bind(device).execute(conn.raw()).await?;
    }
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
    /// The document version it said to have.
    pub reported: Option<String>,
    /// The document version it proved to have.
    pub applied: Option<String>,
    /// Why the desired version is not delivered: `variable_missing:user.email`.
    pub hold: Option<String>,
    pub activation: i64,
    /// What it says of settings that it does not obey, as JSON text.
    #[serde(skip)]
    pub details: Option<String>,
}

/// The channels of a device, by id. They are sorted here: asked for them in that order, SQLite reads a whole bucket to spare itself sorting two.
pub async fn of_device(conn: &mut Conn, device: Id) -> Result<Vec<ChannelView>> {
    let mut channels: Vec<ChannelView> = sqlx::query_as(
        "SELECT id, kind, push_state, last_contact_ms, last_cause, desired, reported, applied, hold, activation, details FROM channel \
         WHERE bucket = $1 AND device_id = $2",
    )
    .bind(device.bucket())
    .bind(device)
    .fetch_all(conn.raw())
    .await?;
    channels.sort_by_key(|channel| channel.id);
    Ok(channels)
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

/// How many channels listen to an APNs topic of MDM other than `topic`.
pub async fn of_other_topics(conn: &mut Conn, topic: &str) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM channel WHERE push_provider = 'apns' AND subject = '' AND push_topic IS NOT NULL AND push_topic <> $1";
    Ok(sqlx::query_scalar(sql).bind(topic).fetch_one(conn.raw()).await?)
}

/// Devices whose app is called by APNs and has another bundle id; at most `most`.
pub async fn of_other_apps(conn: &mut Conn, app: &str, most: i64) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM (SELECT w.channel_id FROM wakes w JOIN channel c ON c.bucket = w.bucket AND c.id = w.channel_id \
                 JOIN device d ON d.bucket = c.bucket AND d.id = c.device_id WHERE w.sender = 'apns_app' AND d.app <> $1 LIMIT $2) AS others";
    Ok(sqlx::query_scalar(sql).bind(app).bind(most).fetch_one(conn.raw()).await?)
}
