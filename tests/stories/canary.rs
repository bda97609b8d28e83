//! The canary: a credential that has just come is tried by one call, and what came of it is told.

use std::time::Duration;

use muster::model::Role;
use muster::sim::fcm::{Fault, Scope, Times};
use serde_json::{Value, json};

use crate::support::device::{TestDevice, activation};
use crate::support::server::{TestServer, each_database, reply};
use crate::support::shell::Shell;

/// Every process has followed a new credential by then.
const FOLLOW_MS: i64 = 6_000;
const GAP_MS: i64 = 60_000;
const WATCH_MS: i64 = 10 * 60_000;

async fn canary(server: &TestServer) -> Value {
    server.get("/push").await["senders"][0]["canary"].clone()
}

async fn until(server: &TestServer, what: &str, probe: impl Fn(&Value) -> bool) -> Value {
    server.until(what, async || probe(&canary(server).await)).await;
    canary(server).await
}

/// Puts the same credential into use once more.
async fn replace(server: &TestServer) {
    let account: Value = serde_json::from_slice(&server.fcm.service_account()).unwrap();
    let shown = server.put("/push/fcm", account).await.expect(200);
    assert_ne!(shown["senders"][0]["canary"], Value::Null, "{shown}");
    server.advance(FOLLOW_MS);
}

