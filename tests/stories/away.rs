//! The database gone for a while, and two servers on one database.

use serde_json::{Value, json};

use crate::support::cut::Wire;
use crate::support::postgres;
use crate::support::server::TestServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_contacts_get_503_and_then_everything_goes_on_by_itself() {
    let Some(url) = postgres::fresh_database().await else { return };
    let wire = Wire::to(&url);
    let server = TestServer::at(&wire.url, None, |_| {}).await;
    let phone = server.phone("away").await;
    let mut pushes = server.fcm.connect(&phone.push);
    server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id]}})).await.expect(202);
    let task = phone.visit(&server, "push").await["tasks"][0].clone();
    wire.cut();
    let say = json!({"cause": "push", "results": [{"task_id": task["id"], "status": "done", "at_ms": 1}]});
    let refused = phone.sync(&server, say.clone()).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    let ready = server.client.get(format!("{}/readyz", server.url)).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    wire.join();
    server.until("the phone is heard again", async || phone.sync(&server, say.clone()).await.status == 200).await;
    let shown = server.get(&format!("/tasks/{}", task["id"].as_str().unwrap())).await;
    assert_eq!(shown["state"], "done");
    while pushes.try_recv().is_ok() {}
    server.advance(60_000);
    server.post("/jobs", json!({"kind": "lock", "target": {"devices": [phone.id]}})).await.expect(202);
    // A nudge that was claimed in the instant of the cut is claimed again when its lease lapses.
    server
        .until("nudges go on", async || {
            server.advance(5_000);
            pushes.try_recv().is_ok()
        })
        .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_database_share_the_work_and_no_deadlock_reaches_a_client() {
    const PHONES: usize = 60;
    let Some(url) = postgres::fresh_database().await else { return };
    let one = TestServer::at(&url, None, |_| {}).await;
    let other = TestServer::beside(&url, None, one.clock.clone(), one.fcm.clone(), |_| {}).await;
    let token = one.enrollment_token().await;
    let mut phones = Vec::new();
    for n in 0..PHONES {
        let email = format!("user{n}@example.org");
        one.user(&email).await;
        phones.push(one.phone_with(&token, &email, &format!("hw-{n}")).await);
    }
    one.put("/labels/some", json!({})).await.expect(201);
    one.put("/policies/base", json!({"document": {"screenCaptureDisabled": true}})).await.expect(201);
    one.put("/policies/base/assignments", json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]})).await.expect(200);
    let ids: Vec<&str> = phones.iter().map(|phone| phone.id.as_str()).collect();
    let visits = |server: &TestServer, backwards: bool| {
        let mut order = phones.clone();
        if backwards {
            order.reverse();
        }
        let (server_url, client) = (server.url.clone(), server.client.clone());
        async move {
            for round in 0..4 {
                let visits = order.iter().map(|phone| {
                    let event = json!({"event_id": format!("0198f3a2-7c4e-7b1a-9f{:02}-{}", round * 2 + u8::from(backwards), &phone.id[24..]),
                        "type": "scan_finished", "seq": round * 2 + 1, "occurred_at_ms": 1, "data": {"outcome": "clean"}});
                    let request = client.post(format!("{server_url}/agent/v1/sync")).bearer_auth(&phone.token);
                    crate::support::server::reply(request.json(&json!({"cause": "push", "events": [event]})))
                });
                for reply in futures_util::future::join_all(visits).await {
                    assert_eq!(reply.status, 200, "{}", reply.body);
                }
            }
        }
    };
    let orders = async {
        for n in 0..6 {
            let (server, document) = (
                if n % 2 == 0 { &one } else { &other },
                json!({"document": {"screenCaptureDisabled": n % 2 == 0, "printingPolicy": "PRINTING_ALLOWED"}}),
            );
            server.put("/policies/base", document).await.expect(201);
            server.post("/jobs", json!({"kind": "message", "params": {"text": "x"}, "target": {"all": true}})).await.expect(202);
            server.put("/labels/some/devices", json!({"devices": ids[n * 5..n * 5 + 20]})).await.expect(204);
        }
    };
    tokio::join!(visits(&one, false), visits(&other, true), orders);
    // Everybody catches up at either server: one document, every task.
    for (n, phone) in phones.iter().enumerate() {
        let server = if n % 2 == 0 { &one } else { &other };
        let visit = phone.sync(server, json!({"cause": "push", "policy": {"version": null}})).await.expect(200);
        assert_eq!(visit["policy"]["document"]["screenCaptureDisabled"], false);
        let tasks = visit["tasks"].as_array().unwrap();
        assert_eq!(tasks.len(), 6, "every job has its task, once");
    }
    // One of the two dies without a word; the other goes on with everything.
    let survivor = other;
    one.abandon();
    survivor.advance(60_000);
    let job = survivor.post("/jobs", json!({"kind": "locate", "target": {"all": true}})).await.expect(202);
    let path = format!("/jobs/{}", job["id"].as_str().unwrap());
    let mut done: Vec<Value> = Vec::new();
    for phone in &phones {
        let visit = phone.visit(&survivor, "push").await;
        done.push(phone.report(&survivor, visit["tasks"].as_array().unwrap(), "done").await);
    }
    survivor
        .until("the survivor takes over the leases and ends the job", async || {
            survivor.advance(5_000);
            survivor.get(&path).await["state"] == "done"
        })
        .await;
    assert_eq!(done.len(), PHONES);
    survivor.stop().await;
}
