//! Certification requests, PKCS#10 (RFC 2986).

use super::certificate::{algorithm, bits};
use super::key::Key;
use super::signature;
use super::tlv::{self, Reader, SEQUENCE};
use super::{PkiError, Result, oids};

/// What somebody asks to have certified.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// The challengePassword.
    pub challenge: Option<String>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("challenge", &self.challenge.as_ref().map(|_| "hidden")).finish_non_exhaustive()
    }
}

impl Request {
    /// Reads a request, DER, and checks that it is signed by the key that it names.
    pub fn from_der(der: &[u8]) -> Result<Request> {
        let mut whole = Reader::new(der);
        let mut outer = whole.inside(SEQUENCE)?;
        whole.end()?;
        let info = outer.read()?;
        let algorithm = outer.take(SEQUENCE)?;
        let signature = bits(outer.take(tlv::BIT_STRING)?)?;
        outer.end()?;
        let mut inner = Reader::new(info.raw).inside(SEQUENCE)?;
        inner.take(tlv::INTEGER)?;
        // The subject is the asker's wish; ours is what is certified.
        inner.take(SEQUENCE)?;
        let spki = inner.read()?.raw.to_vec();
        let mut challenge = None;
        if let Some(attributes) = inner.take_if(tlv::CONTEXT_0)? {
            let mut attributes = Reader::new(attributes);
            while !attributes.is_empty() {
                let mut attribute = attributes.inside(SEQUENCE)?;
                if attribute.oid()? == oids::CHALLENGE_PASSWORD {
                    challenge = Some(text(attribute.inside(tlv::SET)?)?);
                }
            }
        }
        signature::verify(&spki, algorithm, info.raw, signature)?;
        Ok(Request { spki, challenge })
    }

    /// A request as a device makes it, DER.
    pub fn make(key: &Key, subject: &[u8], challenge: Option<&str>) -> Result<Vec<u8>> {
        let attribute = challenge.map(|challenge| {
            let text = tlv::wrap(tlv::PRINTABLE_STRING, &[challenge.as_bytes()]);
            tlv::wrap(SEQUENCE, &[&tlv::oid(oids::CHALLENGE_PASSWORD), &tlv::wrap(tlv::SET, &[&text])])
        });
        let attributes = tlv::wrap(tlv::CONTEXT_0, &[&attribute.unwrap_or_default()]);
        let info = tlv::wrap(SEQUENCE, &[&tlv::small(0), subject, &key.spki()?, &attributes]);
        let signature = tlv::wrap(tlv::BIT_STRING, &[&[0], &key.sign(&info)?]);
        Ok(tlv::wrap(SEQUENCE, &[&info, &algorithm(key), &signature]))
    }
}

/// A text in any of the forms that clients use.
fn text(mut reader: Reader<'_>) -> Result<String> {
    let value = reader.read()?;
    if ![tlv::PRINTABLE_STRING, tlv::UTF8_STRING, tlv::IA5_STRING, tlv::T61_STRING].contains(&value.tag) {
        return Err(PkiError::Unsupported("this form of a challenge"));
    }
    String::from_utf8(value.body.to_vec()).map_err(|_| PkiError::Malformed("a challenge"))
}
