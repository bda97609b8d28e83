//! A status report as it comes, item by item: what no database keeps is left out, and everything else is taken.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::protocol::agent::{Members, storable};

/// Nested so deep an item is taken.
const DEPTH_MAX: usize = 64;
/// So many refused items are named, each with so many characters.
const REFUSED_MAX: usize = 100;
const PATH_CHARS_MAX: usize = 200;

/// A report that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data is no status report")]
pub struct Unreadable;

/// A report; what is not known in it is left alone.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(super) items: Map<String, Value>,
    pub(super) errors: Vec<Value>,
    pub(super) is_full: bool,
    /// The dotted names of items that were left out: they hold U+0000, half of a surrogate pair, or a number out of range. What is in a
    /// list goes by the list's name.
    pub(super) refused: Vec<String>,
}

impl Report {
    pub fn read(bytes: &[u8]) -> Result<Report, Unreadable> {
        let whole: Members = serde_json::from_slice(bytes).map_err(|_| Unreadable)?;
        let mut report = Report::default();
        for (name, raw) in whole.named() {
            let mut sieve = Sieve::default();
            match (name.as_str(), sieve.read(raw, "", 0)) {
                ("StatusItems", Some(Value::Object(items))) => (report.items, report.refused) = (items, sieve.refused),
                ("Errors", Some(Value::Array(errors))) => report.errors = errors,
                ("FullReport", Some(Value::Bool(is_full))) => report.is_full = is_full,
                ("StatusItems" | "Errors" | "FullReport", _) => return Err(Unreadable),
                _ => {}
            }
        }
        Ok(report)
    }

    /// The dotted names of what was left out.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}

/// What does not pass.
#[derive(Default)]
struct Sieve {
    refused: Vec<String>,
}

impl Sieve {
    fn refuse(&mut self, path: &str) {
        let path: String = path.chars().filter(|c| *c != '\0').take(PATH_CHARS_MAX).collect();
        if self.refused.len() < REFUSED_MAX && !self.refused.contains(&path) {
            self.refused.push(path);
        }
    }

    /// Reads a value; where it cannot be read as a whole, by its parts.
    fn read(&mut self, raw: &RawValue, path: &str, depth: usize) -> Option<Value> {
        let text = raw.get();
        if let Ok(mut value) = serde_json::from_str::<Value>(text) {
            return self.passes(&mut value, path, depth).then_some(value);
        }
        if depth < DEPTH_MAX
            && let Ok(members) = serde_json::from_str::<Members>(text)
        {
            let read = |(name, raw): (String, &RawValue)| {
                let path = below(path, &name);
                if name.contains('\0') {
                    self.refuse(&path);
                    return None;
                }
                Some((name, self.read(raw, &path, depth + 1)?))
            };
            return Some(Value::Object(members.named().filter_map(read).collect()));
        }
        if depth < DEPTH_MAX
            && let Ok(elements) = serde_json::from_str::<Vec<Box<RawValue>>>(text)
        {
            let elements = elements.iter().filter_map(|raw| self.read(raw, path, depth + 1).filter(|read| is_whole(raw, read)));
            return Some(Value::Array(elements.collect()));
        }
        self.refuse(path);
        None
    }

    /// Takes out of a value whatever does not pass; false where nothing is left of it.
    fn passes(&mut self, value: &mut Value, path: &str, depth: usize) -> bool {
        match value {
            Value::Object(_) | Value::Array(_) if depth >= DEPTH_MAX => {
                self.refuse(path);
                false
            }
            Value::Object(members) => {
                members.retain(|name, value| {
                    let path = below(path, name);
                    let passes = !name.contains('\0') && self.passes(value, &path, depth + 1);
                    if name.contains('\0') {
                        self.refuse(&path);
                    }
                    passes
                });
                true
            }
            Value::Array(elements) => {
                elements.retain_mut(|element| {
                    let was_named = element.get("identifier").is_some();
                    // Without the name by which it is known, nothing can be said of an element.
                    self.passes(element, path, depth + 1) && was_named == element.get("identifier").is_some()
                });
                true
            }
            plain => {
                let passes = storable(plain).is_ok();
                if !passes {
                    self.refuse(path);
                }
                passes
            }
        }
    }
}

/// False for an element that has lost the name by which it is known.
fn is_whole(raw: &RawValue, read: &Value) -> bool {
    let was_named = serde_json::from_str::<Members>(raw.get()).is_ok_and(|members| members.named().any(|(name, _)| name == "identifier"));
    was_named == read.get("identifier").is_some()
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_database_keeps_is_left_out_by_itself_however_it_is_written() {
        for bad in [r#""a\u0000b""#, r#""\ud800""#, "1e999", "123456789012345678901234567890e300"] {
            let text = format!(
                r#"{{"StatusItems": {{"device": {{"good": 1, "bad": {bad}}}, "mdm": {{"app": [{{"identifier": "a", "state": {bad}}}, {{"identifier": {bad}}}, {bad}, "c"]}}}}}}"#
            );
            let report = Report::read(text.as_bytes()).unwrap();
            assert_eq!(Value::Object(report.items), json!({"device": {"good": 1}, "mdm": {"app": [{"identifier": "a"}, "c"]}}), "{bad}");
            assert_eq!(report.refused, ["device.bad", "mdm.app.state", "mdm.app.identifier", "mdm.app"], "{bad}");
        }
        let named = Report::read(br#"{"StatusItems": {"a\u0000": 1, "b": {"c": true}}, "FullReport": true}"#).unwrap();
        assert_eq!((Value::Object(named.items), named.refused, named.is_full), (json!({"b": {"c": true}}), vec!["a".to_owned()], true));
    }

    #[test]
    fn what_is_no_report_is_none_and_depth_is_bounded() {
        for wrong in ["", "[]", "{", "1", r#"{"StatusItems": 1}"#, r#"{"Errors": {}}"#, r#"{"FullReport": "yes"}"#] {
            assert_eq!(Report::read(wrong.as_bytes()).unwrap_err(), Unreadable, "{wrong}");
        }
        let deep = format!(r#"{{"StatusItems": {{"a": {}{}, "b": 1}}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        let report = Report::read(deep.as_bytes()).unwrap();
        assert_eq!((&report.items["b"], report.refused), (&json!(1), vec!["a".to_owned()]));
    }
}
