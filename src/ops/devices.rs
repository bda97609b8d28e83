//! Devices: announced, shown, changed, denied, retired.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::token::hash;
use crate::model::{Actor, Id, Lane, Role, text};
use crate::ops::{jobs, labels as label_ops, settle, tokens};
use crate::store::channels::{self, ChannelView};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};
use crate::store::users::{self, UserRow};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, labels};

/// How long the one-time link of an announced device is good.
const LINK_MS: i64 = 14 * 24 * 3600 * 1000;

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
    /// Accepted for the day when mail is sent; only `false` is possible now.
    #[serde(default)]
    pub send_mail: Option<bool>,
}

/// What changes of a device; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePatch {
    pub serial: Option<String>,
    /// Id or e-mail address.
    pub user: Option<String>,
    /// Replaces the labels that were given by hand.
    pub labels: Option<Vec<String>>,
}

/// The device with everything that is shown of it.
pub async fn view(conn: &mut Conn, id: Id) -> Result<Device> {
    let row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    view_of(conn, row).await
}

/// A stored device as the API shows it.
pub async fn view_of(conn: &mut Conn, row: DeviceRow) -> Result<Device> {
    let user = match row.user_id {
        Some(id) => users::get(conn, id).await?,
        None => None,
    };
    Ok(Device {
        id: row.id,
        user_id: row.user_id,
        user: user.map(|user| Carrier { email: user.email, name: user.name }),
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
        labels: labels::of_device(conn, row.id).await?,
        facts: serde_json::from_str(&row.facts).unwrap_or_else(|_| json!({})),
        channels: channels::of_device(conn, row.id).await?,
        created_at_ms: row.created_at_ms,
    })
}

