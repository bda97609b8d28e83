//! Texts from outside.

use serde_json::Value;

use super::{Fault, below};
use crate::error::{Error, Result};

/// A trimmed text of at most so many characters, without control characters other than line breaks and tabs.
pub fn checked(pointer: &str, text: &str, characters_max: usize) -> Result<String> {
    let text = text.trim();
    if text.chars().nth(characters_max).is_some() {
        return Err(Error::invalid(pointer, format!("at most {characters_max} characters")));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Error::invalid(pointer, "control characters are not allowed"));
    }
    Ok(text.to_owned())
}

/// Like [`checked`], and not empty.
pub fn named(pointer: &str, text: &str, characters_max: usize) -> Result<String> {
    let text = checked(pointer, text, characters_max)?;
    if text.is_empty() { Err(Error::invalid(pointer, "must not be empty")) } else { Ok(text) }
}

/// True for a character that XML 1.0 can say, and so a property list: control characters other than tabs and line breaks have no spelling
/// there, not even an escaped one, nor have U+FFFE and U+FFFF.
pub fn is_sayable(c: char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Tells every text and every name that no property list can say, with its place.
pub fn unsayable(value: &Value, pointer: &str, tell: &mut impl FnMut(Fault)) {
    match value {
        Value::String(text) => tell_of(text, pointer, tell),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| unsayable(item, &format!("{pointer}/{at}"), tell)),
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            let pointer = below(pointer, key);
            tell_of(key, &pointer, tell);
            unsayable(item, &pointer, tell);
        }),
        _ => {}
    }
}

fn tell_of(text: &str, pointer: &str, tell: &mut impl FnMut(Fault)) {
    if let Some(c) = text.chars().find(|c| !is_sayable(*c)) {
        let detail = format!("U+{:04X} is not allowed: no property list can say it", u32::from(c));
        tell(Fault { pointer: pointer.to_owned(), detail });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_property_list_can_say_is_told_with_its_place() {
        let value = json!({"a": ["x\t\r\n\u{85}\u{1f600}", "x\u{1}"], "b~\u{b}": {"c": "\u{fffe}"}, "d": "\u{ffff}", "e": 1, "f": "\u{0}"});
        let mut found = Vec::new();
        unsayable(&value, "", &mut |fault| found.push((fault.pointer, fault.detail.split(' ').next().unwrap_or_default().to_owned())));
        let expected = [("/a/1", "U+0001"), ("/b~0\u{b}", "U+000B"), ("/b~0\u{b}/c", "U+FFFE"), ("/d", "U+FFFF"), ("/f", "U+0000")];
        assert_eq!(found, expected.map(|(pointer, detail)| (pointer.to_owned(), detail.to_owned())));
    }
}
