//! A simulated phone: our agent protocol over real HTTP, nudges from the stand-ins of FCM or APNs, and the habits of real phones.

mod act;
mod kind;
mod state;
mod talk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use kind::Kind;
pub use state::Memory;
use talk::{Heard, Talk};

use crate::clock::Clock;
use crate::sim::Journey;
use crate::sim::uplink::Uplink;

/// A phone that could not get through tries again after this long, as the protocol asks for compliance changes.
const RETRY: Duration = Duration::from_secs(60);
/// However fast its time goes, a phone comes no more often by itself.
const SYNC_GAP: Duration = Duration::from_millis(200);
/// Longer than any run of the simulation.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Events waiting on the phone; the oldest are dropped beyond it.
const EVENTS_MAX: usize = 256;

/// Who the phone is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub kind: Kind,
    /// Empty where the enrollment token names the user.
    pub email: String,
    pub hardware_id: String,
    pub serial: String,
    pub model: String,
    pub os_version: String,
}

impl Identity {
    /// Where its pushes go, as it says so.
    fn push(&self, value: &str) -> serde_json::Value {
        serde_json::json!({"provider": self.kind.push_provider(), "kind": "token", "value": value})
    }
}

/// How the phone behaves. Probabilities are 0..1.
#[derive(Clone, Debug)]
pub struct Habits {
    /// A nudge is lost on the way.
    pub loses_push: f64,
    /// A request is sent twice.
    pub duplicates: f64,
    /// A task fails.
    pub fails: f64,
    /// The setting that this phone cannot obey, if any.
    pub cannot_obey: Option<(&'static str, &'static str)>,
    /// Mean time between events that the phone reports by itself; `None` for never.
    pub event_every: Option<Duration>,
    /// Mean time between absences from the network; `None` for never.
    pub absent_every: Option<Duration>,
    /// Mean time between reboots; `None` for never.
    pub reboot_every: Option<Duration>,
    /// Mean time between two times that the agent is installed anew and activates again; `None` for never.
    pub reinstall_every: Option<Duration>,
    /// The time between syncs that no push asks for, whatever the server says; `None` for what the server says.
    pub sync_every: Option<Duration>,
    /// By this much the time that the server says is shortened.
    pub speed: f64,
    /// What its network adds to each sync at most.
    pub delay: Duration,
    /// Mean time between two times that somebody opens the app; `None` for never.
    pub opened_every: Option<Duration>,
    /// How long an absence lasts at most.
    pub absent_for: Duration,
    /// How long the phone takes to act on a task at most.
    pub acts_within: Duration,
    /// How long to wait after a failed request.
    pub retry: Duration,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits {
            loses_push: 0.0,
            duplicates: 0.0,
            fails: 0.0,
            cannot_obey: None,
            event_every: None,
            absent_every: None,
            reboot_every: None,
            reinstall_every: None,
            sync_every: None,
            speed: 1.0,
            delay: Duration::ZERO,
            opened_every: None,
            absent_for: Duration::from_secs(20),
            acts_within: Duration::from_millis(50),
            retry: RETRY,
        }
    }
}

/// What the outside can see of a phone.
#[derive(Debug, Default)]
pub struct Progress {
    pub activated: AtomicBool,
    pub policy_applied: AtomicBool,
    pub nudges: AtomicU64,
    pub syncs: AtomicU64,
    pub tasks_done: AtomicU64,
    pub tasks_failed: AtomicU64,
    pub events_sent: AtomicU64,
    pub refused: AtomicU64,
    pub reinstalls: AtomicU64,
    /// True while the last thing that it said was answered.
    pub well: AtomicBool,
}

impl Journey for Progress {
    /// Activated, has the policy, was nudged, and finished a task.
    fn completed_the_loop(&self) -> bool {
        self.activated.load(Ordering::Relaxed)
            && self.policy_applied.load(Ordering::Relaxed)
            && self.nudges.load(Ordering::Relaxed) > 0
            && self.tasks_done.load(Ordering::Relaxed) > 0
    }
}

/// Where the phone's pushes come from: its address, and what arrives.
pub struct PushLine {
    pub address: String,
    pub arrivals: mpsc::Receiver<()>,
}

/// One phone, ready to run.
pub struct Phone {
    identity: Identity,
    habits: Habits,
    talk: Talk,
    memory: Memory,
    progress: Arc<Progress>,
    rng: StdRng,
    clock: Clock,
}

