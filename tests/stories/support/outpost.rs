//! `muster edge` and `muster storage-node` as processes.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// A running outpost.
pub struct Running {
    pub url: String,
    child: Child,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Running {
    /// Runs the built program with these arguments on a free port; waits until it answers.
    pub async fn start(arguments: &[&str]) -> Running {
        Running::at(free_port(), "http", arguments).await
    }

    /// The same on this port, over `http` or `https`.
    pub async fn at(port: u16, scheme: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        command.args(arguments).args(["--listen", &format!("127.0.0.1:{port}")]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let running = Running { url: format!("{scheme}://127.0.0.1:{port}"), child };
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !client.get(format!("{}/healthz", running.url)).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(tokio::time::Instant::now() < deadline, "{arguments:?} did not answer within a minute");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
    }

    /// SIGTERM; true where it then ended with 0.
    pub async fn ends_well(mut self) -> bool {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(id).status().await.unwrap().success());
        tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await.unwrap().unwrap().success()
    }
}
