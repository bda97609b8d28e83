//! The operator of the demo: makes users and policies, orders jobs, changes policies, and calls after phones that did not come.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sim;
use crate::sim::fleet::{Fleet, email_of};

/// How often the director orders something.
const ORDER_EVERY: Duration = Duration::from_secs(5);
/// A phone that has not completed the loop this long after the start is asked for again, urgently.
const PATIENCE: Duration = Duration::from_secs(8);
/// A demo whose time is over waits so much longer for phones that are under way: a slow machine is no failure.
const GRACE: Duration = Duration::from_secs(30);

/// An operator with an API key.
pub struct Director {
    client: reqwest::Client,
    server: String,
    key: String,
}

impl Director {
    pub fn new(url: &str, key: &str) -> Director {
        let client = sim::client(Duration::from_secs(10)).build().unwrap_or_default();
        Director { client, server: url.to_owned(), key: key.to_owned() }
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let request = self.client.request(method.clone(), format!("{}/api/v1{path}", self.server)).bearer_auth(&self.key).json(&body);
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(reqwest::Method::POST, path, body).await
    }

    async fn put(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(reqwest::Method::PUT, path, body).await
    }

    /// Users, labels, policies and the enrollment token; answers the token.
    pub async fn prepare(&self, phones: usize) -> anyhow::Result<String> {
        for n in 0..phones {
            self.post("/users", json!({"email": email_of(n), "name": format!("User {n:04}")})).await?;
        }
        self.put("/labels/field", json!({"description": "phones that travel"})).await?;
        self.put("/labels/pilot", json!({"description": "gets changes first"})).await?;
        self.put("/policies/baseline", baseline(1)).await?;
        self.put("/policies/baseline/assignments", json!({"assignments": [{"label": "all", "mode": "include", "rank": 10}]})).await?;
        let field = json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED", "usbFileTransferDisabled": true}, "message": "phones that travel"});
        self.put("/policies/field", field).await?;
        self.put("/policies/field/assignments", json!({"assignments": [{"label": "field", "mode": "include", "rank": 20}]})).await?;
        let token = self.post("/enrollment-tokens", json!({"name": "demo", "max_uses": phones * 4})).await?;
        token["token"].as_str().map(str::to_owned).context("the enrollment token came without its value")
    }

    /// Enrollment links, one for the iPhone of each of these users.
    pub async fn links(&self, users: Range<usize>) -> anyhow::Result<Vec<String>> {
        let mut links = Vec::with_capacity(users.len());
        for n in users {
            let email = email_of(n);
            let token =
                self.post("/enrollment-tokens", json!({"name": format!("iPhone of {email}"), "user": email, "max_uses": 1})).await?;
            let value = token["token"].as_str().context("the enrollment token came without its value")?;
            links.push(format!("{}/enroll/{value}", self.server));
        }
        Ok(links)
    }

    /// Orders things until `stop` or the end of `duration`, and of its grace where phones are not through. An order that fails is reported at
    /// the end, not at once: the demo goes on.
    pub async fn direct(&self, fleet: &Fleet, stop: &CancellationToken, duration: Option<Duration>) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut round = 0_u64;
        let mut failed = Ok(());
        let is_on = |limit: Duration| {
            let over = started.elapsed().saturating_sub(limit);
            over == Duration::ZERO || (over < GRACE && fleet.completed() < fleet.progress.len())
        };
        while duration.is_none_or(is_on) {
            if tokio::time::timeout(ORDER_EVERY, stop.cancelled()).await.is_ok() {
                break;
            }
            if let Err(error) = self.order(round, fleet, started.elapsed()).await {
                tracing::warn!(%error, "an order of the demo failed");
                failed = Err(error);
            }
            round += 1;
            println!(
                "  {:>4} s: {} of {} phones have been through the whole loop",
                started.elapsed().as_secs(),
                fleet.completed(),
                fleet.progress.len()
            );
        }
        failed
    }

    async fn order(&self, round: u64, fleet: &Fleet, elapsed: Duration) -> anyhow::Result<()> {
        let late: Vec<&str> =
            fleet.progress.iter().filter(|(_, progress)| !progress.completed_the_loop()).map(|(serial, _)| serial.as_str()).collect();
        if elapsed > PATIENCE && !late.is_empty() {
            // What an operator does with phones that have not answered: asks for them by name, in the urgent lane.
            self.post("/jobs", json!({"kind": "locate", "target": {"devices": late}})).await?;
        }
        let some =
            |step: usize| fleet.progress.iter().map(|(serial, _)| serial).skip(round as usize % step).step_by(step).collect::<Vec<_>>();
        match round {
            1 => self.post("/labels/field/devices", json!({"devices": some(4)})).await?,
            0 | 2 => self.post("/jobs", json!({"kind": "refresh", "target": {"all": true}})).await?,
            3 => self.post("/labels/pilot/devices", json!({"devices": some(10)})).await?,
            n if n % 7 == 4 => self.put("/policies/baseline", baseline(n)).await?,
            n if n % 7 == 5 => self.post("/jobs", json!({"kind": "scan", "target": {"label": "field"}})).await?,
            n if n % 7 == 6 => {
                self.post(
                    "/jobs",
                    json!({"kind": "message", "params": {"text": "Please charge your phone tonight."}, "target": {"devices": some(9)}}),
                )
                .await?
            }
            n if n % 7 == 0 && n > 0 => {
                self.post("/jobs", json!({"kind": "lock", "params": {"message": "Found? Call the desk."}, "target": {"devices": some(40)}}))
                    .await?
            }
            n if n % 7 == 2 => {
                self.post("/jobs", json!({"kind": "install_app", "params": {"app": "org.example.notes"}, "target": {"label": "pilot"}}))
                    .await?
            }
            _ => Value::Null,
        };
        Ok(())
    }
}

/// The policy of every phone; `n` makes each version a different one.
fn baseline(n: u64) -> Value {
    json!({
        "document": {
            "passwordPolicies": [{"passwordScope": "SCOPE_DEVICE", "passwordQuality": "COMPLEXITY_MEDIUM", "passwordMinimumLength": 6 + n % 5}],
            "screenCaptureDisabled": n.is_multiple_of(2),
            "printingPolicy": "PRINTING_DISALLOWED",
            "applications": [{"packageName": "org.example.mail", "installType": "FORCE_INSTALLED",
                "managedConfiguration": {"EMAIL": "{{user.email}}", "SERVER": "{{server.address}}"}}],
            "apple": {"declarations": [
                {"Type": "com.apple.configuration.passcode.settings", "Identifier": "org.example.passcode",
                    "Payload": {"RequirePasscode": true, "MinimumLength": 6 + n % 5}},
                {"Type": "com.apple.activation.simple", "Identifier": "org.example.baseline",
                    "Payload": {"StandardConfigurations": ["org.example.passcode"]}},
                {"Type": "com.apple.management.organization-info", "Identifier": "org.example.organization",
                    "Payload": {"Name": "Phones of {{user.email}}"}},
            ]},
        },
        "message": format!("passwords of {} characters", 6 + n % 5),
    })
}
