//! The connections under one credential: two that are kept open, more while all are full, none in haste after a failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::connection::{Connection, Lost, Stream};
use super::tls::Target;
use crate::push::aimd::START;
use crate::push::verdict::Verdict;

const CONNECTIONS_MIN: usize = 2;
const CONNECTIONS_MAX: usize = 8;
/// Nudges have waited for the streams of all connections for so long before another one is opened.
const SATURATED: Duration = Duration::from_secs(1);
/// Apple takes rapid reconnects for an attack: the wait after a failure, doubled up to the maximum.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A failure after good times is tried over so often, if it came quickly, before those who wait hear of it: one lost packet is no outage.
const TRIES: u32 = 3;
const QUICKLY: Duration = Duration::from_secs(2);
/// A connection that ends sooner without having been asked anything was not wanted.
const SOON: Duration = Duration::from_secs(60);

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
    /// What the peer said of the credential when it ended a connection, until it is told.
    denial: Option<Verdict>,
    /// How many connections that nobody had asked anything ended soon, one after the other, and when the last of them did.
    unwanted: u32,
    unwanted_at: Option<Instant>,
    /// Connections that end or failed and in whose place none was opened yet.
    missing: usize,
    /// With how many requests in flight the next connection begins: half of what one that has ended could carry.
    heritage: usize,
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
        let roomy = state.connections.iter().filter(|connection| connection.has_room());
        let taken = roomy.min_by_key(|connection| connection.in_flight()).map(|connection| connection.take(self));
        let is_needed = state.connections.is_empty();
        self.open_if_wanted(&mut state, is_needed);
        match taken {
            Some(stream) => Some(Ok(stream)),
            None if state.connections.is_empty() && !state.opening => {
                Some(Err(state.failed.as_ref().map_or(Verdict::Unsent { reason: "connect" }, |(_, verdict)| verdict.clone())))
            }
            None => None,
        }
    }

    /// Opens connections also while nothing is sent, so that the next nudge finds one; and one more where nudges are `waiting` at each look for a
    /// second and it is the peers' word that keeps them waiting: where the answers show strain, another connection would be no better. Answers,
    /// once, a denial of the credential that left no connection: nobody who sends may come to hear it for hours.
    pub(super) fn keep_warm(self: &Arc<Pool>, waiting: bool) -> Option<Verdict> {
        let mut state = self.state();
        state.let_go();
        let full = |connection: &Arc<Connection>| connection.streams_max() <= connection.limit().now();
        if waiting && !state.connections.is_empty() && state.connections.iter().all(full) {
            state.saturated_since.get_or_insert_with(Instant::now);
        } else {
            state.saturated_since = None;
        }
        self.open_if_wanted(&mut state, false);
        self.show(&state);
        let denial = if state.connections.is_empty() { state.denial.take() } else { None };
        drop(state);
        // A peer may have raised its number of streams meanwhile, which rings nobody.
        self.bell.notify_one();
        denial
    }

    /// Opens another connection where there should be one more. A peer that wants none on which nothing happens is heeded, unless one is
    /// needed.
    fn open_if_wanted(self: &Arc<Pool>, state: &mut State, is_needed: bool) {
        let open = state.connections.len();
        let wanted = open < CONNECTIONS_MIN || state.saturated_since.is_some_and(|since| since.elapsed() >= SATURATED);
        if !wanted || open >= CONNECTIONS_MAX || state.opening || state.retired || state.is_resting() {
            return;
        }
        if !is_needed && state.unwanted_at.is_some_and(|at| at.elapsed() < backoff(state.unwanted)) {
            return;
        }
        state.opening = true;
        state.saturated_since = None;
        if state.missing > 0 {
            state.missing -= 1;
            metrics::counter!("muster_reconnects", "provider" => self.name.clone()).increment(1);
        }
        let start = START.max(std::mem::take(&mut state.heritage));
        self.open(start, if state.failures == 0 { TRIES } else { 1 });
    }

    fn open(self: &Arc<Pool>, start: usize, tries: u32) {
        let pool = self.clone();
        tokio::spawn(async move {
            let opened = pool.tried(start, tries).await;
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
                        state.heritage = state.heritage.max(start);
                        "failed"
                    }
                };
                metrics::counter!("muster_connects_total", "provider" => pool.name.clone(), "result" => result).increment(1);
                pool.show(&state);
            }
            pool.bell.notify_waiters();
        });
    }

    /// Opens a connection, after up to so many tries.
    async fn tried(&self, start: usize, tries: u32) -> Result<Arc<Connection>, Verdict> {
        for tried in 1.. {
            let began = Instant::now();
            let opened = Connection::open(&self.target, self.tls.clone(), self.this.clone(), start).await;
            let again = matches!(opened, Err(Verdict::Unsent { .. })) && tried < tries && began.elapsed() < QUICKLY;
            if !again {
                return opened;
            }
            metrics::counter!("muster_connects_total", "provider" => self.name.clone(), "result" => "failed").increment(1);
            tokio::time::sleep(BACKOFF * tried).await;
            if self.state().retired {
                break;
            }
        }
        Err(Verdict::Refused { reason: "credential_replaced" })
    }

    /// A connection ended that had lived for so long, by `last` if by an error, and on which something was `asked` and `answered`.
    pub(super) fn ended(&self, last: Option<Lost>, asked: bool, answered: bool, lived: Duration) {
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
            // One that was asked and never answered is as good as one that could not be opened.
            _ if asked && !answered => state.fail(Verdict::Unsent { reason: "connection_lost" }),
            // A peer that wants no connection on which nothing happens gets one when there is something.
            _ if !answered && lived < SOON => {
                state.unwanted += 1;
                state.unwanted_at = Some(Instant::now());
            }
            _ if lived >= SOON => (state.unwanted, state.unwanted_at) = (0, None),
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
        (state.failed, state.denial) = (None, None);
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

    /// Requests that may be in flight, over all connections; those that will be opened count as they begin.
    pub(super) fn concurrency_limit(&self) -> usize {
        self.state().sum(|connection| connection.room())
    }

    /// How many requests the limits of the connections let through in `window_ms`.
    pub(super) fn throughput(&self, window_ms: i64) -> usize {
        self.state().sum(|connection| {
            let (room, limit) = (connection.room(), connection.limit().now().max(1));
            connection.limit().throughput(window_ms) * room / limit
        })
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

/// How long nothing is opened after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    (BACKOFF * 2_u32.saturating_pow(failures.saturating_sub(1).min(10))).min(BACKOFF_MAX)
}

impl State {
    /// Forgets the connections that open no more streams: others take their place.
    fn let_go(&mut self) {
        let (before, mut carried) = (self.connections.len(), 0);
        self.connections.retain(|connection| {
            if connection.is_draining() {
                carried = carried.max(connection.limit().now());
            }
            !connection.is_draining()
        });
        self.missing += before - self.connections.len();
        self.heritage = self.heritage.max(carried / 2);
    }

    fn sum(&self, of: impl Fn(&Connection) -> usize) -> usize {
        let to_come = CONNECTIONS_MIN.saturating_sub(self.connections.len()) * START;
        self.connections.iter().map(|connection| of(connection)).sum::<usize>() + to_come
    }

    /// A failure was so short a while ago that nothing is opened yet.
    fn is_resting(&self) -> bool {
        self.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < backoff(self.failures))
    }

    fn fail(&mut self, verdict: Verdict) {
        self.failures = self.failures.saturating_add(1);
        self.denial = Some(verdict.clone()).filter(|verdict| matches!(verdict, Verdict::Config { .. }));
        self.failed = Some((Instant::now(), verdict));
    }
}
