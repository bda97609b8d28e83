//! Contacts and activations, gathered and committed in groups.
//!
//! Beyond its backlog the intake sheds: idle contacts first, then results and events, activations last. Nothing is refused because it
//! is a duplicate.

pub mod activations;
mod answers;
mod apple;
pub mod authority;
pub mod checkins;
pub mod contacts;
pub mod group;
mod headroom;
pub mod refusals;
mod results;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use self::activations::{Activations, Admission, Newcomer};
use self::checkins::{Answer, Arrival, Checkins};
use self::contacts::{Contact, Contacts, Heard};
use self::group::{Arrivals, Group, group};
pub use self::headroom::Headroom;
use crate::app::{App, Workers};
use crate::error::Result;
use crate::model::Id;
use crate::store::contacts::Way;

/// Contacts waiting above which idle ones are shed.
const IDLE_BACKLOG_MAX: usize = 4_096;
/// Contacts waiting above which Apple devices are shed that come for nothing: they ignore how long they are told to stay away.
const IDLE_APPLE_BACKLOG_MAX: usize = 8_192;
/// Contacts waiting above which those with results and events are shed.
const CARRYING_BACKLOG_MAX: usize = 12_288;
/// Activations waiting above which further ones are shed.
const ACTIVATION_BACKLOG_MAX: usize = 16_384;
/// Groups of contacts that PostgreSQL commits beside each other: while one waits for its disk the other computes.
pub const QUEUES_POSTGRES: usize = 2;
/// `Retry-After` of a shed contact is spread over this many seconds by the device's id.
const RETRY_SPREAD_S: i64 = 60;

/// The way into the intake. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    contacts: Group<Contacts>,
    activations: Group<Activations>,
    checkins: Group<Checkins>,
    /// Contacts waiting above which further ones are shed, whatever their class says: for drills.
    drill: Arc<AtomicUsize>,
    headroom: Arc<Headroom>,
}

/// The other end of an [`Intake`]: run by the server.
pub struct Committers {
    contacts: Vec<Arrivals<Contacts>>,
    activations: Vec<Arrivals<Activations>>,
    checkins: Vec<Arrivals<Checkins>>,
}

/// An intake and its committers. Where the database takes several writers at once, contacts of different devices are committed in
/// `queues` groups beside each other; activations and check-ins lock what they share and stay in one.
pub fn new(queues: usize) -> (Intake, Committers) {
    let (contacts, contact_arrivals) = group(queues);
    let (activations, activation_arrivals) = group(1);
    let (checkins, checkin_arrivals) = group(1);
    let committers = Committers { contacts: contact_arrivals, activations: activation_arrivals, checkins: checkin_arrivals };
    let drill = Arc::new(AtomicUsize::new(usize::MAX));
    (Intake { contacts, activations, checkins, drill, headroom: Arc::default() }, committers)
}

impl Intake {
    /// Hands in a contact; answered after its commit.
    pub async fn contact(&self, contact: Contact) -> Result<Heard> {
        let (class, most) = match (contact.is_idle(), &contact.way) {
            (true, Way::Agent) => ("idle", IDLE_BACKLOG_MAX),
            (true, Way::Mdm(_)) => ("idle_apple", IDLE_APPLE_BACKLOG_MAX),
            (false, _) => ("carrying", CARRYING_BACKLOG_MAX),
        };
        let retry_after_s = spread_s(contact.device_id);
        let most = most.min(self.drill.load(Ordering::Relaxed));
        let came = Instant::now();
        let heard = self.contacts.submit(contact, most, retry_after_s).await;
        self.headroom.contact(came.elapsed());
        shed(class, &heard);
        heard
    }

    /// How much room this server has left for contacts.
    pub fn headroom(&self) -> &Headroom {
        &self.headroom
    }

    /// Sheds contacts already where more than `waiting` wait: for drills of what a storm does.
    pub fn shed_above(&self, waiting: usize) {
        self.drill.store(waiting, Ordering::Relaxed);
    }

    /// Hands in an activation; answered after its commit.
    pub async fn activate(&self, newcomer: Newcomer) -> Result<Admission> {
        let admission = self.activations.submit(newcomer, ACTIVATION_BACKLOG_MAX, RETRY_SPREAD_S).await;
        shed("activation", &admission);
        admission
    }

    /// Hands in a check-in message of an Apple device; answered after its commit.
    pub async fn checkin(&self, arrival: Arrival) -> Result<Answer> {
        let answer = self.checkins.submit(arrival, ACTIVATION_BACKLOG_MAX, RETRY_SPREAD_S).await;
        shed("checkin", &answer);
        answer
    }

    /// Contacts that wait for a commit.
    pub fn backlog(&self) -> usize {
        self.contacts.backlog() + self.activations.backlog() + self.checkins.backlog()
    }
}

fn shed<T>(class: &'static str, outcome: &Result<T>) {
    if matches!(outcome, Err(crate::error::Error::Busy { .. })) {
        metrics::counter!("muster_contacts_shed_total", "class" => class).increment(1);
    }
}

/// Phones that were sent away together do not come back together.
fn spread_s(device: Id) -> i64 {
    5 + i64::from(device.as_bytes()[14]) * RETRY_SPREAD_S / 256
}

impl Committers {
    /// Runs the committers until `drained`; what was taken before is committed first.
    pub fn start(self, app: &App, drained: &CancellationToken, workers: &mut Workers) {
        let Committers { contacts, activations, checkins } = self;
        for queue in contacts {
            let contacts = Contacts { app: app.clone(), seat: Arc::default() };
            workers.spawn("intake", until(drained.clone(), queue.run(contacts)));
        }
        for queue in activations {
            workers.spawn("intake", until(drained.clone(), queue.run(Activations { app: app.clone() })));
        }
        for queue in checkins {
            workers.spawn("intake", until(drained.clone(), queue.run(Checkins { app: app.clone() })));
        }
    }
}

/// Requests hold the other end while they wait, and `drained` comes after the last request: nothing is cut off here.
async fn until(drained: CancellationToken, committer: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        () = committer => {}
        () = drained.cancelled() => {}
    }
    Ok(())
}
