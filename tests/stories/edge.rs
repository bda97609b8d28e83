//! The relay in a DMZ: devices go through it as they go to the server, and nobody else does.

use muster::config::Config;
use muster::sim::apns::StandIn;
use muster::sim::apple::Iphone;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::apple::AppleDevice;
use crate::support::device::activation;
use crate::support::outpost::{Running, free_port};
use crate::support::scep::{link, strict, with_topic};
use crate::support::server::{Reply, START_MS, TestServer, each_with, reply};
use crate::support::tls::OwnCertificate;

/// Settings of a server that believes a relay on loopback.
fn behind_relay(config: &mut Config) {
    config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    config.mdm.proxy_client_cert_header = Some("Client-Cert".into());
}

async fn post(server: &TestServer, base: &str, path: &str, bearer: &str, body: Vec<u8>) -> Reply {
    let request = server.client.post(format!("{base}/agent/v1/{path}")).header("content-type", "application/json");
    reply(if bearer.is_empty() { request } else { request.bearer_auth(bearer) }.body(body)).await
}

#[tokio::test]
async fn an_agent_goes_the_whole_way_through_the_relay_and_hears_what_the_server_would_say() {
    each_with(behind_relay, async |server| {
        let relay = Running::start(&["edge", "--server", &server.url]).await;
        server.user("h@example.org").await;
        let enrollment = server.enrollment_token().await;
        let push = server.fcm.register();
        let activate = activation(&enrollment, "h@example.org", "h", Some(&push));
        let through = async |path: &str, bearer: &str, body: Value| post(&server, &relay.url, path, bearer, body.to_string().into()).await;
        let admitted = through("activate", "", activate).await.expect(201);
        let [id, token] = ["device_id", "device_token"].map(|name| admitted[name].as_str().unwrap().to_owned());
        let first = through("sync", &token, json!({"cause": "launch", "policy": {"version": null}})).await.expect(200);
        let version = &first["policy"]["version"];
        through("sync", &token, json!({"cause": "launch", "policy": {"version": version, "details": []}})).await.expect(200);
        server.post("/jobs", json!({"kind": "lock", "target": {"devices": [id]}})).await.expect(202);
        let given = through("sync", &token, json!({"cause": "push"})).await.expect(200);
        let task = given["tasks"][0]["id"].clone();
        let done = json!({"cause": "push", "results": [{"task_id": task, "status": "done", "at_ms": 1}]});
        assert_eq!(through("sync", &token, done).await.expect(200)["results"][0]["outcome"], "recorded");
        assert_eq!(server.get(&format!("/tasks/{}", task.as_str().unwrap())).await["state"], "done");
        let asked = json!({"audience": "storage", "email": "h@example.org", "device_id": id});
        let proof = through("service-token", &token, asked).await.expect(200);
        let standing = server.post("/introspect", json!({"token": proof["token"]})).await.expect(200);
        assert_eq!(standing["active"], json!(true));
        // What is refused is refused in the same words, whether the relay knows it by itself or asks.
        let large = vec![b' '; 1_048_577];
        let mut compared = 0;
        for (path, bearer, body) in [
            ("activate", "", b"{".to_vec()),
            ("activate", "", b"{}".to_vec()),
            ("activate", "", activation("mdt_unknown", "h@example.org", "h", None).to_string().into()),
            ("activate", "", activation(&enrollment, "nobody@example.org", "i", None).to_string().into()),
            ("activate", "", large.clone()),
            ("sync", "", b"{}".to_vec()),
            ("sync", "mdt_no_device_token", b"{}".to_vec()),
            ("sync", token.as_str(), b"[]".to_vec()),
            ("sync", token.as_str(), json!({"results": {}}).to_string().into()),
            ("events", token.as_str(), b"not JSON".to_vec()),
            ("events", token.as_str(), json!({"events": vec![json!({}); 257]}).to_string().into()),
            ("events", token.as_str(), large),
            ("service-token", token.as_str(), json!({"audience": "storage"}).to_string().into()),
            ("service-token", token.as_str(), json!({"audience": "storage", "email": "x@example.org", "device_id": id}).to_string().into()),
        ] {
            let [direct, relayed] = [&server.url, &relay.url].map(|base| post(&server, base, path, bearer, body.clone()));
            let (direct, relayed) = (direct.await, relayed.await);
            assert!((400..500).contains(&direct.status), "{path}: {}", direct.body);
            assert_eq!((direct.status, &direct.body), (relayed.status, &relayed.body), "{path}");
            for name in ["content-type", "www-authenticate"] {
                assert_eq!(direct.headers.get(name), relayed.headers.get(name), "{path}: {name}");
            }
            compared += 1;
        }
        assert_eq!(compared, 14);
        assert!(relay.ends_well().await);
        server.stop().await;
    })
    .await;
}

