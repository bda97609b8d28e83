//! What an agent tells of its device: keyed values, the known ones of their type.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::check::{self, Members};

/// Facts in a request at most.
pub(super) const FACTS_MAX: usize = 200;
const NAME_CHARS_MAX: usize = 256;
/// A fact's value at most.
const FACT_BYTES_MAX: usize = 4 * 1024;
/// The list of apps, the one fact that is long by nature.
const APPS_BYTES_MAX: usize = 512 * 1024;
const APPS_MAX: usize = 2000;

/// The facts that pass: a wrong one is left out, the others count.
pub(super) fn read(members: &Members) -> BTreeMap<String, Value> {
    let mut facts = BTreeMap::new();
    for (key, raw) in members.named() {
        let fact = check::value(raw, APPS_BYTES_MAX).ok().and_then(|value| checked(&key, value));
        if let Some(value) = fact {
            facts.insert(key, value);
        }
    }
    facts
}

/// A fact in the one form in which it is kept and compared; `None` for one of the wrong type or size. Null stands for "not known
/// any more" and suits every key.
pub(super) fn checked(key: &str, value: Value) -> Option<Value> {
    check::text(key, NAME_CHARS_MAX).ok()?;
    match key {
        _ if value.is_null() => Some(Value::Null),
        "apps" => apps(value),
        "battery_percent" => whole(&value).filter(|percent| (0..=100).contains(percent)).map(|percent| json!(percent)),
        "storage_free_bytes" | "storage_total_bytes" => whole(&value).filter(|bytes| *bytes >= 0).map(|bytes| json!(bytes)),
        "encrypted" | "password_set" | "password_compliant" | "rooted" | "usb_debugging" | "device_admin" => {
            value.is_boolean().then_some(value)
        }
        "model" | "os_version" | "security_patch" | "serial" | "timezone" => {
            value.as_str().is_some_and(|text| check::text(text, NAME_CHARS_MAX).is_ok()).then_some(value)
        }
        _ => (value.to_string().len() <= FACT_BYTES_MAX).then_some(value),
    }
}

/// A whole number, also where its sender writes `57.0`.
fn whole(value: &Value) -> Option<i64> {
    // Numbers beyond 1e15 are refused before, so that the cast is exact.
    value.as_i64().or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64))
}

/// Apps by id, each with its name and version: a phone lists them in any order, and the order means nothing.
fn apps(value: Value) -> Option<Value> {
    let Value::Array(mut apps) = value else { return None };
    if apps.len() > APPS_MAX {
        return None;
    }
    let fits = |app: &Value, field: &str| {
        app[field].is_null() || app[field].as_str().is_some_and(|text| check::text(text, NAME_CHARS_MAX).is_ok())
    };
    apps.retain(|app| app["id"].is_string() && ["id", "name", "version"].iter().all(|field| fits(app, field)));
    apps.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
    Some(Value::Array(apps))
}

/// SHA-256 in hex over the canonical form of facts: equal inventories have equal hashes. Maps here are sorted by key.
pub fn facts_hash(facts: &BTreeMap<String, Value>) -> String {
    let text = serde_json::to_string(facts).unwrap_or_default();
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
