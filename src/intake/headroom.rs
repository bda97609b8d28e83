//! How much room the server itself has left: what contacts have waited lately, and how late the processors come to what is due. The pace of
//! the nudges follows it, because a phone that is called comes in.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is looked at: so many seconds.
const WINDOW_S: usize = 10;
/// Waits are kept by their powers of two, in milliseconds.
const STEPS: usize = 16;
/// Of fewer contacts the slowest twentieth says nothing.
const COUNT_MIN: u32 = 20;
/// The whole of the room, and what is always left, in thousandths.
const WHOLE: u32 = 1_000;
const LEAST: u32 = 100;

/// The room of this process, as the share of the pace that its senders may use.
#[derive(Debug, Default)]
pub struct Headroom(Mutex<State>);

#[derive(Debug)]
struct State {
    contacts: Waits,
    timers: Waits,
    share: u32,
}

impl Default for State {
    fn default() -> State {
        State { contacts: Waits::default(), timers: Waits::default(), share: WHOLE }
    }
}

impl Headroom {
    /// A contact was answered after so long.
    pub fn contact(&self, wait: Duration) {
        self.state().contacts.add(wait);
    }

    /// A timer rang so late.
    pub fn timer(&self, late: Duration) {
        self.state().timers.add(late);
    }

    /// A second is over: answers the share of the pace, in thousandths, that is to be used in the next. Where more than a twentieth of the
    /// contacts, or of the timers, waited for `most_ms` (a power of two) or longer it is halved, else it grows by a tenth: what is too much
    /// stops at once and comes back slowly.
    pub fn judge(&self, most_ms: u64) -> u32 {
        let mut state = self.state();
        let is_slow = state.contacts.turn(most_ms) | state.timers.turn(most_ms);
        state.share = if is_slow { state.share / 2 } else { state.share + state.share / 10 }.clamp(LEAST, WHOLE);
        state.share
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits of the last seconds, the present second's last.
#[derive(Debug)]
struct Waits(VecDeque<[u32; STEPS]>);

impl Default for Waits {
    fn default() -> Waits {
        Waits(VecDeque::from([[0; STEPS]]))
    }
}

impl Waits {
    fn add(&mut self, wait: Duration) {
        if let Some(second) = self.0.back_mut() {
            second[step(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))] += 1;
        }
    }

    /// Begins another second; true where too many were slow. The next judgement is then of what comes after this one.
    fn turn(&mut self, most_ms: u64) -> bool {
        let count = |from: usize| self.0.iter().map(|second| second[from..].iter().sum::<u32>()).sum::<u32>();
        let (all, slow) = (count(0), count(step(most_ms)));
        let is_slow = all >= COUNT_MIN && slow * 20 > all;
        if is_slow {
            self.0.clear();
        } else if self.0.len() >= WINDOW_S {
            self.0.pop_front();
        }
        self.0.push_back([0; STEPS]);
        is_slow
    }
}

fn step(ms: u64) -> usize {
    ((u64::BITS - ms.leading_zeros()) as usize).min(STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of a hundred waits, so many of them slow.
    fn second(headroom: &Headroom, slow: usize) -> u32 {
        for n in 0..100 {
            headroom.contact(Duration::from_millis(if n < slow { 300 } else { 5 }));
        }
        headroom.judge(128)
    }

    #[test]
    fn slow_contacts_halve_the_share_and_quick_ones_bring_it_back() {
        let headroom = Headroom::default();
        assert_eq!(second(&headroom, 5), WHOLE, "one in twenty is as it may be");
        assert_eq!(second(&headroom, 40), 500);
        assert_eq!(second(&headroom, 40), 250);
        for _ in 0..5 {
            second(&headroom, 40);
        }
        assert_eq!(second(&headroom, 40), LEAST, "some are always called");
        let back: Vec<u32> = (0..30).map(|_| second(&headroom, 0)).collect();
        assert!(back[0] == 110 && back[29] == WHOLE && back.is_sorted(), "{back:?}");
    }

    #[test]
    fn a_few_slow_contacts_of_a_quiet_hour_say_nothing() {
        let headroom = Headroom::default();
        for _ in 0..30 {
            headroom.contact(Duration::from_secs(3));
            assert_eq!(headroom.judge(128), WHOLE);
        }
    }

    #[test]
    fn busy_processors_are_seen_by_timers_that_ring_late() {
        let headroom = Headroom::default();
        for n in 0..100 {
            headroom.contact(Duration::from_millis(5));
            headroom.timer(Duration::from_millis(if n < 20 { 128 } else { 0 }));
        }
        assert_eq!(headroom.judge(128), 500);
    }
}
