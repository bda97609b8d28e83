//! Each row of FCM's table of answers, and what a broken answer does.

use std::time::Duration;

use muster::push::{Answer, Notice, Nudge, SenderState};
use muster::sim::fcm::{Fault, Scope, Times};

use crate::support::push::{Fcm, START_MS, nudge_to};

/// Sends one nudge to a sender of its own while FCM answers with `fault`.
async fn answer_to(fault: Fault) -> (Answer, Fcm) {
    let fcm = Fcm::start().await;
    let nudge = fcm.device();
    assert_eq!(fcm.send(&nudge).await, Answer::Accepted);
    fcm.stand_in.faults().set(Scope::Send, Times::Next(1), fault);
    (fcm.send(&nudge).await, fcm)
}

fn failed(reason: &str, retry_after_ms: i64) -> Answer {
    Answer::Failed { reason: reason.into(), retry_after_ms: Some(retry_after_ms) }
}

#[tokio::test]
async fn a_device_that_is_gone_is_dead_and_one_that_looks_wrong_is_suspect() {
    for (fault, expected) in [
        (Fault::unregistered(), Answer::Dead { reason: "UNREGISTERED".into() }),
        (Fault::invalid_token(), Answer::Suspect { reason: "INVALID_ARGUMENT".into() }),
        (Fault::sender_id_mismatch(), Answer::Suspect { reason: "SENDER_ID_MISMATCH".into() }),
    ] {
        let (answer, fcm) = answer_to(fault).await;
        assert_eq!(answer, expected);
        assert_eq!(fcm.sender.status().state, SenderState::Ok);
        assert_eq!(fcm.sender.take_notices(), []);
    }
}

#[tokio::test]
async fn without_any_fault_set_the_service_judges_addresses_by_itself() {
    let fcm = Fcm::start().await;
    let nudge = fcm.device();
    let fresh = fcm.stand_in.rotate(&nudge.address.value).unwrap();
    assert_eq!(fcm.send(&nudge).await, Answer::Dead { reason: "UNREGISTERED".into() });
    assert_eq!(fcm.send(&nudge_to(&fresh)).await, Answer::Accepted);
    assert_eq!(fcm.send(&nudge_to("not a token")).await, Answer::Suspect { reason: "INVALID_ARGUMENT".into() });
    fcm.stand_in.register_as("other:token", "another-project", None);
    assert_eq!(fcm.send(&nudge_to("other:token")).await, Answer::Suspect { reason: "SENDER_ID_MISMATCH".into() });
}

#[tokio::test]
async fn trouble_at_the_provider_counts_as_an_attempt_and_waits_at_least_ten_seconds() {
    for (fault, expected) in [
        (Fault::internal(), failed("INTERNAL", 10_000)),
        (Fault::unavailable(None), failed("UNAVAILABLE", 10_000)),
        (Fault::unavailable(Some("120")), failed("UNAVAILABLE", 120_000)),
        (Fault::html(502), failed("HTTP_5XX", 10_000)),
        (Fault::html(503), failed("UNAVAILABLE", 10_000)),
        (Fault::html(200), failed("html", 10_000)),
        (Fault::empty(500), failed("HTTP_5XX", 10_000)),
        (Fault::truncated(500), failed("HTTP_5XX", 10_000)),
        (Fault::huge(500), failed("HTTP_5XX", 10_000)),
        (Fault::Cut(500), failed("HTTP_5XX", 10_000)),
        (Fault::Close, failed("connection_lost", 10_000)),
        (Fault::Reset, failed("connection_lost", 10_000)),
    ] {
        let shown = format!("{fault:?}");
        let (answer, fcm) = answer_to(fault).await;
        assert_eq!(answer, expected, "{}", &shown[..shown.len().min(100)]);
        assert_eq!(fcm.sender.take_notices(), []);
    }
}

#[tokio::test]
async fn what_fcm_took_is_accepted_however_its_answer_ends() {
    for fault in [Fault::empty(200), Fault::truncated(200), Fault::huge(200), Fault::Cut(200), Fault::Slow(50)] {
        assert_eq!(answer_to(fault).await.0, Answer::Accepted);
    }
}

