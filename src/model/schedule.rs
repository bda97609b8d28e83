//! The nudge schedule as arithmetic: points, ladders, gaps and patience. No input or output; `store::wakes` keeps its outcome.

use sha2::{Digest, Sha256};

use super::{Id, Lane};

/// The period of the periodic sync: three hours.
pub const PERIOD_S: i64 = 10_800;
const PERIOD_MS: i64 = PERIOD_S * 1000;
/// An Android agent keeps its own time; the server's timer for it stands this long after its point.
pub const LAZY_MS: i64 = 20 * 60_000;
/// A device that came this shortly before its point has come for it: clocks differ.
const EARLY_MS: i64 = 5 * 60_000;
/// A point nearer than this is no use as an appointment: the agent has only just been here.
const NEAR_MS: i64 = 60_000;
/// How long a claimed wake belongs to its claimer: more than the send timeout (20 s) plus the time in the queue.
pub const LEASE_MS: i64 = 60_000;
/// Jitter on top of [`LEASE_MS`], so that the wakes of a dead process do not come due together.
pub const LEASE_JITTER_MS: i64 = 15_000;
/// Periodic calls and retries that wait longer than this were not merely slowed down: nobody was there to send them. They are then spread
/// by phase instead of leaving together.
pub const LATE_MS: i64 = 10 * 60_000;
/// Over how long the calls of a set of channels with open work are spread that come back together.
pub const SPREAD_MS: i64 = 10 * 60_000;
/// The least time between two nudges of a channel for urgent work.
pub const GAP_URGENT_MS: i64 = 10_000;
/// The least time between two nudges of a channel for anything else.
pub const GAP_MS: i64 = 60_000;
/// Background pushes to an iOS app are budgeted by the OS; more than two or three an hour are dropped.
pub const GAP_IOS_APP_MS: i64 = 20 * 60_000;
/// FCM messages of priority HIGH a day and device.
pub const HIGH_PER_DAY_MAX: i64 = 8;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// What a failed try waits for, by its number; after the last the wake goes to its next point.
const FAILURE_LADDER_MS: [i64; 4] = [30_000, 2 * MINUTE_MS, 8 * MINUTE_MS, 30 * MINUTE_MS];

/// What the schedule knows of one channel.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Where in the three hours its points lie, 0..10,799.
    pub phase_s: i64,
    /// True where the agent comes by itself at its points.
    pub lazy: bool,
    /// The least gap of this channel; 0 unless its provider asks for more than the lane does.
    pub gap_ms: i64,
    /// The last serving contact, Unix milliseconds.
    pub last_serving_ms: Option<i64>,
}

/// The fixed place of a channel in the three hours: an even spread whatever the order of enrollment.
pub fn phase_s(channel: Id) -> i64 {
    let digest = Sha256::digest([b"phase".as_slice(), channel.as_bytes()].concat());
    let number = digest[..8].iter().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte));
    i64::try_from(number % 10_800).unwrap_or(0)
}

/// The first point after `after_ms`.
pub fn next_point_ms(after_ms: i64, phase_s: i64) -> i64 {
    let since = (after_ms - phase_s * 1000).rem_euclid(PERIOD_MS);
    after_ms - since + PERIOD_MS
}

/// What an agent is told: seconds until its own point, at least a minute.
pub fn next_sync_in_s(now_ms: i64, phase_s: i64) -> i64 {
    (next_point_ms(now_ms + NEAR_MS, phase_s) - now_ms) / 1000
}

impl Rhythm {
    /// When the periodic lane calls a channel that has nothing open and is not silent.
    pub fn periodic_ms(&self, now_ms: i64) -> i64 {
        next_point_ms(now_ms, self.phase_s) + if self.lazy { LAZY_MS } else { 0 }
    }

    /// The next point at which a channel that did not come is called: every point while it was seen within 48 h, then every 6 h,
    /// 12 h, day, and after 30 days every week; never nothing.
    pub fn next_call_ms(&self, now_ms: i64) -> i64 {
        let silent_ms = self.last_serving_ms.map_or(i64::MAX, |last| now_ms - last);
        let every_ms = match silent_ms {
            ..=172_800_000 => PERIOD_MS,
            172_800_001..=259_200_000 => 6 * HOUR_MS,
            259_200_001..=604_800_000 => 12 * HOUR_MS,
            604_800_001..=2_592_000_000 => DAY_MS,
            // A channel that was never seen has just been enrolled or restored: it counts as silent for a day at a time.
            i64::MAX => DAY_MS,
            _ => 7 * DAY_MS,
        };
        self.periodic_ms(now_ms + every_ms - PERIOD_MS)
    }

    /// True where an agent that keeps its own time has come for the point that its timer watches.
    pub fn came_for_its_point(&self, now_ms: i64) -> bool {
        let point_ms = next_point_ms(now_ms, self.phase_s) - PERIOD_MS;
        self.lazy && self.last_serving_ms.is_some_and(|last| last >= point_ms - EARLY_MS)
    }

    /// The least time between two nudges in this lane.
    pub fn gap_ms(&self, lane: Lane) -> i64 {
        self.gap_ms.max(if lane == Lane::Urgent { GAP_URGENT_MS } else { GAP_MS })
    }
}

