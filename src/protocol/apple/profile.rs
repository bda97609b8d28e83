//! The enrollment profile: trust roots, the identity that SCEP issues, and the management itself.

use plist::{Dictionary, Value};
use uuid::Uuid;

use super::command::xml;

/// Every right: what a device is asked and told is decided by the server.
const ACCESS_RIGHTS: i64 = 8191;
const KEY_BITS: i64 = 2048;
/// How the identifiers of enrollment profiles end.
const ENROLLMENT: &str = ".muster.enrollment";
/// Signing and encryption.
const KEY_USAGE: i64 = 5;

/// What a profile is made of.
#[derive(Clone, Debug)]
pub struct Enrollment<'a> {
    /// `https://mdm.example.org`, without a slash at the end.
    pub public_url: &'a str,
    /// The APNs topic of the push certificate.
    pub topic: &'a str,
    /// The one-time challenge of this download.
    pub challenge: &'a str,
    /// The certificates that the device shall trust, DER: the device CA's chain.
    pub roots: &'a [Vec<u8>],
    /// The fingerprint of the CA that answers at the SCEP address, SHA-256.
    pub ca_fingerprint: Option<&'a [u8]>,
    pub sign_message: bool,
}

/// The identifier of the outer profile: one of the same identifier replaces it, and its removal ends the management.
pub fn identifier(public_url: &str) -> String {
    format!("{}{ENROLLMENT}", reversed_host(public_url))
}

/// True for an identifier of [`identifier`], whatever the server's address was when the device enrolled.
pub fn is_enrollment(identifier: &str) -> bool {
    identifier.to_ascii_lowercase().ends_with(ENROLLMENT)
}

/// The host of an address as identifiers begin: `org.example.mdm`.
pub(super) fn reversed_host(public_url: &str) -> String {
    let host = public_url.split("://").nth(1).unwrap_or(public_url);
    let host = host.split(['/', ':']).next().unwrap_or(host);
    let reversed: Vec<&str> = host.split('.').rev().filter(|part| !part.is_empty()).collect();
    reversed.join(".")
}

impl Enrollment<'_> {
    /// The unsigned profile, XML. Its UUIDs are the same for the same server, so that a renewal replaces what it renews; the
    /// identity's is another with every challenge.
    pub fn to_xml(&self) -> Vec<u8> {
        let identifier = identifier(self.public_url);
        let uuid = |part: &str| name_uuid(&format!("{identifier}/{part}"));
        let identity = uuid(&format!("identity/{}", self.challenge));
        let mut content = Vec::new();
        for (n, root) in self.roots.iter().enumerate() {
            let mut payload = payload("com.apple.security.root", &format!("{identifier}.root.{n}"), &uuid(&format!("root/{n}")));
            payload.insert("PayloadContent".into(), Value::Data(root.clone()));
            content.push(Value::Dictionary(payload));
        }
        content.push(Value::Dictionary(self.scep(&identifier, &identity)));
        content.push(Value::Dictionary(self.mdm(&identifier, &uuid("mdm"), &identity)));
        let mut outer = payload("Configuration", &identifier, &uuid("profile"));
        let text = |value: &str| Value::String(value.to_owned());
        outer.insert("PayloadDisplayName".into(), text("Device management"));
        outer.insert("PayloadDescription".into(), text("Lets your organisation manage this device."));
        outer.insert("PayloadOrganization".into(), text("Muster"));
        outer.insert("PayloadScope".into(), text("System"));
        outer.insert("PayloadContent".into(), Value::Array(content));
        xml(&Value::Dictionary(outer))
    }

    fn scep(&self, identifier: &str, uuid: &str) -> Dictionary {
        let text = |value: &str| Value::String(value.to_owned());
        let pair = |oid: &str, value: &str| Value::Array(vec![Value::Array(vec![text(oid), text(value)])]);
        let mut settings = Dictionary::new();
        settings.insert("URL".into(), text(&format!("{}/mdm/scep", self.public_url)));
        settings.insert("Name".into(), text("Muster"));
        settings.insert("Subject".into(), Value::Array(vec![pair("O", "Muster"), pair("CN", "%SerialNumber%")]));
        settings.insert("Challenge".into(), text(self.challenge));
        settings.insert("Keysize".into(), Value::Integer(KEY_BITS.into()));
        settings.insert("Key Type".into(), text("RSA"));
        settings.insert("Key Usage".into(), Value::Integer(KEY_USAGE.into()));
        settings.insert("Retries".into(), Value::Integer(3.into()));
        settings.insert("RetryDelay".into(), Value::Integer(10.into()));
        if let Some(fingerprint) = self.ca_fingerprint {
            settings.insert("CAFingerprint".into(), Value::Data(fingerprint.to_vec()));
        }
        let mut payload = payload("com.apple.security.scep", &format!("{identifier}.identity"), uuid);
        payload.insert("PayloadContent".into(), Value::Dictionary(settings));
        payload
    }

    fn mdm(&self, identifier: &str, uuid: &str, identity: &str) -> Dictionary {
        let text = |value: String| Value::String(value);
        let capabilities = ["com.apple.mdm.per-user-connections", "com.apple.mdm.bootstraptoken"];
        let mut payload = payload("com.apple.mdm", &format!("{identifier}.mdm"), uuid);
        payload.insert("IdentityCertificateUUID".into(), text(identity.to_owned()));
        payload.insert("Topic".into(), text(self.topic.to_owned()));
        payload.insert("ServerURL".into(), text(format!("{}/mdm/connect", self.public_url)));
        payload.insert("CheckInURL".into(), text(format!("{}/mdm/checkin", self.public_url)));
        payload.insert("SignMessage".into(), Value::Boolean(self.sign_message));
        payload.insert("AccessRights".into(), Value::Integer(ACCESS_RIGHTS.into()));
        payload.insert("CheckOutWhenRemoved".into(), Value::Boolean(true));
        payload.insert("ServerCapabilities".into(), Value::Array(capabilities.map(|name| text(name.to_owned())).to_vec()));
        payload
    }
}