/// Phones with nothing to do, each called at most once and long ago.
async fn phones(server: &TestServer) -> Vec<TestDevice> {
    let mut phones = Vec::new();
    for name in ["a", "b", "c"] {
        phones.push(server.phone(name).await);
    }
    server.until("no nudge is under way", async || server.get("/push").await["senders"][0]["in_flight"] == 0).await;
    server.advance(2 * GAP_MS);
    phones
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_credential_is_tried_on_one_device_whose_coming_is_told() {
    each_database(async |server| {
        assert_eq!(canary(&server).await, Value::Null);
        let phones = phones(&server).await;
        let mut pushes: Vec<_> = phones.iter().map(|phone| server.fcm.connect(&phone.push)).collect();
        let before = server.fcm.counts().accepted;
        replace(&server).await;
        let told = until(&server, "the provider has answered", |canary| !canary["answer"].is_null()).await;
        assert_eq!((&told["answer"], &told["state"], &told["contact_at_ms"]), (&json!("accepted"), &json!("watched"), &Value::Null));
        let called = phones.iter().position(|phone| told["device_id"] == phone.id.as_str()).unwrap();
        let push = tokio::time::timeout(Duration::from_secs(60), pushes[called].recv()).await.unwrap();
        assert!(push.is_some(), "who is named is who was called");
        // Asked for again while it is under way, nobody is called a second time.
        server.post("/push/fcm/canary", json!({})).await.expect(202);
        assert_eq!(canary(&server).await["called_at_ms"], told["called_at_ms"]);
        server.advance(4_000);
        phones[called].visit(&server, "push").await;
        let ended = until(&server, "the contact is told", |canary| canary["state"] == "ended").await;
        assert_eq!((&ended["contact_cause"], ended["contact_at_ms"].as_i64()), (&json!("push"), Some(server.clock.now_ms())));
        assert_eq!(server.fcm.counts().accepted, before + 1, "one call, of one device");
        let feed = async || server.get("/feed?kind=push&limit=1000").await["items"].as_array().unwrap().clone();
        server.until("its end is told", async || feed().await.iter().any(|entry| entry["kind"] == "push.canary_ended")).await;
        let browser = server.operator("anna", Role::Operator).await;
        let page = browser.get("/settings").await.text;
        assert!(page.contains("the provider took it; the device came 4 s later"), "{page}");
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_keeps_the_gap_and_waits_for_nobody_who_cannot_be_called() {
    each_database(async |server| {
        // Nobody is there.
        server.post("/push/fcm/canary", json!({})).await.expect(202);
        let ended = until(&server, "it ends", |canary| canary["state"] == "ended").await;
        assert_eq!((&ended["device_id"], &ended["answer"]), (&Value::Null, &Value::Null));
        assert_eq!(server.post("/push/apns-app/canary", json!({})).await.expect(409)["code"], "sender_unconfigured");
        server.post("/push/pigeon/canary", json!({})).await.expect(404);
        // One phone, called a moment ago.
        let phone = server.phone("one").await;
        server.advance(2 * GAP_MS);
        server.post("/push/fcm/canary", json!({})).await.expect(202);
        until(&server, "it is called", |canary| canary["answer"] == "accepted").await;
        phone.visit(&server, "push").await;
        until(&server, "it came", |canary| canary["state"] == "ended").await;
        server.post("/push/fcm/canary", json!({})).await.expect(202);
        let ended = until(&server, "it ends", |canary| canary["state"] == "ended").await;
        assert_eq!(ended["device_id"], Value::Null, "the gap since its last call has not passed");
        server.advance(2 * GAP_MS);
        // A phone that does not come: the time of the canary ends, and the schedule goes on as ever.
        server.post("/push/fcm/canary", json!({})).await.expect(202);
        until(&server, "it is called", |canary| canary["answer"] == "accepted").await;
        server.advance(WATCH_MS);
        let ended = until(&server, "its time is over", |canary| canary["state"] == "ended").await;
        assert_eq!((&ended["device_id"], &ended["contact_at_ms"]), (&json!(phone.id), &Value::Null));
        // Who has not come for a day proves nothing.
        server.advance(25 * 3_600_000);
        server.post("/push/fcm/canary", json!({})).await.expect(202);
        let ended = until(&server, "it ends", |canary| canary["state"] == "ended").await;
        assert_eq!(ended["device_id"], Value::Null);
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_the_provider_refuses_is_told_by_the_providers_word() {
    each_database(async |server| {
        phones(&server).await;
        server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::permission_denied());
        replace(&server).await;
        let told = until(&server, "the refusal is told", |canary| !canary["answer"].is_null()).await;
        let answer = told["answer"].as_str().unwrap();
        assert!(answer.starts_with("fault: ") && answer.contains("PERMISSION_DENIED"), "{answer}");
        // The next credential has a canary of its own.
        server.fcm.faults().clear();
        replace(&server).await;
        until(&server, "the new one is taken", |canary| canary["answer"] == "accepted").await;
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_orders_a_canary_and_fails_unless_the_provider_takes_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell::start(folder.path(), "sqlite://muster.db", "").await;
    assert!(shell.refused("push canary fcm").await.contains("fcm: no device came within a day"));
    assert!(shell.refused("push canary pigeon").await.contains("404"));
    shell.post("/users", json!({"email": "user@example.org", "name": "A user"})).await.expect(201);
    let token = shell.post("/enrollment-tokens", json!({"name": "one"})).await.expect(201)["token"].as_str().unwrap().to_owned();
    let push = shell.fcm.register();
    let mut pushes = shell.fcm.connect(&push);
    let agent = |path: &str, bearer: Option<&str>, body: Value| {
        let request = reqwest::Client::new().post(format!("{}/agent/v1/{path}", shell.server.url)).json(&body);
        reply(if let Some(bearer) = bearer { request.bearer_auth(bearer) } else { request })
    };
    let made = agent("activate", None, activation(&token, "user@example.org", "one", Some(&push))).await.expect(201);
    let bearer = made["device_token"].as_str().unwrap().to_owned();
    agent("sync", Some(&bearer), json!({"cause": "launch", "policy": {"version": null}})).await.expect(200);
    // The phone comes when it is called.
    let comes = agent("sync", Some(&bearer), json!({"cause": "push"}));
    let phone = tokio::spawn(async move {
        pushes.recv().await.unwrap();
        comes.await.expect(200);
    });
    let said = shell.said("push canary fcm").await;
    assert!(said.contains("fcm: accepted; the device came "), "{said}");
    phone.await.unwrap();
}
