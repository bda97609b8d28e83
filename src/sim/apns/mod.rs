//! A stand-in for the Apple Push Notification service, on the real wire: HTTP/2 over TLS on loopback, with a certificate authority of
//! its own, client certificates and provider tokens, and devices that can be connected to it.

mod board;
mod connection;
mod course;
mod credentials;
mod faults;
mod request;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use jsonwebtoken::DecodingKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use board::Board;
pub use board::Push;
use credentials::Authority;
pub use credentials::{ProviderKey, PushCertificate};
pub use faults::{Canned, Fault, Faults, Scope, Times};

/// How often a listener tries to take the port of its predecessor.
const REBINDS_MAX: u32 = 200;
/// Streams of a connection that APNs trusts.
const STREAMS_MAX: u32 = 1_000;
/// Requests recorded at most.
const CAPTURES_MAX: usize = 10_000;
/// Pushes waiting at one device; more stay stored.
const DEVICE_QUEUE: usize = 128;
const YEAR_MS: i64 = 365 * 86_400_000;
/// The team that every stand-in has.
pub const TEAM: &str = "MUSTERDEMO";

/// The stand-in. Cheap to clone; it ends, with all its connections, when the last clone is dropped.
#[derive(Clone)]
pub struct StandIn {
    inner: Arc<Inner>,
    listening: Arc<Listening>,
}

struct Listening {
    addr: SocketAddr,
    authority: Authority,
    /// By door: the right certificate, and that of a stranger.
    right: Arc<rustls::ServerConfig>,
    stranger: Arc<rustls::ServerConfig>,
    revoked: tls::Revoked,
    door: Arc<Mutex<Door>>,
    stop: Mutex<CancellationToken>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

/// How the stand-in receives new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Takes connections and never says a word: a half-open peer.
    Silent,
    /// Shows a certificate of another authority.
    Stranger,
}

struct Inner {
    clock: Clock,
    board: Mutex<Board>,
    keys: RwLock<HashMap<String, token::Known>>,
    chance: Mutex<Moment>,
    faults: Faults,
    counts: Counters,
    captures: Mutex<Vec<Captured>>,
    capturing: AtomicBool,
    delay_ms: AtomicU64,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    refused_streams: AtomicU64,
    over_limit: AtomicU64,
    accepted: AtomicU64,
    delivered: AtomicU64,
    stored: AtomicU64,
}

/// What the stand-in has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted, whether their handshake succeeded or not.
    pub connections: u64,
    /// Streams opened, those too that were refused.
    pub requests: u64,
    /// Streams refused because there were more than the connection may have.
    pub refused_streams: u64,
    /// Streams that a client opened though it had acknowledged a limit that left no room for them.
    pub over_limit: u64,
    /// Pushes answered with 200; each was delivered or stored.
    pub accepted: u64,
    pub delivered: u64,
    pub stored: u64,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Captured {
    pub method: String,
    pub path: String,
    /// The topic of the client certificate, if one came.
    pub certificate_topic: Option<String>,
    /// In the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Unix milliseconds, by the stand-in's clock.
    pub at_ms: i64,
}

