//! Devices: announced, shown, changed, denied, retired.

mod denial;
mod merge;
#[cfg(test)]
mod tests;

pub use denial::{authorize, deny, lift, retire, retired, unauthorize};
pub use merge::{MergeInto, merge};

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Denial, Id, Lane, Role, nullable, text};
use crate::ops::activate::{HARDWARE, KNOCKING, PARKED, READMITTED, hardware_key_of, parked_key_of};
use crate::ops::mail::{self, Outbox};
use crate::ops::tasks::{self, EndCause};
use crate::ops::{findings, labels as label_ops, mdm, settle, tokens};
use crate::store::channels::ChannelView;
use crate::store::devices::{self, DeviceRow, page};
use crate::store::feed::{self, Entry};
use crate::store::users::{self, UserRow};
use crate::store::{Conn, labels};

/// How long the one-time link of an announced device is good.
const LINK_MS: i64 = 14 * 24 * 3600 * 1000;
const SERIAL_CHARS_MAX: usize = 256;

/// A device as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Device {
    pub id: Id,
    pub user_id: Option<Id>,
    pub user: Option<Carrier>,
    /// `android`, `ios`, `macos`...
    pub platform: String,
    pub model: String,
    pub serial: Option<String>,
    pub udid: Option<String>,
    pub os_version: String,
    pub agent_version: String,
    pub management_mode: String,
    /// `expected`, `pending_approval`, `active`, `idle`, `silent` or `unmanaged`.
    pub state: String,
    pub state_since_ms: i64,
    pub unauthorized: bool,
    /// Why: `operator`, `user_disabled`, `user_deleted`, `retired` or `quarantined`.
    pub unauthorized_reason: Option<String>,
    pub quarantined: bool,
    pub labels: Vec<String>,
    pub facts: Value,
    pub channels: Vec<ChannelView>,
    pub created_at_ms: i64,
}

/// Who carries the device.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Carrier {
    pub email: String,
    pub name: String,
}

/// A device that an operator announces.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    /// Id or e-mail address.
    pub user: String,
    pub platform: String,
    #[serde(default)]
    pub serial: Option<String>,
    #[serde(default)]
    pub labels: Vec<String>,
    /// Sends the user the enrollment link by mail.
    #[serde(default)]
    pub send_mail: Option<bool>,
}

/// What changes of a device; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePatch {
    /// Null where it has none.
    #[serde(default, deserialize_with = "nullable::given")]
    #[schema(value_type = Option<String>)]
    pub serial: Option<Option<String>>,
    /// Id or e-mail address.
    pub user: Option<String>,
    /// Replaces the labels that were given by hand.
    pub labels: Option<Vec<String>>,
}

/// The device with everything that is shown of it.
pub async fn view(conn: &mut Conn, id: Id) -> Result<Device> {
    views(conn, &[id]).await?.pop().ok_or(Error::NotFound("device"))
}

/// A page of devices as the API shows them, in the order of `ids`; the number of statements does not depend on theirs. A device that is
/// gone meanwhile is left out.
pub async fn views(conn: &mut Conn, ids: &[Id]) -> Result<Vec<Device>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: HashMap<Id, DeviceRow> = page::many(conn, ids).await?.into_iter().map(|row| (row.id, row)).collect();
    let mut carriers: HashMap<Id, Carrier> = page::carrying(conn, ids)
        .await?
        .into_iter()
        .map(|carrying| (carrying.device_id, Carrier { email: carrying.email, name: carrying.name }))
        .collect();
    let mut labels: HashMap<Id, Vec<String>> = HashMap::new();
    for (device, name) in page::labels(conn, ids).await? {
        labels.entry(device).or_default().push(name);
    }
    let mut channels: HashMap<Id, Vec<ChannelView>> = HashMap::new();
    for of in page::channels(conn, ids).await? {
        channels.entry(of.device_id).or_default().push(of.channel);
    }
    let view = |row: DeviceRow| Device {
        user: carriers.remove(&row.id),
        labels: labels.remove(&row.id).unwrap_or_default(),
        channels: channels.remove(&row.id).unwrap_or_default(),
        id: row.id,
        user_id: row.user_id,
        platform: row.platform,
        model: row.model,
        serial: row.serial,
        udid: row.udid,
        os_version: row.os_version,
        agent_version: row.agent_version,
        management_mode: row.management_mode,
        state: row.state,
        state_since_ms: row.state_since_ms,
        unauthorized: row.denied.is_some(),
        quarantined: row.denied.as_deref() == Some("quarantined"),
        unauthorized_reason: row.denied,
        facts: serde_json::from_str(&row.facts).unwrap_or_else(|_| json!({})),
        created_at_ms: row.created_at_ms,
    };
    Ok(ids.iter().filter_map(|id| rows.remove(id)).map(view).collect())
}