/// Says `words` to the relay as they stand, and what it answers first.
async fn say(relay: &Running, words: &str) -> String {
    let address = relay.url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(words.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard).await.unwrap();
    String::from_utf8_lossy(&heard).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn nothing_but_what_devices_say_goes_through() {
    each_with(behind_relay, async |server| {
        let relay = Running::start(&["edge", "--server", &server.url]).await;
        let get = async |path: &str| {
            let request = server.client.get(format!("{}{path}", relay.url)).bearer_auth(&server.key);
            request.send().await.unwrap().status().as_u16()
        };
        for path in ["/", "/devices", "/sign-in", "/api/v1/devices", "/api/openapi.json", "/api/docs", "/live", "/mdm", "/agent/v1/nothing"]
        {
            assert_eq!(get(path).await, 404, "{path}");
        }
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/.well-known/jwks.json", 200), ("/assets/console.css", 200)] {
            assert_eq!(get(path).await, status, "{path}");
        }
        assert_eq!(get("/enroll/mdt_unknown").await, 404, "the server's own word");
        let page = format!("/enroll/{}", server.enrollment_token().await);
        assert_eq!(get(&page).await, 200);
        // An address must not become another on its way.
        for (path, said) in [
            ("/enroll/..", "HTTP/1.1 404 Not Found"),
            ("/enroll/%2e%2e", "HTTP/1.1 404 Not Found"),
            ("/enroll/%2E%2E/profile.mobileconfig", "HTTP/1.1 404 Not Found"),
            ("/mdm/assets/%2e%2e", "HTTP/1.1 403 Forbidden"),
        ] {
            let heard = say(&relay, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
            assert_eq!(heard, said, "{path}");
        }
        let metrics = server.client.get(format!("{}/metrics", relay.url));
        assert!(metrics.try_clone().unwrap().send().await.unwrap().text().await.unwrap().contains("muster_http_requests_total{"));
        assert_eq!(metrics.header("x-forwarded-for", "192.0.2.1").send().await.unwrap().status().as_u16(), 404);
        server.stop().await;
        let http = reqwest::Client::new();
        let activate = http.post(format!("{}/agent/v1/activate", relay.url)).json(&activation("mdt_x", "h@example.org", "h", None));
        let away = activate.send().await.unwrap();
        assert_eq!(away.status().as_u16(), 503);
        let seconds: i64 = away.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((5..60).contains(&seconds));
        assert_eq!(away.json::<Value>().await.unwrap()["code"], "server_unreachable");
        assert_eq!(http.get(format!("{}/readyz", relay.url)).send().await.unwrap().status().as_u16(), 503);
        assert_eq!(http.get(format!("{}/healthz", relay.url)).send().await.unwrap().status().as_u16(), 200, "the relay itself lives");
        let mdm = http.put(format!("{}/mdm/connect", relay.url)).body("<plist/>").send().await.unwrap();
        assert_eq!(mdm.status().as_u16(), 503, "a device must not take it for its dismissal");
    })
    .await;
}

#[tokio::test]
async fn nobody_passes_for_another_address_or_another_device_through_the_relay() {
    let open = |config: &mut Config| {
        crate::support::apple::behind_proxy(config);
        behind_relay(config);
    };
    each_with(open, async |server| {
        let relay = Running::start(&["edge", "--server", &server.url]).await;
        let believing = Running::start(&["edge", "--server", &server.url, "--trusted-proxy", "127.0.0.1"]).await;
        server.user("h@example.org").await;
        for (relay, hardware, seen) in [(&relay, "h", "127.0.0.1"), (&believing, "i", "203.0.113.9")] {
            let made = server.post("/enrollment-tokens", json!({"name": hardware})).await.expect(201);
            let body = activation(made["token"].as_str().unwrap(), "h@example.org", hardware, None);
            let request =
                server.client.post(format!("{}/agent/v1/activate", relay.url)).header("x-forwarded-for", "203.0.113.9").json(&body);
            reply(request).await.expect(201);
            let uses = server.get(&format!("/enrollment-tokens/{}", made["id"].as_str().unwrap())).await;
            assert_eq!(uses["devices"][0]["remote"], seen);
        }
        // A certificate in a header counts from the relay, and never from who comes to it.
        let phone = AppleDevice::named("A");
        let message = {
            let mut body = crate::support::apple::texts(&[("MessageType", "Authenticate"), ("UDID", &phone.udid)]);
            body.extend(crate::support::apple::texts(&[("Topic", crate::support::apple::TOPIC), ("SerialNumber", &phone.serial)]));
            crate::support::apple::bytes(body)
        };
        let send = async |base: &str| {
            let request = server.client.put(format!("{base}/mdm/checkin")).header("Client-Cert", phone.header());
            let request = request.header("content-type", "application/x-apple-aspen-mdm-checkin").body(message.clone());
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(send(&relay.url).await, 403);
        assert_eq!(send(&server.url).await, 200, "the same from a proxy that is trusted");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_iphone_is_managed_through_the_relay_by_the_certificate_of_its_tls_handshake() {
    let apns = StandIn::start(muster::clock::Clock::moved(START_MS, 8)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let made = OwnCertificate::make(folder.path(), "127.0.0.1");
    let device_ca = folder.path().join("ca.pem");
    let port = free_port();
    let open = |config: &mut Config| {
        strict(config, &apns);
        behind_relay(config);
        config.mdm.sign_message = false;
        config.public_url = format!("https://127.0.0.1:{port}");
    };
    each_with(open, async |server| {
        let server = with_topic(server, &apns).await;
        let authority = muster::intake::authority::authority(&server.app).await.unwrap();
        let pem: String = authority.ca.chain.iter().map(|certificate| certificate.to_pem()).collect();
        std::fs::write(&device_ca, pem).unwrap();
        let [cert, key, ca] = [&made.files.cert, &made.files.key, &device_ca].map(|path| path.display().to_string());
        let arguments = ["edge", "--server", &server.url, "--tls-cert", &cert, "--tls-key", &key, "--device-ca", &ca];
        let relay = Running::at(port, "https", &arguments).await;
        let mut phone = Iphone::new(&relay.url, "A", "").trusting(&made.pem).unwrap();
        let page = link(&server, json!({"max_uses": 1})).await.replace(&server.url, &relay.url);
        phone.enroll_by(&page, &[7; 32]).await.unwrap();
        assert!(!phone.signs);
        assert_eq!(phone.session().await.unwrap(), 6, "the server asks six things by itself");
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        server.post("/jobs", json!({"kind": "lock", "target": {"devices": [id]}})).await.expect(202);
        assert_eq!(phone.session().await.unwrap(), 1);
        relay.kill().await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_outpost_that_could_not_do_its_work_says_so_before_it_begins() {
    let run = async |arguments: &[&str]| {
        let output =
            tokio::process::Command::new(env!("CARGO_BIN_EXE_muster")).env_remove("MUSTER_KEY").args(arguments).output().await.unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let server = ["--server", "https://mdm.example.org"];
    for (command, more, said) in [
        ("edge", ["--listen", "0.0.0.0:0"].as_slice(), "--tls-cert and --tls-key, or --behind-proxy"),
        ("edge", &["--device-ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        ("edge", &["--tls-cert", "/nowhere/cert.pem"], "--tls-key"),
        ("edge", &["--ca-file", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        ("storage-node", &[], "--key"),
        ("storage-node", &["--key", ""], "`muster key add`"),
        ("storage-node", &["--key", "mk_x", "--dir", "/proc/nowhere"], "/proc/nowhere"),
    ] {
        let heard = run(&[&[command], server.as_slice(), more].concat()).await;
        assert!(heard.contains(said), "{command} {more:?}: {heard}");
    }
    let heard = run(&["edge", "--server", "mdm.example.org"]).await;
    assert!(heard.contains("https://mdm.internal.example.org"), "{heard}");
}
