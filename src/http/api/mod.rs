//! The operator API, a file for each noun; the URLs are in `http`.

pub mod alarms;
pub mod devices;
pub mod enrollment_tokens;
pub mod events;
pub mod feed;
pub mod findings;
pub mod introspect;
pub mod jobs;
pub mod labels;
pub mod mail;
pub mod operators;
pub mod policies;
pub mod push;
pub mod tasks;
pub mod users;
pub mod webhooks;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::Id;
use crate::store::{Conn, devices as store_devices};

/// The device that a filter names, if it names one.
async fn device(conn: &mut Conn, name: Option<&str>) -> Result<Option<Id>> {
    match name {
        Some(name) => store_devices::resolve(conn, name).await.map(Some),
        None => Ok(None),
    }
}

/// A filter that takes one of a few words.
fn one_of(pointer: &str, word: Option<String>, words: &[&str]) -> Result<Option<String>> {
    match word {
        Some(word) if !words.contains(&word.as_str()) => Err(Error::invalid(pointer, format!("take one of {}", words.join(", ")))),
        word => Ok(word),
    }
}

/// Stored JSON; what the server has written itself can be read.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
