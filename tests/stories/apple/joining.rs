//! An app and the MDM client of one iPhone become one device: a policy hands the app a token of that very device.

use muster::model::token::hash;
use muster::store::tokens;
use muster::work::retention;
use serde_json::{Value, json};

use super::commands::task;
use crate::support::apple::{AppleDevice, bytes, each_quiet, texts};
use crate::support::device::TestDevice;
use crate::support::server::{Reply, TestServer};

/// The text that the policy declares to a device, as it asks for it.
async fn token_of(server: &TestServer, phone: &AppleDevice) -> String {
    let body = texts(&[("MessageType", "DeclarativeManagement"), ("UDID", &phone.udid), ("Endpoint", "declaration/management/app")]);
    let told = phone.send(server, "checkin", "application/x-apple-aspen-mdm-checkin", bytes(body)).await.expect(200);
    serde_json::from_slice::<Value>(&told.body).unwrap()["Payload"]["token"].as_str().unwrap().to_owned()
}

/// The app of an iPhone activates.
async fn activate(server: &TestServer, token: &str, email: &str, hardware_id: &str) -> Reply {
    let device = json!({"platform": "ios", "app": "org.example.agent", "hardware_id": hardware_id, "model": "iPhone", "os_version": "18.1",
        "agent_version": "1.0", "management_mode": "app"});
    server.activate(&json!({"token": token, "email": email, "device": device}), None).await
}

/// An iPhone whose app is a channel of it, as the app sees itself.
async fn joined(server: &TestServer, phone: &AppleDevice) -> TestDevice {
    let id = phone.enroll(server).await;
    server.user("one@example.org").await;
    server.post("/enrollment-tokens", json!({"name": "the app"})).await.expect(201);
    let declared = json!([{"Type": "com.apple.management.properties", "Identifier": "app", "Payload": {"token": "{{token:the app}}"}}]);
    server.put("/policies/app", json!({"document": {"apple": {"declarations": declared}}})).await.expect(201);
    server.put("/policies/app/assignments", json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]})).await.expect(200);
    let desired = async || server.get(&format!("/devices/{id}")).await["channels"][0]["desired"].clone();
    server.until("it has something to have", async || !desired().await.is_null()).await;
    let made = activate(server, &token_of(server, phone).await, "one@example.org", "app-1").await.expect(201);
    TestDevice { id, token: made["device_token"].as_str().unwrap().to_owned(), push: String::new(), hardware_id: "app-1".into() }
}

#[tokio::test]
async fn a_refresh_asks_the_phone_and_its_app_and_is_ordered_again_of_both() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("1");
        let app = joined(&server, &phone).await;
        app.visit(&server, "launch").await;
        let order = json!({"kind": "refresh", "params": {"what": "facts"}, "target": {"devices": [app.id]}});
        let job = server.post("/jobs", order).await.expect(202);
        assert_eq!(job["tasks"], 2);
        let path = format!("/jobs/{}", job["id"].as_str().unwrap());
        let tasks = server.get(&format!("{path}/tasks")).await;
        let mut channels: Vec<&str> = tasks["items"].as_array().unwrap().iter().map(|task| task["channel"].as_str().unwrap()).collect();
        channels.sort_unstable();
        assert_eq!(channels, ["agent", "mdm"]);
        server.post(&format!("{path}/cancel"), json!({})).await.expect(200);
        let again = server.post(&format!("{path}/retry"), json!({})).await.expect(202);
        assert_eq!(again["counts"], json!({"queued": 2}));
        let asked = app.sync(&server, json!({"cause": "push"})).await.expect(200);
        assert_eq!(asked["tasks"][0]["kind"], "refresh");
        assert!(phone.idle(&server).await.command().is_some(), "and so is the phone");
    })
    .await;
}

