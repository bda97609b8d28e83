//! The apps of devices against their policies: whatever is installed that may not be, and whatever is not that should be; and what goes with
//! a user.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::findings::{self, APP_BLOCKED, APP_MISSING, Change, DAY_MS, To};
use super::settle;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::policy::applications;
use crate::store::{Conn, findings as store};

/// A device has so long to install what it should have.
const MISSING_MS: i64 = DAY_MS;
/// Findings of one kind that a device has at most.
const FINDINGS_MAX: usize = 100;

/// A whole list of apps.
#[derive(Clone, Debug)]
pub struct Listed {
    pub device_id: Id,
    /// The device channel, whose policies count.
    pub channel_id: Id,
    pub apps: BTreeSet<String>,
}

impl Listed {
    /// The ids in the fact `apps`.
    pub fn of(device_id: Id, channel_id: Id, fact: &Value) -> Listed {
        let apps = fact.as_array().into_iter().flatten().filter_map(|app| app["id"].as_str()).map(str::to_owned).collect();
        Listed { device_id, channel_id, apps }
    }
}

/// The apps that policies give to channels, by channel: what goes when their user goes. `platforms` says what each channel's device is.
pub async fn given(conn: &mut Conn, platforms: &HashMap<Id, &str>) -> Result<HashMap<Id, Vec<String>>> {
    let channels: Vec<Id> = platforms.keys().copied().collect();
    let said = settle::applications(conn, &channels).await?;
    Ok(said.into_iter().map(|(channel, apps)| (channel, applications::given(&apps, platforms[&channel]))).collect())
}

/// Opens and closes the findings of devices that listed their apps; where nothing differs, nothing is written.
pub async fn apps(conn: &mut Conn, moment: &mut Moment, listed: &[Listed]) -> Result<()> {
    if listed.is_empty() {
        return Ok(());
    }
    let channels: Vec<Id> = listed.iter().map(|one| one.channel_id).collect();
    let devices: Vec<Id> = listed.iter().map(|one| one.device_id).collect();
    let policies: HashMap<Id, Value> = settle::applications(conn, &channels).await?.into_iter().collect();
    let mut changes = Vec::new();
    for (kind, due_in_ms) in [(APP_BLOCKED, 0), (APP_MISSING, MISSING_MS)] {
        let mut open: HashMap<Id, BTreeSet<String>> = HashMap::new();
        for met in store::open_of(conn, &devices, kind).await? {
            open.entry(met.device_id).or_default().insert(met.subject);
        }
        for one in listed {
            let device_id = one.device_id;
            let found = policies.get(&one.channel_id).map(|policy| faults(kind, policy, &one.apps)).unwrap_or_default();
            let known = open.remove(&device_id).unwrap_or_default();
            let change = |subject: &str, to: To| Change { device_id, kind, subject: subject.to_owned(), to };
            for (app, install_type) in found.iter().filter(|(app, _)| !known.contains(**app)) {
                let to = To::Open { due_at_ms: moment.now_ms + due_in_ms, detail: json!({"app": app, "installType": install_type}) };
                changes.push(change(app, to));
            }
            let over = known.iter().filter(|app| !found.contains_key(app.as_str()));
            changes.extend(over.map(|app| change(app, To::Closed { by: "fact:apps".into() })));
        }
    }
    findings::apply(conn, moment, changes).await
}

/// The apps of a policy that are faults of this kind, with what the policy says of each.
fn faults<'a>(kind: &str, applications: &'a Value, installed: &BTreeSet<String>) -> BTreeMap<&'a str, &'a str> {
    let said =
        applications.as_array().into_iter().flatten().filter_map(|app| Some((app["bundleId"].as_str()?, app["installType"].as_str()?)));
    let is_fault = |(app, install_type): &(&str, &str)| match *install_type {
        "BLOCKED" => kind == APP_BLOCKED && installed.contains(*app),
        "FORCE_INSTALLED" | "REQUIRED_FOR_SETUP" => kind == APP_MISSING && !installed.contains(*app),
        _ => false,
    };
    said.filter(is_fault).take(FINDINGS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_app_that_is_there_and_a_wanted_one_that_is_not_are_faults() {
        let policy = json!([
            {"bundleId": "a", "installType": "BLOCKED"}, {"bundleId": "b", "installType": "BLOCKED"}, {"packageName": "c", "installType": "BLOCKED"},
            {"bundleId": "d", "installType": "FORCE_INSTALLED"}, {"bundleId": "e", "installType": "FORCE_INSTALLED"}, {"bundleId": "f", "installType": "AVAILABLE"}
        ]);
        let listed = Listed::of(Id::v7(1, [0; 10]), Id::v7(1, [1; 10]), &json!([{"id": "a"}, {"id": "c"}, {"id": "d"}, {"id": null}, 5]));
        assert_eq!(faults(APP_BLOCKED, &policy, &listed.apps), BTreeMap::from([("a", "BLOCKED")]));
        assert_eq!(faults(APP_MISSING, &policy, &listed.apps), BTreeMap::from([("e", "FORCE_INSTALLED")]));
        assert_eq!(faults(APP_BLOCKED, &Value::Null, &listed.apps), BTreeMap::new());
    }
}
