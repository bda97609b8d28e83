//! The device that an app made for itself becomes a part of the one that Apple's MDM made of the same phone.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Device, reindex, tell, view};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Lane, Role};
use crate::ops::activate::{HARDWARE, PARKED, hardware_key_of, parked_key_of};
use crate::ops::findings::{self, CLIENT_SILENT, Change, SILENCE, To};
use crate::ops::settle;
use crate::store::contacts::{self, FactsChange};
use crate::store::devices::{self, DeviceRow, MERGED, Merge};
use crate::store::findings as found;
use crate::store::{Conn, channels, channels_lock, jobs, labels, users};

/// Open tasks that the entry of a merger names, each with the id it had.
const TOLD_TASKS_MAX: usize = 100;

/// The device that another becomes a part of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeInto {
    /// Id, serial number or UDID.
    pub into: String,
}

/// Joins an app's device to the device that Apple's MDM manages. The app goes on with the token that it has.
pub async fn merge(conn: &mut Conn, moment: &mut Moment, actor: &Actor, from: Id, named: &str) -> Result<Device> {
    actor.require(Role::Operator)?;
    let into = match devices::resolve(conn, named).await {
        Err(Error::NotFound(_)) => return Err(Error::invalid("/into", format!("there is no device {named:?}"))),
        other => other?,
    };
    if into == from {
        return Err(Error::invalid("/into", "this is the device itself, or the app's device is a part of it already"));
    }
    // Locked before the channels: an activation by a token of the device holds its user while it makes the agent's channel.
    if let Some(user) = row(conn, from).await?.user_id {
        users::locked(conn, user).await?;
    }
    let of_both = devices::channels_of(conn, &[from, into]).await?;
    channels_lock(conn, &of_both).await?;
    let (source, mut target) = (row(conn, from).await?, row(conn, into).await?);
    let channel = fitting(conn, &source, &target).await?;
    if !jobs::making(conn).await?.is_empty() {
        // It may have made a task for the one and not yet for the other: the device would get two.
        return Err(Error::refused("job_expanding", "a job's tasks are still being made; merge when it is running"));
    }
    let before = told_of(conn, &source, &target).await?;
    let merge = Merge { from, into, channel };
    merge.channel(conn).await?;
    let overruled = take_over(conn, moment, &source, &mut target).await?;
    settle::devices(conn, moment, &[into], Lane::Change).await?;
    let open = merge.tasks(conn).await?;
    close_twins(conn, moment, &merge).await?;
    merge.findings(conn).await?;
    merge.history(conn).await?;
    move_keys(conn, &source, into).await?;
    devices::delete(conn, from).await?;
    findings::from_facts(conn, moment, &[(into, overruled)]).await?;
    let after = view(conn, into).await?;
    let tasks: Vec<Value> = open.iter().take(TOLD_TASKS_MAX).map(|id| json!({"was": id, "is": id.in_bucket_of(into)})).collect();
    let now = json!({"id": into, "user_id": after.user_id, "labels": after.labels, "channel": merge.to_channel()});
    let data = json!({"merged": from, "tasks": tasks, "before": before, "after": now});
    tell(conn, moment, actor, "device.merged", into, data).await?;
    Ok(after)
}

async fn row(conn: &mut Conn, id: Id) -> Result<DeviceRow> {
    devices::get(conn, id).await?.ok_or(Error::NotFound("device"))
}

/// The app's channel, where the two are halves of one.
async fn fitting(conn: &mut Conn, source: &DeviceRow, target: &DeviceRow) -> Result<Id> {
    let conflict = |detail: &str| Err(Error::refused("device_conflict", detail));
    let theirs = channels::of_device(conn, source.id).await?;
    let has = channels::of_device(conn, target.id).await?;
    if theirs.iter().any(|channel| channel.kind == "mdm") {
        return conflict("this device is managed by MDM itself; merge the device of the app into it, not it into another");
    }
    let Some(agent) = theirs.iter().find(|channel| channel.kind == "agent") else {
        return conflict("no app has activated on this device: there is nothing to be joined");
    };
    if !has.iter().any(|channel| channel.kind == "mdm") {
        return Err(Error::invalid("/into", "this device is not managed by Apple's MDM: an app's device is joined only to one that is"));
    }
    if has.iter().any(|channel| channel.kind == "agent") {
        return conflict("the other device has an app already; delete the device that is not in use");
    }
    if target.user_id.is_some() && target.user_id != source.user_id {
        return conflict("the two are carried by different users; give one of them the other's user first");
    }
    if source.platform != target.platform {
        return conflict("the two are of different platforms, and so not one device");
    }
    if source.denied.is_some() || target.denied.is_some() {
        return conflict("one of the two may not go on; authorize it first");
    }
    Ok(agent.id)
}

