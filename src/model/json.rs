//! JSON from outside into types. What is wrong with it is told by a pointer, and where an object is meant a list does not do.

mod objects;

use serde::de::{DeserializeOwned, IgnoredAny};

use self::objects::Objects;
use super::Fault;

/// Characters of a name in a pointer at most: a name from outside may be a megabyte.
const NAME_CHARS_MAX: usize = 200;

/// Why bytes are not what was asked for.
#[derive(Debug)]
pub enum Unread {
    /// They are no JSON; the text says why.
    Malformed(String),
    /// JSON of the wrong shape.
    Invalid(Fault),
}

/// Reads a value that the whole of the bytes must be.
///
/// A lone surrogate, a number out of range or deep nesting is JSON by its grammar: then the shape is wrong, not the JSON.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unread> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(Objects(&mut deserializer)).map_err(|error| {
        // What is wrong at its beginning may be no JSON at its end.
        if let Some(why) = malformed(bytes) {
            return Unread::Malformed(why);
        }
        let pointer = pointer(error.path());
        // The pointer says where; serde's line and column say it less well.
        let said = error.into_inner().to_string();
        let detail = said.split(" at line ").next().unwrap_or(&said).to_owned();
        Unread::Invalid(Fault { pointer, detail })
    })?;
    deserializer.end().map_err(|error| Unread::Malformed(error.to_string()))?;
    Ok(read)
}

/// Why bytes are no JSON by its grammar; `None` where they are.
fn malformed(bytes: &[u8]) -> Option<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str::<IgnoredAny>(text).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// An RFC 6901 pointer.
pub fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key: name } | Segment::Enum { variant: name } => below("", name),
            Segment::Unknown => "/?".to_owned(),
        })
        .collect()
}

/// The pointer of a member of the object at a pointer.
pub fn below(pointer: &str, name: &str) -> String {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Outer {
        inner: Option<Inner>,
        list: Vec<Inner>,
        named: BTreeMap<String, Inner>,
        choice: Option<Choice>,
        pair: (i64, i64),
        any: Value,
        raw: Option<Box<RawValue>>,
        word: Option<String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        n: i64,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Plain,
        Wrapped(Inner),
        Named { n: i64 },
    }

    fn refused(text: &str) -> (String, String) {
        match read::<Outer>(text.as_bytes()) {
            Err(Unread::Invalid(fault)) => (fault.pointer, fault.detail),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        for (text, pointer) in [
            ("[]", ""),
            ("[null, [], {}]", ""),
            (r#"{"inner": [1]}"#, "/inner"),
            (r#"{"list": [{"n": 1}, [2]]}"#, "/list/1"),
            (r#"{"named": {"a/b~c": [2]}}"#, "/named/a~1b~0c"),
            (r#"{"choice": {"wrapped": [1]}}"#, "/choice/wrapped"),
            (r#"{"choice": {"named": [1]}}"#, "/choice/named"),
        ] {
            let (at, detail) = refused(text);
            assert_eq!(at, pointer, "{text}");
            assert!(detail.contains("an object"), "{text}: {detail}");
        }
        assert_eq!(refused(r#"{"inner": 7}"#), ("/inner".into(), "invalid type: integer `7`, expected an object".into()));
    }

    #[test]
    fn everything_else_is_read_as_before() {
        let text = r#"{"inner": {"n": 1}, "list": [{"n": 2}], "named": {"a": {"n": 3}}, "choice": {"wrapped": {"n": 4}}, "pair": [5, 6],
            "any": [{"b": [1.5, null, true, "c"]}, -7, 18446744073709551615], "raw": [1,  2], "word": "w"}"#;
        let read: Outer = read(text.as_bytes()).unwrap();
        assert_eq!((read.inner, read.list, read.named["a"].n), (Some(Inner { n: 1 }), vec![Inner { n: 2 }], 3));
        assert_eq!((read.choice, read.pair, read.word.as_deref()), (Some(Choice::Wrapped(Inner { n: 4 })), (5, 6), Some("w")));
        assert_eq!(read.any, serde_json::json!([{"b": [1.5, null, true, "c"]}, -7, u64::MAX]));
        assert_eq!(read.raw.unwrap().get(), "[1,  2]", "as it was sent");
        for (text, choice) in [(r#""plain""#, Choice::Plain), (r#"{"named": {"n": 5}}"#, Choice::Named { n: 5 })] {
            let read: Outer = super::read(format!("{{\"choice\": {text}}}").as_bytes()).unwrap();
            assert_eq!(read.choice, Some(choice));
        }
    }

    #[test]
    fn what_is_json_by_its_grammar_is_wrong_in_its_place_and_the_rest_is_no_json() {
        let deep = format!(r#"{{"word": {}{}}}"#, "[".repeat(500), "]".repeat(500));
        for (text, pointer) in [(r#"{"word": "\ud800"}"#, "/word"), (r#"{"pair": [1, 1e999]}"#, "/pair/1"), (deep.as_str(), "/word")] {
            assert_eq!(refused(text).0, pointer, "{text}");
        }
        assert!(refused(&format!(r#"{{"any": {}{}}}"#, "[".repeat(500), "]".repeat(500))).0.starts_with("/any/0/0"));
        let long = refused(&format!(r#"{{"{}": 1}}"#, "x".repeat(100_000))).0;
        assert_eq!(long.len(), 1 + NAME_CHARS_MAX);
        for bytes in [&b""[..], b"{", b"{} x", b"[1", b"{\"word\": 7, ", b"{\"word\": \"\xff\"}", b"{'word': 1}"] {
            let read = read::<Outer>(bytes);
            assert!(matches!(read, Err(Unread::Malformed(_))), "{}: {read:?}", String::from_utf8_lossy(bytes));
        }
    }
}
