//! Declarative management: what a channel is assigned, what it is answered when it asks, and what its status proves.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::authenticate::UNKNOWN_CERTIFICATE;
use super::profiles::{ByCommand, Step};
use super::{Answer, CERTIFICATE, device_of};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Id, Lane};
use crate::ops::facts::{self, Told};
use crate::ops::settle::{Bound, Reader};
use crate::ops::tasks::end;
use crate::ops::{findings, settle};
use crate::protocol::apple::Enrollee;
use crate::protocol::apple::declarative::{Asked, Content, Manifest, Report, Status, subscriptions};
use crate::seal::Seal;
use crate::store::apple::declarative::{self as store, Proved, StatusRow};
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Ended, Ending, Spoken};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, apple, devices, meta};

/// A device whose declarations wait for the value of a variable asks again after this long.
const HELD_S: i64 = 3_600;

/// What a channel is assigned.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// The version of its document.
    pub version: String,
    /// Everything.
    pub all: Manifest,
    /// What of it its system supports.
    pub manifest: Manifest,
    /// That, and what the server declares by itself: what the device is told.
    pub served: Manifest,
    /// True where a variable lost its value: nothing is said until it has one again.
    pub is_held: bool,
    /// The device's own enrollment tokens in it.
    pub tokens: Vec<Bound>,
    /// Its payloads, where the device knows no declarations.
    pub by_command: ByCommand,
}

/// What these channels are assigned.
pub async fn assigned(conn: &mut Conn, seal: &Seal, channels: &[Id], now_ms: i64) -> Result<HashMap<Id, Assigned>> {
    let said = store::of_channels(conn, channels).await?;
    let said: HashMap<Id, StatusRow> = said.into_iter().map(|row| (row.channel_id, row)).collect();
    let documents = settle::documents(conn, Reader::Device(seal), channels, now_ms).await?;
    let address = meta::get(conn, settle::ADDRESS).await?.unwrap_or_default();
    Ok(documents
        .into_iter()
        .map(|one| {
            let row = said.get(&one.channel_id);
            let status = row.map(|row| Status::from_json(&row.status)).unwrap_or_default();
            let manifest = |supported: Option<&BTreeSet<String>>| Manifest::of(&one.document, supported, &address);
            let (all, supported) = (manifest(None), manifest(status.supported().as_ref()));
            let by_command = ByCommand::of(row, &one.version, &one.document, &address);
            let manifest = if by_command.is_beside_declarations() { supported.without_profile() } else { supported };
            let served = manifest.with_subscriptions(&status);
            let is_held = one.document.is_null();
            (one.channel_id, Assigned { version: one.version, all, manifest, served, is_held, tokens: one.tokens, by_command })
        })
        .collect())
}

/// How `tokens`, `declaration-items` and `declaration/...` are answered.
#[derive(Debug)]
pub enum Read {
    Answer(Answer),
    /// Its declarations hold enrollment tokens that are to be minted first, which needs a turn of a writer.
    Unminted(Vec<Bound>),
}

/// The same where the turn is there.
pub(super) async fn mint_and_read(
    conn: &mut Conn,
    moment: &mut Moment,
    seal: &Seal,
    from: &Enrollee,
    certificate_hash: &str,
    asked: &Asked,
) -> Result<Answer> {
    for _ in 0..2 {
        match read(conn, seal, from, certificate_hash, asked, moment.now_ms).await? {
            Read::Answer(answer) => return Ok(answer),
            Read::Unminted(tokens) => settle::mint(conn, moment, tokens.iter()).await?,
        }
    }
    Err(Error::Busy { retry_after_s: 1 })
}

/// Answers `tokens`, `declaration-items` and `declaration/...`; reads only.
pub async fn read(conn: &mut Conn, seal: &Seal, from: &Enrollee, certificate_hash: &str, asked: &Asked, now_ms: i64) -> Result<Read> {
    let found = match own(conn, seal, from, certificate_hash, now_ms).await? {
        Ok(found) => found,
        Err(refused) => return Ok(Read::Answer(refused)),
    };
    if found.is_held {
        return Err(Error::Busy { retry_after_s: HELD_S });
    }
    if !settle::are_minted(conn, &found.tokens).await? {
        return Ok(Read::Unminted(found.tokens));
    }
    Ok(Read::Answer(match asked {
        Asked::Tokens => Answer::Json(found.served.tokens(now_ms)),
        Asked::Items => Answer::Json(found.served.items()),
        Asked::Declaration(kind, identifier) => found.served.declaration(*kind, identifier).map_or(Answer::NotAssigned, Answer::Json),
        Asked::Status => Answer::Unsupported("a status report comes with its data"),
    }))
}

