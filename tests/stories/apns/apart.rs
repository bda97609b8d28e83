//! One credential's trouble is no other's: two push certificates, an app and FCM under one server.

use std::time::Duration;

use muster::sim::apns::{Fault, Scope, Times};
use serde_json::json;

use crate::support::apns::{Apns, Managed};
use crate::support::apple::TOPIC;

const OTHER_TOPIC: &str = "com.apple.mgmt.External.0a0a0a0a-1111-4222-8333-444455556666";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_befalls_one_credential_the_others_call_their_phones_at_once() {
    let refused = || Fault::reason(403, "Forbidden");
    let gone = || Fault::reason(400, "BadDeviceToken");
    for (what, fault, state) in [
        ("refused", refused(), "fault"),
        ("told to wait", Fault::unavailable(Some("600")), "paused"),
        ("a mass death", gone(), "fault"),
        ("a failing provider", Fault::html(502), "paused"),
    ] {
        let world = Apns::start().await;
        world.add_topic(OTHER_TOPIC).await;
        let mut troubled: Vec<Managed> = Vec::new();
        for n in 0..30 {
            troubled.push(world.managed_under(&format!("other-{n}"), OTHER_TOPIC).await);
        }
        let (mut managed, mut phone) = (world.managed("MDM").await, world.iphone("app").await);
        let android = world.server.phone("android").await;
        let mut android_pushes = world.server.fcm.connect(&android.push);
        world.server.advance(60_000);
        world.apns.faults().set(Scope::Topic(OTHER_TOPIC.into()), Times::UntilCleared, fault);
        let ids: Vec<&str> = troubled.iter().map(|managed| managed.id.as_str()).collect();
        world.locate(&ids).await;
        let troubled_name = format!("apns_mdm/{OTHER_TOPIC}");
        world.server.until(&format!("{what}: {state}"), async || world.sender(&troubled_name).await["state"] == state).await;
        // The clock stands still: nobody else waits for anything.
        world.locate(&[&managed.id, &phone.device.id, &android.id]).await;
        for pushes in [&mut managed.pushes, &mut phone.pushes] {
            assert!(tokio::time::timeout(Duration::from_secs(60), pushes.recv()).await.unwrap().is_some(), "{what}");
        }
        assert!(tokio::time::timeout(Duration::from_secs(60), android_pushes.recv()).await.unwrap().is_some(), "{what}");
        for name in ["fcm", "apns_app", &format!("apns_mdm/{TOPIC}")] {
            assert_eq!(world.sender(name).await["state"], "ok", "{what}: {name}");
        }
        // And the troubled one comes back with nothing lost.
        world.apns.faults().clear();
        for managed in &mut troubled {
            nudged_within(&world, managed, 6 * 3_600_000).await;
            let shown = world.server.get(&format!("/devices/{}", managed.id)).await;
            assert_eq!(shown["channels"][0]["push_state"], "active", "{what}");
        }
        world.server.stop().await;
    }
}

async fn nudged_within(world: &Apns, managed: &mut Managed, most_ms: i64) {
    let began_ms = world.server.clock.now_ms();
    while managed.pushes.try_recv().is_err() {
        let waited_ms = world.server.clock.now_ms() - began_ms;
        assert!(waited_ms < most_ms, "not called within {most_ms} ms: {}", world.server.get("/push").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.server.advance(15_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_under_load_and_no_call_is_lost() {
    let world = Apns::start().await;
    let mut fleet = Vec::new();
    for n in 0..40 {
        fleet.push(world.managed(&format!("m-{n}")).await);
    }
    world.server.advance(60_000);
    world.apns.set_answer_delay_ms(50);
    let ids: Vec<&str> = fleet.iter().map(|managed| managed.id.as_str()).collect();
    let requests = world.apns.counts().requests;
    world.server.post("/jobs", json!({"kind": "locate", "target": {"devices": ids}})).await.expect(202);
    world.server.until("the burst begins", async || world.apns.counts().requests > requests).await;
    let connections = world.apns.counts().connections;
    world.replace_certificate(&world.apns.issue_certificate(TOPIC).unwrap()).await.expect(200);
    // The clock stands still: a call that failed would have to wait for it.
    for managed in &mut fleet {
        assert!(tokio::time::timeout(Duration::from_secs(60), managed.pushes.recv()).await.unwrap().is_some());
    }
    assert_eq!(world.sender("apns_mdm").await["state"], "ok");
    world.server.advance(60_000);
    world.server.post("/jobs", json!({"kind": "restart", "target": {"devices": [fleet[0].id]}})).await.expect(202);
    assert!(tokio::time::timeout(Duration::from_secs(60), fleet[0].pushes.recv()).await.unwrap().is_some());
    assert!(world.apns.counts().connections > connections, "under the new certificate there are new connections");
    world.server.stop().await;
}
