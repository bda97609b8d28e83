//! APNs away, and the way back.

use muster::sim::apns::Door;

use crate::support::apns::Apns;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_ten_minutes_without_apns_every_phone_is_nudged_once_and_the_urgent_ones_first() {
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
    let push = tokio::time::timeout(std::time::Duration::from_secs(10), android_pushes.recv()).await.unwrap();
    assert!(push.is_some(), "FCM goes on");
    for _ in 0..20 {
        world.server.advance(30_000);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.apns.counts().requests, 0);
    world.apns.accept_connections().await.unwrap();
    for phone in &mut phones {
        world.nudged_after_ms(phone, 30_000, 60 * 60_000).await;
    }
    // The backlog is a set of phones: each once, the urgent ones among the first that went out.
    let urgent: Vec<String> = phones[..5].iter().map(|phone| format!("/3/device/{}", phone.device.push)).collect();
    let order: Vec<String> = world.apns.take_captured().into_iter().map(|request| request.path).collect();
    assert_eq!(order.len(), 30);
    let last_urgent = order.iter().rposition(|path| urgent.contains(path)).unwrap();
    assert!(last_urgent < 15, "{last_urgent}");
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_connections_and_is_silent_loses_no_nudge() {
    let world = Apns::start().await;
    let mut phone = world.iphone("one").await;
    world.apns.set_door(Door::Silent);
    world.locate(&[&phone.device.id]).await;
    world.server.until("the sender tries", async || world.apns.counts().connections > 0).await;
    world.apns.set_door(Door::Open);
    world.apns.refuse_connections();
    world.apns.accept_connections().await.unwrap();
    world.nudged_after_ms(&mut phone, 30_000, 60 * 60_000).await;
    world.server.stop().await;
}
