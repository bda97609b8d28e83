//! A push credential at fault, and what happens to those who waited for it once another one comes.

use std::time::Duration;

use muster::change;
use muster::model::Actor;
use muster::ops::credentials;
use muster::sim::fcm::{Fault, Push, Scope, Times};
use muster::store::Class;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database};

const MINUTE_MS: i64 = 60_000;

async fn sender(server: &TestServer) -> Value {
    server.get("/push").await["senders"][0].clone()
}

async fn phones(server: &TestServer, names: &[&str]) -> Vec<(TestDevice, mpsc::Receiver<Push>)> {
    let mut phones = Vec::new();
    for name in names {
        let phone = server.phone(name).await;
        let pushes = server.fcm.connect(&phone.push);
        phones.push((phone, pushes));
    }
    server.advance(2 * MINUTE_MS);
    phones
}

async fn order(server: &TestServer, kind: &str, device: &str) -> String {
    let job = server.post("/jobs", json!({"kind": kind, "target": {"devices": [device]}})).await.expect(202);
    let path = format!("/jobs/{}/tasks", job["id"].as_str().unwrap());
    server.get(&path).await["items"][0]["id"].as_str().unwrap().to_owned()
}

/// Lets the sender fail until it waits a quarter of an hour between its probes; answers when it probes next.
async fn fails_for_long(server: &TestServer) -> i64 {
    server.until("the fault", async || sender(server).await["state"] == "fault").await;
    for _ in 0..5 {
        let before_ms = sender(server).await["paused_until_ms"].as_i64().unwrap();
        server.advance(before_ms - server.clock.now_ms());
        let probed = async || sender(server).await["paused_until_ms"].as_i64().is_some_and(|at_ms| at_ms > before_ms + 2_000);
        server.until("the probe", probed).await;
    }
    server.until("nobody is called", async || sender(server).await["in_flight"] == 0).await;
    sender(server).await["paused_until_ms"].as_i64().unwrap()
}

async fn is_called(pushes: &mut mpsc::Receiver<Push>, who: &str) {
    let push = tokio::time::timeout(Duration::from_secs(60), pushes.recv()).await;
    assert!(push.unwrap_or_else(|_| panic!("{who} is not called")).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_waited_for_a_credential_are_called_as_soon_as_another_one_comes() {
    each_database(async |server| {
        let mut phones = phones(&server, &["urgent", "change", "later"]).await;
        server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::permission_denied());
        let mut tasks = Vec::new();
        for (n, kind) in ["locate", "scan"].into_iter().enumerate() {
            tasks.push(order(&server, kind, &phones[n].0.id).await);
        }
        let probe_ms = fails_for_long(&server).await;
        assert!(probe_ms - server.clock.now_ms() > 14 * MINUTE_MS);
        // Ordered while it stands still.
        tasks.push(order(&server, "scan", &phones[2].0.id).await);
        for task in &tasks {
            let shown = server.get(&format!("/tasks/{task}")).await;
            assert_eq!(shown["next_attempt_at_ms"], probe_ms, "when its sender tries again: {shown}");
        }
        server.fcm.faults().clear();
        let accepted = server.fcm.counts().accepted;
        let account = serde_json::from_slice(&server.fcm.service_account()).unwrap();
        server.put("/push/fcm", account).await.expect(200);
        // The clock stands still.
        for (phone, pushes) in &mut phones {
            is_called(pushes, &phone.hardware_id).await;
        }
        server.until("all are written down", async || sender(&server).await["in_flight"] == 0).await;
        assert_eq!(server.fcm.counts().accepted, accepted + 3, "each is called once");
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_follows_the_new_credential_calls_them_as_well() {
    each_database(async |server| {
        let mut phones = phones(&server, &["one"]).await;
        server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::permission_denied());
        order(&server, "locate", &phones[0].0.id).await;
        fails_for_long(&server).await;
        server.fcm.faults().clear();
        // As another process stores what was brought to it; this one has only the database to see it in.
        let (app, account) = (server.app.clone(), server.fcm.service_account());
        let stored = change!(app, Class::Operators, |conn, moment| {
            credentials::put(conn, moment, &Actor::server(), &app.seal, "push/fcm", &account).await
        });
        stored.unwrap();
        is_called(&mut phones[0].1, "the phone").await;
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_mass_death_one_address_that_really_is_wrong_holds_up_nobody() {
    const PHONES: usize = 30;
    let server = TestServer::on_sqlite().await;
    let names: Vec<String> = (0..PHONES).map(|n| format!("phone-{n}")).collect();
    let mut phones = phones(&server, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (wrong, _) = phones.remove(0);
    server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::sender_id_mismatch());
    let ids: Vec<&str> = phones.iter().map(|(phone, _)| phone.id.as_str()).collect();
    server.post("/jobs", json!({"kind": "scan", "target": {"devices": ids}})).await.expect(202);
    let mass_death = async || sender(&server).await["reason"].as_str().is_some_and(|reason| reason.starts_with("mass_death"));
    server.until("the mass death", mass_death).await;
    server.until("nobody is called", async || sender(&server).await["in_flight"] == 0).await;
    // Google mends the project. One address is wrong all the same, and its order is the most urgent.
    server.fcm.faults().clear();
    server.fcm.faults().set(Scope::Address(wrong.push.clone()), Times::UntilCleared, Fault::sender_id_mismatch());
    order(&server, "locate", &wrong.id).await;
    for (phone, pushes) in &mut phones {
        let began_ms = server.clock.now_ms();
        while pushes.try_recv().is_err() {
            assert!(server.clock.now_ms() - began_ms < 60 * MINUTE_MS, "{} is not called: {}", phone.hardware_id, sender(&server).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
            server.advance(10_000);
        }
    }
    assert_eq!(sender(&server).await["state"], "ok");
    server.stop().await;
}
