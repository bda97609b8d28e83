//! A fleet of 1,000,000 on one database: a restart with every call overdue, what a contact costs beside what it costs in a small fleet, a
//! job whose phones come in as they are called, a job for all with the sender's limits lifted and no phone coming in, a job and a policy for
//! all with the limits that a server has and other phones coming in beside them, an urgent lock behind the bulk, a policy for all with the
//! limits lifted and no phone coming in, and the memory.
//!
//! `cargo bench --bench fleet -- [--devices N] [--called N] [--connections N] [--seconds N] [--postgres URL]`. `--called` is for how many
//! phones the job is whose phones come in, and `--connections` on how many connections these come. The server is a process of its own, the
//! provider a stand-in that answers after 20 ms. Everything on one machine, on loopback; every phase has an end.

#[path = "support/arguments.rs"]
mod arguments;
#[path = "fleet/called.rs"]
mod called;
#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/google.rs"]
mod google;
#[path = "support/insert.rs"]
mod insert;
#[path = "support/nudged.rs"]
mod nudged;
#[path = "support/process.rs"]
mod process;
#[path = "support/seed.rs"]
mod seed;
#[path = "fleet/silent.rs"]
mod silent;
#[path = "support/site.rs"]
mod site;
#[path = "support/times.rs"]
mod times;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use called::Called;
use crowd::{PHASE_MAX, grow, sample, settled};
use muster::model::Id;
use muster::model::schedule::GAP_MS;
use muster::sim::fcm::StandIn;
use process::Server;
use serde_json::json;
use silent::Silent;
use site::{Phone, Site};
use times::{Times, row};

/// The small fleet whose contacts are the measure of those in the large one.
const SMALL: usize = 10_000;
/// Phones that come in beside the work, from all over the fleet, and how: each connection with a pause after each contact.
const VISITORS: usize = 4_000;
const CONNECTIONS: usize = 8;
const THINK: Duration = Duration::from_millis(10);
/// Connections without a pause, for what a contact costs.
const BUSY: usize = 64;
/// Phones that are locked, enrolled after the job for all: none of them waits for its nudge, which would be taken for the lock's.
const LOCKED: usize = 64;
const ANSWER_DELAY_MS: u64 = 20;
const PERIOD_S: f64 = 10_800.0;

