//! Reports: what became of a command, and the wish for the next one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plist::{Dictionary, Value};
use serde_json::{Map, json};

use super::message::{Enrollee, Message, MessageError};

/// Characters of a CommandUUID that can be one of ours.
const UUID_CHARS_MAX: usize = 128;
/// Errors of a chain that are kept.
const CHAIN_MAX: usize = 16;
/// Characters of one error's text that are kept.
const ERROR_CHARS_MAX: usize = 1000;

/// A report and who sent it.
#[derive(Clone, Debug)]
pub struct Report {
    pub from: Enrollee,
    pub status: Status,
    /// The command that is spoken of; none with `Idle`.
    pub command_uuid: Option<String>,
    /// The device's own words for an error, outermost first: `{code, domain, message}`.
    pub chain: Vec<serde_json::Value>,
    /// Everything that came, the answer's own keys among it.
    pub body: Dictionary,
}

/// What became of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Idle,
    Acknowledged,
    Error,
    CommandFormatError,
    NotNow,
}

impl Report {
    /// Reads a report.
    pub fn of(message: Message) -> Result<Report, MessageError> {
        let from = Enrollee::of(&message)?;
        let status = match message.needed("Status")?.as_str() {
            "Idle" => Status::Idle,
            "Acknowledged" => Status::Acknowledged,
            "Error" => Status::Error,
            "CommandFormatError" => Status::CommandFormatError,
            "NotNow" => Status::NotNow,
            _ => return Err(MessageError::Wrong("Status")),
        };
        let command_uuid = message.text("CommandUUID", UUID_CHARS_MAX)?;
        if command_uuid.is_none() && status != Status::Idle {
            return Err(MessageError::Missing("CommandUUID"));
        }
        let chain = chain(message.0.get("ErrorChain"));
        Ok(Report { from, status, command_uuid: command_uuid.filter(|_| status != Status::Idle), chain, body: message.0 })
    }

    /// A value of the answer.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.body.get(key)
    }

    /// The outermost error in one line: its code, and its text.
    pub fn error(&self) -> (String, String) {
        let first = self.chain.first();
        let part = |name: &str| first.and_then(|first| first.get(name)).cloned().unwrap_or_default();
        let code = match (part("domain").as_str(), part("code").as_i64()) {
            (Some(domain), Some(code)) => format!("{domain} {code}"),
            (_, Some(code)) => code.to_string(),
            _ => "failed".to_owned(),
        };
        (code, part("message").as_str().unwrap_or_default().to_owned())
    }
}

/// An ErrorChain as JSON.
pub fn chain(value: Option<&Value>) -> Vec<serde_json::Value> {
    let short = |value: Option<&Value>| value.and_then(Value::as_string).map(|text| text.chars().take(ERROR_CHARS_MAX).collect::<String>());
    let errors = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let error = |error: &Value| {
        let error = error.as_dictionary()?;
        let text = short(error.get("USEnglishDescription")).or_else(|| short(error.get("LocalizedDescription"))).unwrap_or_default();
        let code = error.get("ErrorCode").and_then(Value::as_signed_integer);
        Some(json!({"code": code, "domain": short(error.get("ErrorDomain")), "message": text}))
    };
    errors.iter().take(CHAIN_MAX).filter_map(error).collect()
}

/// A value as JSON: data is base64, dates are RFC 3339.
pub fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Array(items) => items.iter().map(json_of).collect(),
        Value::Dictionary(dictionary) => json_object(dictionary).into(),
        Value::Boolean(flag) => json!(flag),
        Value::Data(bytes) => json!(STANDARD.encode(bytes)),
        Value::Date(date) => json!(date.to_xml_format()),
        Value::Real(number) => json!(number),
        Value::Integer(number) => number.as_signed().map_or_else(|| json!(number.as_unsigned()), |number| json!(number)),
        Value::String(text) => json!(text.replace('\0', "")),
        _ => serde_json::Value::Null,
    }
}

/// A dictionary as JSON.
pub fn json_object(dictionary: &Dictionary) -> Map<String, serde_json::Value> {
    dictionary.iter().map(|(key, value)| (key.replace('\0', ""), json_of(value))).collect()
}

/// JSON as a value; null has no place in a property list and is left out. `{"$data": "base64"}` stands for bytes.
pub fn value_of(json: &serde_json::Value) -> Option<Value> {
    Some(match json {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(flag) => Value::Boolean(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Integer(number.into()),
            (None, Some(number)) => Value::Integer(number.into()),
            _ => Value::Real(number.as_f64()?),
        },
        serde_json::Value::String(text) => Value::String(text.clone()),
        serde_json::Value::Array(items) => Value::Array(items.iter().filter_map(value_of).collect()),
        serde_json::Value::Object(map) => bytes_of(map).unwrap_or_else(|| Value::Dictionary(dictionary_of(map))),
    })
}

/// A JSON object as a dictionary.
pub fn dictionary_of(map: &Map<String, serde_json::Value>) -> Dictionary {
    map.iter().filter_map(|(key, value)| Some((key.clone(), value_of(value)?))).collect()
}

fn bytes_of(map: &Map<String, serde_json::Value>) -> Option<Value> {
    let text = map.get("$data").filter(|_| map.len() == 1)?.as_str()?;
    STANDARD.decode(text).ok().map(Value::Data)
}
