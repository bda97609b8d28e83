//! Idle contacts and delivered-and-acknowledged cycles, on SQLite and on PostgreSQL, against the ceiling of the same run.
//!
//! `cargo bench --bench contacts -- [--seconds N] [--connections N] [--devices N] [--postgres URL]`. Everything on one machine, generator
//! included; durable. Load goes to loopback alone and ends by itself. PostgreSQL is measured where a URL of an empty database is given.

mod common;
#[path = "common/groups.rs"]
mod groups;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/server.rs"]
mod server;
#[path = "common/table.rs"]
mod table;

use std::sync::Arc;
use std::time::Duration;

use common::Plan;
use groups::{groups, told_groups};
use muster::config::Config;
use serde_json::{Value, json};
use server::Running;
use table::{Row, load};

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(common::plan(2_000, 64)?))
}

async fn run(plan: Plan) -> anyhow::Result<()> {
    let ceiling = raw::ceiling(&plan).await?;
    table::head("trivial handler (ceiling)", &ceiling);
    let folder = std::env::temp_dir().join(format!("muster-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for (name, url) in common::databases(&plan, &folder) {
        let (activation, idle, cycle) = measure(&plan, &url).await?;
        table::line(name, "activation", &activation, &ceiling);
        table::line(name, "idle contact", &idle, &ceiling);
        table::line(name, "task delivered, acknowledged", &cycle, &ceiling);
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

async fn measure(plan: &Plan, url: &str) -> anyhow::Result<(Row, Row, Row)> {
    let running = Running::start(Config { listen: "127.0.0.1:0".parse()?, database_url: url.to_owned(), ..Config::default() }).await?;
    let (base, key) = (running.base.clone(), running.key.clone());
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
    running.stop().await?;
    Ok((activation, idle, cycle))
}
