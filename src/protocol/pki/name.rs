//! Distinguished names (RFC 5280, 4.1.2.4): attributes read, and names made.

use der::asn1::ObjectIdentifier;

use super::Result;
use super::tlv::{self, Reader, SEQUENCE};

pub const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
pub const ORGANISATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");

/// The first attribute of this kind in a name, DER; `None` where there is none, or none that is UTF-8.
pub fn attribute(name: &[u8], kind: ObjectIdentifier) -> Result<Option<String>> {
    let mut sets = Reader::new(name).inside(SEQUENCE)?;
    while !sets.is_empty() {
        let mut set = sets.inside(tlv::SET)?;
        while !set.is_empty() {
            let mut pair = set.inside(SEQUENCE)?;
            if pair.oid()? == kind {
                return Ok(std::str::from_utf8(pair.read()?.body).ok().map(str::to_owned));
            }
        }
    }
    Ok(None)
}

/// A name of these attributes, in their order, DER.
pub fn of(attributes: &[(ObjectIdentifier, &str)]) -> Vec<u8> {
    let sets: Vec<Vec<u8>> = attributes
        .iter()
        .map(|(kind, text)| {
            let pair = tlv::wrap(SEQUENCE, &[&tlv::oid(*kind), &tlv::wrap(tlv::UTF8_STRING, &[text.as_bytes()])]);
            tlv::wrap(tlv::SET, &[&pair])
        })
        .collect();
    tlv::wrap(SEQUENCE, &sets.iter().map(Vec::as_slice).collect::<Vec<_>>())
}
