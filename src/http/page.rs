//! Lists in pages, with opaque cursors.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How many items a page has unless asked.
pub const LIMIT_DEFAULT: i64 = 100;
/// How many a page may have.
pub const LIMIT_MAX: i64 = 1000;

/// One page of a list.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    /// What to send as `cursor` for the next page; null on the last.
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// Makes a page of items of which the store was asked for `limit + 1`; the extra one only says that there is a next page.
    pub fn of<K: Serialize>(mut items: Vec<T>, limit: i64, key: impl Fn(&T) -> K) -> List<T> {
        let limit = usize::try_from(limit).unwrap_or(0);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = if more { items.last().map(|item| encode(&key(item))) } else { None };
        List { items, next_cursor }
    }

    /// The same page with its items turned into something else.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> List<U> {
        List { items: self.items.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }
}

/// The limit of a request, checked.
pub fn limit(asked: Option<i64>) -> Result<i64> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Error::invalid("?limit", format!("take 1 to {LIMIT_MAX}"))),
    }
}

/// The key that a cursor stands for; `None` without one.
pub fn decode<K: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<K>> {
    let Some(text) = cursor else { return Ok(None) };
    // PostgreSQL takes no text with U+0000, and no key has it.
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| !bytes.windows(6).any(|six| six == b"\\u0000"));
    let key = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    key.map(Some).ok_or_else(|| Error::invalid("?cursor", "this is no cursor of this list; start without one"))
}

/// The cursor of a key.
pub fn encode<K: Serialize>(key: &K) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default())
}
