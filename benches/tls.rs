//! Contacts that each come on a TLS 1.3 connection of their own, with a full handshake and with a resumed one, on SQLite and on PostgreSQL,
//! against a handler that does nothing behind the same TLS.
//!
//! `cargo bench --bench tls -- [--seconds N] [--connections N] [--devices N] [--postgres URL]`. Everything on one machine, client included;
//! `--connections` is how many are open at once.

mod common;
#[path = "common/server.rs"]
mod server;
#[path = "common/table.rs"]
mod table;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Plan;
use muster::config::{Config, Listener, Part, Tls};
use muster::http::tls::Certificate;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use serde_json::{Value, json};
use server::Running;
use table::{Row, load};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Clients for each connection that is open at once: none is used again while it is under way.
const CLIENTS: usize = 4;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(common::plan(1_000, 32)?))
}

async fn run(plan: Plan) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("muster-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(folder.join("tls.pem"), made.cert.pem())?;
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    let tls = Tls { cert: folder.join("tls.pem"), key: folder.join("tls.key") };
    let root = made.cert.pem();
    let ceilings = [ceiling(&plan, &tls, &root, false).await?, ceiling(&plan, &tls, &root, true).await?];
    table::head("full, trivial (ceiling)", &ceilings[0]);
    table::line("-", "resumed, trivial (ceiling)", &ceilings[1], &ceilings[1]);
    for (name, url) in common::databases(&plan, &folder) {
        let rows = measure(&plan, &url, &tls, &folder, &root).await?;
        table::line(name, "contact, full handshake", &rows[0], &ceilings[0]);
        table::line(name, "contact, resumed", &rows[1], &ceilings[1]);
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// A client of TLS 1.3 alone.
fn client(root: &str, resumed: bool) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(root.as_bytes()).filter_map(Result::ok));
    let mut config =
        ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13]).with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if !resumed {
        config.resumption = Resumption::disabled();
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection, a request, its answer, and the end.
async fn visit(connector: &TlsConnector, address: &str, request: &str) -> anyhow::Result<HandshakeKind> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut tls = connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    tls.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    (&mut tls).take(ANSWER_BYTES_MAX as u64).read_to_end(&mut answer).await?;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "answered {}", String::from_utf8_lossy(&answer[..answer.len().min(40)]));
    tls.get_ref().1.handshake_kind().ok_or_else(|| anyhow::anyhow!("no handshake"))
}

/// Visits for so many seconds. Where they shall resume, nearly all must have done so.
async fn visits(plan: &Plan, root: &str, address: String, resumed: bool, requests: Arc<Vec<String>>) -> anyhow::Result<Row> {
    // As phones do, each client keeps tickets of its own.
    let connectors = Arc::new((0..plan.connections * CLIENTS).map(|_| client(root, resumed)).collect::<anyhow::Result<Vec<_>>>()?);
    if resumed {
        for connector in connectors.iter() {
            visit(connector, &address, &requests[0]).await?;
        }
    }
    let (all, short) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let row = {
        let (all, short) = (all.clone(), short.clone());
        load(plan.connections, None, plan.seconds, move |n| {
            let (connectors, address, requests) = (connectors.clone(), address.clone(), requests.clone());
            let (all, short) = (all.clone(), short.clone());
            async move {
                let kind = visit(&connectors[n % connectors.len()], &address, &requests[n % requests.len()]).await?;
                all.fetch_add(1, Ordering::Relaxed);
                short.fetch_add(usize::from(kind == HandshakeKind::Resumed), Ordering::Relaxed);
                Ok(())
            }
        })
        .await?
    };
    let (all, short) = (all.load(Ordering::Relaxed), short.load(Ordering::Relaxed));
    anyhow::ensure!(if resumed { short * 10 > all * 9 } else { short == 0 }, "{short} of {all} handshakes were resumed");
    Ok(row)
}

fn request(path: &str, token: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The server's own acceptor of TLS in front of nothing.
async fn ceiling(plan: &Plan, tls: &Tls, root: &str, resumed: bool) -> anyhow::Result<Row> {
    let acceptor = Certificate::load(tls)?.acceptor(None)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true).ok();
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let mut request = vec![0; 4_096];
                if tls.read(&mut request).await.is_ok_and(|read| read > 0) {
                    tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").await.ok();
                }
                tls.shutdown().await.ok();
            });
        }
    });
    let row = visits(plan, root, address, resumed, Arc::new(vec![request("/", "none", &json!({"cause": "periodic"}))])).await;
    serving.abort();
    row
}

async fn measure(plan: &Plan, url: &str, tls: &Tls, folder: &Path, root: &str) -> anyhow::Result<[Row; 2]> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let plain = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = Config {
        listeners: vec![
            Listener { address: plain, tls: false, serves: Part::all() },
            Listener { address: free, tls: true, serves: vec![Part::Agent] },
        ],
        tls: Some(tls.clone()),
        data_dir: folder.to_owned(),
        database_url: url.to_owned(),
        ..Config::default()
    };
    let running = Running::start(config).await?;
    let requests = Arc::new(enroll(plan, &running).await?);
    let full = visits(plan, root, free.to_string(), false, requests.clone()).await?;
    let resumed = visits(plan, root, free.to_string(), true, requests).await?;
    running.stop().await?;
    Ok([full, resumed])
}

/// Phones with their document, over the plain listener; answers the request of each idle contact.
async fn enroll(plan: &Plan, running: &Running) -> anyhow::Result<Vec<String>> {
    let client = reqwest::Client::new();
    let post = async |path: &str, token: &str, body: Value| -> anyhow::Result<Value> {
        let request = client.post(format!("{}{path}", running.base)).bearer_auth(token).json(&body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    };
    post("/api/v1/users", &running.key, json!({"email": "user@example.org", "name": "A user"})).await?;
    let token = post("/api/v1/enrollment-tokens", &running.key, json!({"name": "bench"})).await?["token"].clone();
    let mut requests = Vec::with_capacity(plan.devices);
    for n in 0..plan.devices {
        let body = json!({"token": token, "email": "user@example.org", "device": {"platform": "android", "hardware_id": format!("hw-{n}"),
            "model": "Pixel 9", "os_version": "16", "agent_version": "1", "management_mode": "device_owner"}});
        let made = post("/agent/v1/activate", "", body).await?;
        let token = made["device_token"].as_str().unwrap_or_default();
        let first = post("/agent/v1/sync", token, json!({"cause": "launch"})).await?;
        let body = json!({"cause": "periodic", "policy": {"version": first["policy"]["version"], "details": []}});
        requests.push(request("/agent/v1/sync", token, &body));
    }
    Ok(requests)
}
