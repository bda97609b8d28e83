//! Policies' payloads of devices that know no declarations, or none that brings a profile: a profile that is given by command, and counts as
//! applied only when the device says that it took it, or lists it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::declarative::{Assigned, proved};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::protocol::agent::Detail;
use crate::protocol::apple::Report;
use crate::protocol::apple::configuration::{self, Profile};
use crate::protocol::apple::declarative::content::is_of_profile;
use crate::protocol::apple::declarative::{Manifest, content};
use crate::store::Conn;
use crate::store::apple::declarative::{self as store, Proved, StatusRow, Told};

/// A device that says that it has heard of its declarations and after so long has not said what it is able to do knows none.
const SILENT_MS: i64 = 3_600_000;

/// A channel said that it knows no declarations.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Refusal {
    /// The version of the document that it was told of.
    version: String,
    /// Its own words; none where it said yes and was silent.
    chain: Vec<Value>,
}

/// A profile that a device did not take.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Failure {
    uuid: String,
    chain: Vec<Value>,
}

/// Where a channel stands with its policy's profile.
#[derive(Clone, Debug, Default)]
pub struct ByCommand {
    refused: Option<Refusal>,
    /// PayloadUUID of the one that it has.
    installed: Option<String>,
    failed: Option<Failure>,
    /// The one that it should have, where no declaration brings it.
    wanted: Option<Profile>,
    /// True where it has said which declarations it knows.
    is_declaring: bool,
    /// True where none of them brings a profile.
    lacks_profiles: bool,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// It is told of its declarations.
    Declare,
    Install(Profile),
    /// The profile of this PayloadUUID goes.
    Uninstall(String),
    /// There is nothing left to be told; what it has is what it takes.
    Settled,
}

impl ByCommand {
    /// Reads what is kept of a channel, about this version of its document.
    pub fn of(row: Option<&StatusRow>, version: &str, document: &Value, base: &str) -> ByCommand {
        let Some(row) = row else { return ByCommand::default() };
        let refused = read::<Refusal>(row.refused.as_deref()).filter(|refused| refused.version == version);
        let lacks_profiles = refused.is_none() && lacks_profiles(row);
        let payloads: Vec<&Map<String, Value>> = if refused.is_some() || lacks_profiles {
            document["payloads"].as_array().into_iter().flatten().filter_map(Value::as_object).collect()
        } else {
            Vec::new()
        };
        let wanted = (!payloads.is_empty()).then(|| configuration::profile(&configuration::commanded(base), &payloads));
        ByCommand {
            refused,
            installed: row.installed.clone(),
            failed: read(row.failed.as_deref()),
            wanted,
            is_declaring: row.supported.is_some(),
            lacks_profiles,
        }
    }

    /// True where the device knows declarations and gets its profile by command all the same.
    pub fn is_beside_declarations(&self) -> bool {
        self.lacks_profiles
    }

    /// True where it has by command what it should have, or took that as far as it ever will.
    pub fn is_settled(&self) -> bool {
        match &self.wanted {
            Some(wanted) => self.installed.as_ref() == Some(&wanted.uuid) || self.has_failed(wanted),
            None => self.installed.is_none(),
        }
    }

    /// What comes next; `is_applied` says that the channel has proved the present version.
    pub fn step(&self, is_applied: bool) -> Step {
        match (self.refused.is_some() || self.lacks_profiles, &self.wanted, &self.installed) {
            // What it has by command goes only when the declarations that take its place are in force.
            (false, _, Some(installed)) if self.is_declaring && is_applied => Step::Uninstall(installed.clone()),
            (true, Some(wanted), _) if !self.is_settled() => Step::Install(wanted.clone()),
            (true, None, Some(installed)) => Step::Uninstall(installed.clone()),
            _ if self.refused.is_some() => Step::Settled,
            _ => Step::Declare,
        }
    }

    fn has_failed(&self, wanted: &Profile) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.uuid == wanted.uuid)
    }

    /// What of the document the device does not have, and why.
    pub fn details(&self, all: &Manifest) -> Vec<Detail> {
        let detail =
            |setting: &str, chain: &[Value]| Detail { setting: setting.into(), reason: "Error".into(), current: Some(json!(chain)) };
        let has_declarations = !all.without_profile().declarations().is_empty();
        let refused = self.refused.as_ref().filter(|_| has_declarations).map(|refused| detail("declarations", &refused.chain));
        let failed = self.failed.as_ref().filter(|_| self.wanted.as_ref().is_some_and(|wanted| self.has_failed(wanted)));
        refused.into_iter().chain(failed.map(|failed| detail("payloads", &failed.chain))).collect()
    }

    /// The state of a declaration that operators are shown, where it is not the device's declarations that tell it.
    pub fn shown(&self, identifier: &str) -> Option<&'static str> {
        if self.refused.is_none() && !(self.lacks_profiles && is_of_profile(identifier)) {
            return None;
        }
        Some(match &self.wanted {
            Some(wanted) if is_of_profile(identifier) => match &self.installed {
                _ if self.has_failed(wanted) => "invalid",
                Some(installed) if *installed == wanted.uuid => "active",
                _ => "pending",
            },
            _ => "unsupported",
        })
    }
}

