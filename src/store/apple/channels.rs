//! The channels of Apple devices: one of the device, one of each of its users.

use super::declarative;
use crate::error::Result;
use crate::model::schedule::{self, Rhythm};
use crate::model::{Id, Lane};
use crate::store::Conn;
use crate::store::wakes::{self, Readdress};

/// What a device channel is made of.
#[derive(Clone, Debug)]
pub struct NewChannel {
    /// Its id where it is new; one that is there keeps its own.
    pub id: Id,
    pub device_id: Id,
    pub platform: String,
    /// Hash of the certificate that opens it.
    pub certificate_hash: String,
    /// Hash of the one before, which opens it until TokenUpdate.
    pub former_hash: Option<String>,
    pub enrollment_token_id: Option<Id>,
}

/// A nudge finds the channel here.
#[derive(Clone, Debug)]
pub struct Address {
    /// Lower-case hex.
    pub token: String,
    pub topic: String,
    /// PushMagic, sealed.
    pub magic: String,
}

/// The device channel of an enrollment that begins: it is there, and nothing is sent to it before TokenUpdate. Answers its id.
pub async fn reset(conn: &mut Conn, channel: &NewChannel, now_ms: i64) -> Result<Id> {
    let id: Id = sqlx::query_scalar(
        "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, token_hash, fresh_token_hash, enrollment_token_id, activation, \
           activated_at_ms, push_state, push_since_ms, skew_ms, label_set_id, generation, stack_id, desired_at_ms) \
         VALUES ($1, $2, $3, 'mdm', '', $4, $5, $6, $7, 1, $8, 'none', $8, 0, '', 0, '', $8) \
         ON CONFLICT (bucket, device_id, kind, subject) DO UPDATE SET platform = excluded.platform, token_hash = excluded.token_hash, \
           fresh_token_hash = excluded.fresh_token_hash, enrollment_token_id = excluded.enrollment_token_id, \
           activation = channel.activation + 1, activated_at_ms = excluded.activated_at_ms, push_provider = NULL, push_kind = NULL, \
           push_value = NULL, push_topic = NULL, push_secret = NULL, push_state = 'none', push_since_ms = excluded.push_since_ms, \
           desired = NULL, reported = NULL, applied = NULL, applied_at_ms = NULL, details = NULL RETURNING id",
    )
    .bind(channel.device_id.bucket())
    .bind(channel.id)
    .bind(channel.device_id)
    .bind(&channel.platform)
    .bind(&channel.certificate_hash)
    .bind(&channel.former_hash)
    .bind(channel.enrollment_token_id)
    .bind(now_ms)
    .fetch_one(conn.raw())
    .await?;
    rest(conn, id, now_ms).await?;
    declarative::forget(conn, channel.device_id).await?;
    Ok(id)
}

/// The wake of a channel that has nothing open and no address.
async fn rest(conn: &mut Conn, id: Id, now_ms: i64) -> Result<()> {
    let rhythm = Rhythm { phase_s: schedule::phase_s(id), lazy: false, gap_ms: 0, last_serving_ms: Some(now_ms) };
    sqlx::query(
        "INSERT INTO wakes (bucket, channel_id, sender, lane, due_at_ms, work_seq, open_work, urgent_open, step, attempt, fruitless, \
           changed_at_ms, unanswered, high_day, high_count, gap_ms, phase_s, lazy) \
         VALUES ($1, $2, '', $3, $4, 0, 0, 0, 0, 0, 0, $5, 0, 0, 0, 0, $6, 0) \
         ON CONFLICT (bucket, channel_id) DO UPDATE SET sender = '', lane = excluded.lane, due_at_ms = excluded.due_at_ms, next_due_ms = NULL, \
           lease_id = NULL, open_work = 0, urgent_open = 0, step = 0, attempt = 0, fruitless = 0, unanswered = 0",
    )
    .bind(id.bucket())
    .bind(id)
    .bind(Lane::Periodic.rank())
    .bind(rhythm.periodic_ms(now_ms))
    .bind(now_ms)
    .bind(rhythm.phase_s)
    .execute(conn.raw())
    .await?;
    Ok(())
}

/// The channel of a device (`subject` is empty) or of one of its users.
pub async fn channel_of(conn: &mut Conn, device: Id, subject: &str) -> Result<Option<Id>> {
    Ok(sqlx::query_scalar("SELECT id FROM channel WHERE bucket = $1 AND device_id = $2 AND kind = 'mdm' AND subject = $3")
        .bind(device.bucket())
        .bind(device)
        .bind(subject)
        .fetch_optional(conn.raw())
        .await?)
}