/// Announces a device: it is expected, and its enrollment link admits it once.
pub async fn announce(conn: &mut Conn, moment: &mut Moment, actor: &Actor, new: &NewDevice, public_url: &str) -> Result<(Device, Value)> {
    actor.require(Role::Operator)?;
    if new.send_mail == Some(true) {
        return Err(Error::invalid("/send_mail", "mail is not set up; hand the link over yourself"));
    }
    if !matches!(new.platform.as_str(), "android" | "ios") {
        return Err(Error::invalid("/platform", "take android or ios"));
    }
    let user = user_named(conn, "/user", &new.user).await?;
    let label_ids = label_ids(conn, &new.labels).await?;
    let row = DeviceRow {
        id: moment.id(),
        user_id: Some(user.id),
        platform: new.platform.clone(),
        app: String::new(),
        hardware_id: None,
        serial: new.serial.as_deref().map(|serial| text::named("/serial", serial, 256)).transpose()?,
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
    let link = format!("{}/enroll/{value}", public_url.trim_end_matches('/'));
    tell(conn, moment, actor, "device.announced", row.id, json!({"user": user.email, "serial": row.serial})).await?;
    Ok((view(conn, row.id).await?, json!({"token": value, "link": link, "expires_at_ms": expires_at_ms})))
}

/// Changes what an operator may change of a device.
pub async fn change(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, patch: &DevicePatch) -> Result<Device> {
    actor.require(Role::Operator)?;
    let mut row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    let before = json!({"serial": row.serial, "user_id": row.user_id, "labels": labels::of_device(conn, id).await?});
    if let Some(serial) = &patch.serial {
        row.serial = Some(text::checked("/serial", serial, 256)?).filter(|serial| !serial.is_empty());
    }
    if let Some(user) = &patch.user {
        row.user_id = Some(user_named(conn, "/user", user).await?.id);
    }
    devices::update(conn, &row).await?;
    if let Some(names) = &patch.labels {
        let ids = label_ids(conn, names).await?;
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
    actor.require(Role::Admin)?;
    let row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    devices::delete(conn, id).await?;
    tell(conn, moment, actor, "device.deleted", id, json!({"serial": row.serial, "model": row.model})).await
}

/// Asks a device to come in.
pub async fn call_in(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Device> {
    actor.require(Role::Operator)?;
    raise(conn, moment, id).await?;
    tell(conn, moment, actor, "device.called", id, json!({})).await?;
    view(conn, id).await
}

/// Takes a device's authorization away: the app signs out and clears its cache, the enrollment stays.
pub async fn unauthorize(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Device> {
    actor.require(Role::Operator)?;
    devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    set_denied(conn, moment, id, Some("operator")).await?;
    tell(conn, moment, actor, "device.unauthorized", id, json!({})).await?;
    view(conn, id).await
}

/// Authorizes a device again, or admits a parked newcomer in the place of the device that has its hardware.
pub async fn authorize(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Device> {
    actor.require(Role::Operator)?;
    let row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    if row.state == "pending_approval" {
        admit_parked(conn, moment, &row).await?;
    } else {
        let user = match row.user_id {
            Some(user) => users::get(conn, user).await?,
            None => None,
        };
        if user.is_none_or(|user| user.state != "enabled") {
            return Err(Error::refused("user_disabled", "this device's user is disabled or deleted; enable the user first"));
        }
        set_denied(conn, moment, id, None).await?;
    }
    tell(conn, moment, actor, "device.authorized", id, json!({"was": row.denied.unwrap_or(row.state)})).await?;
    view(conn, id).await
}

async fn admit_parked(conn: &mut Conn, moment: &mut Moment, row: &DeviceRow) -> Result<()> {
    let key = hash(&format!("{}\0{}\0{}", row.platform, row.app, row.hardware_id.as_deref().unwrap_or("")));
    if let Some(former) = devices::by_key(conn, "hardware", &key).await? {
        set_denied(conn, moment, former, Some("retired")).await?;
        devices::set_state(conn, former, "unmanaged", moment.now_ms).await?;
    }
    devices::move_key(conn, "hardware", &key, row.id).await?;
    if let Some(user) = row.user_id {
        devices::drop_key(conn, "parked", &format!("{key}/{user}")).await?;
    }
    devices::set_state(conn, row.id, "expected", moment.now_ms).await?;
    Ok(())
}

/// Ends the management of one device: its app's data is deleted, and a task says so.
pub async fn retire(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<jobs::Job> {
    actor.require(Role::Operator)?;
    devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    set_denied(conn, moment, id, Some("retired")).await?;
    let job = jobs::create(conn, moment, actor, &jobs::NewJob::one("retire", id), None, None).await?;
    tell(conn, moment, actor, "device.retired", id, json!({"job_id": job.id})).await?;
    Ok(job)
}

/// Denies a device and its channels, or lifts the denial, and calls it in so that it learns of it.
pub async fn set_denied(conn: &mut Conn, moment: &mut Moment, id: Id, denied: Option<&str>) -> Result<()> {
    if devices::deny(conn, id, denied, moment.now_ms).await? {
        raise(conn, moment, id).await?;
        let data = json!({"denied": denied});
        feed::append(conn, moment, &[Entry { kind: "device.denied", actor: None, device_id: Some(id), data }]).await?;
    }
    Ok(())
}

async fn raise(conn: &mut Conn, moment: &Moment, id: Id) -> Result<()> {
    let raises: Vec<Raise> =
        channels::of_device(conn, id).await?.into_iter().map(|channel| Raise { channel_id: channel.id, lane: Lane::Change }).collect();
    wakes::raise(conn, &raises, moment.now_ms).await
}

/// Brings the words that a device is found by up to date.
pub async fn reindex(conn: &mut Conn, row: &DeviceRow, user: Option<&UserRow>) -> Result<()> {
    let mut terms: Vec<String> = [row.serial.as_deref(), row.udid.as_deref(), Some(row.model.as_str())]
        .into_iter()
        .chain([user.map(|user| user.email.as_str()), user.map(|user| user.name.as_str())])
        .flatten()
        .map(|term| term.trim().to_lowercase())
        .collect();
    // A name is found by each of its words.
    let words: Vec<String> = user.iter().flat_map(|user| user.name.split_whitespace()).map(str::to_lowercase).collect();
    terms.extend(words);
    terms.sort();
    terms.dedup();
    devices::put_terms(conn, row.id, &terms).await
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

async fn user_named(conn: &mut Conn, pointer: &str, named: &str) -> Result<UserRow> {
    let user = match named.parse::<Id>() {
        Ok(id) => users::get(conn, id).await?.filter(|user| user.state != "deleted"),
        Err(_) => users::by_email(conn, &named.trim().to_lowercase()).await?,
    };
    user.ok_or_else(|| Error::invalid(pointer, format!("there is no user {named:?}")))
}

async fn label_ids(conn: &mut Conn, names: &[String]) -> Result<Vec<Id>> {
    label_ops::ids(conn, "/labels", names).await
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, id: Id, data: Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: Some(id), data }]).await
}
