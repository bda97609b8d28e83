//! What check-in messages and reports have in common: typed reading, and who is speaking.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plist::{Dictionary, Value};

use super::reading::{self, PlistError};

/// Characters of an identifier at most.
pub const IDENTIFIER_CHARS_MAX: usize = 128;
/// Characters of any other text at most.
const TEXT_CHARS_MAX: usize = 1024;
/// What a Shared iPad says instead of a user's own id.
const SHARED_IPAD_USER: &str = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF";

/// Why a message is refused: 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error(transparent)]
    Plist(#[from] PlistError),
    #[error("{0} is needed")]
    Missing(&'static str),
    #[error("{0} has the wrong type or is too long")]
    Wrong(&'static str),
    #[error("the message names no device")]
    Nobody,
    #[error("there is no MessageType {0:?}")]
    UnknownType(String),
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(pub Dictionary);

impl Message {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Message, MessageError> {
        Ok(Message(reading::dictionary(bytes)?))
    }

    /// A text of at most so many characters; absent, empty or with U+0000 is none.
    pub fn text(&self, key: &'static str, chars_max: usize) -> Result<Option<String>, MessageError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text.chars().nth(chars_max).is_none() && !text.contains('\0') => Ok(Some(text.clone())),
            Some(_) => Err(MessageError::Wrong(key)),
        }
    }

    /// A text that may be missing or wrong without harm to the rest.
    pub fn loose(&self, key: &'static str) -> Option<String> {
        self.text(key, TEXT_CHARS_MAX).ok().flatten()
    }

    /// A text that must be there.
    pub fn needed(&self, key: &'static str) -> Result<String, MessageError> {
        self.text(key, TEXT_CHARS_MAX)?.ok_or(MessageError::Missing(key))
    }

    /// Bytes of at most so many; base64 in a text is taken too.
    pub fn data(&self, key: &'static str, bytes_max: usize) -> Result<Option<Vec<u8>>, MessageError> {
        let bytes = match self.0.get(key) {
            None => return Ok(None),
            Some(Value::Data(bytes)) => bytes.clone(),
            Some(Value::String(text)) => STANDARD.decode(text.trim()).map_err(|_| MessageError::Wrong(key))?,
            Some(_) => return Err(MessageError::Wrong(key)),
        };
        if bytes.len() > bytes_max { Err(MessageError::Wrong(key)) } else { Ok(Some(bytes)) }
    }

    /// A switch, also where it is written as a text or a number; absent or anything else is off.
    pub fn flag(&self, key: &str) -> bool {
        self.0.get(key).and_then(truth).unwrap_or(false)
    }
}

/// A value read as a switch: test clients write the texts "true" and "false".
pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Boolean(flag) => Some(*flag),
        Value::Integer(number) => number.as_signed().map(|number| number != 0),
        Value::String(text) if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("yes") || text == "1" => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") || text.eq_ignore_ascii_case("no") || text == "0" => Some(false),
        _ => None,
    }
}

/// Who is speaking: an enrollment's device channel, or one of its user channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollee {
    /// UDID, or the EnrollmentID of a user enrollment: opaque, compared exactly.
    pub id: String,
    /// True for a user enrollment, which never tells its UDID.
    pub is_user_enrollment: bool,
    /// What tells users of one device apart; empty for the device channel.
    pub user: String,
    pub short_name: Option<String>,
}

impl Enrollee {
    /// The first rule that fits says who it is: a test client sends UDID and EnrollmentID, so UDID goes first.
    pub fn of(message: &Message) -> Result<Enrollee, MessageError> {
        let id = |key| message.text(key, IDENTIFIER_CHARS_MAX);
        let short_name = id("UserShortName")?;
        if let Some(udid) = id("UDID")? {
            let user = match id("UserID")? {
                None => String::new(),
                Some(user) if user == SHARED_IPAD_USER => short_name.clone().ok_or(MessageError::Missing("UserShortName"))?,
                Some(user) => user,
            };
            return Ok(Enrollee { id: udid, is_user_enrollment: false, user, short_name });
        }
        let enrollment = id("EnrollmentID")?.ok_or(MessageError::Nobody)?;
        let user = id("EnrollmentUserID")?.unwrap_or_default();
        Ok(Enrollee { id: enrollment, is_user_enrollment: true, user, short_name })
    }

    /// True for the device channel.
    pub fn is_device(&self) -> bool {
        self.user.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrollee(pairs: &[(&str, &str)]) -> Result<(String, String), MessageError> {
        let dictionary = pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect();
        Enrollee::of(&Message(dictionary)).map(|enrollee| (enrollee.id, enrollee.user))
    }

    #[test]
    fn the_first_rule_that_fits_says_who_is_speaking() {
        let pair = |id: &str, user: &str| Ok((id.to_owned(), user.to_owned()));
        assert_eq!(enrollee(&[("UDID", "U"), ("EnrollmentID", "E")]), pair("U", ""));
        assert_eq!(enrollee(&[("UDID", "U"), ("UserID", "M")]), pair("U", "M"));
        assert_eq!(
            enrollee(&[("UDID", "U"), ("UserID", SHARED_IPAD_USER), ("UserShortName", "a@example.org")]),
            pair("U", "a@example.org")
        );
        assert_eq!(enrollee(&[("UDID", "U"), ("UserID", SHARED_IPAD_USER)]), Err(MessageError::Missing("UserShortName")));
        assert_eq!(enrollee(&[("EnrollmentID", "E")]), pair("E", ""));
        assert_eq!(enrollee(&[("UDID", ""), ("EnrollmentID", "E"), ("EnrollmentUserID", "P")]), pair("E", "P"));
        assert_eq!(enrollee(&[("UserID", "M")]), Err(MessageError::Nobody));
        assert_eq!(enrollee(&[("UDID", &"x".repeat(129))]), Err(MessageError::Wrong("UDID")));
    }

    #[test]
    fn wrong_types_are_told_and_switches_are_read_from_texts() {
        let message = Message::parse(b"<plist><dict><key>UDID</key><array/><key>A</key><string>false</string><key>B</key><string>true</string><key>T</key><string>AQI=</string></dict></plist>").unwrap();
        assert_eq!(Enrollee::of(&message), Err(MessageError::Wrong("UDID")));
        assert_eq!((message.flag("A"), message.flag("B"), message.flag("C")), (false, true, false));
        assert_eq!(message.data("T", 2), Ok(Some(vec![1, 2])));
        assert_eq!(message.data("T", 1), Err(MessageError::Wrong("T")));
    }
}
