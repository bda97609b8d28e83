//! The ways in for a newcomer whose token and user are good.

use serde_json::json;

use super::{
    Activation, After, EXHAUSTED, HARDWARE, KNOCKING, Newcomer, No, PARKED, READMITTED, UNAUTHORIZED, Verdict, Visitor, is_token_of,
    parked_key_of, push_of,
};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::schedule::{self, PERIOD_S};
use crate::model::token::Secret;
use crate::model::{Denial, Id};
use crate::ops::devices as device_ops;
use crate::store::channels::{self, NewChannel};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};
use crate::store::users::{self, UserRow};
use crate::store::{Conn, labels, tokens};

const CONFLICT: No = No("device_conflict", "this hardware is enrolled otherwise; an operator has to admit it");

/// How a device comes to its first channel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// Nobody knew it.
    New,
    /// An operator announced it.
    Announced,
    /// It was parked and an operator admitted it.
    Approved,
}

/// Hardware that a device has already knocks again.
pub(super) async fn known(conn: &mut Conn, moment: &mut Moment, visitor: Visitor<'_>, known: Id, after: &mut After) -> Result<Verdict> {
    let Some(device) = devices::get(conn, known).await? else {
        devices::drop_key(conn, HARDWARE, &visitor.key, known).await?;
        return unknown(conn, moment, visitor, after).await;
    };
    let denial = device.denied.as_deref().and_then(Denial::named);
    if denial.is_some_and(Denial::bars_hardware) {
        return Ok(Err(UNAUTHORIZED));
    }
    let same_user = device.user_id == Some(visitor.user.id);
    let Some(channel) = channels::credentials(conn, known).await? else {
        return match same_user {
            true => first(conn, moment, visitor, device, First::Approved, after).await,
            false => park(conn, moment, &visitor).await,
        };
    };
    let token = visitor.token.as_ref();
    let same_token = token.is_some_and(|token| channel.enrollment_token_id == Some(token.id) || token.device_id == Some(known));
    if !same_user || !same_token {
        return park(conn, moment, &visitor).await;
    }
    let its_key = known.to_string();
    if visitor.rules.approve_reactivation && devices::by_key(conn, READMITTED, &its_key).await? != Some(known) {
        return wait(conn, moment, &visitor, &device).await;
    }
    if !counts(&device) && is_full(conn, &visitor).await? {
        return Ok(Err(FULL));
    }
    if visitor.rules.approve_reactivation {
        devices::drop_key(conn, READMITTED, &its_key, known).await?;
    }
    let secret = Secret::device_token(known, &moment.secret());
    let renewed = new_channel(visitor.newcomer, known, channel.id, &secret, channel.enrollment_token_id);
    channels::reactivate(conn, &renewed, moment.now_ms).await?;
    describe(conn, moment, visitor.newcomer, device, &visitor.user, "device.reactivated", after).await?;
    after.again.push(renewed);
    Ok(Ok(admitted(moment, known, channel.id, secret)))
}

/// Hardware that no device has: an announced device, or a new one.
pub(super) async fn unknown(conn: &mut Conn, moment: &mut Moment, visitor: Visitor<'_>, after: &mut After) -> Result<Verdict> {
    let Visitor { newcomer, token, user, .. } = &visitor;
    let bound = token.as_ref().and_then(|token| token.device_id);
    let serial = newcomer.request.device.serial.as_deref();
    let device = match (bound, serial) {
        (Some(id), _) => devices::get(conn, id).await?,
        (None, Some(serial)) => match devices::announced(conn, user.id, serial).await? {
            Some(id) => devices::get(conn, id).await?,
            None => None,
        },
        (None, None) => None,
    };
    if let Some(device) = device {
        if device.denied.is_some() {
            return Ok(Err(UNAUTHORIZED));
        }
        // The device has an agent on other hardware, or has changed hands: an operator decides.
        // A token of the device itself also says whose a device without a user becomes.
        let is_theirs = device.user_id == Some(user.id) || (bound.is_some() && device.user_id.is_none());
        if !is_theirs || device.state == "pending_approval" || channels::credentials(conn, device.id).await?.is_some() {
            return park(conn, moment, &visitor).await;
        }
        return first(conn, moment, visitor, device, First::Announced, after).await;
    }
    // A token for one serial number: a phone that cannot tell its own gets it, one that tells another is not the one.
    let wanted = token.as_ref().and_then(|token| token.serial.as_deref());
    if let (Some(wanted), Some(told)) = (wanted, serial)
        && !wanted.trim().eq_ignore_ascii_case(told.trim())
    {
        return park(conn, moment, &visitor).await;
    }
    let mut device = new_device(newcomer, moment.id(), user, moment.now_ms);
    device.serial = device.serial.or_else(|| wanted.map(str::to_owned));
    first(conn, moment, visitor, device, First::New, after).await
}

