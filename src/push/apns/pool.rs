//! The connections under one credential: two while there is something to send, more while all are full, none in haste after a failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::connection::{Connection, Lost, Stream};
use super::tls::Target;
use crate::push::verdict::Verdict;

const CONNECTIONS_MIN: usize = 2;
const CONNECTIONS_MAX: usize = 8;
/// All connections have been full for so long before another one is opened.
const SATURATED: Duration = Duration::from_secs(1);
/// Apple takes rapid reconnects for an attack: the wait after a failure, doubled up to the maximum.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Share it in an `Arc`.
pub(super) struct Pool {
    name: String,
    target: Arc<Target>,
    tls: Arc<rustls::ClientConfig>,
    state: Mutex<State>,
    /// Rung when a stream is free, a connection opens or one fails.
    bell: Notify,
    this: Weak<Pool>,
}

#[derive(Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    opening: bool,
    saturated_since: Option<Instant>,
    /// Another credential took its place: nothing is opened any more.
    retired: bool,
    failures: u32,
    failed: Option<(Instant, Verdict)>,
    /// Connections that end or failed and in whose place none was opened yet.
    missing: usize,
}

impl Pool {
    pub(super) fn new(name: String, target: Arc<Target>, tls: Arc<rustls::ClientConfig>) -> Arc<Pool> {
        Arc::new_cyclic(|this| Pool { name, target, tls, state: Mutex::default(), bell: Notify::new(), this: this.clone() })
    }

    /// The sender's name, for metrics.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A stream of the connection with the fewest; waits while all are taken. `Err` when there is no connection to be had for now.
    pub(super) async fn stream(self: &Arc<Pool>) -> Result<Stream, Verdict> {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            match self.try_stream() {
                Some(outcome) => {
                    // Where there is one stream there may be more: each waiter wakes the next.
                    self.bell.notify_one();
                    return outcome;
                }
                None => rung.await,
            }
        }
    }

    fn try_stream(self: &Arc<Pool>) -> Option<Result<Stream, Verdict>> {
        let mut state = self.state();
        if state.retired {
            return Some(Err(Verdict::Refused { reason: "credential_replaced" }));
        }
        state.let_go();
        let roomy = state.connections.iter().filter(|connection| connection.in_flight() < connection.streams_max());
        let taken = roomy.min_by_key(|connection| connection.in_flight()).map(|connection| connection.take(self));
        let backoff = (BACKOFF * 2_u32.saturating_pow(state.failures.saturating_sub(1).min(10))).min(BACKOFF_MAX);
        let resting = state.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < backoff);
        if taken.is_some() {
            state.saturated_since = None;
        } else if !state.connections.is_empty() {
            state.saturated_since.get_or_insert_with(Instant::now);
        }
        let open = state.connections.len();
        let wanted = open < CONNECTIONS_MIN || state.saturated_since.is_some_and(|since| since.elapsed() >= SATURATED);
        if wanted && open < CONNECTIONS_MAX && !state.opening && !resting {
            state.opening = true;
            state.saturated_since = None;
            if state.missing > 0 {
                state.missing -= 1;
                metrics::counter!("muster_reconnects", "provider" => self.name.clone()).increment(1);
            }
            self.open();
        }
        match taken {
            Some(stream) => Some(Ok(stream)),
            None if open == 0 && !state.opening => {
                Some(Err(state.failed.as_ref().map_or(Verdict::Unsent { reason: "connect" }, |(_, verdict)| verdict.clone())))
            }
            None => None,
        }
    }

    fn open(self: &Arc<Pool>) {
        let pool = self.clone();
        tokio::spawn(async move {
            let opened = Connection::open(&pool.target, pool.tls.clone(), pool.this.clone()).await;
            {
                let mut state = pool.state();
                state.opening = false;
                let result = match opened {
                    Ok(connection) => {
                        state.connections.push(connection);
                        "opened"
                    }
                    Err(verdict) => {
                        state.fail(verdict);
                        state.missing += 1;
                        "failed"
                    }
                };
                metrics::counter!("muster_connects_total", "provider" => pool.name.clone(), "result" => result).increment(1);
                pool.show(&state);
            }
            pool.bell.notify_waiters();
        });
    }

    /// A connection ended, by `last` if by an error.
    pub(super) fn ended(&self, last: Option<Lost>, answered: bool) {
        let mut state = self.state();
        state.let_go();
        let reason = match &last {
            Some(Lost::Denied { code, .. }) => code,
            Some(Lost::Refused) => "goaway",
            Some(Lost::Broken) => "broken",
            None => "closed",
        };
        metrics::counter!("muster_goaway_total", "provider" => self.name.clone(), "reason" => reason).increment(1);
        match last {
            Some(Lost::Denied { code, detail }) => state.fail(Verdict::Config { code, detail }),
            // One that never answered anything is as good as one that could not be opened.
            Some(_) if !answered => state.fail(Verdict::Unsent { reason: "connection_lost" }),
            _ => {}
        }
        self.show(&state);
        drop(state);
        self.bell.notify_waiters();
    }

    /// A connection gave its first answer.
    pub(super) fn worked(&self) {
        let mut state = self.state();
        state.failures = 0;
        state.failed = None;
    }

    /// Opens no more streams on any connection of now.
    pub(super) fn drain(&self) {
        self.drain_all(&mut self.state());
    }

    fn drain_all(&self, state: &mut State) {
        state.missing += state.connections.len();
        for connection in state.connections.drain(..) {
            connection.drain();
        }
        self.show(state);
    }

    /// Ends the pool with the streams under way.
    pub(super) fn retire(&self) {
        let mut state = self.state();
        self.drain_all(&mut state);
        state.retired = true;
        drop(state);
        self.bell.notify_waiters();
    }

    /// A stream is free again.
    pub(super) fn freed(&self) {
        self.bell.notify_one();
    }

    /// Shows the present state.
    pub(super) fn show_now(&self) {
        self.show(&self.state());
    }

    /// A pool that has been replaced says nothing more: the one in its place has the same name.
    fn show(&self, state: &State) {
        if state.retired {
            return;
        }
        let streams: usize = state.connections.iter().map(|connection| connection.streams_max().min(100_000)).sum();
        metrics::gauge!("muster_connections", "provider" => self.name.clone()).set(state.connections.len() as f64);
        metrics::gauge!("muster_stream_limit", "provider" => self.name.clone()).set(streams as f64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets the connections that open no more streams: others take their place.
    fn let_go(&mut self) {
        let before = self.connections.len();
        self.connections.retain(|connection| !connection.is_draining());
        self.missing += before - self.connections.len();
    }

    fn fail(&mut self, verdict: Verdict) {
        self.failures = self.failures.saturating_add(1);
        self.failed = Some((Instant::now(), verdict));
    }
}
