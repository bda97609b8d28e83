//! The loop: an order reaches a phone through a contentless nudge, and its outcome comes back.

use serde_json::json;

use crate::support::device::activation;
use crate::support::server::each_database;

#[tokio::test]
async fn a_task_reaches_a_phone_through_a_nudge_and_its_outcome_comes_back() {
    each_database(async |server| {
        let phone = server.phone("maria").await;
        let mut pushes = server.fcm.connect(&phone.push);
        let job = server.post("/jobs", json!({"kind": "locate", "target": {"devices": [phone.id]}})).await.expect(202);
        assert_eq!((job["state"].as_str(), job["tasks"].as_i64()), (Some("running"), Some(1)));
        let push = tokio::time::timeout(std::time::Duration::from_secs(60), pushes.recv()).await.unwrap();
        assert!(push.is_some(), "the phone is nudged");
        let visit = phone.visit(&server, "push").await;
        let tasks = visit["tasks"].as_array().unwrap();
        assert_eq!((tasks.len(), tasks[0]["kind"].as_str()), (1, Some("locate")));
        let result = json!({"task_id": tasks[0]["id"], "status": "done", "data": {"lat": 1.5, "lon": 2.5}, "at_ms": 1});
        let report = phone.sync(&server, json!({"cause": "push", "results": [result]})).await.expect(200);
        assert_eq!(report["results"][0]["outcome"], "recorded");
        assert_eq!(report["tasks"], json!([]));
        let again = phone.sync(&server, json!({"cause": "push", "results": [result]})).await.expect(200);
        assert_eq!(again["results"][0]["outcome"], "duplicate");
        let task = server.get(&format!("/tasks/{}", tasks[0]["id"].as_str().unwrap())).await;
        assert_eq!((task["state"].as_str(), &task["result"]["lat"]), (Some("done"), &json!(1.5)));
        server
            .until("the job's end", async || server.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await["state"] == "done")
            .await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_policy_reaches_exactly_the_phones_it_is_assigned_to() {
    each_database(async |server| {
        let (one, other) = (server.phone("one").await, server.phone("other").await);
        server.put("/labels/field", json!({})).await.expect(201);
        server.put("/labels/field/devices", json!({"devices": [one.id]})).await.expect(204);
        let document = json!({"cameraAccess": "CAMERA_ACCESS_DISABLED", "messages": {"shortSupportMessage": "{{user.email}}"}});
        let made = server.put("/policies/field", json!({"document": document})).await.expect(201);
        assert_eq!(made["version"], 1);
        let assignments = json!({"assignments": [{"label": "field", "mode": "include", "rank": 1}]});
        server.put("/policies/field/assignments", assignments).await.expect(200);
        let visit = one.visit(&server, "push").await;
        assert_eq!(visit["policy"]["document"]["messages"]["shortSupportMessage"], "one@example.org");
        assert_eq!(
            other.sync(&server, json!({"cause": "push", "policy": {"version": null}})).await.expect(200)["policy"]["document"],
            json!({})
        );
        let version = visit["policy"]["version"].clone();
        let proof = one.sync(&server, json!({"cause": "push", "policy": {"version": version, "details": []}})).await.expect(200);
        assert_eq!(proof["policy"], json!(null));
        let device = server.get(&format!("/devices/{}", one.id)).await;
        assert_eq!(device["channels"][0]["applied"], version);
        let convergence = server.get("/policies/field/convergence").await;
        assert_eq!(convergence["versions"][0]["states"]["applied"], 1);
        let equal = server.put("/policies/field", json!({"document": document})).await;
        assert_eq!((equal.status, &equal.body["version"]), (200, &json!(1)));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_nudge_is_healed_by_the_three_hour_sync() {
    each_database(async |server| {
        let phone = server.phone("offline").await;
        server.fcm.unregister(&phone.push);
        server.post("/jobs", json!({"kind": "scan", "target": {"all": true}})).await.expect(202);
        server
            .until("the address dies", async || server.get(&format!("/devices/{}", phone.id)).await["channels"][0]["push_state"] == "dead")
            .await;
        let open = server.get("/tasks?reason=push_dead").await;
        assert_eq!(open["items"][0]["kind"], "scan");
        server.advance(3 * 3600 * 1000);
        let visit = phone.visit(&server, "periodic").await;
        assert_eq!(visit["tasks"][0]["kind"], "scan");
        let next = visit["next_sync_in_s"].as_i64().unwrap();
        assert!((60..=10_860).contains(&next), "{next}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_disabled_user_signs_the_phone_out_and_enabling_brings_it_back() {
    each_database(async |server| {
        let user = server.user("carl@example.org").await;
        let token = server.enrollment_token().await;
        let phone = server.phone_with(&token, "carl@example.org", "carl-phone").await;
        phone.visit(&server, "launch").await;
        let path = format!("/users/{}", user["id"].as_str().unwrap());
        server.call("PATCH", &path, Some(json!({"enabled": false}))).await.expect(200);
        let problem = phone.sync(&server, json!({"cause": "push"})).await.expect(403);
        assert_eq!((problem["code"].as_str(), problem["action"].as_str()), (Some("unauthorized"), Some("sign_out")));
        let again = server.activate(&activation(&token, "carl@example.org", "carl-phone", None), None).await;
        assert_eq!((again.status, again.body["code"].as_str()), (403, Some("user_disabled")));
        server.call("PATCH", &path, Some(json!({"enabled": true}))).await.expect(200);
        phone.sync(&server, json!({"cause": "push"})).await.expect(200);
        server.stop().await;
    })
    .await;
}
