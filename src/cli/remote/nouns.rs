//! The nouns of the operator API and what can be done with each.

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::params::read_params;
use super::{Call, call, segment};
use crate::clock::Clock;

const DAY_MS: i64 = 86_400_000;

/// Devices.
#[derive(Debug, Subcommand)]
pub enum Device {
    /// List devices.
    List {
        /// The beginning of a name, serial number, e-mail address or model.
        #[arg(long)]
        q: Option<String>,
        #[arg(long)]
        label: Option<String>,
        #[arg(long)]
        state: Option<String>,
    },
    /// Show one: by id, serial number or UDID.
    Show { device: String },
    /// Call it in.
    Sync { device: String },
    /// Sign its app out.
    Unauthorize { device: String },
    /// Authorize it again, or admit a parked one.
    Authorize { device: String },
    /// End its management; its app's data is deleted.
    Retire { device: String },
    /// Join the device that an app made for itself to the one that Apple's MDM manages.
    Merge {
        device: String,
        #[arg(long)]
        into: String,
    },
    /// Its tasks.
    Tasks { device: String },
    /// What it reported by itself, newest first.
    Events { device: String },
    /// When it came and what it brought or took, newest first.
    Contacts { device: String },
    /// Its document as it is delivered.
    Document { device: String },
    /// Why it has a setting as it is: by name, an app as applications/ID, a declaration as declarations/IDENTIFIER.
    Explain { device: String, setting: String },
    /// Forget it: its history goes with time, and its hardware may enroll anew.
    Delete { device: String },
}

/// Jobs.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Order something: `muster job create lock --device S123 --param message="Call the desk"`.
    Create {
        kind: String,
        /// Whom it is for, by id, serial number or UDID; once or more.
        #[arg(long = "device", value_name = "DEVICE")]
        devices: Vec<String>,
        /// All that have this label.
        #[arg(long, conflicts_with = "devices")]
        label: Option<String>,
        /// Every device.
        #[arg(long, conflicts_with_all = ["devices", "label"])]
        all: bool,
        /// A parameter; values that read as JSON are taken as such, where the kind does not ask for a text.
        #[arg(long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
        /// urgent, change or bulk; the kind's own unless named.
        #[arg(long)]
        lane: Option<String>,
        /// Seconds after which what was not done expires; the kind's own unless named.
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<i64>,
    },
    /// List jobs, newest first.
    List,
    /// Show one with its counts.
    Show { job: String },
    /// Its tasks.
    Tasks { job: String },
    /// Cancel what is open of it.
    Cancel { job: String },
    /// End what waits for a second operator.
    Reject { job: String },
    /// Order again what failed, expired or was cancelled.
    Retry { job: String },
}

/// Tasks.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// List tasks, newest first.
    List {
        #[arg(long)]
        state: Option<String>,
        #[arg(long)]
        reason: Option<String>,
        #[arg(long)]
        kind: Option<String>,
    },
    /// Show one.
    Show { task: String },
    /// Cancel one.
    Cancel { task: String },
    /// Order one again.
    Retry { task: String },
}

/// Policies.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// List policies.
    List,
    /// Show one.
    Show { name: String },
    /// Publish a document from a JSON file.
    Put {
        name: String,
        file: std::path::PathBuf,
        #[arg(long, short)]
        message: Option<String>,
        /// Only store it.
        #[arg(long)]
        draft: bool,
    },
    /// Replace its assignments: LABEL:include|exclude:RANK, LABEL may be `all`.
    Assign {
        name: String,
        #[arg(required_unless_present = "none")]
        assignments: Vec<String>,
        /// Take all its assignments away.
        #[arg(long, conflicts_with = "assignments")]
        none: bool,
    },
    /// How far its versions have come.
    Convergence { name: String },
    /// Delete it.
    Delete { name: String },
}

/// Labels.
#[derive(Debug, Subcommand)]
pub enum Label {
    /// List labels.
    List,
    /// Make one, or describe it.
    Put {
        name: String,
        #[arg(long)]
        description: Option<String>,
    },
    /// Give it to devices.
    Add { name: String, devices: Vec<String> },
    /// Take it from devices.
    Remove { name: String, devices: Vec<String> },
    /// The devices that have it.
    Devices { name: String },
    /// Delete it.
    Delete { name: String },
}

