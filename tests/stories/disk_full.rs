//! The disk of the database is full for a while.

use serde_json::{Value, json};

use crate::support::server::TestServer;

fn event(n: usize) -> Value {
    json!([{"event_id": format!("0198f3a2-7c4e-7b1a-9f00-{n:012}"), "type": "web_page_blocked", "seq": n, "occurred_at_ms": 1,
        "data": {"url": format!("https://blocked.example/{}", "x".repeat(1500))}}])
}

/// The status of `/readyz`, and whether it tells of a full disk.
async fn ready(server: &TestServer) -> (u16, bool) {
    let answer = server.client.get(format!("{}/readyz", server.url)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap().contains("\ndatabase_full: "))
}

/// What `muster doctor` finds beside this server.
async fn doctor(server: &TestServer) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster"));
    command
        .arg("doctor")
        .env("MUSTER_DATABASE_URL", &server.config.database_url)
        .env("MUSTER_SECRETS_KEY", server.config.secrets.key.as_deref().unwrap())
        .env("MUSTER_LISTEN", server.url.trim_start_matches("http://"));
    String::from_utf8(command.output().await.unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_answers_503_reads_go_on_nothing_accepted_is_lost_and_room_brings_everything_back() {
    let server = TestServer::on_sqlite().await;
    let phone = server.phone("full").await;
    let mut pushes = server.fcm.connect(&phone.push);
    server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id]}})).await.expect(202);
    let task = phone.visit(&server, "push").await["tasks"][0].clone();
    server.app.db.cap_growth(Some(20)).await.unwrap();
    // Events are accepted until there is no room; from then on every one is refused, again and again.
    let mut accepted = 0;
    let refused = loop {
        let answer = phone.events(&server, event(accepted + 1)).await;
        if answer.status != 200 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 1000, "the disk never became full");
    };
    let full_ms = server.clock.now_ms();
    assert_eq!((refused.status, refused.body["code"].as_str()), (503, Some("database_full")), "{}", refused.body);
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<i64>().unwrap() > 0);
    let mut refusals = 0;
    while refusals < 100 {
        let again = phone.events(&server, event(accepted + 1)).await;
        if again.status == 200 {
            // The server's own tidying frees a page now and then, and whoever comes then is heard.
            accepted += 1;
            assert!(accepted < 1000, "the disk is not full any more");
            continue;
        }
        assert_eq!((again.status, again.body["code"].as_str()), (503, Some("database_full")), "{}", again.body);
        refusals += 1;
    }
    let long = "x".repeat(3000);
    let mut orders = Vec::new();
    for n in 0..20 {
        orders
            .push(server.post("/users", json!({"email": format!("u{n}@example.org"), "name": "A user", "attributes": {"a": long}})).await);
    }
    assert!(
        orders.iter().all(|order| matches!(order.status, 201 | 503)),
        "{:?}",
        orders.iter().map(|order| order.status).collect::<Vec<_>>()
    );
    assert!(orders.iter().any(|order| order.status == 503), "the disk had room for operators");
    // Reading goes on.
    assert_eq!(server.get("/devices").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&format!("/tasks/{}", task["id"].as_str().unwrap())).await["state"], "delivered");
    assert_eq!(ready(&server).await, (200, true), "it stays in service and says what is wrong");
    let told = doctor(&server).await;
    assert!(told.contains("database_full: nothing can be written since"), "{told}");
    // Room returns: no restart, nothing lost, everything goes on.
    server.app.db.cap_growth(None).await.unwrap();
    let answer = phone.events(&server, event(accepted + 1)).await.expect(200);
    assert_eq!(answer["events"][0]["outcome"], "recorded", "the refused event had left no trace");
    // The alarm says since when, stays until it was quiet for a minute, and closes by itself.
    let alarm =
        async || server.get("/alarms").await["items"].as_array().unwrap().iter().find(|one| one["kind"] == "database_full").cloned();
    server.until("the alarm", async || alarm().await.is_some()).await;
    let opened = alarm().await.unwrap();
    assert_eq!((opened["state"].as_str(), opened["opened_at_ms"].as_i64()), (Some("open"), Some(full_ms)), "{opened}");
    assert_eq!(ready(&server).await, (200, true), "a minute without a failure has not passed");
    server.advance(61_000);
    server.until("its end", async || alarm().await.is_some_and(|one| one["state"] == "closed")).await;
    server.until("readiness", async || ready(&server).await == (200, false)).await;
    assert!(doctor(&server).await.contains("and is ready"));
    let count = server.get(&format!("/events?device={}&limit=500", phone.id)).await["items"].as_array().unwrap().len();
    assert_eq!(count, (accepted + 1).min(500), "exactly what was accepted");
    assert_eq!(phone.report(&server, std::slice::from_ref(&task), "done").await["results"][0]["outcome"], "recorded");
    for (n, order) in orders.iter().enumerate() {
        let again = server.post("/users", json!({"email": format!("u{n}@example.org"), "name": "A user"})).await;
        assert_eq!(again.status, if order.status == 201 { 409 } else { 201 }, "user {n} exists exactly if that was said");
    }
    while pushes.try_recv().is_ok() {}
    server.advance(600_000);
    server.post("/jobs", json!({"kind": "lock", "target": {"devices": [phone.id]}})).await.expect(202);
    server
        .until("nudges go on", async || {
            server.advance(5_000);
            pushes.try_recv().is_ok()
        })
        .await;
    server.until("the feed goes on", async || server.get("/audit?kind=job.created").await["items"].as_array().unwrap().len() == 2).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_is_full_the_nudges_of_what_was_ordered_before_flow_and_a_death_is_learned_again() {
    let server = TestServer::on_sqlite().await;
    let mut phones = Vec::new();
    for n in 0..20 {
        let phone = server.phone(&format!("full-{n}")).await;
        let pushes = server.fcm.connect(&phone.push);
        phones.push((phone, pushes));
    }
    let gone = server.phone("gone").await;
    server.fcm.refuse_connections();
    server.post("/jobs", json!({"kind": "scan", "target": {"all": true}})).await.expect(202);
    server.fcm.unregister(&gone.push);
    server.app.db.cap_growth(Some(0)).await.unwrap();
    let mut n = 0;
    while phones[0].0.events(&server, event(n)).await.status == 200 {
        n += 1;
        assert!(n < 1_000, "the disk never became full");
    }
    server.fcm.accept_connections().await.unwrap();
    for (phone, pushes) in &mut phones {
        let nudged = async || {
            server.advance(1_000);
            pushes.try_recv().is_ok()
        };
        server.until(&format!("{} is nudged on a full disk", phone.hardware_id), nudged).await;
    }
    server.app.db.cap_growth(None).await.unwrap();
    server
        .until("the death is known", async || {
            server.advance(60_000);
            server.get(&format!("/devices/{}", gone.id)).await["channels"][0]["push_state"] == "dead"
        })
        .await;
    server.stop().await;
}