/// What the channel that asks is assigned, where it may ask.
async fn own(
    conn: &mut Conn,
    seal: &Seal,
    from: &Enrollee,
    certificate_hash: &str,
    now_ms: i64,
) -> Result<std::result::Result<Assigned, Answer>> {
    let Some(device_id) = device_of(conn, from).await? else { return Ok(Err(UNKNOWN_CERTIFICATE)) };
    let enrollment = apple::get(conn, device_id).await?;
    if !enrollment.is_some_and(|enrollment| enrollment.state == "enrolled" && enrollment.admits(certificate_hash)) {
        return Ok(Err(UNKNOWN_CERTIFICATE));
    }
    if devices::get(conn, device_id).await?.is_none_or(|device| device.denied.is_some()) {
        return Ok(Err(Answer::Refused("device_unauthorized", "this device is not managed any more")));
    }
    let Some(channel) = apple::channel_of(conn, device_id, &from.user).await? else { return Ok(Err(UNKNOWN_CERTIFICATE)) };
    Ok(assigned(conn, seal, &[channel], now_ms).await?.remove(&channel).ok_or(UNKNOWN_CERTIFICATE))
}

/// What a certificate's device is declared to fetch under this hash, for itself or for one of its users. The outer `None` is for a
/// certificate that opens no enrollment.
pub async fn content(conn: &mut Conn, seal: &Seal, certificate_hash: &str, hash: &str, now_ms: i64) -> Result<Option<Option<Content>>> {
    let Some(device_id) = devices::by_key(conn, CERTIFICATE, certificate_hash).await? else { return Ok(None) };
    let enrollment = apple::get(conn, device_id).await?;
    if !enrollment.is_some_and(|enrollment| enrollment.state == "enrolled" && enrollment.admits(certificate_hash)) {
        return Ok(None);
    }
    if devices::get(conn, device_id).await?.is_none_or(|device| device.denied.is_some()) {
        return Ok(None);
    }
    let channels = devices::channels_of(conn, &[device_id]).await?;
    let assigned = assigned(conn, seal, &channels, now_ms).await?;
    for assigned in assigned.values().filter(|assigned| !assigned.is_held) {
        let Some(content) = assigned.manifest.content(hash) else { continue };
        // What holds a token that was not minted was never declared as it is now.
        if settle::are_minted(conn, &assigned.tokens).await? {
            return Ok(Some(Some(content.clone())));
        }
    }
    Ok(Some(None))
}

/// The requests that these channels need not be asked: they tell the answers by themselves.
pub async fn covered(conn: &mut Conn, channels: &[Id]) -> Result<HashMap<Id, Vec<&'static str>>> {
    let said = store::of_channels(conn, channels).await?;
    Ok(said.into_iter().map(|row| (row.channel_id, subscriptions::covered(&Status::from_json(&row.status)))).collect())
}

