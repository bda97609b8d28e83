//! The retry budget: nudges that failed before are at most a tenth of what is sent in a minute, so that a provider in trouble is not kept
//! there by us. Pure: the caller brings the time.

const MINUTE_MS: i64 = 60_000;
/// Retries are this part of the sends of a minute, at most: one in ten.
const PART: u32 = 10;
/// So many a minute may always go: a small fleet, and a provider that fails every send, must get on.
const ALWAYS: u32 = 60;
/// Nobody is put off for longer; it is the longest step of the ladder of failures.
const PUT_OFF_MINUTES_MAX: u32 = 30;

/// Counts the sends of a minute.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    minute_start_ms: i64,
    sends: u32,
    sends_before: u32,
    retries: u32,
    put_off: u32,
}

impl RetryBudget {
    /// A nudge that goes out for the first time, or whatever else may not wait: it makes room for a tenth of a retry.
    pub(super) fn sent(&mut self, now_ms: i64) {
        self.roll(now_ms);
        self.sends = self.sends.saturating_add(1);
    }

    /// A nudge that failed before asks to go again. `Err` says when it shall ask next (Unix milliseconds): those that must wait are spread
    /// over the minutes to come as these have room, so that none of them comes back in vain.
    pub(super) fn admit(&mut self, now_ms: i64) -> Result<(), i64> {
        self.roll(now_ms);
        let room = self.room();
        if self.retries < room {
            self.retries += 1;
            self.sends = self.sends.saturating_add(1);
            return Ok(());
        }
        let (minutes, place) = (self.put_off / room, self.put_off % room);
        self.put_off = self.put_off.saturating_add(1);
        let minute_ms = self.minute_start_ms + MINUTE_MS * i64::from(1 + minutes.min(PUT_OFF_MINUTES_MAX - 1));
        Err(minute_ms + i64::from(place) * MINUTE_MS / i64::from(room))
    }

    /// The present minute counts, and the one before: a minute begins with nothing sent.
    fn room(&self) -> u32 {
        (self.sends.max(self.sends_before) / PART).max(ALWAYS)
    }

    fn roll(&mut self, now_ms: i64) {
        let minutes = (now_ms - self.minute_start_ms).div_euclid(MINUTE_MS);
        if minutes == 0 {
            return;
        }
        // Those who were put off for this minute have their places in it; the others are still to come.
        let arrived = self.room().saturating_mul(u32::try_from(minutes).unwrap_or(u32::MAX));
        self.put_off = self.put_off.saturating_sub(arrived);
        self.sends_before = if minutes == 1 { self.sends } else { 0 };
        (self.sends, self.retries) = (0, 0);
        self.minute_start_ms += minutes * MINUTE_MS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_fleet_is_never_held_back() {
        let mut budget = RetryBudget::default();
        assert!((0..60).all(|at| budget.admit(at).is_ok()));
        assert!(budget.admit(60).is_err());
        assert!(budget.admit(MINUTE_MS).is_ok());
    }

    #[test]
    fn a_tenth_of_what_is_sent_may_be_sent_again() {
        let mut budget = RetryBudget::default();
        for at in 0..20_000 {
            budget.sent(at);
        }
        let again = (0..5_000).filter(|_| budget.admit(20_000).is_ok()).count();
        assert_eq!(again, 2_222, "a tenth of all that were sent");
    }

    #[test]
    fn those_put_off_are_spread_and_each_comes_through_when_it_asks_again() {
        let mut budget = RetryBudget::default();
        let mut due: Vec<i64> = (0..400).map(|_| budget.admit(1_000).err().unwrap_or(1_000)).collect();
        assert_eq!(due.iter().filter(|at_ms| **at_ms == 1_000).count(), 60);
        due.retain(|at_ms| *at_ms > 1_000);
        due.sort_unstable();
        assert!(due.windows(60).all(|minute| minute[59] - minute[0] >= 59 * 1_000), "no minute gets more than its room");
        assert!(due.iter().all(|at_ms| budget.admit(*at_ms).is_ok()));
        assert!(due.last().is_some_and(|last_ms| *last_ms < 7 * MINUTE_MS));
    }

    #[test]
    fn nobody_is_put_off_beyond_half_an_hour_and_a_clock_set_back_does_no_harm() {
        let mut budget = RetryBudget::default();
        let latest_ms = (0..100_000).filter_map(|_| budget.admit(0).err()).max().unwrap();
        assert!(latest_ms <= 31 * MINUTE_MS, "{latest_ms}");
        assert!(budget.admit(-10 * MINUTE_MS).is_ok());
    }
}
