//! Every open task says why it waits, since when, and when its device is called next; as operators read it.

use muster::model::schedule::PERIOD_S;
use muster::sim::fcm::{Fault, Scope, Times};
use plist::Dictionary;
use serde_json::{Value, json};

use crate::apple::commands::{each, task};
use crate::support::apple::AppleDevice;
use crate::support::device::{TestDevice, activation};
use crate::support::server::{START_MS, TestServer, each_database};

const DAY_MS: i64 = 86_400_000;

/// One task of this kind for one device, open for a month.
async fn order(server: &TestServer, kind: &str, device: &str) -> String {
    let job = json!({"kind": kind, "target": {"devices": [device]}, "expires_in_s": 30 * 86_400});
    let job = server.post("/jobs", job).await.expect(202);
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    server.get(&format!("{path}/tasks")).await["items"][0]["id"].as_str().unwrap().to_owned()
}

async fn shown(server: &TestServer, task: &str) -> Value {
    server.get(&format!("/tasks/{task}")).await
}

/// The reason of a task, when it began, and when its device is called; the list and the job must say the same.
async fn why(server: &TestServer, task: &str) -> (String, i64, Option<i64>) {
    let seen = shown(server, task).await;
    let reason = seen["reason"].as_str().unwrap_or_else(|| panic!("no reason: {seen}")).to_owned();
    let listed = server.get(&format!("/tasks?reason={reason}")).await;
    assert!(listed["items"].as_array().unwrap().iter().any(|one| one["id"] == task), "{reason} does not list it: {listed}");
    let job = server.get(&format!("/jobs/{}", seen["job_id"].as_str().unwrap())).await;
    assert_eq!(job["reasons"], json!({&reason: 1}), "{job}");
    (reason, seen["reason_since_ms"].as_i64().unwrap(), seen["next_attempt_at_ms"].as_i64())
}

/// A phone whose app has told no push address.
async fn without_address(server: &TestServer, name: &str) -> TestDevice {
    let email = format!("{name}@example.org");
    server.user(&email).await;
    let token = server.enrollment_token().await;
    let answer = server.activate(&activation(&token, &email, name, None), None).await.expect(201);
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    TestDevice { id: text("device_id"), token: text("device_token"), push: String::new(), hardware_id: name.into() }
}

