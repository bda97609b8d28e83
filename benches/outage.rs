//! The provider is away for minutes while all of a large fleet wait to be called, and comes back: what the server tries meanwhile, when an
//! urgent lock that was ordered meanwhile is on the wire, how the rate of the nudges climbs, when all that waited is accepted, what contacts
//! take beside it, the memory, and the alarms.
//!
//! `cargo bench --bench outage -- [--devices N] [--minutes N] [--how refuse|503] [--postgres URL]`. The server is a process of its own with
//! the limits that it has where nobody sets them, the provider a stand-in that answers after 20 ms. Everything on one machine, on loopback;
//! it ends half an hour after the provider's return at the latest.

#[path = "support/arguments.rs"]
mod arguments;
#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/google.rs"]
mod google;
#[path = "support/nudged.rs"]
mod nudged;
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

use muster::sim::fcm::{Fault, Push, Scope, StandIn, Times as Often};
use process::Server;
use serde_json::{Value, json};
use site::{Phone, Site};
use times::{Times, row};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const ANSWER_DELAY_MS: u64 = 20;
/// Phones that come in beside all that, each connection with a pause after each contact.
const VISITORS: usize = 4_000;
const CONNECTIONS: usize = 4;
const THINK: Duration = Duration::from_millis(20);
/// Phones that are locked while the provider is away, evenly over that time; enrolled after the job for all, so that none waits for another
/// nudge that would be taken for the lock's.
const LOCKED: usize = 64;
/// What has not come by then after the provider's return is told as it stands.
const RETURN_MAX: Duration = Duration::from_secs(1_800);
/// How the rate after the return is told.
const STEP: Duration = Duration::from_secs(10);
const STEPS_TOLD: usize = 18;
/// How long alarms may stay after all is well.
const ALARMS_MAX: Duration = Duration::from_secs(120);

struct Plan {
    devices: usize,
    minutes: u32,
    how: How,
    postgres: Option<String>,
}

/// How the provider is away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// It answers each message with 503 and names no time.
    Unavailable,
    /// Nobody listens.
    Refusing,
}

/// A lock that was ordered, and where its push arrives.
struct Lock {
    phone: Phone,
    pushes: mpsc::Receiver<Push>,
}

