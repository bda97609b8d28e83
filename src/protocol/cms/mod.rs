//! Cryptographic Message Syntax (RFC 5652): what Apple devices sign with and what SCEP is made of.
//!
//! To check a signed message: `SignedData::parse(bytes)?.verify(Some(body))?` answers the signer's certificate, the content and the signed
//! attributes. It says that whoever has that certificate's key signed the content, and nothing about whose certificate it is: that is for
//! the caller, by [`crate::protocol::pki::Certificate::is_issued_by`] or by its hash.

pub mod cipher;
pub mod enveloped;
pub mod signed;
pub mod signing;

pub use cipher::Cipher;
pub use enveloped::Enveloped;
pub use signed::{Attributes, SignedData, Verified};
pub use signing::{Signing, certificates_only};

use super::pki::tlv::{self, Reader, SEQUENCE};
use super::pki::{self, Certificate, PkiError, Result};
use der::asn1::ObjectIdentifier;

/// Whose certificate is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The issuer's name, DER, and the content of the serial number.
    IssuerAndSerial(Vec<u8>, Vec<u8>),
    /// The subject key identifier.
    KeyId(Vec<u8>),
}

impl Whose {
    fn read(reader: &mut Reader<'_>) -> Result<Whose> {
        if let Some(id) = reader.take_if(tlv::CONTEXT_0_PRIMITIVE)? {
            return Ok(Whose::KeyId(id.to_vec()));
        }
        let mut pair = reader.inside(SEQUENCE)?;
        let issuer = pair.read()?.raw.to_vec();
        Ok(Whose::IssuerAndSerial(issuer, pair.take(tlv::INTEGER)?.to_vec()))
    }

    /// Reads an IssuerAndSerialNumber, DER; nothing may follow.
    pub fn from_der(der: &[u8]) -> Result<Whose> {
        let mut whole = Reader::new(der);
        let whose = Whose::read(&mut whole)?;
        whole.end()?;
        match whose {
            Whose::IssuerAndSerial(..) => Ok(whose),
            Whose::KeyId(_) => Err(PkiError::Malformed("an issuer and a serial number are expected")),
        }
    }

    /// True where it means this certificate.
    pub fn is(&self, certificate: &Certificate) -> bool {
        match self {
            Whose::IssuerAndSerial(issuer, serial) => certificate.issuer() == issuer && certificate.serial() == serial,
            Whose::KeyId(id) => certificate.key_id() == Some(id),
        }
    }
}

/// A certificate by issuer and serial number, as it is written.
pub fn issuer_and_serial(certificate: &Certificate) -> Vec<u8> {
    tlv::wrap(SEQUENCE, &[certificate.issuer(), &tlv::wrap(tlv::INTEGER, &[certificate.serial()])])
}

/// The inside of a ContentInfo of a kind; `der` comes out of [`pki::ber::to_der`].
fn content_info(der: &[u8], kind: ObjectIdentifier) -> Result<Reader<'_>> {
    let mut whole = Reader::new(der);
    let mut info = whole.inside(SEQUENCE)?;
    whole.end()?;
    if info.oid()? != kind {
        return Err(PkiError::Malformed("another kind of message is expected"));
    }
    info.inside(tlv::CONTEXT_0)?.inside(SEQUENCE)
}

fn wrapped(kind: ObjectIdentifier, content: &[u8]) -> Vec<u8> {
    tlv::wrap(SEQUENCE, &[&tlv::oid(kind), &tlv::wrap(tlv::CONTEXT_0, &[content])])
}

#[cfg(test)]
mod tests;
