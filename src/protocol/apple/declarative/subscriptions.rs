//! The status items that the server asks a device to tell by itself, and the questions that it then need not ask.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::status::Status;

const CONFIGURATION: &str = "muster.status";
const CONFIGURATION_TYPE: &str = "com.apple.configuration.management.status-subscriptions";
const ACTIVATION: &str = "muster.status.activation";
const ACTIVATION_TYPE: &str = "com.apple.activation.simple";

/// What is wanted of a device that has it.
const WANTED: [&str; 9] = [
    "device.identifier.serial-number",
    "device.model.identifier",
    "device.operating-system.build-version",
    "device.operating-system.family",
    "device.operating-system.version",
    "device.power.battery-health",
    "mdm.app",
    "passcode.is-compliant",
    "passcode.is-present",
];

/// The declarations by which a device that supports them and has such items is asked to tell them; nothing for any other.
pub(super) fn declarations(types: Option<&BTreeSet<String>>, items: &BTreeSet<String>) -> Vec<Value> {
    let wanted: Vec<Value> = WANTED.iter().filter(|item| items.contains(**item)).map(|item| json!({"Name": item})).collect();
    let supports = |name: &str| types.is_some_and(|types| types.contains(name));
    if wanted.is_empty() || !supports(CONFIGURATION_TYPE) || !supports(ACTIVATION_TYPE) {
        return Vec::new();
    }
    vec![
        json!({"Type": CONFIGURATION_TYPE, "Identifier": CONFIGURATION, "Payload": {"StatusItems": wanted}}),
        json!({"Type": ACTIVATION_TYPE, "Identifier": ACTIVATION, "Payload": {"StandardConfigurations": [CONFIGURATION]}}),
    ]
}

/// The requests whose answers a device tells by itself: it has the subscription in force, and has told them.
pub fn covered(status: &Status) -> Vec<&'static str> {
    let declared = status.declarations().unwrap_or_default();
    let is_in_force = declared.get(CONFIGURATION).is_some_and(|state| state.is_active && state.valid == "valid");
    if !is_in_force {
        return Vec::new();
    }
    let mut covered = Vec::new();
    if status.item("mdm.app").is_some_and(Value::is_array) {
        covered.push("ManagedApplicationList");
    }
    // Of a Mac SecurityInfo tells much more than these.
    let is_told = ["passcode.is-present", "passcode.is-compliant"].iter().all(|item| status.item(item).is_some_and(Value::is_boolean));
    if is_told && status.is_phone() {
        covered.push("SecurityInfo");
    }
    covered
}
