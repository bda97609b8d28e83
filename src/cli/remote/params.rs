//! Parameters of a task as they are typed in a shell.

use serde_json::{Map, Value, json};

use crate::model::kind::Kind;

/// A PIN is a text, however much it looks like a number: what the kind refuses as what it reads as, and takes as a text, is one.
pub(super) fn read_params(kind: &str, given: &[(&str, &str)]) -> Map<String, Value> {
    let read = |value: &str| serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    let mut params: Map<String, Value> = given.iter().map(|(name, value)| ((*name).to_owned(), read(value))).collect();
    let Some(kind) = Kind::named(kind) else { return params };
    let is_wrong = |params: &Map<String, Value>, name: &str| {
        let pointer = format!("/params/{name}");
        kind.check(params).iter().any(|fault| fault.pointer == pointer)
    };
    for (name, value) in given {
        if is_wrong(&params, name) {
            let mut as_text = params.clone();
            as_text.insert((*name).to_owned(), json!(value));
            if !is_wrong(&as_text, name) {
                params = as_text;
            }
        }
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_what_its_kind_takes() {
        let read = |kind, given| Value::Object(read_params(kind, given));
        assert_eq!(read("lock", &[("pin", "123456"), ("message", "true")]), json!({"pin": "123456", "message": "true"}));
        assert_eq!(read("lock", &[("pin", "1e5")]), json!({"pin": "1e5"}), "as it was typed");
        assert_eq!(read("lock", &[("pine", "1")]), json!({"pine": 1}), "a wrong name is the server's to tell");
        assert_eq!(
            read("apple_command", &[("command", r#"{"RequestType": "DeviceLock"}"#)]),
            json!({"command": {"RequestType": "DeviceLock"}})
        );
    }
}