struct Plan {
    devices: usize,
    called: usize,
    connections: usize,
    seconds: u64,
    postgres: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let mut plan = Plan { devices: 1_000_000, called: usize::MAX, connections: 512, seconds: 10, postgres: None };
    arguments::each(|name, value| {
        match name {
            "--devices" => plan.devices = value.parse()?,
            "--called" => plan.called = value.parse()?,
            "--connections" => plan.connections = value.parse()?,
            "--seconds" => plan.seconds = value.parse()?,
            "--postgres" => plan.postgres = Some(value),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
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
    let (fcm, fcm_ca) = google::start(folder).await?;
    fcm.set_answer_delay_ms(ANSWER_DELAY_MS);
    let mut server = Server::new(folder, url, &fcm, &fcm_ca)?;
    let key = server.key().await?;
    server.start().await?;
    let mut site = Site::new(&server.base, &key).await?;
    let first = site.enroll(&fcm, "first", 1).await?;
    server.stop().await?;
    server.lift_limits(true);

    let small = SMALL.min(plan.devices);
    let mut fleet = grow(url, &fcm, 0, small).await?;
    server.start().await?;
    settled(url).await?;
    let few = contacts(plan, &site, &fleet).await;
    row("contacts as fast as they can, small fleet", few.text());
    row("resident memory, small fleet", server.memory());
    server.stop().await?;

    let began = Instant::now();
    fleet.extend(grow(url, &fcm, small, plan.devices).await?);
    row("rows made for the fleet", format!("{} devices in {:.0} s", fleet.len(), began.elapsed().as_secs_f64()));
    restart(&mut server, &fcm, plan, url).await?;

    let many = contacts(plan, &site, &fleet).await;
    let ratio = (few.0.len() as f64 / few.1) / (many.0.len() as f64 / many.1);
    row("contacts as fast as they can, whole fleet", format!("{}; each costs {ratio:.2} x", many.text()));
    row("resident memory", server.memory());
    let visitors = Arc::new(sample(&fleet, VISITORS));
    let idle = site.beside(&visitors, CONNECTIONS, THINK, tokio::time::sleep(Duration::from_secs(plan.seconds))).await;
    row("contacts, nothing else", idle.text());
    again(&mut server, false).await?;
    // Before any other job: a phone that is called finds its task and nothing else.
    let fleet = Arc::new(fleet);
    let first = first.first().ok_or_else(|| anyhow::anyhow!("no phone was enrolled"))?;
    let (count, connections) = (plan.called.min(fleet.len()), plan.connections);
    let before = server.turns().await;
    called::job(&Called { site: &site, fcm: &fcm, fleet: &fleet, first, count, connections }).await?;
    server.tell_turns(&before).await;
    row("resident memory, and its peak", server.memory());
    server.stop().await?;
    let bare = insert::ceiling(url).await?;

    again(&mut server, true).await?;
    past_the_gap().await;
    let base = server.base.clone();
    let silent = |site: &Site| Silent { site: site.clone(), fcm: &fcm, base: &base, url, devices: fleet.len() };
    let before = server.turns().await;
    let speed = silent::job(&silent(&site)).await?;
    server.tell_turns(&before).await;
    speed.tell(bare);
    row("resident memory, and its peak", server.memory());
    again(&mut server, false).await?;
    // What that job has left for the visitors they fetch first.
    past_the_gap().await;
    for phone in visitors.iter() {
        site.come(phone, "periodic").await?;
    }
    let before = server.turns().await;
    job(&mut site, &fcm, &visitors, fleet.len(), &idle).await?;
    server.tell_turns(&before).await;
    row("resident memory", server.memory());
    let before = server.turns().await;
    policy(&site, &visitors, &idle, url).await;
    server.tell_turns(&before).await;
    row("resident memory, and its peak", server.memory());
    again(&mut server, true).await?;
    // What the former policy still has to call for goes first.
    let began = Instant::now();
    while crowd::untold(url).await? > 0 && began.elapsed() < PHASE_MAX {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    past_the_gap().await;
    let before = server.turns().await;
    let speed = silent::policy(&silent(&site), "bench").await?;
    server.tell_turns(&before).await;
    speed.tell(bare);
    server.stop().await
}

/// Starts the server anew, or where it was stopped, with its sender's limits lifted or as they are.
async fn again(server: &mut Server, is_lifted: bool) -> anyhow::Result<()> {
    server.stop().await?;
    server.lift_limits(is_lifted);
    server.start().await
}

/// Nobody is called twice within the gap: what is ordered within it would wait for those who were just called.
async fn past_the_gap() {
    tokio::time::sleep(Duration::from_millis(GAP_MS.unsigned_abs())).await;
}

/// Contacts of the whole fleet without a pause.
async fn contacts(plan: &Plan, site: &Site, fleet: &[Id]) -> Times {
    let phones = Arc::new(sample(fleet, 50_000));
    site.beside(&phones, BUSY, Duration::ZERO, tokio::time::sleep(Duration::from_secs(plan.seconds))).await
}

/// The server comes back when every phone's call is overdue: how many it calls in each of the first seconds.
async fn restart(server: &mut Server, fcm: &StandIn, plan: &Plan, url: &str) -> anyhow::Result<()> {
    let before = fcm.counts().accepted;
    let mut seen = before;
    server.start().await?;
    let (began, mut rates) = (Instant::now(), Vec::new());
    for second in 1..=plan.seconds {
        tokio::time::sleep_until((began + Duration::from_secs(second)).into()).await;
        let now = fcm.counts().accepted;
        rates.push(now - seen);
        seen = now;
    }
    let even = plan.devices as f64 / PERIOD_S;
    let (first, most) = (rates.first().copied().unwrap_or(0), rates.iter().copied().max().unwrap_or(0));
    row(
        "restart, all overdue: nudges a second",
        format!("first {first}, at most {most}; evenly spread {even:.0}: {:.2} x", most as f64 / even),
    );
    settled(url).await?;
    row("restart, all overdue: all have their time", format!("{:.0} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Seconds since `began` at which the provider had accepted so many, or at which they were no longer waited for.
async fn until(fcm: &StandIn, accepted: u64, began: Instant) -> f64 {
    while fcm.counts().accepted < accepted && began.elapsed() < PHASE_MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    began.elapsed().as_secs_f64()
}

/// A job for all while phones come in, and locks of phones that it does not concern.
async fn job(site: &mut Site, fcm: &StandIn, visitors: &Arc<Vec<Phone>>, devices: usize, idle: &Times) -> anyhow::Result<()> {
    let before = fcm.counts().accepted;
    let (mut told, mut urgent) = ([0.0; 2], Vec::new());
    let beside = site.clone();
    let began = Instant::now();
    let during = beside
        .beside(visitors, CONNECTIONS, THINK, async {
            site.send("POST", "/jobs", json!({"kind": "refresh", "target": {"all": true}})).await.ok();
            told[0] = began.elapsed().as_secs_f64();
            told[1] = until(fcm, before + 1, began).await;
            let aside = site.enroll(fcm, "aside", LOCKED).await.unwrap_or_default();
            // The phones that come in beside the work get theirs without a nudge.
            let all = before + devices.saturating_sub(visitors.len()) as u64 * 99 / 100;
            while fcm.counts().accepted < all && began.elapsed() < PHASE_MAX {
                if let Some(phone) = aside.get(urgent.len() % LOCKED) {
                    urgent.push(lock(site, fcm, phone).await.unwrap_or(f64::INFINITY));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    let accepted = fcm.counts().accepted - before;
    row("job for all: answered", format!("{:.0} ms", told[0] * 1000.0));
    row("job for all: first nudge", format!("{:.0} ms", told[1] * 1000.0));
    row("job for all: accepted by the provider", format!("{accepted} in {:.0} s", began.elapsed().as_secs_f64()));
    row("contacts meanwhile", format!("{} = {:.1} x idle p99", during.text(), during.p(0.99) / idle.p(0.99)));
    row("lock of one phone meanwhile, to the wire", Times::of(urgent).text());
    Ok(())
}

/// Locks one phone and waits for its push: milliseconds from the order to the wire, without the provider's own delay. `None` where the push
/// did not come in 10 s. The phone then comes for its task.
async fn lock(site: &Site, fcm: &StandIn, phone: &Phone) -> Option<f64> {
    let mut pushes = fcm.connect(&phone.push);
    while pushes.try_recv().is_ok() {}
    let began = Instant::now();
    site.send("POST", "/jobs", json!({"kind": "lock", "target": {"devices": [phone.device]}})).await.ok()?;
    let push = tokio::time::timeout(Duration::from_secs(10), pushes.recv()).await;
    let took = push.ok().flatten().map(|_| began.elapsed().as_secs_f64() * 1000.0 - ANSWER_DELAY_MS as f64);
    site.come(phone, "push").await.ok();
    took
}

/// A policy for all while phones come in.
async fn policy(site: &Site, visitors: &Arc<Vec<Phone>>, idle: &Times, url: &str) {
    let mut answered = 0.0;
    let began = Instant::now();
    let during = site
        .beside(visitors, CONNECTIONS, THINK, async {
            site.send("PUT", "/policies/bench", json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED"}})).await.ok();
            let asked = Instant::now();
            let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
            site.send("PUT", "/policies/bench/assignments", all).await.ok();
            answered = asked.elapsed().as_secs_f64();
            let moving = "SELECT COUNT(*) FROM label_set WHERE moving > 0";
            while seed::count(url, moving).await.unwrap_or(1) > 0 && began.elapsed() < PHASE_MAX {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    row("policy for all: answered", format!("{:.0} ms", answered * 1000.0));
    row("policy for all: every row moved", format!("{:.0} s", began.elapsed().as_secs_f64()));
    row("contacts meanwhile", format!("{} = {:.1} x idle p99", during.text(), during.p(0.99) / idle.p(0.99)));
}
