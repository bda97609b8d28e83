//! Silent activation: an enrollment token becomes a device token.

use serde_json::json;

use crate::clock::Moment;
use crate::error::Result;
use crate::model::schedule::{self, PERIOD_S};
use crate::model::token::{self, Secret, parse_device_token};
use crate::model::{Id, Lane};
use crate::ops::tasks::{self, EndCause};
use crate::ops::{devices as device_ops, settle};
use crate::protocol::agent::{ActivateRequest, PushAddress};
use crate::store::channels::{self, Credentials, NewChannel, Push};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};
use crate::store::tokens::{self, TokenRow};
use crate::store::users::{self, UserRow};
use crate::store::{Conn, labels};

/// What the settings say about admission.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Devices that a user may have unless the user's own limit says otherwise; 0 for any number.
    pub devices_per_user: i64,
    /// True where an operator admits every re-activation.
    pub approve_reactivation: bool,
}

/// Somebody at the door.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub request: ActivateRequest,
    /// The device token of an earlier activation, as it came.
    pub bearer: Option<Secret>,
    /// The peer's address, for the token's record.
    pub remote: String,
}

/// What became of it. A refusal is an outcome, not an error: its entry in the audit is committed.
#[derive(Clone, Debug)]
pub enum Activation {
    Admitted {
        device_id: Id,
        device_token: Secret,
        next_sync_in_s: i64,
        /// True where an earlier device token was the credential: 200, not 201.
        renewed: bool,
    },
    Refused {
        code: &'static str,
        detail: &'static str,
    },
}

/// Why somebody is not let in.
struct No(&'static str, &'static str);

/// The admitted credential: whose, and by which token.
struct Ticket {
    token: Option<TokenRow>,
    user: UserRow,
}

/// Admits or refuses. Checks go in the order of the protocol; a refusal uses nothing up.
pub async fn activate(conn: &mut Conn, moment: &mut Moment, newcomer: &Newcomer, rules: Rules) -> Result<Activation> {
    let outcome = decide(conn, moment, newcomer, rules).await?;
    let label = match &outcome {
        Ok(_) => "admitted",
        Err(No(code, _)) => code,
    };
    metrics::counter!("muster_activations_total", "outcome" => label).increment(1);
    match outcome {
        Ok(admitted) => Ok(admitted),
        Err(No(code, detail)) => {
            let device = &newcomer.request.device;
            let data = json!({"code": code, "email": newcomer.request.email, "serial": device.serial, "model": device.model, "remote": newcomer.remote});
            feed::append(conn, moment, &[Entry { kind: "activation.refused", actor: None, device_id: None, data }]).await?;
            Ok(Activation::Refused { code, detail })
        }
    }
}

async fn decide(conn: &mut Conn, moment: &mut Moment, newcomer: &Newcomer, rules: Rules) -> Result<std::result::Result<Activation, No>> {
    if let Some(bearer) = &newcomer.bearer {
        return renew(conn, moment, newcomer, bearer).await;
    }
    let key = hardware_key(newcomer);
    let ticket = match ticket(conn, moment, newcomer, &key).await? {
        Ok(ticket) => ticket,
        Err(no) => return Ok(Err(no)),
    };
    // The user's row first: the device limit is counted by one activation at a time.
    users::lock(conn, ticket.user.id).await?;
    match devices::by_key(conn, "hardware", &key).await? {
        Some(known) => return_of(conn, moment, newcomer, rules, ticket, known, &key).await,
        None => admit(conn, moment, newcomer, rules, ticket, &key).await,
    }
}