fn payload(kind: &str, identifier: &str, uuid: &str) -> Dictionary {
    let mut payload = Dictionary::new();
    payload.insert("PayloadType".into(), Value::String(kind.into()));
    payload.insert("PayloadVersion".into(), Value::Integer(1.into()));
    payload.insert("PayloadIdentifier".into(), Value::String(identifier.into()));
    payload.insert("PayloadUUID".into(), Value::String(uuid.into()));
    payload
}

/// A UUID that a name always has.
pub(super) fn name_uuid(name: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(name.as_bytes())[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().as_hyphenated().encode_upper(&mut Uuid::encode_buffer()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::apple::reading;

    #[test]
    fn a_profile_names_its_identity_and_carries_what_a_device_needs() {
        let enrollment = Enrollment {
            public_url: "https://mdm.example.org",
            topic: "com.apple.mgmt.External.1",
            challenge: "c&1",
            roots: &[vec![1, 2, 3]],
            ca_fingerprint: None,
            sign_message: true,
        };
        let read = reading::dictionary(&enrollment.to_xml()).unwrap();
        assert_eq!(read.get("PayloadIdentifier").and_then(Value::as_string), Some("org.example.mdm.muster.enrollment"));
        assert!(is_enrollment(&identifier("https://mdm.example.org")) && is_enrollment("ORG.example.Muster.Enrollment"));
        assert!(!is_enrollment("org.example.mdm.muster.policy"));
        let content: Vec<&Dictionary> =
            read.get("PayloadContent").unwrap().as_array().unwrap().iter().filter_map(Value::as_dictionary).collect();
        let kinds: Vec<&str> = content.iter().filter_map(|payload| payload.get("PayloadType")?.as_string()).collect();
        assert_eq!(kinds, ["com.apple.security.root", "com.apple.security.scep", "com.apple.mdm"]);
        let (scep, mdm) = (content[1], content[2]);
        assert_eq!(mdm.get("IdentityCertificateUUID"), scep.get("PayloadUUID"));
        assert_eq!(mdm.get("ServerURL").and_then(Value::as_string), Some("https://mdm.example.org/mdm/connect"));
        let settings = scep.get("PayloadContent").and_then(Value::as_dictionary).unwrap();
        assert_eq!(settings.get("Challenge").and_then(Value::as_string), Some("c&1"));
        assert_eq!(settings.get("Keysize").and_then(Value::as_signed_integer), Some(2048));
        assert_eq!(enrollment.to_xml(), enrollment.to_xml());
    }
}
