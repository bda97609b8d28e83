//! Requests of the operator API, and what counts as an answer.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use serde_json::Value;

use super::{Access, Call, shown};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The most that a page of the API holds.
const PAGE_ROWS_MAX: usize = 1_000;
/// Pages of one list at most: a list that never ends is none.
const PAGES_MAX: usize = 10_000;

/// What there is of a list.
pub(super) struct Found {
    pub items: Vec<Value>,
    /// Where it goes on, if there is more.
    pub next_cursor: Option<Value>,
}

/// Makes the request; what is no success is an error with every fault that the server named, and so is a success that is no answer of
/// Muster's. An answer without a body is null.
pub(super) async fn ask(access: &Access, call: Call) -> anyhow::Result<Value> {
    let key = access.key.as_deref().filter(|key| !key.is_empty()).context(access.asks)?;
    let method = reqwest::Method::from_bytes(call.method.as_bytes())?;
    let url = format!("{}/api/v1{}", access.server.trim_end_matches('/'), call.path);
    let is_url = reqwest::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    ensure!(is_url, "{:?} is no address of a server: take http://127.0.0.1:8080 or https://mdm.example.org", access.server);
    // A redirect would turn an order into a question, whose answer looks like success.
    let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(Policy::none()).build()?;
    let mut request = client.request(method, &url).bearer_auth(key).query(&call.query);
    if let Some(body) = &call.body {
        request = request.json(body);
    }
    let response = request.send().await.with_context(|| format!("{} does not answer", access.server))?;
    let (status, location) = (response.status(), response.headers().get(LOCATION).cloned());
    let text = response.text().await.with_context(|| format!("{} does not answer to its end", access.server))?;
    let answer: Option<Value> = serde_json::from_str(&text).ok();
    if status.is_redirection() {
        let to = location.as_ref().and_then(|to| to.to_str().ok()).unwrap_or("another address");
        bail!("{url} leads to {to}: name the server's own address as --server");
    }
    if !status.is_success() {
        let Some(answer) = answer.filter(|answer| answer["detail"].is_string()) else {
            bail!("{url} answers {status}, but not as Muster does")
        };
        // `detail` says the first fault.
        let faults = answer["errors"].as_array().filter(|faults| faults.len() > 1).into_iter().flatten().skip(1);
        let faults: String = faults.map(|fault| format!("\n  {}: {}", shown(&fault["pointer"]), shown(&fault["detail"]))).collect();
        bail!("{status}: {}{faults}", shown(&answer["detail"]));
    }
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    answer.with_context(|| stranger(&url))
}

/// Asks for a list, page after page, up to so many rows.
pub(super) async fn list(access: &Access, call: Call, rows_max: usize) -> anyhow::Result<Found> {
    let mut found = Found { items: Vec::new(), next_cursor: None };
    for _ in 0..PAGES_MAX {
        let rows = (rows_max - found.items.len()).min(PAGE_ROWS_MAX);
        let cursor = found.next_cursor.as_ref().and_then(Value::as_str).map(str::to_owned);
        let page = call.clone().ask("limit", Some(rows.to_string())).ask("cursor", cursor);
        let mut answer = ask(access, page).await?;
        let Value::Array(items) = answer["items"].take() else {
            bail!(stranger(&format!("{}/api/v1{}", access.server.trim_end_matches('/'), call.path)))
        };
        found.items.extend(items);
        found.next_cursor = Some(answer["next_cursor"].take()).filter(|cursor| !cursor.is_null());
        if found.next_cursor.is_none() || found.items.len() >= rows_max {
            return Ok(found);
        }
    }
    bail!("{} has no end", call.path)
}

fn stranger(url: &str) -> String {
    format!("{url} answers, but not as Muster does: is --server right?")
}
