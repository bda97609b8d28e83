//! Idle contacts and delivered-and-acknowledged cycles, on SQLite and on PostgreSQL, against the ceiling of the same run.
//!
//! `cargo bench --bench contacts -- [--seconds N] [--connections N] [--devices N] [--postgres URL]`. Everything on one machine, generator
//! included; durable. Load goes to loopback alone and ends by itself. PostgreSQL is measured where a URL of an empty database is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster::clock::Clock;
use muster::config::Config;
use muster::model::{Actor, Role};
use muster::ops::operators;
use muster::server::Server;
use muster::store::Class;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Plan {
    seconds: u64,
    connections: usize,
    devices: usize,
    postgres: Option<String>,
}

/// What a run came to: per second, median and 99th percentile in milliseconds.
struct Row(f64, f64, f64);

/// The intake's groups so far: how many, contacts in them, seconds that they took.
fn groups() -> [f64; 3] {
    let text = muster::telemetry::metrics().render();
    let of = |name: &str| -> f64 { text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).sum() };
    [of("muster_commit_seconds_count"), of("muster_intake_batch_size_sum"), of("muster_commit_seconds_sum")]
}

fn told_groups(work: &str, before: [f64; 3]) {
    let now = groups();
    let [count, contacts, seconds] = [now[0] - before[0], now[1] - before[1], now[2] - before[2]];
    println!("{:<12} {work}: {count:.0} groups of {:.1}, {:.2} ms each", "", contacts / count, seconds / count * 1000.0);
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut plan = Plan { seconds: 8, connections: 64, devices: 2_000, postgres: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => plan.seconds = value.parse()?,
            "--connections" => plan.connections = value.parse()?,
            "--devices" => plan.devices = value.parse()?,
            "--postgres" => plan.postgres = Some(value),
            _ => anyhow::bail!("{name} is not known"),
        }
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    tokio::runtime::Runtime::new()?.block_on(run(plan))
}

