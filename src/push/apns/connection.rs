//! One connection to APNs and the streams on it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason};
use http::Request;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::answer;
use super::pool::Pool;
use super::tls::Target;
use crate::push::aimd::Limit;
use crate::push::verdict::Verdict;

/// Name, TCP, TLS and the first frames together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing happened for so long is asked whether it lives.
const IDLE: Duration = Duration::from_secs(3_600);
/// TCP asks so soon on a quiet connection, and so often until it gives it up.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const PONG_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests in flight on one connection at most, whatever the peer would take.
pub(super) const IN_FLIGHT_MAX: usize = 2_000;
/// Answers are read up to this length; the rest is not looked at.
const ANSWER_BYTES_MAX: usize = 65_536;

/// An answer, read as far as it is looked at.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Vec<u8>,
    /// False when the body was cut off, by the limit or by a broken connection.
    pub(super) whole: bool,
}

/// Why a stream has no answer.
pub(super) enum Lost {
    /// The peer never looked at it: it may go out again at once.
    Refused,
    /// It may have been looked at.
    Broken,
    /// The credential was refused by the connection itself.
    Denied { code: &'static str, detail: String },
}

/// An open connection. It ends when its last handle and its last stream are gone.
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    in_flight: AtomicUsize,
    limit: Limit,
    opened: AtomicUsize,
    draining: AtomicBool,
    answered: AtomicBool,
}

impl Connection {
    /// Resolves the name anew, so that connections land on different servers, and shakes hands. It begins with `start` requests in flight.
    pub(super) async fn open(
        target: &Target,
        tls: Arc<rustls::ClientConfig>,
        pool: Weak<Pool>,
        start: usize,
    ) -> Result<Arc<Connection>, Verdict> {
        match tokio::time::timeout(CONNECT_TIMEOUT, shake_hands(target, tls, pool, start)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Verdict::Unsent { reason: "connect_timeout" }),
        }
    }

    /// How many requests may be in flight, by what the answers show.
    pub(super) fn limit(&self) -> &Limit {
        &self.limit
    }

    /// How many requests may be in flight, by the peer's word and by what the answers show; one at least, for a peer that takes none now
    /// may take one soon.
    pub(super) fn room(&self) -> usize {
        self.streams_max().min(self.limit.now()).max(1)
    }

    /// True where another request may leave on it.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight() < self.streams_max().min(self.limit.now())
    }

    /// Streams that may be open at once, by the peer's word.
    pub(super) fn streams_max(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Opens no more streams on it; those under way finish.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Takes one of its streams; the caller has looked that there is one.
    pub(super) fn take(self: &Arc<Connection>, pool: &Arc<Pool>) -> Stream {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Stream { connection: self.clone(), pool: pool.clone() }
    }
}

/// A stream that is ours until it is dropped.
pub(super) struct Stream {
    connection: Arc<Connection>,
    pool: Arc<Pool>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.freed();
    }
}

impl Stream {
    /// Sends one request and reads its answer.
    pub(super) async fn send(&self, head: Request<()>, body: Bytes) -> Result<Reply, Lost> {
        let outcome = self.exchange(head, body).await;
        match &outcome {
            Ok(_) => {
                if !self.connection.answered.swap(true, Ordering::Relaxed) {
                    self.pool.worked();
                }
            }
            Err((error, _)) if error.is_reset() => {}
            Err(_) => self.connection.drain(),
        }
        outcome.map_err(|(error, sent)| match lost(&error) {
            // It never left: the connection had ended before.
            Lost::Broken if !sent => Lost::Refused,
            lost => lost,
        })
    }

