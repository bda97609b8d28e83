//! The built program at a terminal, beside a running server.

use std::process::Output;
use std::time::Duration;

use muster::clock::Clock;
use muster::sim::fcm::StandIn;
use serde_json::Value;

use super::device::activation;
use super::process::Process;

pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running server and what a shell needs to speak to it.
pub struct Terminal {
    pub server: Process,
    pub key: String,
    pub folder: tempfile::TempDir,
}

impl Terminal {
    pub async fn start() -> Terminal {
        Terminal::with("").await
    }

    /// With these settings in its file.
    pub async fn with(settings: &str) -> Terminal {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("muster.toml"), settings).unwrap();
        let fcm = StandIn::start(Clock::system()).await.unwrap();
        let mut server = Process::new(folder.path(), &format!("sqlite://{}", folder.path().join("muster.db").display()), &fcm);
        server.start().await;
        let key = server.key().await;
        Terminal { server, key, folder }
    }

    /// Runs the program with server and key in its environment.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.server.command();
        command.env("MUSTER_SERVER", &self.server.url).env("MUSTER_KEY", &self.key).args(arguments);
        tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap()
    }

    /// What it prints, which must be JSON, or nothing.
    pub async fn told(&self, line: &str) -> Value {
        let arguments: Vec<&str> = line.split(' ').chain(["--json"]).collect();
        let output = self.run(&arguments).await;
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or_else(|_| panic!("{line}: {text}")) }
    }

    /// What it says on standard error when it fails.
    pub async fn refused(&self, line: &str) -> String {
        let output = self.run(&line.split(' ').collect::<Vec<_>>()).await;
        assert!(!output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stdout.is_empty(), "{line}: what fails prints nothing that a script could take for an answer");
        String::from_utf8(output.stderr).unwrap()
    }

    pub async fn agent(&self, path: &str, token: Option<&str>, body: Value) -> Value {
        let mut request = reqwest::Client::new().post(format!("{}/agent/v1/{path}", self.server.url)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// An activated phone: its id and its token.
    pub async fn phone(&self, email: &str, name: &str) -> (String, String) {
        self.told(&format!("user add {email} --name Someone")).await;
        let token = self.told(&format!("token add for-{name}")).await["token"].as_str().unwrap().to_owned();
        let answer = self.agent("activate", None, activation(&token, email, name, None)).await;
        (answer["device_id"].as_str().unwrap().to_owned(), answer["device_token"].as_str().unwrap().to_owned())
    }
}

/// The id of what was made or shown.
pub fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).to_owned()
}
