//! Two and three servers on one PostgreSQL that are killed and started again in turn: every phone with open work is called, its results are
//! taken once, and no phone is called more often than its gap allows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster::clock::Clock;
use muster::sim::{apns, fcm};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::support::apns::{APP, KEY_ID};
use crate::support::device::activation;
use crate::support::postgres;
use crate::support::process::Process;

const ANDROIDS: usize = 8;
const IPHONES: usize = 6;
/// The least time between two nudges of an Android phone for urgent work, as the provider sees them: on a busy machine the first may be longer
/// on its way than the second.
const GAP_MS: i64 = 10_000 - 500;

/// What the phones were told and what was taken of them.
#[derive(Default)]
struct Seen {
    /// Tasks for which a report was answered `recorded`, with how often.
    recorded: BTreeMap<String, usize>,
    /// Tasks whose report was answered at all.
    answered: BTreeSet<String>,
}

/// Whoever wants to speak to a server takes the next one that answers.
struct Servers {
    http: reqwest::Client,
    urls: Vec<String>,
}

impl Servers {
    async fn get(&self, path: &str, bearer: &str) -> Value {
        self.call(path, |url| self.http.get(url).bearer_auth(bearer)).await
    }

    async fn post(&self, path: &str, bearer: &str, body: &Value) -> Value {
        let request = |url| self.http.post(url).json(body);
        self.call(path, |url| if bearer.is_empty() { request(url) } else { request(url).bearer_auth(bearer) }).await
    }

