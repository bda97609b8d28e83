//! Contacts: each result once, whatever the order, the hurry and the repetition.

use serde_json::{Value, json};

use crate::support::device::activation;
use crate::support::server::each_database;

#[tokio::test]
async fn two_contacts_of_one_phone_at_once_record_a_result_once() {
    each_database(async |server| {
        let phone = server.phone("twice").await;
        server.post("/jobs", json!({"kind": "locate", "target": {"devices": [phone.id]}})).await.expect(202);
        let task = phone.visit(&server, "push").await["tasks"][0].clone();
        let say = |status: &str| json!({"cause": "push", "results": [{"task_id": task["id"], "status": status, "at_ms": 1}]});
        let (one, other) = tokio::join!(phone.sync(&server, say("done")), phone.sync(&server, say("failed")));
        let mut outcomes = [one.expect(200), other.expect(200)].map(|answer| answer["results"][0]["outcome"].as_str().unwrap().to_owned());
        outcomes.sort();
        assert_eq!(outcomes, ["duplicate", "recorded"], "the first final result wins");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_result_after_the_cancellation_is_late_and_what_the_agent_has_is_not_sent_again() {
    each_database(async |server| {
        let phone = server.phone("late").await;
        server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id]}})).await.expect(202);
        let task = phone.visit(&server, "push").await["tasks"][0].clone();
        let again = phone.visit(&server, "push").await["tasks"][0].clone();
        assert_eq!((&again["id"], again["attempt"].as_i64()), (&task["id"], Some(2)), "an answer may have been lost: delivered once more");
        let had = phone.sync(&server, json!({"cause": "push", "have": [task["id"]]})).await.expect(200);
        assert_eq!(had["tasks"], json!([]));
        let path = format!("/tasks/{}", task["id"].as_str().unwrap());
        let cancelled = server.post(&format!("{path}/cancel"), json!({})).await.expect(200);
        assert!(cancelled["error"]["message"].as_str().unwrap().contains("after delivery"), "{cancelled}");
        let answer = phone.report(&server, std::slice::from_ref(&task), "done").await;
        assert_eq!(answer["results"][0]["outcome"], "late");
        let shown = server.get(&path).await;
        assert_eq!((shown["state"].as_str(), shown["late"]["state"].as_str()), (Some("cancelled"), Some("done")));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn more_than_fifty_tasks_are_told_to_come_again() {
    each_database(async |server| {
        let phone = server.phone("busy").await;
        for _ in 0..53 {
            server.post("/jobs", json!({"kind": "message", "params": {"text": "x"}, "target": {"devices": [phone.id]}})).await.expect(202);
        }
        let first = phone.visit(&server, "push").await;
        let tasks = first["tasks"].as_array().unwrap().clone();
        assert_eq!((tasks.len(), &first["more"]), (50, &json!(true)));
        let second = phone.report(&server, &tasks, "done").await;
        assert_eq!((second["tasks"].as_array().unwrap().len(), &second["more"]), (3, &json!(false)));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_reinstalled_app_ends_the_old_token_and_a_renewal_keeps_it_until_the_fresh_one_is_used() {
    each_database(async |server| {
        server.user("r@example.org").await;
        let token = server.enrollment_token().await;
        let first = server.phone_with(&token, "r@example.org", "r-phone").await;
        first.visit(&server, "launch").await;
        let again = server.phone_with(&token, "r@example.org", "r-phone").await;
        assert_eq!(first.id, again.id, "no second device");
        assert_eq!(first.sync(&server, json!({"cause": "push"})).await.expect(401)["code"], "token_replaced");
        let body = activation(&token, "r@example.org", "r-phone", None);
        let fresh = server.activate(&body, Some(&again.token)).await.expect(200)["device_token"].as_str().unwrap().to_owned();
        again.visit(&server, "push").await;
        let renewed = crate::support::device::TestDevice { token: fresh, ..again.clone() };
        renewed.visit(&server, "push").await;
        assert_eq!(again.sync(&server, json!({"cause": "push"})).await.expect(401)["code"], "token_replaced");
        server.user("other@example.org").await;
        let stranger = server.activate(&activation(&token, "other@example.org", "r-phone", None), None).await;
        assert_eq!((stranger.status, stranger.body["code"].as_str()), (409, Some("device_conflict")));
        let parked = server.get("/devices?state=pending_approval").await["items"][0].clone();
        server.post(&format!("/devices/{}/authorize", parked["id"].as_str().unwrap()), json!({})).await.expect(200);
        let admitted = server.activate(&activation(&token, "other@example.org", "r-phone", None), None).await.expect(201);
        assert_eq!(admitted["device_id"], parked["id"]);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_retired_phone_deletes_its_data_and_its_last_words_are_kept() {
    each_database(async |server| {
        let phone = server.phone("retired").await;
        server.post(&format!("/devices/{}/retire", phone.id), json!({})).await.expect(202);
        let event = json!({"event_id": "0198f3a2-7c4e-7b1a-9f00-00000000abcd", "type": "usb_debugging_changed", "seq": 1, "occurred_at_ms": 1,
            "data": {"enabled": true}});
        let problem = phone.sync(&server, json!({"cause": "push", "events": [event]})).await.expect(403);
        assert_eq!((problem["code"].as_str(), problem["action"].as_str()), (Some("unauthorized"), Some("wipe_app_data")));
        assert_eq!(problem["events"][0]["outcome"], "recorded");
        assert_eq!(problem["tasks"][0]["kind"], "retire");
        let results = json!([{"task_id": problem["tasks"][0]["id"], "status": "done", "at_ms": 1}]);
        let confirmed = phone.sync(&server, json!({"cause": "push", "action_done": true, "results": results})).await.expect(403);
        assert_eq!(confirmed["results"][0]["outcome"], "recorded");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn events_are_kept_once_in_any_order_and_across_reinstallations() {
    each_database(async |server| {
        server.user("e@example.org").await;
        let token = server.enrollment_token().await;
        let phone = server.phone_with(&token, "e@example.org", "e-phone").await;
        let event = |n: i64, enabled: bool| {
            json!({"event_id": format!("0198f3a2-7c4e-7b1a-9f00-{n:012}"), "type": "usb_debugging_changed", "seq": n,
                "occurred_at_ms": server.clock.now_ms(), "first_attempt_at_ms": server.clock.now_ms(), "attempt": 1, "data": {"enabled": enabled}})
        };
        let outcome = |answer: &Value| answer["events"][0]["outcome"].as_str().unwrap().to_owned();
        assert_eq!(outcome(&phone.events(&server, json!([event(2, false)])).await.expect(200)), "recorded");
        assert_eq!(outcome(&phone.events(&server, json!([event(1, true)])).await.expect(200)), "recorded");
        assert_eq!(outcome(&phone.events(&server, json!([event(1, true)])).await.expect(200)), "duplicate");
        assert_eq!(server.get("/findings?open=true").await["items"], json!([]), "an older event that comes later moves no state");
        let again = server.phone_with(&token, "e@example.org", "e-phone").await;
        let mut first = event(1, true);
        first["event_id"] = json!("0198f3a2-7c4e-7b1a-9f01-000000000001");
        assert_eq!(outcome(&again.events(&server, json!([first])).await.expect(200)), "recorded");
        assert_eq!(server.get("/findings?open=true").await["items"][0]["kind"], "usb_debugging", "a fresh activation counts from one again");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_push_outage_of_ten_minutes_delays_the_nudge_and_loses_none() {
    each_database(async |server| {
        let phone = server.phone("outage").await;
        let mut pushes = server.fcm.connect(&phone.push);
        server.fcm.refuse_connections();
        server.post("/jobs", json!({"kind": "lock", "target": {"devices": [phone.id]}})).await.expect(202);
        for _ in 0..10 {
            server.advance(60_000);
            tokio::task::yield_now().await;
        }
        server.fcm.accept_connections().await.unwrap();
        let mut nudged = false;
        server
            .until("the nudge after the outage", async || {
                server.advance(30_000);
                nudged |= pushes.try_recv().is_ok();
                nudged
            })
            .await;
        assert_eq!(phone.visit(&server, "push").await["tasks"][0]["kind"], "lock");
        server.stop().await;
    })
    .await;
}
