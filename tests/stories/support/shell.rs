//! The shell of somebody who has a key to a running server.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use muster::clock::Clock;
use muster::sim::fcm::StandIn;
use serde_json::Value;

use super::process::Process;
use super::server::{Reply, reply};

const DEADLINE: Duration = Duration::from_secs(60);

/// A running server, and an admin's key to it. Commands run in its folder.
pub struct Shell {
    pub server: Process,
    pub fcm: StandIn,
    key: String,
}

impl Shell {
    /// Starts a server on this database with these settings beside those that every process of the tests has.
    pub async fn start(folder: &Path, database: &str, settings: &str) -> Shell {
        let fcm = StandIn::start(Clock::system()).await.unwrap();
        std::fs::write(folder.join("muster.toml"), settings).unwrap();
        let mut server = Process::new(folder, database, &fcm);
        server.start().await;
        let key = server.key().await;
        Shell { server, fcm, key }
    }

    pub async fn run(&self, line: &str) -> Output {
        let mut command = self.server.command();
        command.env("MUSTER_SERVER", &self.server.url).env("MUSTER_KEY", &self.key).args(line.split(' '));
        tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap()
    }

    /// What a command prints, and what it tells people beside it.
    pub async fn both(&self, line: &str) -> (String, String) {
        let output = self.run(line).await;
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// What a command tells people.
    pub async fn said(&self, line: &str) -> String {
        self.both(line).await.1
    }

    /// What a command says that fails and prints nothing that a script could take for an answer.
    pub async fn refused(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        reply(reqwest::Client::new().post(format!("{}/api/v1{path}", self.server.url)).bearer_auth(&self.key).json(&body)).await
    }

    pub async fn get(&self, path: &str) -> Value {
        reply(reqwest::Client::new().get(format!("{}/api/v1{path}", self.server.url)).bearer_auth(&self.key)).await.expect(200)
    }
}
