//! One attempt: the address is resolved and checked, the connection goes there and nowhere else, the answer is read a little way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Url};

use crate::ops::webhooks::{addresses, parse};

/// An attempt takes no longer, in all.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is read up to this length.
const ANSWER_BYTES_MAX: usize = 65_536;
/// What is kept of it.
const ANSWER_BYTES_KEPT: usize = 200;
/// Clients that are kept, each with its connections to checked addresses.
const CLIENTS_MAX: usize = 64;
const IDLE: Duration = Duration::from_secs(60);

/// What an attempt came to: a status and the beginning of the answer, or why there was none.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: Option<u16>,
    pub answer: String,
    /// What a 429 or 503 asked for, seconds.
    pub retry_after_s: Option<i64>,
}

/// Sends to webhooks. A client is kept for a host as long as its name stands for the same addresses.
#[derive(Debug, Default)]
pub struct Post {
    clients: Mutex<BTreeMap<String, (Vec<SocketAddr>, Client)>>,
}

impl Post {
    /// One attempt; never fails otherwise than in its outcome.
    pub async fn send(&self, url: &str, allow: &[String], headers: HeaderMap, body: String) -> Outcome {
        let failed = |why: String| Outcome { status: None, answer: why, retry_after_s: None };
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(url, allow, headers, body)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => failed(why),
            Err(_) => failed(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
        }
    }

    async fn attempt(&self, url: &str, allow: &[String], headers: HeaderMap, body: String) -> Result<Outcome, String> {
        let url = parse(url).map_err(|error| error.to_string())?;
        let pinned = addresses(&url, allow).await.map_err(|error| error.to_string())?;
        let client = self.client(&url, pinned).map_err(|error| error.to_string())?;
        let request = client.post(url).headers(headers).header(CONTENT_TYPE, "application/json").body(body);
        let mut response = request.send().await.map_err(|error| said(&error))?;
        let retry_after_s =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
        let (status, mut answer) = (response.status().as_u16(), Vec::new());
        while answer.len() < ANSWER_BYTES_MAX {
            // A status was given: a body that breaks off changes nothing about it.
            let Ok(Some(chunk)) = response.chunk().await else { break };
            answer.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - answer.len())]);
        }
        answer.truncate(ANSWER_BYTES_KEPT);
        // PostgreSQL takes no U+0000, and nobody wants control characters on a page.
        let answer = String::from_utf8_lossy(&answer).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Ok(Outcome { status: Some(status), answer, retry_after_s })
    }

    /// A client whose connections go to `pinned` alone, whatever the name says meanwhile; redirects are answers like any other.
    fn client(&self, url: &Url, pinned: Vec<SocketAddr>) -> reqwest::Result<Client> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let place = format!("{}://{host}:{}", url.scheme(), url.port_or_known_default().unwrap_or_default());
        let mut sorted = pinned.clone();
        sorted.sort_unstable();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, client)) = clients.get(&place)
            && *known == sorted
        {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .resolve_to_addrs(&host, &pinned)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(ATTEMPT_TIMEOUT)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .build()?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(place, (sorted, client.clone()));
        Ok(client)
    }
}

/// Why a request got no answer, without the URL: its path may be a secret.
fn said(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    }
    .to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text.chars().take(ANSWER_BYTES_KEPT).collect()
}
