//! The connections to FCM and to Google's token endpoint: HTTP/2 over TLS, or HTTP/1.1 on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Response, Url};
use tower::util::MapResultLayer;

use super::Settings;
use crate::push::aimd::{Limit, START};
use crate::push::http_date;
use crate::push::verdict::Verdict;

/// FCM allows 100 streams a connection; this is how many connections are kept over TLS.
const STREAMS_PER_CONNECTION: usize = 100;
/// A connection takes this many before the next one is used; the rest is room for what was counted late.
const STREAMS_TYPICAL: usize = 80;
const CONNECTIONS_MIN: usize = 4;
const CONNECTIONS_MAX: usize = 16;
/// FCM closes connections after an hour: they are replaced between 50 and 55 minutes, not all at once.
const CONNECTION_AGE_MS: i64 = 50 * 60_000;
const CONNECTION_AGE_SPREAD_MS: i64 = 5 * 60_000;
/// A connection whose requests time out is replaced, but not more often than this.
const REPLACE_EVERY_MS: i64 = 10_000;
/// FCM ends idle connections after four minutes.
const IDLE: Duration = Duration::from_secs(200);
/// Name, TCP and TLS may take this part of the time of an answer.
const CONNECT_SHARE: u32 = 2;
/// Answers are read up to this length; the rest is not looked at.
const ANSWER_BYTES_MAX: usize = 65_536;
/// The connection ended before there was an answer.
const LOST: Verdict = Verdict::Failed { reason: "connection_lost", wait_ms: 0 };

/// Why the settings of the sender cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the FCM endpoint is not a URL")]
    Endpoint,
    #[error("the FCM endpoint must be https, or http on a loopback address")]
    Plain,
    #[error("ca_file cannot be read: {0}")]
    CaFile(#[source] std::io::Error),
    #[error("ca_file holds no certificate in PEM form")]
    CaPem,
    #[error("the TLS client cannot be set up: {0}")]
    Tls(#[source] reqwest::Error),
}

/// An answer, read as far as it is looked at.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    /// At most 64 KiB; shorter than what was sent when the connection broke.
    pub(super) body: Vec<u8>,
    /// False when the body was cut off, by the limit or by a broken connection.
    pub(super) whole: bool,
}

/// A fixed number of clients, each with its own connection over TLS, replaced when old.
pub(super) struct Wire {
    roots: Vec<Certificate>,
    plain: bool,
    timeout: Duration,
    concurrency_max: usize,
    lines: Vec<Line>,
}

/// The place of one client, which over TLS is one connection.
struct Line {
    current: RwLock<Current>,
}

struct Current {
    link: Arc<Link>,
    built_at_ms: i64,
    replace_at_ms: i64,
}

/// A client with what it bears: one that takes its place begins anew, whatever becomes of the requests on this one.
struct Link {
    client: Client,
    under_way: AtomicUsize,
    limit: Limit,
}

