//! Faults that wait for their turn.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Faults that wait for their turn, per scope.
const PLANS_MAX: usize = 1_000;

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Next(u32),
    UntilCleared,
}

/// The control handle of a stand-in's faults. Faults of one scope follow each other in the order in which they were set.
#[derive(Debug)]
pub struct Plans<S, F> {
    any: AtomicBool,
    plans: Mutex<HashMap<S, Vec<(Times, F)>>>,
}

impl<S, F> Default for Plans<S, F> {
    fn default() -> Plans<S, F> {
        Plans { any: AtomicBool::new(false), plans: Mutex::default() }
    }
}

impl<S: Eq + Hash, F: Clone> Plans<S, F> {
    /// Sets a fault; more than 1,000 waiting in one scope are not kept.
    pub fn set(&self, scope: S, times: Times, fault: F) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = plans.entry(scope).or_default();
        if waiting.len() < PLANS_MAX && times != Times::Next(0) {
            waiting.push((times, fault));
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Ends all faults.
    pub fn clear(&self) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.any.store(false, Ordering::SeqCst);
    }

    /// Whether there may be a fault at all; cheap.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// The fault whose turn it is.
    pub(super) fn take(&self, scope: &S) -> Option<F> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = plans.get_mut(scope)?;
        let (times, fault) = waiting.first_mut()?;
        let fault = fault.clone();
        if let Times::Next(left) = times {
            *left -= 1;
            if *left == 0 {
                waiting.remove(0);
            }
        }
        Some(fault)
    }
}