/// Checks token and user.
async fn ticket(conn: &mut Conn, moment: &Moment, newcomer: &Newcomer, key: &str) -> Result<std::result::Result<Ticket, No>> {
    let hash = newcomer.request.token.as_deref().map(token::hash).unwrap_or_default();
    let Some(token) = tokens::by_hash(conn, &hash).await? else {
        return Ok(Err(No("token_unknown", "the server does not know this enrollment token; ask an operator for one")));
    };
    if token.expires_at_ms.is_some_and(|expires| expires <= moment.now_ms) {
        return Ok(Err(No("token_expired", "this enrollment token has expired; ask an operator for a new one")));
    }
    if token.revoked_at_ms.is_some() {
        return Ok(Err(No("token_revoked", "this enrollment token was revoked; ask an operator for a new one")));
    }
    // A phone that this token admitted before may return without a further use.
    if token.max_uses.is_some_and(|most| token.uses >= most) && !admitted_before(conn, &token, key).await? {
        return Ok(Err(No("token_exhausted", "this enrollment token has no use left; ask an operator for a new one")));
    }
    let email = newcomer.request.email.as_deref().map(|email| email.trim().to_lowercase());
    let user = match (&email, token.user_id) {
        (Some(email), named) => users::by_email(conn, email).await?.filter(|user| named.is_none_or(|id| id == user.id)),
        (None, Some(id)) => users::get(conn, id).await?.filter(|user| user.state != "deleted"),
        (None, None) => None,
    };
    let Some(user) = user else {
        return Ok(Err(No("user_unknown", "no user has this e-mail address, or the token is another user's; ask an operator")));
    };
    if user.state != "enabled" {
        return Ok(Err(No("user_disabled", "this user is disabled; ask an operator")));
    }
    Ok(Ok(Ticket { token: Some(token), user }))
}

async fn admitted_before(conn: &mut Conn, token: &TokenRow, key: &str) -> Result<bool> {
    let Some(device) = devices::by_key(conn, "hardware", key).await? else { return Ok(false) };
    Ok(channels::credentials(conn, device).await?.is_some_and(|channel| channel.enrollment_token_id == Some(token.id)))
}

/// Known hardware knocks again.
async fn return_of(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    rules: Rules,
    ticket: Ticket,
    known: Id,
    key: &str,
) -> Result<std::result::Result<Activation, No>> {
    let Some(device) = devices::get(conn, known).await? else {
        devices::drop_key(conn, "hardware", key).await?;
        return admit(conn, moment, newcomer, rules, ticket, key).await;
    };
    if device.denied.is_some() {
        return Ok(Err(No("device_unauthorized", "this device may not activate; an operator can authorize it")));
    }
    let same_user = device.user_id == Some(ticket.user.id);
    let channel = channels::credentials(conn, known).await?;
    let Some(channel) = channel else {
        // Admitted by an operator after it was parked, or expected: its first activation.
        if same_user && device.state != "pending_approval" {
            return first(conn, moment, newcomer, rules, ticket, device, false).await;
        }
        return park(conn, moment, newcomer, &ticket, key).await;
    };
    let token = ticket.token.as_ref();
    let same_token = token.is_some_and(|token| channel.enrollment_token_id == Some(token.id) || token.device_id == Some(known));
    if !same_user || !same_token || rules.approve_reactivation {
        return park(conn, moment, newcomer, &ticket, key).await;
    }
    tasks::end_open(conn, moment, &[channel.id], EndCause::ReEnrolled).await?;
    let secret = Secret::device_token(known, &moment.secret());
    let renewed = new_channel(newcomer, &device, channel.id, &secret, channel.enrollment_token_id);
    channels::reactivate(conn, &renewed, moment.now_ms).await?;
    refresh_row(conn, newcomer, device).await?;
    come_in(conn, moment, known, &ticket.user, "device.reactivated").await?;
    Ok(Ok(admitted(moment, known, channel.id, secret, false)))
}

/// The first activation of hardware that nobody knows: an expected device, or a new one.
async fn admit(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    rules: Rules,
    ticket: Ticket,
    key: &str,
) -> Result<std::result::Result<Activation, No>> {
    let expected = expected(conn, newcomer, &ticket).await?;
    if let Some(device) = &expected
        && device.denied.is_some()
    {
        return Ok(Err(No("device_unauthorized", "this device may not activate; an operator can authorize it")));
    }
    let id = expected.as_ref().map_or_else(|| moment.id(), |device| device.id);
    let owner = devices::claim_key(conn, "hardware", key, id).await?;
    if owner != id {
        // Another process admitted the same hardware in this instant.
        return Box::pin(return_of(conn, moment, newcomer, rules, ticket, owner, key)).await;
    }
    let is_new = expected.is_none();
    let device = expected.unwrap_or_else(|| new_device(newcomer, id, &ticket.user, moment.now_ms));
    let outcome = first(conn, moment, newcomer, rules, ticket, device, is_new).await?;
    if outcome.is_err() {
        devices::drop_key(conn, "hardware", key).await?;
    }
    Ok(outcome)
}

