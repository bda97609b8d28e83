//! What `muster simulate` can be told.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use crate::sim::apple::life;
use crate::sim::phone::Habits;
use crate::sim::swarm::Plan;

const DEVICES_MAX: usize = 100_000;
const SECONDS_MAX: u64 = 7 * 24 * 3600;
const AT_ONCE_MAX: usize = 8192;

/// A fleet of simulated phones. Chances are between 0 and 1.
#[derive(Clone, Args)]
pub struct Options {
    /// The server that the phones come to.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Android phones with the agent, at most 100,000.
    #[arg(long, value_name = "N")]
    pub devices: usize,
    /// Further iPhones with the agent as an app, which come when they are pushed, when they were away and when somebody opens the app.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ios_apps: usize,
    /// The bundle id of that app.
    #[arg(long, value_name = "ID", default_value = "org.example.agent")]
    pub ios_bundle: String,
    /// Further iPhones under MDM, enrolled through SCEP.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub apple: usize,
    /// The enrollment token; without it one is made with --key.
    #[arg(long, env = "MUSTER_ENROLLMENT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// An API key of an operator, with which a token is made where none is given, and without --email a user whose phones they all are.
    #[arg(long, env = "MUSTER_KEY", hide_env_values = true, value_name = "KEY")]
    pub key: Option<String>,
    // In a help text clap breaks the line at an n in braces; the name of the value shows it as it is.
    /// The e-mail address of each phone's user, where n in braces stands for the phone's number; needed where the token names no user.
    #[arg(long, value_name = "user{n}@example.org")]
    pub email: Option<String>,
    /// End by itself after so many seconds.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u64,
    /// Phones that arrive in a second.
    #[arg(long, value_name = "N", default_value_t = 100.0)]
    pub arrivals: f64,
    /// Requests under way at a time.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub at_once: usize,
    /// The same seed is the same fleet, which is known to the server when it comes again with the same token.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Phones sync every so many seconds instead of when the server says; iPhones then ask for commands as often.
    #[arg(long, value_name = "SECONDS")]
    pub sync_every: Option<f64>,
    /// The time that the server says goes by so much faster.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, conflicts_with = "sync_every")]
    pub speed: f64,
    /// A phone that got no answer tries again after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub retry_after: f64,
    /// The chance that a push is lost on its way.
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0)]
    pub lose_pushes: f64,
    /// The chance that a sync is sent twice, because its first answer was lost.
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0)]
    pub duplicates: f64,
    /// The chance that a task fails.
    #[arg(long, value_name = "CHANCE", default_value_t = 0.0)]
    pub failures: f64,
    /// What a slow network adds to each sync at most.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub delay: u64,
    /// Mean seconds between two times that a phone is off the network.
    #[arg(long, value_name = "SECONDS")]
    pub offline_every: Option<f64>,
    /// How long it then is, at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub offline_for: f64,
    /// Mean seconds between two reboots of a phone.
    #[arg(long, value_name = "SECONDS")]
    pub reboot_every: Option<f64>,
    /// Mean seconds until a phone's agent is installed anew.
    #[arg(long, value_name = "SECONDS")]
    pub reinstall_every: Option<f64>,
    /// Mean seconds between two events that a phone reports by itself.
    #[arg(long, value_name = "SECONDS")]
    pub events_every: Option<f64>,
    /// Mean seconds between two times that somebody opens an iPhone's app.
    #[arg(long, value_name = "SECONDS")]
    pub opened_every: Option<f64>,
    /// Start FCM's stand-in here, to which the server's [push.fcm] endpoint can point.
    #[arg(long, value_name = "ADDRESS", requires = "push_dir")]
    pub fcm_listen: Option<SocketAddr>,
    /// Start APNs' stand-in here, to which the endpoints of the server's [push.apns_mdm] and [push.apns_app] can point.
    #[arg(long, value_name = "ADDRESS", requires = "push_dir")]
    pub apns_listen: Option<SocketAddr>,
    /// Where the stand-ins' credentials for the server are written.
    #[arg(long, value_name = "DIR")]
    pub push_dir: Option<PathBuf>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Go on although the server is not on this machine: the fleet's phones stay in its database.
    #[arg(long)]
    pub yes_this_is_mine: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("server", &self.server).field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl Options {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> anyhow::Result<()> {
        let url = reqwest::Url::parse(&self.server).context("--server is no URL")?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        ensure!(
            is_here || self.yes_this_is_mine,
            "{host} is not this machine: a simulated fleet is load, and its phones stay in the server's database. With --yes-this-is-mine it goes there"
        );
        let phones = self.phones();
        ensure!((1..=DEVICES_MAX).contains(&phones), "a fleet has 1 to {DEVICES_MAX} phones");
        ensure!((1..=SECONDS_MAX).contains(&self.seconds), "--seconds is between 1 and {SECONDS_MAX}");
        ensure!((1..=AT_ONCE_MAX).contains(&self.at_once), "--at-once is between 1 and {AT_ONCE_MAX}");
        for (name, chance) in [("lose-pushes", self.lose_pushes), ("duplicates", self.duplicates), ("failures", self.failures)] {
            ensure!((0.0..=1.0).contains(&chance), "--{name} is a chance between 0 and 1");
        }
        let times = [self.opened_every, self.sync_every, self.offline_every, self.reboot_every, self.reinstall_every, self.events_every];
        let given = times.into_iter().flatten().chain([self.retry_after, self.offline_for, self.speed, self.arrivals]);
        for number in given {
            ensure!((0.01..=1e7).contains(&number), "times, --speed and --arrivals are between 0.01 and 10,000,000");
        }
        Ok(())
    }

    /// All phones of the fleet.
    pub fn phones(&self) -> usize {
        self.devices.saturating_add(self.ios_apps).saturating_add(self.apple)
    }

    /// The fleet as the options have it.
    pub fn plan(&self, seed: u64, enrollment_token: String) -> Plan {
        let time = Duration::from_secs_f64;
        Plan {
            server: self.server.trim_end_matches('/').to_owned(),
            enrollment_token,
            androids: self.devices,
            apps: self.ios_apps,
            bundle: self.ios_bundle.clone(),
            iphones: self.apple,
            email: self.email.clone(),
            arrivals_per_s: self.arrivals,
            seed,
            habits: Habits {
                loses_push: self.lose_pushes,
                duplicates: self.duplicates,
                fails: self.failures,
                event_every: self.events_every.map(time),
                absent_every: self.offline_every.map(time),
                absent_for: time(self.offline_for),
                reboot_every: self.reboot_every.map(time),
                reinstall_every: self.reinstall_every.map(time),
                sync_every: self.sync_every.map(time),
                opened_every: self.opened_every.map(time),
                speed: self.speed,
                delay: Duration::from_millis(self.delay),
                retry: time(self.retry_after),
                ..Habits::default()
            },
            apple: life::Habits {
                loses_push: self.lose_pushes,
                retry: time(self.retry_after),
                poll_every: self.sync_every.map(time),
                ..life::Habits::default()
            },
        }
    }
}
