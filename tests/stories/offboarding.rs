//! A user goes: what would happen can be seen before, and is what then happens.

use muster::model::Role;
use serde_json::{Value, json};

use crate::support::server::{TestServer, each_database};

/// Everything that letting a user go could change.
async fn everything(server: &TestServer, user: &str) -> Value {
    let mut seen = vec![server.get(&format!("/users/{user}")).await];
    for path in ["/devices", "/findings", "/audit?kind=user"] {
        seen.push(server.get(path).await);
    }
    // Of tasks the state alone: why one waits goes on changing as its phone is called.
    let tasks = server.get("/tasks").await;
    seen.extend(tasks["items"].as_array().unwrap().iter().map(|task| json!([task["id"], task["state"]])));
    json!(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_happen_to_devices_tasks_and_findings_is_shown_before_and_is_what_happens() {
    each_database(async |server| {
        let phone = server.phone("goes").await;
        let stays = server.phone("stays").await;
        let shown = server.get(&format!("/devices/{}", phone.id)).await;
        let user = shown["user_id"].as_str().unwrap().to_owned();
        // Another phone of the same user, which is gone already.
        let token = server.enrollment_token().await;
        let gone = server.phone_with(&token, "goes@example.org", "gone").await;
        server.post(&format!("/devices/{}/retire", gone.id), json!({})).await.expect(202);
        for kind in ["scan", "locate"] {
            server.post("/jobs", json!({"kind": kind, "target": {"devices": [phone.id, stays.id]}})).await.expect(202);
        }
        let finding = json!({"event_id": "01900000-0000-7000-8000-000000000001", "type": "usb_debugging_changed", "seq": 1, "occurred_at_ms": 1,
            "first_attempt_at_ms": 1, "attempt": 1, "boot_id": "b", "uptime_ms": 1, "policy_version": null, "data": {"enabled": true}});
        phone.events(&server, json!([finding])).await.expect(200);
        server.until("the finding is open", async || !server.get("/findings").await["items"].as_array().unwrap().is_empty()).await;
        let before = everything(&server, &user).await;
        let path = format!("/users/{user}/offboarding");
        let of = |seen: &Value, id: &str| seen["devices"].as_array().unwrap().iter().find(|device| device["device_id"] == id).unwrap().clone();
        let disabled = server.get(&format!("{path}?way=disable")).await;
        assert_eq!((&of(&disabled, &phone.id)["action"], &disabled["tasks_cancelled"]), (&json!("sign_out"), &json!(0)));
        let deleted = server.get(&path).await;
        assert_eq!((&deleted["way"], &deleted["email"]), (&json!("delete"), &json!("goes@example.org")));
        let goes = of(&deleted, &phone.id);
        assert_eq!((&goes["action"], &goes["tasks_cancelled"], &goes["findings_closed"]), (&json!("wipe_app_data"), &json!(1), &json!(1)));
        assert_eq!((&of(&deleted, &gone.id)["action"], &of(&deleted, &gone.id)["denied"]), (&json!("none"), &json!("retired")));
        assert_eq!(deleted["devices"].as_array().unwrap().len(), 2, "nobody else's");
        let browser = server.operator("anna", Role::Operator).await;
        let asked = browser.get(&format!("/users/{user}/delete")).await.text;
        assert!(asked.contains("1 of 2 devices (S-goes) delete the app") && asked.contains("Open tasks cancelled: 1. Findings closed: 1."), "{asked}");
        assert_eq!(everything(&server, &user).await, before, "looking changes nothing");
        // Who only reads may not even try it out.
        let viewer = server.post("/keys", json!({"name": "board", "role": "viewer"})).await.expect(201)["key"].as_str().unwrap().to_owned();
        let refused = server.client.get(format!("{}/api/v1{path}", server.url)).bearer_auth(viewer).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 403);
        server.call("GET", &format!("{path}?way=sideways"), None).await.expect(422);
        // And so it comes.
        server.call("DELETE", &format!("/users/{user}"), None).await.expect(204);
        let open = async |path: &str| server.get(path).await["items"].as_array().unwrap().len();
        assert_eq!(open(&format!("/tasks?state=cancelled&device={}", phone.id)).await, 1, "where it is may still be asked");
        assert_eq!(open(&format!("/tasks?state=queued&device={}", stays.id)).await, 2);
        let refused = phone.sync(&server, json!({"cause": "periodic"})).await.expect(403);
        assert_eq!(refused["action"], "wipe_app_data");
        server.call("GET", &path, None).await.expect(404);
        server.stop().await;
    })
    .await;
}
