//! Connections that end, break, hang and stall.

use muster::sim::apns::{Door, Fault, Scope, Times};

use crate::support::apns::{Apns, GAP_MS};
use crate::support::apple::TOPIC;

/// Connections of the app's senders of this process that were opened in the place of others.
fn reconnects() -> u64 {
    let text = muster::telemetry::metrics().render();
    let shown = text.lines().find_map(|line| line.strip_prefix("muster_reconnects{provider=\"apns_app\"} "));
    shown.map_or(0, |number| number.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goaway_in_the_middle_of_a_burst_loses_no_nudge_and_counts_no_attempt() {
    let world = Apns::start().await;
    let mut phones = world.iphones(30).await;
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    world.apns.set_answer_delay_ms(30);
    for (processed, reason) in [(false, None), (true, None), (false, Some("Shutdown"))] {
        world.server.advance(GAP_MS);
        let (connections, before) = (world.apns.counts().connections, reconnects());
        let fault = Fault::GoAway { processed, code: 0, reason };
        world.apns.faults().set(Scope::Token(phones[10].device.push.clone()), Times::Next(1), fault);
        world.locate_all(&phones).await;
        // The clock stands still: nobody waits for another attempt. A nudge that was delivered before the goodbye may come twice.
        world.each_is_reached(&mut phones).await;
        let another = async || world.apns.counts().connections > connections && reconnects() > before;
        world.server.until("another connection takes its place", another).await;
    }
    assert_eq!(world.sender("apns_app").await["state"], "ok");
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_that_names_the_credential_stops_its_sender_and_another_one_releases_those_who_waited() {
    let world = Apns::start().await;
    let mut managed = world.managed("MDM").await;
    world.server.advance(60_000);
    let fault = Fault::GoAway { processed: false, code: 0, reason: Some("BadCertificate") };
    world.apns.faults().set(Scope::Topic(TOPIC.into()), Times::UntilCleared, fault);
    world.locate(&[&managed.id]).await;
    world.server.until("the fault", async || world.sender("apns_mdm").await["state"] == "fault").await;
    assert!(world.sender("apns_mdm").await["reason"].to_string().contains("BadCertificate"));
    assert_eq!(world.push_state(&managed.id).await, "active", "no token is blamed");
    world.apns.faults().clear();
    world.replace_certificate(&world.apns.issue_certificate(TOPIC).unwrap()).await.expect(200);
    // The clock stands still.
    let push = tokio::time::timeout(std::time::Duration::from_secs(60), managed.pushes.recv()).await;
    assert!(push.unwrap().is_some());
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_goes_again_at_once_and_a_broken_one_waits_as_a_counted_attempt() {
    let world = Apns::start().await;
    let faults = [
        (Fault::ResetStream(7), false),
        (Fault::ResetStream(2), true),
        (Fault::ResetAfterHeaders(500), true),
        // It was taken, as far as can be told: the phone does not come and is called again.
        (Fault::ResetAfterHeaders(200), true),
        (Fault::Close, true),
        (Fault::Reset, true),
        (Fault::reason(500, "InternalServerError"), true),
        (Fault::html(502), true),
        (Fault::empty(500), true),
        (Fault::truncated(500), true),
        (Fault::huge(500), true),
    ];
    for (n, (fault, counted)) in faults.into_iter().enumerate() {
        let shown: String = format!("{fault:?}").chars().take(200).collect();
        let mut phone = world.iphone(&format!("broken-{n}")).await;
        world.apns.faults().set(Scope::Token(phone.device.push.clone()), Times::Next(1), fault);
        world.locate(&[&phone.device.id]).await;
        let waited_ms = world.nudged_after_ms(&mut phone, GAP_MS / 4, 2 * GAP_MS).await;
        assert_eq!(waited_ms > 0, counted, "{waited_ms} {shown}");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_never_answered_and_a_window_that_stalls_hold_up_nobody_else() {
    let world = Apns::start().await;
    let mut phones = world.iphones(10).await;
    world.locate_all(&phones).await;
    world.each_is_nudged(&mut phones).await;
    for fault in [Fault::Hang, Fault::Stall] {
        world.server.advance(GAP_MS);
        let held = phones[0].device.push.clone();
        world.apns.faults().set(Scope::Token(held), Times::Next(1), fault);
        world.locate_all(&phones).await;
        for phone in &mut phones {
            world.nudged_after_ms(phone, GAP_MS, 40 * GAP_MS).await;
        }
        for phone in &mut phones {
            while phone.pushes.try_recv().is_ok() {}
            let visit = phone.device.visit(&world.server, "push").await;
            phone.device.report(&world.server, visit["tasks"].as_array().unwrap(), "done").await;
        }
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_strangers_certificate_gets_no_nudge() {
    let world = Apns::start().await;
    let mut phone = world.iphone("one").await;
    world.come_anew_through(Door::Stranger).await;
    let before = world.apns.counts();
    world.locate(&[&phone.device.id]).await;
    world.server.until("the sender tries", async || world.apns.counts().connections > before.connections).await;
    assert_eq!(world.apns.counts().requests, before.requests);
    world.apns.set_door(Door::Open);
    world.nudged_after_ms(&mut phone, 30_000, 30 * 60_000).await;
    world.server.stop().await;
}
