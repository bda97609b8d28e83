//! What the benches of contacts share: their command line, the ceiling of the same run, the server, and the load.

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

/// What the command line says.
pub struct Plan {
    pub seconds: u64,
    pub connections: usize,
    pub devices: usize,
    pub postgres: Option<String>,
}

/// What a run came to: per second, median and 99th percentile in milliseconds.
pub struct Row(pub f64, pub f64, pub f64);

/// The intake's groups so far: how many, contacts in them, seconds that they took.
pub fn groups() -> [f64; 3] {
    let text = muster::telemetry::metrics().render();
    let of = |name: &str| -> f64 { text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).sum() };
    [of("muster_commit_seconds_count"), of("muster_intake_batch_size_sum"), of("muster_commit_seconds_sum")]
}

/// Prints what the groups came to since `before`.
pub fn told_groups(work: &str, before: [f64; 3]) {
    let now = groups();
    let [count, contacts, seconds] = [now[0] - before[0], now[1] - before[1], now[2] - before[2]];
    println!("{:<12} {work}: {count:.0} groups of {:.1}, {:.2} ms each", "", contacts / count, seconds / count * 1000.0);
}

/// Reads the command line.
pub fn plan(devices: usize) -> anyhow::Result<Plan> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut plan = Plan { seconds: 8, connections: 64, devices, postgres: None };
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
    Ok(plan)
}

/// The databases that are measured: a SQLite file in `folder`, and PostgreSQL where a URL is given.
pub fn databases(plan: &Plan, folder: &std::path::Path) -> Vec<(&'static str, String)> {
    let mut databases = vec![("sqlite", format!("sqlite://{}", folder.join("muster.db").display()))];
    databases.extend(plan.postgres.clone().map(|url| ("postgresql", url)));
    databases
}

/// The head of a table whose rows are told against this ceiling, and the ceiling.
pub fn head(ceiling: &Row) {
    println!("{:<12} {:<28} {:>10} {:>9} {:>9} {:>8}", "database", "work", "per second", "p50 ms", "p99 ms", "ratio");
    line("-", "trivial handler (ceiling)", ceiling, ceiling);
}

/// A row of the table.
pub fn line(database: &str, work: &str, row: &Row, ceiling: &Row) {
    println!("{database:<12} {work:<28} {:>10.0} {:>9.1} {:>9.1} {:>8.2}", row.0, row.1, row.2, row.0 / ceiling.0);
}

/// The same client against a handler that parses JSON and answers JSON, and nothing else.
pub async fn raw(plan: &Plan) -> anyhow::Result<Row> {
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
pub async fn load<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
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

/// A server that runs, and what is needed to speak to it.
pub struct Running {
    pub base: String,
    /// An admin's key for the API.
    pub key: String,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub async fn start(mut config: Config) -> anyhow::Result<Running> {
        config.secrets.key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into());
        let clock = Clock::system();
        let server = Server::start(config, clock.clone()).await?;
        let base = format!("http://{}", server.address().ok_or_else(|| anyhow::anyhow!("no address"))?);
        let (app, stop) = (server.app.clone(), CancellationToken::new());
        let server = tokio::spawn(server.run(stop.clone()));
        let mut conn = app.db.begin(Class::Operators).await?;
        let key = operators::add_key(&mut conn, &mut clock.moment(), &Actor::server(), "bench", Role::Admin).await?;
        conn.commit().await?;
        Ok(Running { base, key, stop, server })
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.server.await?
    }
}
