//! The apps of a document, and what each of them is told.

use std::collections::BTreeSet;

use serde_json::Value;

use super::catalog::APP;
use super::settings::{self, below, fault};
use crate::model::Fault;

const APPLICATIONS_MAX: usize = 500;
/// What Android lets a text of a managed configuration have.
const TEXT_CHARS_MAX: usize = 65_535;
/// Objects within objects: stores guarantee no more.
const LEVELS_MAX: usize = 2;

/// An app of one platform. The same id may name an app on each: they are two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppId {
    Package(String),
    Bundle(String),
}

/// Which app an entry is about, or `None` for an entry that names none.
pub fn app_id(app: &Value) -> Option<AppId> {
    let text = |field: &str| app[field].as_str().map(str::to_owned);
    text("packageName").map(AppId::Package).or_else(|| text("bundleId").map(AppId::Bundle))
}

/// The ids of the apps that a list gives to phones of a platform: what is to go again when the phone's user goes. What was on it from the
/// beginning, and what it may not have, is not given.
pub fn given(applications: &Value, platform: &str) -> Vec<String> {
    let apps = applications.as_array().into_iter().flatten();
    let is_given = |app: &&Value| !matches!(app["installType"].as_str(), Some("BLOCKED" | "PREINSTALLED"));
    let of_platform = |id: AppId| match id {
        AppId::Package(package) => (platform == "android").then_some(package),
        AppId::Bundle(bundle) => (platform != "android").then_some(bundle),
    };
    apps.filter(is_given).filter_map(app_id).filter_map(of_platform).collect()
}

/// Checks the list of apps.
pub fn check(value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(apps) = value.as_array() else { return fault(faults, pointer, "must be a list") };
    if apps.len() > APPLICATIONS_MAX {
        return fault(faults, pointer, format!("at most {APPLICATIONS_MAX} apps"));
    }
    let mut seen = BTreeSet::new();
    for (at, app) in apps.iter().enumerate() {
        let at = format!("{pointer}/{at}");
        settings::check_object(APP, app, &at, faults);
        match app_id(app) {
            None => fault(faults, &at, "name the app by packageName or bundleId"),
            Some(_) if app.get("packageName").is_some() && app.get("bundleId").is_some() => {
                fault(faults, &at, "an entry is about one app: make one for packageName and another for bundleId");
            }
            Some(id) => {
                if !seen.insert(id) {
                    fault(faults, &at, "this app has an entry already");
                }
            }
        }
    }
}

/// What an Android Bundle can hold: no float, no null, no 64-bit number, no mixed list, two levels of objects. The whole replaces
/// what the app was told before; an absent key is the app's own default.
pub fn check_configuration(value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    match value.as_object() {
        Some(map) => map.iter().for_each(|(key, value)| check_entry(value, &below(pointer, key), 0, faults)),
        None => fault(faults, pointer, "must be an object"),
    }
}

fn check_entry(value: &Value, pointer: &str, level: usize, faults: &mut Vec<Fault>) {
    match value {
        Value::Bool(_) => {}
        Value::String(text) if text.chars().nth(TEXT_CHARS_MAX).is_none() => {}
        Value::String(_) => fault(faults, pointer, format!("at most {TEXT_CHARS_MAX} characters")),
        Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        Value::Number(_) => fault(faults, pointer, "must be a whole number of 32 bits; send others as text"),
        Value::Null => fault(faults, pointer, "null is no value; leave the key out"),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().enumerate().for_each(|(at, item)| check_entry(item, &format!("{pointer}/{at}"), level, faults));
        }
        Value::Array(items) if !items.iter().all(Value::is_object) => {
            fault(faults, pointer, "a list holds texts, or objects, and nothing else");
        }
        Value::Object(_) | Value::Array(_) if level >= LEVELS_MAX => fault(faults, pointer, "apps take two levels at most"),
        Value::Object(map) => map.iter().for_each(|(key, value)| check_entry(value, &below(pointer, key), level + 1, faults)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| check_entry(item, &format!("{pointer}/{at}"), level + 1, faults));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_given_is_of_its_platform_and_neither_blocked_nor_there_before() {
        let apps = json!([
            {"packageName": "a", "installType": "FORCE_INSTALLED"}, {"bundleId": "a"}, {"packageName": "b", "installType": "BLOCKED"},
            {"packageName": "c", "installType": "PREINSTALLED"}, {"packageName": "d"}, {"bundleId": "e", "installType": "AVAILABLE"}
        ]);
        assert_eq!((given(&apps, "android"), given(&apps, "ios")), (vec!["a".to_owned(), "d".into()], vec!["a".to_owned(), "e".into()]));
        assert!(given(&Value::Null, "android").is_empty());
    }
}
