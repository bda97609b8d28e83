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

/// The facts that say which device it is.
const IDENTITY: [&str; 3] = ["model", "os_version", "serial"];

/// What one device tells.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub facts: BTreeMap<String, Value>,
    /// What was so before it last told its facts: kept only where nothing is known.
    pub late: BTreeMap<String, Value>,
    /// The hash of its whole inventory, where it told that.
    pub hash: Option<String>,
    /// True where an app says it, not the system's own client.
    pub by_app: bool,
}

impl Told {
    /// True where it tells no fact.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.late.is_empty()
    }
}

/// Facts that are new to a device, by its id.
pub type News = Vec<(Id, Vec<(String, Value)>)>;

/// Takes in what devices tell; answers what of it is new. The caller holds the locks of their channels.
pub async fn take(conn: &mut Conn, moment: &mut Moment, mut told: HashMap<Id, Told>) -> Result<News> {
    let ids: Vec<Id> = told.keys().copied().collect();
    let mut changes = Vec::with_capacity(ids.len());
    let mut differing = Vec::new();
    for row in contacts::facts(conn, &ids).await? {
        let Some(Told { mut facts, late, hash, by_app }) = told.remove(&row.id) else { continue };
        let mut stored: BTreeMap<String, Value> = serde_json::from_str(&row.facts).unwrap_or_default();
        for (key, value) in late.into_iter().filter(|(key, _)| !stored.contains_key(key)) {
            facts.entry(key).or_insert(value);
        }
        if by_app && row.udid.is_some() {
            // Which device it is, is said by the system's own client, whose word weighs more.
            facts.retain(|key, _| !IDENTITY.contains(&key.as_str()));
        }
        let text = |key: &str| facts.get(key).and_then(Value::as_str).map(str::to_owned);
        let [model, os_version, serial] = IDENTITY.map(text);
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
        changes.push(FactsChange {
            bucket: row.id.bucket(),
            id: row.id,
            model: model.unwrap_or(row.model),
            os_version: os_version.unwrap_or(row.os_version),
            serial: serial.or(row.serial),
            facts: json!(stored).to_string(),
            // What changed otherwise than by an inventory is no longer what the last one said: the next counts, equal to it or not.
            facts_hash: hash.unwrap_or_default(),
        });
        if !new.is_empty() {
            differing.push((row.id, new));
        }
    }
    contacts::put_facts(conn, &changes, moment.now_ms).await?;
    // What a document may reference has changed: model, version, serial number.
    let named: Vec<Id> =
        differing.iter().filter(|(_, new)| new.iter().any(|(key, _)| IDENTITY.contains(&key.as_str()))).map(|(id, _)| *id).collect();
    for id in &named {
        super::devices::reindex_by_id(conn, *id).await?;
    }
    settle::devices(conn, moment, &named, Lane::Change).await?;
    findings::from_facts(conn, moment, &differing).await?;
    Ok(differing)
}
