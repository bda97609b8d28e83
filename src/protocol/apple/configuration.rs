//! A policy's payloads as one configuration profile. The same payloads make the same bytes, and its UUIDs change exactly when its content does:
//! a device that lists identifier and UUID has what was made.

use plist::{Dictionary, Value};
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::command::xml;
use super::connect::dictionary_of;
use super::profile::{name_uuid, reversed_host};

/// The identifier of the profile of policies on this server, as declarations bring it.
pub fn declared(base: &str) -> String {
    format!("{}.muster.policy", reversed_host(base))
}

/// The identifier of the one that is given by command, where a device knows no declarations. It is another: a command must not touch what
/// a declaration owns.
pub fn commanded(base: &str) -> String {
    format!("{}.command", declared(base))
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its PayloadUUID, which changes exactly when its content does.
    pub uuid: String,
    pub xml: Vec<u8>,
}

/// The profile of this identifier. What a payload says of itself stands; what it leaves out is made.
pub fn profile(identifier: &str, payloads: &[&Map<String, serde_json::Value>]) -> Profile {
    let mut content = Vec::with_capacity(payloads.len());
    let mut digest = Sha256::new();
    for (n, payload) in payloads.iter().enumerate() {
        let text = serde_json::Value::Object((*payload).clone()).to_string();
        digest.update(text.as_bytes());
        let mut keys = dictionary_of(payload);
        let own = format!("{identifier}.{n}");
        let mut default = |key: &str, value: Value| {
            if !keys.contains_key(key) {
                keys.insert(key.into(), value);
            }
        };
        default("PayloadVersion", Value::Integer(1.into()));
        default("PayloadUUID", Value::String(name_uuid(&format!("{own}/{text}"))));
        default("PayloadIdentifier", Value::String(own));
        content.push(Value::Dictionary(keys));
    }
    let whole: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = name_uuid(&format!("{identifier}/{whole}"));
    let mut outer = Dictionary::new();
    let mut text = |key: &str, value: &str| outer.insert(key.into(), Value::String(value.into()));
    text("PayloadType", "Configuration");
    text("PayloadUUID", &uuid);
    text("PayloadIdentifier", identifier);
    text("PayloadDisplayName", "Policies");
    text("PayloadDescription", "What your organisation has set for this device.");
    text("PayloadScope", "System");
    outer.insert("PayloadVersion".into(), Value::Integer(1.into()));
    outer.insert("PayloadContent".into(), Value::Array(content));
    Profile { uuid, xml: xml(&Value::Dictionary(outer)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::apple::reading;
    use serde_json::json;

    fn read(payloads: &[serde_json::Value]) -> (Dictionary, Vec<Dictionary>) {
        let maps: Vec<_> = payloads.iter().filter_map(serde_json::Value::as_object).collect();
        let outer = reading::dictionary(&profile(&declared("https://mdm.example.org"), &maps).xml).unwrap();
        let inner = outer.get("PayloadContent").and_then(Value::as_array).unwrap();
        let inner = inner.iter().filter_map(Value::as_dictionary).cloned().collect();
        (outer, inner)
    }

    #[test]
    fn what_a_payload_leaves_out_is_made_and_changes_with_the_content_alone() {
        let camera = json!({"PayloadType": "com.apple.applicationaccess", "allowCamera": false});
        let root = json!({"PayloadType": "com.apple.security.root", "PayloadIdentifier": "mine", "PayloadContent": {"$data": "AQI="}});
        let (outer, inner) = read(&[camera.clone(), root.clone()]);
        let text = |of: &Dictionary, key: &str| of.get(key).and_then(Value::as_string).unwrap().to_owned();
        assert_eq!(text(&outer, "PayloadIdentifier"), "org.example.mdm.muster.policy");
        assert_eq!(
            (text(&inner[0], "PayloadIdentifier"), text(&inner[1], "PayloadIdentifier")),
            ("org.example.mdm.muster.policy.0".into(), "mine".into())
        );
        assert_eq!(inner[1].get("PayloadContent").and_then(Value::as_data), Some([1, 2].as_slice()));
        assert_eq!(read(&[camera.clone(), root.clone()]).0, outer);
        let (other, changed) = read(&[json!({"PayloadType": "com.apple.applicationaccess", "allowCamera": true}), root]);
        assert_ne!(text(&other, "PayloadUUID"), text(&outer, "PayloadUUID"));
        assert_ne!(text(&changed[0], "PayloadUUID"), text(&inner[0], "PayloadUUID"));
        assert_eq!(changed[1], inner[1], "the other is as it was");
    }

    #[test]
    fn what_a_variable_stood_for_does_not_break_the_profile() {
        let document = json!({"PayloadType": "com.apple.webClip.managed", "Label": "of {{user.name}}"});
        let resolved = crate::policy::variables::resolve(&document, &|_: &str| Some("<A\u{1}n\u{fffe}na>".into())).unwrap();
        let (_, inner) = read(&[resolved]);
        assert_eq!(inner[0].get("Label").and_then(Value::as_string), Some("of <Anna>"));
    }
}
