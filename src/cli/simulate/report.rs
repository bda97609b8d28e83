//! What a simulated fleet has seen.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::sim::swarm::Tally;
use crate::sim::uplink::{Figures, Refused, Uplink};

/// The summary.
#[derive(Debug, Serialize)]
pub struct Report {
    seed: u64,
    seconds: f64,
    requests_per_s: f64,
    phones: Tally,
    requests: Vec<Figures>,
    /// Why requests were refused.
    refusals: Vec<Refused>,
}

impl Report {
    pub fn new(seed: u64, took: Duration, phones: Tally, uplink: &Uplink) -> Report {
        let (seconds, requests) = (took.as_secs_f64(), uplink.figures());
        let all: u64 = requests.iter().map(all).sum();
        Report { seed, seconds, requests_per_s: all as f64 / seconds.max(0.001), phones, requests, refusals: uplink.refusals() }
    }

    /// True where phones came and none failed.
    pub fn is_good(&self) -> bool {
        self.phones.due > 0 && self.phones.failed == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { due, enrolled, failed, nudges, tasks_done, tasks_failed, events, reinstalls } = self.phones;
        writeln!(f, "{due} phones came, {enrolled} are in, {failed} failed (seed {})", self.seed)?;
        writeln!(f, "{nudges} nudges, {tasks_done} tasks done, {tasks_failed} failed; {events} events; {reinstalls} reinstalls")?;
        writeln!(f, "{:.1} s, {:.1} requests/s", self.seconds, self.requests_per_s)?;
        writeln!(
            f,
            "{:9}{:>9}{:>9}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}",
            "request", "answered", "/s", "later", "refused", "broken", "p50 ms", "p90 ms", "p99 ms", "max ms"
        )?;
        for one in &self.requests {
            let rate = one.answered as f64 / self.seconds.max(0.001);
            write!(f, "{:9}{:>9}{rate:>9.1}{:>8}{:>8}{:>8}", one.request, one.answered, one.later, one.refused, one.broken)?;
            writeln!(f, "{:>9.2}{:>9.2}{:>9.2}{:>9.2}", one.p50_ms, one.p90_ms, one.p99_ms, one.max_ms)?;
        }
        for Refused { request, code, count } in &self.refusals {
            writeln!(f, "{request} refused {count} times: {code}")?;
        }
        Ok(())
    }
}

fn all(figures: &Figures) -> u64 {
    figures.answered + figures.later + figures.refused + figures.broken
}
