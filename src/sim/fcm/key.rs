//! The RSA key of the stand-in's service accounts: made once per process, never written anywhere.

use std::sync::OnceLock;

use jsonwebtoken::DecodingKey;
use rsa::traits::PublicKeyParts;

use crate::clock::Clock;
use crate::protocol::pki;

/// A key with its two faces: PEM for the service account, verifier for the token endpoint.
pub(super) struct Key {
    /// PKCS#8 PEM.
    pub(super) pem: String,
    pub(super) verifier: DecodingKey,
}

/// The key of this process; the first call takes about a second.
pub(super) fn key() -> std::io::Result<&'static Key> {
    static KEY: OnceLock<Key> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key);
    }
    let made = make()?;
    Ok(KEY.get_or_init(|| made))
}

fn make() -> std::io::Result<Key> {
    let made = pki::Key::make(&mut Clock::system().moment()).map_err(std::io::Error::other)?;
    let pem = made.to_pem().map_err(std::io::Error::other)?;
    let pki::Key::Rsa(private) = made else { return Err(std::io::Error::other("a key that is made is an RSA key")) };
    let verifier = DecodingKey::from_rsa_raw_components(&private.n().to_bytes_be(), &private.e().to_bytes_be());
    Ok(Key { pem, verifier })
}
