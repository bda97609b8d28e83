//! Push credentials from the request to the yearly renewal: what is looked at before one is used, and how little it takes to lose a fleet.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster::clock::Clock;
use muster::config::{ApnsMdm, Config};
use muster::protocol::pki::Key;
use muster::protocol::pki::request::Request;
use muster::sim::apns::StandIn;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::support::apple::TOPIC;
use crate::support::cut::Wire;
use crate::support::postgres;
use crate::support::server::{START_MS, TestServer};
use crate::support::shell::Shell;

const OTHER_TOPIC: &str = "com.apple.mgmt.External.0a0a0a0a-1111-4222-8333-444455556666";
/// The longest that something may take on a machine that has much to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a story on both databases, on a server that knows the stand-in's CA and has no push certificate yet.
async fn each(story: impl AsyncFn(TestServer, &StandIn)) {
    let folder = tempfile::tempdir().unwrap();
    for database in [Some(format!("sqlite://{}", folder.path().join("muster.db").display())), postgres::fresh_database().await] {
        let Some(url) = database else { continue };
        let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, apns.ca()).unwrap();
        let change = |config: &mut Config| {
            config.push.apns_mdm = Some(ApnsMdm { endpoint: apns.endpoint(), ca_file: Some(ca), ..ApnsMdm::default() });
        };
        story(TestServer::at(&url, None, change).await, &apns).await;
    }
}

fn body(certificate: &str, key: &str) -> Value {
    json!({"certificate": certificate, "key": key})
}

/// The topics of MDM that a server has senders for.
async fn topics(server: &TestServer) -> Vec<String> {
    let push = server.get("/push").await;
    let names = push["senders"].as_array().unwrap().iter().map(|sender| sender["name"].as_str().unwrap().to_owned());
    names.filter_map(|name| name.strip_prefix("apns_mdm/").map(str::to_owned)).collect()
}

/// A push certificate that was signed by itself.
fn own_work() -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), TOPIC);
    body(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem())
}

#[tokio::test]
async fn a_push_certificate_that_apple_did_not_issue_is_refused_and_stored_nowhere_unless_it_is_forced() {
    each(async |server, apns| {
        let stranger = StandIn::start(Clock::moved(START_MS, 9)).await.unwrap();
        let (foreign, good) = (stranger.issue_certificate(TOPIC).unwrap(), apns.issue_certificate(TOPIC).unwrap());
        let mixed = format!("{}{}", good.certificate, stranger.ca());
        for (wrong, words) in [
            (body(&foreign.certificate, &foreign.key), "not by Apple"),
            (body(&mixed, &good.key), "certificate 2 of the file"),
            (own_work(), "signed by itself"),
        ] {
            let refused = server.put("/push/apns-mdm", wrong).await.expect(409);
            assert_eq!(refused["code"], "issuer_differs");
            assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
        }
        assert!(topics(&server).await.is_empty());
        let set = server.get("/audit?kind=push.credential_set").await;
        assert_eq!(set["items"], json!([]));
        // With its chain or without, the stand-in's own is taken; the other only where somebody insists.
        let whole = format!("{}{}", good.certificate, apns.ca());
        for (path, certificate, issuer) in [
            ("/push/apns-mdm", body(&good.certificate, &good.key), "checked"),
            ("/push/apns-mdm", body(&whole, &good.key), "checked"),
            ("/push/apns-mdm?force=true", body(&foreign.certificate, &foreign.key), "forced"),
        ] {
            assert_eq!(server.put(path, certificate).await.expect(200)["preflight"]["issuer"], issuer);
        }
        assert!(server.get("/push").await.get("preflight").is_none());
        assert_eq!(topics(&server).await, [TOPIC]);
        server.stop().await;
    })
    .await;
}

