//! The RSA key of the stand-in's service accounts: made once per process, never written anywhere.

use std::sync::OnceLock;

use jsonwebtoken::DecodingKey;
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::traits::PublicKeyParts;

use crate::clock::{Clock, Moment};

const KEY_BITS: usize = 2048;

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
    let private = RsaPrivateKey::new(&mut Chance(Clock::system().moment()), KEY_BITS).map_err(std::io::Error::other)?;
    let pem = private.to_pkcs8_pem(LineEnding::LF).map_err(std::io::Error::other)?.to_string();
    let verifier = DecodingKey::from_rsa_raw_components(&private.n().to_bytes_be(), &private.e().to_bytes_be());
    Ok(Key { pem, verifier })
}

/// The clock's randomness in the shape that the rsa crate takes.
struct Chance(Moment);

impl CryptoRng for Chance {}

impl RngCore for Chance {
    fn next_u32(&mut self) -> u32 {
        rsa::rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rsa::rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(32) {
            chunk.copy_from_slice(&self.0.secret()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}
