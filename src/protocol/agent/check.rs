//! What every value has to pass at the edge: depth, U+0000, numbers that a database can keep, lengths.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::Fault;
use crate::model::json::{self, Unread};

/// Nesting of an item at most.
const DEPTH_MAX: usize = 32;
/// Numbers beyond this are no measurements of a phone, and no database keeps them exactly.
const NUMBER_MAX: f64 = 1e15;
/// Characters of an id at most.
const ID_CHARS_MAX: usize = 256;

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

/// Reads a whole body, which is an object; what is wrong with it is told with a pointer.
pub fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ParseError> {
    json::read(bytes).map_err(|unread| match unread {
        Unread::Malformed(why) => ParseError::Malformed(short(&why)),
        Unread::Invalid(fault) => ParseError::Invalid(vec![Fault { detail: short(&fault.detail), ..fault }]),
    })
}

/// An object whose members are read one by one, so that a bad one, or a bad name of one, harms no other.
#[derive(Clone, Debug, Default)]
pub struct Members(Vec<(Box<RawValue>, Box<RawValue>)>);

impl Members {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The members whose names are texts, in the order in which they were sent.
    pub fn named(&self) -> impl Iterator<Item = (String, &RawValue)> {
        self.0.iter().filter_map(|(name, raw)| Some((serde_json::from_str(name.get()).ok()?, raw.as_ref())))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Gather;
        impl<'de> Visitor<'de> for Gather {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Gather)
    }
}

/// The id of an item that may be wrong in every other respect, so that its sender learns which one is meant.
pub fn id_of(raw: &RawValue, field: &str) -> Option<String> {
    let members: Members = serde_json::from_str(raw.get()).ok()?;
    let (_, raw) = members.named().filter(|(name, _)| name == field).last()?;
    let id: String = serde_json::from_str(raw.get()).ok()?;
    text(&id, ID_CHARS_MAX).is_ok().then_some(id)
}

/// Reads null as the absence that it means.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An error's sentence without the value that caused it, which may be a megabyte.
pub fn short(sentence: &str) -> String {
    sentence.chars().take(200).collect()
}

/// Reads one raw value of at most so many bytes on its own, with every check.
pub fn value(raw: &RawValue, bytes_max: usize) -> Result<Value, String> {
    let text = raw.get();
    if text.len() > bytes_max {
        return Err(format!("at most {bytes_max} bytes"));
    }
    if depth(text) > DEPTH_MAX {
        return Err(format!("nested {DEPTH_MAX} deep at most"));
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

/// Reads one raw value that must be an object.
pub fn object(raw: &RawValue, bytes_max: usize) -> Result<Value, String> {
    let value = value(raw, bytes_max)?;
    if value.is_object() { Ok(value) } else { Err("must be an object".into()) }
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
