//! Nudges through our own senders to stand-ins that answer after 20 ms, beside a bare HTTP/2 client to the same stand-in; and the whole way
//! of a nudge: claimed, sent, and its answer written back, on SQLite and on PostgreSQL.
//!
//! `cargo bench --bench nudges -- [--seconds N] [--connections N] [--devices N] [--postgres URL]`. `--connections` is how many nudges are
//! under way at once. Everything on one machine, on loopback; what each line takes is bounded.

mod common;
#[path = "support/first.rs"]
mod first;
#[path = "support/google.rs"]
mod google;
#[path = "support/seed.rs"]
mod seed;
#[path = "common/server.rs"]
mod server;
#[path = "common/table.rs"]
mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::Plan;
use muster::clock::Clock;
use muster::config::Config;
use muster::model::{Id, Lane};
use muster::push::{Address, AddressKind, Answer, Nudge, Sender, apns, fcm};
use muster::sim;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use server::Running;
use sqlx::{AnyConnection, Connection};
use table::{Row, load};
use tokio::net::TcpStream;

const TOPIC: &str = "com.apple.mgmt.External.6f4f1b0e-1111-4222-8333-444455556666";
const ANSWER_DELAY_MS: u64 = 20;
/// A sender climbs to its full pace within a minute of use, as the providers ask; it is measured above the pace that it needs.
const CLIMB_S: u64 = 40;
const WEEK_MS: i64 = 604_800_000;
/// A whole way that takes longer is told as it stands.
const WAY_MAX: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    sqlx::any::install_default_drivers();
    tokio::runtime::Runtime::new()?.block_on(run(common::plan(50_000, 400)?))
}