/// Runs a statement beside the server.
async fn alter(url: &str, sql: &str) {
    if url.starts_with("sqlite") {
        let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    } else {
        let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_not_used_and_what_cannot_be_used_is_not_stored() {
    each(async |server, apns| {
        let project = async || server.get("/push").await["senders"][0]["project_id"].clone();
        let before = project().await;
        let account: Value = serde_json::from_slice(&server.fcm.service_account_of("another-project")).unwrap();
        let mut keyless = account.clone();
        keyless["private_key"] = json!("no PEM");
        for wrong in [keyless, json!({"type": "authorized_user"}), json!([])] {
            server.put("/push/fcm", wrong).await.expect(422);
        }
        assert_eq!(server.get("/audit?kind=push.credential_set").await["items"], json!([]));
        let certificate = apns.issue_certificate(TOPIC).unwrap();
        let key = apns.issue_key("KEY0000001", &["org.example.agent"]).unwrap();
        let app_key = json!({"key": key.p8, "key_id": key.key_id, "team_id": key.team_id, "topic": "org.example.agent"});
        // Nowhere to store it.
        alter(&server.config.database_url, "ALTER TABLE sealed RENAME TO sealed_away").await;
        for (path, body) in [
            ("/push/fcm", account.clone()),
            ("/push/apns-mdm", body(&certificate.certificate, &certificate.key)),
            ("/push/apns-app", app_key.clone()),
        ] {
            assert!(server.put(path, body).await.status >= 500, "{path}");
        }
        assert_eq!((project().await, topics(&server).await.len()), (before, 0), "the one in use stays");
        assert_eq!(server.get("/push").await["senders"][1]["state"], "unconfigured");
        alter(&server.config.database_url, "ALTER TABLE sealed_away RENAME TO sealed").await;
        server.put("/push/fcm", account).await.expect(200);
        server.put("/push/apns-app", app_key).await.expect(200);
        assert_eq!(project().await, "another-project");
        assert_eq!(server.get("/push").await["senders"][1]["state"], "ok");
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_comes_while_the_database_is_away_changes_nothing() {
    let Some(url) = postgres::fresh_database().await else { return };
    let wire = Wire::to(&url);
    let server = TestServer::at(&wire.url, None, |_| {}).await;
    let status = || server.app.senders.named("fcm").unwrap().status().project_id;
    let before = status();
    let account: Value = serde_json::from_slice(&server.fcm.service_account_of("another-project")).unwrap();
    wire.cut();
    assert_eq!(server.put("/push/fcm", account.clone()).await.status, 503);
    assert_eq!(status(), before);
    wire.join();
    server.until("it is taken", async || server.put("/push/fcm", account.clone()).await.status == 200).await;
    assert_eq!(status().as_deref(), Some("another-project"));
    server.stop().await;
}

/// A server that knows the stand-in's CA.
async fn shell(folder: &Path, database: &str, apns: &StandIn) -> Shell {
    std::fs::write(folder.join("ca.pem"), apns.ca()).unwrap();
    Shell::start(folder, database, &format!("[push.apns_mdm]\nendpoint = \"{}\"\nca_file = \"ca.pem\"\n", apns.endpoint())).await
}

/// A new enrollment token's value.
async fn token(shell: &Shell) -> String {
    shell.post("/users", json!({"email": "user@example.org", "name": "A user"})).await.expect(201);
    let made = shell.post("/enrollment-tokens", json!({"name": "one", "user": "user@example.org"})).await.expect(201);
    made["token"].as_str().unwrap().to_owned()
}

/// The request in a file, whose signature is looked at as it is read.
fn request(path: &Path) -> Request {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(text.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n") && text.ends_with("-----END CERTIFICATE REQUEST-----\n"));
    Request::from_der(&STANDARD.decode(lines).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_certificate_is_requested_installed_and_renewed_a_year_later_from_a_shell() {
    for database in ["sqlite://muster.db".to_owned(), postgres::fresh_database().await.unwrap_or_default()] {
        if database.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let apns = StandIn::start(Clock::system()).await.unwrap();
        let shell = shell(folder.path(), &database, &apns).await;
        let at = |name: &str| folder.path().join(name);
        let text = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        // Nothing can be renewed before there is something.
        assert!(shell.refused("push renew --key a.key --out a.csr").await.contains("muster push request"));
        assert!(!at("a.key").exists(), "what is refused leaves nothing behind");
        let said = shell.said("push request --key a.key --out a.csr").await;
        for words in ["identity.apple.com/pushcert", "vendor", "a.csr", "muster push install"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(std::fs::metadata(at("a.key")).unwrap().permissions().mode() & 0o777, 0o600);
        let key = Key::from_pem(&text("a.key")).unwrap();
        assert!(matches!(key, Key::Rsa(_)) && request(&at("a.csr")).spki == key.spki().unwrap());
        let (key, csr) = (text("a.key"), text("a.csr"));
        for line in ["push request --key a.key --out b.csr", "push request --key b.key --out a.csr"] {
            assert!(shell.refused(line).await.contains("is there already"));
        }
        assert!((text("a.key"), text("a.csr")) == (key.clone(), csr) && !at("b.key").exists() && !at("b.csr").exists());
        // What the portal gives out for it.
        std::fs::write(at("a.pem"), apns.issue_certificate_for(TOPIC, &key).unwrap().certificate).unwrap();
        let said = shell.said("push install --certificate a.pem --key a.key").await;
        assert!(said.contains(&format!("{TOPIC} is in use until 20")) && said.contains("every signature was checked"), "{said}");
        // A year later.
        let output = shell.run("push renew --key b.key --out b.csr --json").await;
        assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("THE TOPIC MUST STAY {TOPIC}")));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&told["topic"], &told["key"], &told["request"]), (&json!(TOPIC), &json!("b.key"), &json!("b.csr")));
        assert_ne!(request(&at("b.csr")).spki, request(&at("a.csr")).spki);
        assert!(
            shell.said("push renew --key c.key --out c.csr --certificate a.pem").await.contains(TOPIC),
            "without a server's word as well"
        );
        std::fs::write(at("b.pem"), apns.issue_certificate_for(TOPIC, &text("b.key")).unwrap().certificate).unwrap();
        assert!(shell.refused("push install --certificate b.pem --key a.key").await.contains("does not belong to the certificate"));
        shell.said("push install --certificate b.pem --key b.key").await;
        // Made anew instead of renewed: somebody would be lost.
        let fleet = format!("simulate --server {} --token {} --devices 0 --apple 1 --seconds 600", shell.server.url, token(&shell).await);
        let mut command = shell.server.command();
        command.args(fleet.split(' ')).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut fleet = command.spawn().unwrap();
        let deadline = tokio::time::Instant::now() + DEADLINE;
        // The canary of the new certificate may have called it already, at a provider that does not know it.
        while !["active", "quarantined"].map(Value::from).contains(&shell.get("/devices").await["items"][0]["channels"][0]["push_state"]) {
            assert!(tokio::time::Instant::now() < deadline, "no iPhone enrolled within a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        fleet.kill().await.unwrap();
        std::fs::write(at("c.pem"), apns.issue_certificate_for(OTHER_TOPIC, &text("c.key")).unwrap().certificate).unwrap();
        let said = shell.refused("push install --certificate c.pem --key c.key").await;
        assert!(said.contains("1 enrolled devices") && said.contains("--force"), "{said}");
        shell.said("push install --certificate c.pem --key c.key --force").await;
        let said = shell.refused("push renew --key d.key --out d.csr").await;
        assert!(said.contains(&format!("--topic {TOPIC}")) && said.contains(&format!("--topic {OTHER_TOPIC}")), "{said}");
        assert!(shell.said(&format!("push renew --key d.key --out d.csr --topic {OTHER_TOPIC}")).await.contains(OTHER_TOPIC));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_follows_a_credential_that_is_set_at_the_first() {
    let Some(url) = postgres::fresh_database().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, apns.ca()).unwrap();
    let change = |config: &mut Config| {
        config.push.apns_mdm = Some(ApnsMdm { endpoint: apns.endpoint(), ca_file: Some(ca.clone()), ..ApnsMdm::default() });
        if let Some(fcm) = &mut config.push.fcm {
            fcm.service_account = None;
        }
    };
    let one = TestServer::at(&url, None, change).await;
    let other = TestServer::beside(&url, None, one.clock.clone(), one.fcm.clone(), change).await;
    let account: Value = serde_json::from_slice(&one.fcm.service_account_of("another-project")).unwrap();
    one.put("/push/fcm", account).await.expect(200);
    let key = apns.issue_key("KEY0000001", &["org.example.agent"]).unwrap();
    let app_key = json!({"key": key.p8, "key_id": key.key_id, "team_id": key.team_id, "topic": "org.example.agent"});
    one.put("/push/apns-app", app_key).await.expect(200);
    let certificate = apns.issue_certificate(TOPIC).unwrap();
    one.put("/push/apns-mdm", body(&certificate.certificate, &certificate.key)).await.expect(200);
    other
        .until("the other process has all three", async || {
            let push = other.get("/push").await;
            push["senders"][0]["project_id"] == "another-project"
                && push["senders"][1]["topic"] == "org.example.agent"
                && topics(&other).await == [TOPIC]
        })
        .await;
    // A renewed one as well, which is told apart by its end.
    let renewed = apns.issue_certificate_until(TOPIC, START_MS + 200 * 86_400_000).unwrap();
    one.put("/push/apns-mdm", body(&renewed.certificate, &renewed.key)).await.expect(200);
    let ends = async |server: &TestServer| server.get("/push").await["senders"][2]["credential_ends_at_ms"].as_i64();
    assert_eq!(ends(&one).await, Some(renewed.not_after_ms));
    other.until("the other process has the renewed one", async || ends(&other).await == Some(renewed.not_after_ms)).await;
    // One that is taken away is used by neither, though a device would be called with it.
    let phone = one.phone("called").await;
    let refused = one.delete("/push/fcm").await.expect(409);
    assert_eq!((&refused["code"], &refused["devices"]), (&json!("credential_needed"), &json!(1)));
    one.delete("/push/fcm?force=true").await.expect(204);
    for server in [&one, &other] {
        server.until("it is used no more", async || server.get("/push").await["senders"][0]["state"] == "unconfigured").await;
        assert_eq!(server.get("/push").await["senders"][0]["credential_from"], Value::Null);
    }
    let task = one.post("/jobs", json!({"kind": "locate", "target": {"devices": [phone.id]}})).await.expect(202);
    let tasks = one.get(&format!("/jobs/{}/tasks", task["id"].as_str().unwrap())).await;
    assert_eq!(tasks["items"][0]["reason"], "push_unconfigured", "{tasks}");
    one.delete("/push/fcm").await.expect(404);
    one.put("/push/fcm", serde_json::from_slice(&one.fcm.service_account()).unwrap()).await.expect(200);
    other.until("another one is followed", async || other.get("/push").await["senders"][0]["state"] == "ok").await;
    // And its canary waits until all have followed.
    assert_eq!(one.get("/push").await["senders"][2]["canary"]["state"], "waiting");
    one.stop().await;
    other.stop().await;
}
