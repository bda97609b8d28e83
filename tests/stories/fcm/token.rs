//! The access token and the service account behind it.

use muster::push::{Answer, Notice, Nudge, SenderState};
use muster::sim::fcm::{Fault, Scope, Times};

use crate::support::push::{Fcm, START_MS, eventually};

async fn send_many(fcm: &Fcm, count: usize) {
    let nudges: Vec<Nudge> = (0..count).map(|_| fcm.device()).collect();
    for answer in fcm.send_all(nudges).await {
        assert_eq!(answer, Answer::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_sends_at_once_fetch_one_token() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::OAuth, Times::Next(1), Fault::Slow(100));
    send_many(&fcm, 200).await;
    assert_eq!(fcm.stand_in.counts().token_requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_replaced_once_for_all() {
    let fcm = Fcm::start().await;
    send_many(&fcm, 1).await;
    fcm.stand_in.revoke_access_tokens();
    send_many(&fcm, 200).await;
    assert_eq!(fcm.stand_in.counts().tokens_granted, 2);
    assert_eq!(fcm.sender.take_notices(), []);
}

#[tokio::test]
async fn a_second_refusal_in_a_row_is_a_fault_of_the_account() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::Send, Times::Next(2), Fault::unauthenticated());
    assert_eq!(fcm.send(&fcm.device()).await, Answer::GivenBack { reason: "UNAUTHENTICATED".into(), due_ms: START_MS });
    assert_eq!(fcm.stand_in.counts().tokens_granted, 2);
    assert!(matches!(&fcm.sender.take_notices()[..], [Notice::Fault { code, .. }] if code == "UNAUTHENTICATED"));
    fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::unauthenticated());
    fcm.clock.advance(60_000);
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted, "one refusal is made good at once");
}

#[tokio::test]
async fn the_old_token_serves_while_a_new_one_is_fetched() {
    let fcm = Fcm::start().await;
    send_many(&fcm, 1).await;
    fcm.clock.advance(2_900_000);
    assert_eq!(fcm.sender.status().token_age_s, Some(2_900));
    fcm.stand_in.faults().set(Scope::OAuth, Times::Next(1), Fault::Slow(1_500));
    send_many(&fcm, 5).await;
    assert_eq!(fcm.stand_in.counts().tokens_granted, 1, "nobody waited");
    eventually("the renewal", || fcm.stand_in.counts().tokens_granted == 2).await;
    eventually("the young token", || fcm.sender.status().token_age_s == Some(0)).await;
    assert_eq!(fcm.stand_in.counts().token_requests, 2);
}

#[tokio::test]
async fn tokens_that_live_a_second_are_fetched_each_second() {
    let fcm = Fcm::start().await;
    fcm.stand_in.set_token_life_s(1);
    for nth in 1..=3 {
        send_many(&fcm, 3).await;
        assert_eq!(fcm.stand_in.counts().tokens_granted, nth);
        fcm.clock.advance(1_000);
    }
}

#[tokio::test]
async fn a_token_endpoint_in_trouble_costs_no_attempt() {
    for fault in [Fault::empty(500), Fault::html(503), Fault::html(200), Fault::Close] {
        let fcm = Fcm::start().await;
        fcm.stand_in.faults().set(Scope::OAuth, Times::Next(1), fault);
        let answer = fcm.send(&fcm.device()).await;
        assert!(matches!(&answer, Answer::GivenBack { reason, .. } if reason.starts_with("oauth_")), "{answer:?}");
        assert_eq!(fcm.sender.status().state, SenderState::Ok);
        fcm.clock.advance(2_000);
        send_many(&fcm, 1).await;
    }
}

#[tokio::test]
async fn an_account_that_google_refuses_is_a_fault_until_another_takes_its_place() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::OAuth, Times::UntilCleared, Fault::invalid_grant());
    assert!(matches!(fcm.send(&fcm.device()).await, Answer::GivenBack { reason, .. } if reason == "invalid_grant"));
    let status = fcm.sender.status();
    assert_eq!(status.state, SenderState::Fault);
    assert!(status.reason.unwrap().contains("Invalid JWT Signature."));
    fcm.stand_in.faults().clear();
    assert!(fcm.sender.replace_credential(b"{}").is_err());
    assert_eq!(fcm.sender.capacity(), 0, "a bad file changes nothing");
    fcm.sender.replace_credential(&fcm.stand_in.service_account()).unwrap();
    send_many(&fcm, 1).await;
    assert!(fcm.sender.take_notices().contains(&Notice::Recovered));
}

#[tokio::test]
async fn a_clock_that_is_two_hours_off_is_told_as_a_fault() {
    let fcm = Fcm::start().await;
    let behind = muster::clock::Clock::moved(START_MS - 7_200_000, 1);
    let settings = muster::push::fcm::Settings { endpoint: fcm.stand_in.endpoint(), ..Default::default() };
    let sender = muster::push::Sender::fcm(settings, behind).unwrap();
    sender.replace_credential(&fcm.stand_in.service_account()).unwrap();
    assert!(matches!(sender.send(&fcm.device()).await.answer, Answer::GivenBack { reason, .. } if reason == "invalid_grant"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_replaced_while_requests_are_under_way() {
    let fcm = Fcm::start().await;
    fcm.stand_in.set_answer_delay_ms(300);
    let under_way = {
        let (sender, nudge) = (fcm.sender.clone(), fcm.device());
        tokio::spawn(async move { sender.send(&nudge).await.answer })
    };
    eventually("the first request", || fcm.stand_in.counts().requests == 2).await;
    fcm.sender.replace_credential(&fcm.stand_in.service_account_of("another-project")).unwrap();
    assert_eq!(fcm.sender.status().project_id.as_deref(), Some("another-project"));
    assert_eq!(under_way.await.unwrap(), Answer::Accepted, "it finished with the old one");
    fcm.stand_in.register_as("other:token", "another-project", None);
    assert_eq!(fcm.send(&crate::support::push::nudge_to("other:token")).await, Answer::Accepted);
}

#[tokio::test]
async fn without_a_credential_nothing_is_sent() {
    let settings = muster::push::fcm::Settings { endpoint: "http://127.0.0.1:9".into(), ..Default::default() };
    let sender = muster::push::Sender::fcm(settings, muster::clock::Clock::moved(START_MS, 1)).unwrap();
    assert_eq!((sender.name(), sender.status().state, sender.capacity()), ("fcm", SenderState::Unconfigured, 0));
    let nudge = crate::support::push::nudge_to("a:b");
    assert_eq!(sender.send(&nudge).await.answer, Answer::GivenBack { reason: "unconfigured".into(), due_ms: START_MS + 60_000 });
}

#[tokio::test]
async fn no_secret_shows_in_debug() {
    let fcm = Fcm::start().await;
    let nudge = fcm.device();
    fcm.send(&nudge).await;
    let shown = format!("{:?} {:?} {:?}", fcm.sender, fcm.sender.status(), nudge);
    assert!(!shown.contains("ya29") && !shown.contains("PRIVATE") && !shown.contains(&nudge.address.value), "{shown}");
}
