//! What every value has to pass at the edge: depth, U+0000, numbers that a database can keep, lengths.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::Fault;

/// Nesting of an item at most.
const DEPTH_MAX: usize = 32;
/// An item's size at most.
const ITEM_BYTES_MAX: usize = 64 * 1024;
/// Numbers beyond this are no measurements of a phone, and no database keeps them exactly.
const NUMBER_MAX: f64 = 1e15;

/// Why a whole request cannot be read.
#[derive(Debug)]
pub enum ParseError {
    /// No JSON: 400.
    Malformed(String),
    /// JSON of the wrong shape: 422.
    Invalid(Vec<Fault>),
}

/// One of many: good, or refused for good.
#[derive(Clone, Debug)]
pub enum Item<T> {
    Ok(T),
    Rejected {
        /// The item's own id where it could be read.
        id: Option<String>,
        /// `type_unknown` or `data_invalid`.
        code: &'static str,
        detail: String,
    },
}

impl<T> Item<T> {
    pub fn rejected(id: Option<String>, code: &'static str, detail: impl Into<String>) -> Item<T> {
        Item::Rejected { id, code, detail: detail.into() }
    }
}

/// Reads a whole body; what is wrong with it is told with a pointer.
pub fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ParseError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer: String = error.path().iter().map(|segment| format!("/{segment}")).collect();
        let inner = error.into_inner();
        if inner.is_data() { ParseError::Invalid(vec![Fault { pointer, detail: short(&inner.to_string()) }]) } else { malformed(&inner) }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(parsed)
}

fn malformed(error: &serde_json::Error) -> ParseError {
    ParseError::Malformed(short(&error.to_string()))
}

/// An error's sentence without the value that caused it, which may be a megabyte.
pub fn short(sentence: &str) -> String {
    sentence.chars().take(200).collect()
}

/// Reads one raw value on its own, with every check.
pub fn value(raw: &RawValue) -> Result<Value, String> {
    let text = raw.get();
    if text.len() > ITEM_BYTES_MAX {
        return Err(format!("an item may have at most {ITEM_BYTES_MAX} bytes"));
    }
    if depth(text) > DEPTH_MAX {
        return Err(format!("an item may be nested {DEPTH_MAX} deep at most"));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| short(&error.to_string()))?;
    storable(&value)?;
    Ok(value)
}

/// Refuses what one of the databases would refuse, or keep as something else.
pub fn storable(value: &Value) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains('\0') => Err("U+0000 is not allowed".into()),
        Value::Number(number) if number.as_i64().is_none() && number.as_f64().is_none_or(|n| !n.is_finite() || n.abs() > NUMBER_MAX) => {
            Err("a number is out of range".into())
        }
        Value::Array(items) => items.iter().try_for_each(storable),
        Value::Object(map) => map
            .iter()
            .try_for_each(|(key, value)| if key.contains('\0') { Err("U+0000 is not allowed".to_owned()) } else { storable(value) }),
        _ => Ok(()),
    }
}

/// A text from outside: no U+0000, at most so many characters.
pub fn text(text: &str, characters_max: usize) -> Result<(), String> {
    if text.contains('\0') {
        return Err("U+0000 is not allowed".into());
    }
    if text.chars().nth(characters_max).is_some() {
        return Err(format!("at most {characters_max} characters"));
    }
    Ok(())
}

fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_string = false,
            (false, b'"') => in_string = true,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
