//! Time and randomness as values: everything below the listeners gets a [`Moment`] as an argument, so that a test is the clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::model::Id;

/// Moments of one millisecond that are told apart: as many as the twelve bits of a UUIDv7 that stand before its random ones.
const TURN_MAX: u16 = 0xfff;

/// Where the process takes its time and its randomness from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    hand: Hand,
    seed: Arc<Mutex<Seed>>,
}

#[derive(Debug)]
struct Seed {
    rng: StdRng,
    /// The millisecond of the last moment, and how many there were in it before.
    last_ms: i64,
    turn: u16,
}

impl Seed {
    fn new(rng: StdRng) -> Arc<Mutex<Seed>> {
        Arc::new(Mutex::new(Seed { rng, last_ms: i64::MIN, turn: 0 }))
    }
}

#[derive(Clone, Debug)]
enum Hand {
    System,
    Moved(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock and the operating system's randomness.
    pub fn system() -> Clock {
        Clock { hand: Hand::System, seed: Seed::new(os_seeded()) }
    }

    /// A clock that stands at `start_ms` (Unix milliseconds) until [`Clock::advance`] moves it; `seed` fixes the randomness.
    pub fn moved(start_ms: i64, seed: u64) -> Clock {
        Clock { hand: Hand::Moved(Arc::new(AtomicI64::new(start_ms))), seed: Seed::new(StdRng::seed_from_u64(seed)) }
    }

    /// Moves a [`Clock::moved`] clock forward; the system's clock cannot be moved, and the call then does nothing.
    pub fn advance(&self, by_ms: i64) {
        if let Hand::Moved(at) = &self.hand {
            at.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Unix milliseconds.
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn now_ms(&self) -> i64 {
        match &self.hand {
            Hand::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Hand::Moved(at) => at.load(Ordering::SeqCst),
        }
    }

    /// The present instant with a source of randomness of its own.
    pub fn moment(&self) -> Moment {
        let mut seed = self.seed.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        seed.turn = if seed.last_ms == now_ms { (seed.turn + 1).min(TURN_MAX) } else { 0 };
        seed.last_ms = now_ms;
        Moment { now_ms, rng: StdRng::from_rng(&mut seed.rng), turn: Some(seed.turn) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the operating system's randomness is read")]
fn os_seeded() -> StdRng {
    StdRng::from_rng(&mut rand::rng())
}

/// One instant: what `ops` and `store` know of time and chance.
#[derive(Debug)]
pub struct Moment {
    /// Unix milliseconds.
    pub now_ms: i64,
    rng: StdRng,
    /// Which of its clock's moments in the same millisecond it is.
    turn: Option<u16>,
}

impl Moment {
    /// A moment for a test or a tool: fixed time, fixed randomness.
    pub fn fixed(now_ms: i64, seed: u64) -> Moment {
        Moment { now_ms, rng: StdRng::seed_from_u64(seed), turn: None }
    }

    /// A fresh UUIDv7 (RFC 9562) of this instant, in a bucket of its own. Of two moments of one clock the ids of the later are greater,
    /// also within a millisecond: of two orders that follow each other closely the first is carried out first.
    pub fn id(&mut self) -> Id {
        let mut random = [0; 10];
        self.rng.fill_bytes(&mut random);
        if let Some(turn) = self.turn {
            random[..2].copy_from_slice(&turn.to_be_bytes());
        }
        Id::v7(self.now_ms, random)
    }

    /// A fresh UUIDv7 that lies in the same bucket as `device`: for everything that belongs to one device.
    pub fn id_beside(&mut self, device: Id) -> Id {
        self.id().in_bucket_of(device)
    }

    /// 256 random bits, for tokens and keys.
    pub fn secret(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `bound`, for jitter; 0 when `bound` is 0 or less.
    pub fn below(&mut self, bound: i64) -> i64 {
        if bound <= 0 { 0 } else { self.rng.random_range(0..bound) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_later_moments_are_greater_within_a_millisecond_too() {
        let clock = Clock::moved(1_800_000_000_000, 1);
        let mut ids: Vec<Id> = (0..1000).map(|_| clock.moment().id()).collect();
        clock.advance(1);
        ids.push(clock.moment().id());
        assert!(ids.is_sorted());
        assert!((0..5000).map(|_| clock.moment().id()).all(|id| id.at_ms() == clock.now_ms()));
    }
}
