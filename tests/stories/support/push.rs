//! Senders, stand-ins and nudges as values.

use std::sync::Arc;
use std::time::Duration;

use muster::clock::Clock;
use muster::model::{Id, Lane};
use muster::push::fcm::Settings;
use muster::push::{Address, AddressKind, Answer, Nudge, Sender};
use muster::sim::fcm::StandIn;

/// A round date in 2027, so that nothing depends on today's.
pub const START_MS: i64 = 1_800_000_000_000;

/// An FCM stand-in with a sender that uses it, both on one clock that the test moves.
pub struct Fcm {
    pub clock: Clock,
    pub stand_in: StandIn,
    pub sender: Arc<Sender>,
}

impl Fcm {
    pub async fn start() -> Fcm {
        Fcm::start_impatient(Duration::from_secs(20)).await
    }

    /// With a sender that waits for each answer no longer than `timeout`.
    pub async fn start_impatient(timeout: Duration) -> Fcm {
        let clock = Clock::moved(START_MS, 7);
        let stand_in = StandIn::start(clock.clone()).await.unwrap();
        let settings = Settings { endpoint: stand_in.endpoint(), ..Settings::default() };
        let sender = Sender::fcm_within(settings, timeout, clock.clone()).unwrap();
        sender.replace_credential(&stand_in.service_account()).unwrap();
        Fcm { clock, stand_in, sender: Arc::new(sender) }
    }

    /// Registers a device and returns a nudge to it.
    pub fn device(&self) -> Nudge {
        nudge_to(&self.stand_in.register())
    }

    pub async fn send(&self, nudge: &Nudge) -> Answer {
        self.sender.send(nudge).await.answer
    }

    /// Sends all at once and returns the answers in the same order.
    pub async fn send_all(&self, nudges: Vec<Nudge>) -> Vec<Answer> {
        let sends = nudges.into_iter().map(|nudge| {
            let sender = self.sender.clone();
            tokio::spawn(async move { sender.send(&nudge).await.answer })
        });
        let mut answers = Vec::new();
        for send in sends.collect::<Vec<_>>() {
            answers.push(send.await.unwrap());
        }
        answers
    }
}

/// An urgent nudge of an Android agent, kept for a week.
pub fn nudge_to(token: &str) -> Nudge {
    Nudge {
        channel_id: Id::derived(START_MS, Id::v7(START_MS, [3; 10]), &[token]),
        address: Address { kind: AddressKind::Token, value: token.into() },
        app: "org.example.agent".into(),
        ios: false,
        lane: Lane::Urgent,
        high: true,
        expires_at_ms: START_MS + 604_800_000,
        again: false,
        registered_at_ms: START_MS,
    }
}

/// Waits until `condition` holds; fails after a minute.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
