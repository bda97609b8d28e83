//! Devices that may not go on, and devices that may again.

use std::collections::HashMap;

use serde_json::json;

use super::{tell, view};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, BULK_ABOVE, Denial, Id, Lane, Role};
use crate::ops::activate::{HARDWARE, KNOCKING, PARKED, READMITTED, hardware_key_of, parked_key_of};
use crate::ops::devices::Device;
use crate::ops::tasks::{self, EndCause};
use crate::ops::{findings, jobs, mdm};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, channels, users};

/// Devices told of one by one; more are told of in one entry.
const TOLD_EACH_MAX: usize = 50;
/// Devices denied or restored in one statement at most.
const CHUNK_MAX: usize = 500;

/// Takes a device's authorization away: the app signs out and clears its cache, the enrollment stays.
pub async fn unauthorize(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Device> {
    actor.require(Role::Operator)?;
    let before = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?.denied;
    deny(conn, moment, actor, &[id], Denial::Operator).await?;
    let after = view(conn, id).await?;
    let data = json!({"before": {"denial": before}, "after": {"denial": after.unauthorized_reason}});
    tell(conn, moment, actor, "device.unauthorized", id, data).await?;
    Ok(after)
}

/// Authorizes a device again, or admits what waits: a parked newcomer in the place of the device that has its hardware, or the device
/// itself whose app wants to activate anew.
pub async fn authorize(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Device> {
    actor.require(Role::Operator)?;
    let row = devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    // Locked, so that a user who is disabled in this instant does not keep an authorized device.
    let user = match row.user_id {
        Some(user) => users::locked(conn, user).await?,
        None => None,
    };
    if row.user_id.is_some() && user.is_none_or(|user| user.state != "enabled") {
        return Err(Error::refused(
            "user_not_enabled",
            "this device's user is disabled or deleted; enable the user, or give it to another",
        ));
    }
    lift(conn, moment, actor, &[id], None).await?;
    let knocks = devices::by_key(conn, KNOCKING, &id.to_string()).await? == Some(id);
    if knocks {
        readmit(conn, moment, &row).await?;
    }
    match row.state.as_str() {
        "pending_approval" if knocks => {}
        "pending_approval" => admit_parked(conn, moment, &row).await?,
        // It was retired and may come again; the clock moves it on by what it shows.
        "unmanaged" if !channels::of_device(conn, id).await?.is_empty() => {
            devices::set_state(conn, id, "silent", moment.now_ms).await?;
        }
        _ => {}
    }
    let after = view(conn, id).await?;
    let was = json!({"denial": row.denied, "state": row.state});
    let data = json!({"before": was, "after": {"denial": after.unauthorized_reason, "state": after.state}});
    tell(conn, moment, actor, "device.authorized", id, data).await?;
    Ok(after)
}

/// The next activation of the device's own app goes on; what it is until then, the clock sees by what it shows.
async fn readmit(conn: &mut Conn, moment: &mut Moment, row: &DeviceRow) -> Result<()> {
    let key = row.id.to_string();
    devices::drop_key(conn, KNOCKING, &key, row.id).await?;
    devices::claim_key(conn, READMITTED, &key, row.id).await?;
    if row.state == "pending_approval" {
        devices::set_state(conn, row.id, "silent", moment.now_ms).await?;
    }
    Ok(())
}

/// The earlier device leaves: no token opens its channel, its hardware is the newcomer's, which comes in by its next activation.
async fn admit_parked(conn: &mut Conn, moment: &mut Moment, row: &DeviceRow) -> Result<()> {
    if row.hardware_id.is_none() {
        // No agent: it knocked as an Apple device.
        mdm::admitted(conn, moment, row).await?;
        devices::set_state(conn, row.id, "expected", moment.now_ms).await?;
        return Ok(());
    }
    let key = hardware_key_of(&row.platform, &row.app, row.hardware_id.as_deref().unwrap_or_default());
    if let Some(former) = devices::by_key(conn, HARDWARE, &key).await?.filter(|former| *former != row.id) {
        let channels = devices::channels_of(conn, &[former]).await?;
        crate::store::channels_lock(conn, &channels).await?;
        channels::end(conn, former).await?;
        devices::set_state(conn, former, "unmanaged", moment.now_ms).await?;
        tasks::end_open(conn, moment, &channels, EndCause::ReEnrolled).await?;
        findings::close_all(conn, moment, &[former], "replaced").await?;
        let data = json!({"by": row.id});
        feed::append(conn, moment, &[Entry { kind: "device.replaced", actor: None, device_id: Some(former), data }]).await?;
    }
    devices::move_key(conn, HARDWARE, &key, row.id).await?;
    if let Some(user) = row.user_id {
        devices::drop_key(conn, PARKED, &parked_key_of(&key, user), row.id).await?;
    }
    devices::set_state(conn, row.id, "expected", moment.now_ms).await?;
    Ok(())
}

/// Ends the management of one device: its app's data is deleted, and a task says so. Above the budget it waits for a second operator.
pub async fn retire(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<jobs::Job> {
    actor.require(Role::Operator)?;
    devices::get(conn, id).await?.ok_or(Error::NotFound("device"))?;
    jobs::create(conn, moment, actor, &jobs::NewJob::one("retire", id), None, None).await
}

/// Devices whose retirement is decided: denied for good, no longer managed, no longer judged.
pub async fn retired(conn: &mut Conn, moment: &mut Moment, actor: &Actor, ids: &[Id]) -> Result<()> {
    deny(conn, moment, actor, ids, Denial::Retired).await?;
    for id in ids {
        devices::set_state(conn, *id, "unmanaged", moment.now_ms).await?;
    }
    Ok(())
}

/// Denies devices and calls them in, so that they learn of it; those that an equal or stronger denial holds stay as they are. Answers
/// the others.
pub async fn deny(conn: &mut Conn, moment: &mut Moment, actor: &Actor, ids: &[Id], denial: Denial) -> Result<Vec<Id>> {
    let before = before(conn, ids).await?;
    let mut denied = Vec::new();
    for chunk in ids.chunks(CHUNK_MAX) {
        denied.extend(devices::deny(conn, chunk, denial, moment.now_ms).await?);
    }
    call(conn, moment, &denied).await?;
    if denial.is_for_good() {
        for chunk in denied.chunks(CHUNK_MAX) {
            let channels = devices::channels_of(conn, chunk).await?;
            tasks::end_open(conn, moment, &channels, EndCause::Retired).await?;
            findings::close_all(conn, moment, chunk, denial.name()).await?;
        }
    }
    let told = Told { kind: "device.denied", why: denial.name(), before, after: Some(denial.name()) };
    tell_of(conn, moment, actor, &denied, &told).await?;
    Ok(denied)
}

/// Lifts denials, all or only those of one kind, and calls the devices in.
pub async fn lift(conn: &mut Conn, moment: &mut Moment, actor: &Actor, ids: &[Id], only: Option<Denial>) -> Result<Vec<Id>> {
    let before = before(conn, ids).await?;
    let mut lifted = Vec::new();
    for chunk in ids.chunks(CHUNK_MAX) {
        lifted.extend(devices::lift(conn, chunk, only).await?);
    }
    call(conn, moment, &lifted).await?;
    let told = Told { kind: "device.denial_lifted", why: only.map_or("any", Denial::name), before, after: None };
    tell_of(conn, moment, actor, &lifted, &told).await?;
    Ok(lifted)
}

/// Raises the wakes of all channels of devices.
pub(super) async fn call(conn: &mut Conn, moment: &Moment, ids: &[Id]) -> Result<()> {
    let mut channels = Vec::new();
    for chunk in ids.chunks(CHUNK_MAX) {
        channels.extend(devices::channels_of(conn, chunk).await?);
    }
    let lane = if channels.len() > BULK_ABOVE { Lane::Bulk } else { Lane::Change };
    let raises: Vec<Raise> = channels.into_iter().map(|channel_id| Raise { channel_id, lane }).collect();
    wakes::raise(conn, &raises, moment.now_ms).await
}

/// What is told of devices that were denied, or are no more.
struct Told {
    kind: &'static str,
    why: &'static str,
    before: HashMap<Id, Option<String>>,
    after: Option<&'static str>,
}

/// How few devices are denied; of many nothing is told one by one.
async fn before(conn: &mut Conn, ids: &[Id]) -> Result<HashMap<Id, Option<String>>> {
    if ids.len() > TOLD_EACH_MAX { Ok(HashMap::new()) } else { Ok(devices::denials(conn, ids).await?.into_iter().collect()) }
}

async fn tell_of(conn: &mut Conn, moment: &mut Moment, actor: &Actor, ids: &[Id], told: &Told) -> Result<()> {
    let (actor, kind) = (Some(actor.name.clone()), told.kind);
    let after = json!({"denial": told.after});
    let entry = |id: &Id| {
        let mut data = json!({"denial": told.why, "after": after});
        // Of some among many it was not looked at.
        if let Some(denial) = told.before.get(id) {
            data["before"] = json!({"denial": denial});
        }
        Entry { kind, actor: actor.clone(), device_id: Some(*id), data }
    };
    let entries: Vec<Entry> = match ids.len() {
        0 => return Ok(()),
        1..=TOLD_EACH_MAX => ids.iter().map(entry).collect(),
        many => {
            let data = json!({"denial": told.why, "devices": many, "after": after});
            vec![Entry { kind, actor: actor.clone(), device_id: None, data }]
        }
    };
    feed::append(conn, moment, &entries).await
}
