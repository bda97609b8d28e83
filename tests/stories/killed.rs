//! `kill -9` under load: what was answered is there, once, and who has open work is called again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster::clock::{Clock, Moment};
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::device::activation;
use crate::support::postgres;
use crate::support::process::Process;

const PHONES: usize = 8;
const KILLS: usize = 20;

/// What the server has answered for.
#[derive(Default)]
struct Answered {
    events: BTreeMap<String, BTreeSet<String>>,
    results: BTreeSet<String>,
    jobs: BTreeSet<String>,
    /// Requests that were answered.
    count: usize,
}

struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Client {
    async fn api(&self, method: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.ok()?;
        response.status().is_success().then_some(())?;
        response.json().await.ok()
    }

    async fn agent(&self, what: &str, token: &str, body: &Value) -> Option<Value> {
        let response = self.http.post(format!("{}/agent/v1/{what}", self.url)).bearer_auth(token).json(body).send().await.ok()?;
        response.status().is_success().then_some(())?;
        response.json().await.ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_a_kill_is_there_once_and_open_work_is_called_again_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    survive(folder.path(), &format!("sqlite://{}", folder.path().join("muster.db").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_a_kill_is_there_once_and_open_work_is_called_again_on_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(url) = postgres::fresh_database().await {
        survive(folder.path(), &url).await;
    }
}

async fn survive(folder: &std::path::Path, database_url: &str) {
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    let mut server = Process::new(folder, database_url, &fcm);
    server.start().await;
    let http = muster::sim::client(Duration::from_secs(5)).build().unwrap();
    let client = Arc::new(Client { http, url: server.url.clone(), key: server.key().await });
    let phones = enroll(&client, &fcm).await;
    let answered = Arc::new(Mutex::new(Answered::default()));
    let mut moment = Moment::fixed(0, 99);
    for round in 0..KILLS {
        if round > 0 {
            server.start().await;
        }
        let stop = CancellationToken::new();
        let load: Vec<_> = phones
            .iter()
            .enumerate()
            .map(|(n, (id, token))| {
                let work = load(client.clone(), answered.clone(), id.clone(), token.clone(), (round * PHONES + n) as u64, stop.clone());
                tokio::spawn(work)
            })
            .collect();
        // A point in the work, not in time: a slow machine gets as far as a fast one.
        let point = answered.lock().unwrap().count + usize::try_from(3 + moment.below(40)).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while answered.lock().unwrap().count < point && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill().await;
        stop.cancel();
        for task in load {
            task.await.unwrap();
        }
    }
    server.start().await;
    check(&client, &answered, &phones, &fcm).await;
}

async fn enroll(client: &Client, fcm: &StandIn) -> Vec<(String, String)> {
    let token = client.api("POST", "/enrollment-tokens", Some(json!({"name": "killed"}))).await.unwrap();
    let mut phones = Vec::new();
    for n in 0..PHONES {
        let email = format!("user{n}@example.org");
        client.api("POST", "/users", Some(json!({"email": email, "name": "A user"}))).await.unwrap();
        let body = activation(token["token"].as_str().unwrap(), &email, &format!("hw-{n}"), Some(&fcm.register()));
        let answer: Value =
            client.http.post(format!("{}/agent/v1/activate", client.url)).json(&body).send().await.unwrap().json().await.unwrap();
        phones.push((answer["device_id"].as_str().unwrap().to_owned(), answer["device_token"].as_str().unwrap().to_owned()));
    }
    phones
}

/// Orders, visits, reports and events of one phone until the server is gone.
async fn load(client: Arc<Client>, answered: Arc<Mutex<Answered>>, device: String, token: String, seed: u64, stop: CancellationToken) {
    let mut moment = Moment::fixed(1_800_000_000_000 + i64::try_from(seed).unwrap() * 1000, seed);
    let mut seq = i64::try_from(seed).unwrap() * 10_000;
    while !stop.is_cancelled() {
        let job = json!({"kind": "message", "params": {"text": "hello"}, "target": {"devices": [device]}});
        if let Some(job) = client.api("POST", "/jobs", Some(job)).await {
            let mut answered = answered.lock().unwrap();
            answered.count += 1;
            answered.jobs.insert(job["id"].as_str().unwrap().to_owned());
        }
        let events: Vec<Value> = (0..5)
            .map(|_| {
                seq += 1;
                json!({"event_id": moment.id(), "type": "web_page_blocked", "seq": seq, "occurred_at_ms": 1, "data": {"url": "https://blocked.example/"}})
            })
            .collect();
        if let Some(answer) = client.agent("events", &token, &json!({"events": events})).await {
            let mut answered = answered.lock().unwrap();
            answered.count += 1;
            for outcome in answer["events"].as_array().unwrap() {
                assert!(matches!(outcome["outcome"].as_str(), Some("recorded" | "duplicate")), "{outcome}");
                answered.events.entry(device.clone()).or_default().insert(outcome["event_id"].as_str().unwrap().to_owned());
            }
        }
        let Some(visit) = client.agent("sync", &token, &json!({"cause": "push"})).await else { continue };
        let results: Vec<Value> =
            visit["tasks"].as_array().unwrap().iter().map(|task| json!({"task_id": task["id"], "status": "done", "at_ms": 1})).collect();
        if let Some(answer) = client.agent("sync", &token, &json!({"cause": "push", "results": results})).await {
            let mut answered = answered.lock().unwrap();
            answered.count += 1;
            for outcome in answer["results"].as_array().unwrap() {
                answered.results.insert(outcome["task_id"].as_str().unwrap().to_owned());
            }
        }
    }
}

async fn check(client: &Client, answered: &Mutex<Answered>, phones: &[(String, String)], fcm: &StandIn) {
    let (events, results, jobs) = {
        let answered = answered.lock().unwrap();
        (answered.events.clone(), answered.results.clone(), answered.jobs.clone())
    };
    assert!(!results.is_empty() && jobs.len() + results.len() >= KILLS, "the load was too small to prove anything");
    for (device, ids) in &events {
        let mut kept: Vec<String> = Vec::new();
        let mut path = format!("/devices/{device}/events?limit=1000");
        loop {
            let page = client.api("GET", &path, None).await.unwrap();
            kept.extend(page["items"].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/devices/{device}/events?limit=1000&cursor={cursor}"),
                None => break,
            }
        }
        let distinct: BTreeSet<String> = kept.iter().cloned().collect();
        assert_eq!(distinct.len(), kept.len(), "an event is there twice");
        assert!(ids.is_subset(&distinct), "an answered event is gone");
    }
    for id in &results {
        let task = client.api("GET", &format!("/tasks/{id}"), None).await.unwrap();
        assert_eq!(task["state"], "done", "an answered result is gone");
    }
    for id in &jobs {
        let tasks = client.api("GET", &format!("/jobs/{id}/tasks"), None).await.unwrap();
        assert_eq!(tasks["items"].as_array().unwrap().len(), 1, "an accepted job has its task, once");
    }
    for (device, _) in phones {
        let channel = client.api("GET", &format!("/devices/{device}"), None).await.unwrap();
        assert_eq!(channel["channels"][0]["push_state"], "active");
    }
    // One more order for everybody: whoever has open work is called.
    client.api("POST", "/jobs", Some(json!({"kind": "locate", "target": {"all": true}}))).await.unwrap();
    let before = fcm.counts().accepted;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    while fcm.counts().accepted < before + phones.len() as u64 {
        assert!(tokio::time::Instant::now() < deadline, "only {} of {} phones were called", fcm.counts().accepted - before, phones.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
