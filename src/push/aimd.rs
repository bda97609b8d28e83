//! How many requests may be in flight on one connection: grows by one for each window of successes, halves when the peer shows strain.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::breaker::Health;
use super::verdict::Verdict;

/// Where a new connection starts.
pub(super) const START: usize = 10;
/// Weight of the newest answer in the running mean of answer times.
const MEAN_WEIGHT: f64 = 0.05;
/// The smallest answer time is forgotten after this long, since routes change.
const FASTEST_LIFE_MS: i64 = 600_000;
/// Answers slower than twice the fastest by more than this stop the growth.
const SLACK_MS: f64 = 50.0;

/// The limit of one connection, shared by the requests on it.
#[derive(Debug)]
pub(super) struct Limit {
    aimd: Mutex<Aimd>,
    now: AtomicUsize,
}

impl Limit {
    /// A limit between 1 and `ceiling` that starts at `start`.
    pub(super) fn new(start: usize, ceiling: usize) -> Limit {
        let aimd = Aimd::new(start, ceiling);
        Limit { now: AtomicUsize::new(aimd.limit), aimd: Mutex::new(aimd) }
    }

    /// Requests that may be in flight.
    pub(super) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// How many requests it lets through in `window_ms`, going by the answer times seen; the limit itself before any.
    pub(super) fn throughput(&self, window_ms: i64) -> usize {
        self.aimd().throughput(window_ms)
    }

    /// A request ended after `took_ms`, with `in_flight` under way, itself included.
    pub(super) fn heard(&self, verdict: &Verdict, now_ms: i64, took_ms: f64, in_flight: usize) {
        let mut aimd = self.aimd();
        match verdict {
            Verdict::TimedOut | Verdict::Overloaded { .. } | Verdict::Throttled { .. } | Verdict::Refused { .. } => {
                aimd.strained(now_ms, took_ms)
            }
            // What a rejection takes says nothing of the time that a push takes.
            other if other.signs().0 == Health::Good => {
                aimd.succeeded(now_ms, matches!(other, Verdict::Accepted).then_some(took_ms), in_flight)
            }
            _ => return,
        }
        self.now.store(aimd.limit, Ordering::Relaxed);
    }

    fn aimd(&self) -> MutexGuard<'_, Aimd> {
        self.aimd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Additive increase, multiplicative decrease. Pure.
#[derive(Debug)]
struct Aimd {
    limit: usize,
    ceiling: usize,
    successes: usize,
    mean_ms: Option<f64>,
    fastest_ms: f64,
    fastest_at_ms: i64,
    cut_at_ms: i64,
}

impl Aimd {
    fn new(start: usize, ceiling: usize) -> Aimd {
        let ceiling = ceiling.max(1);
        Aimd {
            limit: start.clamp(1, ceiling),
            ceiling,
            successes: 0,
            mean_ms: None,
            fastest_ms: f64::MAX,
            fastest_at_ms: i64::MIN,
            cut_at_ms: i64::MIN,
        }
    }

    /// An answer that shows no strain, after `took_ms` where that says something, with `in_flight` requests under way.
    fn succeeded(&mut self, now_ms: i64, took_ms: Option<f64>, in_flight: usize) {
        if let Some(took_ms) = took_ms {
            self.mean_ms = Some(self.mean_ms.map_or(took_ms, |mean| mean + (took_ms - mean) * MEAN_WEIGHT));
            if took_ms < self.fastest_ms || now_ms.saturating_sub(self.fastest_at_ms) > FASTEST_LIFE_MS {
                self.fastest_ms = took_ms;
                self.fastest_at_ms = now_ms;
            }
        }
        // A limit that nobody uses proves nothing, and one at which answers queue up at the peer is high enough. Few never queue up.
        let queued = self.limit >= START && self.mean_ms.is_some_and(|mean_ms| mean_ms > self.fastest_ms * 2.0 + SLACK_MS);
        if in_flight * 2 < self.limit || queued {
            return;
        }
        self.successes += 1;
        if self.successes >= self.limit {
            self.successes = 0;
            self.limit = (self.limit + 1).min(self.ceiling);
        }
    }

