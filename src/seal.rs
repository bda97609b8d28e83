//! Secrets at rest: AES-256-GCM under the master key, bound to the name they are stored under.

use std::path::{Path, PathBuf};

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::clock::Moment;
use crate::config::Config;
use crate::files;

/// The master key. Its Debug shows the fingerprint alone.
#[derive(Clone)]
pub struct Seal {
    cipher: Aes256Gcm,
    /// What [`Seal::derive`] derives from: another key than the one that seals.
    derivation: Hmac<Sha256>,
    fingerprint: String,
}

/// Why a secret cannot be opened or the key not be had.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the master key must be 32 bytes, raw or base64; {0} is not")]
    Length(String),
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    #[error(
        "with PostgreSQL the master key must be given: set [secrets] key_file or MUSTER_SECRETS_KEY, the same for all server processes"
    )]
    Missing,
    #[error("a stored secret does not open under this master key")]
    Unopened,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seal({})", self.fingerprint)
    }
}

impl Seal {
    /// A seal under these 32 bytes.
    pub fn new(key: &[u8; 32]) -> Seal {
        let digest = Sha256::digest([b"muster master key ".as_slice(), key].concat());
        let fingerprint = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut block = [0; 64];
        block[..32].copy_from_slice(&Sha256::digest([b"muster derivation key ".as_slice(), key].concat()));
        Seal { cipher: Aes256Gcm::new(key.into()), derivation: KeyInit::new(&block.into()), fingerprint }
    }

    /// The key that the settings name; `None` where its file is not there and may be made ([`Seal::make`]).
    pub fn existing(config: &Config) -> Result<Option<Seal>, SealError> {
        if let Some(text) = &config.secrets.key {
            let key = decode(text.as_bytes()).ok_or_else(|| SealError::Length("MUSTER_SECRETS_KEY".into()))?;
            return Ok(Some(Seal::new(&key)));
        }
        let path = Seal::file(config).ok_or(SealError::Missing)?;
        let shown = path.display().to_string();
        match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes).map(|key| Some(Seal::new(&key))).ok_or(SealError::Length(shown)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && config.is_sqlite() => Ok(None),
            Err(error) => Err(SealError::File(shown, error)),
        }
    }

    /// Makes the key of a database that has none yet, in the file that the settings name, readable by its owner alone.
    pub fn make(config: &Config, moment: &mut Moment) -> Result<Seal, SealError> {
        let path = Seal::file(config).ok_or(SealError::Missing)?;
        let key = moment.secret();
        write_key(&path, &key).map_err(|error| SealError::File(path.display().to_string(), error))?;
        Ok(Seal::new(&key))
    }

    /// The file in which the settings look for the key; `None` where none is named and none may be made.
    pub fn file(config: &Config) -> Option<PathBuf> {
        let made = || config.is_sqlite().then(|| config.data_dir.join("secret.key"));
        config.secrets.key_file.clone().or_else(made)
    }

    /// What says which key this is without saying the key.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A secret that is the same whenever it is derived from the same parts, and that nobody can derive without the key: HMAC-SHA256.
    pub fn derive(&self, parts: &[&str]) -> [u8; 32] {
        let mut mac = self.derivation.clone();
        for part in parts {
            // With its length, so that no two lists of parts read alike.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    /// Seals `secret` for the place `name`: base64 of nonce and ciphertext.
    pub fn seal(&self, moment: &mut Moment, name: &str, secret: &[u8]) -> String {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&moment.secret()[..12]);
        let payload = Payload { msg: secret, aad: name.as_bytes() };
        // Encryption fails only above 64 GiB; an empty text then opens as nothing.
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), payload).unwrap_or_default();
        STANDARD.encode([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`Seal::seal`] made for the same place.
    pub fn open(&self, name: &str, sealed: &str) -> Result<Vec<u8>, SealError> {
        let bytes = STANDARD.decode(sealed).map_err(|_| SealError::Unopened)?;
        let (nonce, body) = bytes.split_first_chunk::<12>().ok_or(SealError::Unopened)?;
        let payload = Payload { msg: body, aad: name.as_bytes() };
        self.cipher.decrypt(&Nonce::from(*nonce), payload).map_err(|_| SealError::Unopened)
    }
}

fn decode(bytes: &[u8]) -> Option<[u8; 32]> {
    if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
        return Some(raw);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn write_key(path: &Path, key: &[u8; 32]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    files::private_new(path, STANDARD.encode(key).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_at_its_own_place_and_under_its_own_key() {
        let mut moment = Moment::fixed(0, 1);
        let seal = Seal::new(&[7; 32]);
        let sealed = seal.seal(&mut moment, "push/fcm", b"secret");
        assert_eq!(seal.open("push/fcm", &sealed).unwrap(), b"secret");
        assert!(seal.open("push/apns", &sealed).is_err());
        assert!(Seal::new(&[8; 32]).open("push/fcm", &sealed).is_err());
        assert!(seal.open("push/fcm", "AAAA").is_err());
        assert!(!format!("{seal:?}").contains("07"), "Debug shows the fingerprint alone");
    }
}