/// Users.
#[derive(Debug, Subcommand)]
pub enum User {
    /// List users.
    List,
    /// Add one.
    Add {
        email: String,
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Sign the user's devices out.
    Disable { id: String },
    /// Let them in again.
    Enable { id: String },
    /// Delete one; the data of the user's devices is deleted.
    Delete { id: String },
}

/// Enrollment tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// List tokens.
    List,
    /// Make one; its value is shown once.
    Add {
        name: String,
        /// Devices that it admits at most.
        #[arg(long)]
        max_uses: Option<i64>,
        /// Days until it ends; without it ends when it is revoked.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=3650))]
        days: Option<i64>,
        /// A label that its devices get; once or more.
        #[arg(long = "label")]
        labels: Vec<String>,
        /// The user, by id or e-mail address, whom its devices belong to.
        #[arg(long)]
        user: Option<String>,
    },
    /// Show one with the devices it admitted.
    Show { id: String },
    /// End one.
    Revoke { id: String },
}

/// What devices reported by themselves.
#[derive(Debug, Subcommand)]
pub enum Event {
    /// List events, newest first.
    List {
        #[arg(long)]
        device: Option<String>,
    },
}

const EVENTS: &[&str] = &["type", "device_id", "occurred_at_ms", "late"];
const TASKS: &[&str] = &["id", "kind", "state", "reason", "device.serial", "error.message"];

impl Device {
    pub fn call(self) -> Call {
        match self {
            Device::List { q, label, state } => call("GET", "/devices").ask("q", q).ask("label", label).ask("state", state).table(&[
                "id",
                "serial",
                "model",
                "state",
                "user.email",
            ]),
            Device::Show { device } => call("GET", format!("/devices/{}", segment(&device))),
            Device::Sync { device } => call("POST", format!("/devices/{}/sync", segment(&device))),
            Device::Unauthorize { device } => call("POST", format!("/devices/{}/unauthorize", segment(&device))),
            Device::Authorize { device } => call("POST", format!("/devices/{}/authorize", segment(&device))),
            Device::Retire { device } => call("POST", format!("/devices/{}/retire", segment(&device))),
            Device::Merge { device, into } => call("POST", format!("/devices/{}/merge", segment(&device))).with(json!({"into": into})),
            Device::Tasks { device } => call("GET", format!("/devices/{}/tasks", segment(&device))).table(TASKS),
            Device::Events { device } => call("GET", format!("/devices/{}/events", segment(&device))).table(EVENTS),
            Device::Contacts { device } => call("GET", format!("/devices/{}/contacts", segment(&device)))
                .table(&["at_ms", "cause", "results", "events", "tasks", "policy"]),
            Device::Explain { device, setting } => {
                call("GET", format!("/devices/{}/explain", segment(&device))).ask("setting", Some(setting))
            }
            Device::Delete { device } => call("DELETE", format!("/devices/{}", segment(&device))),
            Device::Document { device } => call("GET", format!("/devices/{}/document", segment(&device))),
        }
    }
}

impl Job {
    pub fn call(self) -> anyhow::Result<Call> {
        Ok(match self {
            Job::Create { kind, devices, label, all, params, lane, expires_in } => {
                let pair = |param| str::split_once(param, '=').with_context(|| format!("{param:?} is not NAME=VALUE"));
                let given = params.iter().map(String::as_str).map(pair).collect::<anyhow::Result<Vec<_>>>()?;
                let map = read_params(&kind, &given);
                let target = match (devices.is_empty(), label, all) {
                    (false, None, false) => json!({"devices": devices}),
                    (true, Some(label), false) => json!({"label": label}),
                    (true, None, true) => json!({"all": true}),
                    _ => bail!("say whom: --device (once or more), --label, or --all"),
                };
                let mut body = json!({"kind": kind, "params": map, "target": target});
                for (name, value) in [("lane", lane.map(Value::from)), ("expires_in_s", expires_in.map(Value::from))] {
                    if let Some(value) = value {
                        body[name] = value;
                    }
                }
                call("POST", "/jobs").with(body)
            }
            Job::List => call("GET", "/jobs").table(&["id", "kind", "state", "tasks", "created_by"]),
            Job::Show { job } => call("GET", format!("/jobs/{}", segment(&job))),
            Job::Tasks { job } => call("GET", format!("/jobs/{}/tasks", segment(&job))).table(TASKS),
            Job::Cancel { job } => call("POST", format!("/jobs/{}/cancel", segment(&job))),
            Job::Reject { job } => call("POST", format!("/jobs/{}/reject", segment(&job))),
            Job::Retry { job } => call("POST", format!("/jobs/{}/retry", segment(&job))),
        })
    }
}

