//! A server as a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use muster::sim::fcm::StandIn;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// The server as a process.
pub struct Server {
    pub base: String,
    folder: PathBuf,
    settings: Vec<(&'static str, String)>,
    child: Option<tokio::process::Child>,
}

impl Server {
    /// With FCM's stand-in as its only provider.
    pub fn new(folder: &Path, url: &str, fcm: &StandIn, fcm_ca: &Path) -> anyhow::Result<Server> {
        let address = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        std::fs::write(folder.join("fcm.json"), fcm.service_account())?;
        let settings = vec![
            ("MUSTER_DATABASE_URL", url.to_owned()),
            ("MUSTER_DATA_DIR", folder.display().to_string()),
            ("MUSTER_SECRETS_KEY", KEY.to_owned()),
            ("MUSTER_LISTEN", address.to_string()),
            ("MUSTER_PUSH__FCM__SERVICE_ACCOUNT", folder.join("fcm.json").display().to_string()),
            ("MUSTER_PUSH__FCM__ENDPOINT", fcm.endpoint()),
            ("MUSTER_PUSH__FCM__CA_FILE", fcm_ca.display().to_string()),
            ("MUSTER_LOG", "warn".into()),
        ];
        Ok(Server { base: format!("http://{address}"), folder: folder.to_owned(), settings, child: None })
    }

    /// From the next start on the sender's limits are lifted, or what they are where nobody sets them.
    pub fn lift_limits(&mut self, lifted: bool) {
        let limits = [("MUSTER_PUSH__FCM__QUOTA_PER_S", "1000000"), ("MUSTER_PUSH__FCM__CONCURRENCY_MAX", "1000")];
        self.settings.retain(|(name, _)| limits.iter().all(|(limit, _)| limit != name));
        if lifted {
            self.settings.extend(limits.map(|(name, value)| (name, value.to_owned())));
        }
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster"));
        command.current_dir(&self.folder).envs(self.settings.iter().cloned()).kill_on_drop(true);
        command
    }

    /// An admin's key for the API.
    pub async fn key(&self) -> anyhow::Result<String> {
        let output = self.command().args(["key", "add", "bench", "--role", "admin"]).output().await?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.child = Some(self.command().arg("serve").stdout(Stdio::null()).spawn()?);
        let began = Instant::now();
        while !reqwest::get(format!("{}/readyz", self.base)).await.is_ok_and(|answer| answer.status().is_success()) {
            anyhow::ensure!(began.elapsed() < Duration::from_secs(60), "the server was not ready within 60 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            if let Some(id) = child.id() {
                tokio::process::Command::new("kill").arg(id.to_string()).status().await?;
            }
            child.wait().await?;
        }
        Ok(())
    }

    /// SQLite's writer since the start: (class, turns, seconds). Nothing on PostgreSQL.
    pub async fn turns(&self) -> Vec<(String, f64, f64)> {
        let text = match reqwest::get(format!("{}/metrics", self.base)).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        };
        let of = |what: &str, class: &str| {
            let name = format!("muster_writer_turn_seconds_{what}{{class=\"{class}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0.0)
        };
        ["results", "contacts", "nudger", "operators", "background"]
            .into_iter()
            .map(|class| (class.to_owned(), of("count", class), of("sum", class)))
            .filter(|(_, turns, _)| *turns > 0.0)
            .collect()
    }

    /// Tells what SQLite's writer did since `before`, of each class.
    pub async fn tell_turns(&self, before: &[(String, f64, f64)]) {
        for (class, turns, seconds) in self.turns().await {
            let (had, took) = before.iter().find(|(name, ..)| *name == class).map_or((0.0, 0.0), |(_, turns, seconds)| (*turns, *seconds));
            let (turns, seconds) = (turns - had, seconds - took);
            let each = seconds / turns.max(1.0) * 1000.0;
            crate::times::row(&format!("writer meanwhile, {class}"), format!("{turns:.0} turns of {each:.1} ms, {seconds:.1} s"));
        }
    }

    /// What Linux says of the process; elsewhere nothing.
    pub fn memory(&self) -> String {
        let id = self.child.as_ref().and_then(tokio::process::Child::id).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
        };
        format!("{:.0} MiB, peak {:.0} MiB", of("VmRSS:"), of("VmHWM:"))
    }
}