/// Takes a status report in: merged into what was said before, its facts kept, and whatever it proves.
pub(super) async fn report(
    conn: &mut Conn,
    moment: &mut Moment,
    seal: &Seal,
    device_id: Id,
    from: &Enrollee,
    data: &[u8],
) -> Result<Answer> {
    let Ok(report) = Report::read(data) else { return Ok(Answer::Unsupported("the data is no status report")) };
    let Some(channel) = apple::channel_of(conn, device_id, &from.user).await? else { return Ok(UNKNOWN_CERTIFICATE) };
    if !report.refused().is_empty() {
        tracing::warn!(device = %device_id, items = ?report.refused(), "status items that cannot be kept are left out");
    }
    let before = store::of_channels(conn, &[channel]).await?.pop();
    let was = before.as_ref().map(|row| Status::from_json(&row.status)).unwrap_or_default();
    let mut status = was.clone();
    status.take(report);
    if status != was || before.is_none() {
        let supported = status.supported().map(|supported| json!(supported).to_string());
        let (text, updated_at_ms) = (status.to_json().to_string(), moment.now_ms);
        let row = StatusRow { channel_id: channel, status: text, supported, refused: None, installed: None, failed: None, updated_at_ms };
        store::put(conn, &row).await?;
        if row.supported.is_some() && before.as_ref().is_some_and(|before| before.refused.is_some()) {
            // It knows declarations after all: they take the place of what it has by command.
            store::refuse(conn, channel, None, moment.now_ms).await?;
        }
    }
    if from.is_device() {
        if let Some(apps) = status.managed_apps().filter(|apps| was.managed_apps().as_ref() != Some(apps)) {
            installed(conn, moment, channel, &apps).await?;
        }
        let told = Told { facts: status.facts(), ..Told::default() };
        facts::take(conn, moment, HashMap::from([(device_id, told)])).await?;
    }
    let assigned = assigned(conn, seal, &[channel], moment.now_ms).await?.remove(&channel);
    let Some(assigned) = assigned.filter(|assigned| !assigned.is_held) else {
        return Ok(Answer::Accepted);
    };
    let is_other = (status.supported(), status.items_supported()) != (was.supported(), was.items_supported());
    if is_other && (assigned.manifest != assigned.all || assigned.served != assigned.manifest) {
        // It was told before it said what it supports: what it shall have is another list now.
        store::told(conn, &[store::Told { bucket: channel.bucket(), id: channel, version: None }]).await?;
        wakes::raise(conn, &[Raise { channel_id: channel, lane: Lane::Change }], moment.now_ms).await?;
    }
    prove(conn, moment, device_id, channel, &status, assigned).await?;
    Ok(Answer::Accepted)
}

/// Apps that were ordered and that the device now says it manages: their tasks are done, and nobody has to look once more.
async fn installed(conn: &mut Conn, moment: &mut Moment, channel: Id, apps: &BTreeMap<String, String>) -> Result<()> {
    let open = tasks::open_of(conn, &[channel]).await?;
    let waiting: BTreeMap<Id, Ended> =
        open.into_iter().filter(|task| task.kind == "install_app" && task.was == "running").map(|task| (task.id, task)).collect();
    let spoken = waiting.keys().map(|id| Spoken { bucket: id.bucket(), channel_id: channel, id: Some(*id), command_uuid: id.to_string() });
    let mut endings = Vec::new();
    for command in tasks::commands(conn, &spoken.collect::<Vec<_>>()).await? {
        let params: serde_json::Value = serde_json::from_str(&command.params).unwrap_or_default();
        let is_managed = params["app"].as_str().and_then(|app| apps.get(app)).is_some_and(|state| state == "Managed");
        if let Some(ended) = waiting.get(&command.id).filter(|_| is_managed) {
            let result = Some(json!({"status": "Managed"}).to_string());
            endings.push(Ending { ended: ended.clone(), state: "done", error: None, result });
        }
    }
    end(conn, moment, endings, None).await.map(drop)
}

/// A channel that knows declarations has answered for the profile that it gets by command: what both prove together is written.
pub async fn profile_answered(conn: &mut Conn, moment: &mut Moment, seal: &Seal, device_id: Id, channel: Id) -> Result<()> {
    let Some(row) = store::of_channels(conn, &[channel]).await?.pop() else { return Ok(()) };
    let assigned = assigned(conn, seal, &[channel], moment.now_ms).await?.remove(&channel);
    let beside = |assigned: &Assigned| assigned.by_command.is_beside_declarations() && !assigned.is_held;
    let Some(assigned) = assigned.filter(beside) else { return Ok(()) };
    prove(conn, moment, device_id, channel, &Status::from_json(&row.status), assigned).await
}

