//! Whether the database has room: kept in memory, because a full disk cannot be written down on itself.

use std::sync::atomic::{AtomicI64, Ordering};

/// Where nothing has failed.
const NEVER: i64 = i64::MIN;

/// What this process knows of the room on the database's disk.
#[derive(Debug)]
pub struct Room {
    /// Unix milliseconds of the first write that failed for want of space; [`NEVER`] while there is room.
    since_ms: AtomicI64,
    /// Unix milliseconds of the last one.
    last_ms: AtomicI64,
}

impl Default for Room {
    fn default() -> Room {
        Room { since_ms: AtomicI64::new(NEVER), last_ms: AtomicI64::new(NEVER) }
    }
}

impl Room {
    /// A write has failed for want of space.
    pub fn is_out(&self, now_ms: i64) {
        self.last_ms.fetch_max(now_ms, Ordering::SeqCst);
        // Only the first failure says since when.
        self.since_ms.compare_exchange(NEVER, now_ms, Ordering::SeqCst, Ordering::SeqCst).ok();
    }

    /// Unix milliseconds since which writes fail; `None` while there is room.
    pub fn out_since_ms(&self) -> Option<i64> {
        Some(self.since_ms.load(Ordering::SeqCst)).filter(|since_ms| *since_ms != NEVER)
    }

    /// How long no write has failed for want of space.
    pub fn quiet_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.last_ms.load(Ordering::SeqCst))
    }

    /// There is room again.
    pub fn is_back(&self) {
        self.since_ms.store(NEVER, Ordering::SeqCst);
    }
}
