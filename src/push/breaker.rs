//! The provider breaker: stops sending while most requests fail for reasons that no device has caused (5xx, timeouts, connections).
//! Pure: the caller brings the time.

/// Failures are counted over this window.
const WINDOW_S: usize = 20;
/// Fewer samples than this prove nothing.
const SAMPLES_MIN: u32 = 20;
/// The first opening; doubled up to the maximum while trials fail. So long, at most, a lock waits after the provider's return: a few requests
/// a minute are no burden to it.
const OPEN_MS: i64 = 30_000;
const OPEN_MS_MAX: i64 = 60_000;
/// Requests let through to see whether the provider is back.
const TRIALS: u32 = 5;

/// What a finished request says about the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    Bad,
    /// Says nothing (cancelled, throttled).
    Neutral,
}

/// Closed, open, or half-open with five trials.
#[derive(Debug)]
pub struct ProviderBreaker {
    state: State,
    seconds: [(i64, u32, u32); WINDOW_S],
}

#[derive(Debug)]
enum State {
    Closed,
    Open { since_ms: i64, until_ms: i64, open_ms: i64 },
    HalfOpen { since_ms: i64, left: u32, succeeded: u32, open_ms: i64 },
}

impl Default for ProviderBreaker {
    fn default() -> Self {
        ProviderBreaker { state: State::Closed, seconds: [(i64::MIN, 0, 0); WINDOW_S] }
    }
}

impl ProviderBreaker {
    /// Asks to send one request: `Ok(true)` for a trial, which must be told to [`ProviderBreaker::finished`]; else the Unix
    /// milliseconds at which to ask again.
    pub fn admit(&mut self, now_ms: i64) -> Result<bool, i64> {
        self.half_open_when_due(now_ms);
        match &mut self.state {
            State::Closed => Ok(false),
            State::Open { until_ms, .. } => Err(*until_ms),
            State::HalfOpen { left: 0, .. } => Err(now_ms + 1_000),
            State::HalfOpen { left, .. } => {
                *left -= 1;
                Ok(true)
            }
        }
    }

    /// How many requests would be admitted now.
    pub fn free(&mut self, now_ms: i64) -> usize {
        self.half_open_when_due(now_ms);
        match self.state {
            State::Closed => usize::MAX,
            State::Open { .. } => 0,
            State::HalfOpen { left, .. } => left as usize,
        }
    }

    /// A request ended. True when this answer closed the breaker.
    pub fn finished(&mut self, now_ms: i64, trial: bool, health: Health) -> bool {
        match &mut self.state {
            State::Closed => {
                self.count(now_ms, health);
                false
            }
            // What was in flight when the breaker opened says nothing new.
            State::Open { .. } => false,
            State::HalfOpen { .. } if !trial => false,
            State::HalfOpen { left, succeeded, open_ms, since_ms } => match health {
                Health::Neutral => {
                    *left = (*left + 1).min(TRIALS);
                    false
                }
                Health::Bad => {
                    let open_ms = (*open_ms * 2).min(OPEN_MS_MAX);
                    self.state = State::Open { since_ms: *since_ms, until_ms: now_ms + open_ms, open_ms };
                    false
                }
                Health::Good => {
                    *succeeded += 1;
                    if *succeeded < TRIALS {
                        return false;
                    }
                    *self = ProviderBreaker::default();
                    true
                }
            },
        }
    }

    /// Unix milliseconds until which nothing is sent, while open.
    pub fn open_until_ms(&self, now_ms: i64) -> Option<i64> {
        match self.state {
            State::Open { until_ms, .. } if until_ms > now_ms => Some(until_ms),
            _ => None,
        }
    }

    /// Since when the provider has been failing, while it is.
    pub fn failing_since_ms(&self) -> Option<i64> {
        match self.state {
            State::Closed => None,
            State::Open { since_ms, .. } | State::HalfOpen { since_ms, .. } => Some(since_ms),
        }
    }

    fn half_open_when_due(&mut self, now_ms: i64) {
        if let State::Open { until_ms, open_ms, since_ms } = self.state
            && now_ms >= until_ms
        {
            self.state = State::HalfOpen { since_ms, left: TRIALS, succeeded: 0, open_ms };
        }
    }

    fn count(&mut self, now_ms: i64, health: Health) {
        let second = now_ms / 1_000;
        let slot = &mut self.seconds[second.rem_euclid(WINDOW_S as i64) as usize];
        if slot.0 != second {
            *slot = (second, 0, 0);
        }
        match health {
            Health::Good => slot.1 += 1,
            Health::Bad => slot.2 += 1,
            Health::Neutral => return,
        }
        if health == Health::Good {
            return;
        }
        let oldest = second - WINDOW_S as i64;
        let (good, bad) = self.seconds.iter().filter(|slot| slot.0 > oldest).fold((0, 0), |sum, slot| (sum.0 + slot.1, sum.1 + slot.2));
        if good + bad >= SAMPLES_MIN && bad > good {
            self.state = State::Open { since_ms: now_ms, until_ms: now_ms + OPEN_MS, open_ms: OPEN_MS };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(at_ms: i64) -> ProviderBreaker {
        let mut breaker = ProviderBreaker::default();
        for _ in 0..20 {
            assert_eq!(breaker.admit(at_ms), Ok(false));
            breaker.finished(at_ms, false, Health::Bad);
        }
        breaker
    }

    #[test]
    fn it_opens_above_half_failures_and_twenty_samples_only() {
        let mut breaker = ProviderBreaker::default();
        for _ in 0..19 {
            breaker.finished(0, false, Health::Bad);
        }
        assert_eq!(breaker.open_until_ms(0), None);
        breaker.finished(0, false, Health::Good);
        breaker.finished(0, false, Health::Bad);
        assert_eq!(breaker.open_until_ms(0), Some(30_000));
        let mut even = ProviderBreaker::default();
        for _ in 0..500 {
            even.finished(0, false, Health::Good);
            even.finished(0, false, Health::Bad);
        }
        assert_eq!(even.open_until_ms(0), None);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut breaker = ProviderBreaker::default();
        for second in 0..100 {
            breaker.finished(second * 2_000, false, Health::Bad);
        }
        assert_eq!(breaker.open_until_ms(200_000), None);
    }

    #[test]
    fn five_good_trials_close_it() {
        let mut breaker = broken(0);
        assert_eq!(breaker.admit(29_999), Err(30_000));
        assert_eq!(breaker.free(30_000), 5);
        for _ in 0..5 {
            assert_eq!(breaker.admit(30_000), Ok(true));
        }
        assert!(breaker.admit(30_000).is_err());
        for nth in 0..5 {
            assert_eq!(breaker.finished(30_100, true, Health::Good), nth == 4);
        }
        assert_eq!(breaker.admit(30_100), Ok(false));
    }

    #[test]
    fn failed_trials_double_the_wait_up_to_a_minute() {
        let mut breaker = broken(0);
        let mut now_ms = 30_000;
        for expected_ms in [60_000, 60_000, 60_000] {
            assert_eq!(breaker.admit(now_ms), Ok(true));
            breaker.finished(now_ms, true, Health::Bad);
            assert_eq!(breaker.open_until_ms(now_ms), Some(now_ms + expected_ms));
            now_ms += expected_ms;
        }
    }

    #[test]
    fn a_trial_without_a_verdict_is_given_back() {
        let mut breaker = broken(0);
        assert_eq!(breaker.admit(30_000), Ok(true));
        breaker.finished(30_000, true, Health::Neutral);
        assert_eq!(breaker.free(30_000), 5);
    }
}