    async fn call(&self, path: &str, request: impl Fn(String) -> reqwest::RequestBuilder) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            for url in &self.urls {
                if let Ok(response) = request(format!("{url}{path}")).send().await
                    && response.status().is_success()
                    && let Ok(answer) = response.json().await
                {
                    return answer;
                }
            }
            assert!(tokio::time::Instant::now() < deadline, "no server takes {path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_are_killed_in_turn_call_everybody_and_nobody_too_often() {
    live(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_that_are_killed_in_turn_call_everybody_and_nobody_too_often() {
    live(3).await;
}

async fn live(count: usize) {
    let Some(database) = postgres::fresh_database().await else { return };
    let (google, apple) = (fcm::StandIn::start(Clock::system()).await.unwrap(), apns::StandIn::start(Clock::system()).await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let key = apple.issue_key(KEY_ID, &[APP]).unwrap();
    let mut processes = Vec::new();
    for n in 0..count {
        let home = folder.path().join(n.to_string());
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("ca.pem"), apple.ca()).unwrap();
        std::fs::write(home.join("app.p8"), &key.p8).unwrap();
        let settings = format!(
            "[push.apns_app]\nkey = \"app.p8\"\nkey_id = \"{}\"\nteam_id = \"{}\"\ntopic = \"{APP}\"\nendpoint = \"{}\"\nca_file = \"ca.pem\"\n",
            key.key_id,
            key.team_id,
            apple.endpoint()
        );
        std::fs::write(home.join("muster.toml"), settings).unwrap();
        let mut process = Process::new(&home, &database, &google);
        process.start().await;
        processes.push(process);
    }
    let http = muster::sim::client(Duration::from_secs(5)).build().unwrap();
    let servers = Arc::new(Servers { http, urls: processes.iter().map(|process| process.url.clone()).collect() });
    let admin = processes[0].key().await;
    let enrollment = servers.post("/api/v1/enrollment-tokens", &admin, &json!({"name": "several"})).await;
    let enrollment = enrollment["token"].as_str().unwrap();
    let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), CancellationToken::new());
    let (mut androids, mut iphones, mut lives) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..ANDROIDS + IPHONES {
        let (email, ios) = (format!("user{n}@example.org"), n >= ANDROIDS);
        servers.post("/api/v1/users", &admin, &json!({"email": email, "name": "A user"})).await;
        let push = if ios { apple.register(APP) } else { google.register() };
        let mut body = activation(enrollment, &email, &format!("hw-{n}"), Some(&push));
        if ios {
            body["device"]["platform"] = json!("ios");
            body["device"]["app"] = json!(APP);
            body["device"]["management_mode"] = json!("app");
            body["push"] = json!({"provider": "apns", "kind": "token", "value": push});
        }
        let answer = servers.post("/agent/v1/activate", "", &body).await;
        let token = answer["device_token"].as_str().unwrap().to_owned();
        let (ring, bell) = mpsc::channel(64);
        if ios {
            forward(apple.connect(&push), ring)
        } else {
            forward(google.connect(&push), ring)
        }
        let id = answer["device_id"].as_str().unwrap().to_owned();
        if ios {
            iphones.push(id)
        } else {
            androids.push(id)
        }
        lives.push(tokio::spawn(phone(servers.clone(), seen.clone(), token, bell, stop.clone())));
    }
    google.capture(true);
    let mut jobs = Vec::new();
    for round in 0..count * 3 {
        let victim = round % count;
        // Apps on iOS are called three times an hour at most: they get their one order in the middle of it all.
        let devices = if round == count { [androids.clone(), iphones.clone()].concat() } else { androids.clone() };
        let job = json!({"kind": "locate", "target": {"devices": devices}});
        jobs.push(servers.post("/api/v1/jobs", &admin, &job).await["id"].as_str().unwrap().to_owned());
        // A point in the work, not in time: some of this round's calls are out, others are not.
        tokio::time::sleep(Duration::from_millis(u64::try_from(round % 4).unwrap() * 15)).await;
        processes[victim].kill().await;
        processes[victim].start().await;
    }
    // Phones come when they are called and never else; what a dead server had claimed is due when its lease lapses.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    for job in &jobs {
        loop {
            let shown = servers.get(&format!("/api/v1/jobs/{job}"), &admin).await;
            if shown["state"] == "done" {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{shown}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    stop.cancel();
    for life in lives {
        life.await.unwrap();
    }
    {
        let seen = seen.lock().unwrap();
        let tasks = jobs.len() * ANDROIDS + IPHONES;
        assert_eq!(seen.answered.len(), tasks, "every task was reported");
        assert!(seen.recorded.values().all(|times| *times == 1), "a result was taken twice: {:?}", seen.recorded);
    }
    let mut last_ms: BTreeMap<String, i64> = BTreeMap::new();
    for request in google.take_captured().into_iter().filter(|request| request.path.ends_with("messages:send")) {
        let address = serde_json::from_slice::<Value>(&request.body).unwrap()["message"]["token"].as_str().unwrap().to_owned();
        if let Some(before_ms) = last_ms.insert(address, request.at_ms) {
            assert!(request.at_ms - before_ms >= GAP_MS, "called again after {} ms", request.at_ms - before_ms);
        }
    }
    assert_eq!(last_ms.len(), ANDROIDS);
}

/// Rings for each push, whatever it carries.
fn forward<P: Send + 'static>(mut pushes: mpsc::Receiver<P>, ring: mpsc::Sender<()>) {
    tokio::spawn(async move { while pushes.recv().await.is_some() && ring.send(()).await.is_ok() {} });
}

/// A phone that comes when it is called, reports everything, and goes away.
async fn phone(servers: Arc<Servers>, seen: Arc<Mutex<Seen>>, token: String, mut bell: mpsc::Receiver<()>, stop: CancellationToken) {
    while let Some(Some(())) = stop.run_until_cancelled(bell.recv()).await {
        let visit = servers.post("/agent/v1/sync", &token, &json!({"cause": "push"})).await;
        let results: Vec<Value> =
            visit["tasks"].as_array().unwrap().iter().map(|task| json!({"task_id": task["id"], "status": "done", "at_ms": 1})).collect();
        if results.is_empty() {
            continue;
        }
        let said = servers.post("/agent/v1/sync", &token, &json!({"cause": "push", "results": results})).await;
        let mut seen = seen.lock().unwrap();
        for outcome in said["results"].as_array().unwrap() {
            let task = outcome["task_id"].as_str().unwrap().to_owned();
            if outcome["outcome"] == "recorded" {
                *seen.recorded.entry(task.clone()).or_default() += 1;
            }
            seen.answered.insert(task);
        }
    }
}
