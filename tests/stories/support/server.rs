//! A real server on a free loopback port, with a clock that the test moves.

use std::time::Duration;

use muster::clock::Clock;
use muster::config::{Config, Fcm, Push};
use muster::model::{Actor, Role};
use muster::ops::operators;
use muster::server::Server;
use muster::sim::fcm::StandIn;
use muster::store::Class;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::postgres;

/// Where every test's clock starts.
pub const START_MS: i64 = 1_800_000_000_000;

/// A server under test. Dropping it without [`TestServer::stop`] ends it with the runtime.
pub struct TestServer {
    pub url: String,
    pub clock: Clock,
    pub fcm: StandIn,
    pub app: muster::app::App,
    pub key: String,
    pub client: reqwest::Client,
    pub config: Config,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _folder: Option<tempfile::TempDir>,
    /// The credentials of the settings lie in it.
    _home: tempfile::TempDir,
}

/// What a request came back with.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Reply {
    /// The body of an answer with this status; anything else fails the test with what was said.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

/// Runs a story on SQLite and, where it is installed, on PostgreSQL.
pub async fn each_database(story: impl AsyncFn(TestServer)) {
    each_with(|_| {}, story).await;
}

/// The same with changed settings.
pub async fn each_with(change: impl Fn(&mut Config), story: impl AsyncFn(TestServer)) {
    story(TestServer::with(&change).await).await;
    if let Some(url) = postgres::fresh_database().await {
        eprintln!("on PostgreSQL");
        story(TestServer::at(&url, None, &change).await).await;
    }
}

impl TestServer {
    pub async fn on_sqlite() -> TestServer {
        TestServer::with(|_| {}).await
    }

    /// A server on SQLite with changed settings.
    pub async fn with(change: impl FnOnce(&mut Config)) -> TestServer {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("muster.db").display());
        TestServer::at(&url, Some(folder), change).await
    }

    /// A server on the database that `url` names.
    pub async fn at(url: &str, folder: Option<tempfile::TempDir>, change: impl FnOnce(&mut Config)) -> TestServer {
        let clock = Clock::moved(START_MS, 7);
        let fcm = StandIn::start(clock.clone()).await.unwrap();
        TestServer::beside(url, folder, clock, fcm, change).await
    }

    /// A server that shares the clock and the stand-in of another.
    pub async fn beside(
        url: &str,
        folder: Option<tempfile::TempDir>,
        clock: Clock,
        fcm: StandIn,
        change: impl FnOnce(&mut Config),
    ) -> TestServer {
        if std::env::var_os("MUSTER_LOG").is_some() {
            muster::telemetry::start_log();
        }
        let home = tempfile::tempdir().unwrap();
        let account = home.path().join("fcm.json");
        std::fs::write(&account, fcm.service_account()).unwrap();
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            database_url: url.to_owned(),
            push: Push { fcm: Some(Fcm { service_account: Some(account), endpoint: fcm.endpoint(), ..Fcm::default() }), ..Push::default() },
            ..Config::default()
        };
        config.secrets.key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into());
        change(&mut config);
        let server = Server::start(config.clone(), clock.clone()).await.unwrap();
        let app = server.app.clone();
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", server.address().unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        let mut moment = clock.moment();
        let mut conn = app.db.begin(Class::Operators).await.unwrap();
        let key = match operators::add_key(&mut conn, &mut moment, &Actor::server(), "test", Role::Admin).await {
            Ok(key) => key,
            // Another server on this database has that name.
            Err(_) => {
                let name = format!("test {}", moment.id());
                operators::add_key(&mut conn, &mut moment, &Actor::server(), &name, Role::Admin).await.unwrap()
            }
        };
        conn.commit().await.unwrap();
        let client = muster::sim::client(Duration::from_secs(60)).redirect(reqwest::redirect::Policy::none());
        let client = client.tls_danger_accept_invalid_certs(config.tls.is_some()).build().unwrap();
        TestServer { url, clock, fcm, app, key, client, config, stop, running, _folder: folder, _home: home }
    }

    /// Any request of the operator API with the test's admin key.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        reply(request).await
    }

    pub async fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).await.expect(200)
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.call("POST", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.call("PUT", path, Some(body)).await
    }

    /// A user with this address.
    pub async fn user(&self, email: &str) -> Value {
        self.post("/users", json!({"email": email, "name": "A user"})).await.expect(201)
    }

    /// The value of a fresh enrollment token without limits.
    pub async fn enrollment_token(&self) -> String {
        let token = self.post("/enrollment-tokens", json!({"name": "stories"})).await.expect(201);
        token["token"].as_str().unwrap().to_owned()
    }

    /// Moves the clock and lets the workers look.
    pub fn advance(&self, ms: i64) {
        self.clock.advance(ms);
        self.app.bells.ring();
    }

    /// Waits until `probe` answers true; fails the test after a minute, which a machine that has much to do may need.
    pub async fn until(&self, what: &str, mut probe: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while !probe().await {
            assert!(tokio::time::Instant::now() < deadline, "{what} did not happen within a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the server where it stands, as a crash would: no lease is given back.
    pub fn abandon(self) {
        self.running.abort();
    }

    /// Stops the server in good order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// Sends a request and reads its answer as JSON, or as text in a JSON string.
pub async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Reply { status, headers, body }
}
