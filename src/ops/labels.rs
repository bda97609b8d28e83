//! Labels by hand: made, given, taken, deleted.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Fault, Id, Role, text};
use crate::ops::settle;
use crate::store::feed::{self, Entry};
use crate::store::labels::LabelRow;
use crate::store::{Conn, devices, labels, policies};

const NAME_CHARS_MAX: usize = 64;
/// Devices that one call may name.
const DEVICES_MAX: usize = 10_000;
/// Devices that the audit names one by one, each way.
const TOLD_MAX: usize = 100;
/// Faults that one answer names.
const FAULTS_MAX: usize = 100;
/// The name that stands for every device in assignments.
pub const ALL: &str = "all";

/// A label as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Label {
    pub id: Id,
    pub name: String,
    pub description: String,
    pub devices: i64,
    pub created_at_ms: i64,
}

/// What is said of a label.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelInput {
    pub description: Option<String>,
    /// Refused for now: labels are given by hand.
    pub rule: Option<serde_json::Value>,
}

/// How devices are named in a membership call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    Add,
    Remove,
    Replace,
}

/// Makes or describes a label; true where it is new.
pub async fn put(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str, input: &LabelInput) -> Result<(Label, bool)> {
    actor.require(Role::Operator)?;
    let name = text::named("/name", name, NAME_CHARS_MAX)?;
    if name == ALL {
        return Err(Error::invalid("/name", "\"all\" stands for every device; take another name"));
    }
    if input.rule.is_some() {
        return Err(Error::invalid("/rule", "rules are not available yet; give the label by hand"));
    }
    let description = input.description.as_deref().map(|text| text::checked("/description", text, 1000)).transpose()?;
    let before = labels::by_name(conn, &name).await?.map(|row| json!({"description": row.description}));
    let made = labels::put(conn, moment.id(), &name, description.as_deref(), moment.now_ms).await?;
    let after = labels::by_name(conn, &name).await?.map(|row| json!({"description": row.description}));
    let data = json!({"name": name, "before": before, "after": after});
    tell(conn, moment, actor, if made { "label.created" } else { "label.changed" }, data).await?;
    Ok((get(conn, &name).await?, made))
}

/// One label with its count.
pub async fn get(conn: &mut Conn, name: &str) -> Result<Label> {
    let row = labels::by_name(conn, name).await?.ok_or(Error::NotFound("label"))?;
    views(conn, vec![row]).await?.pop().ok_or(Error::NotFound("label"))
}

/// A page of labels as the API shows them.
pub async fn views(conn: &mut Conn, rows: Vec<LabelRow>) -> Result<Vec<Label>> {
    let counts: HashMap<Id, i64> = labels::counts(conn, &rows).await?.into_iter().collect();
    let view = |row: LabelRow| {
        let devices = counts.get(&row.id).copied().unwrap_or(0);
        Label { id: row.id, name: row.name, description: row.description, devices, created_at_ms: row.created_at_ms }
    };
    Ok(rows.into_iter().map(view).collect())
}

/// What became of a change of members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Given {
    /// How many devices it concerned.
    pub devices: usize,
    /// Names that no device has.
    pub unknown_devices: Vec<String>,
    /// Names that several devices have.
    pub ambiguous_devices: Vec<String>,
}

/// Changes who has a label. Names that stand for no device, or for several, are told and the rest is done; where none stands for one
/// device the call fails.
pub async fn change(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str, how: Membership, named: &[String]) -> Result<Given> {
    actor.require(Role::Operator)?;
    let label = labels::lock(conn, name).await?.ok_or(Error::NotFound("label"))?;
    if named.len() > DEVICES_MAX {
        return Err(Error::invalid("/devices", format!("at most {DEVICES_MAX} in one call")));
    }
    let (found, unknown, ambiguous) = devices::resolve_many(conn, named).await?;
    if found.is_empty() && !named.is_empty() {
        let fault = |(at, name): (usize, &String)| Fault {
            pointer: format!("/devices/{at}"),
            detail: if ambiguous.contains(name) {
                format!("several devices are named {name:?}; use an id")
            } else {
                format!("there is no device {name:?}")
            },
        };
        return Err(Error::Invalid(named.iter().enumerate().take(FAULTS_MAX).map(fault).collect()));
    }
    let mut concerned = found.clone();
    let before = labels::count(conn, label.id).await?;
    let (mut given, mut taken) = (Vec::new(), Vec::new());
    match how {
        Membership::Add => {
            labels::add_members(conn, &[label.id], &found, moment.now_ms).await?;
            given = found;
        }
        Membership::Remove => {
            labels::remove_members(conn, label.id, &found).await?;
            taken = found;
        }
        Membership::Replace => {
            let most = i64::try_from(DEVICES_MAX).unwrap_or(i64::MAX);
            let before = labels::devices(conn, label.id, "", most + 1).await?;
            if before.len() > DEVICES_MAX {
                return Err(Error::invalid(
                    "/devices",
                    format!("the label has over {DEVICES_MAX} devices, too many to be replaced in one call; add and remove"),
                ));
            }
            let gone: Vec<Id> = before.iter().copied().filter(|id| found.binary_search(id).is_err()).collect();
            concerned.retain(|id| before.binary_search(id).is_err());
            labels::remove_members(conn, label.id, &gone).await?;
            labels::add_members(conn, &[label.id], &concerned, moment.now_ms).await?;
            given.clone_from(&concerned);
            taken.clone_from(&gone);
            concerned.extend(gone);
        }
    }
    settle::relabelled(conn, moment, &concerned).await?;
    let after = labels::count(conn, label.id).await?;
    let (before, after) = (json!({"devices": before}), json!({"devices": after}));
    let how = format!("{how:?}").to_lowercase();
    given.truncate(TOLD_MAX);
    taken.truncate(TOLD_MAX);
    let data = json!({
        "name": label.name, "how": how, "devices": concerned.len(), "before": before, "after": after, "given_to": given, "taken_from": taken,
    });
    tell(conn, moment, actor, "label.members_changed", data).await?;
    Ok(Given { devices: concerned.len(), unknown_devices: unknown, ambiguous_devices: ambiguous })
}

/// Deletes a label; what it gave is taken from its devices, in the background where they are many.
pub async fn delete(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str) -> Result<()> {
    actor.require(Role::Operator)?;
    let label = labels::lock(conn, name).await?.ok_or(Error::NotFound("label"))?;
    let members = labels::count(conn, label.id).await?;
    policies::lock(conn).await?;
    let unassigned = policies::unassign_label(conn, &label.id.to_string()).await?;
    labels::delete(conn, label.id).await?;
    // A set that still names the label is pointed to what its other labels give.
    settle::recompute(conn, moment).await?;
    tell(
        conn,
        moment,
        actor,
        "label.deleted",
        json!({"name": label.name, "before": {"devices": members, "policies": unassigned}, "after": null}),
    )
    .await
}

/// The ids of labels by name.
pub async fn ids(conn: &mut Conn, pointer: &str, names: &[String]) -> Result<Vec<Id>> {
    let mut ids = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let label = labels::by_name(conn, name).await?;
        ids.push(label.ok_or_else(|| Error::invalid(format!("{pointer}/{at}"), format!("there is no label {name:?}")))?.id);
    }
    Ok(ids)
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, data: serde_json::Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: None, data }]).await
}