    /// A timeout, a 503 or a refusal for the whole project after `took_ms`: halves the limit, at most once in one mean answer time.
    fn strained(&mut self, now_ms: i64, took_ms: f64) {
        let once_in_ms = (self.mean_ms.unwrap_or(took_ms) as i64).max(1);
        if now_ms.saturating_sub(self.cut_at_ms) < once_in_ms {
            return;
        }
        self.cut_at_ms = now_ms;
        self.successes = 0;
        self.limit = (self.limit / 2).max(1);
    }

    fn throughput(&self, window_ms: i64) -> usize {
        let turns = self.mean_ms.map_or(1.0, |mean| (window_ms as f64 / mean.max(1.0)).max(1.0));
        (self.limit as f64 * turns) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_successes_adds_one() {
        let mut aimd = Aimd::new(START, 400);
        for _ in 0..10 {
            aimd.succeeded(0, Some(20.0), 10);
        }
        assert_eq!(aimd.limit, 11);
    }

    #[test]
    fn an_unused_limit_does_not_grow_and_none_passes_the_ceiling() {
        let mut aimd = Aimd::new(START, 12);
        for _ in 0..1_000 {
            aimd.succeeded(0, Some(20.0), 1);
        }
        assert_eq!(aimd.limit, 10);
        for _ in 0..1_000 {
            aimd.succeeded(0, Some(20.0), 12);
        }
        assert_eq!(aimd.limit, 12);
    }

    #[test]
    fn a_burst_of_strain_halves_once_per_answer_time_and_never_below_one() {
        let mut aimd = Aimd::new(START, 400);
        aimd.succeeded(0, Some(100.0), 10);
        for _ in 0..50 {
            aimd.strained(1_000, 100.0);
        }
        assert_eq!(aimd.limit, 5);
        for step in 1..10 {
            aimd.strained(1_000 + step * 200, 100.0);
        }
        assert_eq!(aimd.limit, 1);
    }

    #[test]
    fn answers_that_become_slow_stop_the_growth() {
        let mut aimd = Aimd::new(START, 400);
        aimd.succeeded(0, Some(20.0), 10);
        for _ in 0..200 {
            aimd.succeeded(1, Some(500.0), 400);
        }
        let held = aimd.limit;
        for _ in 0..2_000 {
            aimd.succeeded(2, Some(500.0), 400);
        }
        assert_eq!(aimd.limit, held);
    }

    #[test]
    fn a_limit_of_one_grows_again_however_slow_the_answers_have_become() {
        let mut aimd = Aimd::new(START, 400);
        aimd.succeeded(0, Some(5.0), 10);
        for step in 1..10 {
            aimd.strained(1_000 + step * 200, 100.0);
        }
        assert_eq!(aimd.limit, 1);
        for _ in 0..200 {
            aimd.succeeded(9_000, Some(900.0), aimd.limit);
        }
        assert_eq!(aimd.limit, START);
    }

    #[test]
    fn throughput_follows_the_answer_time() {
        let mut aimd = Aimd::new(START, 400);
        assert_eq!(aimd.throughput(2_000), 10);
        aimd.succeeded(0, Some(100.0), 1);
        assert_eq!(aimd.throughput(2_000), 200);
    }

    #[test]
    fn what_says_nothing_of_the_peer_leaves_the_limit_alone_and_strain_is_one_connections_own() {
        let (one, other) = (Limit::new(100, 400), Limit::new(100, 400));
        for verdict in [Verdict::Failed { reason: "INTERNAL", wait_ms: 0 }, Verdict::Unsent { reason: "connect" }] {
            one.heard(&verdict, 1_000, 20.0, 100);
        }
        assert_eq!((one.now(), other.now()), (100, 100));
        one.heard(&Verdict::TimedOut, 1_000, 20_000.0, 100);
        assert_eq!((one.now(), other.now()), (50, 100));
        for _ in 0..50 {
            one.heard(&Verdict::Accepted, 2_000, 20.0, 50);
        }
        assert_eq!(one.now(), 51);
    }
}