/// Announces a device: it is expected, and its enrollment link admits it once.
pub async fn announce(conn: &mut Conn, moment: &mut Moment, actor: &Actor, new: &NewDevice, outbox: Outbox<'_>) -> Result<(Device, Value)> {
    actor.require(Role::Operator)?;
    if new.send_mail == Some(true) {
        outbox.require()?;
    }
    if !matches!(new.platform.as_str(), "android" | "ios" | "macos" | "tvos" | "visionos" | "watchos") {
        return Err(Error::invalid("/platform", "take android, ios, macos, tvos, visionos or watchos"));
    }
    let user = user_named(conn, "/user", &new.user).await?;
    let label_ids = label_ops::ids(conn, "/labels", &new.labels).await?;
    let row = DeviceRow {
        id: moment.id(),
        user_id: Some(user.id),
        platform: new.platform.clone(),
        app: String::new(),
        hardware_id: None,
        serial: new.serial.as_deref().map(|serial| text::named("/serial", serial, SERIAL_CHARS_MAX)).transpose()?,
        udid: None,
        model: String::new(),
        os_version: String::new(),
        agent_version: String::new(),
        management_mode: String::new(),
        state: "expected".into(),
        state_since_ms: moment.now_ms,
        denied: None,
        denied_at_ms: None,
        quarantined_at_ms: None,
        facts: "{}".into(),
        facts_hash: String::new(),
        facts_at_ms: None,
        created_at_ms: moment.now_ms,
    };
    devices::insert(conn, &row).await?;
    reindex(conn, &row, Some(&user)).await?;
    labels::add_members(conn, &label_ids, &[row.id], moment.now_ms).await?;
    let name = format!("for {}", row.serial.as_deref().unwrap_or(user.email.as_str()));
    let expires_at_ms = moment.now_ms + LINK_MS;
    let token = tokens::mint(conn, moment, actor, name, Some(expires_at_ms), Some(1), label_ids, Some(user.id), None, Some(row.id)).await?;
    let value = token.token.unwrap_or_default();
    let link = outbox.link(&value);
    tell(conn, moment, actor, "device.announced", row.id, json!({"before": null, "after": {"user": user.email, "serial": row.serial}}))
        .await?;
    let mut enrollment = json!({"token": value, "link": link, "expires_at_ms": expires_at_ms});
    if new.send_mail == Some(true) {
        let mail = mail::send_link(conn, moment, actor, outbox, &user, &link, expires_at_ms).await?;
        enrollment["mail"] = json!({"id": mail.id, "state": mail.state});
    }
    Ok((view(conn, row.id).await?, enrollment))
}

/// Changes what an operator may change of a device. A device that changes hands is denied, or not, as its new user is.
pub async fn change(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, patch: &DevicePatch) -> Result<Device> {
    actor.require(Role::Operator)?;
    let user = match &patch.user {
        Some(named) => {
            let user = user_named(conn, "/user", named).await?;
            users::locked(conn, user.id).await?
        }
        None => None,
    };
    let mut row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    let before = json!({"serial": row.serial, "user_id": row.user_id, "labels": labels::of_device(conn, id).await?});
    if let Some(serial) = &patch.serial {
        let serial = serial.as_deref().map(|serial| text::checked("/serial", serial, SERIAL_CHARS_MAX)).transpose()?;
        row.serial = serial.filter(|serial| !serial.is_empty());
    }
    if let Some(user) = &user {
        row.user_id = Some(user.id);
    }
    let label_ids = match &patch.labels {
        Some(names) => Some(label_ops::ids(conn, "/labels", names).await?),
        None => None,
    };
    match &user {
        Some(user) if user.state == "disabled" => {
            denial::deny(conn, moment, actor, &[id], Denial::UserDisabled).await?;
        }
        Some(_) => {
            for theirs in [Denial::UserDisabled, Denial::UserDeleted] {
                denial::lift(conn, moment, actor, &[id], Some(theirs)).await?;
            }
        }
        None => {}
    }
    devices::update(conn, &row).await?;
    if let Some(ids) = label_ids {
        labels::set_of_device(conn, id, &ids, moment.now_ms).await?;
    }
    reindex_by_id(conn, id).await?;
    settle::devices(conn, moment, &[id], Lane::Change).await?;
    let after = view(conn, id).await?;
    let data = json!({"before": before, "after": {"serial": after.serial, "user_id": after.user_id, "labels": after.labels}});
    tell(conn, moment, actor, "device.changed", id, data).await?;
    Ok(after)
}

