//! The provider's quota as a pace: sends are spread evenly over slices of 100 ms, and the rate climbs to its ceiling over 60 s of
//! use, as Google asks (Firebase, "scale FCM"). Pure: the caller brings the time.

/// How long the climb from nothing to the ceiling takes under full demand.
const RAMP_S: u32 = 60;
/// The rate from which a climb begins, so that a small fleet never waits.
const FLOOR_PER_S: u32 = 100;
/// The whole of a share, in thousandths.
const WHOLE: u32 = 1_000;
/// The slice over which sends are spread.
const SLICE_MS: u32 = 100;

/// Hands out the instants at which sends may leave.
#[derive(Debug)]
pub struct Pace {
    /// What all servers may send together.
    quota_per_s: u32,
    max_per_s: u32,
    level_per_s: u32,
    /// How much of the level may be used, in thousandths.
    share: u32,
    second_start_ms: i64,
    used_in_second: u32,
    slice_start_ms: i64,
    slice_used: u32,
}

impl Pace {
    /// A pace that climbs to `max_per_s` sends a second (at least 1).
    pub fn new(max_per_s: u32, now_ms: i64) -> Pace {
        let max_per_s = max_per_s.max(1);
        Pace {
            quota_per_s: max_per_s,
            max_per_s,
            level_per_s: max_per_s.min(FLOOR_PER_S),
            share: WHOLE,
            second_start_ms: now_ms,
            used_in_second: 0,
            slice_start_ms: now_ms,
            slice_used: 0,
        }
    }

    /// Begins the climb again: after an outage, a pause or a new credential.
    pub fn restart(&mut self, now_ms: i64) {
        *self = Pace { share: self.share, quota_per_s: self.quota_per_s, ..Pace::new(self.max_per_s, now_ms) };
    }

    /// The ceiling from now on is this server's part of the quota, which so many share.
    pub fn divide(&mut self, servers: u32) {
        self.max_per_s = (self.quota_per_s / servers.max(1)).max(1);
        self.level_per_s = self.level_per_s.min(self.max_per_s);
    }

    /// The ceiling, sends a second.
    pub fn max_per_s(&self) -> u32 {
        self.max_per_s
    }

    /// How much of the level may be used from now on, in thousandths, at least one and at most all: the provider is not the only one who
    /// has a limit. The level stands still meanwhile.
    pub fn set_share(&mut self, permille: u32) {
        self.share = permille.clamp(1, WHOLE);
    }

    /// Takes the next free place and returns the Unix milliseconds, never before `now_ms`, at which it begins.
    pub fn reserve(&mut self, now_ms: i64) -> i64 {
        self.roll(now_ms);
        let (per_slice, slice_ms) = self.slice();
        if now_ms >= self.slice_start_ms + slice_ms {
            self.slice_start_ms = now_ms;
            self.slice_used = 0;
        } else if self.slice_used >= per_slice {
            self.slice_start_ms += slice_ms;
            self.slice_used = 0;
        }
        self.slice_used += 1;
        self.used_in_second = self.used_in_second.saturating_add(1);
        self.slice_start_ms.max(now_ms)
    }

    /// How many places are free within the next `window_ms`.
    pub fn free_within(&mut self, now_ms: i64, window_ms: i64) -> usize {
        self.roll(now_ms);
        let (per_slice, slice_ms) = self.slice();
        let horizon_ms = now_ms + window_ms;
        let slices = |span_ms: i64| (span_ms.max(0) / slice_ms) * i64::from(per_slice);
        let free = if now_ms >= self.slice_start_ms + slice_ms {
            slices(window_ms)
        } else if self.slice_start_ms > horizon_ms {
            0
        } else {
            i64::from(per_slice.saturating_sub(self.slice_used)) + slices(horizon_ms - self.slice_start_ms - slice_ms)
        };
        usize::try_from(free).unwrap_or(0)
    }

    /// The rate that may be used now, sends a second.
    pub fn level_per_s(&self) -> u32 {
        let shared = u64::from(self.level_per_s) * u64::from(self.share) / u64::from(WHOLE);
        // So few come in beside anything.
        u32::try_from(shared).unwrap_or(u32::MAX).max(self.max_per_s.min(FLOOR_PER_S))
    }

    /// What the present second has used of the ceiling, 0 to 1.
    pub fn used_ratio(&self) -> f64 {
        f64::from(self.used_in_second) / f64::from(self.max_per_s)
    }

    /// Sends per slice and the slice's length in milliseconds, whose quotient is the level.
    fn slice(&self) -> (u32, i64) {
        let level_per_s = self.level_per_s();
        let per_slice = (level_per_s * SLICE_MS / 1_000).max(1);
        (per_slice, (i64::from(per_slice) * 1_000 / i64::from(level_per_s)).max(1))
    }

