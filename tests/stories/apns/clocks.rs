//! Clocks that differ: Apple judges provider tokens by its own.

use std::collections::HashSet;

use muster::clock::Clock;
use muster::sim::apns::StandIn;

use crate::support::apns::{Apns, GAP_MS};
use crate::support::apple::TOPIC;
use crate::support::server::START_MS;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A server whose clock is START, and Apple's clock that is so far ahead of it.
async fn apart(ahead_ms: i64) -> (Apns, Clock) {
    let apples = Clock::moved(START_MS + ahead_ms, 9);
    let apns = StandIn::start(apples.clone()).await.unwrap();
    let certificate = apns.issue_certificate_until(TOPIC, START_MS + 300 * 86_400_000).unwrap();
    (Apns::start_with(Clock::moved(START_MS, 7), apns, certificate).await, apples)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_two_hours_behind_or_ahead_stops_the_app_sender_alone_and_the_right_time_mends_it() {
    for ahead_ms in [2 * HOUR_MS, -2 * HOUR_MS] {
        let (world, apples) = apart(ahead_ms).await;
        let mut phone = world.iphone("app").await;
        let mut managed = world.managed("MDM").await;
        world.server.advance(MINUTE_MS);
        world.locate(&[&phone.device.id, &managed.id]).await;
        world.server.until("the fault", async || world.sender("apns_app").await["state"] == "fault").await;
        world.server.until("an alarm", async || world.open_alarms().await.contains(&"push_fault".to_owned())).await;
        let push = tokio::time::timeout(std::time::Duration::from_secs(60), managed.pushes.recv()).await.unwrap();
        assert!(push.is_some(), "a certificate does not look at the clock so closely");
        assert_eq!(world.push_state(&phone.device.id).await, "active");
        // Whichever clock was wrong is set right.
        if ahead_ms > 0 {
            world.server.advance(ahead_ms);
        } else {
            apples.advance(-ahead_ms);
        }
        world.nudged_after_ms(&mut phone, 30_000, HOUR_MS).await;
        world.server.until("the alarm's end", async || world.open_alarms().await.is_empty()).await;
        world.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_under_a_burst_is_minted_anew_exactly_once_and_every_phone_is_called() {
    let (world, apples) = apart(35 * MINUTE_MS).await;
    let mut phones = world.iphones(200).await;
    world.apns.capture(true);
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    // Half an hour on, the server takes its token for young; by Apple's clock it has lived for an hour and five minutes.
    world.server.advance(GAP_MS + 10 * MINUTE_MS);
    apples.advance(GAP_MS + 10 * MINUTE_MS);
    world.apns.set_answer_delay_ms(20);
    world.order("message", &phones.iter().map(|phone| phone.device.id.as_str()).collect::<Vec<_>>()).await;
    world.each_is_reached(&mut phones).await;
    let captured = world.apns.take_captured();
    let tokens: HashSet<&str> = captured.iter().filter_map(|request| request.header("authorization")).collect();
    assert_eq!(tokens.len(), 2, "the first token and one more");
    assert_eq!(world.sender("apns_app").await["state"], "ok");
    assert_eq!(world.open_alarms().await, <[String; 0]>::default());
    world.server.stop().await;
}