#[tokio::test]
async fn an_app_that_is_silent_on_an_iphone_that_is_not_is_a_finding_until_it_comes() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("1");
        let app = joined(&server, &phone).await;
        app.visit(&server, "launch").await;
        let since_ms = server.clock.now_ms();
        let findings = async |kind: &str| server.get(&format!("/findings?kind={kind}")).await["items"].as_array().unwrap().clone();
        for _ in 0..3 {
            server.advance(16 * 3_600_000);
            phone.idle(&server).await;
        }
        let told = async || {
            server.advance(31_000);
            findings("client_silent").await.len() == 1
        };
        server.until("the app is told to be silent", told).await;
        let found = findings("client_silent").await[0].clone();
        assert_eq!((&found["device_id"], &found["due_at_ms"]), (&json!(app.id), &json!(since_ms + 48 * 3_600_000)));
        assert_eq!(server.get(&format!("/devices/{}", app.id)).await["state"], "active", "as alive as its liveliest channel");
        assert!(findings("silence").await.is_empty());
        app.visit(&server, "launch").await;
        let closed = async || {
            server.advance(31_000);
            findings("client_silent").await[0]["closed_by"] == "contact"
        };
        server.until("it came", closed).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_app_activates_with_the_token_that_a_declaration_holds_and_is_a_channel_of_that_iphone() {
    each_quiet(async |server| {
        let (first, second, third) = (AppleDevice::named("1"), AppleDevice::named("2"), AppleDevice::named("3"));
        let id = first.enroll(&server).await;
        let second_id = second.enroll(&server).await;
        server.user("one@example.org").await;
        let named = server.post("/enrollment-tokens", json!({"name": "the app"})).await.expect(201);
        let declared = json!([{"Type": "com.apple.management.properties", "Identifier": "app", "Payload": {"token": "{{token:the app}}"}}]);
        server.put("/policies/app", json!({"document": {"apple": {"declarations": declared}}})).await.expect(201);
        server.put("/policies/app/assignments", json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]})).await.expect(200);
        let channels = async |id: &str| server.get(&format!("/devices/{id}")).await["channels"].as_array().unwrap().clone();
        for id in [&id, &second_id] {
            server.until("it has something to have", async || !channels(id).await[0]["desired"].is_null()).await;
        }
        // Asked for before it was announced, after, and again: always the same.
        let token = token_of(&server, &first).await;
        assert!(token.starts_with("mdt_"), "{token}");
        assert_eq!(first.idle(&server).await.request().1, "DeclarativeManagement");
        assert_eq!(token_of(&server, &first).await, token);
        let seconds = token_of(&server, &second).await;
        assert_ne!(seconds, token);
        // It is one device's, and no operator reads it.
        let listed = server.get("/enrollment-tokens").await;
        assert_eq!(listed["items"].as_array().unwrap().iter().filter(|one| one["name"] == "the app").count(), 1);
        for path in ["document", "declarations"] {
            assert!(!server.get(&format!("/devices/{id}/{path}")).await.to_string().contains(&token), "{path}");
        }
        let joined = activate(&server, &token, "one@example.org", "app-1").await.expect(201);
        assert_eq!(joined["device_id"], json!(id));
        let mut kinds: Vec<Value> = channels(&id).await.iter().map(|channel| channel["kind"].clone()).collect();
        kinds.sort_by_key(Value::to_string);
        assert_eq!(kinds, ["agent", "mdm"]);
        let device = server.get(&format!("/devices/{id}")).await;
        assert_eq!((&device["model"], &device["management_mode"]), (&json!("iPhone15,2"), &json!("mdm")), "the system's word weighs more");
        assert_eq!(device["user"]["email"], "one@example.org");
        // What can be done by both is done by the system, what only an app can do by the app.
        for (kind, params, channel) in [("lock", json!({}), "mdm"), ("message", json!({"text": "hello"}), "agent")] {
            let made = task(&server, kind, params, &id).await;
            let of = server.get(&format!("/tasks/{made}")).await["channel"].clone();
            let which = channels(&id).await.into_iter().find(|one| one["id"] == of || one["kind"] == of).unwrap();
            assert_eq!(which["kind"], channel, "{kind}");
        }
        // Once: other hardware does not get in by it; the same app does, which was installed anew.
        let refused = activate(&server, &token, "one@example.org", "app-elsewhere").await;
        assert_eq!((refused.status, &refused.body["code"]), (403, &json!("token_exhausted")));
        assert_eq!(activate(&server, &token, "one@example.org", "app-1").await.expect(201)["device_id"], json!(id));
        // It dies with its name where it was not used, and nobody new gets one.
        server.post(&format!("/enrollment-tokens/{}/revoke", named["id"].as_str().unwrap()), json!({})).await.expect(200);
        let refused = activate(&server, &seconds, "one@example.org", "app-2").await;
        assert_eq!((refused.status, &refused.body["code"]), (403, &json!("token_revoked")));
        let third_id = third.enroll(&server).await;
        let held = async || channels(&third_id).await[0]["hold"].clone();
        server.until("the third is held", async || held().await == json!("variable_missing:token:the app")).await;
        // The first is not. With its user it has another one, which opens nothing.
        let of_user = token_of(&server, &first).await;
        let refused = activate(&server, &of_user, "one@example.org", "app-3").await;
        assert_eq!((of_user == token, refused.status, &refused.body["code"]), (false, 403, &json!("token_revoked")));
        server.stop().await;
    })
    .await;
}