    /// The level rises by a sixtieth of the ceiling in each second that used at least half of it and falls likewise in others, so
    /// that a burst after an hour of quiet climbs again; but never below twice what the second before used: where the ceiling is far
    /// above what can be sent, the level would swing between nothing and one step.
    fn roll(&mut self, now_ms: i64) {
        let seconds = (now_ms - self.second_start_ms) / 1_000;
        if seconds <= 0 {
            return;
        }
        let step = (self.max_per_s / RAMP_S).max(1);
        let floor = self.max_per_s.min(FLOOR_PER_S);
        let mut idle = u32::try_from(seconds).unwrap_or(u32::MAX);
        if self.share < WHOLE && self.used_in_second.saturating_mul(2) >= self.level_per_s() {
            idle -= 1;
        } else if self.used_in_second.saturating_mul(2) >= self.level_per_s {
            self.level_per_s = self.level_per_s.saturating_add(step).min(self.max_per_s);
            idle -= 1;
        }
        let in_use = if seconds == 1 { self.used_in_second.saturating_mul(2).min(self.level_per_s) } else { 0 };
        self.level_per_s = self.level_per_s.saturating_sub(step.saturating_mul(idle)).max(in_use).max(floor);
        self.second_start_ms += seconds * 1_000;
        self.used_in_second = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as fast as the pace allows for `seconds` and returns the sends of each second.
    fn run_flat_out(pace: &mut Pace, from_ms: i64, seconds: i64) -> Vec<u32> {
        let mut sent = Vec::new();
        let mut now_ms = from_ms;
        for second in 0..seconds {
            let mut count = 0;
            while now_ms < from_ms + (second + 1) * 1_000 {
                now_ms = pace.reserve(now_ms);
                if now_ms < from_ms + (second + 1) * 1_000 {
                    count += 1;
                }
            }
            sent.push(count);
        }
        sent
    }

    #[test]
    fn the_rate_climbs_for_a_minute_and_then_holds_the_ceiling() {
        let mut pace = Pace::new(8_000, 0);
        let sent = run_flat_out(&mut pace, 0, 70);
        assert!(sent[0] <= 110, "{}", sent[0]);
        assert!((3_500..=4_600).contains(&sent[30]), "{}", sent[30]);
        assert!(sent.iter().all(|count| *count <= 8_000), "{sent:?}");
        assert!(sent[65] >= 7_900, "{}", sent[65]);
    }

    #[test]
    fn a_ceiling_far_above_the_demand_does_not_make_the_rate_swing() {
        let mut pace = Pace::new(1_000_000, 0);
        // Somebody who sends 5,000 a second wherever the pace lets him.
        let mut sent = vec![0; 20];
        let mut at_ms = 0;
        while at_ms < 20_000 {
            at_ms = pace.reserve(at_ms).max(at_ms);
            if let Some(count) = sent.get_mut(usize::try_from(at_ms / 1_000).unwrap()) {
                *count += 1;
                at_ms += i64::from(*count % 5 == 0);
            }
        }
        assert!(sent[3..].iter().all(|count| *count >= 4_500), "{sent:?}");
    }

    #[test]
    fn a_share_slows_the_sends_at_once_and_leaves_the_climb_where_it_was() {
        let mut pace = Pace::new(8_000, 0);
        run_flat_out(&mut pace, 0, 70);
        pace.set_share(500);
        let sent = run_flat_out(&mut pace, 70_000, 5);
        assert!(sent[1..].iter().all(|count| (3_900..=4_100).contains(count)), "{sent:?}");
        pace.set_share(1);
        let sent = run_flat_out(&mut pace, 75_000, 5);
        assert!(sent[1..].iter().all(|count| (90..=110).contains(count)), "so few are always called: {sent:?}");
        pace.set_share(1_000);
        let sent = run_flat_out(&mut pace, 80_000, 3);
        assert!(sent[1] > 7_000, "{sent:?}");
    }

    #[test]
    fn quiet_time_takes_the_climb_back() {
        let mut pace = Pace::new(8_000, 0);
        run_flat_out(&mut pace, 0, 70);
        assert_eq!(pace.level_per_s(), 8_000);
        pace.reserve(70_000 + 3_600_000);
        assert_eq!(pace.level_per_s(), 100);
    }

    #[test]
    fn sends_of_one_slice_leave_together_and_the_next_wait_for_theirs() {
        let mut pace = Pace::new(8_000, 0);
        let at: Vec<i64> = (0..25).map(|_| pace.reserve(0)).collect();
        assert_eq!((at[0], at[9], at[10], at[19], at[20]), (0, 0, 100, 100, 200));
    }

    #[test]
    fn free_places_shrink_with_each_reservation() {
        let mut pace = Pace::new(50, 0);
        let free = pace.free_within(0, 2_000);
        assert!((95..=100).contains(&free), "{free}");
        for _ in 0..40 {
            pace.reserve(0);
        }
        assert_eq!(pace.free_within(0, 2_000), free - 40);
        for _ in 0..100 {
            pace.reserve(0);
        }
        assert_eq!(pace.free_within(0, 2_000), 0);
    }

    #[test]
    fn a_tiny_quota_is_kept_exactly() {
        let mut pace = Pace::new(3, 0);
        let at: Vec<i64> = (0..7).map(|_| pace.reserve(0)).collect();
        assert!(at[3] >= 999 && at[6] >= 1_998, "{at:?}");
    }
}
