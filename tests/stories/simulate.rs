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
        "--server {} --token {token} --devices 27 --ios-apps 3 --opened-every 0.5 --arrivals 1000 --seconds 6 --seed 7 --sync-every 0.5 --duplicates 0.2 --events-every 1 \
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
    // With a key alone a token and a user are made, the user once.
    for _ in 0..2 {
        let line = format!("--server {} --key {key} --devices 2 --arrivals 1000 --seconds 2 --json", server.url);
        let output = simulate(&server, &line).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_no_server_admits_ends_with_a_failure_and_none_goes_to_a_stranger() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let output =
        simulate(&server, &format!("--server {} --token mdt_unknown --devices 3 --apple 1 --arrivals 1000 --seconds 2 --json", server.url))
            .await;
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["phones"]["due"], &report["phones"]["failed"]), (&json!(4), &json!(4)), "{report:#}");
    // It says why.
    let refused = |request: &str| {
        let rows = report["refusals"].as_array().unwrap();
        rows.iter().find(|row| row["request"] == request).map(|row| (row["code"].as_str().unwrap(), row["count"].as_u64().unwrap()))
    };
    assert!(refused("activate").is_some_and(|(code, count)| code == "token_unknown" && count >= 3), "{report:#}");
    assert!(refused("enroll").is_some_and(|(code, count)| code == "404" && count >= 1), "{report:#}");
    let help = String::from_utf8(simulate(&server, "--help").await.stdout).unwrap();
    assert!(help.contains("user{n}@example.org"), "{help}");

    let output = simulate(&server, &format!("--server http://127.0.0.1:{} --token mdt_x --devices 1 --seconds 1", port())).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("does not answer yet") && said.contains("refused"), "{said}");
    let output = simulate(&server, "--server http://127.0.0.1:1 --devices 3").await;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("MUSTER_KEY"));
    let output = simulate(&server, "--server https://mdm.example.org --token mdt_x --devices 3").await;
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--yes-this-is-mine"));
}

/// A free port of this machine.
fn port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

