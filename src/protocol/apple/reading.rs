//! Property lists from outside. The parser recurses without a limit and builds whatever it is told to: what it gets is measured
//! before, in one pass that keeps nothing.

use plist::{Dictionary, Value};

use super::{binary, xml};

/// Nesting at most.
pub(super) const DEPTH_MAX: usize = 64;
/// Elements at most: a device with a thousand apps sends some thirty thousand.
pub(super) const ELEMENTS_MAX: usize = 300_000;

/// Why bytes are not taken as a property list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlistError {
    #[error("the body is no property list")]
    Malformed,
    #[error("the property list is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("the property list has too many elements")]
    TooMany,
    #[error("the property list declares entities")]
    Entities,
    #[error("the property list names a key twice")]
    DuplicateKey,
    #[error("the property list is no dictionary")]
    NoDictionary,
}

/// What a measurement finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    /// Keys of the outermost dictionary.
    pub keys: usize,
}

/// Reads the dictionary of an XML or binary property list. One whose outermost dictionary names a key twice is refused: two readers
/// could take it for two messages.
pub fn dictionary(bytes: &[u8]) -> Result<Dictionary, PlistError> {
    let (measured, value) = if bytes.starts_with(binary::MAGIC) {
        let measured = binary::measure(bytes)?;
        (measured, Value::from_reader(std::io::Cursor::new(bytes)))
    } else {
        let measured = xml::measure(bytes)?;
        (measured, Value::from_reader_xml(bytes))
    };
    match value.map_err(|_| PlistError::Malformed)? {
        Value::Dictionary(dictionary) if dictionary.len() == measured.keys => Ok(dictionary),
        Value::Dictionary(_) => Err(PlistError::DuplicateKey),
        _ => Err(PlistError::NoDictionary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Dictionary, PlistError> {
        dictionary(text.as_bytes())
    }

    #[test]
    fn what_would_overflow_or_fill_the_memory_is_refused_before_it_is_built() {
        let deep =
            |levels: usize| format!("<plist><dict><key>a</key>{}{}</dict></plist>", "<array>".repeat(levels), "</array>".repeat(levels));
        assert!(read(&deep(60)).is_ok());
        assert_eq!(read(&deep(100_000)), Err(PlistError::TooDeep));
        let unclosed = format!("<plist><dict><key>a</key>{}", "<array>".repeat(1_000_000));
        assert_eq!(read(&unclosed), Err(PlistError::TooDeep));
        let wide = format!("<plist><dict><key>a</key><array>{}</array></dict></plist>", "<array/>".repeat(1_000_000));
        assert_eq!(read(&wide), Err(PlistError::TooMany));
        let bomb = "<?xml version=\"1.0\"?><!DOCTYPE plist [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><plist><dict><key>a</key><string>&b;</string></dict></plist>";
        assert_eq!(read(bomb), Err(PlistError::Entities));
    }

    #[test]
    fn a_key_that_is_named_twice_is_refused_however_it_is_spelt() {
        assert_eq!(
            read("<plist><dict><key>UDID</key><string>a</string><key>UDID</key><string>b</string></dict></plist>"),
            Err(PlistError::DuplicateKey)
        );
        assert_eq!(
            read("<plist><dict><key>UDID</key><string>a</string><key>&#85;DID</key><string>b</string></dict></plist>"),
            Err(PlistError::DuplicateKey)
        );
        assert!(read("<plist><dict><key>a</key><dict><key>a</key><true/></dict></dict></plist>").is_ok());
    }

    #[test]
    fn what_is_no_dictionary_is_refused_with_its_reason() {
        for text in ["", "a", "{}", "{a = b;}", "(((", "<plist>", "<plist><dict><key>a</key></dict></plist>", "<html></html>"] {
            assert_eq!(read(text), Err(PlistError::Malformed), "{text}");
        }
        assert_eq!(read("<plist><array/></plist>"), Err(PlistError::NoDictionary));
        assert!(dictionary(b"<\0p\0l\0i\0s\0t\0>\0").is_err());
        assert_eq!(read("\u{feff}<plist><dict/></plist>").map(|read| read.len()), Ok(0));
    }

    #[test]
    fn the_binary_form_reads_as_the_xml_form_does() {
        let mut dictionary_in = Dictionary::new();
        dictionary_in.insert("a".into(), Value::String("x".into()));
        dictionary_in.insert("list".into(), Value::Array(vec![Value::Boolean(true), Value::Data(vec![1, 2])]));
        let mut bytes = Vec::new();
        Value::Dictionary(dictionary_in.clone()).to_writer_binary(&mut bytes).unwrap();
        assert_eq!(dictionary(&bytes), Ok(dictionary_in));
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[at] ^= flip;
                dictionary(&broken).ok();
            }
            dictionary(&bytes[..at]).ok();
        }
    }
}
