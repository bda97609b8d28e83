//! The built program as a process that can be killed.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use muster::sim::fcm::StandIn;
use tokio::process::{Child, Command};

/// Keys that were made: each has a name of its own.
static KEYS: AtomicU32 = AtomicU32::new(0);

/// `muster serve` on a fixed port, started again and again on the same folder.
pub struct Process {
    pub url: String,
    port: u16,
    database_url: String,
    folder: std::path::PathBuf,
    fcm: StandIn,
    log: &'static str,
    secrets_key: String,
    child: Option<Child>,
}

impl Process {
    /// A server that is not started yet.
    pub fn new(folder: &Path, database_url: &str, fcm: &StandIn) -> Process {
        // Fails only where a provider is installed already, which is then the same one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        std::fs::write(folder.join("fcm.json"), fcm.service_account()).unwrap();
        Process {
            url: format!("http://127.0.0.1:{port}"),
            port,
            database_url: database_url.to_owned(),
            folder: folder.to_owned(),
            fcm: fcm.clone(),
            log: "warn",
            secrets_key: "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into(),
            child: None,
        }
    }

    /// The program with this server's settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command
            .current_dir(&self.folder)
            .env("MUSTER_DATABASE_URL", &self.database_url)
            .env("MUSTER_DATA_DIR", &self.folder)
            .env("MUSTER_SECRETS_KEY", &self.secrets_key)
            .env("MUSTER_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("MUSTER_PUBLIC_URL", &self.url)
            .env("MUSTER_PUSH__FCM__SERVICE_ACCOUNT", self.folder.join("fcm.json"))
            .env("MUSTER_PUSH__FCM__ENDPOINT", self.fcm.endpoint())
            .env("MUSTER_LOG", self.log)
            .kill_on_drop(true);
        command
    }

    /// What `MUSTER_LOG` says from the next start on.
    #[cfg(feature = "otel")]
    pub fn logging(&mut self, filter: &'static str) {
        self.log = filter;
    }

    /// Its master key from now on, base64.
    pub fn sealed_by(&mut self, key: &str) {
        key.clone_into(&mut self.secrets_key);
    }

    /// Starts the server and waits until it is ready.
    pub async fn start(&mut self) {
        self.child = Some(self.command().arg("serve").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !reqwest::get(format!("{}/readyz", self.url)).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(tokio::time::Instant::now() < deadline, "the server was not ready within a minute");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The most memory that it ever had, in KiB; none where the system does not tell.
    pub fn peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id()?)).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.start_kill().unwrap();
        child.wait().await.unwrap();
    }

    /// An admin's API key, as `muster key add` prints it.
    pub async fn key(&self) -> String {
        let name = format!("stories {}", KEYS.fetch_add(1, Ordering::Relaxed));
        let output = self.command().args(["key", "add", &name, "--role", "admin"]).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}