impl Link {
    fn load(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A line taken for one request.
struct Taken<'a> {
    line: &'a Line,
    link: Arc<Link>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.link.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// True for https, and for http on a loopback address.
pub(super) fn is_safe(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.host_str().is_some(),
        "http" => is_loopback(url),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

impl Wire {
    pub(super) fn new(settings: &Settings, timeout: Duration, now_ms: i64) -> Result<Wire, SettingsError> {
        // Whoever runs first installs it; the process uses one provider only.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = Url::parse(&settings.endpoint).map_err(|_| SettingsError::Endpoint)?;
        if !is_safe(&endpoint) || endpoint.query().is_some() || endpoint.fragment().is_some() {
            return Err(SettingsError::Plain);
        }
        let roots = match &settings.ca_file {
            None => Vec::new(),
            Some(path) => {
                let pem = std::fs::read(path).map_err(SettingsError::CaFile)?;
                let roots = Certificate::from_pem_bundle(&pem).map_err(|_| SettingsError::CaPem)?;
                if roots.is_empty() {
                    return Err(SettingsError::CaPem);
                }
                roots
            }
        };
        let concurrency_max = settings.concurrency_max as usize;
        let plain = endpoint.scheme() == "http";
        let mut wire = Wire { roots, plain, timeout, concurrency_max, lines: Vec::new() };
        // HTTP/1.1 opens as many connections as it needs by itself.
        let count = if plain { 1 } else { concurrency_max.div_ceil(STREAMS_PER_CONNECTION).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX) };
        for nth in 0..count {
            let link = wire.link(START).map_err(SettingsError::Tls)?;
            let spread_ms = CONNECTION_AGE_SPREAD_MS * nth as i64 / count as i64;
            let current = Current { link, built_at_ms: now_ms, replace_at_ms: now_ms + CONNECTION_AGE_MS + spread_ms };
            wire.lines.push(Line { current: RwLock::new(current) });
        }
        Ok(wire)
    }

    /// Posts one message; `judge` reads an answer of any status. What was under way on an HTTP/2 connection that ended goes once more at
    /// once, on another: a nudge may come twice, and the end of a connection says nothing about its phone.
    pub(super) async fn post(
        &self,
        url: &Url,
        bearer: &HeaderValue,
        body: Bytes,
        now_ms: i64,
        judge: impl Fn(&Reply) -> Verdict,
    ) -> Verdict {
        let verdict = self.post_once(url, bearer, body.clone(), now_ms, &judge).await;
        if self.plain || verdict != LOST {
            return verdict;
        }
        self.post_once(url, bearer, body, now_ms, &judge).await
    }

    async fn post_once(&self, url: &Url, bearer: &HeaderValue, body: Bytes, now_ms: i64, judge: &impl Fn(&Reply) -> Verdict) -> Verdict {
        let taken = self.take(now_ms);
        let request = taken
            .link
            .client
            .post(url.clone())
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        let started = Instant::now();
        let verdict = match request.send().await {
            Ok(response) => judge(&read(response).await),
            Err(error) => lost(&error),
        };
        if verdict == Verdict::TimedOut && !self.plain {
            taken.line.suspect(&taken.link, now_ms);
        }
        let took = started.elapsed();
        taken.link.limit.heard(&verdict, now_ms + took.as_millis() as i64, took.as_secs_f64() * 1_000.0, taken.link.load());
        verdict
    }

    /// Requests that may be under way, over all connections.
    pub(super) fn concurrency_limit(&self) -> usize {
        self.in_use().map(|link| link.limit.now()).sum::<usize>().min(self.concurrency_max)
    }

    /// How many requests they let through in `window_ms`.
    pub(super) fn throughput(&self, window_ms: i64) -> usize {
        self.in_use().map(|link| link.limit.throughput(window_ms)).sum()
    }

    /// The connections that count: the least number, those that have been in use, and one more where all before it carry what they can.
    fn in_use(&self) -> impl Iterator<Item = Arc<Link>> {
        let mut full = true;
        self.lines.iter().enumerate().filter_map(move |(nth, line)| {
            let link = line.link();
            let counts = nth < CONNECTIONS_MIN || full || link.limit.now() > START;
            full = full && link.limit.now() >= STREAMS_TYPICAL;
            counts.then_some(link)
        })
    }

    /// Posts an OAuth assertion.
    pub(super) async fn post_form(&self, url: &Url, form: &[(&str, &str)], timeout: Duration, now_ms: i64) -> Result<Reply, &'static str> {
        match self.take(now_ms).link.client.post(url.clone()).timeout(timeout).form(form).send().await {
            Ok(response) => {
                note_skew(response.headers(), now_ms);
                Ok(read(response).await)
            }
            Err(error) if error.is_timeout() => Err("oauth_timeout"),
            Err(_) => Err("oauth_connection"),
        }
    }

    /// The first connection with room, or the one that is least busy for what it bears; renewed if it is old. Requests on the old one finish
    /// there.
    fn take(&self, now_ms: i64) -> Taken<'_> {
        let links: Vec<Arc<Link>> = self.lines.iter().map(Line::link).collect();
        let within = |most: usize| links.iter().position(|link| link.load() < link.limit.now().min(most));
        let least = || (0..links.len()).min_by_key(|nth| links[*nth].load() * STREAMS_PER_CONNECTION / links[*nth].limit.now().max(1));
        let nth = within(STREAMS_TYPICAL).or_else(|| within(usize::MAX)).or_else(least).unwrap_or(0);
        let (line, mut link) = (&self.lines[nth], links[nth].clone());
        if now_ms >= line.current.read().unwrap_or_else(PoisonError::into_inner).replace_at_ms {
            // Made before anybody has to wait for it: it reads the system's roots.
            let fresh = self.link(START.max(link.limit.now() / 2));
            let mut current = line.current.write().unwrap_or_else(PoisonError::into_inner);
            if now_ms >= current.replace_at_ms {
                current.built_at_ms = now_ms;
                current.replace_at_ms = now_ms + CONNECTION_AGE_MS;
                // A client that worked once is better than none.
                if let Ok(fresh) = fresh {
                    current.link = fresh;
                }
            }
            link = current.link.clone();
        }
        link.under_way.fetch_add(1, Ordering::Relaxed);
        Taken { line, link }
    }