async fn told_of(conn: &mut Conn, source: &DeviceRow, target: &DeviceRow) -> Result<Value> {
    let mut both = Vec::new();
    for row in [source, target] {
        let labels = labels::of_device(conn, row.id).await?;
        both.push(json!({"id": row.id, "serial": row.serial, "model": row.model, "user_id": row.user_id, "labels": labels}));
    }
    Ok(json!(both))
}

/// The device is now whose the app is, has its hardware, and knows what it told; what the system's own client says weighs more. Answers
/// the facts in which it overrules the app.
async fn take_over(conn: &mut Conn, moment: &Moment, source: &DeviceRow, target: &mut DeviceRow) -> Result<Vec<(String, Value)>> {
    target.user_id = target.user_id.or(source.user_id);
    target.hardware_id.clone_from(&source.hardware_id);
    target.app.clone_from(&source.app);
    target.agent_version.clone_from(&source.agent_version);
    target.serial = target.serial.take().or_else(|| source.serial.clone());
    devices::update(conn, target).await?;
    if !matches!(target.state.as_str(), "active" | "idle" | "silent") {
        // It had left, and is alive by its app; the clocks see to all else.
        devices::set_state(conn, target.id, &source.state, moment.now_ms).await?;
    }
    let user = match target.user_id {
        Some(user) => users::get(conn, user).await?,
        None => None,
    };
    reindex(conn, target, user.as_ref()).await?;
    let read = |text: &str| serde_json::from_str::<BTreeMap<String, Value>>(text).unwrap_or_default();
    let (mut facts, theirs) = (read(&target.facts), read(&source.facts));
    let overruled: Vec<(String, Value)> = facts
        .iter()
        .filter(|(key, value)| theirs.get(*key).is_some_and(|told| told != *value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    theirs.into_iter().for_each(|(key, value)| {
        facts.entry(key).or_insert(value);
    });
    let change = FactsChange {
        bucket: target.id.bucket(),
        id: target.id,
        facts: json!(facts).to_string(),
        facts_hash: source.facts_hash.clone(),
        model: target.model.clone(),
        os_version: target.os_version.clone(),
        serial: target.serial.clone(),
    };
    contacts::put_facts(conn, &[change], moment.now_ms).await?;
    Ok(overruled)
}

/// Closes what would be open twice, and the silence of a device that is no more.
async fn close_twins(conn: &mut Conn, moment: &mut Moment, merge: &Merge) -> Result<()> {
    let open_there: HashSet<(String, String)> =
        found::open_of(conn, &[merge.into], "").await?.into_iter().map(|met| (met.kind, met.subject)).collect();
    let mut changes = Vec::new();
    for met in found::open_of(conn, &[merge.from], "").await? {
        let Some(kind) = findings::KINDS.into_iter().find(|kind| *kind == met.kind) else { continue };
        if [SILENCE, CLIENT_SILENT].contains(&kind) || open_there.contains(&(met.kind, met.subject.clone())) {
            changes.push(Change { device_id: merge.from, kind, subject: met.subject, to: To::Closed { by: "merged".into() } });
        }
    }
    findings::apply(conn, moment, changes).await
}

/// Whoever looks for the app's hardware, or for the device by its former id, finds the one that it is a part of.
async fn move_keys(conn: &mut Conn, source: &DeviceRow, into: Id) -> Result<()> {
    if let Some(hardware_id) = &source.hardware_id {
        let key = hardware_key_of(&source.platform, &source.app, hardware_id);
        devices::move_key(conn, HARDWARE, &key, into).await?;
        if let Some(user) = source.user_id {
            devices::drop_key(conn, PARKED, &parked_key_of(&key, user), source.id).await?;
        }
    }
    devices::claim_key(conn, MERGED, &source.id.to_string(), into).await?;
    Ok(())
}
