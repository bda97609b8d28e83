//! Time and randomness as values: everything below the listeners gets a [`Moment`] as an argument, so that a test is the clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::model::Id;

/// Where the process takes its time and its randomness from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    hand: Hand,
    seed: Arc<Mutex<StdRng>>,
}

#[derive(Clone, Debug)]
enum Hand {
    System,
    Moved(Arc<AtomicI64>),
}

impl Clock {
    /// The machine's clock and the operating system's randomness.
    pub fn system() -> Clock {
        Clock { hand: Hand::System, seed: Arc::new(Mutex::new(os_seeded())) }
    }

    /// A clock that stands at `start_ms` (Unix milliseconds) until [`Clock::advance`] moves it; `seed` fixes the randomness.
    pub fn moved(start_ms: i64, seed: u64) -> Clock {
        Clock { hand: Hand::Moved(Arc::new(AtomicI64::new(start_ms))), seed: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))) }
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
        Moment { now_ms: self.now_ms(), rng: StdRng::from_rng(&mut *seed) }
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
}

impl Moment {
    /// A moment for a test or a tool: fixed time, fixed randomness.
    pub fn fixed(now_ms: i64, seed: u64) -> Moment {
        Moment { now_ms, rng: StdRng::seed_from_u64(seed) }
    }

    /// A fresh UUIDv7 (RFC 9562) of this instant, in a bucket of its own.
    pub fn id(&mut self) -> Id {
        let mut random = [0; 10];
        self.rng.fill_bytes(&mut random);
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
