//! Provider tokens and push certificates that age, expire and are replaced.

use muster::clock::Clock;
use muster::sim::apns::StandIn;
use std::collections::HashSet;
use std::time::Duration;

use crate::support::apns::{Apns, GAP_MS};
use crate::support::apple::TOPIC;
use crate::support::server::START_MS;

fn tokens(world: &Apns) -> HashSet<String> {
    world.apns.take_captured().iter().filter_map(|request| request.header("authorization").map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_grows_no_older_than_an_hour_and_none_is_made_twice_in_twenty_minutes() {
    let world = Apns::start().await;
    world.apns.capture(true);
    let mut phone = world.iphone("one").await;
    for _ in 0..9 {
        world.locate(&[&phone.device.id]).await;
        assert_eq!(world.nudged_after_ms(&mut phone, 60_000, 1).await, 0, "APNs refuses none for its age");
        world.server.advance(GAP_MS + 1_000);
    }
    // Three hours.
    assert!((3..=5).contains(&tokens(&world).len()));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_refused_while_nobody_is_called_is_an_alarm_before_somebody_has_to_be() {
    let world = Apns::start().await;
    let mut managed = world.managed("A").await;
    world.apns.revoke_certificates(TOPIC);
    world.apns.refuse_connections();
    world.apns.accept_connections().await.unwrap();
    // Nobody is called, and the clock stands still.
    world.server.until("the fault", async || world.sender("apns_mdm").await["state"] == "fault").await;
    let alarms = async || world.server.get("/alarms?state=open").await["items"].as_array().unwrap().clone();
    world.server.until("the alarm", async || alarms().await.iter().any(|alarm| alarm["kind"] == "push_fault")).await;
    assert!(managed.pushes.try_recv().is_err());
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_push_certificate_stops_mdm_alone_and_a_new_one_takes_over_at_run_time() {
    let clock = Clock::moved(START_MS, 7);
    let apns = StandIn::start(clock.clone()).await.unwrap();
    let expired = apns.issue_certificate_until(TOPIC, START_MS + 3_600_000).unwrap();
    let world = Apns::start_with(clock, apns, expired).await;
    let mut managed = world.managed("A").await;
    let mut phone = world.iphone("app").await;
    world.server.advance(2 * 3_600_000);
    world.apns.refuse_connections();
    world.apns.accept_connections().await.unwrap();
    world.locate(&[&managed.id]).await;
    // Should a connection end before its alert was read, the next attempt reads it.
    let fault = async || {
        world.server.advance(1_000);
        world.sender("apns_mdm").await["state"] == "fault"
    };
    world.server.until("the fault", fault).await;
    world.locate(&[&phone.device.id]).await;
    world.nudged_after_ms(&mut phone, 1_000, 60_000).await;
    let fresh = world.apns.issue_certificate(TOPIC).unwrap();
    world.replace_certificate(&fresh).await.expect(200);
    // The clock stands still: what was given back did not have to wait for a probe.
    assert!(tokio::time::timeout(Duration::from_secs(60), managed.pushes.recv()).await.unwrap().is_some());
    world.server.stop().await;
}
