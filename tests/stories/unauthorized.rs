//! Devices that may not go on: what they are told, and what they still may do.

use serde_json::{Value, json};

use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database};

/// What a denied phone is told.
async fn told(server: &TestServer, phone: &TestDevice, body: Value) -> Value {
    let said = phone.sync(server, body).await.expect(403);
    assert_eq!(said["code"], "unauthorized");
    said
}

async fn user_of(server: &TestServer, phone: &TestDevice) -> String {
    let device = server.get(&format!("/devices/{}", phone.id)).await;
    format!("/users/{}", device["user_id"].as_str().unwrap())
}

#[tokio::test]
async fn a_disabled_users_phone_signs_out_and_comes_back_with_its_user() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        let user = user_of(&server, &phone).await;
        server.call("PATCH", &user, Some(json!({"enabled": false}))).await.expect(200);
        let said = told(&server, &phone, json!({"cause": "push"})).await;
        assert_eq!(said["action"], "sign_out");
        assert_eq!(phone.events(&server, json!([])).await.status, 403);
        told(&server, &phone, json!({"action_done": true})).await;
        // The sync is recorded all the same.
        let device = server.get(&format!("/devices/{}", phone.id)).await;
        assert_eq!(device["channels"][0]["last_contact_ms"], json!(server.clock.now_ms()));
        assert_eq!((&device["unauthorized"], &device["unauthorized_reason"]), (&json!(true), &json!("user_disabled")));
        server.call("PATCH", &user, Some(json!({"enabled": true}))).await.expect(200);
        phone.visit(&server, "periodic").await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_phone_of_a_deleted_user_deletes_the_apps_data() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        let user = user_of(&server, &phone).await;
        server.call("DELETE", &user, None).await.expect(204);
        assert_eq!(told(&server, &phone, json!({"cause": "push"})).await["action"], "wipe_app_data");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_apps_that_policies_gave_go_with_the_user_and_come_back_with_it() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        let apps = json!([{"packageName": "org.example.mail", "installType": "FORCE_INSTALLED"},
            {"packageName": "org.example.game", "installType": "BLOCKED"}, {"bundleId": "org.example.notes"}]);
        server.put("/policies/apps", json!({"document": {"applications": apps}})).await.expect(201);
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        server.put("/policies/apps/assignments", all).await.expect(200);
        let document = async || phone.visit(&server, "periodic").await["policy"]["document"].clone();
        server.until("the policy is there", async || document().await["applications"].is_array()).await;
        // Signed out by an operator: the phone keeps what it has.
        server.post(&format!("/devices/{}/unauthorize", phone.id), json!({})).await.expect(200);
        assert_eq!(told(&server, &phone, json!({"cause": "push"})).await["remove_apps"], json!([]));
        server.post(&format!("/devices/{}/authorize", phone.id), json!({})).await.expect(200);
        let user = user_of(&server, &phone).await;
        server.call("PATCH", &user, Some(json!({"enabled": false}))).await.expect(200);
        assert_eq!(told(&server, &phone, json!({"cause": "push"})).await["remove_apps"], json!(["org.example.mail"]));
        assert_eq!(phone.events(&server, json!([])).await.expect(403)["remove_apps"], json!(["org.example.mail"]));
        server.call("PATCH", &user, Some(json!({"enabled": true}))).await.expect(200);
        assert!(document().await["applications"].is_array(), "one that reports no version gets its document anew");
        server.delete(&user).await.expect(204);
        assert_eq!(told(&server, &phone, json!({"cause": "push"})).await["remove_apps"], json!(["org.example.mail"]));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_unauthorized_phone_gets_only_the_tasks_that_protect_it() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        for kind in ["message", "lock"] {
            let params = if kind == "message" { json!({"text": "hello"}) } else { json!({}) };
            let job = json!({"kind": kind, "params": params, "target": {"devices": [phone.id]}});
            server.post("/jobs", job).await.expect(202);
        }
        let device = server.post(&format!("/devices/{}/unauthorize", phone.id), json!({})).await.expect(200);
        assert_eq!(device["unauthorized"], json!(true));
        let said = told(&server, &phone, json!({"cause": "push"})).await;
        assert_eq!(said["action"], "sign_out");
        let kinds: Vec<&Value> = said["tasks"].as_array().unwrap().iter().map(|task| &task["kind"]).collect();
        assert_eq!(kinds, [&json!("lock")]);
        server.post(&format!("/devices/{}/authorize", phone.id), json!({})).await.expect(200);
        let answer = phone.visit(&server, "push").await;
        let kinds: Vec<&Value> = answer["tasks"].as_array().unwrap().iter().map(|task| &task["kind"]).collect();
        assert!(kinds.contains(&&json!("message")), "{answer}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_retired_phone_is_told_to_delete_the_apps_data_and_is_managed_no_more() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        server.post(&format!("/devices/{}/retire", phone.id), json!({})).await.expect(202);
        let said = told(&server, &phone, json!({"cause": "push"})).await;
        assert_eq!(said["action"], "wipe_app_data");
        assert_eq!(said["tasks"][0]["kind"], "retire");
        let done = json!({"action_done": true, "results": [{"task_id": said["tasks"][0]["id"], "status": "done", "at_ms": 1}]});
        assert_eq!(told(&server, &phone, done).await["results"][0]["outcome"], "recorded");
        assert_eq!(server.get(&format!("/devices/{}", phone.id)).await["state"], "unmanaged");
        let token = server.enrollment_token().await;
        let again = crate::support::device::activation(&token, "h@example.org", "h", None);
        assert_eq!(server.activate(&again, None).await.expect(403)["code"], "device_unauthorized");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn revoking_a_token_with_quarantine_shuts_out_what_it_admitted_since() {
    each_database(async |server| {
        server.user("user@example.org").await;
        let made = server.post("/enrollment-tokens", json!({"name": "leaked"})).await.expect(201);
        let (id, value) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
        let early = server.phone_with(value, "user@example.org", "early").await;
        server.advance(3_600_000);
        let late = server.phone_with(value, "user@example.org", "late").await;
        let since = server.clock.now_ms() - 1000;
        let revoked = server.post(&format!("/enrollment-tokens/{id}/revoke"), json!({"quarantine_since_ms": since})).await.expect(200);
        assert_eq!(revoked["state"], "revoked");
        assert_eq!(told(&server, &late, json!({})).await["action"], "sign_out");
        assert_eq!(server.get(&format!("/devices/{}", late.id)).await["quarantined"], json!(true));
        early.visit(&server, "periodic").await;
        server.stop().await;
    })
    .await;
}
