//! A provider that answers nothing of use, told whether many wait for it or few: the breaker needs many requests to see it.

use super::breaker::Health;

/// Operators are told when it has lasted for so long.
const TOLD_AFTER_MS: i64 = 300_000;

/// The requests that failed at the provider, or on the way to it, since the last good answer.
#[derive(Debug, Default)]
pub(super) struct Outage(Option<Failing>);

#[derive(Clone, Copy, Debug)]
struct Failing {
    since_ms: i64,
    last_ms: i64,
    reason: &'static str,
}

impl Outage {
    /// A request ended at `now_ms`.
    pub(super) fn heard(&mut self, now_ms: i64, health: Health, reason: &'static str) {
        match health {
            Health::Good => self.0 = None,
            Health::Bad => {
                let since_ms = self.0.map_or(now_ms, |failing| failing.since_ms);
                self.0 = Some(Failing { since_ms, last_ms: now_ms, reason });
            }
            Health::Neutral => {}
        }
    }

    /// Since when (Unix milliseconds) and why, where it has lasted for five minutes.
    pub(super) fn standing(&self) -> Option<(i64, &'static str)> {
        self.0.filter(|failing| failing.last_ms - failing.since_ms >= TOLD_AFTER_MS).map(|failing| (failing.since_ms, failing.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_after_five_minutes_without_a_good_answer_and_ends_with_one() {
        let mut outage = Outage::default();
        outage.heard(0, Health::Bad, "connect");
        outage.heard(299_999, Health::Bad, "connect");
        assert_eq!(outage.standing(), None);
        outage.heard(300_000, Health::Neutral, "none");
        assert_eq!(outage.standing(), None, "a throttled request says nothing");
        outage.heard(310_000, Health::Bad, "timeout");
        assert_eq!(outage.standing(), Some((0, "timeout")));
        outage.heard(320_000, Health::Good, "none");
        outage.heard(330_000, Health::Bad, "connect");
        assert_eq!(outage.standing(), None);
    }
}
