//! The operator API from a shell: `muster device list`, `muster job create`...

mod apply;
mod ask;
mod nouns;
mod params;
mod push;

pub use apply::Folder;
pub use push::{Push, PushAccess};

pub use nouns::{Device, Event, Job, Label, Policy, Task, Token, User};

use std::io::IsTerminal;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::ask::{ask, list};

/// The rows of a list that are shown unless more are asked for.
const ROWS_MAX: usize = 1_000;

/// Where the server is and who asks.
#[derive(Clone, Args)]
pub struct Access {
    /// The server.
    #[arg(long, global = true, env = "MUSTER_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    server: String,
    /// An API key; `muster key add` makes one.
    #[arg(long, global = true, env = "MUSTER_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
    /// What is said where there is no key.
    #[arg(skip = "say who asks: --key or MUSTER_KEY; `muster key add` makes one")]
    asks: &'static str,
    /// Print the API's JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Rows of a list at most.
    #[arg(long, global = true, value_name = "N", default_value_t = ROWS_MAX, value_parser = rows)]
    limit: usize,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

fn rows(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|rows| *rows > 0).ok_or_else(|| "take a whole number from 1".to_owned())
}

/// A request of the operator API.
#[derive(Clone)]
pub struct Call {
    method: &'static str,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    /// The fields that a table shows; only lists have some.
    columns: &'static [&'static str],
}

fn call(method: &'static str, path: impl Into<String>) -> Call {
    Call { method, path: path.into(), query: Vec::new(), body: None, columns: &[] }
}

impl Call {
    fn with(mut self, body: Value) -> Call {
        self.body = Some(body);
        self
    }

    fn ask(mut self, name: &'static str, value: Option<String>) -> Call {
        self.query.extend(value.map(|value| (name, value)));
        self
    }

    fn table(mut self, columns: &'static [&'static str]) -> Call {
        self.columns = columns;
        self
    }
}

/// Makes an enrollment token for simulated phones; without `own_users` all of them are one user's, who is made where there is none.
pub async fn simulated_token(server: &str, key: &str, own_users: bool) -> anyhow::Result<String> {
    const USER: &str = "simulated@example.org";
    let access = Access { server: server.to_owned(), key: Some(key.to_owned()), asks: "", json: false, limit: ROWS_MAX };
    let token = if own_users { json!({"name": "simulated"}) } else { json!({"name": "simulated", "user": USER}) };
    let make = || ask(&access, call("POST", "/enrollment-tokens").with(token.clone()));
    let made = match make().await {
        Ok(made) => made,
        Err(error) if own_users => return Err(error),
        // The user may be missing; whatever else was wrong is told by the second time.
        Err(_) => {
            ask(&access, call("POST", "/users").with(json!({"email": USER, "name": "Simulated phones"}))).await?;
            make().await?
        }
    };
    made["token"].as_str().map(str::to_owned).context("the server made an enrollment token and did not say it")
}

/// A value as one segment of a path.
fn segment(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Makes the request and prints its answer: a table for people where there is one, JSON otherwise. A list comes whole, up to `--limit`.
pub async fn run(access: &Access, call: Call) -> anyhow::Result<()> {
    let columns = call.columns;
    if columns.is_empty() {
        let orders = call.method == "POST" && call.path == "/jobs";
        let changes = call.method != "GET";
        let answer = ask(access, call).await?;
        if changes {
            tell_unknown(&answer);
        }
        if orders {
            ensure_ordered(&answer)?;
        }
        if !answer.is_null() {
            println!("{}", serde_json::to_string_pretty(&answer)?);
        }
        return Ok(());
    }
    let found = list(access, call, access.limit).await?;
    if found.next_cursor.is_some() {
        eprintln!("{} are shown and there are more: ask for them with --limit", found.items.len());
    }
    if !access.json && std::io::stdout().is_terminal() {
        print_table(&found.items, columns);
    } else {
        println!("{}", serde_json::to_string_pretty(&json!({"items": found.items, "next_cursor": found.next_cursor}))?);
    }
    Ok(())
}

/// Names on standard error what stands for no device, or for several.
fn tell_unknown(answer: &Value) {
    for (member, said) in
        [("unknown_devices", "there is no such device, or there are several"), ("ambiguous_devices", "several devices are named so")]
    {
        for name in answer[member].as_array().into_iter().flatten() {
            eprintln!("muster: {}: {said}", shown(name));
        }
    }
}

/// Fails where an order reached nobody.
fn ensure_ordered(job: &Value) -> anyhow::Result<()> {
    let is_for_nobody = job["tasks"] == 0 && !matches!(job["state"].as_str(), Some("expanding" | "awaiting_approval"));
    ensure!(!is_for_nobody, "the job {} has no task: it is for no device", shown(&job["id"]));
    Ok(())
}

fn print_table(items: &[Value], columns: &[&str]) {
    let cell = |item: &Value, column: &str| shown(column.split('.').fold(item, |value, key| &value[key]));
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| items.iter().map(|item| cell(item, column).chars().count()).chain([column.len()]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    line(columns.iter().map(|column| column.to_uppercase()).collect());
    for item in items {
        line(columns.iter().map(|column| cell(item, column)).collect());
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
