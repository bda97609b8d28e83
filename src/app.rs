//! What every request and every worker shares.

mod credentials;
mod funnel;
mod room;
mod tail;
mod workers;

pub use credentials::{CredentialFile, SEALED_PREFIX, senders, take as take_credential};
pub use funnel::{Funnel, Stage};
pub use room::Room;
pub use tail::{STREAMS_MAX, Tail, Watch};
pub use workers::{Ended, Workers};

use std::sync::Arc;

use tokio::sync::Notify;

use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::error::{Error, Result, Trouble};
use crate::intake::Intake;
use crate::intake::authority::Authorities;
use crate::intake::refusals::Refusals;
use crate::model::Callers;
use crate::push::{SenderState, Senders};
use crate::seal::Seal;
use crate::store::{Class, Conn, Db};

/// How often a transaction that lost a deadlock or a serialization race is tried again.
pub const REPEATS_MAX: u32 = 5;

/// The running server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    shared: Arc<Shared>,
}

/// The parts of an [`App`].
#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub db: Db,
    pub clock: Clock,
    pub bells: Bells,
    /// The master key.
    pub seal: Seal,
    /// The way into the intake.
    pub intake: Intake,
    /// The CA of the devices' identities.
    pub authorities: Authorities,
    /// The push credentials in use.
    pub senders: Senders,
    /// Names this process among those that share the database, for leases.
    pub process: String,
    /// Refusals that are told summed up.
    pub refusals: Refusals,
    /// How far orders come, counted.
    pub funnel: Funnel,
    /// Whether the database's disk has room.
    pub room: Room,
    /// The feed as it grows.
    pub feed_tail: Tail,
}

/// Rung after a commit, so that a worker of this process need not wait for its tick. A hint, never the only way.
#[derive(Debug, Default)]
pub struct Bells {
    /// A wake may be due.
    pub wakes: Notify,
    /// The feed has something to sequence.
    pub feed: Notify,
    /// A job to expand or a set to move.
    pub background: Notify,
    /// Mail to be sent.
    pub mail: Notify,
}

impl Bells {
    /// Rings all of them; a bell that nobody waits for keeps one ring.
    pub fn ring(&self) {
        self.wakes.notify_one();
        self.feed.notify_one();
        self.background.notify_one();
    }
}

impl std::ops::Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl App {
    pub fn new(shared: Shared) -> App {
        App { shared: Arc::new(shared) }
    }

    /// A server without listeners, workers and senders.
    #[cfg(test)]
    pub fn for_tests(db: &Db, clock: &Clock) -> App {
        App::for_tests_with(db, clock, Vec::new()).0
    }

    /// A server with these senders, without listeners and workers; what it takes in waits for its committers.
    #[cfg(test)]
    pub fn for_tests_with(db: &Db, clock: &Clock, senders: Vec<Arc<crate::push::Sender>>) -> (App, crate::intake::Committers) {
        let process = clock.moment().id().to_string();
        let (config, bells, funnel, feed_tail, room) = <(Config, Bells, Funnel, Tail, Room)>::default();
        let (refusals, authorities) = <(Refusals, Authorities)>::default();
        let (intake, committers) = crate::intake::new(1);
        let seal = Seal::new(&[7; 32]);
        let (db, clock) = (db.clone(), clock.clone());
        let senders = Senders::from(senders);
        (
            App::new(Shared { config, seal, authorities, intake, db, clock, bells, senders, process, refusals, funnel, room, feed_tail }),
            committers,
        )
    }

    /// The senders of this server that have a credential, and which of them stand still.
    pub fn callers(&self) -> Callers {
        let senders = self.senders.all();
        let configured = senders.iter().filter(|sender| sender.status().state != SenderState::Unconfigured);
        let mut callers = Callers { names: " ".into(), reopens: Vec::new() };
        for sender in configured {
            callers.names = callers.names + sender.name() + " ";
            callers.reopens.extend(sender.reopens_at_ms().map(|at_ms| (sender.name().to_owned(), at_ms)));
        }
        callers
    }

    /// True where the sender of this name has a credential.
    pub fn has_credential(&self, sender: &str) -> bool {
        self.senders.named(sender).is_some_and(|sender| sender.status().state != SenderState::Unconfigured)
    }

    /// Takes note of what an error says about the database's disk; everything that writes shows its errors here.
    pub fn heed(&self, error: &Error) {
        if error.is_full() {
            self.room.is_out(self.clock.now_ms());
        }
    }

    /// Begins a transaction; [`change!`] is the way to use it.
    pub async fn begin(&self, class: Class) -> Result<Change> {
        let conn = self.db.begin(class).await?;
        Ok(Change { app: self.clone(), conn, moment: self.clock.moment() })
    }
}

/// A transaction in hand, with the moment it happens at.
#[derive(Debug)]
pub struct Change {
    app: App,
    conn: Conn,
    moment: Moment,
}

impl Change {
    /// What the functions of `ops` ask for.
    pub fn parts(&mut self) -> (&mut Conn, &mut Moment) {
        (&mut self.conn, &mut self.moment)
    }

    /// Undoes everything, for who only wanted to see what would happen.
    pub async fn undo(self) -> Result<()> {
        self.conn.rollback().await
    }

    /// Commits what succeeded and undoes what failed. `None` asks the caller to do it again: the database broke a deadlock or a
    /// serialization race, and `tries` is not used up.
    pub async fn end<T>(self, outcome: Result<T>, tries: &mut u32) -> Option<Result<T>> {
        let outcome = match outcome {
            Ok(value) => self.conn.commit().await.map(|()| value),
            Err(error) => {
                // The error at hand says more than a failure to undo; the database undoes what is not committed anyway.
                self.conn.rollback().await.ok();
                Err(error)
            }
        };
        *tries += 1;
        match outcome {
            Err(error) if error.trouble() == Trouble::Repeat && *tries < REPEATS_MAX => None,
            Err(error) => {
                self.app.heed(&error);
                Some(Err(error))
            }
            Ok(value) => {
                self.app.bells.ring();
                Some(Ok(value))
            }
        }
    }
}

/// Runs an expression in one transaction and rings the bells after the commit:
/// `change!(app, Class::Operators, |conn, moment| ops::users::create(conn, moment, &actor, &input).await)`.
///
/// A macro, because a future that borrows the transaction through a closure cannot be proved `Send`.
#[macro_export]
macro_rules! change {
    ($app:expr, $class:expr, |$conn:ident, $moment:ident| $work:expr) => {{
        let mut tries = 0;
        loop {
            let mut change = match $app.begin($class).await {
                Ok(change) => change,
                Err(error) => break Err(error),
            };
            let outcome = {
                let ($conn, $moment) = change.parts();
                $work
            };
            if let Some(result) = change.end(outcome, &mut tries).await {
                break result;
            }
        }
    }};
}
