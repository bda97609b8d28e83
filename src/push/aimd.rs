//! How many requests may be in flight: grows by one for each window of successes, halves when the peer shows strain. Pure.

/// Where a new sender starts.
const START: usize = 10;
/// Weight of the newest answer in the running mean of answer times.
const MEAN_WEIGHT: f64 = 0.05;
/// The smallest answer time is forgotten after this long, since routes change.
const FASTEST_LIFE_MS: i64 = 600_000;
/// Answers slower than twice the fastest by more than this stop the growth.
const SLACK_MS: f64 = 50.0;

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub struct Aimd {
    limit: usize,
    ceiling: usize,
    successes: usize,
    mean_ms: Option<f64>,
    fastest_ms: f64,
    fastest_at_ms: i64,
    cut_at_ms: i64,
}

impl Aimd {
    /// A limit between 1 and `ceiling`, starting at 10.
    pub fn new(ceiling: usize) -> Aimd {
        let ceiling = ceiling.max(1);
        Aimd {
            limit: START.min(ceiling),
            ceiling,
            successes: 0,
            mean_ms: None,
            fastest_ms: f64::MAX,
            fastest_at_ms: i64::MIN,
            cut_at_ms: i64::MIN,
        }
    }

    /// An answer that shows no strain, after `took_ms`, with `in_flight` requests under way.
    pub fn succeeded(&mut self, now_ms: i64, took_ms: f64, in_flight: usize) {
        let mean_ms = self.mean_ms.map_or(took_ms, |mean| mean + (took_ms - mean) * MEAN_WEIGHT);
        self.mean_ms = Some(mean_ms);
        if took_ms < self.fastest_ms || now_ms.saturating_sub(self.fastest_at_ms) > FASTEST_LIFE_MS {
            self.fastest_ms = took_ms;
            self.fastest_at_ms = now_ms;
        }
        // A limit that nobody uses proves nothing, and one at which answers queue up at the peer is high enough.
        if in_flight * 2 < self.limit || mean_ms > self.fastest_ms * 2.0 + SLACK_MS {
            return;
        }
        self.successes += 1;
        if self.successes >= self.limit {
            self.successes = 0;
            self.limit = (self.limit + 1).min(self.ceiling);
        }
    }

    /// A timeout, a 503 or a refusal for the whole project: halves the limit, at most once in one mean answer time.
    pub fn strained(&mut self, now_ms: i64) {
        let once_in_ms = self.mean_ms.map_or(1, |mean| mean as i64).max(1);
        if now_ms.saturating_sub(self.cut_at_ms) < once_in_ms {
            return;
        }
        self.cut_at_ms = now_ms;
        self.successes = 0;
        self.limit = (self.limit / 2).max(1);
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many requests the present limit lets through in `window_ms`, going by the answer times seen; the limit itself before any.
    pub fn throughput(&self, window_ms: i64) -> usize {
        let turns = self.mean_ms.map_or(1.0, |mean| (window_ms as f64 / mean.max(1.0)).max(1.0));
        (self.limit as f64 * turns) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_successes_adds_one() {
        let mut aimd = Aimd::new(400);
        for _ in 0..10 {
            aimd.succeeded(0, 20.0, 10);
        }
        assert_eq!(aimd.limit(), 11);
    }

    #[test]
    fn an_unused_limit_does_not_grow_and_none_passes_the_ceiling() {
        let mut aimd = Aimd::new(12);
        for _ in 0..1_000 {
            aimd.succeeded(0, 20.0, 1);
        }
        assert_eq!(aimd.limit(), 10);
        for _ in 0..1_000 {
            aimd.succeeded(0, 20.0, 12);
        }
        assert_eq!(aimd.limit(), 12);
    }

    #[test]
    fn a_burst_of_strain_halves_once_per_answer_time_and_never_below_one() {
        let mut aimd = Aimd::new(400);
        aimd.succeeded(0, 100.0, 10);
        for _ in 0..50 {
            aimd.strained(1_000);
        }
        assert_eq!(aimd.limit(), 5);
        for step in 1..10 {
            aimd.strained(1_000 + step * 200);
        }
        assert_eq!(aimd.limit(), 1);
    }

    #[test]
    fn answers_that_become_slow_stop_the_growth() {
        let mut aimd = Aimd::new(400);
        aimd.succeeded(0, 20.0, 10);
        for _ in 0..200 {
            aimd.succeeded(1, 500.0, 400);
        }
        let held = aimd.limit();
        for _ in 0..2_000 {
            aimd.succeeded(2, 500.0, 400);
        }
        assert_eq!(aimd.limit(), held);
    }

    #[test]
    fn throughput_follows_the_answer_time() {
        let mut aimd = Aimd::new(400);
        assert_eq!(aimd.throughput(2_000), 10);
        aimd.succeeded(0, 100.0, 1);
        assert_eq!(aimd.throughput(2_000), 200);
    }
}
