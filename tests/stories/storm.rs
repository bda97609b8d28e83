//! The minute storm: after an outage every phone has something to say, and says it every minute until it is heard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

use muster::model::{Id, Lane};
use muster::store::Class;
use muster::store::wakes::{Raise, raise};

use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database};

const PHONES: usize = 1_500;
/// Events that each phone has kept during the outage; it sends them one request each, all at once.
const KEPT: usize = 3;
const SENDERS: usize = 600;

fn event(phone: usize, n: usize) -> Value {
    json!({"event_id": format!("0198f3a2-7c4e-7b1a-{phone:04x}-{n:012x}"), "type": "scan_finished", "seq": n + 1, "occurred_at_ms": 1,
        "data": {"outcome": "clean"}})
}

/// Phone and event, the status of its answer where there was one, and when it shall return.
type Said = ((usize, usize), Option<u16>, Option<i64>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_shed_with_a_spread_time_to_return_nothing_accepted_is_lost_and_all_is_heard() {
    let server = TestServer::on_sqlite().await;
    let token = server.enrollment_token().await;
    server.user("user@example.org").await;
    let phones: Vec<TestDevice> = stream::iter(0..PHONES)
        .map(|n| {
            let (server, token) = (&server, &token);
            async move { server.phone_with(token, "user@example.org", &format!("storm-{n}")).await }
        })
        .buffered(128)
        .collect()
        .await;
    // The intake takes little, so that a few hundred phones are a storm.
    server.app.intake.shed_above(200);
    let mut open: Vec<(usize, usize)> = (0..PHONES).flat_map(|phone| (0..KEPT).map(move |n| (phone, n))).collect();
    let (mut shed, mut rounds) = (0, 0);
    let deepest = AtomicUsize::new(0);
    let mut returns: HashMap<String, Vec<i64>> = HashMap::new();
    while !open.is_empty() {
        rounds += 1;
        assert!(rounds <= 60, "{} events were not heard within an hour of minutes", open.len());
        let said: Vec<Said> = stream::iter(open.clone())
            .map(|(phone, n)| {
                let (server, device, deepest) = (&server, &phones[phone], &deepest);
                async move {
                    let request = server.client.post(format!("{}/agent/v1/events", server.url)).bearer_auth(&device.token);
                    let answer = request.json(&json!({"events": [event(phone, n)]})).send().await;
                    deepest.fetch_max(server.app.intake.backlog(), Ordering::Relaxed);
                    // Who finds its idle connection ended by the server in that instant has not been heard, and comes again.
                    let Ok(answer) = answer else { return ((phone, n), None, None) };
                    let after = answer.headers().get("retry-after").and_then(|value| value.to_str().unwrap().parse().ok());
                    ((phone, n), Some(answer.status().as_u16()), after)
                }
            })
            .buffer_unordered(SENDERS)
            .collect()
            .await;
        open.clear();
        for (one, status, after) in said {
            match status {
                Some(200) => {}
                None => open.push(one),
                Some(503) => {
                    shed += 1;
                    returns.entry(phones[one.0].id.clone()).or_default().push(after.expect("503 without a time to return"));
                    open.push(one);
                }
                Some(other) => panic!("an event was answered {other}"),
            }
        }
        server.advance(60_000);
    }
    assert!(shed > 0, "the storm was no storm");
    assert!(deepest.load(Ordering::Relaxed) <= 210, "{} contacts waited at once", deepest.load(Ordering::Relaxed));
    // Each device is told the same time again and again, and different devices different times.
    let mut times: Vec<i64> = Vec::new();
    for (device, told) in &returns {
        assert!(told.iter().all(|after| *after == told[0] && (5..=65).contains(after)), "{device} was told {told:?}");
        times.push(told[0]);
    }
    times.sort_unstable();
    times.dedup();
    assert!(times.len() >= 10.min(returns.len() / 3), "{} devices were sent away for {times:?} s", returns.len());
    // Everything that was answered 200 is there, once.
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/events?limit=1000{cursor}")).await;
        found.extend(page["items"].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    found.sort_unstable();
    let said = (0..PHONES).flat_map(|phone| (0..KEPT).map(move |n| event(phone, n)["event_id"].as_str().unwrap().to_owned()));
    assert!(found.iter().eq(&said.collect::<std::collections::BTreeSet<_>>()), "{} events are there", found.len());
    assert_eq!(server.app.intake.backlog(), 0);
    phones[0].visit(&server, "periodic").await;
    server.stop().await;
}

/// What is raised at once, and how often: a million triggers for one phone.
const AT_ONCE: usize = 1_000;
const TIMES: usize = 1_000;
/// The clock moves by a second after so many of them.
const A_SECOND: usize = 10;
/// The least time between two urgent nudges of a channel.
const GAP_S: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_triggers_for_one_phone_are_at_most_one_nudge_a_gap() {
    each_database(async |server| {
        let phone = server.phone("stormed").await;
        let mut pushes = server.fcm.connect(&phone.push);
        let order = json!({"kind": "locate", "target": {"devices": [phone.id]}});
        let orders: Vec<u16> =
            stream::iter(0..200).map(|_| async { server.post("/jobs", order.clone()).await.status }).buffer_unordered(20).collect().await;
        assert!(orders.iter().all(|status| *status == 202));
        server.until("a nudge", async || pushes.try_recv().is_ok()).await;
        server.until("nothing is under way", async || server.get("/push").await["senders"][0]["in_flight"] == 0).await;
        assert!(pushes.try_recv().is_err(), "two hundred orders in one instant are one nudge");
        let channel = server.get(&format!("/devices/{}", phone.id)).await["channels"][0]["id"].as_str().unwrap().to_owned();
        let channel_id: Id = serde_json::from_value(json!(channel)).unwrap();
        let triggers: Vec<Raise> = (0..AT_ONCE).map(|_| Raise { channel_id, lane: Lane::Urgent }).collect();
        let mut nudges = 0;
        for n in 1..=TIMES {
            let mut conn = server.app.db.begin(Class::Operators).await.unwrap();
            raise(&mut conn, &triggers, server.clock.now_ms()).await.unwrap();
            conn.commit().await.unwrap();
            if n % A_SECOND == 0 {
                server.advance(1_000);
            }
            while pushes.try_recv().is_ok() {
                nudges += 1;
            }
        }
        server
            .until("the last is called", async || {
                nudges += usize::from(pushes.try_recv().is_ok());
                nudges > 0
            })
            .await;
        let most = 1 + TIMES / A_SECOND / GAP_S;
        assert!((1..=most).contains(&nudges), "{nudges} nudges in {} s", TIMES / A_SECOND);
        server.stop().await;
    })
    .await;
}
