//! SQLite has one writer; this decides whose turn it is.
//!
//! Five classes wait for it. A better class goes first, but a waiting class gets its turn after at most four transactions of
//! better ones, so that a full intake never starves the background and a large move never delays a phone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// Who wants to write, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Contacts that carry results or events, and activations.
    Results,
    /// Contacts that carry nothing in.
    Contacts,
    /// Claims and answers of the nudger.
    Nudger,
    /// What operators do.
    Operators,
    /// Moves, expansion, folding, retention: at most 500 rows and about 10 ms a transaction.
    Background,
}

const CLASSES: [Class; 5] = [Class::Results, Class::Contacts, Class::Nudger, Class::Operators, Class::Background];

impl Class {
    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Results => "results",
            Class::Contacts => "contacts",
            Class::Nudger => "nudger",
            Class::Operators => "operators",
            Class::Background => "background",
        }
    }
}

/// How many transactions of better classes may pass a waiting one.
const PASSED_MAX: u32 = 4;

/// The writer's queue. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    busy: bool,
    waiting: [VecDeque<oneshot::Sender<Turn>>; CLASSES.len()],
    passed: [u32; CLASSES.len()],
}

/// The right to write; dropping it hands the turn on.
#[derive(Debug)]
pub struct Turn {
    turns: Option<Turns>,
    class: Class,
    since: Instant,
}

impl Turn {
    fn of(turns: Option<Turns>, class: Class) -> Turn {
        Turn { turns, class, since: Instant::now() }
    }
}

impl Turns {
    /// Waits for the turn.
    pub async fn take(&self, class: Class) -> Turn {
        let receiver = {
            let mut state = self.lock();
            if !state.busy {
                state.busy = true;
                return Turn::of(Some(self.clone()), class);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting[class as usize].push_back(sender);
            receiver
        };
        // The sender lives in the queue until it hands over a turn, so this cannot fail while the queue exists.
        receiver.await.unwrap_or_else(|_| Turn::of(None, class))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_on(&self) {
        loop {
            let (class, sender) = {
                let mut state = self.lock();
                match state.next() {
                    Some(next) => next,
                    None => {
                        state.busy = false;
                        return;
                    }
                }
            };
            // Somebody who stopped waiting hands the turn back at once; the loop offers it to the next.
            match sender.send(Turn::of(Some(self.clone()), class)) {
                Ok(()) => return,
                Err(mut unwanted) => unwanted.turns = None,
            }
        }
    }
}

impl State {
    fn next(&mut self) -> Option<(Class, oneshot::Sender<Turn>)> {
        let overdue = (0..CLASSES.len()).rev().find(|class| !self.waiting[*class].is_empty() && self.passed[*class] >= PASSED_MAX);
        let class = overdue.or_else(|| (0..CLASSES.len()).find(|class| !self.waiting[*class].is_empty()))?;
        self.passed[class] = 0;
        for worse in class + 1..CLASSES.len() {
            if !self.waiting[worse].is_empty() {
                self.passed[worse] += 1;
            }
        }
        Some((CLASSES[class], self.waiting[class].pop_front()?))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            metrics::histogram!("muster_writer_turn_seconds", "class" => self.class.name()).record(self.since.elapsed().as_secs_f64());
            turns.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_background_writer_is_passed_at_most_four_times() {
        let turns = Turns::default();
        let first = turns.take(Class::Results).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for class in std::iter::once(Class::Background).chain(std::iter::repeat_n(Class::Results, 10)) {
            let (turns, order) = (turns.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = turns.take(class).await;
                order.lock().unwrap().push(class);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        let at = order.lock().unwrap().iter().position(|class| *class == Class::Background);
        assert_eq!(at, Some(4));
    }

    #[tokio::test]
    async fn a_writer_who_gave_up_does_not_keep_the_turn() {
        let turns = Turns::default();
        let first = turns.take(Class::Operators).await;
        let mut gone = Box::pin(turns.take(Class::Operators));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        drop(first);
        let _second = turns.take(Class::Background).await;
    }
}
