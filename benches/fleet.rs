//! A job and a policy for a whole fleet, with phones coming in beside them: how fast the order is taken, how soon the first nudge leaves,
//! how long until the provider has accepted all, what the phones feel of it, what an urgent lock feels of it, and the memory.
//!
//! `cargo bench --bench fleet -- [--devices N] [--postgres URL] [--seconds N]`. The server is a process of its own, the provider a stand-in
//! that answers after 20 ms; the limits of the sender are lifted. Everything on one machine, on loopback; every phase has an end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster::clock::Clock;
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Column, Connection, Row};

/// Phones that really come in; the rest of the fleet is rows.
const PHONES: usize = 200;
/// Connections of phones that come in beside the work, each every few milliseconds.
const CONNECTIONS: usize = 8;
const THINK: Duration = Duration::from_millis(10);
const ANSWER_DELAY_MS: u64 = 20;
/// A phase that takes longer is told as it stands.
const PHASE_MAX: Duration = Duration::from_secs(400);
const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

struct Plan {
    devices: usize,
    seconds: u64,
    postgres: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut plan = Plan { devices: 1_000_000, seconds: 10, postgres: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{name} needs a value"))?;
        match name.as_str() {
            "--devices" => plan.devices = value.parse()?,
            "--seconds" => plan.seconds = value.parse()?,
            "--postgres" => plan.postgres = Some(value),
            _ => anyhow::bail!("{name} is not known"),
        }
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    sqlx::any::install_default_drivers();
    tokio::runtime::Runtime::new()?.block_on(async {
        let folder = std::env::temp_dir().join(format!("muster-fleet-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let url = plan.postgres.clone().unwrap_or_else(|| format!("sqlite://{}", folder.join("muster.db").display()));
        let outcome = measure(&plan, &folder, &url).await;
        std::fs::remove_dir_all(&folder).ok();
        outcome
    })
}

async fn measure(plan: &Plan, folder: &Path, url: &str) -> anyhow::Result<()> {
    let fcm = StandIn::start(Clock::system()).await?;
    fcm.set_answer_delay_ms(ANSWER_DELAY_MS);
    let mut server = Server::new(folder, url, &fcm)?;
    let key = server.key().await?;
    server.start().await?;
    let site = Site { base: server.base.clone(), key, client: reqwest::Client::new() };
    let phones = Arc::new(site.enroll(&fcm).await?);
    server.stop().await?;
    let started = Instant::now();
    populate(url, &fcm, plan.devices.saturating_sub(PHONES)).await?;
    row("rows made for the fleet", format!("{} devices in {:.0} s", plan.devices, started.elapsed().as_secs_f64()));
    server.start().await?;

    let idle = site.beside(&phones, async { tokio::time::sleep(Duration::from_secs(plan.seconds)).await }).await;
    row("contacts, nothing else", idle.text());
    row("resident memory", server.memory());

    let before = fcm.counts().accepted;
    let began = Instant::now();
    let mut told = [0.0; 2];
    let mut urgent = Vec::new();
    let during = site
        .beside(&phones, async {
            site.send("POST", "/jobs", json!({"kind": "refresh", "target": {"all": true}})).await.ok();
            told[0] = began.elapsed().as_secs_f64();
            while fcm.counts().accepted == before && began.elapsed() < PHASE_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            told[1] = began.elapsed().as_secs_f64();
            // The phones that come in beside the work get theirs without a nudge.
            let all = before + plan.devices.saturating_sub(PHONES) as u64 * 99 / 100;
            while fcm.counts().accepted < all && began.elapsed() < PHASE_MAX {
                urgent.extend(site.lock(&fcm, &phones[urgent.len() % PHONES]).await);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    let accepted = fcm.counts().accepted - before;
    row("job to all: answered", format!("{:.0} ms", told[0] * 1000.0));
    row("job to all: first nudge", format!("{:.0} ms", told[1] * 1000.0));
    row("job to all: accepted by the provider", format!("{accepted} in {:.0} s", began.elapsed().as_secs_f64()));
    row("contacts meanwhile", during.text());
    row("lock of one phone meanwhile, to the wire", Times::of(urgent).text());
    row("resident memory", server.memory());

    let began = Instant::now();
    let mut answered = 0.0;
    let moving = site
        .beside(&phones, async {
            site.send("PUT", "/policies/bench", json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED"}})).await.ok();
            let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
            site.send("PUT", "/policies/bench/assignments", all).await.ok();
            answered = began.elapsed().as_secs_f64();
            while moves(url).await.unwrap_or(true) && began.elapsed() < PHASE_MAX {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    row("policy for all: answered", format!("{:.0} ms", answered * 1000.0));
    row("policy for all: every row moved", format!("{:.0} s", began.elapsed().as_secs_f64()));
    row("contacts meanwhile", format!("{} = {:.1} x idle p99", moving.text(), moving.p(0.99) / idle.p(0.99)));
    row("resident memory, and its peak", server.memory());
    server.stop().await
}

fn row(what: &str, value: String) {
    println!("{what:<44} {value}");
}

/// Milliseconds, sorted.
struct Times(Vec<f64>, f64);

impl Times {
    fn of(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        Times(times, 0.0)
    }

    fn p(&self, share: f64) -> f64 {
        self.0.get(((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    fn text(&self) -> String {
        let rate = if self.1 > 0.0 { format!("{:.0}/s, ", self.0.len() as f64 / self.1) } else { String::new() };
        format!("{} times, {rate}p50 {:.1} ms, p99 {:.1} ms", self.0.len(), self.p(0.5), self.p(0.99))
    }
}

/// The server as a process.
struct Server {
    base: String,
    folder: PathBuf,
    settings: Vec<(&'static str, String)>,
    child: Option<tokio::process::Child>,
}

impl Server {
    fn new(folder: &Path, url: &str, fcm: &StandIn) -> anyhow::Result<Server> {
        let address = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        std::fs::write(folder.join("fcm.json"), fcm.service_account())?;
        let settings = vec![
            ("MUSTER_DATABASE_URL", url.to_owned()),
            ("MUSTER_DATA_DIR", folder.display().to_string()),
            ("MUSTER_SECRETS_KEY", KEY.to_owned()),
            ("MUSTER_LISTEN", address.to_string()),
            ("MUSTER_PUSH__FCM__SERVICE_ACCOUNT", folder.join("fcm.json").display().to_string()),
            ("MUSTER_PUSH__FCM__ENDPOINT", fcm.endpoint()),
            ("MUSTER_PUSH__FCM__QUOTA_PER_S", "1000000".into()),
            ("MUSTER_PUSH__FCM__CONCURRENCY_MAX", "1000".into()),
            ("MUSTER_LOG", "warn".into()),
        ];
        Ok(Server { base: format!("http://{address}"), folder: folder.to_owned(), settings, child: None })
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster"));
        command.current_dir(&self.folder).envs(self.settings.iter().cloned()).kill_on_drop(true);
        command
    }

    async fn key(&self) -> anyhow::Result<String> {
        let output = self.command().args(["key", "add", "bench", "--role", "admin"]).output().await?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        self.child = Some(self.command().arg("serve").stdout(Stdio::null()).spawn()?);
        let began = Instant::now();
        while !reqwest::get(format!("{}/readyz", self.base)).await.is_ok_and(|answer| answer.status().is_success()) {
            anyhow::ensure!(began.elapsed() < Duration::from_secs(60), "the server was not ready within 60 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            if let Some(id) = child.id() {
                tokio::process::Command::new("kill").arg(id.to_string()).status().await?;
            }
            child.wait().await?;
        }
        Ok(())
    }

    /// What Linux says of the process; elsewhere nothing.
    fn memory(&self) -> String {
        let id = self.child.as_ref().and_then(tokio::process::Child::id).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
        };
        format!("{:.0} MiB, peak {:.0} MiB", of("VmRSS:"), of("VmHWM:"))
    }
}

/// A phone that comes in: its device, its device token, its push token.
struct Phone {
    device: String,
    token: String,
    push: String,
}

#[derive(Clone)]
struct Site {
    base: String,
    key: String,
    client: reqwest::Client,
}

impl Site {
    async fn send(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        let request = self.client.request(method.parse()?, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.key).json(&body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    async fn enroll(&self, fcm: &StandIn) -> anyhow::Result<Vec<Phone>> {
        self.send("POST", "/users", json!({"email": "user@example.org", "name": "A user"})).await?;
        let token = self.send("POST", "/enrollment-tokens", json!({"name": "bench"})).await?["token"].clone();
        let mut phones = Vec::new();
        for n in 0..PHONES {
            let push = fcm.register();
            let body = json!({"token": token, "email": "user@example.org",
                "device": {"platform": "android", "hardware_id": format!("hw-{n}"), "model": "Pixel 9", "os_version": "16", "agent_version": "1",
                    "management_mode": "device_owner"},
                "push": {"provider": "fcm", "kind": "token", "value": push}});
            let made: Value = self.client.post(format!("{}/agent/v1/activate", self.base)).json(&body).send().await?.json().await?;
            let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
            let phone = Phone { device: text("device_id"), token: text("device_token"), push };
            self.come(&phone, "launch").await?;
            phones.push(phone);
        }
        Ok(phones)
    }

    /// One contact, and another with the outcomes where it was given tasks; how long each took, in milliseconds.
    async fn come(&self, phone: &Phone, cause: &str) -> anyhow::Result<Vec<f64>> {
        let mut times = Vec::new();
        let mut results = Vec::new();
        loop {
            let body = json!({"cause": cause, "policy": {"version": null}, "results": results});
            let began = Instant::now();
            let request = self.client.post(format!("{}/agent/v1/sync", self.base)).bearer_auth(&phone.token).json(&body);
            let answer: Value = request.send().await?.error_for_status()?.json().await?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            let tasks = answer["tasks"].as_array().cloned().unwrap_or_default();
            if tasks.is_empty() {
                return Ok(times);
            }
            results = tasks.iter().map(|task| json!({"task_id": task["id"], "status": "done", "at_ms": 1})).collect();
        }
    }

    /// Lets phones come in while `work` is done; how long each contact took.
    async fn beside(&self, phones: &Arc<Vec<Phone>>, work: impl Future<Output = ()>) -> Times {
        let over = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let visitors: Vec<_> = (0..CONNECTIONS)
            .map(|at| {
                let (site, phones, over) = (self.clone(), phones.clone(), over.clone());
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    for n in (at..).step_by(CONNECTIONS) {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        times.extend(site.come(&phones[n % phones.len()], "periodic").await.unwrap_or_default());
                        tokio::time::sleep(THINK).await;
                    }
                    times
                })
            })
            .collect();
        work.await;
        over.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for visitor in visitors {
            times.extend(visitor.await.unwrap_or_default());
        }
        Times(Times::of(times).0, began.elapsed().as_secs_f64())
    }

    /// Locks one phone and waits for its push: milliseconds from the order to the wire. `None` where the push did not come in 10 s.
    async fn lock(&self, fcm: &StandIn, phone: &Phone) -> Option<f64> {
        let mut pushes = fcm.connect(&phone.push);
        while pushes.try_recv().is_ok() {}
        let began = Instant::now();
        self.send("POST", "/jobs", json!({"kind": "lock", "target": {"devices": [phone.device]}})).await.ok()?;
        let push = tokio::time::timeout(Duration::from_secs(10), pushes.recv()).await;
        push.ok().flatten().map(|_| began.elapsed().as_secs_f64() * 1000.0 - ANSWER_DELAY_MS as f64)
    }
}

/// Copies the rows of one phone `count` times under new ids.
async fn populate(url: &str, fcm: &StandIn, count: usize) -> anyhow::Result<()> {
    const CHUNK: usize = 5_000;
    let mut conn = AnyConnection::connect(url).await?;
    let postgres = url.starts_with("postgres");
    let mut moment = Clock::system().moment();
    let mut inserts = Vec::new();
    for (table, own) in [
        ("device", "bucket id hardware_id"),
        ("channel", "bucket id device_id token_hash push_value"),
        ("wakes", "bucket channel_id phase_s due_at_ms"),
    ] {
        let one = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {table} LIMIT 1"))).fetch_one(&mut conn).await?;
        let own: Vec<&str> = own.split(' ').collect();
        let names: Vec<&str> = one.columns().iter().map(Column::name).collect();
        let picked: Vec<String> =
            names.iter().map(|name| if own.contains(name) { format!("r.{table}_{name}") } else { format!("t.{name}") }).collect();
        let typed =
            |name: &&str| format!("{table}_{name} {}", if matches!(*name, "bucket" | "phase_s" | "due_at_ms") { "bigint" } else { "text" });
        let rows = if postgres {
            format!("json_to_recordset($1::json) AS r({})", own.iter().map(typed).collect::<Vec<_>>().join(", "))
        } else {
            let picked: Vec<String> = own.iter().map(|name| format!("value->>'{table}_{name}' AS {table}_{name}")).collect();
            format!("(SELECT {} FROM json_each($1)) AS r", picked.join(", "))
        };
        let template = format!("(SELECT * FROM {table} LIMIT 1) AS t");
        inserts.push(format!("INSERT INTO {table} ({}) SELECT {} FROM {rows}, {template}", names.join(", "), picked.join(", ")));
    }
    for from in (0..count).step_by(CHUNK) {
        let rows: Vec<Value> = (from..count.min(from + CHUNK))
            .map(|n| {
                let device = moment.id();
                let channel = moment.id_beside(device);
                let push = format!("fleet-{n}");
                fcm.register_as(&push, muster::sim::fcm::PROJECT, None);
                let phase_s = n as i64 % 10_800;
                json!({"device_bucket": device.bucket(), "device_id": device, "device_hardware_id": format!("fleet-{n}"),
                    "channel_bucket": channel.bucket(), "channel_id": channel, "channel_device_id": device, "channel_token_hash": null, "channel_push_value": push,
                    "wakes_bucket": channel.bucket(), "wakes_channel_id": channel, "wakes_phase_s": phase_s,
                    "wakes_due_at_ms": moment.now_ms + 10_800_000 + phase_s * 1000})
            })
            .collect();
        let rows = Value::from(rows).to_string();
        let mut transaction = conn.begin().await?;
        for insert in &inserts {
            sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(&rows).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    if postgres {
        // What autovacuum would do within the minute.
        sqlx::query("ANALYZE").execute(&mut conn).await?;
    }
    Ok(())
}

/// True while a set of devices is moved to another document.
async fn moves(url: &str) -> anyhow::Result<bool> {
    let mut conn = AnyConnection::connect(url).await?;
    let moving: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM label_set WHERE moving > 0").fetch_one(&mut conn).await?;
    Ok(moving > 0)
}
