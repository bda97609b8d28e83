//! What a device says of itself by its own accord: status reports, merged into what it said before.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::manifest::Manifest;
use super::report::Report;
use crate::protocol::agent::Detail;

/// Elements of a list at most; more are dropped.
const ELEMENTS_MAX: usize = 5_000;
/// A report's own error texts at most.
const ERRORS_MAX: usize = 100;
/// What is kept of a device at most. Beyond it only what it says of its declarations is kept.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// A text that is kept as a fact at most.
const FACT_BYTES_MAX: usize = 256;

/// Status items that are facts.
const FACTS: [(&str, &str); 7] = [
    ("device.operating-system.version", "os_version"),
    ("device.operating-system.build-version", "build_version"),
    ("device.model.identifier", "product_name"),
    ("device.identifier.serial-number", "serial"),
    ("device.power.battery-health", "battery_health"),
    ("passcode.is-compliant", "passcode_compliant"),
    ("passcode.is-present", "password_set"),
];

/// Everything that a device has said: `{"items": {...}, "errors": [...], "refused": [...]}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    items: Map<String, Value>,
    errors: Vec<Value>,
    /// The names of items that it told and that cannot be kept.
    refused: Vec<String>,
}

/// What a device says of one declaration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    pub server_token: String,
    pub is_active: bool,
    /// `valid`, `invalid` or `unknown`.
    pub valid: String,
    /// The codes of the reasons.
    pub reasons: Vec<String>,
}

/// What the status proves of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Proof {
    /// True where the device has every declaration as it is now.
    pub has_all: bool,
    /// True where, beyond that, each is valid and active.
    pub applies: bool,
    /// What does not work, and why; and what the device does not support.
    pub details: Vec<Detail>,
}

impl Status {
    pub fn from_json(text: &str) -> Status {
        let mut whole: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let mut take = |key: &str| whole.remove(key).unwrap_or_default();
        let items = if let Value::Object(items) = take("items") { items } else { Map::new() };
        let errors = if let Value::Array(errors) = take("errors") { errors } else { Vec::new() };
        let refused = serde_json::from_value(take("refused")).unwrap_or_default();
        Status { items, errors, refused }
    }

    pub fn to_json(&self) -> Value {
        serde_json::json!({"items": self.items, "errors": self.errors, "refused": self.refused})
    }

    /// Takes a report in. A full one replaces what there is; others merge by path, lists of things with identifiers element by element.
    pub fn take(&mut self, report: Report) {
        if report.is_full {
            self.items = Map::new();
            self.refused.clear();
        }
        let Report { items, errors, refused, .. } = report;
        for (name, new) in items {
            match (name.as_str(), self.items.get_mut(&name), new) {
                // What is said of declarations and of capabilities is always said whole.
                ("management", Some(Value::Object(held)), Value::Object(new)) => held.extend(new),
                (_, Some(held), new) => merge(held, new),
                (_, None, mut new) => {
                    settle(&mut new);
                    self.items.insert(name, new);
                }
            }
        }
        self.errors = errors;
        self.errors.truncate(ERRORS_MAX);
        // What it has told since in a form that can be kept is refused no more.
        let former: Vec<String> = self.refused.drain(..).filter(|name| !refused.contains(name)).collect();
        self.refused = former.into_iter().filter(|name| self.item(name).is_none()).chain(refused).take(ERRORS_MAX).collect();
        if self.to_json().to_string().len() > KEPT_BYTES_MAX {
            self.items.retain(|name, _| name == "management");
            self.errors.clear();
        }
        if self.to_json().to_string().len() > KEPT_BYTES_MAX {
            self.items.clear();
        }
    }

    /// The names of items that it told and that cannot be kept.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// An item by its dotted name.
    pub fn item(&self, name: &str) -> Option<&Value> {
        let mut parts = name.split('.');
        let first = self.items.get(parts.next()?)?;
        parts.try_fold(first, |held, part| held.get(part))
    }