/// The device that an operator announced: by the token's device, or by serial number.
async fn expected(conn: &mut Conn, newcomer: &Newcomer, ticket: &Ticket) -> Result<Option<DeviceRow>> {
    if let Some(id) = ticket.token.as_ref().and_then(|token| token.device_id) {
        return Ok(devices::get(conn, id).await?.filter(|device| device.user_id == Some(ticket.user.id)));
    }
    let Some(serial) = newcomer.request.device.serial.as_deref() else { return Ok(None) };
    let (found, _, _) = devices::resolve_many(conn, &[serial.to_owned()]).await?;
    let Some(id) = found.first() else { return Ok(None) };
    Ok(devices::get(conn, *id).await?.filter(|device| device.state == "expected" && device.user_id == Some(ticket.user.id)))
}

async fn first(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    rules: Rules,
    ticket: Ticket,
    device: DeviceRow,
    is_new: bool,
) -> Result<std::result::Result<Activation, No>> {
    let limit = ticket.user.device_limit.unwrap_or(rules.devices_per_user);
    let counted = !is_new && device.state == "expected";
    if limit > 0 && users::devices(conn, ticket.user.id).await? - i64::from(counted) >= limit {
        return Ok(Err(No("device_limit", "this user has as many devices as allowed; retire one first")));
    }
    let token = ticket.token.as_ref();
    if let Some(token) = token
        && !tokens::take_use(conn, token.id, moment.now_ms).await?
    {
        return Ok(Err(No("token_exhausted", "this enrollment token has no use left; ask an operator for a new one")));
    }
    let id = device.id;
    if is_new {
        devices::insert(conn, &device).await?;
    }
    let channel_id = moment.id_beside(id);
    let secret = Secret::device_token(id, &moment.secret());
    let channel = new_channel(newcomer, &device, channel_id, &secret, token.map(|token| token.id));
    channels::insert(conn, &channel, moment.now_ms).await?;
    refresh_row(conn, newcomer, device).await?;
    if let Some(token) = token {
        tokens::note_use(conn, token.id, id, &newcomer.remote, moment.now_ms).await?;
        let label_ids: Vec<Id> = serde_json::from_str(&token.labels).unwrap_or_default();
        labels::add_members(conn, &label_ids, &[id], moment.now_ms).await?;
    }
    come_in(conn, moment, id, &ticket.user, "device.activated").await?;
    Ok(Ok(admitted(moment, id, channel_id, secret, false)))
}

/// An earlier device token is the credential: a fresh one stands beside it until it is used.
async fn renew(conn: &mut Conn, moment: &mut Moment, newcomer: &Newcomer, bearer: &Secret) -> Result<std::result::Result<Activation, No>> {
    let unknown = No("token_unknown", "the server does not know this device token; activate with an enrollment token");
    let Some((device_id, hash)) = parse_device_token(bearer.reveal()) else { return Ok(Err(unknown)) };
    let (Some(device), Some(channel)) = (devices::get(conn, device_id).await?, channels::credentials(conn, device_id).await?) else {
        return Ok(Err(unknown));
    };
    let Credentials { token_hash, fresh_token_hash, .. } = &channel;
    if ![token_hash, fresh_token_hash].into_iter().flatten().any(|known| token::same(known, &hash)) {
        return Ok(Err(unknown));
    }
    let user = match device.user_id {
        Some(id) => users::get(conn, id).await?.filter(|user| user.state != "deleted"),
        None => None,
    };
    let Some(user) = user else {
        return Ok(Err(No("user_unknown", "this device's user is gone; ask an operator")));
    };
    if user.state != "enabled" {
        return Ok(Err(No("user_disabled", "this user is disabled; ask an operator")));
    }
    if device.denied.is_some() {
        return Ok(Err(No("device_unauthorized", "this device may not activate; an operator can authorize it")));
    }
    let secret = Secret::device_token(device_id, &moment.secret());
    channels::put_fresh_token(conn, channel.id, &secret.hash()).await?;
    refresh_row(conn, newcomer, device).await?;
    come_in(conn, moment, device_id, &user, "device.token_renewed").await?;
    Ok(Ok(admitted(moment, device_id, channel.id, secret, true)))
}

