//! Settings, the first start, listeners: what an operator relies on before the first request.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use muster::clock::Clock;
use muster::config::{Listener, Part, Tls};
use muster::sim::fcm::StandIn;
use serde_json::json;

use crate::support::device::activation;
use crate::support::process::Process;
use crate::support::server::{TestServer, reply};

const DEADLINE: Duration = Duration::from_secs(60);

/// The program in a folder, on a database that nobody has made yet, with a master key of its own making.
async fn bare(folder: &Path) -> Process {
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    Process::new(folder, &format!("sqlite://{}", folder.join("deep/er/muster.db").display()), &fcm)
}

async fn run(process: &Process, envs: &[(&str, &str)], line: &str) -> Output {
    let mut command = process.command();
    command.env_remove("MUSTER_SECRETS_KEY").envs(envs.iter().copied()).args(line.split(' '));
    tokio::time::timeout(DEADLINE, command.output()).await.unwrap().unwrap()
}

fn said(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_gives_way_to_variables_and_these_to_flags_wherever_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let process = bare(folder.path()).await;
    std::fs::write(folder.path().join("muster.toml"), "[limits]\nwipes_per_hour = 3\ndevices_per_user = 3\n").unwrap();
    std::fs::write(folder.path().join("other.toml"), "[limits]\nwipes_per_hour = 4\ndevices_per_user = 4\n").unwrap();
    let shown = async |envs: &[(&str, &str)], line: &str| said(&run(&process, envs, line).await).0;
    assert!(shown(&[], "serve --print-config").await.contains("wipes_per_hour = 3"), "./muster.toml unless named");
    for line in
        ["--config other.toml serve --print-config", "serve --config other.toml --print-config", "serve --print-config --config other.toml"]
    {
        let text = shown(&[("MUSTER_LIMITS__DEVICES_PER_USER", "5")], line).await;
        assert!(text.contains("wipes_per_hour = 4") && text.contains("devices_per_user = 5"), "{line}: {text}");
    }
    let text = shown(&[("MUSTER_LISTEN", "127.0.0.1:1")], "serve --listen 127.0.0.1:2 --print-config").await;
    assert!(text.contains("127.0.0.1:2") && !text.contains("127.0.0.1:1\""), "{text}");
    for (envs, line, word) in [
        (&[][..], "--config nowhere.toml serve --print-config", "nowhere.toml"),
        (&[("MUSTER_PUSH__FCM__ENDPIONT", "x")], "serve --print-config", "endpiont"),
        (&[("MUSTER_LISTEN", "0.0.0.0:80")], "serve --print-config", "behind_proxy"),
        (&[("MUSTER_PUSH__FCM__ENDPOINT", "http://push.example.org")], "serve", "loopback"),
        (&[("MUSTER_SECRETS_KEY", "dG9vIHNob3J0")], "key add a", "32"),
        (&[("MUSTER_DATABASE_URL", "postgres://127.0.0.1:1/x")], "serve", "key"),
    ] {
        let output = run(&process, envs, line).await;
        let (_, words) = said(&output);
        assert!(!output.status.success() && words.contains(word), "{line} {envs:?}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_makes_what_is_missing_and_one_server_has_the_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = bare(folder.path()).await;
    // A key is made before any server ran; its value stands alone on standard output.
    let made = run(&process, &[], "key add first --role viewer").await;
    let (key, words) = said(&made);
    assert!(made.status.success(), "{words}");
    assert!(key.starts_with("mk_") && key.split_whitespace().count() == 1, "{key}");
    assert!(folder.path().join("deep/er/muster.db").exists());
    let secret = folder.path().join("secret.key");
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    // The key file as it is, its 32 bytes raw, and the variable are the same key; another one is refused.
    let text = std::fs::read_to_string(&secret).unwrap();
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text.trim()).unwrap();
    assert_eq!(raw.len(), 32);
    std::fs::write(folder.path().join("raw.key"), &raw).unwrap();
    let raw_file = folder.path().join("raw.key").display().to_string();
    for (n, (envs, good)) in [
        (("MUSTER_SECRETS_KEY", text.trim()), true),
        (("MUSTER_SECRETS__KEY_FILE", raw_file.as_str()), true),
        (("MUSTER_SECRETS_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="), false),
    ]
    .into_iter()
    .enumerate()
    {
        let output = run(&process, &[envs], &format!("key add another-{n}")).await;
        assert_eq!(output.status.success(), good, "{envs:?}: {}", said(&output).1);
        assert!(good || said(&output).1.contains("fingerprint"), "{}", said(&output).1);
    }
    process.sealed_by(text.trim());
    process.start().await;
    let users = reqwest::Client::new().get(format!("{}/api/v1/users", process.url)).bearer_auth(key.trim()).send().await.unwrap();
    assert_eq!(users.status(), 200, "the key of before the first start");
    let second = run(&process, &[("MUSTER_LISTEN", "127.0.0.1:0")], "serve").await;
    assert!(!second.status.success() && said(&second).1.contains("another server uses this SQLite file"), "{}", said(&second).1);
    process.kill().await;
    process.start().await;
    process.kill().await;
}

#[tokio::test]
async fn each_listener_serves_its_parts_and_tells_the_rest_that_it_is_not_there() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (api, agent, console) = (free(), free(), free());
    let listener = |address, part| Listener { address, tls: false, serves: vec![part] };
    let server = TestServer::with(|config| {
        config.listeners = vec![listener(api, Part::Api), listener(agent, Part::Agent), listener(console, Part::Console)];
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    server.user("user@example.org").await;
    let token = server.enrollment_token().await;
    let at = async |address: std::net::SocketAddr, path: &str| {
        reply(server.client.get(format!("http://{address}{path}")).bearer_auth(&server.key)).await
    };
    for (address, statuses) in [(api, [200, 404, 404]), (agent, [404, 405, 404]), (console, [404, 404, 200])] {
        for (path, status) in ["/api/v1/users", "/agent/v1/sync", "/sign-in"].into_iter().zip(statuses) {
            let answer = at(address, path).await;
            assert_eq!(answer.status, status, "{address} {path}: {}", answer.body);
            let is_program = path != "/sign-in";
            let is_problem = answer.headers["content-type"] == "application/problem+json";
            assert!(status == 200 || is_problem == is_program, "{path}: {:?}", answer.headers);
        }
        for path in ["/healthz", "/readyz"] {
            assert_eq!(at(address, path).await.status, 200, "every listener tells whether it lives");
        }
    }
    // A trusted proxy says who called.
    let request = server.client.post(format!("http://{agent}/agent/v1/activate")).header("x-forwarded-for", "203.0.113.7, 127.0.0.1");
    reply(request.json(&activation(&token, "user@example.org", "h", None))).await.expect(201);
    let token = server.get("/enrollment-tokens").await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("/enrollment-tokens/{token}")).await["devices"][0]["remote"], json!("203.0.113.7"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_tls_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let put = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(&tls.cert, made.cert.pem()).unwrap();
        std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.pem()
    };
    let first = put("127.0.0.1");
    let files = tls.clone();
    let server = TestServer::with(|config| config.tls = Some(files)).await;
    let trusts = async |pem: &str| {
        let root = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
        client.get(format!("{}/healthz", server.url)).send().await.is_ok()
    };
    assert!(trusts(&first).await);
    std::fs::write(&tls.cert, "no certificate").unwrap();
    let second = put("127.0.0.1");
    server.until("the second certificate is used", async || trusts(&second).await).await;
    assert!(!trusts(&first).await);
    server.stop().await;
}

#[tokio::test]
async fn a_changed_budget_of_wipes_stands_in_the_audit() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("muster.db").display());
    let with = async |per_hour: i64| {
        crate::support::server::TestServer::at(&database, None, |config| config.limits.wipes_per_hour = per_hour).await
    };
    with(3).await.stop().await;
    let server = with(0).await;
    let told = async || server.get("/audit?kind=server.budget_changed").await["items"].as_array().unwrap().clone();
    server.until("the change is told", async || !told().await.is_empty()).await;
    let told = told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["data"]["before"]["wipes_per_hour"], &told[0]["data"]["after"]["wipes_per_hour"]), (&3.into(), &0.into()));
    server.stop().await;
}
