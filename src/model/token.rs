//! Tokens and keys: what is shown once, and the hash that is kept.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Id;

/// A secret that was just made: shown to its owner once. Its Debug hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret that came from outside.
    pub fn given(value: &str) -> Secret {
        Secret(value.to_owned())
    }

    /// An enrollment token, `mdt_...`: 256 random bits.
    pub fn enrollment_token(random: &[u8; 32]) -> Secret {
        Secret(format!("mdt_{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// An API key, `mk_...`.
    pub fn api_key(random: &[u8; 32]) -> Secret {
        Secret(format!("mk_{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// A device token, `dvt_DEVICE_...`: the device id is in clear, so that a request is one read.
    pub fn device_token(device: Id, random: &[u8; 32]) -> Secret {
        Secret(format!("dvt_{}_{}", device.to_string().replace('-', ""), URL_SAFE_NO_PAD.encode(random)))
    }

    /// A secret without a prefix: sign-in links, sessions, CSRF tokens.
    pub fn plain(random: &[u8; 32]) -> Secret {
        Secret(URL_SAFE_NO_PAD.encode(random))
    }

    /// The value itself, for the one answer that shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> String {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// SHA-256 in lower-case hex. Enough for values of 256 random bits; passwords go through argon2id.
pub fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares two hashes in a time that does not depend on where they differ.
pub fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

/// The device of a device token and the token's hash; `None` for what is no device token.
pub fn parse_device_token(token: &str) -> Option<(Id, String)> {
    let (device, secret) = token.strip_prefix("dvt_")?.split_once('_')?;
    // The hyphened form would be another spelling of the same id; one token has one spelling.
    let plain = device.len() == 32 && device.bytes().all(|byte| byte.is_ascii_hexdigit()) && (20..=100).contains(&secret.len());
    plain.then_some(())?;
    Some((device.parse().ok()?, hash(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_token_names_its_device_and_hides_itself() {
        let device = Id::v7(1, [3; 10]);
        let token = Secret::device_token(device, &[9; 32]);
        assert_eq!(parse_device_token(token.reveal()), Some((device, token.hash())));
        assert!(!format!("{token:?}").contains("dvt_"));
        assert_eq!(parse_device_token("dvt_nonsense_x"), None);
        assert_eq!(parse_device_token("mdt_x"), None);
    }
}
