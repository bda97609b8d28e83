//! What the phone remembers: its policy, its tasks, what it has to say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Habits, Identity, Progress};

/// Task ids kept so that none is ever started twice; the oldest are forgotten beyond it.
const DONE_MAX: usize = 1024;

/// The phone's store. Survives reboots; a reinstall begins a new one.
#[derive(Debug, Default)]
pub struct Memory {
    policy: Option<String>,
    details: Vec<Value>,
    known_tasks: VecDeque<String>,
    results: Vec<Value>,
    results_sent: usize,
    events: VecDeque<Value>,
    seq: i64,
    boot: u64,
    pub facts: BTreeMap<String, Value>,
    facts_dirty: bool,
}

impl Memory {
    /// A fresh activation: event numbers begin at 1 again.
    pub fn begin_activation(&mut self) {
        self.seq = 0;
        self.facts_dirty = true;
    }

    /// The phone restarts; everything that was stored is still there.
    pub fn reboot(&mut self) {
        self.boot += 1;
        self.facts_dirty = true;
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// The policy version that the phone has applied.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    pub fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    pub fn has_results(&self) -> bool {
        !self.results.is_empty()
    }

    /// Notes something that changed, for the next sync.
    pub fn fact(&mut self, key: &str, value: Value) {
        self.facts.insert(key.to_owned(), value);
        self.facts_dirty = true;
    }

    pub fn report(&mut self, result: Value) {
        self.results.push(result);
    }

    pub fn remember_event(&mut self, event: Value, most: usize) {
        if self.events.len() == most {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The whole sync request.
    pub fn sync_body(&mut self, cause: &str, push: &str, who: &Identity, _now_ms: i64) -> Value {
        self.results.truncate(256);
        self.results_sent = self.results.len();
        let mut body = json!({
            "cause": cause,
            "have": [],
            "policy": {"version": self.policy, "details": self.details},
            "results": self.results,
            "events": self.events.iter().take(256).collect::<Vec<_>>(),
        });
        if !push.is_empty() {
            body["push"] = who.push(push);
        }
        if self.facts_dirty {
            self.facts.insert("model".into(), json!(who.model));
            self.facts.insert("os_version".into(), json!(who.os_version));
            self.facts.insert("serial".into(), json!(who.serial));
            body["facts"] = json!(self.facts);
        }
        body
    }

    /// Takes in what the server said of results, events and facts; true where something is left to say.
    pub fn heard(&mut self, answer: &Value, _progress: &Progress) -> bool {
        self.results.drain(..self.results_sent.min(self.results.len()));
        self.results_sent = 0;
        self.facts_dirty = false;
        self.events_heard(answer);
        answer["more"].as_bool().unwrap_or(false)
    }

    /// Applies the document of an answer; true where the phone has to report a version.
    pub fn apply_policy(&mut self, answer: &Value, habits: &Habits, progress: &Progress) -> bool {
        let Some(version) = answer["policy"]["version"].as_str() else {
            if self.policy.is_some() {
                progress.policy_applied.store(true, Ordering::Relaxed);
            }
            return false;
        };
        let document = &answer["policy"]["document"];
        self.details = match habits.cannot_obey {
            Some((setting, reason)) if document.get(setting).is_some() => vec![json!({"setting": setting, "reason": reason})],
            _ => Vec::new(),
        };
        let changed = self.policy.as_deref() != Some(version);
        self.policy = Some(version.to_owned());
        changed
    }

    /// The tasks of an answer that the phone has never seen, in order; from now on it has.
    pub fn new_tasks(&mut self, answer: &Value) -> Vec<Value> {
        let mut fresh = Vec::new();
        for task in answer["tasks"].as_array().into_iter().flatten() {
            let Some(id) = task["id"].as_str() else { continue };
            if self.known_tasks.iter().any(|known| known == id) {
                continue;
            }
            if self.known_tasks.len() == DONE_MAX {
                self.known_tasks.pop_front();
            }
            self.known_tasks.push_back(id.to_owned());
            fresh.push(task.clone());
        }
        fresh
    }

    pub fn events_body(&self) -> Value {
        json!({"events": self.events.iter().take(256).collect::<Vec<_>>()})
    }

    /// Drops the events that the server has settled, whatever it decided; answers how many it recorded.
    pub fn events_heard(&mut self, answer: &Value) -> u64 {
        let mut recorded = 0;
        for outcome in answer["events"].as_array().into_iter().flatten() {
            self.events.retain(|event| event["event_id"] != outcome["event_id"]);
            recorded += u64::from(outcome["outcome"] == "recorded");
        }
        for event in &mut self.events {
            event["attempt"] = json!(event["attempt"].as_i64().unwrap_or(1) + 1);
        }
        recorded
    }

    /// Signs out or deletes the app's data, and the sync that confirms it.
    pub fn obey(&mut self, action: &str) -> Value {
        if action == "wipe_app_data" {
            *self = Memory { seq: self.seq, boot: self.boot, ..Memory::default() };
        }
        self.policy = None;
        json!({"cause": "launch", "action_done": true, "policy": {"version": null, "details": []}})
    }

    /// A wiped phone remembers nothing.
    pub fn wipe(&mut self) {
        let boot = self.boot + 1;
        let known_tasks = std::mem::take(&mut self.known_tasks);
        *self = Memory { boot, known_tasks, results: std::mem::take(&mut self.results), ..Memory::default() };
    }
}