/// Why the phone wakes.
enum Wake {
    Push,
    Point,
    Event,
    Absence,
    Reboot,
    Reinstall,
    Opened,
    Stop,
}

impl Phone {
    /// A phone that will activate at `server` (a base URL) with an enrollment token.
    pub fn new(client: reqwest::Client, server: &str, enrollment_token: &str, identity: Identity, habits: Habits, clock: Clock) -> Phone {
        let mut moment = clock.moment();
        let rng = StdRng::from_seed(moment.secret());
        let talk = Talk::new(client, server, enrollment_token);
        Phone { identity, habits, talk, memory: Memory::default(), progress: Arc::default(), rng, clock }
    }

    /// The same phone with chances that `seed` fixes.
    pub fn seeded(mut self, seed: u64) -> Phone {
        self.rng = StdRng::seed_from_u64(seed);
        self
    }

    /// The same phone, speaking over a way that it shares with others.
    pub fn over(mut self, uplink: Arc<Uplink>) -> Phone {
        self.talk.over(uplink);
        self
    }

    /// What the outside can see.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Lives until `stop`: activates, then syncs by push, by its own clock and by what happens to it. One that is installed anew when the
    /// end comes still activates: no phone is left halfway.
    pub async fn run(mut self, mut line: PushLine, stop: CancellationToken) {
        loop {
            if !self.talk.is_activated() && !self.activate(&line.address).await {
                if tokio::time::timeout(self.habits.retry, stop.cancelled()).await.is_ok() {
                    return;
                }
                continue;
            }
            if stop.is_cancelled() {
                return;
            }
            self.live(&mut line, &stop).await;
        }
    }