const FULL: No = No("device_limit", "this user has as many devices as allowed; retire one first");

/// True where the device counts against its user's limit.
fn counts(device: &DeviceRow) -> bool {
    matches!(device.state.as_str(), "active" | "idle" | "silent")
}

async fn is_full(conn: &mut Conn, visitor: &Visitor<'_>) -> Result<bool> {
    let limit = visitor.user.device_limit.unwrap_or(visitor.rules.devices_per_user);
    Ok(limit > 0 && users::devices(conn, visitor.user.id).await? >= limit)
}

/// A device's first channel.
async fn first(
    conn: &mut Conn,
    moment: &mut Moment,
    visitor: Visitor<'_>,
    device: DeviceRow,
    how: First,
    after: &mut After,
) -> Result<Verdict> {
    let id = device.id;
    if (how == First::New || !counts(&device)) && is_full(conn, &visitor).await? {
        return Ok(Err(FULL));
    }
    let mut counted = false;
    if let Some(token) = &visitor.token {
        counted = tokens::take_use(conn, token.id, moment.now_ms).await?;
        // What an operator has admitted comes in by the token it was parked with, used up or not.
        let passes = how == First::Approved && is_token_of(conn, token, Some(id)).await?;
        if !counted && !passes {
            return Ok(Err(EXHAUSTED));
        }
    }
    if how != First::Approved
        && let Some(owner) = devices::claim_key(conn, HARDWARE, &visitor.key, id).await?
    {
        // Another process admitted the same hardware in this instant, by another token.
        if let Some(token) = visitor.token.as_ref().filter(|_| counted) {
            tokens::give_back_use(conn, token.id).await?;
        }
        return Box::pin(known(conn, moment, visitor, owner, after)).await;
    }
    if how == First::New {
        devices::insert(conn, &device).await?;
    }
    let newcomer = visitor.newcomer;
    let channel_id = moment.id_beside(id);
    let secret = Secret::device_token(id, &moment.secret());
    let channel = new_channel(newcomer, id, channel_id, &secret, visitor.token.as_ref().map(|token| token.id));
    channels::insert(conn, &channel, moment.now_ms).await?;
    if let Some(token) = &visitor.token {
        tokens::note_use(conn, token.id, id, &newcomer.remote, moment.now_ms).await?;
        let label_ids: Vec<Id> = serde_json::from_str(&token.labels).unwrap_or_default();
        labels::add_members(conn, &label_ids, &[id], moment.now_ms).await?;
    }
    match how {
        First::New => come_in(newcomer, &device, &visitor.user, "device.activated", after),
        _ => describe(conn, moment, newcomer, device, &visitor.user, "device.activated", after).await?,
    }
    Ok(Ok(admitted(moment, id, channel_id, secret)))
}

/// Keeps a newcomer that cannot be told from an intruder until an operator decides: one device for each hardware and user, and no use
/// of the token.
pub(super) async fn park(conn: &mut Conn, moment: &mut Moment, visitor: &Visitor<'_>) -> Result<Verdict> {
    let Visitor { newcomer, key, token, user, .. } = visitor;
    let id = moment.id();
    let parked = devices::claim_key(conn, PARKED, &parked_key_of(key, user.id), id).await?;
    if let Some(parked) = parked {
        let row = devices::get(conn, parked).await?;
        if row.is_some_and(|row| row.denied.is_some()) {
            return Ok(Err(UNAUTHORIZED));
        }
    } else {
        let mut device = new_device(newcomer, id, user, moment.now_ms);
        device.state = "pending_approval".into();
        devices::insert(conn, &device).await?;
        device_ops::reindex(conn, &device, Some(user)).await?;
        let data = json!({"user": user.email, "serial": device.serial, "model": device.model, "remote": newcomer.remote});
        feed::append(conn, moment, &[Entry { kind: "device.parked", actor: None, device_id: Some(id), data }]).await?;
    }
    if let Some(token) = token {
        // Remembered, so that an admitted newcomer comes in by it.
        tokens::note_use(conn, token.id, parked.unwrap_or(id), &newcomer.remote, moment.now_ms).await?;
    }
    Ok(Err(CONFLICT))
}

