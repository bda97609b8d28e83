//! FCM away for ten minutes, and the way back.

use muster::push::{Answer, Nudge, SenderState};
use muster::sim::fcm::{Fault, Scope, Times};

use crate::support::push::{Fcm, START_MS};

/// Sends nudges one after another until the sender stops taking them; returns how many reached for the wire.
async fn until_it_stops(fcm: &Fcm) -> usize {
    let nudge = fcm.device();
    for tried in 0..200 {
        match fcm.send(&nudge).await {
            Answer::GivenBack { reason, due_ms } if reason == "breaker_open" => {
                assert_eq!(Some(due_ms), fcm.sender.reopens_at_ms());
                return tried;
            }
            Answer::GivenBack { .. } | Answer::Failed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("the breaker never opened");
}

#[tokio::test]
async fn ten_minutes_without_fcm_cost_a_few_requests_and_then_the_ramp_begins_again() {
    let fcm = Fcm::start_impatient(std::time::Duration::from_secs(1)).await;
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);

    // Nobody listens.
    fcm.stand_in.refuse_connections();
    assert!(until_it_stops(&fcm).await <= 21);
    assert_eq!((fcm.sender.status().state, fcm.sender.capacity()), (SenderState::Paused, 0));
    assert_eq!(fcm.sender.reopens_at_ms(), Some(START_MS + 30_000));
    assert_eq!(fcm.sender.status().reason.as_deref(), Some("most requests fail at the provider: connect"));

    // A proxy answers for it.
    fcm.clock.advance(30_000);
    fcm.stand_in.accept_connections().await.unwrap();
    fcm.stand_in.faults().set(Scope::Send, Times::UntilCleared, Fault::html(502));
    assert_eq!(fcm.sender.capacity(), 5, "half-open");
    assert_eq!(until_it_stops(&fcm).await, 1);
    assert_eq!(fcm.sender.reopens_at_ms(), Some(START_MS + 90_000));

    // It takes requests and is silent, for the rest of the ten minutes.
    fcm.stand_in.faults().clear();
    fcm.stand_in.faults().set(Scope::Send, Times::UntilCleared, Fault::Hang);
    let mut waits_s = Vec::new();
    while fcm.clock.now_ms() < START_MS + 600_000 {
        let wait_ms = fcm.sender.reopens_at_ms().unwrap() - fcm.clock.now_ms();
        waits_s.push(wait_ms / 1_000);
        fcm.clock.advance(wait_ms);
        assert_eq!(until_it_stops(&fcm).await, 1);
    }
    assert_eq!(waits_s, [60; 10], "one request a minute finds out");

    // Back: five trials one by one, then the ramp from its foot.
    fcm.stand_in.faults().clear();
    fcm.clock.advance(600_000);
    for _ in 0..5 {
        assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    }
    let status = fcm.sender.status();
    assert_eq!((status.state, status.pace_per_s, status.reason), (SenderState::Ok, 100, None));
    assert!(fcm.sender.capacity() > 0 && fcm.sender.capacity() <= 200, "{}", fcm.sender.capacity());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_spread_by_the_ramp() {
    let fcm = Fcm::start().await;
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    let started = std::time::Instant::now();
    let nudges: Vec<Nudge> = (0..60).map(|_| fcm.device()).collect();
    assert!(fcm.send_all(nudges).await.iter().all(|answer| *answer == Answer::Accepted));
    assert!(started.elapsed().as_millis() >= 500, "100 a second at the foot of the ramp");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_is_dropped_gives_its_place_back() {
    let fcm = Fcm::start().await;
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    fcm.stand_in.faults().set(Scope::Send, Times::UntilCleared, Fault::Hang);
    for _ in 0..10 {
        let dropped = tokio::time::timeout(std::time::Duration::from_millis(20), fcm.send(&fcm.device())).await;
        assert!(dropped.is_err());
    }
    assert_eq!(fcm.sender.status().in_flight, 0);
    fcm.stand_in.faults().clear();
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
}
