//! Phones and an operator that speak to a server over HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster::model::Id;
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};

use crate::seed;
use crate::times::Times;

/// Connections that are kept for the next contact.
const CONNECTIONS_MAX: usize = 1_024;

/// A phone that comes in: its device, its device token, its push address.
#[derive(Clone)]
pub struct Phone {
    pub device: String,
    pub token: String,
    pub push: String,
    /// The version of its document, where that is another than the fleet began with.
    version: Arc<Mutex<Option<Value>>>,
}

impl Phone {
    /// The `n`-th of the seeded ones.
    pub fn seeded(n: usize, id: Id) -> Phone {
        Phone { device: id.to_string(), token: seed::token(id).reveal().to_owned(), push: seed::push(n), version: Arc::default() }
    }

    fn version(&self) -> MutexGuard<'_, Option<Value>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a contact ended.
pub struct Met {
    pub took_ms: f64,
    /// Results that it told and that were not taken.
    pub refused: usize,
    pub then: Then,
}

/// What the phone does next.
pub enum Then {
    /// Nothing: there is no more to do.
    Gone,
    /// It was given tasks or a document, and comes again with these results.
    Again(Vec<Value>),
    /// It was sent away (503) and comes again after so long.
    Later(Duration),
}

/// A server as its phones and its operator see it.
#[derive(Clone)]
pub struct Site {
    base: String,
    key: String,
    client: reqwest::Client,
    enrollment: Value,
    /// The document that every phone has.
    version: Value,
}

impl Site {
    /// With a user and an enrollment token.
    pub async fn new(base: &str, key: &str) -> anyhow::Result<Site> {
        let client = reqwest::Client::builder().pool_max_idle_per_host(CONNECTIONS_MAX).build()?;
        let mut site = Site { base: base.to_owned(), key: key.to_owned(), client, enrollment: Value::Null, version: Value::Null };
        site.send("POST", "/users", json!({"email": "user@example.org", "name": "A user"})).await?;
        site.enrollment = site.send("POST", "/enrollment-tokens", json!({"name": "bench"})).await?["token"].clone();
        Ok(site)
    }

    /// A request of the operator; nothing where nothing is answered.
    pub async fn send(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        let request = self.client.request(method.parse()?, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.key).json(&body);
        let text = request.send().await?.error_for_status()?.text().await?;
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Enrolls so many phones; each has its document afterwards.
    pub async fn enroll(&mut self, fcm: &StandIn, name: &str, count: usize) -> anyhow::Result<Vec<Phone>> {
        let mut phones = Vec::new();
        for n in 0..count {
            let push = fcm.register();
            let body = json!({"token": self.enrollment, "email": "user@example.org",
                "device": {"platform": "android", "hardware_id": format!("{name}-{n}"), "model": "Pixel 9", "os_version": "16",
                    "agent_version": "1", "management_mode": "device_owner"},
                "push": {"provider": "fcm", "kind": "token", "value": push}});
            let request = self.client.post(format!("{}/agent/v1/activate", self.base)).json(&body);
            let made: Value = request.send().await?.error_for_status()?.json().await?;
            let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
            let phone = Phone { device: text("device_id"), token: text("device_token"), push, version: Arc::default() };
            let answer = self.sync(&phone, json!({"cause": "launch", "policy": {"version": null}})).await?;
            if let Some(version) = answer["policy"]["version"].as_str() {
                self.version = json!(version);
            }
            self.come(&phone, "launch").await?;
            phones.push(phone);
        }
        Ok(phones)
    }

    async fn sync(&self, phone: &Phone, body: Value) -> anyhow::Result<Value> {
        Ok(self.request(phone, body).await?.error_for_status()?.json().await?)
    }

    async fn request(&self, phone: &Phone, body: Value) -> reqwest::Result<reqwest::Response> {
        self.client.post(format!("{}/agent/v1/sync", self.base)).bearer_auth(&phone.token).json(&body).send().await
    }

    /// One contact, which tells these results; fails where it was neither answered nor sent away.
    pub async fn contact(&self, phone: &Phone, cause: &str, results: &[Value]) -> anyhow::Result<Met> {
        let version = phone.version().clone().unwrap_or_else(|| self.version.clone());
        let body = json!({"cause": cause, "policy": {"version": version, "details": []}, "results": results});
        let began = Instant::now();
        let answer = self.request(phone, body).await?;
        let met = |refused, then| Met { took_ms: began.elapsed().as_secs_f64() * 1000.0, refused, then };
        if answer.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE {
            let after_s = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            return Ok(met(0, Then::Later(Duration::from_secs(after_s.unwrap_or(60)))));
        }
        let answer: Value = answer.error_for_status()?.json().await?;
        let outcomes = answer["results"].as_array().map_or(&[][..], Vec::as_slice);
        let taken = outcomes.iter().filter(|one| one["outcome"] == "recorded" || one["outcome"] == "duplicate").count();
        let refused = results.len().saturating_sub(taken);
        let tasks = answer["tasks"].as_array().cloned().unwrap_or_default();
        let given = answer["policy"]["version"].as_str();
        if tasks.is_empty() && given.is_none() {
            return Ok(met(refused, Then::Gone));
        }
        if let Some(version) = given {
            *phone.version() = Some(json!(version));
        }
        let done = tasks.iter().map(|task| json!({"task_id": task["id"], "status": "done", "at_ms": 1})).collect();
        Ok(met(refused, Then::Again(done)))
    }

    /// One contact, and others where it was given tasks or a document, to tell what became of them; how long each took, in milliseconds.
    pub async fn come(&self, phone: &Phone, cause: &str) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut results = Vec::new();
        loop {
            let met = self.contact(phone, cause, &results).await?;
            times.push(met.took_ms);
            anyhow::ensure!(met.refused == 0, "a result was refused");
            match met.then {
                Then::Gone => return Ok(times),
                Then::Again(done) => results = done,
                Then::Later(after) => anyhow::bail!("sent away for {} s", after.as_secs()),
            }
        }
    }

    /// Lets phones come in, one after the other on each of so many connections, while `work` is done; how long each contact took, and how
    /// many phones were sent away.
    pub async fn beside(&self, phones: &Arc<Vec<Phone>>, connections: usize, think: Duration, work: impl Future<Output = ()>) -> Times {
        let over = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let visitors: Vec<_> = (0..connections)
            .map(|at| {
                let (site, phones, over) = (self.clone(), phones.clone(), over.clone());
                tokio::spawn(async move {
                    let (mut times, mut failed) = (Vec::new(), 0);
                    for n in (at..).step_by(connections) {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        match site.come(&phones[n % phones.len()], "periodic").await {
                            Ok(took) => times.extend(took),
                            Err(_) => failed += 1,
                        }
                        if !think.is_zero() {
                            tokio::time::sleep(think).await;
                        }
                    }
                    (times, failed)
                })
            })
            .collect();
        work.await;
        over.store(true, Ordering::Relaxed);
        let (mut times, mut failed) = (Vec::new(), 0);
        for visitor in visitors {
            let (took, refused) = visitor.await.unwrap_or_default();
            times.extend(took);
            failed += refused;
        }
        Times(Times::of(times).0, began.elapsed().as_secs_f64(), failed)
    }
}
