//! What declarations refer to and this server holds: the data of assets, and the profile that a policy's payloads make. Each is found by the
//! hash of its bytes, and fetched by the devices that are declared it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::manifest::hex;
use crate::protocol::apple::configuration;

/// Where contents are served, below the server's address.
pub const PATH: &str = "/mdm/assets/";
/// The declaration that brings the policy's profile.
pub const PROFILE: &str = "muster.profile";
/// Its type; a system that does not know it takes profiles by command alone.
pub const PROFILE_TYPE: &str = "com.apple.configuration.legacy";
/// The activation that puts it in force.
pub const PROFILE_ACTIVATION: &str = "muster.profile.activation";

/// True for the declarations that bring the policy's profile.
pub fn is_of_profile(identifier: &str) -> bool {
    identifier == PROFILE || identifier == PROFILE_ACTIVATION
}

/// Bytes that a declaration refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// SHA-256, lower-case hex.
    pub hash: String,
    pub content_type: String,
    pub bytes: Vec<u8>,
    /// True for a profile, which is signed when it is served.
    pub is_profile: bool,
}

impl Content {
    fn of(bytes: Vec<u8>, content_type: &str, is_profile: bool) -> Content {
        Content { hash: hex(&Sha256::digest(&bytes)), content_type: content_type.to_owned(), bytes, is_profile }
    }

    fn url(&self, base: &str) -> String {
        format!("{}{PATH}{}", base.trim_end_matches('/'), self.hash)
    }
}

/// Takes the data out of an asset's payload and puts in its place where it is to be fetched, how long it is, and its hash. A payload
/// that refers to something elsewhere is left as it is.
pub(super) fn taken(payload: &mut Value, base: &str) -> Option<Content> {
    let reference = payload.get_mut("Reference")?.as_object_mut()?;
    let text = |key: &str| reference.get(key).and_then(Value::as_str);
    let bytes = match (text("Data"), text("Text")) {
        (Some(data), _) => STANDARD.decode(data.trim()).ok()?,
        (None, Some(words)) => words.as_bytes().to_vec(),
        (None, None) => return None,
    };
    let content = Content::of(bytes, text("ContentType").unwrap_or("application/octet-stream"), false);
    reference.retain(|key, _| !matches!(key.as_str(), "Data" | "Text"));
    let more = json!({"DataURL": content.url(base), "ContentType": content.content_type, "Size": content.bytes.len(), "Hash-SHA-256": content.hash});
    reference.extend(more.as_object().cloned().unwrap_or_default());
    if let Some(payload) = payload.as_object_mut() {
        // Nobody but the device itself is answered.
        payload.entry("Authentication").or_insert_with(|| json!({"Type": "MDM"}));
    }
    Some(content)
}

/// The declarations that bring a policy's payloads as one profile, with that profile.
pub(super) fn profile(payloads: &[Value], base: &str) -> [(Value, Option<Content>); 2] {
    let payloads: Vec<&Map<String, Value>> = payloads.iter().filter_map(Value::as_object).collect();
    let profile = configuration::profile(&configuration::declared(base), &payloads);
    let content = Content::of(profile.xml, "application/x-apple-aspen-config", true);
    let legacy = json!({"Type": PROFILE_TYPE, "Identifier": PROFILE, "Payload": {"ProfileURL": content.url(base)}});
    let activation =
        json!({"Type": "com.apple.activation.simple", "Identifier": PROFILE_ACTIVATION, "Payload": {"StandardConfigurations": [PROFILE]}});
    [(legacy, Some(content)), (activation, None)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assets_data_is_served_by_its_hash_and_what_is_elsewhere_stays_there() {
        let mut payload = json!({"Reference": {"ContentType": "text/plain", "Text": "hello"}});
        let content = taken(&mut payload, "https://mdm.example.org/").unwrap();
        assert_eq!((content.bytes.as_slice(), content.content_type.as_str()), (b"hello".as_slice(), "text/plain"));
        let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(
            payload,
            json!({"Authentication": {"Type": "MDM"}, "Reference": {
                "ContentType": "text/plain", "DataURL": format!("https://mdm.example.org/mdm/assets/{hash}"), "Size": 5, "Hash-SHA-256": hash}})
        );
        let mut bytes = json!({"Reference": {"Data": "aGVsbG8="}, "Authentication": {"Type": "None"}});
        assert_eq!(taken(&mut bytes, "https://mdm.example.org").unwrap().hash, hash);
        assert_eq!(bytes["Authentication"]["Type"], "None");
        for elsewhere in [json!({"Reference": {"DataURL": "https://example.org/a"}}), json!({}), json!({"Reference": {"Data": "%"}})] {
            let mut payload = elsewhere.clone();
            assert_eq!(taken(&mut payload, "https://mdm.example.org"), None);
            assert_eq!(payload, elsewhere);
        }
    }
}