/// True where a device has said which declarations it knows, and none of them brings a profile.
fn lacks_profiles(row: &StatusRow) -> bool {
    read::<Vec<String>>(row.supported.as_deref()).is_some_and(|supported| !supported.iter().any(|one| one == content::PROFILE_TYPE))
}

fn read<T: for<'a> Deserialize<'a>>(text: Option<&str>) -> Option<T> {
    serde_json::from_str(text?).ok()
}

/// A channel said no to the announcement of this version.
pub async fn refused(conn: &mut Conn, moment: &Moment, channel: Id, version: &str, chain: &[Value]) -> Result<()> {
    let refusal = Refusal { version: version.to_owned(), chain: chain.to_vec() };
    store::refuse(conn, channel, Some(&json!(refusal).to_string()), moment.now_ms).await
}

/// A channel answered for a profile: took it, or let it go, or did not.
pub async fn answered(conn: &mut Conn, channel: Id, installs: bool, uuid: &str, report: &Report) -> Result<()> {
    let Some(row) = store::of_channels(conn, &[channel]).await?.pop() else { return Ok(()) };
    let took = report.status == crate::protocol::apple::Status::Acknowledged;
    let (installed, failed) = match (installs, took) {
        (true, true) => (Some(uuid.to_owned()), None),
        (true, false) => (row.installed, Some(json!(Failure { uuid: uuid.to_owned(), chain: report.chain.clone() }).to_string())),
        // One that it says it cannot remove is not one that it has by us; should it be, its list tells.
        (false, _) => (row.installed.filter(|installed| installed != uuid), row.failed),
    };
    store::given(conn, channel, installed.as_deref(), failed.as_deref()).await
}

/// A device has listed its profiles, all of them.
#[derive(Debug)]
pub struct Listed {
    pub channel: Id,
    /// The version of its document that it was told of, where that is the present one.
    pub declared: Option<String>,
    /// As facts have them.
    pub profiles: Value,
}

/// What a device has by command is what it lists. Answers the channels that are to be told anew.
pub async fn listed(conn: &mut Conn, moment: &Moment, base: &str, lists: &[Listed]) -> Result<Vec<Id>> {
    let channels: Vec<Id> = lists.iter().map(|list| list.channel).collect();
    let rows = store::of_channels(conn, &channels).await?;
    let own = configuration::commanded(base);
    let mut changed = Vec::new();
    for Listed { channel, declared, profiles } in lists {
        let Some(row) = rows.iter().find(|row| row.channel_id == *channel) else { continue };
        let listed = profiles.as_array().into_iter().flatten().find(|one| one["identifier"] == own.as_str());
        let listed = listed.and_then(|one| one["uuid"].as_str());
        let is_silent = row.supported.is_none() && row.refused.is_none() && row.updated_at_ms + SILENT_MS <= moment.now_ms;
        let silent = declared.as_deref().filter(|_| is_silent);
        if silent.is_none() && listed == row.installed.as_deref() {
            continue;
        }
        if let Some(version) = silent {
            refused(conn, moment, *channel, version, &[]).await?;
        }
        store::given(conn, *channel, listed, None).await?;
        if row.supported.is_some() && !lacks_profiles(row) {
            // Its declarations prove themselves.
            store::told(conn, &[Told { bucket: channel.bucket(), id: *channel, version: None }]).await?;
        } else {
            store::disprove(conn, *channel).await?;
        }
        changed.push(*channel);
    }
    Ok(changed)
}

/// A channel that knows no declarations has everything that it takes of its document: that is proved now. Answers whether it applies.
pub async fn settled(conn: &mut Conn, moment: &mut Moment, device: Id, channel: Id, assigned: &Assigned) -> Result<bool> {
    let version = assigned.version.clone();
    let details = assigned.by_command.details(&assigned.all);
    store::told(conn, &[Told { bucket: channel.bucket(), id: channel, version: Some(version.clone()) }]).await?;
    let proof = Proved {
        id: channel,
        reported: Some(version.clone()),
        version,
        applies: details.is_empty(),
        details: (!details.is_empty()).then(|| json!(details).to_string()),
    };
    proved(conn, moment, device, &proof).await?;
    Ok(proof.applies)
}
