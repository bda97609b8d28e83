//! Request slots: as many requests as the limit allows, and who waits for one gets it by its urgency.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Of so many slots that are handed on while urgent nudges wait, one goes to another that waits, so that none starves.
const OTHERS_EVERY: u32 = 4;

/// The slots of a sender.
#[derive(Debug)]
pub(super) struct Slots(Mutex<State>);

#[derive(Debug)]
struct State {
    limit: usize,
    taken: usize,
    urgent: VecDeque<oneshot::Sender<()>>,
    others: VecDeque<oneshot::Sender<()>>,
    handed_on: u32,
}

/// Leave to have one request under way; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    pub(super) fn new(limit: usize) -> Slots {
        Slots(Mutex::new(State { limit, taken: 0, urgent: VecDeque::new(), others: VecDeque::new(), handed_on: 0 }))
    }

    /// Changes how many there are. What is taken beyond a lower limit stays until it is given back.
    pub(super) fn set_limit(&self, limit: usize) {
        let mut state = self.state();
        state.limit = limit;
        state.hand_on();
    }

    /// Waits for a free slot. Dropping the future is safe.
    pub(super) async fn acquire(&self, urgent: bool) -> Slot<'_> {
        let granted = {
            let mut state = self.state();
            if state.taken < state.limit {
                state.taken += 1;
                return Slot(self);
            }
            let (grant, granted) = oneshot::channel();
            let queue = if urgent { &mut state.urgent } else { &mut state.others };
            // Those whose patience ended; while no slot comes free nobody else would take them out.
            while queue.front().is_some_and(oneshot::Sender::is_closed) {
                queue.pop_front();
            }
            queue.push_back(grant);
            granted
        };
        let mut waiting = Waiting { slots: self, granted: Some(granted) };
        if let Some(granted) = waiting.granted.as_mut() {
            // The grant lies in the queue of `self`, which outlives this future: it is sent or still waits.
            granted.await.ok();
        }
        waiting.granted = None;
        Slot(self)
    }

    /// True where somebody waits for a slot.
    pub(super) fn has_waiting(&self) -> bool {
        let state = self.state();
        state.urgent.iter().chain(&state.others).any(|waiting| !waiting.is_closed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self) {
        let mut state = self.state();
        state.taken -= 1;
        state.hand_on();
    }
}

impl State {
    fn hand_on(&mut self) {
        while self.taken < self.limit {
            let Some(next) = self.next() else { return };
            if next.send(()).is_ok() {
                self.taken += 1;
                self.handed_on = self.handed_on.wrapping_add(1);
            }
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        if self.handed_on % OTHERS_EVERY == OTHERS_EVERY - 1 {
            self.others.pop_front().or_else(|| self.urgent.pop_front())
        } else {
            self.urgent.pop_front().or_else(|| self.others.pop_front())
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// One that waits; a slot that was granted in the instant in which it gave up goes back.
struct Waiting<'a> {
    slots: &'a Slots,
    granted: Option<oneshot::Receiver<()>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(granted) = &mut self.granted {
            granted.close();
            if granted.try_recv().is_ok() {
                self.slots.give_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn urgent_ones_go_first_and_every_fourth_is_another() {
        let slots = Arc::new(Slots::new(1));
        let held = slots.acquire(false).await;
        let (sender, mut went) = tokio::sync::mpsc::unbounded_channel();
        for urgent in [false, false, true, true, true, true] {
            let (waiting, sender) = (slots.clone(), sender.clone());
            tokio::spawn(async move {
                let _slot = waiting.acquire(urgent).await;
                sender.send(urgent).unwrap();
            });
            tokio::task::yield_now().await;
        }
        drop((held, sender));
        let mut order = Vec::new();
        while let Some(urgent) = went.recv().await {
            order.push(urgent);
        }
        assert_eq!(order, [true, true, true, false, true, false]);
    }

    #[tokio::test]
    async fn a_limit_that_falls_and_rises_holds_and_nobody_is_lost() {
        let slots = Slots::new(2);
        let (a, b) = (slots.acquire(false).await, slots.acquire(false).await);
        slots.set_limit(1);
        drop(a);
        assert!(tokio::time::timeout(Duration::from_millis(5), slots.acquire(true)).await.is_err(), "one is taken of one");
        let third = slots.acquire(false);
        tokio::pin!(third);
        assert!(futures_util::poll!(&mut third).is_pending());
        slots.set_limit(2);
        let third = third.await;
        drop((b, third));
        let state = slots.state();
        assert_eq!((state.taken, state.urgent.len(), state.others.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_slot_granted_to_one_that_gives_up_goes_back() {
        let slots = Slots::new(1);
        let held = slots.acquire(false).await;
        {
            let second = slots.acquire(true);
            tokio::pin!(second);
            assert!(futures_util::poll!(&mut second).is_pending());
            drop(held);
        }
        assert_eq!(slots.state().taken, 0);
        drop(slots.acquire(false).await);
    }
}
