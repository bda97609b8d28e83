//! Webhooks: endpoints get the feed signed, in its order, at least once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster::clock::Clock;
use muster::model::Role;
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::postgres;
use crate::support::process::Process;
use crate::support::server::{TestServer, each_database};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// HMAC-SHA256 (RFC 2104), written out, so that the server's own is not what it is checked with.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::digest([block.map(|b| b ^ 0x36).as_slice(), text].concat());
    Sha256::digest([block.map(|b| b ^ 0x5c).as_slice(), &inner].concat()).to_vec()
}

/// The key of a `whsec_...`.
fn key_of(secret: &str) -> Vec<u8> {
    STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap()
}

#[derive(Clone, Debug)]
struct Message {
    id: String,
    timestamp: String,
    signatures: Vec<String>,
    text: String,
    body: Value,
}

impl Message {
    fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap()
    }

    /// How many of its signatures are by this key.
    fn signed_by(&self, secret: &str) -> usize {
        let expected =
            format!("v1,{}", STANDARD.encode(hmac(&key_of(secret), format!("{}.{}.{}", self.id, self.timestamp, self.text).as_bytes())));
        self.signatures.iter().filter(|signature| **signature == expected).count()
    }
}

#[derive(Default)]
struct Heard {
    messages: Vec<Message>,
    /// What is answered next, then 204 again.
    answers: Vec<u16>,
    /// What is answered to all, if not 204.
    always: Option<u16>,
    /// How long each answer takes.
    delay_ms: u64,
}

/// An endpoint on loopback.
#[derive(Clone)]
struct Receiver {
    url: String,
    heard: Arc<Mutex<Heard>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let router = axum::Router::new().route("/hook", post(Receiver::take)).with_state(heard.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver { url, heard }
    }

    async fn take(State(heard): State<Arc<Mutex<Heard>>>, headers: HeaderMap, bytes: Bytes) -> (StatusCode, String) {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let message = Message {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signatures: header("webhook-signature").split(' ').map(str::to_owned).collect(),
            body: serde_json::from_str(&text).unwrap(),
            text,
        };
        let delay_ms = {
            let mut heard = heard.lock().unwrap();
            heard.messages.push(message);
            heard.delay_ms
        };
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        let mut heard = heard.lock().unwrap();
        let status = if heard.answers.is_empty() { heard.always.unwrap_or(204) } else { heard.answers.remove(0) };
        (StatusCode::from_u16(status).unwrap(), "said".repeat(100))
    }

    fn messages(&self) -> Vec<Message> {
        self.heard.lock().unwrap().messages.clone()
    }

    /// E-mails of users of whom it was told, in order.
    fn users(&self) -> Vec<String> {
        let told = self.messages().into_iter().filter(|message| message.kind() == "user.created");
        told.map(|message| message.body["data"].to_string()).collect()
    }

    fn answer(&self, answers: &[u16], always: Option<u16>) {
        let mut heard = self.heard.lock().unwrap();
        heard.answers = answers.to_vec();
        heard.always = always;
    }
}

async fn listening(config_url: Option<&str>) -> TestServer {
    let allow = |config: &mut muster::config::Config| config.webhooks.allow = vec!["127.0.0.0/8".into()];
    match config_url {
        Some(url) => TestServer::at(url, None, allow).await,
        None => TestServer::with(allow).await,
    }
}

async fn each(story: impl AsyncFn(TestServer)) {
    story(listening(None).await).await;
    if let Some(url) = postgres::fresh_database().await {
        story(listening(Some(&url)).await).await;
    }
}

