//! Urgent nudges overtake in the pace: every instant that the pace has given out is used once, but by the best nudge that waits.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// The urgent nudges that wait for their instants.
#[derive(Debug, Default)]
pub(super) struct Overtaking(Mutex<VecDeque<Waiting>>);

#[derive(Debug)]
struct Waiting {
    leaves_at: Instant,
    go: oneshot::Sender<()>,
}

impl Overtaking {
    /// Waits for `leaves_at`, the instant that the pace gave. An urgent nudge goes sooner where another's instant comes first: they
    /// exchange. A nudge is overtaken once, so that however many urgent ones come the others get half of the pace. Dropping the future
    /// is safe: who has gone is passed over.
    pub(super) async fn wait(&self, leaves_at: Instant, urgent: bool) {
        if leaves_at <= Instant::now() {
            return;
        }
        if urgent {
            let (go, called) = oneshot::channel();
            self.waiting().push_back(Waiting { leaves_at, go });
            tokio::select! {
                () = sleep_until(leaves_at) => {}
                _ = called => {}
            }
            return;
        }
        sleep_until(leaves_at).await;
        if let Some(later) = self.let_one_go() {
            sleep_until(later).await;
        }
    }

    /// Lets the urgent nudge go that has waited longest; answers its instant.
    fn let_one_go(&self) -> Option<Instant> {
        let mut waiting = self.waiting();
        while let Some(first) = waiting.pop_front() {
            if first.go.send(()).is_ok() {
                return Some(first.leaves_at);
            }
        }
        None
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::poll;

    use super::*;

    const SOON: Duration = Duration::from_millis(30);
    const NEVER: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn an_urgent_nudge_takes_the_next_instant_and_leaves_its_own_behind() {
        let (overtaking, now) = (Overtaking::default(), Instant::now());
        let mut urgent = pin!(overtaking.wait(now + NEVER, true));
        assert!(poll!(&mut urgent).is_pending());
        let mut other = pin!(overtaking.wait(now + SOON, false));
        tokio::select! {
            () = &mut urgent => {}
            () = &mut other => panic!("the other left first"),
        }
        assert!(poll!(&mut other).is_pending(), "it has the urgent one's instant now");
    }

    #[tokio::test]
    async fn nobody_is_overtaken_twice() {
        let (overtaking, now) = (Overtaking::default(), Instant::now());
        let mut first = pin!(overtaking.wait(now + SOON * 2, true));
        let mut second = pin!(overtaking.wait(now + NEVER, true));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        let mut other = pin!(overtaking.wait(now + SOON, false));
        assert!(poll!(&mut other).is_pending());
        tokio::join!(first, other);
        assert!(poll!(&mut second).is_pending());
    }

    #[tokio::test]
    async fn one_that_was_dropped_is_passed_over() {
        let (overtaking, now) = (Overtaking::default(), Instant::now());
        {
            let mut dropped = pin!(overtaking.wait(now + NEVER, true));
            assert!(poll!(&mut dropped).is_pending());
        }
        let mut second = pin!(overtaking.wait(now + NEVER, true));
        assert!(poll!(&mut second).is_pending());
        let mut other = pin!(overtaking.wait(now + SOON, false));
        tokio::select! {
            () = &mut second => {}
            () = &mut other => panic!("the other left first"),
        }
    }
}