/// Where a wake stands after the provider's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub lane: Lane,
    pub due_at_ms: i64,
    /// How many nudges of the present work the provider has taken.
    pub step: i64,
    /// How many tries failed since the last that was taken.
    pub attempt: i64,
}

/// The provider took the nudge: the channel is armed, and called again only if it does not come.
pub fn after_accepted(rhythm: &Rhythm, lane: Lane, open_work: bool, step: i64, now_ms: i64) -> Next {
    let step = step + 1;
    let (lane, due_at_ms) = match lane {
        Lane::Urgent if step == 1 => (Lane::Urgent, now_ms + 5 * MINUTE_MS),
        Lane::Urgent if step == 2 => (Lane::Urgent, now_ms + 30 * MINUTE_MS),
        Lane::Urgent => (Lane::Urgent, rhythm.next_call_ms(now_ms)),
        Lane::Change if step == 1 => (Lane::Retry, now_ms + 30 * MINUTE_MS),
        Lane::Retry if step == 1 => (Lane::Retry, now_ms + 30 * MINUTE_MS),
        Lane::Change | Lane::Retry | Lane::Bulk => (Lane::Retry, rhythm.next_call_ms(now_ms)),
        Lane::Periodic if open_work => (Lane::Retry, rhythm.next_call_ms(now_ms)),
        Lane::Periodic => (Lane::Periodic, rhythm.next_call_ms(now_ms)),
    };
    Next { lane, due_at_ms: due_at_ms.max(now_ms + rhythm.gap_ms(lane)), step, attempt: 0 }
}

/// The device's try failed. `jitter` is a number in 0..1000 that spreads the wait over its upper half; a longer `retry_after_ms` wins.
pub fn after_failure(rhythm: &Rhythm, lane: Lane, step: i64, attempt: i64, retry_after_ms: Option<i64>, jitter: i64, now_ms: i64) -> Next {
    let rung = usize::try_from(attempt).ok().and_then(|at| FAILURE_LADDER_MS.get(at));
    let (due_at_ms, attempt) = match rung {
        Some(wait_ms) => (now_ms + wait_ms / 2 + wait_ms * jitter.clamp(0, 999) / 2000, attempt + 1),
        None => (rhythm.next_call_ms(now_ms), 0),
    };
    let due_at_ms = due_at_ms.max(now_ms + retry_after_ms.unwrap_or(0)).max(now_ms + rhythm.gap_ms(lane));
    Next { lane, due_at_ms, step, attempt }
}

/// Until when the provider shall hold a nudge, so that it always holds one for an offline device.
pub fn expires_at_ms(rhythm: &Rhythm, lane: Lane, now_ms: i64) -> i64 {
    match lane {
        Lane::Urgent | Lane::Change | Lane::Bulk => now_ms + 7 * DAY_MS,
        Lane::Retry | Lane::Periodic => now_ms + (2 * (rhythm.next_call_ms(now_ms) - now_ms)).max(DAY_MS),
    }
}

/// One piece of work that a contact leaves open.
#[derive(Clone, Copy, Debug)]
pub struct OpenWork {
    /// The last delivery or progress, Unix milliseconds.
    pub last_ms: i64,
    /// How long to wait for the next sign of it.
    pub patience_ms: i64,
    pub urgent: bool,
}

/// Patience for a document that the channel has not reported yet.
pub const DOCUMENT_PATIENCE_MS: i64 = 10 * MINUTE_MS;

