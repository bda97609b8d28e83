//! What a phone tells of itself: the last word counts, whichever way it came.

use serde_json::{Value, json};

use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database};

const HOUR_MS: i64 = 3_600_000;

/// The event that a fact changed so long ago, sent for the first time now.
fn changed(server: &TestServer, n: i64, key: &str, value: Value, ago_ms: i64) -> Value {
    let now_ms = server.clock.now_ms();
    json!({"event_id": format!("0198f3a2-7c4e-7b1a-9f00-{n:012}"), "type": "fact_changed", "seq": n, "occurred_at_ms": now_ms - ago_ms,
        "first_attempt_at_ms": now_ms, "attempt": 1, "data": {"key": key, "value": value}})
}

async fn tells(server: &TestServer, phone: &TestDevice, percent: i64, events: Value) {
    let facts = json!({"battery_percent": percent, "timezone": "Europe/Berlin"});
    let answer = phone.sync(server, json!({"cause": "periodic", "facts": facts, "events": events})).await.expect(200);
    assert!(answer["events"].as_array().unwrap().iter().all(|event| event["outcome"] == "recorded"), "{answer}");
}

async fn fact(server: &TestServer, phone: &TestDevice, key: &str) -> Value {
    server.get(&format!("/devices/{}", phone.id)).await["facts"][key].clone()
}

#[tokio::test]
async fn a_fact_that_an_event_changed_is_told_again_by_the_next_inventory_equal_to_the_last_or_not() {
    each_database(async |server| {
        let phone = server.phone("p").await;
        tells(&server, &phone, 50, json!([])).await;
        server.advance(60_000);
        phone.events(&server, json!([changed(&server, 1, "battery_percent", json!(40), 0)])).await.expect(200);
        assert_eq!(fact(&server, &phone, "battery_percent").await, 40);
        server.advance(60_000);
        tells(&server, &phone, 50, json!([])).await;
        assert_eq!(fact(&server, &phone, "battery_percent").await, 50);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_sync_says_itself_is_newer_than_the_events_in_it() {
    each_database(async |server| {
        let phone = server.phone("p").await;
        let late = |n: i64, ago_ms: i64| json!([changed(&server, n, "battery_percent", json!(10), ago_ms)]);
        tells(&server, &phone, 60, late(1, 2 * HOUR_MS)).await;
        assert_eq!(fact(&server, &phone, "battery_percent").await, 60);
        // The inventory is known by now: it counts all the same, and what it does not name is the event's to say.
        tells(&server, &phone, 60, late(2, 0)).await;
        assert_eq!(fact(&server, &phone, "battery_percent").await, 60);
        tells(&server, &phone, 60, json!([changed(&server, 3, "ssid", json!("office"), 0)])).await;
        assert_eq!(fact(&server, &phone, "ssid").await, "office");
        assert_eq!(fact(&server, &phone, "battery_percent").await, 60);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_event_from_before_the_last_inventory_is_kept_and_changes_no_fact() {
    each_database(async |server| {
        let phone = server.phone("p").await;
        tells(&server, &phone, 60, json!([])).await;
        server.advance(3 * HOUR_MS);
        // Nothing has changed, and the time at which it said so counts.
        tells(&server, &phone, 60, json!([])).await;
        server.advance(60_000);
        let old = changed(&server, 1, "battery_percent", json!(10), 2 * HOUR_MS);
        let answer = phone.events(&server, json!([old, changed(&server, 2, "ssid", json!("office"), 2 * HOUR_MS)])).await.expect(200);
        assert_eq!((&answer["events"][0]["outcome"], &answer["events"][1]["outcome"]), (&json!("recorded"), &json!("recorded")));
        assert_eq!(fact(&server, &phone, "battery_percent").await, 60);
        assert_eq!(fact(&server, &phone, "ssid").await, "office", "of which nothing newer is known");
        assert_eq!(server.get(&format!("/devices/{}/events", phone.id)).await["items"].as_array().unwrap().len(), 2);
        phone.events(&server, json!([changed(&server, 3, "battery_percent", json!(20), 0)])).await.expect(200);
        assert_eq!(fact(&server, &phone, "battery_percent").await, 20);
        server.stop().await;
    })
    .await;
}
