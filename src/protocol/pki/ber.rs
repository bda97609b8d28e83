//! BER to DER, as far as devices need it: they send CMS with indefinite lengths and strings in pieces (X.690, 8.1.3.6 and 8.7.3).
//!
//! What is DER already comes out as it went in, so signatures over parts of it stay good.

use super::tlv::{self, OCTET_STRING};
use super::{PkiError, Result};

/// A message at most.
pub const BYTES_MAX: usize = 12 * 1024 * 1024;
/// Values inside each other at most; CMS around a certificate needs some fifteen.
const DEPTH_MAX: usize = 32;
const CONSTRUCTED: u8 = 0x20;
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// The one value of `bytes` with definite, shortest lengths and whole octet strings.
pub fn to_der(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.len() > BYTES_MAX {
        return Err(PkiError::TooLarge);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let used = value(bytes, 0, &mut out)?;
    if used == bytes.len() { Ok(out) } else { Err(PkiError::Malformed("something follows the end")) }
}

/// Writes the first value of `bytes` to `out`; answers how long it was.
fn value(bytes: &[u8], depth: usize, out: &mut Vec<u8>) -> Result<usize> {
    if depth > DEPTH_MAX {
        return Err(PkiError::TooLarge);
    }
    let short = PkiError::Malformed("a value ends early");
    let (tag, header, length) = tlv::head(bytes)?;
    if tag & CONSTRUCTED == 0 {
        let length = length.ok_or(PkiError::Malformed("a primitive value of indefinite length"))?;
        let body = header.checked_add(length).and_then(|end| bytes.get(header..end)).ok_or(short)?;
        out.extend_from_slice(&tlv::wrap(tag, &[body]));
        return Ok(header + length);
    }
    let (inside, used) = match length {
        Some(length) => {
            let end = header.checked_add(length).ok_or(short)?;
            (all(bytes.get(header..end).ok_or(short)?, depth)?, end)
        }
        None => {
            let (inside, used) = until_end(&bytes[header..], depth)?;
            (inside, header + used)
        }
    };
    if tag == OCTET_STRING | CONSTRUCTED {
        out.extend_from_slice(&tlv::wrap(OCTET_STRING, &[&joined(&inside)?]));
    } else {
        out.extend_from_slice(&tlv::wrap(tag, &[&inside]));
    }
    Ok(used)
}

fn all(mut bytes: &[u8], depth: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let used = value(bytes, depth + 1, &mut out)?;
        bytes = &bytes[used..];
    }
    Ok(out)
}

fn until_end(bytes: &[u8], depth: usize) -> Result<(Vec<u8>, usize)> {
    let (mut out, mut at) = (Vec::new(), 0);
    while !bytes[at..].starts_with(&END_OF_CONTENTS) {
        at += value(&bytes[at..], depth + 1, &mut out)?;
    }
    Ok((out, at + END_OF_CONTENTS.len()))
}

/// The content of octet strings that follow each other.
pub fn joined(strings: &[u8]) -> Result<Vec<u8>> {
    let mut reader = tlv::Reader::new(strings);
    let mut whole = Vec::with_capacity(strings.len());
    while !reader.is_empty() {
        whole.extend_from_slice(reader.take(OCTET_STRING)?);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn indefinite_lengths_end_and_strings_in_pieces_are_joined() {
        let ber = [0x30, 0x80, 0x24, 0x80, 0x04, 0x01, 0xaa, 0x24, 0x03, 0x04, 0x01, 0xbb, 0x04, 0x00, 0, 0, 0x02, 0x81, 0x01, 0x05, 0, 0];
        assert_eq!(to_der(&ber).unwrap(), [0x30, 0x07, 0x04, 0x02, 0xaa, 0xbb, 0x02, 0x01, 0x05]);
    }

    #[test]
    fn what_is_cut_off_too_deep_or_followed_by_something_is_refused() {
        let whole = [0x30, 0x80, 0x02, 0x01, 0x05, 0, 0];
        for end in 0..whole.len() {
            assert!(to_der(&whole[..end]).is_err(), "{end}");
        }
        assert!(to_der(&[whole.as_slice(), &[0]].concat()).is_err());
        assert!(to_der(&[0x04, 0x80, 0, 0]).is_err());
        assert!(to_der(&[0x24, 0x03, 0x02, 0x01, 0x05]).is_err(), "a string of integers");
        assert_eq!(to_der(&[0x30, 0x80].repeat(100_000)), Err(PkiError::TooLarge));
        assert_eq!(to_der(&vec![0; BYTES_MAX + 1]), Err(PkiError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_end_and_what_comes_out_is_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(der) = to_der(&bytes) {
                prop_assert_eq!(to_der(&der).unwrap(), der);
            }
        }
    }
}
