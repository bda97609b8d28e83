//! The MDM push certificate with its key.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use x509_cert::der::Decode;

use super::CredentialError;

/// UserId of RFC 4519: where a push certificate carries its topic.
const UID: &str = "0.9.2342.19200300.100.1.1";
/// How the topics of MDM begin.
const TOPIC_PREFIX: &str = "com.apple.mgmt.";
const TOPIC_CHARS_MAX: usize = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    certificate: String,
    key: String,
}

/// A client certificate that APNs knows us by. Its key never shows in Debug.
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    topic: String,
    not_after_ms: i64,
}

impl Identity {
    /// Reads the JSON `{"certificate": PEM, "key": PEM}`.
    pub fn parse(json: &[u8]) -> Result<Identity, CredentialError> {
        let stored: Stored = serde_json::from_slice(json).map_err(|error| CredentialError::Json(super::tls::kind_of(&error)))?;
        Identity::from_pem(stored.certificate.as_bytes(), stored.key.as_bytes())
    }

    /// As [`Identity::parse`], for one that is to be used at `now_ms`: an ended certificate is refused.
    pub fn current(json: &[u8], now_ms: i64) -> Result<Identity, CredentialError> {
        let identity = Identity::parse(json)?;
        if identity.not_after_ms <= now_ms { Err(CredentialError::Expired) } else { Ok(identity) }
    }

    /// Reads certificate (its chain may follow) and key (PKCS#8, PKCS#1 or SEC1) in PEM form, and checks that they belong together and
    /// that the certificate is one for MDM. One that has ended is read too: [`Identity::not_after_ms`].
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Identity, CredentialError> {
        let (chain, topic, not_after_ms) = chain_of(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialError::Pem("the key"))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| CredentialError::Pem("the key"))?;
        match rustls::sign::CertifiedKey::new(chain.clone(), signer).keys_match() {
            // Keys whose public half cannot be told are found out at the handshake.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(CredentialError::Mismatch),
        }
        Ok(Identity { chain, key, topic, not_after_ms })
    }

    /// Topic and end (Unix milliseconds) of a push certificate, PEM, whose key is elsewhere.
    pub fn topic_and_end(certificate: &[u8]) -> Result<(String, i64), CredentialError> {
        chain_of(certificate).map(|(_, topic, not_after_ms)| (topic, not_after_ms))
    }

    /// The certificates, DER: the push certificate first, then what came with it.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(|certificate| &**certificate)
    }

    /// The UID of the subject: `com.apple.mgmt.External.<uuid>`.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Unix milliseconds at which the certificate ends.
    pub fn not_after_ms(&self) -> i64 {
        self.not_after_ms
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("topic", &self.topic).field("not_after_ms", &self.not_after_ms).finish_non_exhaustive()
    }
}

/// The certificates of a PEM text, with topic and end of the first.
fn chain_of(pem: &[u8]) -> Result<(Vec<CertificateDer<'static>>, String, i64), CredentialError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|_| CredentialError::Pem("the certificate"))?;
    let first = chain.first().ok_or(CredentialError::Pem("the certificate"))?;
    let parsed = x509_cert::Certificate::from_der(first).map_err(|_| CredentialError::Certificate)?;
    let ends = parsed.tbs_certificate.validity.not_after.to_unix_duration().as_millis();
    let topic = topic_of(&parsed).ok_or(CredentialError::NoTopic)?;
    Ok((chain, topic, i64::try_from(ends).unwrap_or(i64::MAX)))
}

fn topic_of(certificate: &x509_cert::Certificate) -> Option<String> {
    let attributes = certificate.tbs_certificate.subject.0.iter().flat_map(|set| set.0.iter());
    let uid = attributes.into_iter().find(|attribute| attribute.oid.to_string() == UID)?;
    let topic = std::str::from_utf8(uid.value.value()).ok()?;
    let good = topic.starts_with(TOPIC_PREFIX) && topic.len() <= TOPIC_CHARS_MAX && topic.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| topic.to_owned())
}
