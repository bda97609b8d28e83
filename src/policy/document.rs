//! A document's own checks: size, depth, apps, variables.

use std::collections::BTreeSet;

use serde_json::Value;

use super::settings::{SETTINGS, fault, nearest};
use super::{settings, variables};
use crate::model::Fault;

/// A document's text at most.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// Nesting at most.
pub const DEPTH_MAX: usize = 16;
const APPLICATIONS_MAX: usize = 500;
const CONFIGURATION_STRING_MAX: usize = 65_535;
const INSTALL_TYPES: &[&str] = &["PREINSTALLED", "FORCE_INSTALLED", "BLOCKED", "AVAILABLE", "REQUIRED_FOR_SETUP", "KIOSK"];

/// Checks a whole document; every fault with its pointer below `pointer`.
pub fn check(document: &Value, pointer: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let text = document.to_string();
    if text.len() > DOCUMENT_BYTES_MAX {
        fault(&mut faults, pointer, format!("at most {DOCUMENT_BYTES_MAX} bytes"));
        return faults;
    }
    if depth(document) > DEPTH_MAX {
        fault(&mut faults, pointer, format!("nested {DEPTH_MAX} deep at most"));
        return faults;
    }
    if text.contains("\\u0000") {
        fault(&mut faults, pointer, "U+0000 is not allowed");
        return faults;
    }
    settings::check_object(SETTINGS, document, pointer, &mut faults);
    variables::check(document, pointer, &mut faults);
    faults
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What names an app: its package on Android, its bundle id on Apple devices.
pub fn app_id(app: &Value) -> Option<&str> {
    app["packageName"].as_str().or_else(|| app["bundleId"].as_str())
}

/// Checks the list of apps.
pub fn check_applications(value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(apps) = value.as_array() else { return fault(faults, pointer, "must be a list") };
    if apps.len() > APPLICATIONS_MAX {
        return fault(faults, pointer, format!("at most {APPLICATIONS_MAX} apps"));
    }
    let mut seen = BTreeSet::new();
    for (at, app) in apps.iter().enumerate() {
        let at = format!("{pointer}/{at}");
        let Some(map) = app.as_object() else {
            fault(faults, &at, "must be an object");
            continue;
        };
        match app_id(app) {
            Some(id) if id.is_empty() || id.chars().count() > 256 => fault(faults, &at, "packageName must have 1 to 256 characters"),
            Some(id) if !seen.insert(id.to_owned()) => fault(faults, &at, format!("{id:?} is named twice")),
            Some(_) => {}
            None => fault(faults, &at, "name the app by packageName or bundleId"),
        }
        for (name, value) in map {
            check_app_field(name, value, &format!("{at}/{name}"), faults);
        }
    }
}

fn check_app_field(name: &str, value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    const FIELDS: &[&str] = &["packageName", "bundleId", "installType", "managedConfiguration", "disabled", "minimumVersionCode"];
    match name {
        "packageName" | "bundleId" => settings::check(settings::Shape::Text(256), value, pointer, faults),
        "installType" => settings::check(settings::Shape::Word(INSTALL_TYPES), value, pointer, faults),
        "disabled" => settings::check(settings::Shape::Bool, value, pointer, faults),
        "minimumVersionCode" => settings::check(settings::Shape::Number(0, i64::from(i32::MAX)), value, pointer, faults),
        "managedConfiguration" => match value.as_object() {
            Some(map) => map.iter().for_each(|(key, value)| check_configuration(value, &format!("{pointer}/{key}"), 0, faults)),
            None => fault(faults, pointer, "must be an object"),
        },
        _ => fault(faults, pointer, format!("there is no field {name:?} of an app{}", nearest(name, FIELDS.iter().copied()))),
    }
}

/// What an Android Bundle can hold: no float, no null, no 64-bit number, no mixed list, two levels of objects.
fn check_configuration(value: &Value, pointer: &str, level: usize, faults: &mut Vec<Fault>) {
    match value {
        Value::Bool(_) => {}
        Value::String(text) if text.chars().count() <= CONFIGURATION_STRING_MAX => {}
        Value::String(_) => fault(faults, pointer, format!("at most {CONFIGURATION_STRING_MAX} characters")),
        Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        Value::Number(_) => fault(faults, pointer, "must be a whole number of 32 bits; send others as text"),
        Value::Null => fault(faults, pointer, "null is no value; leave the key out"),
        Value::Object(_) | Value::Array(_) if level >= 2 => fault(faults, pointer, "apps take two levels at most"),
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| check_configuration(value, &format!("{pointer}/{key}"), level + 1, faults))
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {}
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                check_configuration(item, &format!("{pointer}/{at}"), level + 1, faults);
            }
        }
        Value::Array(_) => fault(faults, pointer, "a list holds texts, or objects, and nothing else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pointers(document: Value) -> Vec<String> {
        check(&document, "/document").into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn a_good_document_has_no_fault() {
        let document = json!({
            "cameraAccess": "CAMERA_ACCESS_DISABLED", "screenCaptureDisabled": true, "printingPolicy": "PRINTING_DISALLOWED",
            "passwordPolicies": [{"passwordQuality": "COMPLEXITY_HIGH", "passwordExpirationTimeout": "86400s"}],
            "applications": [{"packageName": "org.example.mail", "installType": "FORCE_INSTALLED",
                "managedConfiguration": {"EMAIL": "{{user.email}}", "ports": ["1", "2"], "servers": [{"host": "a", "port": 1}], "on": true}}],
            "messages": {"shortSupportMessage": "Ask the desk."}, "apple": {"payloads": []},
        });
        assert_eq!(check(&document, "/document"), []);
    }

    #[test]
    fn every_fault_is_named_with_its_place_and_the_nearest_name() {
        let faults = check(&json!({"cameraAcces": 1, "printingPolicy": "PRINTING_DISALOWED"}), "");
        assert!(faults[0].detail.contains("cameraAccess"), "{faults:?}");
        assert!(faults[1].detail.contains("did you mean \"PRINTING_DISALLOWED\""), "{faults:?}");
        assert_eq!(
            pointers(
                json!({"applications": [{"packageName": "a", "managedConfiguration": {"x": 1.5, "y": null, "z": [1, 2], "w": 5_000_000_000_i64,
                "deep": {"a": {"b": {"c": 1}}}}}, {"packageName": "a"}]})
            ),
            [
                "/document/applications/0/managedConfiguration/deep/a/b",
                "/document/applications/0/managedConfiguration/w",
                "/document/applications/0/managedConfiguration/x",
                "/document/applications/0/managedConfiguration/y",
                "/document/applications/0/managedConfiguration/z",
                "/document/applications/1",
            ]
        );
        assert_eq!(pointers(json!([])), ["/document"]);
        assert_eq!(pointers(json!({"messages": {"shortSupportMessage": "{{user.emial}}"}})), ["/document/messages/shortSupportMessage"]);
    }
}
