//! A fleet of 1,000,000 on one database: a restart with every call overdue, what a contact costs beside what it costs in a small fleet, a
//! job for all with the sender's limits lifted and no phone coming in, a job and a policy for all with the limits that a server has and
//! phones coming in beside them, an urgent lock behind the bulk, and the memory.
//!
//! `cargo bench --bench fleet -- [--devices N] [--seconds N] [--postgres URL]`. The server is a process of its own, the provider a stand-in
//! that answers after 20 ms. Everything on one machine, on loopback; every phase has an end.

#[path = "support/google.rs"]
mod google;
#[path = "support/process.rs"]
mod process;
#[path = "support/seed.rs"]
mod seed;
#[path = "support/site.rs"]
mod site;
#[path = "support/times.rs"]
mod times;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster::clock::Clock;
use muster::model::Id;
use muster::model::schedule::GAP_MS;
use muster::sim::fcm::{PROJECT, StandIn};
use process::Server;
use serde_json::json;
use site::{Phone, Site};
use sqlx::{AnyConnection, Connection};
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
/// A phase that takes longer is told as it stands.
const PHASE_MAX: Duration = Duration::from_secs(900);
const PERIOD_S: f64 = 10_800.0;

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
    let (fcm, fcm_ca) = google::start(folder).await?;
    fcm.set_answer_delay_ms(ANSWER_DELAY_MS);
    let mut server = Server::new(folder, url, &fcm, &fcm_ca)?;
    let key = server.key().await?;
    server.start().await?;
    let mut site = Site::new(&server.base, &key).await?;
    site.enroll(&fcm, "first", 1).await?;
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
    let before = server.turns().await;
    silent_job(&site, &fcm, fleet.len()).await?;
    server.tell_turns(&before).await;
    row("resident memory, and its peak", server.memory());
    server.stop().await?;
    server.lift_limits(false);
    server.start().await?;
    // Nobody is called twice within the gap, and what that job has left for the visitors they fetch first.
    tokio::time::sleep(Duration::from_millis(GAP_MS.unsigned_abs())).await;
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
    server.stop().await
}

/// Seeds phones and registers them with the provider.
async fn grow(url: &str, fcm: &StandIn, from: usize, to: usize) -> anyhow::Result<Vec<Id>> {
    let ids = seed::fleet(url, from, to).await?;
    for n in from..to {
        fcm.register_as(&seed::push(n), PROJECT, None);
    }
    Ok(ids)
}

/// So many phones, evenly from all over the fleet.
fn sample(fleet: &[Id], count: usize) -> Vec<Phone> {
    let step = (fleet.len() / count.max(1)).max(1);
    fleet.iter().enumerate().step_by(step).map(|(n, id)| Phone::seeded(n, *id)).collect()
}

/// Contacts of the whole fleet without a pause.
async fn contacts(plan: &Plan, site: &Site, fleet: &[Id]) -> Times {
    let phones = Arc::new(sample(fleet, 50_000));
    site.beside(&phones, BUSY, Duration::ZERO, tokio::time::sleep(Duration::from_secs(plan.seconds))).await
}

/// Waits until no call is half an hour overdue: those that were have been spread over the period, or sent.
async fn settled(url: &str) -> anyhow::Result<()> {
    let (began, before_ms) = (Instant::now(), Clock::system().now_ms() - 1_800_000);
    while overdue(url, before_ms).await? > 0 && began.elapsed() < PHASE_MAX {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// How many calls are waiting that were due before this time, Unix milliseconds.
async fn overdue(url: &str, before_ms: i64) -> anyhow::Result<i64> {
    let mut conn = AnyConnection::connect(url).await?;
    let waiting = "SELECT COUNT(*) FROM wakes WHERE sender = 'fcm' AND lane = 4 AND due_at_ms < $1";
    Ok(sqlx::query_scalar(waiting).bind(before_ms).fetch_one(&mut conn).await?)
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

/// A job for all whose phones do not come.
async fn silent_job(site: &Site, fcm: &StandIn, devices: usize) -> anyhow::Result<()> {
    let before = fcm.counts().accepted;
    let began = Instant::now();
    site.send("POST", "/jobs", json!({"kind": "message", "params": {"text": "hello"}, "target": {"all": true}})).await?;
    let answered = began.elapsed().as_secs_f64();
    let first = until(fcm, before + 1, began).await;
    let all = until(fcm, before + devices as u64, began).await;
    row("job for all, limits lifted: answered", format!("{:.0} ms", answered * 1000.0));
    row("job for all, limits lifted: first nudge", format!("{:.0} ms", first * 1000.0));
    row("job for all, limits lifted: accepted", format!("{} in {all:.0} s", fcm.counts().accepted - before));
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
                    urgent.push(site.lock(fcm, phone, ANSWER_DELAY_MS).await.unwrap_or(f64::INFINITY));
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
