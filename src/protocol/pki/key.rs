//! Private keys: made, read, written, and used for signing and for opening envelopes.

use der::asn1::ObjectIdentifier;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::rand_core::{CryptoRng, Error, RngCore};
use rsa::{Pkcs1v15Encrypt, RsaPrivateKey};

use super::signature::Digest;
use super::{PkiError, Result, oids};
use crate::clock::Moment;

const RSA_BITS: usize = 2048;

/// A private key. Its Debug shows the kind alone.
#[derive(Clone)]
pub enum Key {
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Key::Rsa(_)) { "Key(RSA)" } else { "Key(P-256)" })
    }
}

impl Key {
    /// A fresh RSA key of 2048 bits; takes up to seconds, so beside the loop that serves everybody.
    pub fn make(moment: &mut Moment) -> Result<Key> {
        let made = RsaPrivateKey::new(&mut Chance(moment), RSA_BITS);
        made.map(|key| Key::Rsa(Box::new(key))).map_err(|_| PkiError::Key("it could not be made"))
    }

    /// Reads PEM: PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`), not encrypted.
    /// Certificates and parameters may stand beside it.
    pub fn from_pem(text: &str) -> Result<Key> {
        let pem = block(text).ok_or(PkiError::Key("there is none in PEM"))?;
        if let Ok(key) = RsaPrivateKey::from_pkcs8_pem(pem).or_else(|_| RsaPrivateKey::from_pkcs1_pem(pem)) {
            return Ok(Key::Rsa(Box::new(key)));
        }
        let pair = p256::SecretKey::from_pkcs8_pem(pem).map_err(drop).or_else(|()| p256::SecretKey::from_sec1_pem(pem).map_err(drop));
        pair.map(|key| Key::P256(key.into())).map_err(|()| PkiError::Key("it must be RSA or P-256 in PEM, without a password"))
    }

    /// PKCS#8 PEM.
    pub fn to_pem(&self) -> Result<String> {
        let pem = match self {
            Key::Rsa(key) => key.to_pkcs8_pem(LineEnding::LF),
            Key::P256(key) => key.to_pkcs8_pem(LineEnding::LF),
        };
        pem.map(|pem| pem.to_string()).map_err(|_| PkiError::Key("it cannot be written"))
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Result<Vec<u8>> {
        let document = match self {
            Key::Rsa(key) => key.to_public_key().to_public_key_der(),
            Key::P256(key) => key.verifying_key().to_public_key_der(),
        };
        document.map(|document| document.into_vec()).map_err(|_| PkiError::Key("it has no public half"))
    }

    /// Signs with SHA-256.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let hash = Digest::Sha256.hash(message);
        let failed = PkiError::Key("it does not sign");
        match self {
            Key::Rsa(key) => key.sign(Digest::Sha256.padding(), &hash).map_err(|_| failed),
            Key::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(&hash).map_err(|_| failed)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
        }
    }

    /// What [`Key::sign`] makes, as certificates name it.
    pub fn algorithm(&self) -> ObjectIdentifier {
        if matches!(self, Key::Rsa(_)) { oids::RSA_SHA256 } else { oids::ECDSA_SHA256 }
    }

    /// Opens what was encrypted to this key with PKCS#1 v1.5; the work is blinded.
    pub fn decrypt(&self, moment: &mut Moment, sealed: &[u8]) -> Result<Vec<u8>> {
        let Key::Rsa(key) = self else { return Err(PkiError::Key("only RSA keys decrypt")) };
        key.decrypt_blinded(&mut Chance(moment), Pkcs1v15Encrypt, sealed).map_err(|_| PkiError::Undecryptable)
    }
}

/// The first block of a PEM text that is a private key.
fn block(text: &str) -> Option<&str> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find("-----BEGIN ")?;
        let end = start + text[start..].find("-----END ")?;
        let close = end + 9 + text[end + 9..].find("-----")? + 5;
        if text[start..end].lines().next()?.ends_with("PRIVATE KEY-----") {
            return Some(&text[start..close]);
        }
        from = close;
    }
}

/// A moment's randomness in the shape that the rsa crate takes.
pub(in crate::protocol) struct Chance<'a>(pub &'a mut Moment);

impl CryptoRng for Chance<'_> {}

impl RngCore for Chance<'_> {
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

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> std::result::Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}