    /// One request and its answer; an error says whether anything may have been sent.
    async fn exchange(&self, head: Request<()>, body: Bytes) -> Result<Reply, (h2::Error, bool)> {
        let mut requests = self.connection.requests.clone().ready().await.map_err(|error| (error, false))?;
        let (response, mut stream) = requests.send_request(head, false).map_err(|error| (error, false))?;
        self.connection.opened.fetch_add(1, Ordering::Relaxed);
        stream.send_data(body, true).map_err(|error| (error, true))?;
        let (head, mut incoming) = response.await.map_err(|error| (error, true))?.into_parts();
        let retry_after = head.headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        let whole = loop {
            match incoming.data().await {
                Some(Ok(chunk)) => {
                    incoming.flow_control().release_capacity(chunk.len()).ok();
                    let room = ANSWER_BYTES_MAX - body.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() > room {
                        break false;
                    }
                }
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        Ok(Reply { status: head.status.as_u16(), retry_after, body, whole })
    }

    /// What became of the request, after `took_ms`, for the limit of its connection.
    pub(super) fn heard(&self, verdict: &Verdict, now_ms: i64, took_ms: f64) {
        self.connection.limit.heard(verdict, now_ms, took_ms, self.connection.in_flight());
    }

    /// The connection may be dead without having ended: no more streams on it.
    pub(super) fn suspect(&self) {
        self.connection.drain();
    }
}

fn lost(error: &h2::Error) -> Lost {
    let text = error.to_string();
    if let Some((_, alert)) = text.split_once("received fatal alert: ") {
        let alert: String = alert.chars().take_while(char::is_ascii_alphanumeric).collect();
        return Lost::Denied { code: "tls_alert", detail: format!("APNs ended the TLS handshake: {alert}") };
    }
    if error.is_go_away() && error.is_remote() {
        return match answer::fault_in(&text) {
            Some(code) => Lost::Denied { code, detail: format!("APNs ended the connection: {code}") },
            // Streams that the peer still looks at are answered; these are the others.
            None => Lost::Refused,
        };
    }
    if error.reason() == Some(Reason::REFUSED_STREAM) { Lost::Refused } else { Lost::Broken }
}

async fn shake_hands(target: &Target, tls: Arc<rustls::ClientConfig>, pool: Weak<Pool>, start: usize) -> Result<Arc<Connection>, Verdict> {
    let unsent = |reason| Verdict::Unsent { reason };
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|_| unsent("connect"))?;
    tcp.set_nodelay(true).map_err(|_| unsent("connect"))?;
    // Below HTTP/2, where Apple counts PINGs: routers on the way keep the connection, and a peer that is gone is noticed.
    let alive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_EVERY);
    SockRef::from(&tcp).set_tcp_keepalive(&alive).map_err(|_| unsent("connect"))?;
    if target.plain {
        return speak(tcp, pool, start).await;
    }
    match tokio_rustls::TlsConnector::from(tls).connect(target.name.clone(), tcp).await {
        Ok(stream) => speak(stream, pool, start).await,
        Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => {
                Verdict::Config { code: "tls_alert", detail: format!("APNs ended the TLS handshake: {alert:?}") }
            }
            Some(_) => {
                tracing::warn!(%error, "the TLS handshake with APNs failed");
                unsent("tls")
            }
            None => unsent("connect"),
        }),
    }
}

async fn speak<T>(stream: T, pool: Weak<Pool>, start: usize) -> Result<Arc<Connection>, Verdict>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = h2::client::Builder::new();
    // Until the peer says how many streams it takes, one.
    builder.initial_max_send_streams(1).enable_push(false);
    let (requests, mut driver) = builder.handshake(stream).await.map_err(|_| Verdict::Unsent { reason: "connect" })?;
    let pings = driver.ping_pong();
    let connection = Arc::new(Connection {
        requests,
        in_flight: AtomicUsize::new(0),
        limit: Limit::new(start, IN_FLIGHT_MAX),
        opened: AtomicUsize::new(0),
        draining: AtomicBool::new(false),
        answered: AtomicBool::new(false),
    });
    let known = Arc::downgrade(&connection);
    let began = Instant::now();
    tokio::spawn(async move {
        let ended = drive(driver, pings, &known).await;
        let (asked, answered) = known.upgrade().map_or((true, true), |connection| {
            connection.drain();
            (connection.opened.load(Ordering::Relaxed) > 0, connection.answered.load(Ordering::Relaxed))
        });
        if let Some(pool) = pool.upgrade() {
            pool.ended(ended.as_ref().map(lost), asked, answered, began.elapsed());
        }
    });
    Ok(connection)
}

/// Moves the frames until the connection ends; answers the error that ended it.
async fn drive<T>(mut driver: h2::client::Connection<T>, mut pings: Option<PingPong>, known: &Weak<Connection>) -> Option<h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut seen = 0;
    loop {
        if let Ok(ended) = tokio::time::timeout(IDLE, &mut driver).await {
            return ended.err();
        }
        let opened = known.upgrade().map_or(0, |connection| connection.opened.load(Ordering::Relaxed));
        let idle = std::mem::replace(&mut seen, opened) == opened;
        let Some(pings) = pings.as_mut().filter(|_| idle) else { continue };
        if pings.send_ping(Ping::opaque()).is_err() {
            continue;
        }
        tokio::select! {
            ended = &mut driver => return ended.err(),
            pong = tokio::time::timeout(PONG_TIMEOUT, poll_fn(|context| pings.poll_pong(context))) => {
                if !matches!(pong, Ok(Ok(_))) {
                    return None;
                }
            }
        }
    }
}
