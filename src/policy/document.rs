//! A document's own checks: size, depth, settings, variables.

use serde_json::Value;

use super::catalog::SETTINGS;
use super::settings::{below, fault};
use super::{settings, variables};
use crate::model::{Fault, text};

/// A document's text at most.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// Nesting at most.
pub const DEPTH_MAX: usize = 16;

/// Checks a whole document; every fault with its pointer below `pointer`.
pub fn check(document: &Value, pointer: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    if document.to_string().len() > DOCUMENT_BYTES_MAX {
        fault(&mut faults, pointer, format!("at most {DOCUMENT_BYTES_MAX} bytes"));
        return faults;
    }
    if depth(document) > DEPTH_MAX {
        fault(&mut faults, pointer, format!("nested {DEPTH_MAX} deep at most"));
        return faults;
    }
    if holds_nul(document) {
        fault(&mut faults, pointer, "U+0000 is not allowed");
        return faults;
    }
    if let Some(apple) = document.get("apple") {
        text::unsayable(apple, &below(pointer, "apple"), &mut |found| fault(&mut faults, &found.pointer, found.detail));
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

/// PostgreSQL keeps no text with U+0000.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
