//! APNs away, and the way back.

use std::collections::HashMap;

use muster::sim::apns::Door;

use crate::support::apns::{Apns, GAP_MS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_ten_minutes_without_apns_every_phone_is_nudged_once_and_the_urgent_ones_within_seconds() {
    let world = Apns::start().await;
    world.apns.capture(true);
    let mut phones = world.iphones(30).await;
    let android = world.server.phone("android").await;
    let mut android_pushes = world.server.fcm.connect(&android.push);
    world.apns.refuse_connections();
    let ids: Vec<&str> = phones.iter().map(|phone| phone.device.id.as_str()).collect();
    let (urgent, others) = ids.split_at(5);
    world.order("message", others).await;
    world.locate(urgent).await;
    world.locate(&[&android.id]).await;
    let push = tokio::time::timeout(std::time::Duration::from_secs(60), android_pushes.recv()).await.unwrap();
    assert!(push.is_some(), "FCM goes on");
    // The first of them wait while the sender tries three times to connect, by the real clock; the lease of a claim goes by the moved one.
    let in_flight = async |some: bool| (world.sender("apns_app").await["in_flight"].as_i64() > Some(0)) == some;
    world.server.until("they try", async || in_flight(true).await).await;
    world.server.until("they have tried", async || in_flight(false).await).await;
    for _ in 0..20 {
        world.server.advance(30_000);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.apns.counts().requests, 0);
    world.apns.accept_connections().await.unwrap();
    for phone in &mut phones {
        world.nudged_after_ms(phone, 2_000, 60 * 60_000).await;
    }
    // The backlog is a set of phones: nobody is called twice within the gap. An urgent one whose call tried the door in vain waits for
    // its own instant, seconds after the door is known to be open.
    let (mut first_ms, mut last_ms): (HashMap<String, i64>, HashMap<String, i64>) = Default::default();
    for request in world.apns.take_captured() {
        first_ms.entry(request.path.clone()).or_insert(request.at_ms);
        if let Some(before_ms) = last_ms.insert(request.path, request.at_ms) {
            assert!(request.at_ms - before_ms >= GAP_MS, "{} ms after the call before", request.at_ms - before_ms);
        }
    }
    assert_eq!(first_ms.len(), 30);
    let opened_ms = first_ms.values().min().unwrap();
    for phone in &phones[..5] {
        let late_ms = first_ms[&format!("/3/device/{}", phone.device.push)] - opened_ms;
        assert!(late_ms <= 20_000, "an urgent one came {late_ms} ms after the first");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_resolve_holds_the_nudges_and_the_right_one_releases_them() {
    let world = Apns::start().await;
    let mut phone = world.iphone("astray").await;
    let right = world.apns.endpoint();
    let astray = world.again_at("https://muster.invalid").await;
    astray.server.advance(GAP_MS);
    astray.locate(&[&phone.device.id]).await;
    let waits = async || {
        let tasks = astray.server.get(&format!("/devices/{}/tasks?state=queued", phone.device.id)).await;
        tasks["items"][0]["next_attempt_at_ms"].as_i64() > Some(astray.server.clock.now_ms())
    };
    astray.server.until("the call was given back", waits).await;
    for _ in 0..10 {
        astray.server.advance(60_000);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!((astray.apns.counts().requests, astray.push_state(&phone.device.id).await.as_str()), (0, "active"));
    let world = astray.again_at(&right).await;
    world.nudged_after_ms(&mut phone, 30_000, 60 * 60_000).await;
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_connections_and_is_silent_loses_no_nudge() {
    let world = Apns::start().await;
    let mut phone = world.iphone("one").await;
    world.come_anew_through(Door::Silent).await;
    let before = world.apns.counts();
    world.locate(&[&phone.device.id]).await;
    world.server.until("the sender tries", async || world.apns.counts().connections > before.connections).await;
    assert_eq!(world.apns.counts().requests, before.requests);
    world.apns.set_door(Door::Open);
    world.apns.refuse_connections();
    world.apns.accept_connections().await.unwrap();
    world.nudged_after_ms(&mut phone, 30_000, 60 * 60_000).await;
    world.server.stop().await;
}
