//! One line of the feed, and the words by which a device is named on every page.

use std::collections::HashMap;

use serde_json::Value;

use super::format::{When, members, sentence, who};
use crate::error::Result;
use crate::model::Id;
use crate::store::Conn;
use crate::store::console::{self, Named};
use crate::store::feed::FeedRow;

/// An entry of the feed in words.
#[derive(Debug)]
pub struct Line {
    pub at: When,
    pub what: String,
    pub who: String,
    pub device: Option<Link>,
    pub more: String,
}

/// A device in words, with its page.
#[derive(Clone, Debug)]
pub struct Link {
    pub id: Id,
    pub name: String,
}

/// What a device is called: its model and serial number, or its user, or at last its id.
pub fn device_name(id: Id, named: Option<&Named>) -> String {
    let Some(named) = named else { return format!("device {}", short(id)) };
    let parts = [Some(named.model.as_str()), named.serial.as_deref(), named.email.as_deref()];
    let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).take(2).collect();
    if parts.is_empty() { format!("device {}", short(id)) } else { parts.join(" \u{b7} ") }
}

fn short(id: Id) -> String {
    let text = id.to_string();
    // The end: devices that enrolled together have the same beginning.
    text.get(text.len().saturating_sub(8)..).unwrap_or_default().to_owned()
}

/// A link to a device.
pub fn link(id: Id, names: &HashMap<Id, Named>) -> Link {
    Link { id, name: device_name(id, names.get(&id)) }
}

/// Entries in words.
pub async fn lines(conn: &mut Conn, rows: &[FeedRow], now_ms: i64) -> Result<Vec<Line>> {
    let names = console::named(conn, rows.iter().filter_map(|row| row.device_id)).await?;
    Ok(rows.iter().map(|row| line(row, &names, now_ms)).collect())
}

fn line(row: &FeedRow, names: &HashMap<Id, Named>, now_ms: i64) -> Line {
    let data: Value = serde_json::from_str(&row.data).unwrap_or_default();
    Line {
        at: When::new(row.at_ms, now_ms),
        what: sentence(&row.kind),
        who: row.actor.as_deref().map(who).unwrap_or_default(),
        device: row.device_id.map(|id| link(id, names)),
        more: members(&data),
    }
}
