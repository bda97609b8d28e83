//! APNs at its worst: away, stalled, broken in the middle of an answer.

use std::time::{Duration, Instant};

use muster::push::{Answer, SenderState};
use muster::sim::apns::{Fault, Scope, Times};

use super::{Apns, TOPIC, all_accepted};
use crate::support::push::{START_MS, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn ten_minutes_without_apns_cost_a_few_tries_and_then_the_ramp_begins_again() {
    let apns = Apns::mdm().await;
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
    apns.stand_in.refuse_connections();
    let mut open_ms = Vec::new();
    // Nobody listens for ten minutes: whoever is sent finds out in the end, and the sender takes less and less.
    while apns.clock.now_ms() < START_MS + 600_000 {
        let mut tried = 0;
        while apns.sender.reopens_at_ms().is_none() {
            let answer = apns.send(&apns.device()).await;
            assert!(matches!(answer, Answer::GivenBack { .. } | Answer::Failed { .. }), "{answer:?}");
            tried += 1;
            assert!(tried <= 25, "the breaker never opened");
        }
        assert_eq!((apns.sender.status().state, apns.sender.capacity()), (SenderState::Paused, 0));
        let wait_ms = apns.sender.reopens_at_ms().unwrap() - apns.clock.now_ms();
        open_ms.push(wait_ms);
        apns.clock.advance(wait_ms);
    }
    assert_eq!(open_ms, [30_000, 60_000, 120_000, 240_000, 480_000], "half-open in between, and each time one trial is enough");
    // Back: five trials one by one, then the ramp from its foot.
    apns.stand_in.accept_connections().await.unwrap();
    let mut accepted = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    while accepted < 5 {
        assert!(Instant::now() < deadline, "it never came back");
        assert!(apns.sender.capacity() <= 5, "half-open");
        match apns.send(&apns.device()).await {
            Answer::Accepted => accepted += 1,
            // The pool rests after its last failure, by the real clock, and the breaker with it.
            _ => apns.clock.advance(apns.sender.reopens_at_ms().map_or(0, |at_ms| at_ms - apns.clock.now_ms())),
        }
    }
    let status = apns.sender.status();
    assert_eq!((status.state, status.pace_per_s), (SenderState::Ok, 100));
    assert!((1..=200).contains(&apns.sender.capacity()), "{}", apns.sender.capacity());
    let started = Instant::now();
    assert!(all_accepted(&apns.send_many(60).await));
    assert!(started.elapsed() >= Duration::from_millis(500), "100 a second at the foot of the ramp: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_window_holds_up_those_on_its_connection_alone_and_no_longer_than_an_answer_may_take() {
    let apns = Apns::start(TOPIC, Duration::from_secs(3)).await;
    assert!(all_accepted(&apns.send_many(50).await));
    eventually("both connections are open", || apns.stand_in.counts().connections >= 2).await;
    apns.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::Stall);
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted, "the window stalls behind it");
    let answers = apns.send_many(200).await;
    let late = answers.iter().filter(|answer| **answer == Answer::Failed { reason: "timeout".into(), retry_after_ms: Some(10_000) });
    let (late, accepted) = (late.count(), answers.iter().filter(|answer| **answer == Answer::Accepted).count());
    assert_eq!(late + accepted, 200, "{answers:?}");
    assert!(late > 0, "nothing went where the window had stalled");
    assert!(late <= 30, "{late} of 200 on a connection that takes no more than it has answered");
    // Nothing leaves on it any more.
    assert!(all_accepted(&apns.send_many(50).await));
}

#[tokio::test]
async fn a_stream_that_is_reset_after_the_head_of_a_200_was_accepted_and_others_failed() {
    let apns = Apns::mdm().await;
    assert_eq!(apns.answer_to(Fault::ResetAfterHeaders(200)).await, Answer::Accepted);
    for status in [400, 410, 500, 503] {
        let answer = apns.answer_to(Fault::ResetAfterHeaders(status)).await;
        assert!(!matches!(answer, Answer::Accepted | Answer::Dead { .. }), "{status}: {answer:?}");
    }
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_that_could_not_be_opened_is_no_outage() {
    let apns = Apns::mdm().await;
    apns.stand_in.refuse_connections();
    let waiting = tokio::spawn({
        let (sender, nudge) = (apns.sender.clone(), apns.device());
        async move { sender.send(&nudge).await.answer }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    apns.stand_in.accept_connections().await.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap(), Answer::Accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_open_before_there_is_anything_to_send_and_are_opened_again_when_they_end() {
    let apns = Apns::mdm().await;
    let looked = || {
        apns.sender.capacity();
        apns.stand_in.counts().connections
    };
    eventually("two are open", || looked() >= 2).await;
    assert_eq!(apns.stand_in.counts().requests, 0);
    apns.stand_in.refuse_connections();
    apns.stand_in.accept_connections().await.unwrap();
    eventually("two more", || looked() >= 4).await;
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
    assert_eq!(apns.stand_in.counts().connections, 4, "it went on one of them");
}

#[tokio::test]
async fn words_that_apple_has_not_described_are_kept_whatever_their_status() {
    let apns = Apns::mdm().await;
    for (status, reason) in [(500, "NewFiveHundred"), (429, "SlowerPlease"), (410, "GoneFishing"), (400, "NotLikeThis")] {
        apns.answer_to(Fault::reason(status, reason)).await;
        assert_eq!(apns.sender.status().strange_answer, Some(format!("{status}: {reason}")));
    }
}