    async fn activate(&mut self, push: &str) -> bool {
        let now_ms = self.clock.now_ms();
        let is_admitted = self.talk.activate(&self.identity, push, now_ms).await;
        self.progress.well.store(is_admitted, Ordering::Relaxed);
        if is_admitted {
            self.memory.begin_activation();
            self.progress.activated.store(true, Ordering::Relaxed);
            return true;
        }
        self.progress.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// One activation's life.
    async fn live(&mut self, line: &mut PushLine, stop: &CancellationToken) {
        let mut next_sync = self.sync("launch", &line.address).await;
        let mut next_event = self.in_about(self.habits.event_every);
        let mut next_absence = self.in_about(self.habits.absent_every);
        let mut next_opened = self.in_about(self.habits.opened_every);
        let mut next_reboot = self.in_about(self.habits.reboot_every);
        let next_reinstall = self.in_about(self.habits.reinstall_every);
        while self.talk.is_activated() {
            let wake = tokio::select! {
                () = stop.cancelled() => Wake::Stop,
                Some(()) = line.arrivals.recv() => Wake::Push,
                () = tokio::time::sleep_until(next_sync) => Wake::Point,
                () = tokio::time::sleep_until(next_event) => Wake::Event,
                () = tokio::time::sleep_until(next_absence) => Wake::Absence,
                () = tokio::time::sleep_until(next_opened) => Wake::Opened,
                () = tokio::time::sleep_until(next_reboot) => Wake::Reboot,
                () = tokio::time::sleep_until(next_reinstall) => Wake::Reinstall,
            };
            match wake {
                Wake::Stop => return,
                Wake::Push if self.rng.random_bool(self.habits.loses_push) => {}
                Wake::Push => {
                    self.progress.nudges.fetch_add(1, Ordering::Relaxed);
                    next_sync = self.sync("push", &line.address).await;
                }
                Wake::Point => next_sync = self.sync("periodic", &line.address).await,
                Wake::Event => {
                    next_event = self.in_about(self.habits.event_every);
                    let (now_ms, id) = (self.clock.now_ms(), self.clock.moment().id());
                    let event = act::something_happens(&self.identity.kind, &mut self.rng, &mut self.memory, now_ms, id);
                    self.memory.remember_event(event, EVENTS_MAX);
                    if !self.send_events().await {
                        next_event = next_event.min(Instant::now() + self.habits.retry);
                    }
                }
                Wake::Opened => {
                    next_opened = self.in_about(self.habits.opened_every);
                    next_sync = self.sync("launch", &line.address).await;
                }
                Wake::Absence => {
                    let away = self.habits.absent_for.mul_f64(self.rng.random_range(0.1..1.0));
                    if tokio::time::timeout(away, stop.cancelled()).await.is_ok() {
                        return;
                    }
                    // What was missed comes with the next push; a phone with a clock of its own looks at once.
                    let cause = if self.identity.kind.keeps_time() { "periodic" } else { "launch" };
                    next_sync = self.sync(cause, &line.address).await;
                    next_absence = self.in_about(self.habits.absent_every);
                }
                Wake::Reboot => {
                    self.memory.reboot();
                    next_sync = self.sync("boot", &line.address).await;
                    next_reboot = self.in_about(self.habits.reboot_every);
                }
                Wake::Reinstall => {
                    self.memory = Memory::default();
                    self.talk.forget_device_token();
                    self.progress.activated.store(false, Ordering::Relaxed);
                    self.progress.reinstalls.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Syncs until there is nothing more to say; answers when the phone wants to come by itself.
    async fn sync(&mut self, cause: &str, push: &str) -> Instant {
        loop {
            if !self.habits.delay.is_zero() {
                tokio::time::sleep(self.habits.delay.mul_f64(self.rng.random_range(0.0..1.0))).await;
            }
            let body = self.memory.sync_body(cause, push, &self.identity, self.clock.now_ms());
            self.progress.syncs.fetch_add(1, Ordering::Relaxed);
            if self.rng.random_bool(self.habits.duplicates) {
                // The answer of the first copy is lost; the phone cannot tell, and sends again.
                self.talk.sync(&body).await;
            }
            let heard = self.talk.sync(&body).await;
            if !matches!(heard, Heard::Later(_)) {
                self.progress.well.store(matches!(heard, Heard::Answer(_)), Ordering::Relaxed);
            }
            match heard {
                Heard::Answer(answer) => {
                    let said = self.memory.heard(&answer, &self.progress);
                    let worked = self.work(&answer).await;
                    if !(said || worked || self.memory.has_results()) {
                        return self.next_point(answer["next_sync_in_s"].as_u64().unwrap_or(10_800));
                    }
                }
                Heard::SignOut { action } => {
                    self.progress.refused.fetch_add(1, Ordering::Relaxed);
                    let confirmation = self.memory.obey(&action);
                    self.talk.sync(&confirmation).await;
                    return Instant::now() + self.habits.retry;
                }
                Heard::Unknown => {
                    // The token does not stand: keep everything, activate again with the enrollment token.
                    self.progress.refused.fetch_add(1, Ordering::Relaxed);
                    self.talk.forget_device_token();
                    return Instant::now() + self.habits.retry;
                }
                Heard::Later(seconds) => return Instant::now() + Duration::from_secs(seconds).max(Duration::from_millis(200)),
                Heard::Nothing => return Instant::now() + self.habits.retry,
            }
        }
    }

    /// When the phone comes by itself, after it was told so many seconds.
    fn next_point(&mut self, told_s: u64) -> Instant {
        Instant::now()
            + match self.habits.sync_every {
                Some(every) => every.mul_f64(self.rng.random_range(0.9..1.1)),
                None if !self.identity.kind.keeps_time() => NEVER,
                None => Duration::from_secs(told_s).div_f64(self.habits.speed.max(0.001)).max(SYNC_GAP),
            }
    }

    /// Acts on the tasks and the policy of an answer; true where there is something to report.
    async fn work(&mut self, answer: &serde_json::Value) -> bool {
        let applied = self.memory.apply_policy(answer, &self.habits, &self.progress);
        let mut worked = applied;
        for task in self.memory.new_tasks(answer) {
            tokio::time::sleep(self.habits.acts_within.mul_f64(self.rng.random_range(0.05..1.0))).await;
            let fails = self.rng.random_bool(self.habits.fails);
            let now_ms = self.clock.now_ms();
            let id = self.clock.moment().id();
            act::perform(&task, fails, &mut self.memory, &mut self.rng, now_ms, id);
            let counter = if fails { &self.progress.tasks_failed } else { &self.progress.tasks_done };
            counter.fetch_add(1, Ordering::Relaxed);
            worked = true;
        }
        worked
    }

    async fn send_events(&mut self) -> bool {
        let body = self.memory.events_body();
        match self.talk.events(&body).await {
            Heard::Answer(answer) => {
                self.progress.events_sent.fetch_add(self.memory.events_heard(&answer), Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    fn in_about(&mut self, mean: Option<Duration>) -> Instant {
        Instant::now() + mean.map_or(NEVER, |mean| mean.mul_f64(self.rng.random_range(0.3..1.7)))
    }
}
