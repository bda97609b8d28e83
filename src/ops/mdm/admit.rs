//! Who may enroll: the token that the certificate came by, its user, and what is known of the device.

use serde_json::json;

use super::authenticate::begin;
use super::leave::parked_key;
use super::{Answer, Arrival, Credential, Rules, key_kind};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::ops::activate::PARKED;
use crate::ops::devices as device_ops;
use crate::protocol::apple::Enrollee;
use crate::protocol::apple::checkin::{Authenticate, platform_of};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};
use crate::store::tokens::{self, TokenRow};
use crate::store::users::{self, UserRow};
use crate::store::{Conn, labels};

const EXHAUSTED: Answer = Answer::Refused("token_exhausted", "this enrollment token has no use left; ask an operator for a new one");
const CONFLICT: Answer = Answer::Refused("device_conflict", "this device is enrolled otherwise; an operator has to admit it");
const FULL: Answer = Answer::Refused("device_limit", "this user has as many devices as allowed; retire one first");
const UNAUTHORIZED: Answer = Answer::Refused("device_unauthorized", "this device may not enroll; an operator can authorize it");

/// By what a device comes in.
#[derive(Clone, Debug, Default)]
pub(super) struct Entrance {
    /// None for a certificate that was issued elsewhere.
    pub token: Option<TokenRow>,
    pub user: Option<UserRow>,
}

/// The token and the user of a certificate, locked; the refusal where they open no door.
pub(super) async fn entrance(conn: &mut Conn, moment: &Moment, credential: &Credential) -> Result<std::result::Result<Entrance, Answer>> {
    let Some(token_id) = credential.issued.and_then(|issued| issued.token_id) else { return Ok(Ok(Entrance::default())) };
    let refused = |code, words| Ok(Err(Answer::Refused(code, words)));
    let Some(token) = tokens::get(conn, token_id).await? else {
        return refused("token_unknown", "the enrollment token of this certificate is gone; ask an operator for one");
    };
    let user = match token.user_id {
        Some(id) => users::locked(conn, id).await?,
        None => None,
    };
    if token.expires_at_ms.is_some_and(|at| at <= moment.now_ms) {
        return refused("token_expired", "this enrollment token has expired; ask an operator for a new one");
    }
    if token.revoked_at_ms.is_some() {
        return refused("token_revoked", "this enrollment token was revoked; ask an operator for a new one");
    }
    match user {
        Some(user) if user.state == "disabled" => refused("user_disabled", "this user is disabled; ask an operator"),
        Some(user) if user.state != "enabled" => refused("user_unknown", "this token's user is gone; ask an operator"),
        user => Ok(Ok(Entrance { token: Some(token), user })),
    }
}

/// A device that nobody knows: an announced one, or a new one.
pub(super) async fn newcomer(
    conn: &mut Conn,
    moment: &mut Moment,
    rules: Rules,
    arrival: &Arrival,
    said: &Authenticate,
    entrance: Entrance,
) -> Result<Answer> {
    let from = &arrival.checkin.from;
    let bound = entrance.token.as_ref().and_then(|token| token.device_id);
    let device = match (bound, &entrance.user, said.serial.as_deref()) {
        (Some(id), _, _) => devices::get(conn, id).await?,
        (None, Some(user), Some(serial)) => match devices::announced(conn, user.id, serial).await? {
            Some(id) => devices::get(conn, id).await?,
            None => None,
        },
        _ => None,
    };
    if device.as_ref().is_some_and(|device| device.denied.is_some()) {
        return Ok(UNAUTHORIZED);
    }
    // The token is for one serial number, or for a device that has another UDID: not this one.
    let wanted = entrance.token.as_ref().and_then(|token| token.serial.as_deref());
    let is_other = wanted.zip(said.serial.as_deref()).is_some_and(|(wanted, told)| !wanted.trim().eq_ignore_ascii_case(told.trim()));
    let is_taken = device.as_ref().is_some_and(|device| device.udid.is_some() || device.state == "pending_approval");
    if is_other || is_taken {
        return park(conn, moment, arrival, said, &entrance).await;
    }
    let is_new = device.is_none();
    let device = device.unwrap_or_else(|| new_device(moment.id(), arrival, said, &entrance, "expected", moment.now_ms));
    // The first to claim the key has the device, also between processes.
    if devices::claim_key(conn, key_kind(from), &from.id, device.id).await?.is_some() {
        return Ok(CONFLICT);
    }
    if let Err(refused) = come_in(conn, moment, rules, arrival, &entrance, &device, true).await? {
        devices::drop_key(conn, key_kind(from), &from.id, device.id).await?;
        return Ok(refused);
    }
    if is_new {
        devices::insert(conn, &device).await?;
        add_labels(conn, moment, &entrance, device.id).await?;
    }
    begin(conn, moment, arrival, said, entrance, device).await?;
    Ok(Answer::Accepted)
}