#[tokio::test]
async fn a_project_at_fault_stops_the_sender_and_loses_neither_nudge_nor_address() {
    for (fault, code) in [
        (Fault::permission_denied(), "PERMISSION_DENIED"),
        (Fault::project_not_found(), "NOT_FOUND"),
        (Fault::html(404), "NOT_FOUND"),
        (Fault::empty(403), "PERMISSION_DENIED"),
        (Fault::html(302), "REDIRECT"),
    ] {
        let (answer, fcm) = answer_to(fault).await;
        // Due at once, for whoever mends it; the sender itself claims nothing before its probe.
        assert_eq!(answer, Answer::GivenBack { reason: code.into(), due_ms: START_MS });
        assert!(matches!(&fcm.sender.take_notices()[..], [Notice::Fault { code: told, .. }] if told == code));
        assert_eq!((fcm.sender.status().state, fcm.sender.capacity()), (SenderState::Fault, 0));
        assert_eq!(fcm.sender.reopens_at_ms(), Some(START_MS + 60_000));
        let nudge = fcm.device();
        assert_eq!(fcm.send(&nudge).await, Answer::GivenBack { reason: "fault".into(), due_ms: START_MS });
        // A minute later one probe goes out; it finds the project mended.
        fcm.clock.advance(60_000);
        assert_eq!(fcm.sender.capacity(), 1);
        assert_eq!(fcm.send(&nudge).await, Answer::Accepted);
        assert_eq!(fcm.sender.take_notices(), [Notice::Recovered]);
        assert_eq!(fcm.sender.status().state, SenderState::Ok);
    }
}

#[tokio::test]
async fn a_bridge_at_fault_stops_ios_apps_only() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::third_party_auth());
    let ios = Nudge { ios: true, ..fcm.device() };
    let back = Answer::GivenBack { reason: "THIRD_PARTY_AUTH_ERROR".into(), due_ms: START_MS + 60_000 };
    assert_eq!(fcm.send(&ios).await, back);
    assert!(matches!(fcm.send(&ios).await, Answer::GivenBack { .. }));
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    let status = fcm.sender.status();
    assert!(matches!(&fcm.sender.take_notices()[..], [Notice::Fault { code, .. }] if code == "THIRD_PARTY_AUTH_ERROR"));
    assert_eq!(status.state, SenderState::Ok);
    assert!(status.bridge_fault.unwrap().contains("THIRD_PARTY_AUTH_ERROR"));
    fcm.clock.advance(60_000);
    assert_eq!(fcm.send(&ios).await, Answer::Accepted);
    assert_eq!(fcm.sender.status().bridge_fault, None);
}

#[tokio::test]
async fn a_request_that_fcm_calls_malformed_is_our_bug_and_blames_no_device() {
    for fault in [Fault::invalid_argument(), Fault::empty(400), Fault::html(413)] {
        let (answer, fcm) = answer_to(fault).await;
        assert!(matches!(answer, Answer::GivenBack { .. }), "{answer:?}");
        assert!(matches!(&fcm.sender.take_notices()[..], [Notice::Bug { .. }]));
        assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    }
}

#[tokio::test]
async fn requests_called_malformed_one_after_the_other_stop_the_sender_until_one_is_taken() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::Send, Times::Next(9), Fault::invalid_argument());
    let mut device = fcm.device();
    // One phone's may be a matter of that phone.
    for n in [1, 1, 1, 1, 2, 3, 4, 5] {
        if n > 1 {
            device = fcm.device();
        }
        let wait_ms = if n < 5 { 600_000 } else { 0 };
        assert_eq!(fcm.send(&device).await, Answer::GivenBack { reason: "INVALID_ARGUMENT".into(), due_ms: START_MS + wait_ms });
    }
    assert_eq!(fcm.send(&device).await, Answer::GivenBack { reason: "fault".into(), due_ms: START_MS }, "nothing leaves");
    assert_eq!((fcm.sender.capacity(), fcm.sender.status().state), (0, SenderState::Fault));
    assert!(fcm.sender.fault().unwrap().starts_with("request_refused: "));
    assert!(matches!(&fcm.sender.take_notices()[..], [Notice::Bug { .. }, Notice::Fault { code, .. }] if code == "request_refused"));
    // A probe that is called malformed too doubles the wait, and another nudge is the next; one that is taken ends the fault.
    fcm.clock.advance(60_000);
    let next_ms = fcm.clock.now_ms() + 120_000;
    assert_eq!(fcm.send(&device).await, Answer::GivenBack { reason: "INVALID_ARGUMENT".into(), due_ms: next_ms + 60_000 });
    fcm.clock.advance(60_000);
    assert_eq!(fcm.sender.capacity(), 0);
    fcm.clock.advance(60_000);
    assert_eq!(fcm.send(&device).await, Answer::Accepted);
    assert_eq!((fcm.sender.take_notices(), fcm.sender.fault()), (vec![Notice::Recovered], None));
}