    /// The types of declarations that the device takes, once it has said so.
    pub fn supported(&self) -> Option<BTreeSet<String>> {
        let lists = self.item("management.client-capabilities.supported-payloads.declarations")?.as_object()?;
        Some(lists.values().filter_map(Value::as_array).flatten().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// The names of the status items that the device has.
    pub fn items_supported(&self) -> BTreeSet<String> {
        let names = self.item("management.client-capabilities.supported-payloads.status-items").and_then(Value::as_array);
        names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// True for an iPhone or an iPad, once it has said so.
    pub fn is_phone(&self) -> bool {
        matches!(self.item("device.operating-system.family").and_then(Value::as_str), Some("iOS" | "iPadOS"))
    }

    /// The managed apps, and how far each has come, in the words of ManagedApplicationList; `None` where the device does not tell them.
    pub fn managed_apps(&self) -> Option<BTreeMap<String, String>> {
        let apps = self.item("mdm.app")?.as_array()?;
        let state = |app: &Value| Some((app["identifier"].as_str()?.to_owned(), camel(app["state"].as_str()?)));
        Some(apps.iter().filter_map(state).filter(|(id, state)| id.len() + state.len() <= FACT_BYTES_MAX).collect())
    }

    /// What it says of its declarations, by identifier; `None` where it has not said anything yet.
    pub fn declarations(&self) -> Option<BTreeMap<String, Declared>> {
        let lists = self.item("management.declarations")?.as_object()?;
        let all = lists.values().filter_map(Value::as_array).flatten();
        Some(all.filter_map(|one| Some((one["identifier"].as_str()?.to_owned(), declared(one)))).collect())
    }

    /// What of it is kept as facts of the device.
    pub fn facts(&self) -> BTreeMap<String, Value> {
        let plain = FACTS.iter().filter_map(|(item, fact)| Some(((*fact).to_owned(), self.item(item)?.clone())));
        let is_short = |value: &Value| value.is_boolean() || value.as_str().is_some_and(|text| text.len() <= FACT_BYTES_MAX);
        let mut facts: BTreeMap<String, Value> = plain.filter(|(_, value)| is_short(value)).collect();
        if let Some(apps) = self.managed_apps() {
            facts.insert("managed_apps".into(), serde_json::json!(apps));
        }
        if let Some(present) = facts.get("password_set").cloned().filter(|_| self.is_phone()) {
            // Data protection of an iPhone works with a passcode alone.
            facts.insert("encrypted".into(), present);
        }
        facts
    }

    /// What all that proves. `assigned` is everything that the device should have, `manifest` what of it its system supports.
    pub fn prove(&self, assigned: &Manifest, manifest: &Manifest) -> Proof {
        let said = self.declarations();
        let known = said.clone().unwrap_or_default();
        let mut details = Vec::new();
        let detail = |setting: &str, reason: &str| Detail { setting: setting.to_owned(), reason: reason.to_owned(), current: None };
        let (mut has_all, mut all_work) = (said.is_some(), true);
        for one in manifest.declarations() {
            let Some(state) = known.get(&one.identifier).filter(|state| state.server_token == one.server_token) else {
                has_all = false;
                continue;
            };
            let works = state.valid == "valid" && (state.is_active || !one.kind.needs_activation());
            all_work &= works;
            if !works && (state.valid == "invalid" || !state.reasons.is_empty()) {
                details.push(detail(&one.identifier, state.reasons.first().map_or("Error.Unknown", String::as_str)));
            }
        }
        let missing = assigned.declarations().iter().filter(|one| !manifest.declarations().contains(one));
        details.extend(missing.map(|one| detail(&one.identifier, "Error.ConfigurationNotSupported")));
        Proof { has_all, applies: has_all && all_work && details.is_empty(), details }
    }
}

/// `prompting-for-login` as `PromptingForLogin`.
fn camel(kebab: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    kebab.split('-').map(word).collect()
}

fn declared(one: &Value) -> Declared {
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let reasons = one["reasons"].as_array().into_iter().flatten().filter_map(|reason| reason["code"].as_str()).map(str::to_owned);
    Declared {
        server_token: text("server-token"),
        is_active: one["active"].as_bool().unwrap_or_default(),
        valid: text("valid"),
        reasons: reasons.take(8).collect(),
    }
}

fn merge(held: &mut Value, new: Value) {
    match (held, new) {
        (Value::Object(held), Value::Object(new)) => {
            for (name, new) in new {
                match held.get_mut(&name) {
                    Some(held) => merge(held, new),
                    None => {
                        let mut new = new;
                        settle(&mut new);
                        held.insert(name, new);
                    }
                }
            }
        }
        (Value::Array(held), Value::Array(new)) if is_keyed(&new) && is_keyed(held) => {
            let mut known: BTreeMap<String, Value> = held.drain(..).filter_map(|one| Some((key_of(&one)?, one))).collect();
            for one in new {
                let Some(key) = key_of(&one) else { continue };
                match known.get_mut(&key) {
                    _ if is_removed(&one) => drop(known.remove(&key)),
                    Some(held) => merge(held, one),
                    None => drop(known.insert(key, one)),
                }
            }
            held.extend(known.into_values().take(ELEMENTS_MAX));
        }
        (held, mut new) => {
            settle(&mut new);
            *held = new;
        }
    }
}

/// What is said for the first time: without what it says is gone.
fn settle(new: &mut Value) {
    match new {
        Value::Array(elements) => {
            elements.retain(|one| !is_removed(one));
            elements.truncate(ELEMENTS_MAX);
        }
        Value::Object(map) => map.values_mut().for_each(settle),
        _ => {}
    }
}

fn is_keyed(elements: &[Value]) -> bool {
    elements.iter().all(|one| key_of(one).is_some())
}

fn key_of(one: &Value) -> Option<String> {
    one.get("identifier")?.as_str().map(str::to_owned)
}

fn is_removed(one: &Value) -> bool {
    one.get("_removed").and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn took(reports: &[Value]) -> Status {
        let mut status = Status::default();
        for report in reports {
            status.take(Report::read(report.to_string().as_bytes()).unwrap());
        }
        status
    }

    #[test]
    fn reports_merge_by_path_and_lists_by_identifier() {
        let app = |id: &str, state: &str| json!({"identifier": id, "state": state});
        let status = took(&[
            json!({"StatusItems": {"device": {"operating-system": {"version": "18.1", "family": "iOS"}}, "mdm": {"app": [app("a", "managed"), app("b", "installing")]}}}),
            json!({"StatusItems": {"device": {"operating-system": {"version": "18.2"}}, "mdm": {"app": [{"identifier": "a", "_removed": true}, app("b", "managed"), app("c", "queued")]}}, "New": [1]}),
        ]);
        assert_eq!(status.item("device.operating-system.version"), Some(&json!("18.2")));
        assert_eq!(status.item("device.operating-system.family"), Some(&json!("iOS")));
        assert_eq!(status.item("mdm.app"), Some(&json!([app("b", "managed"), app("c", "queued")])));
        assert_eq!((status.item("mdm.apps"), status.item("")), (None, None));
        assert_eq!(Status::from_json(&status.to_json().to_string()), status);
        let full = took(&[status.to_json(), json!({"StatusItems": {"passcode": {"is-present": true}}, "FullReport": true})]);
        assert_eq!((full.item("mdm.app"), full.item("passcode.is-present")), (None, Some(&json!(true))));
    }

    #[test]
    fn what_is_said_of_declarations_is_always_the_whole() {
        let one = |id: &str| json!({"identifier": id, "server-token": "t", "active": true, "valid": "valid"});
        let status = took(&[
            json!({"StatusItems": {"management": {"declarations": {"configurations": [one("a"), one("b")], "activations": [one("x")]}, "client-capabilities": {"supported-payloads": {"declarations": {"configurations": ["c"]}}}}}}),
            json!({"StatusItems": {"management": {"declarations": {"configurations": [one("b")]}}}}),
        ]);
        assert_eq!(status.declarations().unwrap().into_keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(status.supported(), Some(BTreeSet::from(["c".to_owned()])));
        assert_eq!(took(&[]).supported(), None);
    }

    #[test]
    fn only_what_is_active_valid_and_of_our_present_token_proves_anything() {
        let document = json!({"declarations": [
            {"Type": "com.apple.configuration.management.test", "Identifier": "c", "Payload": {}},
            {"Type": "com.apple.management.properties", "Identifier": "m", "Payload": {}},
        ]});
        let manifest = Manifest::of(&document, None, "https://mdm.example.org");
        let tokens: Vec<String> = manifest.declarations().iter().map(|one| one.server_token.clone()).collect();
        let prove = |active: bool, valid: &str, token: &str, reasons: Value| {
            let said = json!({"configurations": [{"identifier": "c", "server-token": token, "active": active, "valid": valid, "reasons": reasons}],
                "management": [{"identifier": "m", "server-token": tokens[1], "active": false, "valid": "valid"}]});
            let proof = took(&[json!({"StatusItems": {"management": {"declarations": said}}})]).prove(&manifest, &manifest);
            (proof.has_all, proof.applies, proof.details.iter().map(|detail| detail.reason.clone()).collect::<Vec<_>>())
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(prove(true, "valid", &tokens[0], json!([])), (true, true, none.clone()));
        assert_eq!(prove(true, "valid", "an older one", json!([])), (false, false, none.clone()));
        assert_eq!(prove(true, "unknown", &tokens[0], json!([])), (true, false, none));
        let invalid = prove(true, "invalid", &tokens[0], json!([{"code": "Error.ConfigurationIsInvalid"}]));
        assert_eq!(invalid, (true, false, vec!["Error.ConfigurationIsInvalid".to_owned()]));
        let idle = prove(false, "valid", &tokens[0], json!([{"code": "Info.NotReferencedByActivation"}]));
        assert_eq!(idle, (true, false, vec!["Info.NotReferencedByActivation".to_owned()]));
        let silent = Status::default().prove(&manifest, &manifest);
        assert_eq!((silent.has_all, silent.applies), (false, false));
        let supported = BTreeSet::from(["com.apple.management.properties".to_owned()]);
        let less = Manifest::of(&document, Some(&supported), "https://mdm.example.org");
        let said = json!({"StatusItems": {"management": {"declarations": {"management": [{"identifier": "m", "server-token": tokens[1], "valid": "valid"}]}}}});
        let proof = took(&[said]).prove(&manifest, &less);
        assert_eq!((proof.has_all, proof.applies, proof.details[0].setting.as_str()), (true, false, "c"));
        let nothing =
            took(&[json!({"StatusItems": {"management": {"declarations": {}}}})]).prove(&Manifest::default(), &Manifest::default());
        assert!(nothing.applies, "nothing is what it should have");
    }

    #[test]
    fn what_a_device_says_is_bounded_and_strange_things_are_no_error() {
        let long = "x".repeat(1000);
        let apps: Vec<Value> = (0..6000).map(|n| json!({"identifier": format!("{n}"), "name": long})).collect();
        let status = took(&[json!({"StatusItems": {"mdm": {"app": apps}, "management": {"declarations": {}}}})]);
        assert_eq!((status.item("mdm.app"), status.item("management.declarations")), (None, Some(&json!({}))));
        let few: Vec<Value> = (0..6000).map(|n| json!({"identifier": format!("{n}")})).collect();
        let status = took(&[json!({"StatusItems": {"mdm": {"app": few.clone()}}}), json!({"StatusItems": {"mdm": {"app": few}}})]);
        assert_eq!(status.item("mdm.app").unwrap().as_array().unwrap().len(), ELEMENTS_MAX);
        for strange in ["", "[]", "5", "{\"StatusItems\": []}", "{\"Errors\": {}}", &"[".repeat(100_000)] {
            assert!(Report::read(strange.as_bytes()).is_err(), "{strange:.20}");
        }
        let odd = json!({"StatusItems": {"management": [], "mdm": {"app": {"identifier": 5}}, "x": null}, "Errors": [5], "Unknown": {}});
        let odd = took(&[odd.clone(), json!({"StatusItems": {"management": {"declarations": [], "x": 1}, "mdm": {"app": [5]}}}), odd]);
        assert_eq!((odd.declarations(), odd.supported()), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Ok(report) = Report::read(&bytes) {
                Status::default().take(report);
            }
        }
    }
}
