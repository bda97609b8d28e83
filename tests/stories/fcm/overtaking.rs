//! Urgent nudges overtake: those that fill the pace of a sender do not hold up a lock.

use futures_util::future::join_all;
use muster::clock::Clock;
use muster::model::Lane;
use muster::push::fcm::Settings;
use muster::push::{Answer, Nudge, Sender};
use muster::sim::fcm::StandIn;
use serde_json::json;

use crate::support::device::TestDevice;
use crate::support::push::{Fcm, nudge_to};
use crate::support::server::each_database;

/// More than the two seconds for which nudges are claimed hold at the foot of the ramp.
const PHONES: usize = 220;
const AT_ONCE: usize = 20;

#[tokio::test]
async fn an_urgent_nudge_takes_the_next_place_of_those_that_wait() {
    let fcm = Fcm::start().await;
    fcm.stand_in.capture(true);
    let mut nudges: Vec<Nudge> = (0..60).map(|_| Nudge { lane: Lane::Bulk, ..fcm.device() }).collect();
    nudges.push(fcm.device());
    let urgent = nudges[60].address.value.clone();
    let answers = fcm.send_all(nudges).await;
    assert!(answers.iter().all(|answer| *answer == Answer::Accepted));
    let sent = fcm.stand_in.take_captured();
    let sends: Vec<String> =
        sent.iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).filter(|body| body.contains("\"sync\"")).collect();
    let place = sends.iter().position(|body| body.contains(&urgent)).unwrap();
    assert!(place < 40, "it left as number {place} of {}", sends.len());
}

#[tokio::test]
async fn a_nudge_says_when_it_left_and_not_when_it_began_to_wait() {
    let clock = Clock::system();
    let stand_in = StandIn::start(clock.clone()).await.unwrap();
    let settings = Settings { endpoint: stand_in.endpoint(), quota_per_s: 10, ..Settings::default() };
    let sender = Sender::fcm(settings, clock.clone()).unwrap();
    assert_eq!(sender.send(&nudge_to("early")).await.left_ms, None, "there is no credential");
    sender.replace_credential(&stand_in.service_account()).unwrap();
    let (nudges, began_ms) = ([(); 3].map(|()| nudge_to(&stand_in.register())), clock.now_ms());
    let mut left: Vec<i64> =
        join_all(nudges.iter().map(|nudge| sender.send(nudge))).await.iter().map(|trip| trip.left_ms.unwrap()).collect();
    left.sort_unstable();
    // Each has the tenth of a second to itself.
    assert!(left[1] >= began_ms + 100 && left[2] >= began_ms + 200, "{left:?} since {began_ms}");
}

#[tokio::test]
async fn a_lock_leaves_while_other_lanes_fill_the_pace_and_wait() {
    each_database(async |server| {
        let mut phones: Vec<TestDevice> = Vec::new();
        server.user("user@example.org").await;
        let token = server.enrollment_token().await;
        for group in 0..PHONES / AT_ONCE {
            let names: Vec<String> = (0..AT_ONCE).map(|n| format!("phone{group}-{n}")).collect();
            phones.extend(join_all(names.iter().map(|name| server.phone_with(&token, "user@example.org", name))).await);
        }
        for some in phones.chunks(AT_ONCE) {
            join_all(some.iter().map(|phone| phone.sync(&server, json!({"cause": "launch"})))).await;
        }
        let locked = server.phone("locked").await;
        let mut pushes = server.fcm.connect(&locked.push);
        let devices: Vec<&str> = phones.iter().map(|phone| phone.id.as_str()).collect();
        let before = server.fcm.counts().accepted;
        server.post("/jobs", json!({"kind": "message", "params": {"text": "hello"}, "target": {"devices": devices}})).await.expect(202);
        let told = || server.fcm.counts().accepted - before;
        // The clock stands still, so no more places come.
        let sender = server.app.senders.named("fcm").unwrap();
        server.until("the places of two seconds are taken", async || told() > 100 && sender.capacity() == 0).await;
        server.post("/jobs", json!({"kind": "lock", "target": {"devices": [locked.id]}})).await.expect(202);
        server.until("the lock's nudge", async || pushes.try_recv().is_ok()).await;
        assert!(told() < PHONES as u64 + 1, "the others wait for their places");
        server.stop().await;
    })
    .await;
}