fn main() -> anyhow::Result<()> {
    let mut plan = Plan { devices: 1_000_000, minutes: 10, how: How::Unavailable, postgres: None };
    arguments::each(|name, value| {
        match (name, value.as_str()) {
            ("--devices", n) => plan.devices = n.parse()?,
            ("--minutes", n) => plan.minutes = n.parse()?,
            ("--how", "503") => plan.how = How::Unavailable,
            ("--how", "refuse") => plan.how = How::Refusing,
            ("--postgres", url) => plan.postgres = Some(url.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    rustls::crypto::ring::default_provider().install_default().ok();
    sqlx::any::install_default_drivers();
    tokio::runtime::Runtime::new()?.block_on(async {
        let folder = std::env::temp_dir().join(format!("muster-outage-{}", std::process::id()));
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
    server.lift_limits(false);
    let began = Instant::now();
    let fleet = crowd::grow(url, &fcm, 0, plan.devices).await?;
    row("rows made for the fleet", format!("{} devices in {:.0} s", fleet.len(), began.elapsed().as_secs_f64()));
    let began = Instant::now();
    server.start().await?;
    crowd::settled(url).await?;
    row("all have their time", format!("{:.0} s", began.elapsed().as_secs_f64()));
    row("resident memory", server.memory());

    let visitors = Arc::new(crowd::sample(&fleet, VISITORS));
    let (beside, base) = (site.clone(), server.base.clone());
    let (mut outcome, mut locks) = (Ok(()), Vec::new());
    leave(&fcm, plan.how);
    let work = async { outcome = away(plan, &mut site, &fcm, &base, &mut locks).await };
    let during = beside.beside(&visitors, CONNECTIONS, THINK, work).await;
    outcome?;
    row("contacts while it is away", during.text());
    row("resident memory, and its peak", server.memory());
    row("alarms open", alarms(&site).await?);
    row("phones that wait to be called", crowd::untold(url).await?.to_string());

    let accepted = fcm.counts().accepted;
    come_back(&fcm, plan.how).await?;
    let returned = Instant::now();
    let locks: Vec<_> = locks.into_iter().map(|lock| on_the_wire(site.clone(), lock, returned)).collect();
    let mut outcome = Ok(());
    let before = server.turns().await;
    let work = async { outcome = back(&fcm, url, accepted, returned).await };
    let during = beside.beside(&visitors, CONNECTIONS, THINK, work).await;
    outcome?;
    server.tell_turns(&before).await;
    row("contacts after its return", during.text());
    tell_locks(locks).await?;
    row("resident memory, and its peak", server.memory());
    let began = Instant::now();
    while alarms(&site).await? != "none" && began.elapsed() < ALARMS_MAX {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    row("alarms open when all is well", format!("{} after {:.0} s", alarms(&site).await?, began.elapsed().as_secs_f64()));
    server.stop().await
}

fn leave(fcm: &StandIn, how: How) {
    match how {
        How::Unavailable => fcm.faults().set(Scope::Send, Often::UntilCleared, Fault::unavailable(None)),
        How::Refusing => fcm.refuse_connections(),
    }
}

async fn come_back(fcm: &StandIn, how: How) -> anyhow::Result<()> {
    match how {
        How::Unavailable => fcm.faults().clear(),
        How::Refusing => fcm.accept_connections().await?,
    }
    Ok(())
}

/// Orders a job for all and, evenly over the time, the locks; tells of each minute what the server tried.
async fn away(plan: &Plan, site: &mut Site, fcm: &StandIn, base: &str, locks: &mut Vec<Lock>) -> anyhow::Result<()> {
    let tried = async || nudged::sum(base, "muster_nudges_total", &["provider=\"fcm\""]).await;
    let connects = async || nudged::sum(base, "muster_connects_total", &["provider=\"fcm\"", "result=\"opened\""]).await;
    let (mut last, mut of_minute, mut most, mut connected) = (tried().await, tried().await, 0.0_f64, connects().await);
    let began = Instant::now();
    site.send("POST", "/jobs", json!({"kind": "message", "params": {"text": "hello"}, "target": {"all": true}})).await?;
    row("job for all: answered", format!("{:.0} ms", began.elapsed().as_secs_f64() * 1000.0));
    let mut aside = site.enroll(fcm, "aside", LOCKED).await?.into_iter();
    let seconds = 60 * plan.minutes;
    for second in 1..=seconds {
        tokio::time::sleep_until((began + Duration::from_secs(second.into())).into()).await;
        for phone in aside.by_ref().take((LOCKED * second as usize / seconds as usize).saturating_sub(locks.len())) {
            let pushes = fcm.connect(&phone.push);
            site.send("POST", "/jobs", json!({"kind": "lock", "target": {"devices": [phone.device]}})).await?;
            locks.push(Lock { phone, pushes });
        }
        let now = tried().await;
        (most, last) = (most.max(now - last), now);
        if second % 60 == 0 {
            let (minute, each) = (now - of_minute, connects().await);
            let what = format!("away, minute {}: nudges tried", second / 60);
            row(&what, format!("{minute} = {:.2}/s, at most {most} in a second; {} connections opened", minute / 60.0, each - connected));
            (of_minute, most, connected) = (now, 0.0, each);
        }
    }
    Ok(())
}

/// Waits until nobody waits any more; tells how the rate climbed.
async fn back(fcm: &StandIn, url: &str, before: u64, returned: Instant) -> anyhow::Result<()> {
    let (mut first_s, mut seen, mut rates) = (None, before, Vec::new());
    let mut waiting = crowd::untold(url).await?;
    while waiting > 0 && returned.elapsed() < RETURN_MAX {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = fcm.counts().accepted;
        if now > before {
            first_s.get_or_insert(returned.elapsed().as_secs_f64());
        }
        if returned.elapsed() >= STEP * (rates.len() as u32 + 1) {
            rates.push((now - seen) as f64 / STEP.as_secs_f64());
            seen = now;
            waiting = crowd::untold(url).await?;
        }
    }
    let quiet = rates.iter().take_while(|rate| **rate == 0.0).count();
    let told: Vec<String> = rates[quiet..].iter().take(STEPS_TOLD).map(|rate| format!("{rate:.0}")).collect();
    let highest = rates.iter().copied().fold(0.0, f64::max);
    row("after its return: first nudge accepted", first_s.map_or("NONE".into(), |first_s: f64| format!("{first_s:.1} s")));
    row("accepted a second, in each 10 s", format!("nothing for {} s, then {}; highest {highest:.0}", quiet * 10, told.join(" ")));
    let all = format!("{} accepted in {:.0} s", fcm.counts().accepted - before, returned.elapsed().as_secs_f64());
    row("all that waited", if waiting == 0 { all } else { format!("{all}; {waiting} WAIT STILL") });
    Ok(())
}

/// Milliseconds from the provider's return until the lock's push was on the wire; `None` where it never was. The phone then comes for it.
fn on_the_wire(site: Site, mut lock: Lock, returned: Instant) -> JoinHandle<Option<f64>> {
    tokio::spawn(async move {
        tokio::time::timeout(RETURN_MAX, lock.pushes.recv()).await.ok()??;
        let took_ms = returned.elapsed().as_secs_f64() * 1000.0 - ANSWER_DELAY_MS as f64;
        site.come(&lock.phone, "push").await.ok();
        Some(took_ms)
    })
}

async fn tell_locks(locks: Vec<JoinHandle<Option<f64>>>) -> anyhow::Result<()> {
    let mut took_s = Vec::new();
    let ordered = locks.len();
    for lock in locks {
        took_s.extend(lock.await?.map(|took_ms| took_ms / 1000.0));
    }
    let times = Times::of(took_s);
    let (p50, most) = (times.p(0.5), times.p(1.0));
    row("locks ordered meanwhile, on the wire after", format!("{} of {ordered}, p50 {p50:.1} s, the last {most:.1} s", times.0.len()));
    Ok(())
}

/// The kinds of the alarms that are open.
async fn alarms(site: &Site) -> anyhow::Result<String> {
    let open = site.send("GET", "/alarms?state=open", Value::Null).await?;
    let kinds: Vec<&str> = open["items"].as_array().into_iter().flatten().filter_map(|alarm| alarm["kind"].as_str()).collect();
    Ok(if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") })
}
