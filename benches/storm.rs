//! The minute storm: after an outage every phone of a fleet has events to tell, and comes back until they are heard. How long until all are,
//! how many were sent away, what the server's memory came to, and whether all that was accepted is there.
//!
//! `cargo bench --bench storm -- [--devices N] [--connections N] [--postgres URL]`. The server is a process of its own. A phone that is sent
//! away with 503 comes back after the time that it was told. Everything on one machine, on loopback; it ends after ten minutes at most.

mod common;
#[path = "support/first.rs"]
mod first;
#[path = "support/google.rs"]
mod google;
#[path = "support/insert.rs"]
mod insert;
#[path = "support/process.rs"]
mod process;
#[path = "support/seed.rs"]
mod seed;
#[path = "support/times.rs"]
mod times;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::Plan;
use muster::model::Id;
use process::Server;
use serde_json::{Value, json};
use times::{Times, row};

/// Events that each phone has kept.
const KEPT: usize = 3;
const STORM_MAX: Duration = Duration::from_secs(600);

fn main() -> anyhow::Result<()> {
    sqlx::any::install_default_drivers();
    tokio::runtime::Runtime::new()?.block_on(async {
        let plan = common::plan(100_000, 512)?;
        let folder = std::env::temp_dir().join(format!("muster-storm-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        for (name, url) in common::databases(&plan, &folder) {
            println!("{name}");
            measure(&plan, &folder, &url).await?;
        }
        std::fs::remove_dir_all(&folder).ok();
        Ok(())
    })
}

/// What became of the phones.
#[derive(Default)]
struct Heard {
    accepted: AtomicUsize,
    sent_away: AtomicUsize,
    lost: AtomicUsize,
}

async fn measure(plan: &Plan, folder: &Path, url: &str) -> anyhow::Result<()> {
    let (fcm, fcm_ca) = google::start(folder).await?;
    let mut server = Server::new(folder, url, &fcm, &fcm_ca)?;
    server.lift_limits(true);
    let key = server.key().await?;
    server.start().await?;
    first::enroll(&server.base, &key, &fcm.register()).await?;
    server.stop().await?;
    let ids = seed::fleet(url, 0, plan.devices).await?;
    let phones: Arc<Vec<Id>> = Arc::new(ids);
    let before = seed::count(url, "SELECT COUNT(*) FROM event").await?;
    server.start().await?;
    row("resident memory before", server.memory());
    let (next, heard, began) = (Arc::new(AtomicUsize::new(0)), Arc::new(Heard::default()), Instant::now());
    let client = reqwest::Client::builder().pool_max_idle_per_host(plan.connections).build()?;
    let callers: Vec<_> = (0..plan.connections)
        .map(|_| {
            let (next, heard, phones) = (next.clone(), heard.clone(), phones.clone());
            let (client, events) = (client.clone(), format!("{}/agent/v1/events", server.base));
            tokio::spawn(async move { call(&client, &events, &phones, &next, &heard, began).await })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await?);
    }
    let taken_s = began.elapsed().as_secs_f64();
    let (accepted, lost) = (heard.accepted.load(Ordering::Relaxed), heard.lost.load(Ordering::Relaxed));
    row("phones heard", format!("{accepted} of {} in {taken_s:.0} s", phones.len()));
    row("requests", Times(Times::of(times).0, taken_s, 0).text());
    row("sent away with 503, not heard at all", format!("{}, {lost}", heard.sent_away.load(Ordering::Relaxed)));
    row("resident memory, and its peak", server.memory());
    server.tell_turns(&[]).await;
    let kept = seed::count(url, "SELECT COUNT(*) FROM event").await? - before;
    let said = i64::try_from(accepted * KEPT)?;
    row("events accepted, events there", format!("{said}, {kept}"));
    server.stop().await?;
    let (bare, rate) = (insert::ceiling(url).await?, kept as f64 / taken_s);
    row("events a second, beside bare inserts", format!("{rate:.0} = {:.3} of them", rate / bare));
    anyhow::ensure!(kept == said, "what was accepted is not there once");
    Ok(())
}

/// One caller: takes phone after phone; those that were sent away wait for their time beside it.
async fn call(client: &reqwest::Client, url: &str, phones: &Arc<Vec<Id>>, next: &AtomicUsize, heard: &Heard, began: Instant) -> Vec<f64> {
    let mut times = Vec::new();
    let mut away: Vec<(Instant, usize)> = Vec::new();
    while began.elapsed() < STORM_MAX {
        let due = away.iter().position(|(at, _)| *at <= Instant::now()).map(|at| away.swap_remove(at).1);
        let n = match due {
            Some(n) => n,
            None => match next.fetch_add(1, Ordering::Relaxed) {
                n if n < phones.len() => n,
                _ if away.is_empty() => break,
                _ => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let asked = Instant::now();
        let request = client.post(url).bearer_auth(seed::token(phones[n]).reveal()).json(&json!({"events": events(n)}));
        let Ok(answer) = request.send().await else {
            away.push((Instant::now() + Duration::from_secs(60), n));
            continue;
        };
        times.push(asked.elapsed().as_secs_f64() * 1000.0);
        if answer.status().is_success() {
            let answer: Value = answer.json().await.unwrap_or_default();
            let taken = answer["events"].as_array().is_some_and(|events| events.iter().all(|event| event["outcome"] == "recorded"));
            if taken { &heard.accepted } else { &heard.lost }.fetch_add(1, Ordering::Relaxed);
        } else {
            heard.sent_away.fetch_add(1, Ordering::Relaxed);
            let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(60);
            away.push((Instant::now() + Duration::from_secs(after), n));
        }
    }
    heard.lost.fetch_add(away.len(), Ordering::Relaxed);
    times
}

fn events(phone: usize) -> Vec<Value> {
    let one = |n: usize| {
        json!({"event_id": format!("0198f3a2-7c4e-7b1a-{:04x}-{:08x}{n:04x}", phone % 0x1_0000, phone), "type": "scan_finished", "seq": n + 1,
            "occurred_at_ms": 1, "data": {"outcome": "clean"}})
    };
    (0..KEPT).map(one).collect()
}
