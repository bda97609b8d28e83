//! How many streams APNs lets a client have.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use muster::sim::apns::{Fault, Scope, Times};
use serde_json::json;

use crate::support::apns::{APP, Apns, GAP_MS, IPhone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_connection_has_one_stream_until_a_token_is_accepted_and_no_nudge_is_refused_for_it() {
    let world = Apns::start().await;
    let mut phones = world.iphones(30).await;
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    // A phone may hear of its push before the stand-in has counted it.
    world.server.until("all are counted", async || world.apns.counts().accepted == 30).await;
    assert_eq!(world.apns.counts().refused_streams, 0);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_that_takes_the_streams_away_costs_the_other_phones_no_attempt() {
    let world = Apns::start().await;
    let mut phones = world.iphones(30).await;
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    world.server.advance(GAP_MS);
    world.apns.set_answer_delay_ms(50);
    let bad = phones.remove(7);
    let fault = Fault::reason(400, "BadDeviceToken");
    world.apns.faults().set(Scope::Token(bad.device.push.clone()), Times::UntilCleared, fault);
    let mut devices: Vec<&str> = phones.iter().map(|phone| phone.device.id.as_str()).collect();
    devices.insert(7, &bad.device.id);
    world.server.post("/jobs", json!({"kind": "locate", "target": {"devices": devices}})).await.expect(202);
    // The clock stands still: a counted attempt would have to wait for it.
    world.each_is_nudged(&mut phones).await;
    world.server.until("the bad token is set aside", async || world.push_state(&bad.device.id).await == "quarantined").await;
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_falls_to_one_and_rises_again_all_the_time_loses_none_of_hundreds_of_nudges_and_is_never_exceeded() {
    const PHONES: usize = 400;
    /// Fewer than the guard against mass deaths would believe.
    const BAD: usize = 16;
    let world = Apns::start().await;
    let mut phones: Vec<IPhone> =
        stream::iter(0..PHONES).map(async |n| world.iphone(&format!("iphone-{n}")).await).buffer_unordered(16).collect().await;
    // From one stream to a thousand, with everybody due.
    world.apns.set_answer_delay_ms(20);
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    assert_eq!(world.apns.counts().refused_streams, 0);
    // Each of the bad ones takes the streams away from those around it, until the next good one.
    world.server.advance(GAP_MS);
    let bad: Vec<IPhone> = (0..BAD).map(|n| phones.remove(n * 20 + 10)).collect();
    for phone in &bad {
        let fault = Fault::reason(400, "BadDeviceToken");
        world.apns.faults().set(Scope::Token(phone.device.push.clone()), Times::UntilCleared, fault);
    }
    let everybody: Vec<&str> = phones.iter().chain(&bad).map(|phone| phone.device.id.as_str()).collect();
    let job = world.server.post("/jobs", json!({"kind": "locate", "target": {"devices": everybody}})).await.expect(202);
    // The clock stands still: an attempt that was counted would have to wait for it.
    world.each_is_nudged(&mut phones).await;
    for phone in &bad {
        world.server.until("each bad token is set aside", async || world.push_state(&phone.device.id).await == "quarantined").await;
    }
    let counts = world.apns.counts();
    assert!(counts.refused_streams > 0, "the streams were taken away under way: {counts:?}");
    assert_eq!(counts.over_limit, 0, "{counts:?}");
    assert_eq!(world.sender("apns_app").await["state"], "ok");
    assert_eq!(job["tasks"], PHONES);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nudge_says_nothing_and_follows_apples_rules() {
    let world = Apns::start().await;
    world.apns.capture(true);
    let mut phones = world.iphones(1).await;
    let mut managed = world.managed("MDM").await;
    world.apns.take_captured();
    world.server.advance(60_000);
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    world.locate(&[&managed.id]).await;
    let push = tokio::time::timeout(Duration::from_secs(60), managed.pushes.recv()).await.unwrap().unwrap();
    assert_eq!(push.magic.as_deref(), Some("magic words"));
    let captured = world.apns.take_captured();
    let app = captured.iter().find(|request| request.header("apns-topic") == Some(APP)).unwrap();
    assert_eq!(app.body.as_ref(), br#"{"aps":{"content-available":1}}"#);
    assert_eq!((app.header("apns-push-type"), app.header("apns-priority")), (Some("background"), Some("5")));
    let mdm = captured.iter().find(|request| request.certificate_topic.is_some()).unwrap();
    assert_eq!(mdm.body.as_ref(), br#"{"mdm":"magic words"}"#);
    assert_eq!((mdm.header("apns-push-type"), mdm.header("apns-priority"), mdm.header("authorization")), (Some("mdm"), Some("10"), None));
    for request in [app, mdm] {
        let expires_s: i64 = request.header("apns-expiration").unwrap().parse().unwrap();
        assert!(expires_s > world.server.clock.now_ms() / 1_000 + 6 * 86_400, "kept for a week");
    }
    world.server.stop().await;
}