/// Has a device wait, which its app wants to activate anew, until an operator decides. The token that its app has goes on meanwhile.
async fn wait(conn: &mut Conn, moment: &mut Moment, visitor: &Visitor<'_>, device: &DeviceRow) -> Result<Verdict> {
    let id = device.id;
    let is_news = devices::claim_key(conn, KNOCKING, &id.to_string(), id).await?.is_none();
    // What the system's own client manages is managed all the same.
    let is_moved = device.udid.is_none() && devices::set_state(conn, id, "pending_approval", moment.now_ms).await?;
    if is_news || is_moved {
        let data = json!({"user": visitor.user.email, "serial": device.serial, "model": device.model, "remote": visitor.newcomer.remote});
        feed::append(conn, moment, &[Entry { kind: "device.parked", actor: None, device_id: Some(id), data }]).await?;
    }
    Ok(Err(CONFLICT))
}

fn admitted(moment: &Moment, device_id: Id, channel_id: Id, device_token: Secret) -> Activation {
    Activation::Admitted { device_id, device_token, next_sync_in_s: next_sync_in_s(moment, channel_id), renewed: false }
}

/// Seconds to the channel's own point.
pub(super) fn next_sync_in_s(moment: &Moment, channel_id: Id) -> i64 {
    schedule::next_sync_in_s(moment.now_ms, schedule::phase_s(channel_id)).min(PERIOD_S)
}

/// A device that is there becomes active, and what it says of itself now.
pub(super) async fn describe(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    mut device: DeviceRow,
    user: &UserRow,
    kind: &'static str,
    after: &mut After,
) -> Result<()> {
    let info = &newcomer.request.device;
    device.hardware_id = Some(info.hardware_id.clone());
    device.app = info.app.clone();
    device.agent_version = info.agent_version.clone();
    device.user_id = device.user_id.or(Some(user.id));
    // What the system's own client says of the device, and how it is managed, weighs more than what an app says.
    if device.udid.is_none() {
        device.platform = info.platform.name().into();
        device.serial = info.serial.clone().or(device.serial);
        device.model = info.model.clone();
        device.os_version = info.os_version.clone();
        device.management_mode = info.management_mode.name().into();
    }
    devices::update(conn, &device).await?;
    devices::set_state(conn, device.id, "active", moment.now_ms).await?;
    come_in(newcomer, &device, user, kind, after);
    Ok(())
}

/// What every admission ends with: findable, settled on its desired document, told in the feed.
fn come_in(newcomer: &Newcomer, device: &DeviceRow, user: &UserRow, kind: &'static str, after: &mut After) {
    let id = device.id;
    after.came.push(id);
    after.terms.push((id, device_ops::terms_of(device, Some(user))));
    let data = json!({"user": user.email, "remote": newcomer.remote});
    after.entries.push(Entry { kind, actor: Some(format!("device:{id}")), device_id: Some(id), data });
}

fn new_device(newcomer: &Newcomer, id: Id, user: &UserRow, now_ms: i64) -> DeviceRow {
    let info = &newcomer.request.device;
    DeviceRow {
        id,
        user_id: Some(user.id),
        platform: info.platform.name().into(),
        app: info.app.clone(),
        hardware_id: Some(info.hardware_id.clone()),
        serial: info.serial.clone(),
        udid: None,
        model: info.model.clone(),
        os_version: info.os_version.clone(),
        agent_version: info.agent_version.clone(),
        management_mode: info.management_mode.name().into(),
        state: "active".into(),
        state_since_ms: now_ms,
        denied: None,
        denied_at_ms: None,
        quarantined_at_ms: None,
        facts: "{}".into(),
        facts_hash: String::new(),
        facts_at_ms: None,
        created_at_ms: now_ms,
    }
}

fn new_channel(newcomer: &Newcomer, device_id: Id, id: Id, secret: &Secret, enrollment_token_id: Option<Id>) -> NewChannel {
    NewChannel {
        id,
        device_id,
        platform: newcomer.request.device.platform.name().into(),
        token_hash: secret.hash(),
        enrollment_token_id,
        push: newcomer.request.push.as_ref().map(push_of),
    }
}
