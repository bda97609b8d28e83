//! How far orders come, counted in memory: from the queue to the proof. A worker writes the counts away in slots.

use std::sync::atomic::{AtomicI64, Ordering};

pub use crate::store::funnel::Stage;

/// The counts of this process since they were last taken.
#[derive(Debug, Default)]
pub struct Funnel([AtomicI64; Stage::ALL.len()]);

impl Funnel {
    /// Counts after the commit of what is counted.
    pub fn add(&self, stage: Stage, n: i64) {
        self.0[stage as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Takes the counts out; what is zero is left out.
    pub fn take(&self) -> Vec<(Stage, i64)> {
        Stage::ALL.into_iter().map(|stage| (stage, self.0[stage as usize].swap(0, Ordering::Relaxed))).filter(|(_, n)| *n != 0).collect()
    }
}