async fn prove(conn: &mut Conn, moment: &mut Moment, device_id: Id, channel: Id, status: &Status, assigned: Assigned) -> Result<()> {
    if status.declarations().is_none() {
        return Ok(());
    }
    let is_beside = assigned.by_command.is_beside_declarations();
    let declared = is_beside.then(|| assigned.all.without_profile());
    let mut proof = status.prove(declared.as_ref().unwrap_or(&assigned.all), &assigned.manifest);
    if is_beside {
        let details = assigned.by_command.details(&assigned.all);
        proof.has_all &= assigned.by_command.is_settled();
        proof.applies &= proof.has_all && details.is_empty();
        proof.details.extend(details);
    }
    let version = assigned.version;
    let proved = Proved {
        id: channel,
        reported: Some(version.clone()).filter(|_| proof.has_all),
        version,
        applies: proof.applies,
        details: (!proof.details.is_empty()).then(|| json!(proof.details).to_string()),
    };
    self::proved(conn, moment, device_id, &proved).await?;
    if proved.applies && matches!(assigned.by_command.step(true), Step::Uninstall(_)) {
        // The declarations are in force: what they replace goes with the next conversation.
        store::told(conn, &[store::Told { bucket: channel.bucket(), id: channel, version: None }]).await?;
        wakes::raise(conn, &[Raise { channel_id: channel, lane: Lane::Change }], moment.now_ms).await?;
    }
    Ok(())
}

/// Writes what was proved, and tells of a version that applies now and did not before.
pub(super) async fn proved(conn: &mut Conn, moment: &mut Moment, device_id: Id, proof: &Proved) -> Result<()> {
    if store::prove(conn, proof, moment.now_ms).await? {
        findings::documents_proved(conn, moment, &[device_id]).await?;
        let data = json!({"version": proof.version});
        feed::append(conn, moment, &[Entry { kind: "policy.applied", actor: None, device_id: Some(device_id), data }]).await?;
    }
    Ok(())
}

/// A declaration as a device has it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Shown {
    pub identifier: String,
    #[serde(rename = "type")]
    pub declaration_type: String,
    pub server_token: String,
    /// `active`, `inactive`, `invalid`, `pending` (the device has not said that it has this one) or `unsupported`.
    pub state: &'static str,
    /// The device's codes.
    pub reasons: Vec<String>,
}

/// The declarations of a channel, and what the device says of itself.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ShownChannel {
    pub channel_id: Id,
    pub version: String,
    /// True where a variable has no value: nothing is said until it has.
    pub held: bool,
    pub declarations: Vec<Shown>,
    /// The device's status items, merged; `{}` before its first report.
    pub status: serde_json::Value,
    /// The names of status items that it told and that cannot be kept: U+0000, half of a surrogate pair, a number out of range.
    pub refused: Vec<String>,
    /// Unix milliseconds of the last change.
    pub status_at_ms: Option<i64>,
}

/// The same for operators, for each of these channels.
pub async fn shown(conn: &mut Conn, seal: &Seal, channels: &[Id], now_ms: i64) -> Result<Vec<ShownChannel>> {
    let said: BTreeMap<Id, StatusRow> = store::of_channels(conn, channels).await?.into_iter().map(|row| (row.channel_id, row)).collect();
    let mut assigned = assigned(conn, seal, channels, now_ms).await?;
    let mut shown = Vec::with_capacity(channels.len());
    for channel in channels {
        let Some(Assigned { version, all, manifest, is_held, by_command, .. }) = assigned.remove(channel) else { continue };
        let row = said.get(channel);
        let status = row.map(|row| Status::from_json(&row.status)).unwrap_or_default();
        let known = status.declarations().unwrap_or_default();
        let declarations = all.declarations().iter().map(|one| {
            let state = known.get(&one.identifier).filter(|state| state.server_token == one.server_token);
            let word = match state {
                _ if let Some(word) = by_command.shown(&one.identifier) => word,
                _ if !manifest.declarations().contains(one) => "unsupported",
                None => "pending",
                Some(state) if state.valid == "invalid" => "invalid",
                Some(state) if state.valid != "valid" => "pending",
                Some(state) if state.is_active || !one.kind.needs_activation() => "active",
                Some(_) => "inactive",
            };
            Shown {
                identifier: one.identifier.clone(),
                declaration_type: one.declaration_type.clone(),
                server_token: one.server_token.clone(),
                state: word,
                reasons: state.map(|state| state.reasons.clone()).unwrap_or_default(),
            }
        });
        shown.push(ShownChannel {
            channel_id: *channel,
            version,
            held: is_held,
            declarations: declarations.collect(),
            status: status.to_json()["items"].clone(),
            refused: status.refused().to_vec(),
            status_at_ms: row.filter(|row| row.status != "{}").map(|row| row.updated_at_ms),
        });
    }
    Ok(shown)
}