/// Checks the limit of the user and takes a use of the token; a device that comes again by the token it had needs none.
pub(super) async fn come_in(
    conn: &mut Conn,
    moment: &Moment,
    rules: Rules,
    arrival: &Arrival,
    entrance: &Entrance,
    device: &DeviceRow,
    needs_use: bool,
) -> Result<std::result::Result<(), Answer>> {
    let counts = matches!(device.state.as_str(), "active" | "idle" | "silent") && device.user_id.is_some();
    if let Some(user) = entrance.user.as_ref().filter(|user| !counts || device.user_id != Some(user.id)) {
        let limit = user.device_limit.unwrap_or(rules.devices_per_user);
        if limit > 0 && users::devices(conn, user.id).await? >= limit {
            return Ok(Err(FULL));
        }
    }
    let Some(token) = &entrance.token else { return Ok(Ok(())) };
    let was_used = tokens::was_used_by(conn, token.id, device.id).await?;
    if needs_use && !tokens::take_use(conn, token.id, moment.now_ms).await? && !was_used {
        return Ok(Err(EXHAUSTED));
    }
    if needs_use || was_used {
        tokens::note_use(conn, token.id, device.id, &arrival.remote, moment.now_ms).await?;
    }
    Ok(Ok(()))
}

async fn add_labels(conn: &mut Conn, moment: &Moment, entrance: &Entrance, device: Id) -> Result<()> {
    let Some(token) = &entrance.token else { return Ok(()) };
    let label_ids: Vec<Id> = serde_json::from_str(&token.labels).unwrap_or_default();
    labels::add_members(conn, &label_ids, &[device], moment.now_ms).await
}

/// Keeps a newcomer that cannot be told from an intruder until an operator decides. The enrollment that there is stays as it is.
pub(super) async fn park(
    conn: &mut Conn,
    moment: &mut Moment,
    arrival: &Arrival,
    said: &Authenticate,
    entrance: &Entrance,
) -> Result<Answer> {
    let from = &arrival.checkin.from;
    let user_id = entrance.user.as_ref().map(|user| user.id);
    let id = moment.id();
    let parked = devices::claim_key(conn, PARKED, &parked_key(key_kind(from), &from.id, user_id), id).await?;
    match parked {
        Some(parked) => {
            if devices::get(conn, parked).await?.is_some_and(|row| row.denied.is_some()) {
                return Ok(UNAUTHORIZED);
            }
        }
        None => {
            let device = new_device(id, arrival, said, entrance, "pending_approval", moment.now_ms);
            devices::insert(conn, &device).await?;
            add_labels(conn, moment, entrance, id).await?;
            device_ops::reindex(conn, &device, entrance.user.as_ref()).await?;
            let data = json!({"udid": from.id, "serial": said.serial, "model": said.product, "remote": arrival.remote});
            feed::append(conn, moment, &[Entry { kind: "device.parked", actor: None, device_id: Some(id), data }]).await?;
        }
    }
    if let Some(token) = &entrance.token {
        // Remembered, so that an admitted newcomer comes in by it.
        tokens::note_use(conn, token.id, parked.unwrap_or(id), &arrival.remote, moment.now_ms).await?;
    }
    Ok(CONFLICT)
}

/// How a device is managed; says also by which kind of key it is found.
pub(super) fn mode_of(from: &Enrollee) -> &'static str {
    if from.is_user_enrollment { super::leave::USER_ENROLLMENT } else { "mdm" }
}

fn new_device(id: Id, arrival: &Arrival, said: &Authenticate, entrance: &Entrance, state: &str, now_ms: i64) -> DeviceRow {
    let from = &arrival.checkin.from;
    let wanted = entrance.token.as_ref().and_then(|token| token.serial.clone());
    DeviceRow {
        id,
        user_id: entrance.user.as_ref().map(|user| user.id),
        platform: platform_of(&said.product).into(),
        app: String::new(),
        hardware_id: None,
        serial: said.serial.clone().or(wanted),
        udid: Some(from.id.clone()),
        model: said.product.clone(),
        os_version: said.os_version.clone(),
        agent_version: String::new(),
        management_mode: mode_of(from).into(),
        state: state.into(),
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
