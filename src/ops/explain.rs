//! Why a device has a setting as it is: the policies that were considered, the one that won, and what the device proved.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::settle::{self, Reader, StackItem};
use crate::error::Result;
use crate::model::Id;
use crate::policy::merge;
use crate::protocol::agent::Detail;
use crate::store::policies::{self, Assignment, InForce};
use crate::store::{Conn, channels, labels};

/// Names that are written out in a sentence.
const NAMED_MAX: usize = 5;

/// A setting of a device, explained.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// The value with its variables filled in; null where no policy says anything of it.
    pub value: Value,
    /// The policy whose value counts. Of what is merged one by one (`applications`, `apple`): the strongest that gives something to it;
    /// `considered` tells what each gives.
    pub winner: Option<Winner>,
    /// Every policy that is assigned to anything: those that apply first, strongest first.
    pub considered: Vec<Considered>,
    /// True where the device said that it has the document with this value.
    pub delivered: bool,
    /// True where it proved that it has that document and says of nothing here that it does not obey.
    pub proved: bool,
}

/// The policy whose value counts.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Winner {
    pub policy: String,
    pub version: i64,
    pub rank: i64,
}

/// A policy and why it does or does not decide.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Considered {
    pub policy: String,
    pub version: i64,
    /// True where its assignments match the device.
    pub matched: bool,
    pub why: String,
}

/// Explains a setting, named as [`merge::outcome`] says.
pub async fn setting(conn: &mut Conn, device: Id, setting: &str, now_ms: i64) -> Result<Explanation> {
    let in_force = policies::in_force(conn).await?;
    let ids: Vec<Id> = labels::of_devices(conn, &[device]).await?.into_iter().map(|(_, label)| label).collect();
    let names = labels::of_device(conn, device).await?;
    let items = settle::resolve(&in_force, &ids);
    let mut documents = Vec::with_capacity(items.len());
    for item in &items {
        let version = policies::version(conn, item.policy, item.version).await?;
        documents.push(version.and_then(|version| serde_json::from_str(&version.document).ok()).unwrap_or(Value::Null));
    }
    let rows = channels::of_device(conn, device).await?;
    let channel_ids: Vec<Id> = rows.iter().map(|channel| channel.id).collect();
    let given = settle::documents(conn, Reader::Operator, &channel_ids, now_ms).await?.into_iter().next();
    let (held, missing) = given.as_ref().map_or((&[][..], String::new()), |given| (&given.held[..], given.variables_missing.join(", ")));
    for (_, document) in items.iter().zip(&mut documents).filter(|(item, _)| held.contains(&item.name)) {
        *document = Value::Null;
    }
    let won = merge::outcome(&documents, setting);
    let strongest = won.as_ref().and_then(|won| won.given.first_key_value()).map(|(at, _)| *at);
    let mut considered: Vec<Considered> = items
        .iter()
        .zip(&documents)
        .enumerate()
        .map(|(at, (item, document))| {
            let given = won.as_ref().and_then(|won| won.given.get(&at));
            let why = match (given, strongest) {
                _ if held.contains(&item.name) => format!("it is held for this device: no value for {missing}"),
                (Some(names), _) if !names.is_empty() => format!("it gives {}", listed(names)),
                (Some(_), _) => format!("it is the strongest that says something of {setting}"),
                (None, Some(strongest)) if merge::outcome([document], setting).is_some() => match won.as_ref().map(|won| won.given.len()) {
                    Some(1) => format!("{} is stronger", items[strongest].name),
                    _ => "stronger ones give all that it names".to_owned(),
                },
                _ => format!("it says nothing of {setting}"),
            };
            Considered { policy: item.name.clone(), version: item.version, matched: true, why }
        })
        .collect();
    let others: BTreeMap<&str, &InForce> =
        in_force.iter().filter(|one| !items.iter().any(|item| item.policy == one.policy_id)).map(|one| (one.name.as_str(), one)).collect();
    for one in others.into_values() {
        let why = unmatched(&policies::assignments(conn, one.policy_id).await?, &names);
        considered.push(Considered { policy: one.name.clone(), version: one.version, matched: false, why });
    }
    let document = given.as_ref().map(|given| &given.document);
    let current = document.and_then(|document| merge::outcome([document], setting)).map(|outcome| outcome.value);
    let (mut delivered, mut proved) = (false, false);
    for channel in rows.iter().filter(|channel| channel.desired.is_some()) {
        let disobeyed: Vec<Detail> = channel.details.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        delivered |= channel.reported == channel.desired;
        proved |= channel.applied == channel.desired && !disobeyed.iter().any(|detail| concerns(detail, setting));
    }
    Ok(Explanation {
        value: current.or_else(|| won.map(|won| won.value)).unwrap_or(Value::Null),
        winner: strongest.map(|at| winner(&items[at])),
        considered,
        delivered,
        proved,
    })
}

fn winner(item: &StackItem) -> Winner {
    Winner { policy: item.name.clone(), version: item.version, rank: item.rank }
}

/// Why assignments do not match a device with these labels.
fn unmatched(assignments: &[Assignment], labels: &[String]) -> String {
    let has = |one: &&Assignment| one.label == super::labels::ALL || labels.contains(&one.label);
    match assignments.iter().filter(|one| one.mode == "exclude").find(has) {
        Some(one) => format!("the label {:?} excludes the device", one.label),
        None => "the device has none of the labels that it is assigned to".to_owned(),
    }
}

/// The first names, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A detail concerns what it names, what is below it, and the whole of which it is a part. One that could not be read may concern anything.
fn concerns(detail: &Detail, setting: &str) -> bool {
    let is_within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let told = detail.setting.as_str();
    detail.reason == "UNKNOWN" || is_within(setting, told) || is_within(told, setting)
}
