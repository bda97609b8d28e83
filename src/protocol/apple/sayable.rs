//! What an XML property list can say of a value.

use plist::{Dictionary, Value};

use crate::model::text;

/// True where XML can say all of a value: its texts and names hold no control characters, and nothing in it is a UID.
pub(super) fn is_sayable(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(is_sayable),
        Value::Dictionary(keys) => are_sayable(keys),
        Value::String(said) => said.chars().all(text::is_sayable),
        Value::Uid(_) => false,
        _ => true,
    }
}

/// The same of a dictionary.
pub(super) fn are_sayable(keys: &Dictionary) -> bool {
    keys.iter().all(|(key, value)| key.chars().all(text::is_sayable) && is_sayable(value))
}

/// A value without what XML cannot say; `None` where nothing is left of it.
pub(super) fn sayable(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Array(items) => Value::Array(items.iter().filter_map(sayable).collect()),
        Value::Dictionary(keys) => Value::Dictionary(keys.iter().filter_map(|(key, value)| Some((said(key), sayable(value)?))).collect()),
        Value::String(text) => Value::String(said(text)),
        Value::Uid(_) => return None,
        other => other.clone(),
    })
}

fn said(text: &str) -> String {
    text.chars().filter(|c| text::is_sayable(*c)).collect()
}
