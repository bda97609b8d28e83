//! Tag, length, value: reading and writing DER (X.690) without copying, for structures that are looked at once.

use der::asn1::ObjectIdentifier;

use super::{PkiError, Result};

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const NULL: u8 = 0x05;
pub const OID: u8 = 0x06;
pub const UTF8_STRING: u8 = 0x0c;
pub const PRINTABLE_STRING: u8 = 0x13;
pub const T61_STRING: u8 = 0x14;
pub const IA5_STRING: u8 = 0x16;
pub const UTC_TIME: u8 = 0x17;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;
/// `[0]`, constructed.
pub const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub const CONTEXT_1: u8 = 0xa1;
/// `[0] IMPLICIT` of a primitive type.
pub const CONTEXT_0_PRIMITIVE: u8 = 0x80;

const SHORT: PkiError = PkiError::Malformed("a value ends early");
const OTHER: PkiError = PkiError::Malformed("another kind of value is expected");

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    pub tag: u8,
    /// The content octets.
    pub body: &'a [u8],
    /// All of it.
    pub raw: &'a [u8],
}

/// Reads one value after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next value.
    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value, of definite length.
    pub fn read(&mut self) -> Result<Tlv<'a>> {
        let (tag, header, length) = head(self.0)?;
        let length = length.ok_or(PkiError::Malformed("a length is indefinite"))?;
        let end = header.checked_add(length).filter(|end| *end <= self.0.len()).ok_or(SHORT)?;
        let (raw, rest) = self.0.split_at(end);
        self.0 = rest;
        Ok(Tlv { tag, body: &raw[header..], raw })
    }

    /// The content of the next value, which must have this tag.
    pub fn take(&mut self, tag: u8) -> Result<&'a [u8]> {
        let found = self.read()?;
        if found.tag == tag { Ok(found.body) } else { Err(OTHER) }
    }

    /// The next value where it has this tag.
    pub fn take_if(&mut self, tag: u8) -> Result<Option<&'a [u8]>> {
        if self.peek() == Some(tag) { self.take(tag).map(Some) } else { Ok(None) }
    }

    /// A reader of what is inside the next value, which must have this tag.
    pub fn inside(&mut self, tag: u8) -> Result<Reader<'a>> {
        self.take(tag).map(Reader)
    }

    /// The next value as an object identifier.
    pub fn oid(&mut self) -> Result<ObjectIdentifier> {
        ObjectIdentifier::from_bytes(self.take(OID)?).map_err(|_| PkiError::Malformed("an object identifier"))
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(PkiError::Malformed("something follows the end")) }
    }
}

/// Tag, length of the head, and length of the content; no content length where it is indefinite.
pub(super) fn head(bytes: &[u8]) -> Result<(u8, usize, Option<usize>)> {
    let [tag, first, rest @ ..] = bytes else { return Err(SHORT) };
    if tag & 0x1f == 0x1f {
        return Err(PkiError::Unsupported("tags above 30"));
    }
    match *first {
        length @ 0..=0x7f => Ok((*tag, 2, Some(length.into()))),
        0x80 => Ok((*tag, 2, None)),
        count @ 0x81..=0x84 => {
            let count = usize::from(count & 0x7f);
            let octets = rest.get(..count).ok_or(SHORT)?;
            Ok((*tag, 2 + count, Some(octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)))))
        }
        _ => Err(PkiError::TooLarge),
    }
}

/// A value of these parts, one after the other.
pub fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let octets = length.to_be_bytes();
        let skipped = octets.iter().take_while(|octet| **octet == 0).count();
        out.push(0x80 | (octets.len() - skipped) as u8);
        out.extend_from_slice(&octets[skipped..]);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A SET OF in the order that DER demands.
pub fn set_of(mut items: Vec<Vec<u8>>) -> Vec<u8> {
    items.sort();
    let parts: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
    wrap(SET, &parts)
}

pub fn oid(oid: ObjectIdentifier) -> Vec<u8> {
    wrap(OID, &[oid.as_bytes()])
}

/// An AlgorithmIdentifier; `parameters` is a whole value, or nothing.
pub fn algorithm(algorithm: ObjectIdentifier, parameters: &[u8]) -> Vec<u8> {
    wrap(SEQUENCE, &[&oid(algorithm), parameters])
}

/// An integer that is not negative and below 128.
pub fn small(value: u8) -> Vec<u8> {
    wrap(INTEGER, &[&[value]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_ends_early_is_refused() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let body = vec![7; length];
            let made = wrap(OCTET_STRING, &[&body]);
            let mut reader = Reader::new(&made);
            assert_eq!(reader.take(OCTET_STRING).unwrap(), body);
            reader.end().unwrap();
            assert!(Reader::new(&made[..made.len() - 1]).read().is_err());
        }
        assert!(Reader::new(&[0x30, 0x85, 1, 1, 1, 1, 1]).read().is_err());
        assert!(Reader::new(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).read().is_err());
        assert!(Reader::new(&[0x1f, 0x81, 0x01, 0]).read().is_err());
        assert!(Reader::new(&[]).read().is_err());
    }
}
