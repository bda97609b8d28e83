//! Many phones at once, with the habits of a real fleet.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apple::Iphone;
use super::apple::life::{self, Life};
use super::phone::{Habits, Identity, Kind, Phone, PushLine};
use super::{Journey, apns, fcm};
use crate::clock::Clock;

/// Pushes that may wait for one phone.
const PUSHES_MAX: usize = 16;

pub(super) const MODELS: [(&str, &str); 6] =
    [("Pixel 9", "16"), ("Pixel 8a", "15"), ("Galaxy S24", "15"), ("Galaxy XCover7", "14"), ("Fairphone 5", "14"), ("Moto G84", "13")];

pub(super) const IPHONES: [(&str, &str); 3] = [("iPhone 17", "26.1"), ("iPhone 15", "18.6"), ("iPhone SE", "18.6")];

/// Where the phones' pushes come from.
#[derive(Clone)]
pub struct Carriers {
    pub fcm: fcm::StandIn,
    /// APNs, and the bundle id of the app on iOS; without it all phones are Android.
    pub apns: Option<(apns::StandIn, String)>,
}

/// What the fleet looks like.
#[derive(Clone, Debug)]
pub struct Plan {
    pub server: String,
    pub enrollment_token: String,
    pub phones: usize,
    /// Every so many phones one is an iPhone with our app, if there is an APNs; 0 for none.
    pub iphone_every: usize,
    /// Enrollment links of further iPhones, which are managed by their own system; they need an APNs.
    pub links: Vec<String>,
    /// The phones' first activations are spread over this time.
    pub arrive_within: Duration,
    /// True for phones that lose pushes, go away, fail and tell of events; false for phones that do as they are told.
    pub lively: bool,
}

/// A running fleet.
pub struct Fleet {
    /// Each device's serial number and how far it has come: those with our app first.
    pub progress: Vec<(String, Arc<dyn Journey>)>,
    phones: JoinSet<()>,
}

/// The e-mail address of the user who carries phone `n`.
pub fn email_of(n: usize) -> String {
    format!("user{n:04}@example.org")
}

/// The serial number of phone `n`.
pub fn serial_of(n: usize) -> String {
    format!("SIM{n:07}")
}

impl Fleet {
    /// Starts the phones; they end at `stop`.
    pub fn start(plan: &Plan, carriers: &Carriers, clock: &Clock, stop: &CancellationToken) -> Fleet {
        let client = super::client(Duration::from_secs(30)).pool_max_idle_per_host(64).build().unwrap_or_default();
        let mut rng = StdRng::from_seed(clock.moment().secret());
        let mut fleet = Fleet { progress: Vec::with_capacity(plan.phones + plan.links.len()), phones: JoinSet::new() };
        for n in 0..plan.phones {
            let kind = match &carriers.apns {
                Some((_, bundle)) if plan.iphone_every > 0 && n % plan.iphone_every == plan.iphone_every - 1 => {
                    Kind::IosApp { bundle: bundle.clone() }
                }
                _ => Kind::Android,
            };
            let (model, os_version) = if kind.keeps_time() { MODELS[n % MODELS.len()] } else { IPHONES[n % IPHONES.len()] };
            let identity = Identity {
                kind: kind.clone(),
                email: email_of(n),
                hardware_id: format!("sim-hardware-{n}"),
                serial: serial_of(n),
                model: model.into(),
                os_version: os_version.into(),
            };
            let habits = if plan.lively { lively(&kind, &mut rng) } else { Habits::default() };
            let phone = Phone::new(client.clone(), &plan.server, &plan.enrollment_token, identity, habits, clock.clone());
            fleet.progress.push((serial_of(n), phone.progress()));
            let wait = plan.arrive_within.mul_f64(rng.random_range(0.0..1.0));
            let (carriers, stop) = (carriers.clone(), stop.clone());
            fleet.phones.spawn(async move {
                if tokio::time::timeout(wait, stop.cancelled()).await.is_err() {
                    let line = push_line(&kind, &carriers);
                    phone.run(line, stop).await;
                }
            });
        }
        let Some((apns, _)) = &carriers.apns else { return fleet };
        for (n, link) in (plan.phones..).zip(&plan.links) {
            let life = Life::new(Iphone::new(&plan.server, &format!("{n:07}"), ""), managed(plan.lively), clock);
            fleet.progress.push((serial_of(n), life.progress()));
            let wait = plan.arrive_within.mul_f64(rng.random_range(0.0..1.0));
            let (link, apns, stop) = (link.clone(), apns.clone(), stop.clone());
            fleet.phones.spawn(async move {
                if tokio::time::timeout(wait, stop.cancelled()).await.is_err() {
                    life.run(&link, Some(&apns), stop).await;
                }
            });
        }
        fleet
    }

    /// How many phones have been through the whole loop.
    pub fn completed(&self) -> usize {
        self.progress.iter().filter(|(_, progress)| progress.completed_the_loop()).count()
    }

    /// Waits for the phones to end after the stop.
    pub async fn end(mut self) {
        while self.phones.join_next().await.is_some() {}
    }
}

/// Registers a phone with its carrier and listens to what arrives for it.
fn push_line(kind: &Kind, carriers: &Carriers) -> PushLine {
    match (kind, &carriers.apns) {
        (Kind::IosApp { bundle }, Some((apns, _))) => {
            let address = apns.register(bundle);
            let pushes = apns.connect(&address);
            PushLine { address, arrivals: arrivals(pushes) }
        }
        _ => {
            let address = carriers.fcm.register();
            let pushes = carriers.fcm.connect(&address);
            PushLine { address, arrivals: arrivals(pushes) }
        }
    }
}

pub(super) fn arrivals<P: Send + 'static>(mut pushes: mpsc::Receiver<P>) -> mpsc::Receiver<()> {
    let (sender, arrivals) = mpsc::channel(PUSHES_MAX);
    tokio::spawn(async move {
        while pushes.recv().await.is_some() {
            // A phone that has not yet acted on its last nudges needs no further one.
            if sender.is_closed() {
                return;
            }
            sender.try_send(()).ok();
        }
    });
    arrivals
}

/// The habits of an iPhone that its own system manages.
fn managed(is_lively: bool) -> life::Habits {
    if is_lively {
        life::Habits { loses_push: 0.02, locked_every: Some(Duration::from_secs(45)), ..life::Habits::default() }
    } else {
        life::Habits::default()
    }
}

fn lively(kind: &Kind, rng: &mut StdRng) -> Habits {
    let cannot_obey = match rng.random_range(0..50) {
        0 => Some(("cameraAccess", "MANAGEMENT_MODE")),
        1 => Some(("passwordPolicies", "USER_ACTION")),
        _ => None,
    };
    Habits {
        // An app on iOS is nudged no more often than every 20 minutes, so it cannot afford to miss one in a short run.
        loses_push: if kind.keeps_time() { 0.02 } else { 0.0 },
        duplicates: 0.01,
        // As above.
        fails: if kind.keeps_time() { 0.04 } else { 0.0 },
        cannot_obey,
        event_every: Some(Duration::from_secs(150)),
        absent_every: Some(Duration::from_secs(400)),
        reboot_every: Some(Duration::from_secs(600)),
        opened_every: (!kind.keeps_time()).then_some(Duration::from_secs(15)),
        absent_for: Duration::from_secs(25),
        acts_within: Duration::from_millis(2500),
        retry: Duration::from_secs(5),
        ..Habits::default()
    }
}