/// Forgets a device. Its history goes by retention; its hardware may enroll anew.
pub async fn delete(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<()> {
    actor.require(Role::Operator)?;
    let row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    let channels = devices::channels_of(conn, &[id]).await?;
    devices::delete(conn, id).await?;
    tasks::end_open(conn, moment, &channels, EndCause::Left).await?;
    findings::close_all(conn, moment, &[id], "deleted").await?;
    mdm::forget(conn, &row).await?;
    for kind in [KNOCKING, READMITTED] {
        devices::drop_key(conn, kind, &id.to_string(), id).await?;
    }
    if let Some(hardware_id) = &row.hardware_id {
        let key = hardware_key_of(&row.platform, &row.app, hardware_id);
        devices::drop_key(conn, HARDWARE, &key, id).await?;
        if let Some(user) = row.user_id {
            devices::drop_key(conn, PARKED, &parked_key_of(&key, user), id).await?;
        }
    }
    let before = json!({"serial": row.serial, "model": row.model, "state": row.state, "user_id": row.user_id});
    tell(conn, moment, actor, "device.deleted", id, json!({"before": before, "after": null})).await
}

/// Asks a device to come in.
pub async fn call_in(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Device> {
    actor.require(Role::Operator)?;
    devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    denial::call(conn, moment, &[id]).await?;
    tell(conn, moment, actor, "device.called", id, json!({})).await?;
    view(conn, id).await
}

/// The words that a device is found by.
pub fn terms_of(row: &DeviceRow, user: Option<&UserRow>) -> Vec<String> {
    let mut terms: Vec<String> = [row.serial.as_deref(), row.udid.as_deref(), Some(row.model.as_str())]
        .into_iter()
        .chain([user.map(|user| user.email.as_str()), user.map(|user| user.name.as_str())])
        .flatten()
        .map(|term| term.trim().to_lowercase())
        .collect();
    // A name is found by each of its words.
    terms.extend(user.iter().flat_map(|user| user.name.split_whitespace()).map(str::to_lowercase));
    terms.sort();
    terms.dedup();
    terms
}

/// Brings the words that a device is found by up to date.
pub async fn reindex(conn: &mut Conn, row: &DeviceRow, user: Option<&UserRow>) -> Result<()> {
    devices::put_terms(conn, &[(row.id, terms_of(row, user))]).await
}

/// Like [`reindex`], for one that is not at hand.
pub async fn reindex_by_id(conn: &mut Conn, id: Id) -> Result<()> {
    let Some(row) = devices::get(conn, id).await? else { return Ok(()) };
    let user = match row.user_id {
        Some(user) => users::get(conn, user).await?,
        None => None,
    };
    reindex(conn, &row, user.as_ref()).await
}

/// The user of that id or e-mail address.
pub(crate) async fn user_named(conn: &mut Conn, pointer: &str, named: &str) -> Result<UserRow> {
    let user = match named.parse::<Id>() {
        Ok(id) => users::get(conn, id).await?.filter(|user| user.state != "deleted"),
        Err(_) => users::by_email(conn, &named.trim().to_lowercase()).await?,
    };
    user.ok_or_else(|| Error::invalid(pointer, format!("there is no user {named:?}")))
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, id: Id, data: Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: Some(id), data }]).await
}