#[tokio::test]
async fn what_could_not_be_heeded_is_told_again_and_first() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::permission_denied());
    fcm.send(&fcm.device()).await;
    let told = fcm.sender.take_notices();
    assert!(matches!(&told[..], [Notice::Fault { .. }]));
    fcm.clock.advance(60_000);
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    fcm.sender.put_back(told.clone().into_iter());
    assert_eq!(fcm.sender.take_notices(), [told[0].clone(), Notice::Recovered]);
}

#[tokio::test]
async fn each_form_of_retry_after_pauses_the_sender_for_as_long() {
    for (value, wait_ms) in [
        (Some("30"), 30_000),
        (Some("Fri, 15 Jan 2027 08:02:00 GMT"), 120_000),
        (None, 60_000),
        (Some("-7"), 60_000),
        (Some("1000000000"), 3_600_000),
    ] {
        let (answer, fcm) = answer_to(Fault::quota(value)).await;
        assert_eq!(answer, failed("QUOTA_EXCEEDED", wait_ms), "{value:?}");
        let reopens_ms = fcm.sender.reopens_at_ms().unwrap() - START_MS;
        assert!((wait_ms..=wait_ms + wait_ms / 10).contains(&reopens_ms), "{value:?}: {reopens_ms}");
        assert_eq!((fcm.sender.status().state, fcm.sender.capacity()), (SenderState::Paused, 0));
        assert!(matches!(fcm.send(&fcm.device()).await, Answer::GivenBack { reason, .. } if reason == "paused"));
        fcm.clock.advance(wait_ms + wait_ms / 10);
        assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_come_together_are_one_and_the_next_doubles_the_pause() {
    let fcm = Fcm::start().await;
    fcm.stand_in.set_answer_delay_ms(300);
    let tenth = |wait_ms: i64| wait_ms..=wait_ms + wait_ms / 10;
    for wait_ms in [60_000, 120_000, 240_000] {
        fcm.stand_in.faults().set(Scope::Send, Times::Next(2), Fault::quota(None));
        let nudges: Vec<Nudge> = (0..2).map(|_| fcm.device()).collect();
        for answer in fcm.send_all(nudges).await {
            assert_eq!(answer, failed("QUOTA_EXCEEDED", wait_ms));
        }
        let pause_ms = fcm.sender.reopens_at_ms().unwrap() - fcm.clock.now_ms();
        assert!(tenth(wait_ms).contains(&pause_ms), "{wait_ms}: {pause_ms}");
        fcm.clock.advance(pause_ms);
    }
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::quota(None));
    assert_eq!(fcm.send(&fcm.device()).await, failed("QUOTA_EXCEEDED", 60_000), "a success in between begins anew");
}

#[tokio::test]
async fn too_much_for_one_device_makes_that_device_wait_and_no_other() {
    for (value, wait_ms) in [(None, 60_000), (Some("5"), 60_000), (Some("300"), 300_000)] {
        let (answer, fcm) = answer_to(Fault::device_quota(value)).await;
        assert_eq!(answer, failed("QUOTA_EXCEEDED", wait_ms));
        assert_eq!(fcm.sender.reopens_at_ms(), None);
        assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    }
}

#[tokio::test]
async fn a_peer_that_takes_the_request_and_never_answers_times_out() {
    let fcm = Fcm::start_impatient(Duration::from_secs(1)).await;
    assert_eq!(fcm.send(&fcm.device()).await, Answer::Accepted);
    let limit = fcm.sender.status().concurrency_limit;
    fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::Hang);
    let answer = tokio::time::timeout(Duration::from_secs(60), fcm.send(&fcm.device())).await.unwrap();
    assert_eq!(answer, failed("timeout", 10_000));
    assert_eq!(fcm.sender.status().concurrency_limit, limit / 2);
}

