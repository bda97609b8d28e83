//! SignedData (RFC 5652, 5): made, with SHA-256 and signed attributes.

use der::asn1::ObjectIdentifier;

use super::pki::certificate::{algorithm, encoded};
use super::pki::signature::Digest;
use super::pki::tlv::{self, SEQUENCE};
use super::pki::{Certificate, Key, Result, oids};
use super::{issuer_and_serial, wrapped};

/// Who signs, and what goes with it.
#[derive(Clone, Copy, Debug)]
pub struct Signing<'a> {
    pub certificate: &'a Certificate,
    pub key: &'a Key,
    /// Further certificates that the message carries.
    pub chain: &'a [Certificate],
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl Signing<'_> {
    /// A ContentInfo, DER, with `content` inside and these signed attributes (each a whole value) beside the usual three.
    pub fn sign(&self, content: &[u8], attributes: &[(ObjectIdentifier, Vec<u8>)]) -> Result<Vec<u8>> {
        self.message(Some(content), content, attributes)
    }

    /// The same without the content.
    pub fn sign_detached(&self, content: &[u8]) -> Result<Vec<u8>> {
        self.message(None, content, &[])
    }

    fn message(&self, inside: Option<&[u8]>, content: &[u8], attributes: &[(ObjectIdentifier, Vec<u8>)]) -> Result<Vec<u8>> {
        let attribute = |oid, value: &[u8]| tlv::wrap(SEQUENCE, &[&tlv::oid(oid), &tlv::wrap(tlv::SET, &[value])]);
        let hash = Digest::Sha256.hash(content);
        let mut all = vec![
            attribute(oids::CONTENT_TYPE, &tlv::oid(oids::DATA)),
            attribute(oids::SIGNING_TIME, &encoded(self.now_ms)?),
            attribute(oids::MESSAGE_DIGEST, &tlv::wrap(tlv::OCTET_STRING, &[&hash])),
        ];
        all.extend(attributes.iter().map(|(oid, value)| attribute(*oid, value)));
        let set = tlv::set_of(all);
        let signature = self.key.sign(&set)?;
        // Signed as a SET, sent as [0].
        let mut tagged = set;
        tagged[0] = tlv::CONTEXT_0;
        let null = tlv::wrap(tlv::NULL, &[]);
        let digest = tlv::algorithm(oids::SHA256, &null);
        // RSA is named without its digest: simulators and older devices know no other way.
        let named = if matches!(self.key, Key::Rsa(_)) { tlv::algorithm(oids::RSA, &null) } else { algorithm(self.key) };
        let signer = tlv::wrap(
            SEQUENCE,
            &[&tlv::small(1), &issuer_and_serial(self.certificate), &digest, &tagged, &named, &tlv::wrap(tlv::OCTET_STRING, &[&signature])],
        );
        let certificates = [std::slice::from_ref(self.certificate), self.chain].concat();
        Ok(data(&tlv::wrap(tlv::SET, &[&digest]), inside, &certificates, &tlv::wrap(tlv::SET, &[&signer])))
    }
}

/// A message without signers, for its certificates alone, in this order; a ContentInfo, DER.
pub fn certificates_only(certificates: &[Certificate]) -> Vec<u8> {
    let empty = tlv::wrap(tlv::SET, &[]);
    data(&empty, None, certificates, &empty)
}

fn data(digests: &[u8], inside: Option<&[u8]>, certificates: &[Certificate], signers: &[u8]) -> Vec<u8> {
    let content = inside.map(|content| tlv::wrap(tlv::CONTEXT_0, &[&tlv::wrap(tlv::OCTET_STRING, &[content])])).unwrap_or_default();
    let inner = tlv::wrap(SEQUENCE, &[&tlv::oid(oids::DATA), &content]);
    let listed: Vec<&[u8]> = certificates.iter().map(Certificate::der).collect();
    let body = tlv::wrap(SEQUENCE, &[&tlv::small(1), digests, &inner, &tlv::wrap(tlv::CONTEXT_0, &listed), signers]);
    wrapped(oids::SIGNED_DATA, &body)
}