async fn run(plan: Plan) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("muster-nudges-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let apple = sim::apns::StandIn::start(Clock::system()).await?;
    let tokens: Arc<Vec<String>> = Arc::new((0..plan.devices).map(|_| apple.register(TOPIC)).collect());
    apple.set_answer_delay_ms(ANSWER_DELAY_MS);
    let ceiling = bare(&plan, &apple, &tokens).await?;
    table::head("bare HTTP/2, 1 connection", &ceiling);
    table::line("-", "APNs sender", &ours(&plan, &apple, &tokens, &folder).await?, &ceiling);
    let (google, google_ca) = google::start(&folder).await?;
    google.set_answer_delay_ms(ANSWER_DELAY_MS);
    table::line("-", "FCM sender, HTTP/2", &firebase(&plan, &google, &google_ca).await?, &ceiling);
    for (name, url) in common::databases(&plan, &folder) {
        table::line(name, "claimed, sent, written", &whole_way(&plan, &google, &google_ca, &folder, &url).await?, &ceiling);
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

fn nudge(kind: AddressKind, value: &str, clock: &Clock) -> Nudge {
    let now_ms = clock.now_ms();
    Nudge {
        channel_id: Id::v7(now_ms, [3; 10]),
        address: Address { kind, value: value.to_owned() },
        app: "org.example.agent".into(),
        ios: false,
        lane: Lane::Bulk,
        high: false,
        expires_at_ms: now_ms + WEEK_MS,
        again: false,
        registered_at_ms: now_ms,
    }
}

/// A client that knows HTTP/2 and nothing else, on one connection.
async fn bare(plan: &Plan, apple: &sim::apns::StandIn, tokens: &Arc<Vec<String>>) -> anyhow::Result<Row> {
    let identity = apple.issue_certificate(TOPIC)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(apple.ca().as_bytes()).filter_map(Result::ok));
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let endpoint = apple.endpoint();
    let address = endpoint.trim_start_matches("https://").to_owned();
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let (requests, connection) = h2::client::handshake(tls).await?;
    let running = tokio::spawn(connection);
    let body = Bytes::from(json!({"mdm": "magic"}).to_string());
    let send = {
        let tokens = tokens.clone();
        move |n: usize| {
            let (requests, body) = (requests.clone(), body.clone());
            let head = http::Request::post(format!("{endpoint}/3/device/{}", tokens[n % tokens.len()]))
                .header("apns-topic", TOPIC)
                .header("apns-push-type", "mdm")
                .header("apns-priority", "10")
                .header("apns-expiration", "1900000000")
                .body(());
            async move {
                let (answer, mut sending) = requests.ready().await?.send_request(head?, false)?;
                sending.send_data(body, true)?;
                let answer = answer.await?;
                anyhow::ensure!(answer.status() == 200, "the stand-in answered {}", answer.status());
                let mut body = answer.into_body();
                while body.data().await.is_some() {}
                Ok(())
            }
        }
    };
    // The peer lets a new connection have one stream until it has answered.
    send(0).await?;
    let row = load(plan.connections, None, plan.seconds, send).await?;
    running.abort();
    Ok(row)
}

/// Our sender of MDM pushes, at its full pace.
async fn ours(plan: &Plan, apple: &sim::apns::StandIn, tokens: &Arc<Vec<String>>, folder: &Path) -> anyhow::Result<Row> {
    let clock = Clock::system();
    let ca_file = folder.join("apns-ca.pem");
    std::fs::write(&ca_file, apple.ca())?;
    let settings = apns::Settings { endpoint: apple.endpoint(), ca_file: Some(ca_file) };
    let sender = Sender::apns_mdm(&settings, TOPIC, clock.clone())?;
    let identity = apple.issue_certificate(TOPIC)?;
    sender.replace_credential(json!({"certificate": identity.certificate, "key": identity.key}).to_string().as_bytes())?;
    let tokens = tokens.clone();
    let before = apple.counts().connections;
    let row =
        sent(plan, Arc::new(sender), move |n| nudge(AddressKind::Mdm { magic: "magic".into() }, &tokens[n % tokens.len()], &clock)).await?;
    println!("{:<12} the sender keeps {} connections", "", apple.counts().connections - before);
    Ok(row)
}

/// Our sender of FCM messages; its quota is lifted.
async fn firebase(plan: &Plan, google: &sim::fcm::StandIn, ca_file: &Path) -> anyhow::Result<Row> {
    let clock = Clock::system();
    let settings =
        fcm::Settings { endpoint: google.endpoint(), ca_file: Some(ca_file.to_owned()), quota_per_s: 1_000_000, concurrency_max: 1_000 };
    let sender = Sender::fcm(settings, clock.clone())?;
    sender.replace_credential(&google.service_account())?;
    let tokens: Vec<String> = (0..plan.devices).map(|_| google.register()).collect();
    sent(plan, Arc::new(sender), move |n| nudge(AddressKind::Token, &tokens[n % tokens.len()], &clock)).await
}

/// What a sender brings over once it is at full pace. Every nudge must be accepted.
async fn sent(plan: &Plan, sender: Arc<Sender>, make: impl Fn(usize) -> Nudge + Send + Sync + 'static) -> anyhow::Result<Row> {
    let make = Arc::new(make);
    let work = move |n: usize| {
        let (sender, make) = (sender.clone(), make.clone());
        async move {
            let answer = sender.send(&make(n)).await.answer;
            anyhow::ensure!(answer == Answer::Accepted, "a nudge came to {answer:?}");
            Ok(())
        }
    };
    load(plan.connections, None, CLIMB_S, work.clone()).await?;
    load(plan.connections, None, plan.seconds, work).await
}

/// A queue full of due wakes, until every answer is written back: nudges a second. No times of single ones are taken.
async fn whole_way(plan: &Plan, google: &sim::fcm::StandIn, ca_file: &Path, folder: &Path, url: &str) -> anyhow::Result<Row> {
    let account = folder.join("fcm.json");
    std::fs::write(&account, google.service_account())?;
    let config = || -> anyhow::Result<Config> {
        let mut config = Config { listen: "127.0.0.1:0".parse()?, database_url: url.to_owned(), ..Config::default() };
        config.push =
            serde_json::from_value(json!({"fcm": {"service_account": account, "endpoint": google.endpoint(), "ca_file": ca_file,
            "quota_per_s": 1_000_000, "concurrency_max": 1_000}}))?;
        Ok(config)
    };
    let running = Running::start(config()?).await?;
    first::enroll(&running.base, &running.key, &google.register()).await?;
    running.stop().await?;
    seed::fleet(url, 0, plan.devices).await?;
    for n in 0..plan.devices {
        google.register_as(&seed::push(n), sim::fcm::PROJECT, None);
    }
    let now_ms = Clock::system().now_ms();
    call_all(url, now_ms).await?;
    let (before, began) = (google.counts().accepted, Instant::now());
    let running = Running::start(config()?).await?;
    while google.counts().accepted < before + plan.devices as u64 && began.elapsed() < WAY_MAX {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while seed::count(url, "SELECT COUNT(*) FROM wakes WHERE lease_id IS NOT NULL").await? > 0 && began.elapsed() < WAY_MAX {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken_s = began.elapsed().as_secs_f64();
    let nudges = google.counts().accepted - before;
    running.stop().await?;
    Ok(Row(nudges as f64 / taken_s, f64::NAN, f64::NAN))
}

/// Every wake has something to fetch and is due, in the lane of a change for many.
async fn call_all(url: &str, now_ms: i64) -> anyhow::Result<()> {
    let mut conn = AnyConnection::connect(url).await?;
    let all = "UPDATE wakes SET lane = 2, due_at_ms = $1, work_seq = 1, open_work = 1, changed_at_ms = $1 WHERE sender = 'fcm'";
    sqlx::query(all).bind(now_ms).execute(&mut conn).await?;
    Ok(())
}