/// Where a wake stands after a serving contact that left `open` work. `fruitless` counts the contacts in a row that changed nothing;
/// each doubles the patience, up to the next point.
pub fn after_contact(rhythm: &Rhythm, open: &[OpenWork], fruitless: i64, nudged_at_ms: Option<i64>, now_ms: i64) -> (Lane, i64) {
    let Some(urgent) = open.iter().map(|work| work.urgent).reduce(|a, b| a || b) else {
        return (Lane::Periodic, rhythm.periodic_ms(now_ms));
    };
    let lane = if urgent { Lane::Urgent } else { Lane::Retry };
    let doublings = u32::try_from(fruitless.clamp(0, 16)).unwrap_or(0);
    let due = open.iter().map(|work| work.last_ms.saturating_add(work.patience_ms << doublings)).min().unwrap_or(now_ms);
    let due = due.clamp(now_ms, next_point_ms(now_ms, rhythm.phase_s).max(now_ms));
    (lane, due.max(nudged_at_ms.map_or(now_ms, |at| at + rhythm.gap_ms(lane))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn rhythm(lazy: bool, last_serving_ms: Option<i64>) -> Rhythm {
        Rhythm { phase_s: 1234, lazy, gap_ms: 0, last_serving_ms }
    }

    #[test]
    fn phases_are_even_over_the_three_hours() {
        let mut slots = vec![0_u32; 10_800];
        for n in 0..1_000_000_u32 {
            let mut random = [0; 10];
            random[5..9].copy_from_slice(&n.to_be_bytes());
            slots[usize::try_from(phase_s(Id::v7(NOW_MS, random))).unwrap()] += 1;
        }
        // Chi-square with 10,799 degrees of freedom: 99.99 % of fair spreads stay under 11,354.
        let mean = 1_000_000.0 / 10_800.0;
        let chi: f64 = slots.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
        assert!(chi < 11_354.0, "{chi}");
        assert!(slots.iter().all(|n| f64::from(*n) < mean + 5.0 * mean.sqrt()), "no second is anywhere near a herd");
    }

    #[test]
    fn a_point_is_after_now_within_three_hours_and_at_the_phase() {
        for now in [NOW_MS, NOW_MS + 1_234_000, NOW_MS + 10_799_999] {
            let point = next_point_ms(now, 1234);
            assert!(point > now && point <= now + PERIOD_MS);
            assert_eq!((point / 1000).rem_euclid(PERIOD_S), 1234);
        }
        assert!(next_sync_in_s(next_point_ms(NOW_MS, 1234) - 10_000, 1234) > 60);
    }

    #[test]
    fn the_ladders_are_those_of_the_lanes() {
        let r = rhythm(true, Some(NOW_MS));
        let first = after_accepted(&r, Lane::Urgent, true, 0, NOW_MS);
        assert_eq!((first.lane, first.due_at_ms - NOW_MS), (Lane::Urgent, 300_000));
        let second = after_accepted(&r, first.lane, true, first.step, NOW_MS);
        assert_eq!((second.lane, second.due_at_ms - NOW_MS), (Lane::Urgent, 1_800_000));
        let third = after_accepted(&r, second.lane, true, second.step, NOW_MS);
        assert_eq!(third.due_at_ms, r.next_call_ms(NOW_MS));
        let change = after_accepted(&r, Lane::Change, true, 0, NOW_MS);
        assert_eq!((change.lane, change.due_at_ms - NOW_MS), (Lane::Retry, 1_800_000));
        assert_eq!(after_accepted(&r, change.lane, true, change.step, NOW_MS).due_at_ms, r.next_call_ms(NOW_MS));
        assert_eq!(after_accepted(&r, Lane::Bulk, true, 0, NOW_MS).lane, Lane::Retry);
        assert_eq!(after_accepted(&r, Lane::Periodic, false, 0, NOW_MS).lane, Lane::Periodic);
    }

    #[test]
    fn the_longer_the_silence_the_rarer_the_call_and_never_none() {
        let gap = |hours: i64| rhythm(false, Some(NOW_MS - hours * HOUR_MS)).next_call_ms(NOW_MS) - NOW_MS;
        assert!(gap(1) <= PERIOD_MS);
        assert!(gap(50) > 3 * HOUR_MS && gap(50) <= 6 * HOUR_MS);
        assert!(gap(80) > 9 * HOUR_MS && gap(80) <= 12 * HOUR_MS);
        assert!(gap(24 * 10) > 21 * HOUR_MS && gap(24 * 10) <= DAY_MS);
        assert!(gap(24 * 40) > 6 * DAY_MS && gap(24 * 40) <= 7 * DAY_MS);
    }

    #[test]
    fn failures_climb_and_then_wait_for_the_point() {
        let r = rhythm(false, Some(NOW_MS));
        let mut attempt = 0;
        for most_ms in [60_000, 120_000, 480_000, 1_800_000] {
            let next = after_failure(&r, Lane::Change, 0, attempt, None, 999, NOW_MS);
            assert!(next.due_at_ms - NOW_MS <= most_ms && next.due_at_ms - NOW_MS >= most_ms / 2, "{next:?}");
            attempt = next.attempt;
        }
        let last = after_failure(&r, Lane::Change, 0, attempt, None, 0, NOW_MS);
        assert_eq!((last.attempt, last.due_at_ms), (0, r.next_call_ms(NOW_MS).max(NOW_MS + GAP_MS)));
        assert_eq!(after_failure(&r, Lane::Change, 0, 0, Some(3_600_000), 0, NOW_MS).due_at_ms, NOW_MS + 3_600_000);
    }

    #[test]
    fn open_work_is_asked_for_after_its_patience_but_no_later_than_the_point() {
        let r = rhythm(true, Some(NOW_MS));
        let work = OpenWork { last_ms: NOW_MS, patience_ms: 600_000, urgent: false };
        assert_eq!(after_contact(&r, &[], 0, None, NOW_MS), (Lane::Periodic, r.periodic_ms(NOW_MS)));
        assert_eq!(after_contact(&r, &[work], 0, None, NOW_MS), (Lane::Retry, NOW_MS + 600_000));
        assert_eq!(after_contact(&r, &[work], 1, None, NOW_MS), (Lane::Retry, NOW_MS + 1_200_000));
        assert_eq!(after_contact(&r, &[work], 30, None, NOW_MS).1, next_point_ms(NOW_MS, r.phase_s));
        let urgent = OpenWork { urgent: true, patience_ms: 1, ..work };
        assert_eq!(after_contact(&r, &[work, urgent], 0, Some(NOW_MS), NOW_MS), (Lane::Urgent, NOW_MS + GAP_URGENT_MS));
    }
}