    /// A client that begins with so many requests under way.
    fn link(&self, start: usize) -> reqwest::Result<Arc<Link>> {
        let limit = Limit::new(start, if self.plain { self.concurrency_max } else { STREAMS_PER_CONNECTION });
        Ok(Arc::new(Link { client: self.client()?, under_way: AtomicUsize::new(0), limit }))
    }

    fn client(&self) -> reqwest::Result<Client> {
        // Data that someone asks us to send elsewhere stays here, bearer and all: no redirects.
        let builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(self.timeout)
            .connect_timeout(self.timeout / CONNECT_SHARE)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(self.concurrency_max)
            .connector_layer(MapResultLayer::new(opened));
        if self.plain {
            return builder.http1_only().no_proxy().tls_certs_only(self.roots.clone()).build();
        }
        builder.tls_certs_merge(self.roots.clone()).build()
    }
}

impl Line {
    fn link(&self) -> Arc<Link> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).link.clone()
    }

    /// A request on it timed out: the connection may be dead without having ended, so the next request opens another.
    fn suspect(&self, link: &Arc<Link>, now_ms: i64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current.link, link) && now_ms - current.built_at_ms >= REPLACE_EVERY_MS {
            current.replace_at_ms = now_ms;
        }
    }
}

async fn read(mut response: Response) -> Reply {
    let status = response.status().as_u16();
    let retry_after = header_text(response.headers());
    let mut body = Vec::new();
    let whole = loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_BYTES_MAX => {
                body.extend_from_slice(&chunk[..ANSWER_BYTES_MAX - body.len()]);
                break false;
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    Reply { status, retry_after, body, whole }
}

/// Counts a connection that was opened, its TLS handshake included. One that fails is seen where its request does: a timeout of it does not
/// come by here.
fn opened<T, E>(made: Result<T, E>) -> Result<T, E> {
    if made.is_ok() {
        count_connect("opened");
    }
    made
}

fn count_connect(result: &'static str) {
    metrics::counter!("muster_connects_total", "provider" => "fcm", "result" => result).increment(1);
}

/// Google's clock, which judges our tokens, against ours.
fn note_skew(headers: &HeaderMap, now_ms: i64) {
    if let Some(ahead_ms) = http_date::ahead_ms(headers, now_ms) {
        metrics::gauge!("muster_clock_skew").set(ahead_ms as f64 / 1_000.0);
    }
}

fn header_text(headers: &HeaderMap) -> Option<String> {
    headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn lost(error: &reqwest::Error) -> Verdict {
    if error.is_connect() {
        count_connect("failed");
        Verdict::Unsent { reason: "connect" }
    } else if error.is_timeout() {
        Verdict::TimedOut
    } else if error.is_builder() {
        Verdict::Bug { reason: "request", detail: "the request could not be built".into() }
    } else {
        LOST
    }
}
