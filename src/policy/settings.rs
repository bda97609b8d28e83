//! What a setting may be, and what is wrong with one that is something else.

use serde_json::Value;

use super::{apple, applications};
use crate::model::Fault;
pub use crate::model::below;

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Bool,
    /// A text of at most so many characters.
    Text(usize),
    /// A whole number in a range.
    Number(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A length of time such as `86400s`.
    Seconds,
    /// An object with these fields and no others.
    Object(&'static [Setting]),
    /// A list of at most so many of them.
    List(&'static Shape, usize),
    /// A number of milliseconds, also as a text: the Android Management API writes 64-bit numbers so.
    Millis,
    /// An object with names of one's own, at most so many.
    Map(&'static Shape, usize),
    /// A package or bundle id.
    AppId,
    /// The list of apps: [`super::applications`].
    Applications,
    /// What an app is told: [`super::applications`].
    Configuration,
    /// A list of declarations for Apple devices: [`super::apple`].
    Declarations,
    /// The payloads of a configuration profile: [`super::apple`].
    Payloads,
    /// Passed through to another platform as it is.
    Through,
}

/// A named setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub shape: Shape,
    /// One line for people.
    pub about: &'static str,
}

/// Faults that are told at once at most.
const FAULTS_MAX: usize = 100;
/// Of a name that is no name of ours so much is repeated.
const SHOWN_CHARS_MAX: usize = 64;
const APP_ID_CHARS_MAX: usize = 256;

/// One row of the table.
pub const fn setting(name: &'static str, shape: Shape, about: &'static str) -> Setting {
    Setting { name, shape, about }
}

/// Checks the fields of an object against the settings it may have.
pub fn check_object(settings: &[Setting], value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(map) = value.as_object() else {
        return fault(faults, pointer, "must be an object");
    };
    for (name, value) in map {
        if faults.len() >= FAULTS_MAX {
            return;
        }
        let at = below(pointer, name);
        match settings.iter().find(|setting| setting.name == name) {
            Some(setting) => check(setting.shape, value, &at, faults),
            None => {
                let nearest = nearest(name, settings.iter().map(|setting| setting.name));
                fault(faults, &at, format!("there is no setting {:?}{nearest}", shown(name)));
            }
        }
    }
}

/// Checks one value.
pub fn check(shape: Shape, value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    if faults.len() >= FAULTS_MAX {
        return;
    }
    match shape {
        Shape::Bool if !value.is_boolean() => fault(faults, pointer, "must be true or false"),
        Shape::Text(most) => match value.as_str() {
            Some(text) if text.chars().nth(most).is_none() => {}
            Some(_) => fault(faults, pointer, format!("at most {most} characters")),
            None => fault(faults, pointer, "must be a text"),
        },
        Shape::Number(least, most) if !value.as_i64().is_some_and(|n| (least..=most).contains(&n)) => {
            fault(faults, pointer, format!("must be a whole number from {least} to {most}"));
        }
        Shape::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => {}
            Some(word) => {
                let hint = nearest(word, words.iter().copied());
                fault(faults, pointer, format!("must be one of {}{hint}", words.join(", ")));
            }
            None => fault(faults, pointer, format!("must be one of {}", words.join(", "))),
        },
        Shape::Seconds => {
            let seconds = value.as_str().and_then(|text| text.strip_suffix('s')).and_then(|digits| digits.parse::<u32>().ok());
            if seconds.is_none() {
                fault(faults, pointer, "must be a length of time in seconds, such as \"86400s\"");
            }
        }
        Shape::Millis => {
            let millis = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
            if millis.is_none_or(|millis: i64| millis < 0) {
                fault(faults, pointer, "must be a number of milliseconds, such as \"300000\"");
            }
        }
        Shape::AppId => {
            let plain = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
            if !value.as_str().is_some_and(|id| (1..=APP_ID_CHARS_MAX).contains(&id.len()) && plain(id)) {
                fault(faults, pointer, "must be a package or bundle id, such as \"org.example.mail\"");
            }
        }
        Shape::Map(inner, most) => match value.as_object() {
            Some(map) if map.len() <= most => map.iter().for_each(|(name, item)| check(*inner, item, &below(pointer, name), faults)),
            Some(_) => fault(faults, pointer, format!("at most {most} entries")),
            None => fault(faults, pointer, "must be an object"),
        },
        Shape::Object(settings) => check_object(settings, value, pointer, faults),
        Shape::List(inner, most) => match value.as_array() {
            Some(items) if items.len() <= most => {
                for (at, item) in items.iter().enumerate() {
                    check(*inner, item, &format!("{pointer}/{at}"), faults);
                }
            }
            Some(_) => fault(faults, pointer, format!("at most {most} items")),
            None => fault(faults, pointer, "must be a list"),
        },
        Shape::Applications => applications::check(value, pointer, faults),
        Shape::Configuration => applications::check_configuration(value, pointer, faults),
        Shape::Declarations => apple::check(value, pointer, faults),
        Shape::Payloads => apple::check_payloads(value, pointer, faults),
        Shape::Through if !value.is_object() => fault(faults, pointer, "must be an object"),
        Shape::Bool | Shape::Number(..) | Shape::Through => {}
    }
}

/// Notes a fault; of a hundred faults nobody reads the next.
pub fn fault(faults: &mut Vec<Fault>, pointer: &str, detail: impl Into<String>) {
    if faults.len() < FAULTS_MAX {
        faults.push(Fault { pointer: pointer.to_owned(), detail: detail.into() });
    }
}

/// A name from outside, as an answer repeats it.
pub fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARS_MAX).collect()
}

/// `; did you mean "..."?` where a known name is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let name = shown(name).to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&name, &other.to_lowercase());
    known
        .map(|other| (likeness(other), other))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, other)| format!("; did you mean {other:?}?"))
}
