//! `{{user.email}}` and its like: found, checked, resolved. A variable without a value holds the policy; it is never delivered empty.

use std::collections::BTreeSet;

use serde_json::Value;

use super::settings::{fault, nearest};
use crate::model::Fault;

/// Every variable but `user.attributes.NAME`.
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

/// Notes every variable that does not exist.
pub fn check(document: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    walk(document, pointer, &mut |at, text| {
        for (_, name) in references(text) {
            let known = NAMES.contains(&name) || name.strip_prefix(ATTRIBUTE).is_some_and(|key| !key.is_empty());
            if name.starts_with("token:") || name.starts_with("secret:") {
                fault(faults, at, format!("{{{{{name}}}}} is not available yet"));
            } else if !known {
                fault(faults, at, format!("there is no variable {name:?}{}", nearest(name, NAMES.iter().copied())));
            }
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

/// Each `{{name}}` of a text with its place; a lone `{{` is text.
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
        Value::Object(map) => map.iter().for_each(|(key, item)| walk(item, &format!("{pointer}/{key}"), seen)),
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

    proptest! {
        #[test]
        fn what_is_resolved_holds_no_variable_that_was_known(text in "[a-z{} .]{0,60}") {
            let document = json!({"t": text});
            let resolved = resolve(&document, &|_: &str| Some("v".into()));
            let again = resolve(&document, &|_: &str| Some("v".into()));
            prop_assert_eq!(&resolved, &again);
            let left = names(&resolved.unwrap_or_default());
            // Replacing may join braces that stood apart, but never leaves one of the variables it was asked for.
            prop_assert!(left.len() <= names(&document).len());
        }
    }
}
