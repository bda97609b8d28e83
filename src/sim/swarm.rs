//! A fleet of thousands against any server: each phone with the same habits, and chances that a seed fixes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apple::Iphone;
use super::apple::life::{self, Life};
use super::fleet::{IPHONES, MODELS, arrivals};
use super::phone::{self, Identity, Kind, Phone, PushLine};
use super::uplink::Uplink;
use super::{apns, fcm};
use crate::clock::Clock;

/// How long a request may take.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// After the end each phone may finish what it has begun for so long.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// What the fleet looks like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub server: String,
    pub enrollment_token: String,
    pub androids: usize,
    /// iPhones with our app.
    pub apps: usize,
    /// The bundle id of that app.
    pub bundle: String,
    /// iPhones that their own system manages.
    pub iphones: usize,
    /// The e-mail address of phone `n`, where `{n}` stands for its number; `None` where the token names the user.
    pub email: Option<String>,
    /// Phones that arrive in a second.
    pub arrivals_per_s: f64,
    /// The same seed is the same fleet: its hardware and its chances.
    pub seed: u64,
    pub habits: phone::Habits,
    pub apple: life::Habits,
}

/// Where pushes come from; a fleet without any comes by itself.
#[derive(Clone, Default)]
pub struct Carriers {
    pub fcm: Option<fcm::StandIn>,
    pub apns: Option<apns::StandIn>,
}

/// What all phones together have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Phones whose time to arrive has come.
    pub due: u64,
    /// Of those, the ones that are activated or enrolled.
    pub enrolled: u64,
    /// Of those due, the ones that did not get in, or whose last word found no answer.
    pub failed: u64,
    pub nudges: u64,
    pub tasks_done: u64,
    pub tasks_failed: u64,
    pub events: u64,
    pub reinstalls: u64,
}

/// A running fleet.
pub struct Swarm {
    pub uplink: Arc<Uplink>,
    /// Those with our agent, on Android and on iOS.
    agents: Vec<Arc<phone::Progress>>,
    iphones: Vec<Arc<life::Progress>>,
    due: Arc<[AtomicU64; 2]>,
    phones: JoinSet<()>,
}

impl Swarm {
    /// Starts the phones, of which at most `at_once` speak at a time; they end at `stop`.
    pub fn start(plan: &Plan, carriers: &Carriers, at_once: usize, stop: &CancellationToken) -> Swarm {
        let client = super::client(REQUEST_MAX).pool_max_idle_per_host(at_once).build().unwrap_or_default();
        let uplink = Arc::new(Uplink::new(at_once));
        let mut swarm =
            Swarm { uplink: uplink.clone(), agents: Vec::new(), iphones: Vec::new(), due: Arc::default(), phones: JoinSet::new() };
        let clock = Clock::system();
        for n in 0..plan.androids + plan.apps {
            // Each kind begins to arrive at once.
            let (kind, place) =
                if n < plan.androids { (Kind::Android, n) } else { (Kind::IosApp { bundle: plan.bundle.clone() }, n - plan.androids) };
            let identity = plan.identity(kind.clone(), n, place);
            // An agent that keeps its own time is opened by nobody.
            let opened_every = plan.habits.opened_every.filter(|_| !kind.keeps_time());
            let habits = phone::Habits { opened_every, ..plan.habits.clone() };
            let phone = Phone::new(client.clone(), &plan.server, &plan.enrollment_token, identity, habits, clock.clone())
                .seeded(plan.chances(n))
                .over(uplink.clone());
            swarm.agents.push(phone.progress());
            let (carriers, stop) = (carriers.clone(), stop.clone());
            swarm.arrive(plan, place, 0, &stop.clone(), async move { phone.run(line(&kind, &carriers), stop).await });
        }
        for n in 0..plan.iphones {
            let name = format!("{:08X}{n:08X}", plan.seed & 0xffff_ffff);
            let phone = Iphone::new(&plan.server, &name, "").over(uplink.clone());
            let life = Life::new(phone, plan.apple.clone(), &clock).seeded(plan.chances(plan.androids + plan.apps + n));
            swarm.iphones.push(life.progress());
            let link = format!("{}/enroll/{}", plan.server, plan.enrollment_token);
            let (apns, stop) = (carriers.apns.clone(), stop.clone());
            swarm.arrive(plan, n, 1, &stop.clone(), async move { life.run(&link, apns.as_ref(), stop).await });
        }
        swarm
    }

