//! The command line, as an operator and a script use it: the built program against a running server.

use std::time::Duration;

use muster::clock::Clock;
use muster::ops::alarms;
use muster::protocol::cms::SignedData;
use muster::protocol::pki::Certificate;
use muster::sim::fcm::StandIn;
use muster::store::{Class, Db};
use serde_json::{Value, json};

use crate::support::command::{DEADLINE, Terminal, id};
use crate::support::process::Process;
use crate::support::tls::OwnCertificate;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_day_of_an_operator_goes_through_the_shell() {
    let shell = Terminal::start().await;
    let (device, token) = shell.phone("user@example.org", "one").await;
    // Devices by id and by serial number.
    assert_eq!(shell.told("device list --q S-one").await["items"][0]["id"], device.as_str());
    assert_eq!(id(&shell.told("device show S-one").await), device);
    // A label, given and taken.
    shell.told("label put field --description Outside").await;
    shell.told("label add field S-one").await;
    assert_eq!(shell.told("label devices field").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(shell.told("label list").await["items"][0]["name"], "field");
    // A policy from a file, assigned, delivered.
    let file = shell.folder.path().join("camera.json");
    std::fs::write(&file, json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"}).to_string()).unwrap();
    shell.told(&format!("policy put camera {}", file.display())).await;
    shell.told("policy assign camera field:include:10").await;
    assert_eq!(shell.told("policy list").await["items"][0]["name"], "camera");
    let visit = shell.agent("sync", Some(&token), json!({"cause": "launch", "policy": {"version": null}})).await;
    assert_eq!(visit["policy"]["document"]["cameraAccess"], "CAMERA_ACCESS_DISABLED", "{visit}");
    let version = visit["policy"]["version"].clone();
    assert_eq!(shell.told("device document S-one").await["version"], version);
    // A job reaches the phone, and its outcome comes back.
    let job = id(&shell.told("job create message --device S-one --param text=Hello").await);
    let task = shell.told(&format!("job tasks {job}")).await["items"][0].clone();
    assert_eq!(task["state"], "queued");
    let policy = json!({"version": version, "details": []});
    let visit = shell.agent("sync", Some(&token), json!({"cause": "push", "policy": policy})).await;
    assert_eq!(visit["tasks"][0]["params"]["text"], "Hello");
    let results = json!([{"task_id": visit["tasks"][0]["id"], "status": "done", "at_ms": 1}]);
    shell.agent("sync", Some(&token), json!({"cause": "push", "policy": policy, "results": results})).await;
    assert_eq!(shell.told(&format!("task show {}", id(&task))).await["state"], "done");
    assert_eq!(shell.told("task list --state done").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(id(&shell.told("job list").await["items"][0]), job);
    let convergence = shell.told("policy convergence camera").await;
    assert_eq!(convergence["versions"][0]["states"]["applied"], 1, "{convergence}");
    // Cancelled, and ordered again.
    let second = id(&shell.told("job create locate --label field").await);
    shell.told(&format!("job cancel {second}")).await;
    let cancelled = shell.told("task list --kind locate --state cancelled").await["items"][0].clone();
    shell.told(&format!("task retry {}", id(&cancelled))).await;
    shell.told("device sync S-one").await;
    assert!(shell.refused("device merge S-one --into S-one").await.contains("this is the device itself"));
    // The way out: the app is signed out and let in again, the token ends, the user goes.
    shell.told("device unauthorize S-one").await;
    assert_eq!(shell.told("device show S-one").await["unauthorized"], true);
    shell.told("device authorize S-one").await;
    let listed = shell.told("token list").await["items"][0].clone();
    assert!(listed.get("token").is_none_or(Value::is_null), "a token is shown once");
    shell.told(&format!("token revoke {}", id(&listed))).await;
    shell.told("label remove field S-one").await;
    shell.told("policy assign camera --none").await;
    shell.told("policy delete camera").await;
    shell.told("label delete field").await;
    let user = id(&shell.told("user list").await["items"][0]);
    shell.told(&format!("user disable {user}")).await;
    shell.told(&format!("user enable {user}")).await;
    shell.told("device retire S-one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_fails_with_words_that_help() {
    let shell = Terminal::start().await;
    for (line, words) in [
        ("device show nobody", "404"),
        ("device merge nobody --into somebody", "404"),
        ("job create lokc --all", "lock"),
        ("job create message --device nobody --param", "--param"),
        ("policy put camera no-such-file.json", "no-such-file.json"),
        ("--server http://127.0.0.1:1 device list", "unexpected argument"),
        ("device list --server http://127.0.0.1:1", "does not answer"),
        ("device list --key mk_wrong", "401"),
        ("device lst", "list"),
    ] {
        let said = shell.refused(line).await;
        assert!(said.contains(words), "{line}: {said}");
        assert!(!said.contains(&shell.key) && !said.contains("panicked"), "{line}: {said}");
    }
    let said = shell.refused("job create lokc --all").await;
    assert_eq!(said.matches("there is no kind").count(), 1, "one fault is said once: {said}");
    let said = shell.refused("job create message --device nobody --param a=1 --param b=2").await;
    assert!(said.contains("/params/text") && said.contains("/params/a") && said.contains("/params/b"), "and several all: {said}");
    // A policy's file holds the document, or the body of the API as its answers show it.
    let file = shell.folder.path().join("body.json");
    std::fs::write(&file, json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED"}, "message": "m"}).to_string()).unwrap();
    shell.told(&format!("policy put camera {}", file.display())).await;
    assert_eq!(shell.told("policy show camera").await["document"], json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"}));
    let output = shell.server.command().args(["device", "list", "--server", &shell.server.url]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("muster key add"), "who has no key is told how to make one");
    // Keys and links are printed alone, for scripts.
    let viewer = shell.run(&["key", "add", "board", "--role", "viewer"]).await;
    let twice = shell.server.command().args(["key", "add", "board", "--role", "admin"]).output().await.unwrap();
    assert!(!twice.status.success() && twice.stdout.is_empty());
    assert!(String::from_utf8_lossy(&twice.stderr).contains("a key named \"board\" stands already"), "{twice:?}");
    let viewer = String::from_utf8(viewer.stdout).unwrap();
    assert_eq!(viewer.lines().count(), 1);
    let said = shell.refused(&format!("label put field --key {}", viewer.trim())).await;
    assert!(said.contains("403"), "{said}");
    let link = shell.run(&["operator", "add", "somebody", "--role", "admin"]).await;
    let link = String::from_utf8(link.stdout).unwrap();
    assert_eq!(link.lines().count(), 1);
    assert!(link.starts_with(&format!("{}/sign-in/", shell.server.url)), "{link}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_shown_without_secrets_and_unknown_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    let server = Process::new(folder.path(), "postgres://muster:hunter2@127.0.0.1:1/muster", &fcm);
    let shown = server.command().args(["serve", "--print-config"]).output().await.unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.contains("public_url"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("BwcHBwcH"), "{text}");
    std::fs::write(folder.path().join("muster.toml"), "publik_url = \"https://mdm.example.org\"\n").unwrap();
    let refused = server.command().args(["serve", "--print-config"]).output().await.unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("publik_url"));
    let script = server.command().args(["completion", "bash"]).output().await.unwrap();
    let script = String::from_utf8(script.stdout).unwrap();
    assert!(script.contains("complete -F _muster") && script.contains("doctor"), "a shell can complete what there is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_ends_with_0_when_it_is_asked_to_whoever_is_speaking_to_it() {
    for signal in ["-TERM", "-INT"] {
        let mut shell = Terminal::start().await;
        shell.server.kill().await;
        let mut child = shell.server.command().arg("serve").stdout(std::process::Stdio::null()).spawn().unwrap();
        let ready = format!("{}/readyz", shell.server.url);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(tokio::time::Instant::now() < deadline, "not ready within a minute");
        }
        // Contacts go on while it ends: each is answered or refused, none hangs.
        let url = format!("{}/agent/v1/sync", shell.server.url);
        let talking = tokio::spawn(async move {
            let client = reqwest::Client::builder().timeout(DEADLINE).build().unwrap();
            while client.post(&url).bearer_auth("dvt_nobody").json(&json!({"cause": "push"})).send().await.is_ok() {}
        });
        let pid = child.id().unwrap().to_string();
        assert!(tokio::process::Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        let ended = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), Some(0), "{signal}");
        tokio::time::timeout(DEADLINE, talking).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_what_would_keep_a_server_from_working_and_changes_nothing() {
    let findings = async |server: &Process, envs: &[(&str, &str)]| -> (Option<i32>, Vec<Value>) {
        let output = server.command().envs(envs.iter().copied()).args(["doctor", "--json"]).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code(), told.as_array().unwrap().clone())
    };
    let faults = |told: &[Value]| -> String {
        let faulty = told.iter().filter(|finding| finding["state"] == "fault");
        faulty.map(|finding| format!("{}: {}\n", finding["check"].as_str().unwrap(), finding["detail"].as_str().unwrap())).collect()
    };
    // Before the first start nothing is made.
    let folder = tempfile::tempdir().unwrap();
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    let fresh = Process::new(folder.path(), &format!("sqlite://{}", folder.path().join("muster.db").display()), &fcm);
    let (code, told) = findings(&fresh, &[]).await;
    assert_eq!(code, Some(0), "{told:?}");
    assert!(!folder.path().join("muster.db").exists());
    // Beside a running server all is well, and the text for people says so too.
    let shell = Terminal::start().await;
    let (_, token) = shell.phone("user@example.org", "one").await;
    let push = json!({"provider": "fcm", "kind": "token", "value": "an-address"});
    shell.agent("sync", Some(&token), json!({"cause": "launch", "push": push})).await;
    let (code, told) = findings(&shell.server, &[]).await;
    assert_eq!((code, faults(&told).as_str()), (Some(0), ""), "{told:?}");
    assert!(told.iter().any(|finding| finding["detail"].as_str().unwrap().contains("1 channels are called through it")), "{told:?}");
    let text = shell.run(&["doctor"]).await;
    assert!(String::from_utf8(text.stdout).unwrap().lines().all(|line| line.starts_with("ok ") || line.starts_with("note ")));
    // Another master key, no credential for a phone that needs one, a provider that is away, settings that cannot be read.
    let (code, told) = findings(&shell.server, &[("MUSTER_SECRETS_KEY", "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=")]).await;
    assert_eq!(code, Some(1));
    assert!(faults(&told).starts_with("master key: "), "{told:?}");
    let (code, told) = findings(&shell.server, &[("MUSTER_PUSH__FCM__ENDPOINT", "http://127.0.0.1:1")]).await;
    assert_eq!(code, Some(1));
    assert!(faults(&told).contains("127.0.0.1:1 cannot be reached"), "{told:?}");
    let (code, told) = findings(&shell.server, &[("MUSTER_PUSH__FCM__SERVICE_ACCOUNT", "nowhere.json")]).await;
    assert_eq!(code, Some(1));
    assert!(faults(&told).contains("nowhere.json"), "{told:?}");
    let mut bare = shell.server.command();
    let output = bare.env_remove("MUSTER_PUSH__FCM__SERVICE_ACCOUNT").args(["doctor", "--json"]).output().await.unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(faults(told.as_array().unwrap()).contains("1 channels are never called"), "{told}");
    // A certificate for another name than devices come by.
    let made = OwnCertificate::make(shell.folder.path(), "mdm.example.org").files;
    let [cert, key] = [made.cert, made.key].map(|path| path.display().to_string());
    let tls = [("MUSTER_TLS__CERT", cert.as_str()), ("MUSTER_TLS__KEY", key.as_str())];
    for (url, proxy, fault, is_told) in [
        ("https://mdm.example.org", "[]", "", false),
        ("https://www.example.org", "[]", "is not for www.example.org", true),
        ("https://www.example.org", "[\"192.0.2.1\"]", "", true),
    ] {
        let more = [("MUSTER_PUBLIC_URL", url), ("MUSTER_TRUSTED_PROXIES", proxy)];
        let (_, told) = findings(&shell.server, &[tls, more].concat()).await;
        let of_tls: Vec<String> = faults(&told).lines().filter(|line| line.starts_with("tls: ")).map(str::to_owned).collect();
        assert_eq!(of_tls.len(), usize::from(!fault.is_empty()), "{told:?}");
        assert!(of_tls.iter().all(|line| line.contains(fault)), "{told:?}");
        let is_named = |finding: &Value| finding["detail"].as_str().unwrap().contains("the host of public_url");
        assert_eq!(told.iter().any(is_named), is_told, "{url} {proxy}: {told:?}");
    }
    // What `serve` refuses is a fault here too.
    for (name, value, words) in [
        ("MUSTER_LISTEN", "0.0.0.0:80", "behind_proxy"),
        ("MUSTER_WEBHOOKS__CA_FILE", "nope.pem", "nope.pem"),
        ("MUSTER_DATABASE_URL", "sqlite:foo.db", "database_url"),
        #[cfg(not(feature = "otel"))]
        ("MUSTER_TELEMETRY__OTLP_ENDPOINT", "http://u:sekret@127.0.0.1:4318", "otel"),
    ] {
        let (code, told) = findings(&shell.server, &[(name, value)]).await;
        assert_eq!(code, Some(1), "{name}");
        assert!(faults(&told).starts_with("settings: ") && faults(&told).contains(words), "{name}: {told:?}");
        assert!(!faults(&told).contains("sekret"), "{told:?}");
    }
    // A sender at fault is one until it has sent again.
    let mut shell = shell;
    shell.server.kill().await;
    let db = Db::open(&format!("sqlite://{}", shell.folder.path().join("muster.db").display())).await.unwrap();
    let mut conn = db.begin(Class::Operators).await.unwrap();
    alarms::open(&mut conn, &mut Clock::system().moment(), "push_fault", "fcm", "the service account may not send").await.unwrap();
    conn.commit().await.unwrap();
    db.close().await;
    let (code, told) = findings(&shell.server, &[]).await;
    assert_eq!((code, faults(&told).as_str()), (Some(1), "push: fcm: the service account may not send\n"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_device_ca_takes_the_place_of_the_old_one_while_the_server_runs() {
    let shell = Terminal::start().await;
    let listed = async || {
        let url = format!("{}/mdm/scep?operation=GetCACert", shell.server.url);
        let answer = reqwest::get(url).await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        SignedData::parse(&answer).unwrap().certificates().to_vec()
    };
    let shown = async || Certificate::chain_from_pem(&String::from_utf8(shell.run(&["ca", "show"]).await.stdout).unwrap()).unwrap();
    let before = listed().await;
    assert_eq!(shown().await, before[1..], "the CA stands behind what opens requests");
    let hash = String::from_utf8(shell.run(&["ca", "rotate"]).await.stdout).unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while listed().await.len() < 3 {
        assert!(tokio::time::Instant::now() < deadline, "the server does not follow");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = listed().await;
    assert_eq!((after[1].hash(), &after[2]), (hash.trim().to_owned(), &before[1]));
    assert!(after[0].is_issued_by(&after[1]) && !after[0].is_issued_by(&after[2]));
    assert_eq!(shown().await, after[1..]);
    let given =
        shell.server.command().env("MUSTER_MDM__CA_CERT", "ca.pem").env("MUSTER_MDM__CA_KEY", "ca.key").args(["ca", "rotate"]).output();
    let given = given.await.unwrap();
    assert!(
        !given.status.success() && String::from_utf8(given.stderr).unwrap().contains("[mdm] ca_cert"),
        "files are their owner's to change"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_asks_whether_a_server_is_ready_and_the_version_is_the_packages() {
    let mut shell = Terminal::start().await;
    let url = shell.server.url.clone();
    assert!(shell.run(&["health", &url]).await.status.success());
    shell.server.kill().await;
    assert!(shell.refused(&format!("health {url}")).await.contains("not ready"));
    let version = String::from_utf8(shell.run(&["--version"]).await.stdout).unwrap();
    assert!(version.starts_with(concat!("muster ", env!("CARGO_PKG_VERSION"))), "{version}");
}