impl Task {
    pub fn call(self) -> Call {
        match self {
            Task::List { state, reason, kind } => {
                call("GET", "/tasks").ask("state", state).ask("reason", reason).ask("kind", kind).table(TASKS)
            }
            Task::Show { task } => call("GET", format!("/tasks/{}", segment(&task))),
            Task::Cancel { task } => call("POST", format!("/tasks/{}/cancel", segment(&task))),
            Task::Retry { task } => call("POST", format!("/tasks/{}/retry", segment(&task))),
        }
    }
}

impl Policy {
    pub fn call(self) -> anyhow::Result<Call> {
        Ok(match self {
            Policy::List => call("GET", "/policies").table(&["name", "version", "latest_version"]),
            Policy::Show { name } => call("GET", format!("/policies/{}", segment(&name))),
            Policy::Put { name, file, message, draft } => {
                let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let document: Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
                // The body of the API, as examples and answers show it, holds the document one level down.
                let whole = document.as_object().filter(|body| body.keys().all(|key| key == "document" || key == "message"));
                let document = whole.and_then(|body| body.get("document")).cloned().unwrap_or(document);
                let put = call("PUT", format!("/policies/{}", segment(&name)));
                put.ask("draft", draft.then(|| "true".into())).with(json!({"document": document, "message": message.unwrap_or_default()}))
            }
            Policy::Assign { name, assignments, none: _ } => {
                let parsed = assignments.iter().map(|text| {
                    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
                    let [rank, mode, label] = parts[..] else { bail!("{text:?} is not LABEL:include|exclude:RANK") };
                    let rank: i64 = rank.parse().with_context(|| format!("{rank:?} is no rank"))?;
                    Ok(json!({"label": label, "mode": mode, "rank": rank}))
                });
                let parsed = parsed.collect::<anyhow::Result<Vec<Value>>>()?;
                call("PUT", format!("/policies/{}/assignments", segment(&name))).with(json!({"assignments": parsed}))
            }
            Policy::Convergence { name } => call("GET", format!("/policies/{}/convergence", segment(&name))),
            Policy::Delete { name } => call("DELETE", format!("/policies/{}", segment(&name))),
        })
    }
}

impl Label {
    pub fn call(self) -> Call {
        let members = |name: &str| format!("/labels/{}/devices", segment(name));
        match self {
            Label::List => call("GET", "/labels").table(&["name", "devices", "description"]),
            Label::Put { name, description } => {
                let body = description.map_or_else(|| json!({}), |text| json!({"description": text}));
                call("PUT", format!("/labels/{}", segment(&name))).with(body)
            }
            Label::Add { name, devices } => call("POST", members(&name)).with(json!({"devices": devices})),
            Label::Remove { name, devices } => call("DELETE", members(&name)).with(json!({"devices": devices})),
            Label::Devices { name } => call("GET", members(&name)).table(&["id", "serial", "model", "state", "user.email"]),
            Label::Delete { name } => call("DELETE", format!("/labels/{}", segment(&name))),
        }
    }
}

impl User {
    pub fn call(self) -> Call {
        let one = |id: &str| format!("/users/{}", segment(id));
        match self {
            User::List => call("GET", "/users").table(&["id", "email", "name", "enabled"]),
            User::Add { email, name } => call("POST", "/users").with(json!({"email": email, "name": name})),
            User::Disable { id } => call("PATCH", one(&id)).with(json!({"enabled": false})),
            User::Enable { id } => call("PATCH", one(&id)).with(json!({"enabled": true})),
            User::Delete { id } => call("DELETE", one(&id)),
        }
    }
}

impl Token {
    pub fn call(self) -> Call {
        match self {
            Token::List => call("GET", "/enrollment-tokens").table(&["id", "name", "state", "uses", "max_uses"]),
            Token::Add { name, max_uses, days, labels, user } => {
                let expires_at_ms = days.map(|days| Clock::system().now_ms() + days * DAY_MS);
                let body = json!({"name": name, "max_uses": max_uses, "expires_at_ms": expires_at_ms, "labels": labels, "user": user});
                call("POST", "/enrollment-tokens").with(body)
            }
            Token::Show { id } => call("GET", format!("/enrollment-tokens/{}", segment(&id))),
            Token::Revoke { id } => call("POST", format!("/enrollment-tokens/{}/revoke", segment(&id))),
        }
    }
}

impl Event {
    pub fn call(self) -> Call {
        match self {
            Event::List { device } => call("GET", "/events").ask("device", device).table(EVENTS),
        }
    }
}
