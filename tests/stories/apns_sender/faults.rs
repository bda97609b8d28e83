//! APNs at its worst: away, stalled, broken in the middle of an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster::clock::Clock;
use muster::model::Lane;
use muster::push::apns::Settings;
use muster::push::{Answer, Nudge, Sender, SenderState};
use muster::sim::apns::{Fault, Scope, StandIn, Times};

use super::{Apns, TOPIC, all_accepted};
use crate::support::push::{START_MS, eventually, nudge_to};

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
    let (first, rest) = open_ms.split_first().unwrap();
    assert_eq!((*first, rest), (30_000, [60_000; 10].as_slice()), "half-open in between, and each time one trial is enough");
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
        apns.sender.keep_warm();
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

/// A peer on plain HTTP/2 that takes so many streams, and answers each request after a while; with 0 it dismisses whoever comes.
async fn peer(streams: u32) -> (Arc<Sender>, StandIn, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let Ok(mut connection) = builder.max_concurrent_streams(streams.max(1)).handshake::<_, bytes::Bytes>(stream).await else {
                    return;
                };
                if streams == 0 {
                    connection.graceful_shutdown();
                }
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        respond.send_response(http::Response::new(()), true).ok();
                    });
                }
            });
        }
    });
    let clock = Clock::moved(START_MS, 7);
    let stand_in = StandIn::start(clock.clone()).await.unwrap();
    let sender = Sender::apns_app(&Settings { endpoint, ca_file: None }, clock).unwrap();
    sender.replace_credential(&super::app_json(&stand_in)).unwrap();
    (Arc::new(sender), stand_in, came)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_dismissed_without_a_word_comes_back_ever_more_rarely() {
    let (sender, _stand_in, came) = peer(0).await;
    let ends = Instant::now() + Duration::from_secs(4);
    while Instant::now() < ends {
        sender.keep_warm();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One at once, and behind waits of 1, 2 and 4 s.
    let came = came.load(Ordering::SeqCst);
    assert!((1..=4).contains(&came), "{came} connections in four seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_one_stream_is_asked_for_no_more_and_urgent_nudges_still_go_first() {
    let (sender, _stand_in, came) = peer(1).await;
    let nudge = |n: usize, lane| Nudge { lane, ios: true, ..nudge_to(&format!("{n:064x}")) };
    let send = |nudge: Nudge| {
        let sender = sender.clone();
        tokio::spawn(async move { (nudge.lane, sender.send(&nudge).await.answer, Instant::now()) })
    };
    let mut flights: Vec<_> = (0..120).map(|n| send(nudge(n, Lane::Bulk))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    eventually("both connections are open", || came.load(Ordering::SeqCst) >= 2 && sender.status().concurrency_limit <= 2).await;
    // Behind what two streams carry in two seconds.
    assert!(sender.capacity() <= 80, "{}", sender.capacity());
    flights.push(send(nudge(1_000, Lane::Urgent)));
    // As the nudger does it.
    let keeper = tokio::spawn({
        let sender = sender.clone();
        async move {
            loop {
                sender.keep_warm();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    });
    let (mut urgent, mut others) = (None, Vec::new());
    for flight in flights {
        let (lane, answer, at) = tokio::time::timeout(Duration::from_secs(60), flight).await.unwrap().unwrap();
        let is_patient = matches!(&answer, Answer::GivenBack { reason, .. } if reason == "no_stream");
        assert!(is_patient || answer == Answer::Accepted, "{answer:?}");
        match lane {
            Lane::Urgent => urgent = Some((answer, at)),
            _ if answer == Answer::Accepted => others.push(at),
            _ => {}
        }
    }
    keeper.abort();
    let (answer, at) = urgent.unwrap();
    assert_eq!(answer, Answer::Accepted);
    let behind = others.iter().filter(|other| **other > at).count();
    assert!(behind * 2 > others.len(), "{behind} of {} came behind the urgent one", others.len());
    assert!(came.load(Ordering::SeqCst) > 2, "where all streams are taken for long there are more connections");
}