async fn until(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !probe().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen within {} s", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ends a running program as Ctrl-C does.
async fn interrupt(child: &tokio::process::Child) {
    let pid = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phones_of_every_kind_are_called_through_the_stand_ins_of_the_simulation_and_ctrl_c_brings_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder).await;
    let key = server.key().await;
    let token = token(&server, &key).await;
    server.kill().await;
    // The stand-ins first: the server reads what they leave for it.
    let (fcm, apns) = (port(), port());
    let line = format!(
        "simulate --server {} --token {token} --devices 2 --ios-apps 2 --apple 2 --arrivals 1000 --seconds 600 --retry-after 0.3 \
         --fcm-listen 127.0.0.1:{fcm} --apns-listen 127.0.0.1:{apns} --push-dir push --json",
        server.url
    );
    let mut command = server.command();
    command.args(line.split(' ')).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let fleet = command.spawn().unwrap();
    until("the credentials are there", async || folder.path().join("push/apns-app.p8").exists()).await;
    let apple = format!("endpoint = \"https://127.0.0.1:{apns}\"\nca_file = \"push/apns-ca.pem\"\n");
    let settings = format!(
        "[push.apns_mdm]\n{apple}certificate = \"push/apns-mdm.pem\"\nkey = \"push/apns-mdm.key\"\n\
         [push.apns_app]\n{apple}key = \"push/apns-app.p8\"\nkey_id = \"SIMULATED0\"\nteam_id = \"{}\"\ntopic = \"org.example.agent\"\n",
        muster::sim::apns::TEAM
    );
    std::fs::write(folder.path().join("muster.toml"), settings).unwrap();
    let mut serve = server.command();
    serve.env("MUSTER_PUSH__FCM__ENDPOINT", format!("http://127.0.0.1:{fcm}"));
    serve.env("MUSTER_PUSH__FCM__SERVICE_ACCOUNT", folder.path().join("push/fcm.json"));
    let _serving = serve.arg("serve").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let ask = |method: reqwest::Method, path: String| {
        reqwest::Client::new().request(method, format!("{}/api/v1{path}", server.url)).bearer_auth(&key)
    };
    let items = async |path: &str| -> Vec<Value> {
        let Ok(answer) = ask(reqwest::Method::GET, path.to_owned()).send().await else { return Vec::new() };
        let body: Value = answer.json().await.unwrap_or_default();
        body["items"].as_array().cloned().unwrap_or_default()
    };
    // In, with an address to be called at.
    let is_callable = |device: &Value| device["channels"][0]["push_state"] == "active";
    until("all six are in", async || items("/devices").await.iter().filter(|device| is_callable(device)).count() == 6).await;
    let devices = items("/devices").await;
    let mut ordered = 0;
    for (kind, channel, params) in [("message", "agent", json!({"text": "hello"})), ("lock", "mdm", json!({}))] {
        let whom: Vec<&Value> =
            devices.iter().filter(|device| device["channels"][0]["kind"] == channel).map(|device| &device["id"]).collect();
        ordered += whom.len();
        let order = json!({"kind": kind, "params": params, "target": {"devices": whom}});
        reply(ask(reqwest::Method::POST, "/jobs".into()).json(&order)).await.expect(202);
    }
    assert_eq!(ordered, 6);
    until("all six have done it", async || items("/tasks?state=done").await.len() == 6).await;
    interrupt(&fleet).await;
    let output = tokio::time::timeout(DEADLINE, fleet.wait_with_output()).await.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)));
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let phones = &report["phones"];
    assert_eq!((&phones["due"], &phones["enrolled"], &phones["failed"]), (&json!(6), &json!(6), &json!(0)), "{report:#}");
    // Each kind came because it was called: only Androids keep their own time, and theirs is three hours.
    assert!(phones["nudges"].as_u64().unwrap() >= 6 && phones["tasks_done"].as_u64().unwrap() >= 6, "{report:#}");
    assert!(report["seconds"].as_f64().unwrap() < 600.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_a_fleet_that_did_not_get_in_with_its_report_and_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let line =
        format!("simulate --server {} --token mdt_unknown --devices 2 --ios-apps 1 --arrivals 1000 --seconds 600 --json", server.url);
    let mut command = server.command();
    command.args(line.split(' ')).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut fleet = command.spawn().unwrap();
    // It says how far it is, every five seconds where there is no terminal.
    let mut told = tokio::io::BufReader::new(fleet.stderr.take().unwrap());
    let mut line = String::new();
    tokio::time::timeout(DEADLINE, tokio::io::AsyncBufReadExt::read_line(&mut told, &mut line)).await.unwrap().unwrap();
    assert!(line.starts_with("0 of 3 phones in, 3 in trouble"), "{line}");
    interrupt(&fleet).await;
    let output = tokio::time::timeout(DEADLINE, fleet.wait_with_output()).await.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["phones"]["failed"]), (Some(1), &json!(3)), "{report:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phones_that_fail_at_everything_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let key = server.key().await;
    let token = token(&server, &key).await;
    let line = format!(
        "simulate --server {} --token {token} --devices 3 --arrivals 1000 --seconds 600 --failures 1 --sync-every 0.5 --json",
        server.url
    );
    let mut command = server.command();
    command.args(line.split(' ')).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let fleet = command.spawn().unwrap();
    let http = reqwest::Client::new();
    let get = async |path: &str| reply(http.get(format!("{}/api/v1{path}", server.url)).bearer_auth(&key)).await.expect(200);
    until("all three are in", async || get("/devices").await["items"].as_array().unwrap().len() == 3).await;
    let order = json!({"kind": "message", "params": {"text": "hello"}, "target": {"all": true}});
    reply(http.post(format!("{}/api/v1/jobs", server.url)).bearer_auth(&key).json(&order)).await.expect(202);
    until("all three have failed", async || get("/tasks?state=failed").await["items"].as_array().unwrap().len() == 3).await;
    interrupt(&fleet).await;
    let output = tokio::time::timeout(DEADLINE, fleet.wait_with_output()).await.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let phones = &report["phones"];
    assert_eq!((&phones["tasks_done"], &phones["tasks_failed"]), (&json!(0), &json!(3)), "{report:#}");
}
