//! SCEP (RFC 8894), as Apple's devices speak it: messages read and made, from both ends.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use der::asn1::ObjectIdentifier;

use crate::clock::Moment;
use crate::protocol::cms::{Attributes, Cipher, Enveloped, SignedData, Signing, certificates_only};
use crate::protocol::pki::tlv::{self, OCTET_STRING, PRINTABLE_STRING};
use crate::protocol::pki::{Certificate, Key, PkiError, Result};

/// A message at most: a request for a certificate has two or three kilobytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A transaction's name at most; devices send the hash of a key.
const TRANSACTION_BYTES_MAX: usize = 256;
const NONCE_BYTES_MAX: usize = 64;
const NONCE_BYTES: usize = 16;

const MESSAGE_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.2");
const PKI_STATUS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.3");
const FAIL_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.4");
const SENDER_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.5");
const RECIPIENT_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.6");
const TRANSACTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.7");

const CERT_REP: &[u8] = b"3";
const SUCCESS: &[u8] = b"0";
const FAILURE: &[u8] = b"2";

/// What this server can do, a line each: the answer to GetCACaps.
pub const CAPABILITIES: &str = "POSTPKIOperation\nSHA-1\nSHA-256\nAES\nDES3\nSCEPStandard\nRenewal\n";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PKCSReq, 19: a first certificate, signed with a key that nobody knows.
    First,
    /// RenewalReq, 17: another certificate, signed with the present one.
    Renewal,
    /// UpdateReq, 18, of the drafts before the RFC: what is a RenewalReq now, and taken for one.
    Update,
    /// CertPoll, 20: what became of a request that was put off. This server puts none off.
    Poll,
    /// GetCert, 21: a certificate that was issued before, by issuer and serial number.
    GetCert,
    /// GetCRL, 22. This server makes no lists of what is revoked: it looks itself.
    GetCrl,
    /// Anything else.
    Other,
}

impl Kind {
    const ALL: [(Kind, &'static [u8]); 6] = [
        (Kind::First, b"19"),
        (Kind::Renewal, b"17"),
        (Kind::Update, b"18"),
        (Kind::Poll, b"20"),
        (Kind::GetCert, b"21"),
        (Kind::GetCrl, b"22"),
    ];

    fn of(number: &[u8]) -> Kind {
        Kind::ALL.into_iter().find(|(_, known)| *known == number).map_or(Kind::Other, |(kind, _)| kind)
    }

    fn number(self) -> &'static [u8] {
        Kind::ALL.into_iter().find(|(kind, _)| *kind == self).map_or(b"99", |(_, number)| number)
    }

    /// True for what is signed with the certificate that a device has.
    pub fn renews(self) -> bool {
        matches!(self, Kind::Renewal | Kind::Update)
    }
}

/// Why a request fails (RFC 8894, 3.2.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailInfo {
    BadAlg = 0,
    BadMessageCheck = 1,
    BadRequest = 2,
    BadTime = 3,
    BadCertId = 4,
}

/// A request whose signature is right.
#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: Kind,
    /// Echoed in the answer.
    pub transaction: Vec<u8>,
    /// Echoed too; empty where there was none.
    nonce: Vec<u8>,
    /// Made by the device itself for a first certificate, the present one for a renewal. The answer is encrypted to it.
    pub signer: Certificate,
    content: Vec<u8>,
}

impl Asked {
    /// Reads a PKIMessage, BER, and checks its signature.
    pub fn read(bytes: &[u8]) -> Result<Asked> {
        let verified = SignedData::parse(bytes)?.verify(None)?;
        let kind = Kind::of(text(&verified.attributes, MESSAGE_TYPE)?);
        let transaction = text(&verified.attributes, TRANSACTION)?.to_vec();
        let nonce = octets(&verified.attributes, SENDER_NONCE).unwrap_or_default().to_vec();
        if transaction.len() > TRANSACTION_BYTES_MAX || nonce.len() > NONCE_BYTES_MAX {
            return Err(PkiError::TooLarge);
        }
        Ok(Asked { kind, transaction, nonce, signer: verified.certificate, content: verified.content })
    }

    /// The envelope with the request inside.
    pub fn envelope(&self) -> Result<Enveloped> {
        Enveloped::parse(&self.content)
    }

    /// The answer with the certificate, encrypted to the signer of the request.
    pub fn succeeded(&self, moment: &mut Moment, ours: &Signing<'_>, cipher: Cipher, issued: &Certificate) -> Result<Vec<u8>> {
        let inside = certificates_only(std::slice::from_ref(issued));
        let content = Enveloped::seal(moment, &self.signer, cipher, &inside)?;
        ours.sign(&content, &self.attributes(moment, SUCCESS, None))
    }

    /// The answer that says no.
    pub fn failed(&self, moment: &mut Moment, ours: &Signing<'_>, why: FailInfo) -> Result<Vec<u8>> {
        ours.sign(&[], &self.attributes(moment, FAILURE, Some(why)))
    }

