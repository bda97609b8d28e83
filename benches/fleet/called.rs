//! A job whose phones come in when they are called, with the limits that a server has: each syncs because of its push, is handed its task,
//! and comes again to tell that it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster::clock::Clock;
use muster::model::Id;
use muster::sim::fcm::{self, StandIn};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::crowd;
use crate::site::{Met, Phone, Site, Then};
use crate::times::{Times, row};

/// What is still going on then is told as it stands.
const CALLED_MAX: Duration = Duration::from_secs(1_800);
/// Devices that are given a label in one request.
const LABELLED: usize = 10_000;
/// Calls that may wait for a connection, for each phone: it is called for the job, at its point, and perhaps once more.
const CALLS: usize = 4;
/// A connection looks so often for a phone of its own that was sent away.
const IDLE: Duration = Duration::from_millis(50);
/// A phone whose contact failed comes again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// "Throughout": the slowest hundredth is told of the worst of such windows too.
const WINDOW_S: f64 = 10.0;

/// The phones that are called, and the connections on which they come.
pub struct Called<'a> {
    pub site: &'a Site,
    pub fcm: &'a StandIn,
    pub fleet: &'a Arc<Vec<Id>>,
    /// Who is in the fleet besides.
    pub first: &'a Phone,
    /// How many the job is for; where that is not the whole fleet, they are taken evenly from it and given a label.
    pub count: usize,
    pub connections: usize,
}

/// A phone on its way, and what it has to tell.
struct Visit {
    phone: Phone,
    results: Vec<Value>,
}

/// What one connection has seen.
#[derive(Default)]
struct Seen {
    /// Seconds since the order, and milliseconds that the contact took.
    contacts: Vec<(f32, f32)>,
    /// Milliseconds from the call to the first request.
    waits: Vec<f64>,
    sent_away: usize,
    failed: usize,
    refused: usize,
}

/// What the connections share.
struct Crew {
    site: Site,
    fleet: Arc<Vec<Id>>,
    first: Phone,
    calls: Mutex<mpsc::Receiver<fcm::Called>>,
    over: AtomicBool,
    began: Instant,
}

/// Orders the job and serves whoever is called until it is done.
pub async fn job(all: &Called<'_>) -> anyhow::Result<()> {
    let target = match all.count < all.fleet.len() {
        true => json!({"label": label(all).await?}),
        false => json!({"all": true}),
    };
    let (tap, calls) = mpsc::channel(all.fleet.len() * CALLS);
    all.fcm.tap(tap);
    let before = all.fcm.counts().accepted;
    let (site, fleet, first) = (all.site.clone(), all.fleet.clone(), all.first.clone());
    let crew = Arc::new(Crew { site, fleet, first, calls: Mutex::new(calls), over: AtomicBool::new(false), began: Instant::now() });
    let at_work: Vec<_> = (0..all.connections).map(|_| tokio::spawn(serve(crew.clone()))).collect();
    let job = all.site.send("POST", "/jobs", json!({"kind": "refresh", "target": target})).await?;
    row("called phones come: job answered", format!("{:.0} ms", crew.began.elapsed().as_secs_f64() * 1000.0));
    let (accepted_s, done_s, job) = followed(all, &job, before, crew.began).await;
    crew.over.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    for one in at_work {
        let one = one.await?;
        seen.contacts.extend(one.contacts);
        seen.waits.extend(one.waits);
        (seen.sent_away, seen.failed, seen.refused) =
            (seen.sent_away + one.sent_away, seen.failed + one.failed, seen.refused + one.refused);
    }
    let text = |seconds: Option<f64>| seconds.map_or("NOT in time".to_owned(), |seconds| format!("{seconds:.1} s"));
    row("called phones come: accepted by the provider", format!("{} in {}", all.count, text(accepted_s)));
    tell(seen, crew.began.elapsed());
    row("tasks of the job by state", job["counts"].to_string());
    row("the job is done after", text(done_s));
    Ok(())
}