    fn arrive(
        &mut self,
        plan: &Plan,
        n: usize,
        platform: usize,
        stop: &CancellationToken,
        life: impl Future<Output = ()> + Send + 'static,
    ) {
        let wait = Duration::from_secs_f64(n as f64 / plan.arrivals_per_s.max(0.001));
        let (due, stop) = (self.due.clone(), stop.clone());
        self.phones.spawn(async move {
            if tokio::time::timeout(wait, stop.cancelled()).await.is_err() {
                due[platform].fetch_add(1, Ordering::Relaxed);
                life.await;
            }
        });
    }

    /// How the fleet stands.
    pub fn tally(&self) -> Tally {
        let due = [0, 1].map(|platform: usize| self.due[platform].load(Ordering::Relaxed));
        let mut tally = Tally { due: due[0] + due[1], ..Tally::default() };
        let mut well = 0;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for one in &self.agents {
            let is_in = one.activated.load(Ordering::Relaxed);
            tally.enrolled += u64::from(is_in);
            well += u64::from(is_in && one.well.load(Ordering::Relaxed));
            tally.nudges += read(&one.nudges);
            tally.tasks_done += read(&one.tasks_done);
            tally.tasks_failed += read(&one.tasks_failed);
            tally.events += read(&one.events_sent);
            tally.reinstalls += read(&one.reinstalls);
        }
        for one in &self.iphones {
            let is_in = one.enrolled.load(Ordering::Relaxed);
            tally.enrolled += u64::from(is_in);
            well += u64::from(is_in && one.well.load(Ordering::Relaxed));
            tally.nudges += read(&one.nudges);
            tally.tasks_done += read(&one.tasks_done);
        }
        tally.failed = tally.due.saturating_sub(well);
        tally
    }

    /// Waits for the phones to end after the stop: those that speak finish, those that do not finish in time are left.
    pub async fn end(&mut self) {
        let finish = async { while self.phones.join_next().await.is_some() {} };
        tokio::time::timeout(FINISH_MAX, finish).await.ok();
        self.phones.abort_all();
    }
}

impl Plan {
    /// Phone `n` of the fleet, which is number `place` of its kind.
    fn identity(&self, kind: Kind, n: usize, place: usize) -> Identity {
        let (mark, models): (&str, &[(&str, &str)]) = if kind.keeps_time() { ("", &MODELS) } else { ("app-", &IPHONES) };
        let (model, os_version) = models[place % models.len()];
        Identity {
            kind,
            email: self.email.as_ref().map(|email| email.replace("{n}", &n.to_string())).unwrap_or_default(),
            hardware_id: format!("simulated-{}-{mark}{place}", self.seed),
            serial: format!("SIM{:08X}{n:07}", self.seed & 0xffff_ffff),
            model: model.into(),
            os_version: os_version.into(),
        }
    }

    /// The seed of phone `n`: neighbours have nothing in common.
    fn chances(&self, n: usize) -> u64 {
        self.seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Where a phone's pushes come from. One that nothing reaches registers no address, so that no provider is ever asked for it.
fn line(kind: &Kind, carriers: &Carriers) -> PushLine {
    match (kind, &carriers.fcm, &carriers.apns) {
        (Kind::Android, Some(fcm), _) => {
            let address = fcm.register();
            let pushes = fcm.connect(&address);
            PushLine { address, arrivals: arrivals(pushes) }
        }
        (Kind::IosApp { bundle }, _, Some(apns)) => {
            let address = apns.register(bundle);
            let pushes = apns.connect(&address);
            PushLine { address, arrivals: arrivals(pushes) }
        }
        _ => PushLine { address: String::new(), arrivals: mpsc::channel(1).1 },
    }
}
