//! `muster simulate`: a fleet of phones against any server, bounded in count and time.

mod options;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::options::Options;
use self::report::Report;
use super::remote::simulated_token;
use super::stop_on_signal;
use crate::clock::Clock;
use crate::sim::swarm::{Carriers, Swarm};
use crate::sim::{self, apns, fcm};

/// How often a terminal's bar moves, and how often a line is written where there is no terminal.
const BAR_EVERY: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A server that takes longer to say that it is there is not.
const HEALTH_MAX: Duration = Duration::from_secs(10);
/// The MDM topic of the APNs stand-in's certificate.
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000001";
/// The name of the APNs stand-in's key for apps.
const KEY_ID: &str = "SIMULATED0";

/// Runs the fleet for its time, or until a signal; fails where phones failed.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    options.check()?;
    let health = format!("{}/healthz", options.server.trim_end_matches('/'));
    // The server may come up when the stand-ins have left what it reads.
    if let Err(error) = sim::client(HEALTH_MAX).build()?.get(health).send().await {
        eprintln!(
            "muster: {} does not answer yet ({:#}); the phones go on trying",
            options.server,
            anyhow::Error::from(error.without_url())
        );
    }
    let clock = Clock::system();
    let seed = options.seed.unwrap_or_else(|| clock.moment().below(i64::from(u32::MAX)).unsigned_abs());
    let token = match (&options.token, options.key.as_deref().filter(|key| !key.is_empty())) {
        (Some(token), _) => token.clone(),
        (None, Some(key)) => simulated_token(&options.server, key, options.email.is_some()).await?,
        (None, None) => bail!(
            "name an enrollment token (--token or MUSTER_ENROLLMENT_TOKEN), or an operator's API key (--key or MUSTER_KEY) to have one made"
        ),
    };
    let plan = options.plan(seed, token);
    let carriers = carriers(&options, &clock).await?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    let started = Instant::now();
    let mut swarm = Swarm::start(&plan, &carriers, options.at_once, &stop);
    watch(&swarm, &options, &stop).await;
    stop.cancel();
    swarm.end().await;
    let report = Report::new(seed, started.elapsed(), swarm.tally(), &swarm.uplink);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?)
    } else {
        print!("{report}")
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows how far the fleet is, on standard error, until its time is over.
async fn watch(swarm: &Swarm, options: &Options, stop: &CancellationToken) {
    let is_terminal = std::io::stderr().is_terminal();
    let (ends_at, every) = (Instant::now() + Duration::from_secs(options.seconds), if is_terminal { BAR_EVERY } else { LINE_EVERY });
    let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(options.seconds), target);
    if let Ok(style) = ProgressStyle::with_template("{elapsed:>5} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    let (mut requests, mut seen_at) = (0, Instant::now());
    while Instant::now() < ends_at && !stop.is_cancelled() {
        let until = (Instant::now() + every).min(ends_at);
        tokio::time::timeout_at(until, stop.cancelled()).await.ok();
        let (tally, sent) = (swarm.tally(), swarm.uplink.requests());
        let rate = (sent - requests) as f64 / seen_at.elapsed().as_secs_f64().max(0.001);
        (requests, seen_at) = (sent, Instant::now());
        let line = format!(
            "{} of {} phones in, {} in trouble, {rate:.0} requests/s, {} tasks done",
            tally.enrolled,
            options.phones(),
            tally.failed,
            tally.tasks_done
        );
        if is_terminal {
            bar.set_position(options.seconds.saturating_sub((ends_at - Instant::now()).as_secs()));
            bar.set_message(line);
        } else {
            eprintln!("{line}");
        }
    }
    bar.finish_and_clear();
}

/// The stand-ins that were asked for, and the credentials with which the server may call them.
async fn carriers(options: &Options, clock: &Clock) -> anyhow::Result<Carriers> {
    let mut carriers = Carriers::default();
    let Some(folder) = &options.push_dir else { return Ok(carriers) };
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let keep = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        crate::files::private(&path, bytes).with_context(|| path.display().to_string())
    };
    if let Some(address) = options.fcm_listen {
        let fcm = fcm::StandIn::start_on(address, clock.clone(), None).await.with_context(|| format!("--fcm-listen {address}"))?;
        keep("fcm.json", &fcm.service_account())?;
        eprintln!("FCM's stand-in: [push.fcm] endpoint = \"{}\", service_account = {}/fcm.json", fcm.endpoint(), folder.display());
        carriers.fcm = Some(fcm);
    }
    if let Some(address) = options.apns_listen {
        let apns = apns::StandIn::start_on(address, clock.clone()).await.with_context(|| format!("--apns-listen {address}"))?;
        let (issued, key) = (apns.issue_certificate(TOPIC)?, apns.issue_key(KEY_ID, &[&options.ios_bundle])?);
        keep("apns-ca.pem", apns.ca().as_bytes())?;
        keep("apns-mdm.pem", issued.certificate.as_bytes())?;
        keep("apns-mdm.key", issued.key.as_bytes())?;
        keep("apns-app.p8", key.p8.as_bytes())?;
        eprintln!(
            "APNs' stand-in: [push.apns_mdm] endpoint = \"{}\", ca_file, certificate, key = apns-ca.pem, apns-mdm.pem, apns-mdm.key in {}",
            apns.endpoint(),
            folder.display()
        );
        eprintln!(
            "[push.apns_app] likewise, with key = apns-app.p8, key_id = \"{KEY_ID}\", team_id = \"{}\", topic = \"{}\"",
            key.team_id, options.ios_bundle
        );
        carriers.apns = Some(apns);
    }
    ensure!(carriers.fcm.is_some() || carriers.apns.is_some(), "--push-dir is for --fcm-listen and --apns-listen");
    Ok(carriers)
}
