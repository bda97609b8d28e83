//! The life of a simulated iPhone: somebody opens an enrollment link, and from then on it comes when APNs calls it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::identity::Enrollment;
use super::{Iphone, Trouble, magic_of};
use crate::clock::Clock;
use crate::sim::Journey;
use crate::sim::apns::{Push, StandIn};

/// Longer than any run of the simulation.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How the phone and whoever carries it behave.
#[derive(Clone, Debug)]
pub struct Habits {
    /// A nudge is lost on the way: 0..1.
    pub loses_push: f64,
    /// Mean time between two times that the screen is locked; `None` for never. A locked phone puts off what needs its data.
    pub locked_every: Option<Duration>,
    /// How long the screen stays locked at most, also where the server locked it.
    pub locked_for: Duration,
    /// How long to wait after an enrollment that failed.
    pub retry: Duration,
    /// The time between conversations that no push asks for, for phones that APNs does not reach; `None` for never.
    pub poll_every: Option<Duration>,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits { loses_push: 0.0, locked_every: None, locked_for: Duration::from_secs(6), retry: Duration::from_secs(5), poll_every: None }
    }
}

/// What the outside can see of an iPhone.
#[derive(Debug, Default)]
pub struct Progress {
    pub enrolled: AtomicBool,
    /// It has fetched declarations.
    pub declared: AtomicBool,
    pub nudges: AtomicU64,
    /// Pushes with another phone's magic, which none may get.
    pub misled: AtomicU64,
    /// What operators ordered and it carried out.
    pub tasks_done: AtomicU64,
    pub put_off: AtomicU64,
    /// Conversations and enrollments that failed.
    pub troubles: AtomicU64,
    /// True while its last conversation came to its end.
    pub well: AtomicBool,
}

impl Journey for Progress {
    /// Enrolled, has its declarations, was nudged, and carried out a task.
    fn completed_the_loop(&self) -> bool {
        self.enrolled.load(Ordering::Relaxed)
            && self.declared.load(Ordering::Relaxed)
            && self.nudges.load(Ordering::Relaxed) > 0
            && self.tasks_done.load(Ordering::Relaxed) > 0
    }
}

/// One iPhone, ready to live.
pub struct Life {
    phone: Iphone,
    habits: Habits,
    progress: Arc<Progress>,
    rng: StdRng,
}

enum Wake {
    Push(Push),
    Poll,
    Locked,
    Unlocked,
    Stop,
}

impl Life {
    pub fn new(phone: Iphone, habits: Habits, clock: &Clock) -> Life {
        Life { phone, habits, progress: Arc::default(), rng: StdRng::from_seed(clock.moment().secret()) }
    }

    /// The same phone with chances that `seed` fixes.
    pub fn seeded(mut self, seed: u64) -> Life {
        self.rng = StdRng::seed_from_u64(seed);
        self
    }

    /// What the outside can see.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Enrolls by a link and lives until `stop`, or until its management ends. Without an APNs it is never pushed.
    pub async fn run(mut self, link: &str, apns: Option<&StandIn>, stop: CancellationToken) {
        let mut pushes = loop {
            match self.enroll(link, apns).await {
                Ok(pushes) => break pushes,
                Err(trouble) => self.troubled(&trouble),
            }
            if tokio::time::timeout(self.habits.retry, stop.cancelled()).await.is_ok() {
                return;
            }
        };
        self.progress.enrolled.store(true, Ordering::Relaxed);
        self.progress.well.store(true, Ordering::Relaxed);
        self.live(&mut pushes, &stop).await;
    }

    async fn enroll(&mut self, link: &str, apns: Option<&StandIn>) -> Result<mpsc::Receiver<Push>, Trouble> {
        let profile = self.phone.fetch_profile(link).await?;
        let Some(apns) = apns else {
            let token: [u8; 32] = self.rng.random();
            self.phone.install(&profile, &token).await?;
            return Ok(mpsc::channel(1).1);
        };
        let token = apns.register(&Enrollment::read(&profile)?.topic);
        let bytes: Vec<u8> = (0..token.len()).step_by(2).filter_map(|at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok()).collect();
        let pushes = apns.connect(&token);
        self.phone.install(&profile, &bytes).await?;
        Ok(pushes)
    }

    async fn live(&mut self, pushes: &mut mpsc::Receiver<Push>, stop: &CancellationToken) {
        let mut changes_at = self.next_lock();
        let mut polls_at = self.next_poll();
        while self.phone.state.enrolled {
            let is_locked = self.phone.state.locked;
            let wake = tokio::select! {
                () = stop.cancelled() => Wake::Stop,
                Some(push) = pushes.recv() => Wake::Push(push),
                () = tokio::time::sleep_until(changes_at) => if is_locked { Wake::Unlocked } else { Wake::Locked },
                () = tokio::time::sleep_until(polls_at) => Wake::Poll,
            };
            match wake {
                Wake::Stop => return,
                Wake::Push(push) => {
                    if push.magic.as_deref() != Some(magic_of(&self.phone.udid).as_str()) {
                        self.progress.misled.fetch_add(1, Ordering::Relaxed);
                    } else if !self.rng.random_bool(self.habits.loses_push) {
                        self.progress.nudges.fetch_add(1, Ordering::Relaxed);
                        self.talk().await;
                    }
                }
                Wake::Poll => {
                    self.talk().await;
                    polls_at = self.next_poll();
                }
                Wake::Locked => self.phone.state.locked = true,
                Wake::Unlocked => {
                    self.phone.state.locked = false;
                    // What was put off last is asked for by the phone itself.
                    if self.phone.state.put_off {
                        self.talk().await;
                    }
                }
            }
            if self.phone.state.locked != is_locked {
                changes_at = if self.phone.state.locked { self.next_unlock() } else { self.next_lock() };
            }
        }
    }

    async fn talk(&mut self) {
        let talked = self.phone.session().await;
        self.progress.well.store(talked.is_ok(), Ordering::Relaxed);
        if let Err(trouble) = talked {
            // The server calls again; nothing is lost.
            self.troubled(&trouble);
        }
        self.progress.declared.store(!self.phone.state.declarations.held.is_empty(), Ordering::Relaxed);
        self.progress.tasks_done.store(self.phone.state.ordered, Ordering::Relaxed);
        if self.phone.state.put_off {
            self.progress.put_off.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn troubled(&self, trouble: &Trouble) {
        self.progress.troubles.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(udid = self.phone.udid, %trouble, "an iPhone is in trouble");
    }

    fn next_poll(&mut self) -> Instant {
        let every = self.habits.poll_every;
        Instant::now() + every.map_or(NEVER, |every| every.mul_f64(self.rng.random_range(0.9..1.1)))
    }

    fn next_lock(&mut self) -> Instant {
        let mean = self.habits.locked_every;
        Instant::now() + mean.map_or(NEVER, |mean| mean.mul_f64(self.rng.random_range(0.5..1.5)))
    }

    fn next_unlock(&mut self) -> Instant {
        Instant::now() + self.habits.locked_for.mul_f64(self.rng.random_range(0.2..1.0))
    }
}