    fn attributes(&self, moment: &mut Moment, status: &[u8], why: Option<FailInfo>) -> Vec<(ObjectIdentifier, Vec<u8>)> {
        let printable = |value: &[u8]| tlv::wrap(PRINTABLE_STRING, &[value]);
        let nonce = &moment.secret()[..NONCE_BYTES];
        let mut attributes = vec![
            (MESSAGE_TYPE, printable(CERT_REP)),
            (PKI_STATUS, printable(status)),
            (TRANSACTION, printable(&self.transaction)),
            (SENDER_NONCE, tlv::wrap(OCTET_STRING, &[nonce])),
            (RECIPIENT_NONCE, tlv::wrap(OCTET_STRING, &[&self.nonce])),
        ];
        attributes.extend(why.map(|why| (FAIL_INFO, printable(&[b'0' + why as u8]))));
        attributes
    }
}

/// The `message` of a GET: base64 of either alphabet, with or without padding, its `+` perhaps made into spaces on the way. Everything
/// behind `message=` is taken from the raw query, escapes resolved as bytes.
pub fn message_of(query: &[u8]) -> Option<Vec<u8>> {
    let value = query.split(|byte| *byte == b'&').find_map(|pair| pair.strip_prefix(b"message="))?;
    let mut text = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, after @ ..] = rest {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = match escaped {
            Some(hex) => u8::from_str_radix(hex, 16).ok()?,
            None => *first,
        };
        rest = if escaped.is_some() { &after[2..] } else { after };
        match byte {
            b'-' | b' ' => text.push(b'+'),
            b'_' => text.push(b'/'),
            b'\r' | b'\n' => {}
            byte => text.push(byte),
        }
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(text).ok()
}

/// A device's half: its key, its request and whom it asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub kind: Kind,
    /// Signs the message; for a first certificate one that the device made for its key.
    pub signer: &'a Certificate,
    pub key: &'a Key,
    /// The certificate of the server's that opens envelopes.
    pub recipient: &'a Certificate,
    pub cipher: Cipher,
    pub transaction: &'a str,
}

/// What a device is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Issued(Box<Certificate>),
    /// The failInfo as it was sent.
    Failed(String),
}

impl Asking<'_> {
    /// A PKIMessage around a certification request, or around whatever its kind asks with, and its nonce.
    pub fn message(&self, moment: &mut Moment, request: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let content = Enveloped::seal(moment, self.recipient, self.cipher, request)?;
        let nonce = moment.secret()[..NONCE_BYTES].to_vec();
        let printable = |value: &[u8]| tlv::wrap(PRINTABLE_STRING, &[value]);
        let attributes = [
            (MESSAGE_TYPE, printable(self.kind.number())),
            (TRANSACTION, printable(self.transaction.as_bytes())),
            (SENDER_NONCE, tlv::wrap(OCTET_STRING, &[&nonce])),
        ];
        let signing = Signing { certificate: self.signer, key: self.key, chain: &[], now_ms: moment.now_ms };
        Ok((signing.sign(&content, &attributes)?, nonce))
    }

    /// Reads the answer to a message with this nonce; it must be signed by the recipient.
    pub fn answer(&self, moment: &mut Moment, bytes: &[u8], nonce: &[u8]) -> Result<Answer> {
        let verified = SignedData::parse(bytes)?.verify(None)?;
        let said = &verified.attributes;
        let is_ours = verified.certificate == *self.recipient
            && text(said, TRANSACTION)? == self.transaction.as_bytes()
            && octets(said, RECIPIENT_NONCE) == Some(nonce)
            && text(said, MESSAGE_TYPE)? == CERT_REP;
        if !is_ours {
            return Err(PkiError::Signature);
        }
        if text(said, PKI_STATUS)? != SUCCESS {
            return Ok(Answer::Failed(String::from_utf8_lossy(text(said, FAIL_INFO)?).into_owned()));
        }
        let inside = Enveloped::parse(&verified.content)?.open(moment, self.signer, self.key)?;
        let listed = SignedData::parse(&inside)?;
        let issued = listed.certificates().first().ok_or(PkiError::Malformed("there is no certificate"))?;
        Ok(Answer::Issued(Box::new(issued.clone())))
    }
}

fn text(attributes: &Attributes, oid: ObjectIdentifier) -> Result<&[u8]> {
    match attributes.get(oid) {
        Some((PRINTABLE_STRING, value)) => Ok(value),
        _ => Err(PkiError::Malformed("an attribute of SCEP is missing")),
    }
}

fn octets(attributes: &Attributes, oid: ObjectIdentifier) -> Option<&[u8]> {
    attributes.get(oid).filter(|(tag, _)| *tag == OCTET_STRING).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_a_query_is_read_however_its_base64_was_bent() {
        let plain = [0xfb, 0xff, 0xfe, 0x3e, 0x3f];
        for query in
            ["message=%2B%2F%2F%2BPj8%3D", "operation=PKIOperation&message=+//+Pj8=", "message=-__-Pj8&x=1", "message= //%20Pj8%3d"]
        {
            assert_eq!(message_of(query.as_bytes()).as_deref(), Some(plain.as_slice()), "{query}");
        }
        for query in ["", "operation=x", "message=%zz", "message=%2", "message=\u{e4}", "message=*"] {
            assert_eq!(message_of(query.as_bytes()), None, "{query}");
        }
        assert_eq!(message_of(b"message=%ff%fe"), None);
    }
}