async fn hook(server: &TestServer, receiver: &Receiver, kinds: Value) -> (String, String) {
    let made = server.post("/webhooks", json!({"url": receiver.url, "kinds": kinds})).await.expect(201);
    (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
}

/// Waits until every attempt that the endpoint heard is written. The clock may move only then: a failure that is written after the clock
/// moved puts the next attempt a whole wait beyond that, and nobody would come for it.
async fn written(server: &TestServer, id: &str, receiver: &Receiver) {
    let attempts = async || {
        let listed = server.get(&format!("/webhooks/{id}/deliveries")).await;
        let counts = listed["items"].as_array().unwrap().iter().map(|delivery| delivery["attempts"].as_u64().unwrap());
        counts.sum::<u64>() >= receiver.messages().len() as u64
    };
    server.until("what was heard is written", attempts).await;
}

#[tokio::test]
async fn an_endpoint_gets_its_kinds_signed_and_in_order_and_a_failure_holds_the_order() {
    each(async |server| {
        let receiver = Receiver::start().await;
        let (id, secret) = hook(&server, &receiver, json!(["user.*"])).await;
        receiver.answer(&[500, 302], None);
        for n in 0..20 {
            server.user(&format!("user{n}@example.org")).await;
        }
        server.until("the first attempt", async || receiver.messages().len() == 1).await;
        for attempts in 2..=3 {
            written(&server, &id, &receiver).await;
            server.advance(MINUTE_MS);
            server.until("the next attempt", async || receiver.messages().len() >= attempts).await;
        }
        server.until("all are told", async || receiver.messages().len() == 22).await;
        let messages = receiver.messages();
        assert!(messages[..3].iter().all(|message| message.id == messages[0].id), "the first is tried until it is taken");
        assert!(messages.iter().all(|message| message.kind().starts_with("user.") && message.signed_by(&secret) == 1));
        let order: Vec<&str> = messages[2..].iter().map(|message| message.id.as_str()).collect();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 20);
        let feed = server.get("/feed?kind=user&limit=100").await;
        let told: Vec<&str> = feed["items"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!(order, told, "the feed's order");
        assert!(messages[0].body["timestamp"].as_str().unwrap().ends_with('Z'), "{}", messages[0].text);
        let listed = server.get(&format!("/webhooks/{id}/deliveries")).await;
        assert_eq!(listed["items"].as_array().unwrap().len(), 20);
        let first = &listed["items"][19];
        assert_eq!(
            (first["attempts"].as_i64(), first["state"].as_str(), first["status"].as_i64()),
            (Some(3), Some("delivered"), Some(204))
        );
        assert_eq!(server.get(&format!("/webhooks/{id}")).await["failing_since_ms"], Value::Null);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_rotated_secret_and_the_one_before_sign_together_for_a_day() {
    each(async |server| {
        let receiver = Receiver::start().await;
        let (id, first) = hook(&server, &receiver, json!(["user.created"])).await;
        let rotated = server.call("POST", &format!("/webhooks/{id}/rotate"), None).await.expect(200);
        let second = rotated["secret"].as_str().unwrap().to_owned();
        server.user("user@example.org").await;
        server.until("told", async || receiver.messages().len() == 1).await;
        let message = receiver.messages().remove(0);
        assert_eq!((message.signatures.len(), message.signed_by(&first), message.signed_by(&second)), (2, 1, 1));
        server.advance(DAY_MS);
        server.user("later@example.org").await;
        server.until("told", async || receiver.messages().len() == 2).await;
        let message = receiver.messages().remove(1);
        assert_eq!((message.signatures.len(), message.signed_by(&second)), (1, 1));
        let shown = server.get("/webhooks").await.to_string();
        assert!(!shown.contains("whsec_") && !server.get("/feed").await.to_string().contains("whsec_"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn after_three_days_a_delivery_is_dead_and_the_next_goes_and_dead_letters_can_be_sent_again() {
    each(async |server| {
        let receiver = Receiver::start().await;
        let (id, _) = hook(&server, &receiver, json!(["user"])).await;
        receiver.answer(&[], Some(503));
        server.user("first@example.org").await;
        server.user("second@example.org").await;
        let dead = async || {
            let found = server.get(&format!("/webhooks/{id}/deliveries?state=dead")).await;
            found["items"].as_array().unwrap().len()
        };
        server.until("the first attempt", async || !receiver.messages().is_empty()).await;
        let mut days = 0;
        while dead().await == 0 {
            written(&server, &id, &receiver).await;
            let before = receiver.messages().len();
            server.advance(DAY_MS / 2);
            days += 1;
            assert!(days < 8, "not dead after {days} half days");
            server.until("an attempt", async || receiver.messages().len() > before).await;
            written(&server, &id, &receiver).await;
        }
        receiver.answer(&[], None);
        server.advance(DAY_MS / 2);
        let delivered = async |count: usize| {
            let found = server.get(&format!("/webhooks/{id}/deliveries?state=delivered")).await;
            found["items"].as_array().unwrap().len() == count
        };
        server.until("the second goes", async || delivered(1).await).await;
        assert!(receiver.users().last().unwrap().contains("second"));
        // Without a body and without a type of one.
        let again = server.call("POST", &format!("/webhooks/{id}/redeliver"), None).await.expect(202);
        assert_eq!(again["deliveries"], 1);
        server.until("the dead letter goes", async || delivered(2).await).await;
        assert!(receiver.users().last().unwrap().contains("first"));
        server.until("none is dead", async || dead().await == 0).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_or_fails_for_five_days_is_disabled_with_an_alarm_until_it_is_enabled() {
    each(async |server| {
        let (gone, dumb) = (Receiver::start().await, Receiver::start().await);
        gone.answer(&[410], None);
        dumb.answer(&[], Some(500));
        let (gone_id, _) = hook(&server, &gone, json!(["user"])).await;
        let (dumb_id, _) = hook(&server, &dumb, json!(["user"])).await;
        server.user("user@example.org").await;
        let state = async |id: &str| server.get(&format!("/webhooks/{id}")).await["state"].as_str().unwrap().to_owned();
        server.until("410 disables", async || state(&gone_id).await == "disabled").await;
        server.until("the first attempt", async || dumb.messages().len() == 1).await;
        assert_eq!(state(&dumb_id).await, "enabled");
        for n in 0..12 {
            server.user(&format!("user{n}@example.org")).await;
            written(&server, &dumb_id, &dumb).await;
            let before = dumb.messages().len();
            server.advance(DAY_MS / 2);
            server.until("an attempt or the end", async || dumb.messages().len() > before || state(&dumb_id).await == "disabled").await;
        }
        server.until("five days disable", async || state(&dumb_id).await == "disabled").await;
        let alarms = server.get("/alarms").await;
        let open =
            alarms["items"].as_array().unwrap().iter().filter(|alarm| alarm["kind"] == "webhook_disabled" && alarm["state"] == "open");
        assert_eq!(open.count(), 2);
        server.call("POST", &format!("/webhooks/{gone_id}/enable"), None).await.expect(200);
        server.until("what waited goes", async || gone.users().len() >= 14).await;
        assert_eq!(state(&gone_id).await, "enabled");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn only_https_to_public_addresses_can_be_named_and_only_administrators_name_it() {
    each_database(async |server| {
        for url in [
            "http://127.0.0.1/x",
            "https://127.0.0.1/x",
            "https://10.0.0.1/",
            "https://[::1]/",
            "http://8.8.8.8/",
            "https://localhost/",
            "no",
        ] {
            let refused = server.post("/webhooks", json!({"url": url})).await.expect(422);
            assert_eq!(refused["errors"][0]["pointer"], "/url", "{url}");
        }
        server.post("/webhooks", json!({"url": "https://8.8.8.8/", "kinds": ["No Kind"]})).await.expect(422);
        let refused = server.post("/webhooks", json!({"url": "https://8.8.8.8/", "kinds": ["user.*", "user.made"]})).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], "/kinds/1");
        assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("the nearest is \"user."), "{refused}");
        let made = server.post("/webhooks", json!({"url": "https://8.8.8.8/hook", "kinds": ["user.*", "task", "*"]})).await.expect(201);
        let id = made["id"].as_str().unwrap();
        server.post(&format!("/webhooks/{id}/redeliver"), json!({})).await.expect(422);
        // What stands behind the host may be a secret of the receiver's.
        let viewer = server.post("/keys", json!({"name": "eyes", "role": "viewer"})).await.expect(201);
        let viewer = viewer["key"].as_str().unwrap();
        for path in ["/webhooks".to_owned(), format!("/webhooks/{id}")] {
            let request = server.client.get(format!("{}/api/v1{path}", server.url)).bearer_auth(viewer);
            let seen = request.send().await.unwrap().text().await.unwrap();
            assert!(seen.contains("https://8.8.8.8/...") && !seen.contains("hook"), "{seen}");
            assert!(server.get(&path).await.to_string().contains("https://8.8.8.8/hook"));
        }
        server.call("DELETE", &format!("/webhooks/{id}"), None).await.expect(204);
        server.call("GET", &format!("/webhooks/{id}"), None).await.expect(404);
        let key = server.post("/keys", json!({"name": "small", "role": "operator"})).await.expect(201);
        let request = server.client.post(format!("{}/api/v1/webhooks", server.url)).bearer_auth(key["key"].as_str().unwrap());
        assert_eq!(request.json(&json!({"url": "https://8.8.8.8/"})).send().await.unwrap().status(), 403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn two_servers_deliver_each_message_in_the_order_of_the_feed() {
    let Some(url) = postgres::fresh_database().await else { return };
    let one = listening(Some(&url)).await;
    let allow = |config: &mut muster::config::Config| config.webhooks.allow = vec!["127.0.0.0/8".into()];
    let two = TestServer::beside(&url, None, one.clock.clone(), one.fcm.clone(), allow).await;
    let receiver = Receiver::start().await;
    hook(&one, &receiver, json!(["user.created"])).await;
    for n in 0..60 {
        let server = if n % 2 == 0 { &one } else { &two };
        server.user(&format!("user{n}@example.org")).await;
    }
    one.until("all are told", async || receiver.messages().len() >= 60).await;
    let feed = one.get("/feed?kind=user.created&limit=100").await;
    let told: Vec<String> = feed["items"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    let mut heard: Vec<String> = receiver.messages().into_iter().map(|message| message.id).collect();
    heard.dedup();
    assert_eq!(heard, told);
    // One of them dies in the middle of it; the other takes over when the lease lapses.
    receiver.heard.lock().unwrap().delay_ms = 30;
    for n in 0..30 {
        two.user(&format!("later{n}@example.org")).await;
    }
    two.until("it has begun", async || receiver.messages().len() > 62).await;
    one.abandon();
    receiver.heard.lock().unwrap().delay_ms = 0;
    let ids = || receiver.messages().into_iter().map(|message| message.id).collect::<Vec<String>>();
    two.until("all are told", async || {
        two.advance(5_000);
        ids().into_iter().collect::<BTreeSet<_>>().len() == 90
    })
    .await;
    let feed = two.get("/feed?kind=user.created&limit=100").await;
    let told: Vec<&str> = feed["items"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    let mut heard = ids();
    heard.dedup();
    assert_eq!(heard, told, "in the feed's order, whoever delivers");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_loses_no_message() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let on_sqlite = format!("sqlite://{}", folder.path().join("muster.db").display());
    // Beside each other: most of the time the lease of a dead process is waited for.
    tokio::join!(killed(folder.path(), &on_sqlite), async {
        if let Some(url) = postgres::fresh_database().await {
            killed(other.path(), &url).await;
        }
    });
}

async fn killed(folder: &std::path::Path, database_url: &str) {
    let fcm = StandIn::start(Clock::system()).await.unwrap();
    let mut process = Process::new(folder, database_url, &fcm);
    std::fs::write(folder.join("muster.toml"), "[webhooks]\nallow = [\"127.0.0.1\"]\n").unwrap();
    process.start().await;
    let (key, http, receiver) =
        (process.key().await, muster::sim::client(Duration::from_secs(10)).build().unwrap(), Receiver::start().await);
    let call = async |path: &str, body: Value| {
        let request = http.post(format!("{}/api/v1{path}", process.url)).bearer_auth(&key).json(&body);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    receiver.heard.lock().unwrap().delay_ms = 200;
    call("/webhooks", json!({"url": receiver.url, "kinds": ["user.created"]})).await;
    let mut made = BTreeMap::new();
    for n in 0..40 {
        let user = call("/users", json!({"email": format!("user{n}@example.org"), "name": "A user"})).await;
        made.insert(user["id"].as_str().unwrap().to_owned(), n);
    }
    // The endpoint is slow, so that the kill comes while deliveries are under way.
    while receiver.messages().len() < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.kill().await;
    assert!(receiver.messages().len() < made.len(), "all were told before the kill");
    receiver.heard.lock().unwrap().delay_ms = 0;
    process.start().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    let heard = || receiver.messages().into_iter().map(|message| message.id).collect::<BTreeSet<String>>();
    while heard().len() < made.len() {
        assert!(tokio::time::Instant::now() < deadline, "{} of {} were told", heard().len(), made.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut order: Vec<String> = receiver.messages().into_iter().map(|message| message.id).collect();
    order.dedup();
    assert_eq!(order.len(), made.len(), "what came twice came twice in a row: the order held");
    let told = receiver.users().join("\n");
    assert!(made.keys().all(|id| told.contains(id.as_str())));
    process.kill().await;
}

#[tokio::test]
async fn the_console_lists_endpoints_with_their_deliveries_and_sends_them_again() {
    let server = listening(None).await;
    let receiver = Receiver::start().await;
    let browser = server.operator("an operator", Role::Admin).await;
    let made = browser.post("/settings/webhooks", &[("url", &receiver.url), ("kinds", "user.created")]).await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert!(made.text.contains("whsec_") && !made.policy().contains("unsafe"));
    server.user("user@example.org").await;
    server.until("told", async || receiver.messages().len() == 1).await;
    let id = server.get("/webhooks").await["items"][0]["id"].as_str().unwrap().to_owned();
    let delivered =
        async || server.get(&format!("/webhooks/{id}/deliveries?state=delivered")).await["items"].as_array().unwrap().len() == 1;
    server.until("it is stored", delivered).await;
    let page = browser.get(&format!("/settings/webhooks/{id}")).await;
    assert!(page.status == 200 && page.text.contains("user.created") && !page.text.contains("whsec_"), "{}", page.text);
    let message = receiver.messages().remove(0).id;
    let again = browser.post(&format!("/settings/webhooks/{id}/redeliver"), &[("delivery", &message)]).await;
    assert_eq!(again.status, 303, "{}", again.text);
    server.until("told again", async || receiver.messages().len() == 2).await;
    assert_eq!(receiver.messages()[1].id, message);
    let gone = browser.post(&format!("/settings/webhooks/{id}/delete"), &[]).await;
    assert_eq!(gone.status, 303, "{}", gone.text);
    assert!(server.get("/webhooks").await["items"].as_array().unwrap().is_empty());
    server.stop().await;
}
