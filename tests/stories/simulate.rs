//! `muster simulate`, as somebody runs it who wants to know what a server carries.

use std::process::Output;
use std::time::Duration;

use muster::clock::Clock;
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::server::reply;

const DEADLINE: Duration = Duration::from_secs(60);

async fn simulate(server: &Process, line: &str) -> Output {
    let mut command = server.command();
    command.arg("simulate").args(line.split(' '));
    tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap()
}

/// An enrollment token that names its user.
async fn token(server: &Process, key: &str) -> String {
    let post =
        |path: &str, body: Value| reply(reqwest::Client::new().post(format!("{}/api/v1{path}", server.url)).bearer_auth(key).json(&body));
    post("/users", json!({"email": "user@example.org", "name": "A user"})).await.expect(201);
    let token = post("/enrollment-tokens", json!({"name": "fleet", "user": "user@example.org"})).await.expect(201);
    token["token"].as_str().unwrap().to_owned()
}

async fn server(folder: &tempfile::TempDir) -> Process {
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    let mut server = Process::new(folder.path(), &format!("sqlite://{}", folder.path().join("muster.db").display()), &fcm);
    server.start().await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulated_fleet_comes_in_with_all_its_faults_and_is_the_same_fleet_when_it_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let key = server.key().await;
    let token = token(&server, &key).await;
    let line = format!(
        "--server {} --token {token} --devices 30 --arrivals 1000 --seconds 6 --seed 7 --sync-every 0.5 --duplicates 0.2 --events-every 1 \
         --offline-every 2 --offline-for 0.2 --reboot-every 2 --reinstall-every 2 --delay 5 --json",
        server.url
    );
    for _ in 0..2 {
        let output = simulate(&server, &line).await;
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert!(output.status.success(), "{report:#}");
        assert_eq!((&report["phones"]["due"], &report["phones"]["enrolled"]), (&json!(30), &json!(30)), "{report:#}");
        for seen in ["events", "reinstalls"] {
            assert!(report["phones"][seen].as_u64().unwrap() > 0, "{seen}: {report:#}");
        }
        let rows = report["requests"].as_array().unwrap();
        let sync = rows.iter().find(|row| row["request"] == "sync").unwrap();
        assert!(sync["answered"].as_u64().unwrap() > 30 && sync["p99_ms"].as_f64() >= sync["p50_ms"].as_f64(), "{sync}");
    }
    let request = reqwest::Client::new().get(format!("{}/api/v1/devices?limit=1000", server.url)).bearer_auth(&key);
    assert_eq!(reply(request).await.expect(200)["items"].as_array().unwrap().len(), 30, "the second run brought no second fleet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_no_server_admits_ends_with_a_failure_and_none_goes_to_a_stranger() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let output =
        simulate(&server, &format!("--server {} --token mdt_unknown --devices 3 --arrivals 1000 --seconds 2 --json", server.url)).await;
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["phones"]["due"], &report["phones"]["failed"]), (&json!(3), &json!(3)), "{report:#}");

    let output = simulate(&server, "--server https://mdm.example.org --token mdt_x --devices 3").await;
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--yes-this-is-mine"));
}
