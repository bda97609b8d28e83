//! The operator API from a shell: `muster device list`, `muster job create`...

mod apply;
mod nouns;
mod push;

pub use apply::Folder;
pub use push::{Push, PushAccess};

pub use nouns::{Device, Event, Job, Label, Policy, Task, Token, User};

use std::io::IsTerminal;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

/// Where the server is and who asks.
#[derive(Clone, Debug, Args)]
pub struct Access {
    /// The server.
    #[arg(long, global = true, env = "MUSTER_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    server: String,
    /// An API key; `muster key add` makes one.
    #[arg(long, global = true, env = "MUSTER_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
    /// Print the API's JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// A request of the operator API.
pub struct Call {
    method: &'static str,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    /// The fields that a table shows.
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

/// A value as one segment of a path.
fn segment(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Makes the request and prints its answer: a table for people where there is one, JSON otherwise.
pub async fn run(access: &Access, call: Call) -> anyhow::Result<()> {
    let columns = call.columns;
    let answer = ask(access, call).await?;
    match answer["items"].as_array() {
        Some(items) if !access.json && !columns.is_empty() && std::io::stdout().is_terminal() => print_table(items, columns),
        _ if answer.is_null() => {}
        _ => println!("{}", serde_json::to_string_pretty(&answer)?),
    }
    Ok(())
}

/// Makes the request; what is no success is an error with every fault that the server named.
async fn ask(access: &Access, call: Call) -> anyhow::Result<Value> {
    let key = access.key.as_deref().context("say who asks: --key or MUSTER_KEY; `muster key add` makes one")?;
    let method = reqwest::Method::from_bytes(call.method.as_bytes())?;
    let url = format!("{}/api/v1{}", access.server.trim_end_matches('/'), call.path);
    let mut request = reqwest::Client::new().request(method, url).bearer_auth(key).query(&call.query);
    if let Some(body) = &call.body {
        request = request.json(body);
    }
    let response = request.send().await.with_context(|| format!("{} does not answer", access.server))?;
    let status = response.status();
    let answer: Value = serde_json::from_str(&response.text().await?).unwrap_or(Value::Null);
    if !status.is_success() {
        // One fault alone is what `detail` says already.
        let faults = answer["errors"].as_array().filter(|faults| faults.len() > 1).into_iter().flatten();
        let faults: String = faults.map(|fault| format!("\n  {}: {}", shown(&fault["pointer"]), shown(&fault["detail"]))).collect();
        bail!("{status}: {}{faults}", shown(&answer["detail"]));
    }
    Ok(answer)
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