/// True while the server knows this token.
async fn is_kept(server: &TestServer, token: &str) -> bool {
    tokens::by_hash(&mut server.app.db.read().await.unwrap(), &hash(token)).await.unwrap().is_some()
}

#[tokio::test]
async fn unused_tokens_of_a_name_that_has_ended_are_forgotten_once_no_document_refers_to_it() {
    each_quiet(async |server| {
        let (first, second) = (AppleDevice::named("1"), AppleDevice::named("2"));
        let ids = [first.enroll(&server).await, second.enroll(&server).await];
        server.user("one@example.org").await;
        let named = server.post("/enrollment-tokens", json!({"name": "the app"})).await.expect(201);
        let declared = json!([{"Type": "com.apple.management.properties", "Identifier": "app", "Payload": {"token": "{{token:the app}}"}}]);
        server.put("/policies/app", json!({"document": {"apple": {"declarations": declared}}})).await.expect(201);
        let assign = async |to: Value| server.put("/policies/app/assignments", json!({"assignments": to})).await.expect(200);
        assign(json!([{"label": "all", "mode": "include", "rank": 1}])).await;
        let channel = async |id: &str| server.get(&format!("/devices/{id}")).await["channels"][0].clone();
        for id in &ids {
            server.until("it has something to have", async || !channel(id).await["desired"].is_null()).await;
        }
        let (used, unused) = (token_of(&server, &first).await, token_of(&server, &second).await);
        activate(&server, &used, "one@example.org", "app-1").await.expect(201);
        server.post(&format!("/enrollment-tokens/{}/revoke", named["id"].as_str().unwrap()), json!({})).await.expect(200);
        server.advance(31 * 86_400_000);
        retention::pass(&server.app).await.unwrap();
        assert!(is_kept(&server, &unused).await, "what a device was given holds it not");
        assert_eq!(channel(&ids[1]).await["hold"], Value::Null);
        // The calendar may be at it in this very moment: it is asked until it was done.
        let before = channel(&ids[1]).await["desired"].clone();
        assign(json!([])).await;
        server.until("it is to have nothing", async || channel(&ids[1]).await["desired"] != before).await;
        server
            .until("the unused one is forgotten", async || {
                retention::pass(&server.app).await.unwrap();
                !is_kept(&server, &unused).await
            })
            .await;
        assert!(is_kept(&server, &used).await, "by which a device came in");
        server.stop().await;
    })
    .await;
}
