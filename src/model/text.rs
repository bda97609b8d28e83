//! Texts from outside.

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