/// Keeps a newcomer that cannot be told from an intruder until an operator decides: one row for each hardware and user.
async fn park(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    ticket: &Ticket,
    key: &str,
) -> Result<std::result::Result<Activation, No>> {
    let id = moment.id();
    let parked_key = format!("{key}/{}", ticket.user.id);
    if devices::claim_key(conn, "parked", &parked_key, id).await? == id {
        let mut device = new_device(newcomer, id, &ticket.user, moment.now_ms);
        device.state = "pending_approval".into();
        devices::insert(conn, &device).await?;
        device_ops::reindex(conn, &device, Some(&ticket.user)).await?;
        let data = json!({"user": ticket.user.email, "serial": device.serial, "model": device.model});
        feed::append(conn, moment, &[Entry { kind: "device.parked", actor: None, device_id: Some(id), data }]).await?;
    }
    Ok(Err(No("device_conflict", "this hardware is enrolled otherwise; an operator has to admit it")))
}

fn admitted(moment: &Moment, device_id: Id, channel_id: Id, device_token: Secret, renewed: bool) -> Activation {
    let next_sync_in_s = schedule::next_sync_in_s(moment.now_ms, schedule::phase_s(channel_id)).min(PERIOD_S);
    Activation::Admitted { device_id, device_token, next_sync_in_s, renewed }
}

/// What every admission does at its end: active, findable, with its desired document, told in the feed.
async fn come_in(conn: &mut Conn, moment: &mut Moment, id: Id, user: &UserRow, kind: &'static str) -> Result<()> {
    devices::set_state(conn, id, "active", moment.now_ms).await?;
    if let Some(device) = devices::get(conn, id).await? {
        device_ops::reindex(conn, &device, Some(user)).await?;
    }
    settle::devices(conn, moment, &[id], Lane::Change).await?;
    let data = json!({"user": user.email});
    feed::append(conn, moment, &[Entry { kind, actor: None, device_id: Some(id), data }]).await
}

async fn refresh_row(conn: &mut Conn, newcomer: &Newcomer, mut device: DeviceRow) -> Result<()> {
    let info = &newcomer.request.device;
    device.hardware_id = Some(info.hardware_id.clone());
    device.platform = info.platform.name().into();
    device.app = info.app.clone();
    device.serial = info.serial.clone().or(device.serial);
    device.model = info.model.clone();
    device.os_version = info.os_version.clone();
    device.agent_version = info.agent_version.clone();
    device.management_mode = info.management_mode.name().into();
    devices::update(conn, &device).await
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

fn new_channel(newcomer: &Newcomer, device: &DeviceRow, id: Id, secret: &Secret, enrollment_token_id: Option<Id>) -> NewChannel {
    NewChannel {
        id,
        device_id: device.id,
        platform: newcomer.request.device.platform.name().into(),
        token_hash: secret.hash(),
        enrollment_token_id,
        push: newcomer.request.push.as_ref().map(push_of),
    }
}

fn push_of(address: &PushAddress) -> Push {
    Push {
        provider: address.provider.name().into(),
        kind: address.kind.name().into(),
        value: address.value.clone(),
        sender: address.provider.sender().into(),
    }
}

/// hardware_id is compared within (platform, app).
fn hardware_key(newcomer: &Newcomer) -> String {
    let info = &newcomer.request.device;
    token::hash(&format!("{}\0{}\0{}", info.platform.name(), info.app, info.hardware_id))
}
