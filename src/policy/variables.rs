//! `{{user.email}}` and its like: found, checked, resolved. A variable without a value holds the policy; it is never delivered empty.

use std::collections::BTreeSet;

use serde_json::Value;

use super::settings::{below, fault, nearest, shown};
use crate::model::Fault;

/// Every variable but `user.attributes.NAME` and `token:NAME`.
pub const NAMES: &[&str] = &[
    "user.email",
    "user.name",
    "user.id",
    "device.id",
    "device.serial",
    "device.model",
    "device.os_version",
    "device.platform",
    "server.address",
];
const ATTRIBUTE: &str = "user.attributes.";
/// `{{token:NAME}}`: a one-time enrollment token of this device, derived from the enrollment token of that name.
pub const TOKEN: &str = "token:";

/// Where the values come from.
pub trait Values {
    /// The value of a variable, `None` where there is none or it is empty.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Values for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name).filter(|value| !value.is_empty())
    }
}

/// The names of all variables in a document, sorted.
pub fn names(document: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(document, "", &mut |_, text| found.extend(references(text).map(|(_, name)| name.to_owned())));
    found
}

/// Notes every variable that does not exist, that was not closed, or that stands in a name, where nothing replaces it.
pub fn check(document: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    walk(document, pointer, &mut |at, text| {
        if unclosed(text) {
            fault(faults, at, "`{{` opens a variable and `}}` closes it: one is left open");
        }
        for (_, name) in references(text) {
            let rest = name.strip_prefix(ATTRIBUTE).or_else(|| name.strip_prefix(TOKEN));
            let known = NAMES.contains(&name) || rest.is_some_and(|key| !key.is_empty());
            let name = shown(name);
            if name.starts_with("secret:") {
                fault(faults, at, format!("{{{{{name}}}}} is not available yet"));
            } else if !known {
                let names = NAMES.iter().copied().chain(["user.attributes.NAME", "token:NAME"]);
                fault(faults, at, format!("there is no variable {name:?}{}", nearest(&name, names)));
            }
        }
    });
    keys(document, pointer, &mut |at, key| {
        if key.contains("{{") {
            fault(faults, at, "a variable stands in a value, not in a name");
        }
    });
}

/// The document with every variable replaced inside its texts, or the first variable that has no value.
pub fn resolve(document: &Value, values: &impl Values) -> Result<Value, String> {
    Ok(match document {
        Value::String(text) => Value::String(replaced(text, values)?),
        Value::Array(items) => Value::Array(items.iter().map(|item| resolve(item, values)).collect::<Result<_, _>>()?),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| Ok((key.clone(), resolve(value, values)?))).collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

fn replaced(text: &str, values: &impl Values) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (range, name) in references(text) {
        out.push_str(&text[from..range.start]);
        out.push_str(&values.get(name).ok_or_else(|| name.to_owned())?);
        from = range.end;
    }
    out.push_str(&text[from..]);
    Ok(out)
}

fn unclosed(text: &str) -> bool {
    let end = references(text).last().map_or(0, |(range, _)| range.end);
    text[end..].contains("{{")
}

/// Each `{{name}}` of a text with its place.
fn references(text: &str) -> impl Iterator<Item = (std::ops::Range<usize>, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text.get(from..)?.find("{{")?;
        let end = start + text[start..].find("}}")? + 2;
        from = end;
        Some((start..end, text[start + 2..end - 2].trim()))
    })
}

fn walk(value: &Value, pointer: &str, seen: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => seen(pointer, text),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| walk(item, &format!("{pointer}/{at}"), seen)),
        Value::Object(map) => map.iter().for_each(|(key, item)| walk(item, &below(pointer, key), seen)),
        _ => {}
    }
}

fn keys(value: &Value, pointer: &str, seen: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| keys(item, &format!("{pointer}/{at}"), seen)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            let at = below(pointer, key);
            seen(&at, key);
            keys(item, &at, seen);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn values_go_into_texts_and_cannot_break_out_of_them() {
        let document = json!({"a": "x {{user.email}} y {{ device.id }}", "b": ["{{user.email}}"], "c": "{{", "d": 1});
        let resolved = resolve(&document, &|name: &str| Some(format!("\"}}{name}"))).unwrap();
        assert_eq!(resolved, json!({"a": "x \"}user.email y \"}device.id", "b": ["\"}user.email"], "c": "{{", "d": 1}));
        assert_eq!(names(&document).into_iter().collect::<Vec<_>>(), ["device.id", "user.email"]);
    }

    #[test]
    fn a_variable_without_a_value_holds_the_document() {
        let values = |name: &str| (name == "user.email").then(String::new);
        assert_eq!(resolve(&json!("{{user.email}}"), &values), Err("user.email".to_owned()));
    }

    fn details(document: Value) -> Vec<String> {
        let mut faults = Vec::new();
        check(&document, "", &mut faults);
        faults.into_iter().map(|fault| format!("{} {}", fault.pointer, fault.detail)).collect()
    }

    #[test]
    fn a_variable_that_is_none_is_told_with_its_place_and_the_nearest_name() {
        assert_eq!(details(json!({"a": "{{user.email}} {{ user.attributes.room }} {{server.address}}"})), [""; 0]);
        assert_eq!(
            details(json!({"a/b": ["{{device.serail}}"]})),
            ["/a~1b/0 there is no variable \"device.serail\"; did you mean \"device.serial\"?"]
        );
        assert_eq!(details(json!({"a": "{{token:some phones}}"})), [""; 0]);
        assert!(details(json!({"a": "{{token:}}"}))[0].contains("there is no variable"));
        assert_eq!(details(json!({"a": "{{secret:wifi}}"})), ["/a {{secret:wifi}} is not available yet"]);
        assert_eq!(details(json!({"a": "{{}}"})), ["/a there is no variable \"\""]);
        assert!(details(json!({"a": "{{user.attributes.}}"}))[0].contains("user.attributes.NAME"));
        assert!(details(json!({"a": "{{user.email}"}))[0].contains("left open"));
        assert!(details(json!({"{{user.email}}": 1}))[0].contains("not in a name"));
    }

    proptest! {
        #[test]
        fn what_passes_the_check_is_resolved_without_a_brace_left(
            text in proptest::collection::vec(prop_oneof![
                Just("{{user.email}}"), Just("{{ device.id }}"), Just("{{user.attributes.room}}"), Just("{{"), Just("}}"), Just("{"), Just("}"),
                Just("x"), Just("{{user.nobody}}"), Just("\"\\"),
            ], 0..8).prop_map(|parts| parts.concat()),
        ) {
            let document = json!({"t": text, "l": [text]});
            if details(document.clone()).is_empty() {
                let resolved = resolve(&document, &|_: &str| Some("v".into())).unwrap();
                prop_assert!(!resolved["t"].as_str().unwrap().contains("{{") && resolved["t"] == resolved["l"][0], "{resolved}");
                let missing = resolve(&document, &|_: &str| None);
                prop_assert_eq!(missing.is_err(), !names(&document).is_empty());
            }
        }

        #[test]
        fn a_value_stays_within_its_text(value in any::<String>()) {
            prop_assume!(!value.is_empty());
            let resolved = resolve(&json!({"t": "<{{user.name}}>", "n": 1}), &|_: &str| Some(value.clone())).unwrap();
            let again: Value = serde_json::from_str(&resolved.to_string()).unwrap();
            prop_assert_eq!(again, json!({"t": format!("<{value}>"), "n": 1}));
        }
    }
}
