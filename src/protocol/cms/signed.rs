//! SignedData (RFC 5652, 5): read and checked.

use der::asn1::ObjectIdentifier;

use super::pki::signature::{Digest, PublicKey, digest_of};
use super::pki::tlv::{self, Reader, SEQUENCE};
use super::pki::{Certificate, PkiError, Result, ber, oids};
use super::{Whose, content_info};

/// Certificates of a message at most.
const CERTIFICATES_MAX: usize = 16;
/// Signed attributes at most.
const ATTRIBUTES_MAX: usize = 32;

/// A signed message, not yet checked.
#[derive(Clone, Debug)]
pub struct SignedData {
    content_type: ObjectIdentifier,
    /// `None` where it is detached.
    content: Option<Vec<u8>>,
    certificates: Vec<Certificate>,
    signers: Vec<Signer>,
}

#[derive(Clone, Debug)]
struct Signer {
    whose: Whose,
    digest: Digest,
    /// The content of the signed attributes, as they came.
    attributes: Option<Vec<u8>>,
    algorithm: ObjectIdentifier,
    signature: Vec<u8>,
}

/// A message whose signature is right.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The signer's.
    pub certificate: Certificate,
    /// What was signed.
    pub content: Vec<u8>,
    pub attributes: Attributes,
}

/// Signed attributes: each once, with one value.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<(ObjectIdentifier, u8, Vec<u8>)>);

impl Attributes {
    /// The value of an attribute as its tag and its content.
    pub fn get(&self, oid: ObjectIdentifier) -> Option<(u8, &[u8])> {
        self.0.iter().find(|(name, ..)| *name == oid).map(|(_, tag, body)| (*tag, body.as_slice()))
    }

    fn read(bytes: &[u8]) -> Result<Attributes> {
        let mut reader = Reader::new(bytes);
        let mut found = Attributes::default();
        while !reader.is_empty() {
            let mut attribute = reader.inside(SEQUENCE)?;
            let oid = attribute.oid()?;
            let mut values = attribute.inside(tlv::SET)?;
            if found.get(oid).is_some() {
                return Err(PkiError::Malformed("an attribute stands twice"));
            }
            // One with several values, or none, is none of those that are looked at.
            if let Ok(value) = values.read()
                && values.is_empty()
            {
                found.0.push((oid, value.tag, value.body.to_vec()));
            }
            if found.0.len() > ATTRIBUTES_MAX {
                return Err(PkiError::TooLarge);
            }
        }
        Ok(found)
    }
}

impl SignedData {
    /// Reads a ContentInfo, BER or DER.
    pub fn parse(bytes: &[u8]) -> Result<SignedData> {
        let der = ber::to_der(bytes)?;
        let mut data = content_info(&der, oids::SIGNED_DATA)?;
        data.take(tlv::INTEGER)?;
        data.take(tlv::SET)?;
        let mut inner = data.inside(SEQUENCE)?;
        let content_type = inner.oid()?;
        let content = match inner.take_if(tlv::CONTEXT_0)? {
            Some(explicit) => Some(Reader::new(explicit).take(tlv::OCTET_STRING)?.to_vec()),
            None => None,
        };
        let mut certificates = Vec::new();
        let mut listed = Reader::new(data.take_if(tlv::CONTEXT_0)?.unwrap_or_default());
        while !listed.is_empty() {
            let one = listed.read()?;
            if certificates.len() == CERTIFICATES_MAX {
                return Err(PkiError::TooLarge);
            }
            // Other choices than a certificate have other tags.
            if one.tag == SEQUENCE {
                certificates.push(Certificate::from_der(one.raw)?);
            }
        }
        data.take_if(tlv::CONTEXT_1)?;
        let mut infos = data.inside(tlv::SET)?;
        data.end()?;
        let mut signers = Vec::new();
        while !infos.is_empty() {
            signers.push(Signer::read(&mut infos.inside(SEQUENCE)?)?);
        }
        Ok(SignedData { content_type, content, certificates, signers })
    }

    /// The certificates that it carries, in their order.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Checks the one signature. `detached` is what was signed, where the caller has it from elsewhere: the message then carries the same
    /// or nothing.
    pub fn verify(&self, detached: Option<&[u8]>) -> Result<Verified> {
        let [signer] = self.signers.as_slice() else { return Err(PkiError::Unsupported("a message of none or several signers")) };
        let content = match (self.content.as_deref(), detached) {
            (Some(inside), Some(outside)) if inside != outside => return Err(PkiError::Signature),
            (_, Some(outside)) => outside,
            (Some(inside), None) => inside,
            (None, None) => return Err(PkiError::Malformed("there is nothing that was signed")),
        };
        let found = self.certificates.iter().find(|certificate| signer.whose.is(certificate));
        let certificate = found.ok_or(PkiError::Malformed("the signer's certificate is not there"))?;
        let attributes = signer.verify(certificate, self.content_type, content)?;
        Ok(Verified { certificate: certificate.clone(), content: content.to_vec(), attributes })
    }
}

impl Signer {
    fn read(info: &mut Reader<'_>) -> Result<Signer> {
        info.take(tlv::INTEGER)?;
        let whose = Whose::read(info)?;
        let digest = Digest::of(info.inside(SEQUENCE)?.oid()?).ok_or(PkiError::Unsupported("the digest"))?;
        let attributes = info.take_if(tlv::CONTEXT_0)?.map(<[u8]>::to_vec);
        let algorithm = info.inside(SEQUENCE)?.oid()?;
        let signature = info.take(tlv::OCTET_STRING)?.to_vec();
        Ok(Signer { whose, digest, attributes, algorithm, signature })
    }

    fn verify(&self, certificate: &Certificate, content_type: ObjectIdentifier, content: &[u8]) -> Result<Attributes> {
        if digest_of(self.algorithm)?.is_some_and(|digest| digest != self.digest) {
            return Err(PkiError::Malformed("two digests"));
        }
        let key = PublicKey::from_spki(certificate.spki())?;
        let Some(bytes) = &self.attributes else {
            // What could be read as attributes may be attributes of another message: its signature would be good for both.
            if content_type != oids::DATA || content.first() == Some(&tlv::SET) {
                return Err(PkiError::Signature);
            }
            key.verify(self.digest, content, &self.signature)?;
            return Ok(Attributes::default());
        };
        let attributes = Attributes::read(bytes)?;
        let hash = self.digest.hash(content);
        if attributes.get(oids::CONTENT_TYPE) != Some((tlv::OID, content_type.as_bytes()))
            || attributes.get(oids::MESSAGE_DIGEST) != Some((tlv::OCTET_STRING, &hash))
        {
            return Err(PkiError::Signature);
        }
        key.verify(self.digest, &tlv::wrap(tlv::SET, &[bytes]), &self.signature)?;
        Ok(attributes)
    }
}