#[tokio::test]
async fn a_mass_death_stops_the_sender_and_loses_no_address() {
    let fcm = Fcm::start().await;
    fcm.stand_in.faults().set(Scope::Send, Times::UntilCleared, Fault::sender_id_mismatch());
    let nudges: Vec<Nudge> = (0..300).map(|_| fcm.device()).collect();
    let mut suspects = 0;
    for nudge in &nudges {
        match fcm.send(nudge).await {
            Answer::Suspect { .. } => suspects += 1,
            Answer::GivenBack { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(suspects, 20, "the twenty-first is believed no more");
    let notices = fcm.sender.take_notices();
    assert!(notices.contains(&Notice::MassDeath { since_ms: START_MS }), "{notices:?}");
    assert!(notices.iter().any(|notice| matches!(notice, Notice::Fault { code, .. } if code == "mass_death")));
    // A probe that is called wrong as well proves nothing.
    fcm.clock.advance(60_000);
    assert!(matches!(fcm.send(&nudges[0]).await, Answer::GivenBack { .. }));
    assert_eq!(fcm.sender.reopens_at_ms(), Some(START_MS + 180_000));
    assert_eq!(fcm.sender.take_notices(), [Notice::MassDeath { since_ms: START_MS }], "once more, for answers that were under way");
    fcm.stand_in.faults().clear();
    fcm.clock.advance(120_000);
    assert_eq!(fcm.send(&nudges[0]).await, Answer::Accepted);
    assert_eq!(fcm.sender.take_notices(), [Notice::Recovered]);
}

#[tokio::test]
async fn a_request_that_fcm_takes_for_another_phone_is_no_bug_of_ours_and_the_trial_reaches_nobody() {
    let fcm = Fcm::start().await;
    let good = fcm.device();
    let mut phone = fcm.stand_in.connect(&good.address.value);
    assert_eq!(fcm.send(&good).await, Answer::Accepted);
    phone.recv().await.unwrap();
    fcm.stand_in.capture(true);
    for n in 0..3 {
        let bad = fcm.device();
        fcm.stand_in.faults().set(Scope::Address(bad.address.value.clone()), Times::Next(1), Fault::invalid_argument());
        assert_eq!(fcm.send(&bad).await, Answer::Suspect { reason: "INVALID_ARGUMENT".into() }, "{n}");
    }
    let bodies: Vec<serde_json::Value> =
        fcm.stand_in.take_captured().iter().filter_map(|request| serde_json::from_slice(&request.body).ok()).collect();
    let trials: Vec<_> = bodies.iter().filter(|body| body["validate_only"] == true).collect();
    assert_eq!(trials.len(), 1, "what it showed holds for a minute: {bodies:?}");
    assert_eq!(trials[0]["message"]["token"], good.address.value.as_str());
    assert!(phone.try_recv().is_err(), "a trial is not delivered");
    assert_eq!((fcm.sender.take_notices(), fcm.sender.status().state), (vec![], SenderState::Ok));
    // Called malformed for the other phone too, it is ours.
    fcm.clock.advance(60_000);
    assert_eq!(fcm.send(&good).await, Answer::Accepted);
    fcm.stand_in.faults().set(Scope::Send, Times::Next(2), Fault::invalid_argument());
    assert!(matches!(fcm.send(&fcm.device()).await, Answer::GivenBack { reason, .. } if reason == "INVALID_ARGUMENT"));
    assert!(matches!(&fcm.sender.take_notices()[..], [Notice::Bug { .. }]));
}
