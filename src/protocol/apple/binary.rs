//! How deep and how large a binary property list is. Its objects name each other by number, so a few bytes can stand for a tree that
//! fills any memory: what it would grow to is computed, each object once.

use super::reading::{DEPTH_MAX, ELEMENTS_MAX, Measured, PlistError};

/// What every binary property list begins with.
pub(super) const MAGIC: &[u8] = b"bplist00";
const TRAILER_BYTES: usize = 32;
/// Bytes of texts and data once everything is in its place, each as often as it is named.
const GROWN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What an object grows to.
#[derive(Clone, Copy)]
struct Grown {
    height: usize,
    elements: usize,
    bytes: usize,
}

struct Objects<'a> {
    bytes: &'a [u8],
    offsets: usize,
    offset_bytes: usize,
    ref_bytes: usize,
    count: usize,
    known: Vec<Option<Grown>>,
}

/// Computes what the list grows to.
pub(super) fn measure(bytes: &[u8]) -> Result<Measured, PlistError> {
    let trailer = bytes.len().checked_sub(TRAILER_BYTES).and_then(|at| bytes.get(at..)).ok_or(PlistError::Malformed)?;
    let (offset_bytes, ref_bytes) = (usize::from(trailer[6]), usize::from(trailer[7]));
    let whole = |at: usize| number(&trailer[at..at + 8]);
    let (count, top, offsets) = (whole(8)?, whole(16)?, whole(24)?);
    if !(1..=8).contains(&offset_bytes) || !(1..=8).contains(&ref_bytes) {
        return Err(PlistError::Malformed);
    }
    if count > ELEMENTS_MAX {
        return Err(PlistError::TooMany);
    }
    if offsets.checked_add(count * offset_bytes).is_none_or(|end| end > bytes.len()) {
        return Err(PlistError::Malformed);
    }
    let mut objects = Objects { bytes, offsets, offset_bytes, ref_bytes, count, known: vec![None; count] };
    objects.grow(top, 1)?;
    let (kind, length, _) = objects.head(top)?;
    Ok(Measured { keys: if kind == 0xd { length } else { 0 } })
}

fn number(bytes: &[u8]) -> Result<usize, PlistError> {
    let value = bytes.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    usize::try_from(value).map_err(|_| PlistError::Malformed)
}

impl Objects<'_> {
    /// Where an object begins.
    fn offset(&self, object: usize) -> Result<usize, PlistError> {
        if object >= self.count {
            return Err(PlistError::Malformed);
        }
        let at = self.offsets + object * self.offset_bytes;
        number(self.bytes.get(at..at + self.offset_bytes).ok_or(PlistError::Malformed)?)
    }

    /// Kind and length of an object, and where its content begins.
    fn head(&self, object: usize) -> Result<(u8, usize, usize), PlistError> {
        let at = self.offset(object)?;
        let marker = *self.bytes.get(at).ok_or(PlistError::Malformed)?;
        let (kind, low) = (marker >> 4, usize::from(marker & 0x0f));
        if low != 0x0f || matches!(kind, 0 | 1 | 2 | 3 | 8) {
            return Ok((kind, low, at + 1));
        }
        let wide = *self.bytes.get(at + 1).ok_or(PlistError::Malformed)?;
        if wide >> 4 != 1 || wide & 0x0f > 3 {
            return Err(PlistError::Malformed);
        }
        let bytes = 1_usize << (wide & 0x0f);
        let length = number(self.bytes.get(at + 2..at + 2 + bytes).ok_or(PlistError::Malformed)?)?;
        Ok((kind, length, at + 2 + bytes))
    }

    /// What an object at this depth grows to. The depth is bounded, so that this recursion is.
    fn grow(&mut self, object: usize, depth: usize) -> Result<Grown, PlistError> {
        if depth > DEPTH_MAX {
            return Err(PlistError::TooDeep);
        }
        if let Some(known) = self.known.get(object).copied().flatten() {
            return if depth + known.height > DEPTH_MAX { Err(PlistError::TooDeep) } else { Ok(known) };
        }
        let (kind, length, content) = self.head(object)?;
        let mut grown = Grown { height: 0, elements: 1, bytes: 0 };
        let references = match kind {
            0xa => length,
            0xd => length.checked_mul(2).ok_or(PlistError::Malformed)?,
            0x4 | 0x5 => return self.leaf(object, length),
            0x6 => return self.leaf(object, length.checked_mul(2).ok_or(PlistError::Malformed)?),
            0x0..=0x3 | 0x8 => return self.leaf(object, 16),
            _ => return Err(PlistError::Malformed),
        };
        if references.checked_mul(self.ref_bytes).and_then(|bytes| bytes.checked_add(content)).is_none_or(|end| end > self.bytes.len()) {
            return Err(PlistError::Malformed);
        }
        for n in 0..references {
            let at = content + n * self.ref_bytes;
            let child = number(&self.bytes[at..at + self.ref_bytes])?;
            let child = self.grow(child, depth + 1)?;
            grown.height = grown.height.max(child.height + 1);
            grown.elements = grown.elements.saturating_add(child.elements);
            grown.bytes = grown.bytes.saturating_add(child.bytes);
            if grown.elements > ELEMENTS_MAX || grown.bytes > GROWN_BYTES_MAX {
                return Err(PlistError::TooMany);
            }
        }
        self.known[object] = Some(grown);
        Ok(grown)
    }

    fn leaf(&mut self, object: usize, bytes: usize) -> Result<Grown, PlistError> {
        let grown = Grown { height: 0, elements: 1, bytes };
        if bytes > GROWN_BYTES_MAX {
            return Err(PlistError::TooMany);
        }
        self.known[object] = Some(grown);
        Ok(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of these objects, the first the outermost; every number takes one byte.
    fn list(objects: &[&[u8]]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let mut offsets = Vec::new();
        for object in objects {
            offsets.push(u8::try_from(bytes.len()).unwrap());
            bytes.extend_from_slice(object);
        }
        let table = u8::try_from(bytes.len()).unwrap();
        bytes.extend_from_slice(&offsets);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 1, 1]);
        for number in [u8::try_from(objects.len()).unwrap(), 0, table] {
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, number]);
        }
        bytes
    }

    #[test]
    fn a_list_that_holds_itself_or_doubles_at_every_level_is_refused() {
        assert_eq!(measure(&list(&[&[0xa1, 0]])), Err(PlistError::TooDeep));
        assert_eq!(measure(&list(&[&[0xa1, 1], &[0xa1, 0]])), Err(PlistError::TooDeep));
        let doubling: Vec<[u8; 3]> = (1..=30).map(|n| [0xa2, n, n]).collect();
        let mut objects: Vec<&[u8]> = doubling.iter().map(<[u8; 3]>::as_slice).collect();
        objects.push(&[0x09]);
        assert_eq!(measure(&list(&objects)), Err(PlistError::TooMany));
        assert_eq!(measure(&list(&[&[0xd1, 1, 2], &[0x51, b'a'], &[0x09]])), Ok(Measured { keys: 1 }));
    }

    #[test]
    fn numbers_that_point_outside_are_no_list() {
        assert_eq!(measure(MAGIC), Err(PlistError::Malformed));
        assert_eq!(measure(&list(&[&[0xa1, 9]])), Err(PlistError::Malformed));
        assert_eq!(measure(&list(&[&[0xaf, 0x13, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]])), Err(PlistError::Malformed));
        assert_eq!(measure(&list(&[&[0xdf, 0x10, 200]])), Err(PlistError::Malformed));
    }
}