/// A label for as many phones as the job is for, evenly from the fleet.
async fn label(all: &Called<'_>) -> anyhow::Result<&'static str> {
    all.site.send("PUT", "/labels/called", json!({})).await?;
    let called = crowd::sample(all.fleet, all.count);
    for some in called[..all.count.min(called.len())].chunks(LABELLED) {
        let devices: Vec<&str> = some.iter().map(|phone| phone.device.as_str()).collect();
        all.site.send("POST", "/labels/called/devices", json!({ "devices": devices })).await?;
    }
    Ok("called")
}

/// Waits until the job is done: when all nudges were accepted, when it was done, and the job as the API shows it then.
async fn followed(all: &Called<'_>, job: &Value, before: u64, began: Instant) -> (Option<f64>, Option<f64>, Value) {
    let path = format!("/jobs/{}", job["id"].as_str().unwrap_or_default());
    let (mut accepted_s, mut shown) = (None, Value::Null);
    while began.elapsed() < CALLED_MAX {
        if all.fcm.counts().accepted >= before + all.count as u64 {
            accepted_s.get_or_insert(began.elapsed().as_secs_f64());
        }
        if let Ok(job) = all.site.send("GET", &path, Value::Null).await {
            shown = job;
        }
        if shown["state"] == "done" {
            return (accepted_s, Some(began.elapsed().as_secs_f64()), shown);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    (accepted_s, None, shown)
}

/// One connection: a phone of its own that was sent away and whose time has come, else whoever is called next.
async fn serve(crew: Arc<Crew>) -> Seen {
    let mut seen = Seen::default();
    let mut away: Vec<(Instant, Visit)> = Vec::new();
    while !crew.over.load(Ordering::Relaxed) {
        let due = away.iter().position(|(at, _)| *at <= Instant::now());
        let visit = match due {
            Some(at) => away.swap_remove(at).1,
            None => match tokio::time::timeout(IDLE, async { crew.calls.lock().await.recv().await }).await {
                Ok(Some(called)) => {
                    seen.waits.push((Clock::system().now_ms() - called.accepted_at_ms) as f64);
                    Visit { phone: crew.phone(&called.address), results: Vec::new() }
                }
                Ok(None) => break,
                Err(_) => continue,
            },
        };
        away.extend(crew.visit(visit, &mut seen).await);
    }
    seen
}

impl Crew {
    /// Who has this push address.
    fn phone(&self, address: &str) -> Phone {
        let number = address.strip_prefix("fleet-").and_then(|n| n.parse::<usize>().ok());
        number.and_then(|n| Some(Phone::seeded(n, *self.fleet.get(n)?))).unwrap_or_else(|| self.first.clone())
    }

    /// A phone comes as often as it has something to tell; answers when it comes again where it was sent away.
    async fn visit(&self, mut visit: Visit, seen: &mut Seen) -> Option<(Instant, Visit)> {
        loop {
            let Ok(Met { took_ms, refused, then }) = self.site.contact(&visit.phone, "push", &visit.results).await else {
                seen.failed += 1;
                return Some((Instant::now() + AGAIN, visit));
            };
            if let Then::Later(after) = then {
                seen.sent_away += 1;
                return Some((Instant::now() + after, visit));
            }
            seen.contacts.push((self.began.elapsed().as_secs_f32(), took_ms as f32));
            seen.refused += refused;
            let Then::Again(results) = then else { return None };
            visit.results = results;
        }
    }
}

/// A phone that waits for a connection of ours is the generator's failing, not the server's, and stands in a row of its own.
fn tell(seen: Seen, during: Duration) {
    let mut windows: Vec<Vec<f64>> = Vec::new();
    for (at_s, took_ms) in &seen.contacts {
        let window = (f64::from(*at_s) / WINDOW_S) as usize;
        windows.resize_with(windows.len().max(window + 1), Vec::new);
        windows[window].push(f64::from(*took_ms));
    }
    let worst = windows.into_iter().filter(|times| times.len() >= 100).map(|times| Times::of(times).p(0.99)).fold(f64::NAN, f64::max);
    let times = Times::of(seen.contacts.iter().map(|(_, took_ms)| f64::from(*took_ms)).collect());
    let contacts = Times(times.0, during.as_secs_f64(), seen.failed);
    row("contacts of called phones", format!("{}; worst 10 s: p99 {worst:.1} ms", contacts.text()));
    row("sent away with 503, results refused", format!("{}, {}", seen.sent_away, seen.refused));
    let waits = Times::of(seen.waits);
    row("called phones waited for our connections", waits.text());
}
