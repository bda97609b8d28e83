//! `muster demo`: the whole loop on one machine. Everything here goes over the wire: the phones use the agent protocol or Apple's, the
//! stand-ins speak FCM's and APNs', and the director uses the operator API as anybody would.

mod director;
mod providers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;

use self::director::Director;
use super::{local, stop_on_signal};
use crate::clock::Clock;
use crate::config::Config;
use crate::files;
use crate::model::Role;
use crate::server::Server;
use crate::sim::fleet::{Fleet, Plan};

const ANDROIDS: usize = 200;
/// iPhones with our app: every so many phones one.
const APP_EVERY: usize = 21;
const APPS: usize = ANDROIDS / (APP_EVERY - 1);
/// iPhones that are managed by their own system.
const IPHONES: usize = 20;
const ALL: usize = ANDROIDS + APPS + IPHONES;
/// The phones' first activations are spread over this time.
const ARRIVE_WITHIN: Duration = Duration::from_secs(4);
/// Its database, in its folder.
const DATABASE: &str = "muster.db";
/// Phones that have not been through the loop are named up to this many.
const NAMED_MAX: usize = 10;

/// Runs the demo until a signal, or for `seconds`; then it fails unless every phone completed the loop.
pub async fn run(seconds: Option<u64>, keep: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let temporary = std::env::temp_dir().join(format!("muster-demo-{}", clock.moment().id()));
    let folder = keep.clone().unwrap_or_else(|| temporary.clone());
    ensure!(
        !folder.join(DATABASE).exists(),
        "{} holds a {DATABASE} already, and each demo begins afresh: name another folder, or take that file away",
        folder.display()
    );
    files::private_folder(&folder).with_context(|| format!("{}", folder.display()))?;
    let outcome = in_folder(seconds, &folder, clock).await;
    if keep.is_none() {
        std::fs::remove_dir_all(&temporary).ok();
    }
    outcome
}

async fn in_folder(seconds: Option<u64>, folder: &std::path::Path, clock: Clock) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let (carriers, push) = providers::start(folder, &clock).await?;
    let listen = free_address()?;
    let config = Config {
        listen,
        public_url: format!("http://{listen}"),
        database_url: format!("sqlite://{}", folder.join(DATABASE).display()),
        data_dir: folder.to_owned(),
        push,
        ..Config::default()
    };
    let (link, _) = local::sign_in_link(&config, "demo", Some(Role::Admin)).await?;
    let key = local::api_key(&config, "demo", Role::Admin).await?;
    let server = Server::start(config, clock.clone()).await?;
    let url = server.app.config.public_url.clone();
    let running = tokio::spawn(server.run(stop.clone()));
    println!("\n  Muster's demo: {ALL} simulated phones come in, get tasks and policies, report, fail, go offline and return:");
    println!("  {ANDROIDS} Androids, {APPS} iPhones with an app, {IPHONES} iPhones that speak Apple's MDM protocol.");
    println!("\n  Open this page (the link signs in once, within 15 minutes):\n\n    {link}\n");
    println!("  The same through the API:  curl -H 'Authorization: Bearer {key}' {url}/api/v1/overview");
    println!("  Ctrl-C ends it.\n");

    let director = Director::new(&url, &key);
    let enrollment_token = director.prepare(ALL).await.context("the demo's users and policies cannot be made")?;
    let links = director.links(ANDROIDS + APPS..ALL).await.context("the demo's enrollment links cannot be made")?;
    let plan = Plan {
        server: url.clone(),
        enrollment_token,
        phones: ANDROIDS + APPS,
        iphone_every: APP_EVERY,
        links,
        arrive_within: ARRIVE_WITHIN,
        lively: true,
    };
    let fleet = Fleet::start(&plan, &carriers, &clock, &stop);
    let signal = CancellationToken::new();
    tokio::spawn(stop_on_signal(signal.clone()));
    let directing = director.direct(&fleet, &signal, seconds.map(Duration::from_secs));
    let told = directing.await;
    let completed = fleet.completed();
    let laggards: Vec<String> = fleet
        .progress
        .iter()
        .filter(|(_, progress)| !progress.completed_the_loop())
        .map(|(serial, progress)| format!("{serial}: {progress:?}"))
        .collect();
    stop.cancel();
    fleet.end().await;
    running.await.context("the server died")??;
    told?;
    if seconds.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{completed} of {ALL} phones were admitted, got their policy, were nudged, and finished a task");
    for laggard in laggards.iter().take(NAMED_MAX) {
        println!("  not {laggard}");
    }
    if laggards.len() > NAMED_MAX {
        println!("  and {} more", laggards.len() - NAMED_MAX);
    }
    Ok(if completed == ALL { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An address on loopback that nobody listens on now.
fn free_address() -> anyhow::Result<SocketAddr> {
    // The public URL has to be known before the server binds, so the port is found first; a race for it shows as a clear error.
    let probe = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(probe.local_addr()?)
}