#[tokio::test]
async fn a_task_waits_for_its_device_then_for_its_result_and_then_for_nothing() {
    each_database(async |server| {
        let phone = server.phone("ada").await;
        let mut pushes = server.fcm.connect(&phone.push);
        let task = order(&server, "locate", &phone.id).await;
        let (reason, since_ms, next_ms) = why(&server, &task).await;
        assert_eq!((reason.as_str(), since_ms), ("awaiting_contact", START_MS));
        assert!(next_ms.is_some(), "its nudge is due");
        server.until("the nudge", async || pushes.try_recv().is_ok()).await;
        // What was accepted arms the ladder: an urgent task is called for again five minutes later.
        let armed = async || shown(&server, &task).await["next_attempt_at_ms"].as_i64() > Some(START_MS + 60_000 + 15_000);
        server.until("the next rung", armed).await;
        server.clock.advance(3000);
        phone.visit(&server, "push").await;
        let (reason, since_ms, next_ms) = why(&server, &task).await;
        assert_eq!((reason.as_str(), since_ms), ("awaiting_contact", START_MS + 3000), "delivered: it waits for the result since then");
        assert!(next_ms > Some(server.clock.now_ms()));
        phone.report(&server, &[json!({"id": task})], "done").await;
        let done = shown(&server, &task).await;
        for field in ["reason", "reason_since_ms", "next_attempt_at_ms"] {
            assert_eq!(done[field], Value::Null, "{field}");
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_cannot_be_called_is_met_at_its_own_point() {
    let server = TestServer::with(|config| config.push.fcm.as_mut().unwrap().service_account = None).await;
    let (addressed, bare) = (server.phone("addressed").await, without_address(&server, "bare").await);
    for (phone, expected) in [(&addressed, "push_unconfigured"), (&bare, "no_push_address")] {
        let task = order(&server, "scan", &phone.id).await;
        let (reason, since_ms, next_ms) = why(&server, &task).await;
        assert_eq!((reason.as_str(), since_ms), (expected, START_MS));
        let told = phone.visit(&server, "periodic").await["next_sync_in_s"].as_i64().unwrap();
        let next_ms = next_ms.unwrap_or_else(|| panic!("{expected}: no next attempt"));
        assert!((START_MS + 1..=START_MS + PERIOD_S * 1000).contains(&next_ms), "{expected}: {next_ms}");
        if expected == "no_push_address" {
            assert!((next_ms - START_MS - told * 1000).abs() <= 1000, "the point that the phone was told: {told} s, {next_ms}");
        }
    }
    // A credential is all that was missing.
    let task = order(&server, "locate", &addressed.id).await;
    let account: Value = serde_json::from_slice(&server.fcm.service_account()).unwrap();
    server.put("/push/fcm", account).await.expect(200);
    server.until("it can be called", async || shown(&server, &task).await["reason"] == "awaiting_contact").await;
    server.stop().await;
}

#[tokio::test]
async fn a_dead_address_a_silent_device_and_one_that_may_not_go_on_each_say_so() {
    each_database(async |server| {
        let phone = server.phone("dora").await;
        let task = order(&server, "scan", &phone.id).await;
        server
            .until("the first nudge", async || shown(&server, &task).await["next_attempt_at_ms"].as_i64() > Some(START_MS + 75_000))
            .await;
        // The provider says that the address is no more, at the next rung.
        server.fcm.faults().set(Scope::Address(phone.push.clone()), Times::Next(1), Fault::unregistered());
        server.advance(30 * 60_000);
        let died_ms = server.clock.now_ms();
        server.until("the address is dead", async || shown(&server, &task).await["reason"] == "push_dead").await;
        let (_, since_ms, next_ms) = why(&server, &task).await;
        assert_eq!(since_ms, died_ms);
        assert!(next_ms > Some(died_ms), "its own point: {next_ms:?}");
        // Seven days without a contact.
        server.advance(7 * DAY_MS);
        server
            .until("the device is silent", async || {
                server.advance(60_000);
                shown(&server, &task).await["reason"] == "device_silent"
            })
            .await;
        let (_, since_ms, _) = why(&server, &task).await;
        assert!(since_ms >= died_ms + 7 * DAY_MS - 30 * 60_000, "{since_ms}");
        phone
            .sync(&server, json!({"cause": "boot", "push": {"provider": "fcm", "kind": "token", "value": server.fcm.register()}}))
            .await
            .expect(200);
        server
            .until("it is heard again", async || {
                server.advance(1000);
                shown(&server, &task).await["reason"] == "awaiting_contact"
            })
            .await;
        // An operator shuts it out: what it is not given waits for that.
        server.clock.advance(1000);
        let denied_ms = server.clock.now_ms();
        server.post(&format!("/devices/{}/unauthorize", phone.id), json!({})).await.expect(200);
        let (reason, since_ms, _) = why(&server, &task).await;
        assert_eq!((reason.as_str(), since_ms), ("device_unauthorized", denied_ms));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_locked_iphone_says_when_it_is_asked_again() {
    each(async |server| {
        let phone = AppleDevice::named("locked");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let task = task(&server, "refresh", json!({"what": "profiles"}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, task);
        server.clock.advance(2000);
        let put_off_ms = server.clock.now_ms();
        assert!(phone.connect(&server, "NotNow", Some(&task), Dictionary::new()).await.command().is_none());
        let (reason, since_ms, next_ms) = why(&server, &task).await;
        assert_eq!((reason.as_str(), since_ms), ("device_locked", put_off_ms));
        assert!(next_ms > Some(put_off_ms), "{next_ms:?}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_a_second_operator_says_for_which_reason() {
    let server = TestServer::with(|config| config.limits.wipes_per_hour = 1).await;
    let (first, second) = (server.phone("first").await, server.phone("second").await);
    let undelivered = order(&server, "wipe", &first.id).await;
    let held = order(&server, "wipe", &second.id).await;
    assert_eq!(why(&server, &held).await, ("held_by_budget".into(), START_MS, None), "nobody is called for it");
    assert_eq!(why(&server, &undelivered).await.0, "awaiting_contact");
    // The phone whose wipe has not come is set up anew: whether it still shall be wiped is for an operator.
    server.clock.advance(1000);
    let token = server.enrollment_token().await;
    let anew = activation(&token, "first@example.org", "first", None);
    server.activate(&anew, None).await.expect(409);
    let parked = server.get("/devices?state=pending_approval").await["items"][0]["id"].as_str().unwrap().to_owned();
    server.post(&format!("/devices/{parked}/authorize"), json!({})).await.expect(200);
    assert_eq!(why(&server, &undelivered).await, ("awaiting_approval".into(), START_MS + 1000, None));
    for (reason, n) in [("held_by_budget", 1), ("awaiting_approval", 1), ("held_by_rollout", 0)] {
        let listed = server.get(&format!("/tasks?reason={reason}")).await;
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(n), "{reason}");
    }
    let unknown = server.call("GET", "/tasks?reason=boredom", None).await.expect(422);
    assert!(unknown["errors"][0]["detail"].as_str().unwrap().contains("held_by_rollout"), "{unknown}");
    server.stop().await;
}
