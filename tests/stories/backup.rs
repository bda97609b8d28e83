//! Backup under load, and restore into either database: what was answered is there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use muster::clock::Clock;
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::device::activation;
use crate::support::postgres;
use crate::support::process::Process;

/// Phones that send events without pause while the backup is made.
const PHONES: usize = 4;
const ANSWERED_MIN: usize = 40;
const OTHER_KEY: &str = "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

struct Phone {
    token: String,
    /// Events that the server has answered for.
    answered: Vec<String>,
}

async fn post(http: &reqwest::Client, url: &str, key: &str, body: &Value) -> Option<Value> {
    let request = http.post(url).json(body);
    let response = if key.is_empty() { request } else { request.bearer_auth(key) }.send().await.ok()?;
    response.status().is_success().then_some(())?;
    response.json().await.ok()
}

fn event(n: usize, seq: usize) -> Value {
    json!({"event_id": format!("0198f3a2-7c4e-7b1a-{n:04x}-{seq:012x}"), "type": "usb_debugging_changed", "seq": seq, "occurred_at_ms": 1_800_000_000_000_i64,
        "first_attempt_at_ms": 1_800_000_000_000_i64, "attempt": 1, "boot_id": "b", "uptime_ms": 1, "policy_version": null, "data": {"enabled": true}})
}

async fn succeeds(server: &Process, args: &[&str]) {
    let output = server.command().args(args).output().await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_into_the_other_database_with_all_that_was_answered_before() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    match (postgres::fresh_database().await, postgres::fresh_database().await) {
        (Some(first), Some(second)) => {
            moves(folder.path(), &sqlite("a.db"), &first).await;
            moves(folder.path(), &second, &sqlite("b.db")).await;
        }
        _ => moves(folder.path(), &sqlite("a.db"), &sqlite("b.db")).await,
    }
}

async fn moves(folder: &Path, from: &str, to: &str) {
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    let mut server = Process::new(folder, from, &fcm);
    server.start().await;
    let (http, key) = (muster::sim::client(Duration::from_secs(60)).build().unwrap(), server.key().await);
    let api = format!("{}/api/v1", server.url);
    // A credential that was taken away leaves a secret behind that holds nothing and opens under no key.
    let account: Value = serde_json::from_slice(&fcm.service_account()).unwrap();
    let set = http.put(format!("{api}/push/fcm")).bearer_auth(&key).json(&account).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let taken = http.delete(format!("{api}/push/fcm")).bearer_auth(&key).send().await.unwrap();
    assert_eq!(taken.status(), 204);
    let token = post(&http, &format!("{api}/enrollment-tokens"), &key, &json!({"name": "stories"})).await.unwrap();
    let token = token["token"].as_str().unwrap();
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut phones = Vec::new();
    let mut loads = Vec::new();
    for n in 0..PHONES {
        let email = format!("user{n}@example.org");
        post(&http, &format!("{api}/users"), &key, &json!({"email": email, "name": "A user"})).await.unwrap();
        let body = activation(token, &email, &format!("phone-{n}"), None);
        let made = post(&http, &format!("{}/agent/v1/activate", server.url), "", &body).await.unwrap();
        let device_token = made["device_token"].as_str().unwrap().to_owned();
        let phone = Arc::new(Mutex::new(Phone { token: device_token.clone(), answered: Vec::new() }));
        phones.push(phone.clone());
        let (http, url, stop, count) = (http.clone(), format!("{}/agent/v1/events", server.url), stop.clone(), count.clone());
        loads.push(tokio::spawn(async move {
            for seq in 1.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let event = event(n, seq);
                if post(&http, &url, &device_token, &json!({"events": [event]}))
                    .await
                    .is_some_and(|said| said["events"][0]["outcome"] == "recorded")
                {
                    phone.lock().await.answered.push(event["event_id"].as_str().unwrap().to_owned());
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        }));
    }
    // Jobs are rows of several tables: in a consistent whole each has its tasks.
    let (orders, stopped, jobs, admin) = (http.clone(), stop.clone(), format!("{api}/jobs"), key.clone());
    loads.push(tokio::spawn(async move {
        while !stopped.load(Ordering::SeqCst) {
            post(&orders, &jobs, &admin, &json!({"kind": "message", "params": {"text": "x"}, "target": {"all": true}})).await;
        }
    }));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let all_were_answered = async || {
        for phone in &phones {
            if phone.lock().await.answered.is_empty() {
                return false;
            }
        }
        count.load(Ordering::SeqCst) >= ANSWERED_MIN
    };
    while !all_were_answered().await {
        assert!(tokio::time::Instant::now() < deadline, "the load did not come up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut answered = Vec::new();
    for phone in &phones {
        let phone = phone.lock().await;
        answered.push((phone.token.clone(), phone.answered.clone()));
    }
    succeeds(&server, &["backup", "muster.backup"]).await;
    assert!(count.load(Ordering::SeqCst) > ANSWERED_MIN, "the server went on meanwhile");
    stop.store(true, Ordering::SeqCst);
    for load in loads {
        load.await.unwrap();
    }
    server.kill().await;

    let mut restored = Process::new(folder, to, &fcm);
    // Another master key could open no sealed secret: refused, and nothing is written.
    let other_key = restored.command().env("MUSTER_SECRETS_KEY", OTHER_KEY).args(["restore", "muster.backup"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&other_key.stderr).into_owned();
    assert!(!other_key.status.success() && said.contains("master key"), "{said}");
    succeeds(&restored, &["restore", "muster.backup"]).await;
    let again = restored.command().args(["restore", "muster.backup"]).output().await.unwrap();
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("not empty"));
    restored.start().await;
    for (n, (device_token, events)) in answered.iter().enumerate() {
        assert!(!events.is_empty());
        for seq in 1..=events.len() {
            let said =
                post(&http, &format!("{}/agent/v1/events", restored.url), device_token, &json!({"events": [event(n, seq)]})).await.unwrap();
            assert_eq!(said["events"][0]["outcome"], "duplicate", "an answered event is there: {}", events[seq - 1]);
        }
    }
    let get = async |path: &str| {
        let response = http.get(format!("{}/api/v1{path}", restored.url)).bearer_auth(&key).send().await.unwrap();
        response.json::<Value>().await.unwrap()
    };
    let mut jobs = get("/jobs?limit=100").await["items"].as_array().unwrap().clone();
    assert!(!jobs.is_empty());
    while let Some(job) = jobs.pop() {
        let id = job["id"].as_str().unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while get(&format!("/jobs/{id}/tasks?limit=100")).await["items"].as_array().unwrap().len() != PHONES {
            assert!(tokio::time::Instant::now() < deadline, "a job without all of its tasks: {job}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let response = http.get(format!("{}/api/v1/devices", restored.url)).bearer_auth(&key).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap()["items"].as_array().unwrap().len(), PHONES);
    restored.kill().await;
}