async fn run(plan: Plan) -> anyhow::Result<()> {
    let ceiling = raw(&plan).await?;
    println!("{:<12} {:<28} {:>10} {:>9} {:>9} {:>8}", "database", "work", "per second", "p50 ms", "p99 ms", "ratio");
    let print = |database: &str, work: &str, row: &Row| {
        println!("{database:<12} {work:<28} {:>10.0} {:>9.1} {:>9.1} {:>8.2}", row.0, row.1, row.2, row.0 / ceiling.0);
    };
    print("-", "trivial handler (ceiling)", &ceiling);
    let folder = std::env::temp_dir().join(format!("muster-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut databases = vec![("sqlite", format!("sqlite://{}", folder.join("muster.db").display()))];
    databases.extend(plan.postgres.clone().map(|url| ("postgresql", url)));
    for (name, url) in databases {
        let (activation, idle, cycle) = measure(&plan, &url).await?;
        print(name, "activation", &activation);
        print(name, "idle contact", &idle);
        print(name, "task delivered, acknowledged", &cycle);
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

async fn measure(plan: &Plan, url: &str) -> anyhow::Result<(Row, Row, Row)> {
    let mut config = Config { listen: "127.0.0.1:0".parse()?, database_url: url.to_owned(), ..Config::default() };
    config.secrets.key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into());
    let clock = Clock::system();
    let server = Server::start(config, clock.clone()).await?;
    let base = format!("http://{}", server.address().ok_or_else(|| anyhow::anyhow!("no address"))?);
    let app = server.app.clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    let mut conn = app.db.begin(Class::Operators).await?;
    let key = operators::add_key(&mut conn, &mut clock.moment(), &Actor::server(), "bench", Role::Admin).await?;
    conn.commit().await?;
    let client = reqwest::Client::builder().pool_max_idle_per_host(plan.connections).build()?;
    let api = async |path: &str, body: Value| -> anyhow::Result<Value> {
        Ok(client.post(format!("{base}/api/v1{path}")).bearer_auth(&key).json(&body).send().await?.error_for_status()?.json().await?)
    };
    api("/users", json!({"email": "user@example.org", "name": "A user"})).await?;
    let token = api("/enrollment-tokens", json!({"name": "bench"})).await?["token"].as_str().unwrap_or_default().to_owned();
    let tokens = Arc::new(std::sync::Mutex::new(vec![String::new(); plan.devices]));
    let activation = {
        let (tokens, base, client) = (tokens.clone(), base.clone(), client.clone());
        load(plan.connections, Some(plan.devices), plan.seconds * 10, move |n| {
            let (tokens, client) = (tokens.clone(), client.clone());
            let request = client.post(format!("{base}/agent/v1/activate")).json(&json!({"token": token, "email": "user@example.org",
                "device": {"platform": "android", "hardware_id": format!("hw-{n}"), "model": "Pixel 9", "os_version": "16", "agent_version": "1",
                    "management_mode": "device_owner"}}));
            async move {
                let answer: Value = request.send().await?.error_for_status()?.json().await?;
                if let (Ok(mut tokens), Some(token)) = (tokens.lock(), answer["device_token"].as_str()) {
                    token.clone_into(&mut tokens[n]);
                }
                Ok(())
            }
        })
        .await?
    };
    let tokens: Arc<Vec<String>> =
        Arc::new(tokens.lock().map(|tokens| tokens.iter().filter(|token| !token.is_empty()).cloned().collect()).unwrap_or_default());
    let sync = format!("{base}/agent/v1/sync");
    let version = client.post(&sync).bearer_auth(&tokens[0]).json(&json!({"cause": "launch"})).send().await?.json::<Value>().await?["policy"]["version"].clone();
    let before = groups();
    let idle = {
        let (tokens, client, sync, version) = (tokens.clone(), client.clone(), sync.clone(), version.clone());
        load(plan.connections, None, plan.seconds, move |n| {
            let body = json!({"cause": "periodic", "policy": {"version": version, "details": []}});
            let request = client.post(&sync).bearer_auth(&tokens[n % tokens.len()]).json(&body);
            async move {
                request.send().await?.error_for_status()?.bytes().await?;
                Ok(())
            }
        })
        .await?
    };
    told_groups("idle contacts", before);
    let job = api("/jobs", json!({"kind": "refresh", "target": {"all": true}})).await?["id"].as_str().unwrap_or_default().to_owned();
    // The cycles are measured once the job's tasks are all made: what making them costs the intake is measured by itself.
    loop {
        let url = format!("{base}/api/v1/jobs/{job}");
        let seen: Value = client.get(url).bearer_auth(&key).send().await?.error_for_status()?.json().await?;
        if seen["state"] != "expanding" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let before = groups();
    let cycle = {
        let (tokens, client, sync) = (tokens.clone(), client.clone(), sync.clone());
        load(plan.connections, Some(tokens.len()), plan.seconds * 10, move |n| {
            let (client, sync, token) = (client.clone(), sync.clone(), tokens[n].clone());
            let version = version.clone();
            async move {
                let policy = json!({"version": version, "details": []});
                let visit: Value =
                    client.post(&sync).bearer_auth(&token).json(&json!({"cause": "push", "policy": policy})).send().await?.json().await?;
                let results: Vec<Value> = visit["tasks"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|task| json!({"task_id": task["id"], "status": "done", "at_ms": 1}))
                    .collect();
                let body = json!({"cause": "push", "policy": policy, "results": results});
                client.post(&sync).bearer_auth(&token).json(&body).send().await?.error_for_status()?.bytes().await?;
                Ok(())
            }
        })
        .await?
    };
    told_groups("cycles", before);
    stop.cancel();
    running.await??;
    Ok((activation, idle, cycle))
}

/// The same client against a handler that parses JSON and answers JSON, and nothing else.
async fn raw(plan: &Plan) -> anyhow::Result<Row> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let handler = axum::routing::post(async |axum::Json(body): axum::Json<Value>| axum::Json(json!({"cause": body["cause"]})));
    let serving = tokio::spawn(axum::serve(listener, axum::Router::new().route("/", handler)).into_future());
    let client = reqwest::Client::builder().pool_max_idle_per_host(plan.connections).build()?;
    let row = load(plan.connections, None, plan.seconds.min(5), move |_| {
        let request = client.post(&url).json(&json!({"cause": "periodic"}));
        async move {
            request.send().await?.error_for_status()?.bytes().await?;
            Ok(())
        }
    })
    .await?;
    serving.abort();
    Ok(row)
}

/// Runs `work(n)` on so many connections at once, until `count` are done or the seconds are over.
async fn load<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    connections: usize,
    count: Option<usize>,
    seconds: u64,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<Row> {
    let (next, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let started = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (next, over, work) = (next.clone(), over.clone(), work.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if count.is_some_and(|count| n >= count)
                        || over.load(Ordering::Relaxed)
                        || started.elapsed() > Duration::from_secs(seconds)
                    {
                        return anyhow::Ok(times);
                    }
                    let began = Instant::now();
                    work(n).await?;
                    times.push(began.elapsed().as_secs_f64() * 1000.0);
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or(0.0);
    Ok(Row(times.len() as f64 / elapsed, at(0.5), at(0.99)))
}