impl Captured {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl StandIn {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(clock: Clock) -> io::Result<StandIn> {
        StandIn::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), clock).await
    }

    /// Starts on `addr`.
    pub async fn start_on(addr: SocketAddr, clock: Clock) -> io::Result<StandIn> {
        let listener = TcpListener::bind(addr).await?;
        let authority = Authority::new("Stand-in for Apple's certificate authority")?;
        let revoked = tls::Revoked::default();
        let right = tls::server(&authority, &authority, clock.clone(), revoked.clone())?;
        let stranger = tls::server(&Authority::new("A stranger")?, &authority, clock.clone(), revoked.clone())?;
        let inner = Inner {
            chance: Mutex::new(clock.moment()),
            clock,
            board: Mutex::default(),
            keys: RwLock::default(),
            faults: Faults::default(),
            counts: Counters::default(),
            captures: Mutex::default(),
            capturing: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
        };
        let door = Arc::new(Mutex::new(Door::Open));
        let listening = Listening { addr: listener.local_addr()?, authority, right, stranger, revoked, door, stop: Mutex::default() };
        let stand_in = StandIn { inner: Arc::new(inner), listening: Arc::new(listening) };
        stand_in.serve(listener);
        Ok(stand_in)
    }

    fn serve(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        *self.listening.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        let doors = (self.listening.right.clone(), self.listening.stranger.clone(), self.listening.door.clone());
        tokio::spawn(run(self.inner.clone(), listener, doors, stop));
    }

    /// Ends all connections and refuses new ones until [`StandIn::accept_connections`].
    pub fn refuse_connections(&self) {
        self.listening.stop.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// Listens again on the same port; connections that are still there end.
    pub async fn accept_connections(&self) -> io::Result<()> {
        self.refuse_connections();
        // The old listener ends as soon as its task is run.
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(self.listening.addr).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < REBINDS_MAX => tries += 1,
                bound => break bound?,
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        self.serve(listener);
        Ok(())
    }

    /// How new connections are received from now on.
    pub fn set_door(&self, door: Door) {
        *self.listening.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }

    /// The base URL: what goes into the settings' `endpoint`.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.listening.addr)
    }

    /// The certificate authority in PEM: what goes into the file that the setting `ca_file` names.
    pub fn ca(&self) -> &str {
        &self.listening.authority.pem
    }

    /// A fresh MDM push certificate that is valid for a year.
    pub fn issue_certificate(&self, topic: &str) -> io::Result<PushCertificate> {
        self.issue_certificate_until(topic, self.inner.clock.now_ms() + YEAR_MS - 86_400_000)
    }

    /// A fresh MDM push certificate whose year ends at `not_after_ms` (Unix milliseconds), in the past for an expired one.
    pub fn issue_certificate_until(&self, topic: &str, not_after_ms: i64) -> io::Result<PushCertificate> {
        self.listening.authority.push(topic, not_after_ms)
    }

    /// A fresh MDM push certificate for a key that somebody made, PKCS#8 PEM: what the portal gives out for a request.
    pub fn issue_certificate_for(&self, topic: &str, key: &str) -> io::Result<PushCertificate> {
        let key = rcgen::KeyPair::from_pem(key).map_err(io::Error::other)?;
        self.listening.authority.push_for(topic, self.inner.clock.now_ms() + YEAR_MS - 86_400_000, &key)
    }

    /// Takes all certificates of a topic back: new connections with them fail at the handshake.
    pub fn revoke_certificates(&self, topic: &str) {
        self.listening.revoked.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned());
    }

    /// A fresh key of provider tokens of [`TEAM`], good for these bundle ids. `key_id` has ten characters with Apple.
    pub fn issue_key(&self, key_id: &str, topics: &[&str]) -> io::Result<ProviderKey> {
        let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
        let verifier = DecodingKey::from_ec_pem(key.public_key_pem().as_bytes()).map_err(io::Error::other)?;
        let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        let known = token::Known { team_id: TEAM.into(), verifier, topics };
        self.inner.keys.write().unwrap_or_else(PoisonError::into_inner).insert(key_id.to_owned(), known);
        Ok(ProviderKey { key_id: key_id.to_owned(), team_id: TEAM.into(), p8: key.serialize_pem() })
    }

    /// Takes a key back: tokens signed with it are invalid.
    pub fn revoke_key(&self, key_id: &str) {
        self.inner.keys.write().unwrap_or_else(PoisonError::into_inner).remove(key_id);
    }

    /// Registers a new device with a topic (a bundle id, or an MDM topic) and returns its token in lower-case hex. Beyond 4,000,000
    /// the token is as good as a bad one.
    pub fn register(&self, topic: &str) -> String {
        let secret = self.inner.chance.lock().unwrap_or_else(PoisonError::into_inner).secret();
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        self.inner.board().register(&token, topic);
        token
    }

    /// Registers this token (lower-case hex) with a topic, again if it was unregistered.
    pub fn register_as(&self, token: &str, topic: &str) {
        self.inner.board().register(token, topic);
    }

    /// Ends a registration: pushes to it are answered with 410 and the present time.
    pub fn unregister(&self, token: &str) -> bool {
        let now_ms = self.inner.clock.now_ms();
        self.inner.board().unregister(token, now_ms)
    }

    /// Connects the device behind `token`: what is stored for it comes at once. The receiver of an unknown token is closed; dropping
    /// it disconnects the device.
    pub fn connect(&self, token: &str) -> mpsc::Receiver<Push> {
        let (device, pushes) = mpsc::channel(DEVICE_QUEUE);
        self.connect_into(token, device);
        pushes
    }

    /// Connects the device behind `token` to a queue that many devices may share; while it is full, the last push stays stored until
    /// the next connect. False for an unknown token.
    pub fn connect_into(&self, token: &str, device: mpsc::Sender<Push>) -> bool {
        let now_ms = self.inner.clock.now_ms();
        self.inner.board().connect(token, device, now_ms)
    }

    /// Whether a push is stored for `token` at present.
    pub fn stored(&self, token: &str) -> bool {
        let now_ms = self.inner.clock.now_ms();
        self.inner.board().stored(token, now_ms)
    }

    /// The control handle of faults.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// How long each answer takes, in real milliseconds.
    pub fn set_answer_delay_ms(&self, delay_ms: u64) {
        self.inner.delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// What was seen so far.
    pub fn counts(&self) -> Counts {
        let counts = &self.inner.counts;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: get(&counts.connections),
            requests: get(&counts.requests),
            refused_streams: get(&counts.refused_streams),
            over_limit: get(&counts.over_limit),
            accepted: get(&counts.accepted),
            delivered: get(&counts.delivered),
            stored: get(&counts.stored),
        }
    }

    /// Starts or stops recording requests (at most 10,000 are kept).
    pub fn capture(&self, on: bool) {
        self.inner.capturing.store(on, Ordering::Relaxed);
    }

    /// Takes the recorded requests.
    pub fn take_captured(&self) -> Vec<Captured> {
        std::mem::take(&mut *self.inner.captures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn board(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Doors = (Arc<rustls::ServerConfig>, Arc<rustls::ServerConfig>, Arc<Mutex<Door>>);

/// Accepts connections until `stop`; every connection ends with it.
async fn run(inner: Arc<Inner>, listener: TcpListener, (right, stranger, door): Doors, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors: the backlog waits.
                Err(_) => { tokio::task::yield_now().await; continue }
            },
        };
        inner.counts.connections.fetch_add(1, Ordering::Relaxed);
        let acceptor = match *door.lock().unwrap_or_else(PoisonError::into_inner) {
            Door::Open => Some(TlsAcceptor::from(right.clone())),
            Door::Stranger => Some(TlsAcceptor::from(stranger.clone())),
            Door::Silent => None,
        };
        let (inner, stop) = (inner.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = receive(inner, stream, acceptor) => {}
            }
        });
    }
}

async fn receive(inner: Arc<Inner>, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else { return std::future::pending().await };
    if let Ok(stream) = acceptor.accept(stream).await {
        connection::serve(inner, stream).await;
    }
}
