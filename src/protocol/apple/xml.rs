//! How deep and how large an XML property list is, found without building anything of it.

use super::reading::{DEPTH_MAX, ELEMENTS_MAX, Measured, PlistError};

/// The level of the keys of the outermost dictionary: inside `plist` and `dict`.
const KEY_LEVEL: usize = 2;

/// Walks over the tags. Only the structure is looked at; that the text is a property list is the parser's to say.
pub(super) fn measure(bytes: &[u8]) -> Result<Measured, PlistError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // Another encoding than UTF-8 would hide tags from this walk.
    if !bytes.trim_ascii_start().starts_with(b"<") || bytes.contains(&0) || std::str::from_utf8(bytes).is_err() {
        return Err(PlistError::Malformed);
    }
    let (mut depth, mut elements, mut keys) = (0_usize, 0_usize, 0_usize);
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'<') {
        rest = &rest[at..];
        if rest.starts_with(b"<!--") {
            rest = after(rest, b"-->")?;
        } else if rest.starts_with(b"<![CDATA[") {
            rest = after(rest, b"]]>")?;
        } else if rest.starts_with(b"<?") {
            rest = after(rest, b"?>")?;
        } else if rest.starts_with(b"<!") {
            let (tag, next) = tag(rest)?;
            // The usual line names Apple's DTD and has no subset of its own.
            if tag.contains(&b'[') || !tag.starts_with(b"<!DOCTYPE") {
                return Err(PlistError::Entities);
            }
            rest = next;
        } else if rest.starts_with(b"</") {
            let (_, next) = tag(rest)?;
            depth = depth.checked_sub(1).ok_or(PlistError::Malformed)?;
            rest = next;
        } else {
            let (tag, next) = tag(rest)?;
            elements += 1;
            if elements > ELEMENTS_MAX {
                return Err(PlistError::TooMany);
            }
            if depth == KEY_LEVEL && name(tag) == b"key" {
                keys += 1;
            }
            if !tag.ends_with(b"/>") {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(PlistError::TooDeep);
                }
            }
            rest = next;
        }
    }
    Ok(Measured { keys })
}

/// What follows the end of a comment and the like.
fn after<'a>(bytes: &'a [u8], end: &[u8]) -> Result<&'a [u8], PlistError> {
    let at = bytes.windows(end.len()).position(|window| window == end).ok_or(PlistError::Malformed)?;
    Ok(&bytes[at + end.len()..])
}

/// A tag up to and with its `>`, and what follows; a `>` between quotes does not end it.
fn tag(bytes: &[u8]) -> Result<(&[u8], &[u8]), PlistError> {
    let mut quote = None;
    for (at, byte) in bytes.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Ok(bytes.split_at(at + 1)),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    Err(PlistError::Malformed)
}

fn name(tag: &[u8]) -> &[u8] {
    let inner = tag.strip_prefix(b"<").unwrap_or(tag);
    let end = inner.iter().position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>')).unwrap_or(inner.len());
    &inner[..end]
}
