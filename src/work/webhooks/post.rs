//! One attempt: the address is resolved and checked, the connection goes there and nowhere else, the answer is read a little way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, Response, Url};

use crate::ops::webhooks::{addresses, parse};

/// The head of an answer has come by then, or there is none.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// So long its body is read: the status says all, and an endpoint that drips has it said all the same.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
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
    /// What its `Retry-After` says: seconds or a date.
    pub retry_after: Option<String>,
}

/// Sends to webhooks. A client is kept for a host as long as its name stands for the same addresses.
#[derive(Debug, Default)]
pub struct Post {
    clients: Mutex<BTreeMap<String, (Vec<SocketAddr>, Client)>>,
    roots: Vec<Certificate>,
}

/// Why `[webhooks] ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("[webhooks] ca_file cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("[webhooks] ca_file holds no certificate in PEM form")]
    Pem,
}

impl Post {
    /// Trusts the certificates of `ca_file` beside the system's.
    pub fn trusting(ca_file: Option<&Path>) -> Result<Post, RootsError> {
        let Some(path) = ca_file else { return Ok(Post::default()) };
        let roots = Certificate::from_pem_bundle(&std::fs::read(path)?).map_err(|_| RootsError::Pem)?;
        if roots.is_empty() {
            return Err(RootsError::Pem);
        }
        Ok(Post { roots, ..Post::default() })
    }

    /// One attempt; never fails otherwise than in its outcome.
    pub async fn send(&self, url: &str, allow: &[String], headers: HeaderMap, body: String) -> Outcome {
        let failed = |why: String| Outcome { status: None, answer: why, retry_after: None };
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(url, allow, headers, body)).await {
            Ok(Ok(response)) => read(response).await,
            Ok(Err(why)) => failed(why),
            Err(_) => failed(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
        }
    }

    async fn attempt(&self, url: &str, allow: &[String], headers: HeaderMap, body: String) -> Result<Response, String> {
        let url = parse(url).map_err(|error| error.to_string())?;
        let pinned = addresses(&url, allow).await.map_err(|error| error.to_string())?;
        let client = self.client(&url, pinned).map_err(|error| error.to_string())?;
        let request = client.post(url).headers(headers).header(CONTENT_TYPE, "application/json").body(body);
        request.send().await.map_err(|error| said(&error))
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
            .tls_certs_merge(self.roots.clone())
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

/// A status was given: a body that breaks off, or comes too slowly, changes nothing about it.
async fn read(mut response: Response) -> Outcome {
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, mut answer) = (response.status().as_u16(), Vec::new());
    let reading = async {
        while answer.len() < ANSWER_BYTES_MAX {
            let Ok(Some(chunk)) = response.chunk().await else { break };
            answer.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - answer.len())]);
        }
    };
    tokio::time::timeout(BODY_TIMEOUT, reading).await.ok();
    answer.truncate(ANSWER_BYTES_KEPT);
    // PostgreSQL takes no U+0000, and nobody wants control characters on a page.
    let answer = String::from_utf8_lossy(&answer).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Outcome { status: Some(status), answer, retry_after }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_goes_to_the_address_that_was_checked_whatever_the_name_says_now() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        // A name that stands for nothing: only the pinned address can be meant.
        let url = Url::parse(&format!("http://hook.invalid:{}/x", address.port())).unwrap();
        let client = Post::default().client(&url, vec![address]).unwrap();
        let (sent, heard) = tokio::join!(client.post(url).send(), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4_096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        assert_eq!(sent.unwrap().status(), 204);
        assert!(heard.contains("host: hook.invalid"), "{heard}");
    }
}