/// The channel of a user, made where it is not there; it is opened by the device's certificate. Answers its id.
pub async fn put_user(conn: &mut Conn, channel: &NewChannel, subject: &str, now_ms: i64) -> Result<Id> {
    if let Some(id) = channel_of(conn, channel.device_id, subject).await? {
        return Ok(id);
    }
    sqlx::query(
        "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, token_hash, fresh_token_hash, enrollment_token_id, activation, \
           activated_at_ms, push_state, push_since_ms, skew_ms, label_set_id, generation, stack_id, desired_at_ms) \
         VALUES ($1, $2, $3, 'mdm', $4, $5, $6, NULL, $7, 1, $8, 'none', $8, 0, '', 0, '', $8)",
    )
    .bind(channel.device_id.bucket())
    .bind(channel.id)
    .bind(channel.device_id)
    .bind(subject)
    .bind(&channel.platform)
    .bind(&channel.certificate_hash)
    .bind(channel.enrollment_token_id)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    rest(conn, channel.id, now_ms).await?;
    Ok(channel.id)
}

/// Says which certificates open the channels of a device: the pinned one, and the one before it until TokenUpdate.
pub async fn pin(conn: &mut Conn, device: Id, hash: &str, former: Option<&str>) -> Result<()> {
    sqlx::query("UPDATE channel SET token_hash = $3, fresh_token_hash = $4 WHERE bucket = $1 AND device_id = $2 AND kind = 'mdm'")
        .bind(device.bucket())
        .bind(device)
        .bind(hash)
        .bind(former)
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// A channel has told where it can be nudged; open work is due now.
pub async fn address(conn: &mut Conn, id: Id, address: &Address, now_ms: i64) -> Result<()> {
    sqlx::query(
        "UPDATE channel SET push_provider = 'apns', push_kind = 'token', push_value = $3, push_topic = $4, push_secret = $5, \
           push_since_ms = CASE WHEN push_state = 'active' AND push_value = $3 THEN push_since_ms ELSE $6 END, push_state = 'active', \
           last_contact_ms = $6 WHERE bucket = $1 AND id = $2",
    )
    .bind(id.bucket())
    .bind(id)
    .bind(&address.token)
    .bind(&address.topic)
    .bind(&address.magic)
    .bind(now_ms)
    .execute(conn.raw())
    .await?;
    let sender = format!("apns_mdm/{}", address.topic);
    wakes::readdress(conn, &[Readdress { bucket: id.bucket(), channel_id: id, sender }], now_ms).await
}

/// Notes whether a user waits until everything was said.
pub async fn awaits(conn: &mut Conn, id: Id, awaits: bool) -> Result<()> {
    sqlx::query("UPDATE channel SET awaiting_configuration = $3 WHERE bucket = $1 AND id = $2")
        .bind(id.bucket())
        .bind(id)
        .bind(i64::from(awaits))
        .execute(conn.raw())
        .await?;
    Ok(())
}

/// The user channels of a device are nudged no more until each tells where it is.
pub async fn end_users(conn: &mut Conn, device: Id) -> Result<()> {
    end(conn, device, "<>").await
}

/// All channels of a device are closed: no certificate opens them, nothing is sent.
pub async fn leave(conn: &mut Conn, device: Id) -> Result<()> {
    end(conn, device, "any").await?;
    sqlx::query("UPDATE channel SET token_hash = NULL, fresh_token_hash = NULL WHERE bucket = $1 AND device_id = $2 AND kind = 'mdm'")
        .bind(device.bucket())
        .bind(device)
        .execute(conn.raw())
        .await?;
    Ok(())
}

async fn end(conn: &mut Conn, device: Id, which: &str) -> Result<()> {
    for statement in [
        "UPDATE channel SET push_state = 'none', push_value = NULL, push_topic = NULL, push_secret = NULL \
         WHERE bucket = $1 AND device_id = $2 AND kind = 'mdm' AND ($3 = 'any' OR subject <> '')",
        "UPDATE wakes SET sender = '', open_work = 0, urgent_open = 0 WHERE bucket = $1 AND channel_id IN \
           (SELECT id FROM channel WHERE bucket = $1 AND device_id = $2 AND kind = 'mdm' AND ($3 = 'any' OR subject <> ''))",
    ] {
        sqlx::query(statement).bind(device.bucket()).bind(device).bind(which).execute(conn.raw()).await?;
    }
    Ok(())
}
