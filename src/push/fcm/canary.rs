//! FCM calls a request malformed where the request is wrong, and where only its address is: Google says to believe it of the address only if the
//! request is surely valid. So the same request is tried, to be looked at and not to be delivered (`validate_only`), with an address that
//! works.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::push::verdict::Verdict;
use crate::push::{Address, AddressKind, Nudge};

/// An address is taken for one that works for so long after a push to it was accepted.
const WORKS_MS: i64 = 3_600_000;
/// It is replaced by a fresher one no oftener than this, and what a trial found holds for as long.
const HOLDS_MS: i64 = 60_000;

/// What is known under one credential.
#[derive(Default)]
pub(super) struct Canary {
    works: Mutex<Option<Known>>,
    /// Held while a trial is under way: those that come meanwhile share what it finds.
    tried: tokio::sync::Mutex<Option<Tried>>,
}

struct Known {
    address: Address,
    app: String,
    ios: bool,
    at_ms: i64,
}

/// What a trial showed; it is about requests of its own form alone.
struct Tried {
    at_ms: i64,
    passed: bool,
    app: String,
    /// An installation id, an iOS app, a high priority.
    form: (bool, bool, bool),
}

impl Canary {
    /// A push was accepted, which may happen thousands of times a second.
    pub(super) fn accepted(&self, nudge: &Nudge, now_ms: i64) {
        let mut works = self.works();
        if works.as_ref().is_some_and(|known| (0..HOLDS_MS).contains(&(now_ms - known.at_ms))) {
            return;
        }
        *works = Some(Known { address: nudge.address.clone(), app: nudge.app.clone(), ios: nudge.ios, at_ms: now_ms });
    }

    /// True where the request of `nudge` passes with an address that works: then its own address is at fault. `send` makes the trial. False
    /// where no address of the same kind and app is known, and where the trial says nothing either way.
    pub(super) async fn passes(&self, nudge: &Nudge, now_ms: i64, send: impl AsyncFnOnce(Nudge) -> Verdict) -> bool {
        let trial = {
            let works = self.works();
            let fit = works.as_ref().filter(|known| {
                known.app == nudge.app
                    && known.ios == nudge.ios
                    && known.address.kind == nudge.address.kind
                    && known.address != nudge.address
                    && now_ms - known.at_ms < WORKS_MS
            });
            fit.map(|known| Nudge { address: known.address.clone(), ..nudge.clone() })
        };
        let Some(trial) = trial else { return false };
        let form = (trial.address.kind == AddressKind::Fid, trial.ios, trial.high);
        let mut tried = self.tried.lock().await;
        let holds = |tried: &&Tried| tried.form == form && tried.app == nudge.app && (now_ms - tried.at_ms).abs() < HOLDS_MS;
        if let Some(found) = tried.as_ref().filter(holds) {
            return found.passed;
        }
        let (app, address) = (nudge.app.clone(), trial.address.clone());
        match send(trial).await {
            Verdict::Accepted => *tried = Some(Tried { at_ms: now_ms, passed: true, app, form }),
            Verdict::Bug { .. } => *tried = Some(Tried { at_ms: now_ms, passed: false, app, form }),
            Verdict::Dead(_) | Verdict::Suspect(_) => {
                self.works().take_if(|known| known.address == address);
            }
            _ => {}
        }
        tried.as_ref().filter(holds).is_some_and(|found| found.passed)
    }

    fn works(&self) -> MutexGuard<'_, Option<Known>> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
