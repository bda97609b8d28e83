//! What devices tell of themselves, kept as facts: what differs is written, and whatever follows from it is done.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{findings, settle};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Id, Lane};
use crate::store::Conn;
use crate::store::contacts::{self, FactsChange};

/// Facts kept of a device at most: one that invents names for ever does not grow its row for ever.
const FACTS_KEPT_MAX: usize = 400;

/// What one device tells.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub facts: BTreeMap<String, Value>,
    /// The hash of its whole inventory, where it told that.
    pub hash: Option<String>,
}

/// Facts that are new to a device, by its id.
pub type News = Vec<(Id, Vec<(String, Value)>)>;

/// Takes in what devices tell; answers what of it is new. The caller holds the locks of their channels.
pub async fn take(conn: &mut Conn, moment: &mut Moment, mut told: HashMap<Id, Told>) -> Result<News> {
    let ids: Vec<Id> = told.keys().copied().collect();
    let mut changes = Vec::with_capacity(ids.len());
    let mut differing = Vec::new();
    for row in contacts::facts(conn, &ids).await? {
        let Some(Told { facts, hash }) = told.remove(&row.id) else { continue };
        let mut stored: BTreeMap<String, Value> = serde_json::from_str(&row.facts).unwrap_or_default();
        let mut room = FACTS_KEPT_MAX.saturating_sub(stored.len());
        let new: Vec<(String, Value)> = facts
            .into_iter()
            .filter(|(key, value)| match stored.get(key) {
                Some(known) => known != value,
                None if room == 0 => false,
                None => {
                    room -= 1;
                    true
                }
            })
            .collect();
        if new.is_empty() && hash.is_none() {
            continue;
        }
        stored.extend(new.iter().cloned());
        let text = |key: &str| stored.get(key).and_then(Value::as_str).map(str::to_owned);
        changes.push(FactsChange {
            bucket: row.id.bucket(),
            id: row.id,
            model: text("model").unwrap_or(row.model),
            os_version: text("os_version").unwrap_or(row.os_version),
            serial: text("serial").or(row.serial),
            facts: json!(stored).to_string(),
            facts_hash: hash.unwrap_or(row.facts_hash),
        });
        if !new.is_empty() {
            differing.push((row.id, new));
        }
    }
    contacts::put_facts(conn, &changes, moment.now_ms).await?;
    // What a document may reference has changed: model, version, serial number.
    let named: Vec<Id> = differing
        .iter()
        .filter(|(_, new)| new.iter().any(|(key, _)| matches!(key.as_str(), "model" | "os_version" | "serial")))
        .map(|(id, _)| *id)
        .collect();
    for id in &named {
        super::devices::reindex_by_id(conn, *id).await?;
    }
    settle::devices(conn, moment, &named, Lane::Change).await?;
    findings::from_facts(conn, moment, &differing).await?;
    Ok(differing)
}
