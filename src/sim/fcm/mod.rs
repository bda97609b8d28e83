//! A stand-in for Firebase Cloud Messaging and Google's token endpoint, on the real wire, with phones that can be connected to it.

mod board;
mod course;
mod faults;
mod goaway;
mod key;
mod message;
mod oauth;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use board::Board;
pub use board::{Called, Push};
pub use faults::{Canned, Fault, Faults, Scope, Times};
use key::Key;
use oauth::Granted;

/// The project that every stand-in has.
pub const PROJECT: &str = "muster-demo";
/// Requests recorded at most.
const CAPTURES_MAX: usize = 10_000;
/// Pushes waiting at one phone; more stay stored.
const PHONE_QUEUE: usize = 128;
/// Projects that one stand-in can have.
const PROJECTS_MAX: usize = 100;
const TOKEN_LIFE_S: i64 = 3_600;

/// The stand-in. Cheap to clone; it ends, with all its connections, when the last clone is dropped.
#[derive(Clone)]
pub struct StandIn {
    inner: Arc<Inner>,
    listening: Arc<Listening>,
}

struct Listening {
    addr: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: Mutex<CancellationToken>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

struct Inner {
    clock: Clock,
    key: &'static Key,
    token_uri: String,
    projects: RwLock<Vec<Arc<str>>>,
    board: Mutex<Board>,
    granted: RwLock<Granted>,
    chance: Mutex<Moment>,
    faults: Faults,
    counts: Counters,
    captures: Mutex<Vec<Captured>>,
    capturing: AtomicBool,
    stalling: AtomicBool,
    delay_ms: AtomicU64,
    loss_per_million: AtomicI64,
    token_life_s: AtomicI64,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    token_requests: AtomicU64,
    tokens_granted: AtomicU64,
    accepted: AtomicU64,
    delivered: AtomicU64,
    stored: AtomicU64,
    lost: AtomicU64,
}

/// What the stand-in has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub connections: u64,
    /// All requests, to the token endpoint too.
    pub requests: u64,
    pub token_requests: u64,
    pub tokens_granted: u64,
    /// Messages answered with 200; each was delivered, stored or lost.
    pub accepted: u64,
    pub delivered: u64,
    pub stored: u64,
    pub lost: u64,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Captured {
    pub method: String,
    pub path: String,
    pub http2: bool,
    /// In the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Unix milliseconds, by the stand-in's clock.
    pub at_ms: i64,
}

impl StandIn {
    /// Starts on a free port of 127.0.0.1 with plain HTTP.
    pub async fn start(clock: Clock) -> io::Result<StandIn> {
        StandIn::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), clock, None).await
    }

    /// Starts on `addr`; with `tls` it speaks TLS, and HTTP/2 if the configuration offers `h2`.
    pub async fn start_on(addr: SocketAddr, clock: Clock, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<StandIn> {
        let key = tokio::task::spawn_blocking(key::key).await.map_err(io::Error::other)??;
        let listener = serve::listen(addr).await?;
        let addr = listener.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let inner = Inner {
            chance: Mutex::new(clock.moment()),
            clock,
            key,
            token_uri: format!("{scheme}://{addr}/token"),
            projects: RwLock::new(vec![PROJECT.into()]),
            board: Mutex::default(),
            granted: RwLock::default(),
            faults: Faults::default(),
            counts: Counters::default(),
            captures: Mutex::default(),
            capturing: AtomicBool::new(false),
            stalling: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            loss_per_million: AtomicI64::new(0),
            token_life_s: AtomicI64::new(TOKEN_LIFE_S),
        };
        let listening = Listening { addr, tls, stop: Mutex::default() };
        let stand_in = StandIn { inner: Arc::new(inner), listening: Arc::new(listening) };
        stand_in.serve(listener);
        Ok(stand_in)
    }

    fn serve(&self, listener: tokio::net::TcpListener) {
        let stop = CancellationToken::new();
        *self.listening.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        let inner = self.inner.clone();
        let counts = self.inner.clone();
        let connected = move || {
            counts.counts.connections.fetch_add(1, Ordering::Relaxed);
            if counts.stalling.load(Ordering::Relaxed) { 0 } else { serve::STREAM_WINDOW_BYTES }
        };
        tokio::spawn(serve::run(listener, self.listening.tls.clone(), stop, connected, move |request| inner.clone().handle(request)));
    }

    /// Ends all connections and refuses new ones until [`StandIn::accept_connections`].
    pub fn refuse_connections(&self) {
        self.listening.stop.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// Listens again on the same port.
    pub async fn accept_connections(&self) -> io::Result<()> {
        self.refuse_connections();
        let listener = serve::listen_again(self.listening.addr).await?;
        self.serve(listener);
        Ok(())
    }

    /// While on, no body gets through on connections that are made (HTTP/2): their windows stay at 0.
    pub fn stall_new_connections(&self, on: bool) {
        self.inner.stalling.store(on, Ordering::Relaxed);
    }

    /// The base URL: what goes into the setting `push.fcm.endpoint`.
    pub fn endpoint(&self) -> String {
        self.inner.token_uri.trim_end_matches("/token").to_owned()
    }

    /// The JSON file of a service account of [`PROJECT`].
    pub fn service_account(&self) -> Vec<u8> {
        self.service_account_of(PROJECT)
    }

    /// The JSON file of a service account of another project, which is made if it is new (at most 100).
    pub fn service_account_of(&self, project: &str) -> Vec<u8> {
        let mut projects = self.inner.projects.write().unwrap_or_else(PoisonError::into_inner);
        if projects.len() < PROJECTS_MAX && !projects.iter().any(|known| **known == *project) {
            projects.push(project.into());
        }
        let account = serde_json::json!({
            "type": "service_account",
            "project_id": project,
            "private_key_id": "0123456789abcdef0123456789abcdef01234567",
            "private_key": self.inner.key.pem,
            "client_email": account_of(project),
            "client_id": "100000000000000000000",
            "token_uri": self.inner.token_uri,
        });
        account.to_string().into_bytes()
    }

    /// Registers a new installation with [`PROJECT`] and returns its token. Beyond 4,000,000 the token is as good as unregistered.
    pub fn register(&self) -> String {
        let token = self.inner.fresh_token();
        self.register_as(&token, PROJECT, None);
        token
    }

    /// Registers `token` (or an installation id) with `project`, for messages to the package `app` only if one is given.
    pub fn register_as(&self, token: &str, project: &str, app: Option<&str>) {
        self.inner.board().register(token, &project.into(), app.map(str::to_owned));
    }

    /// Ends a registration: messages to it are answered with UNREGISTERED.
    pub fn unregister(&self, token: &str) -> bool {
        self.inner.board().unregister(token)
    }

    /// The same installation under a new token; the old one is UNREGISTERED. `None` for an unknown token.
    pub fn rotate(&self, token: &str) -> Option<String> {
        let fresh = self.inner.fresh_token();
        self.inner.board().rotate(token, &fresh).then_some(fresh)
    }

    /// Connects the phone behind `token`: what is stored for it comes at once. The receiver of an unknown token is closed; dropping
    /// it disconnects the phone.
    pub fn connect(&self, token: &str) -> mpsc::Receiver<Push> {
        let (phone, pushes) = mpsc::channel(PHONE_QUEUE);
        self.connect_into(token, phone);
        pushes
    }

    /// Connects the phone behind `token` to a queue that many phones may share; while it is full, pushes stay stored until the next
    /// connect. False for an unknown token.
    pub fn connect_into(&self, token: &str, phone: mpsc::Sender<Push>) -> bool {
        let now_ms = self.inner.clock.now_ms();
        self.inner.board().connect(token, phone, now_ms)
    }

    /// Tells `called` of every phone that is called from now on, connected or not, until its receiver is dropped: one queue for a fleet in
    /// which a queue for each phone would be too much. Calls that find it full are not told.
    pub fn tap(&self, called: mpsc::Sender<Called>) {
        self.inner.board().tap(called);
    }

    /// Messages stored for `token` at present.
    pub fn stored(&self, token: &str) -> usize {
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

    /// How many accepted messages of a million reach nobody.
    pub fn set_loss_per_million(&self, loss: u32) {
        self.inner.loss_per_million.store(loss.into(), Ordering::Relaxed);
    }

    /// `expires_in` of the access tokens granted from now on.
    pub fn set_token_life_s(&self, life_s: u32) {
        self.inner.token_life_s.store(life_s.into(), Ordering::Relaxed);
    }

    /// Ends all access tokens: the next messages are answered with 401.
    pub fn revoke_access_tokens(&self) {
        self.inner.granted.write().unwrap_or_else(PoisonError::into_inner).revoke_all();
    }

    /// What was seen so far.
    pub fn counts(&self) -> Counts {
        let counts = &self.inner.counts;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: get(&counts.connections),
            requests: get(&counts.requests),
            token_requests: get(&counts.token_requests),
            tokens_granted: get(&counts.tokens_granted),
            accepted: get(&counts.accepted),
            delivered: get(&counts.delivered),
            stored: get(&counts.stored),
            lost: get(&counts.lost),
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

    fn knows(&self, project: &str) -> bool {
        self.projects.read().unwrap_or_else(PoisonError::into_inner).iter().any(|known| **known == *project)
    }

    fn project_of_account(&self, email: &str) -> Option<Arc<str>> {
        let projects = self.projects.read().unwrap_or_else(PoisonError::into_inner);
        projects.iter().find(|project| account_of(project) == email).cloned()
    }

    /// Shaped like a registration token: 22 characters, a colon, and more.
    fn fresh_token(&self) -> String {
        use base64::Engine;
        let secret = self.chance.lock().unwrap_or_else(PoisonError::into_inner).secret();
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret);
        format!("{}:APA91b{}", &text[..22], &text[22..])
    }
}

fn account_of(project: &str) -> String {
    format!("firebase-adminsdk@{project}.example.org")
}
