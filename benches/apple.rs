//! Idle contacts and delivered-and-acknowledged commands of Apple devices, known by a proxy's header, by Mdm-Signature and by TLS client
//! certificates, on SQLite and on PostgreSQL, against the ceiling of the same run.
//!
//! `cargo bench --bench apple -- [--seconds N] [--connections N] [--devices N] [--postgres URL]`. Everything on one machine, generator
//! included; durable. The devices' messages are signed beforehand (RSA 2048, SHA-256): what is measured is the server's checking. Over TLS
//! each device has its connection, opened before. Load goes to loopback alone and ends by itself.

mod common;
#[path = "common/groups.rs"]
mod groups;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/server.rs"]
mod server;
#[path = "common/table.rs"]
mod table;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::Plan;
use groups::{groups, told_groups};
use muster::clock::Clock;
use muster::config::{Config, Listener, Part, Tls};
use muster::ops::ca::Pair;
use muster::protocol::cms::Signing;
use muster::protocol::pki::certificate::Wanted;
use muster::protocol::pki::{Certificate, Key, Purpose};
use serde_json::{Value, json};
use server::Running;
use table::{Row, load};

const HEADER: &str = "X-Client-Cert";
const CHECKIN: &str = "application/x-apple-aspen-mdm-checkin";
const DAY_MS: i64 = 86_400_000;

/// How a device says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Header,
    Signature,
    Tls,
}

impl Way {
    const ALL: [(Way, &'static str, &'static str); 3] = [
        (Way::Header, "idle, header", "command, header"),
        (Way::Signature, "idle, Mdm-Signature", "command, Mdm-Signature"),
        (Way::Tls, "idle, TLS certificate", "command, TLS certificate"),
    ];

    /// The CommandUUID of its job: the same for all devices, so that their answers can be signed beforehand.
    fn command(self) -> String {
        format!("bench-{self:?}")
    }
}

/// A device: its certificate for the header, its messages with their signatures, its TLS connection.
struct Device {
    udid: String,
    forwarded: String,
    idle: (String, String),
    /// The answers to the commands of the three jobs.
    done: Vec<(String, String)>,
    tls: reqwest::Client,
}

fn main() -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run(common::plan(1_000, 64)?))
}

async fn run(plan: Plan) -> anyhow::Result<()> {
    let ceiling = raw::ceiling(&plan).await?;
    table::head("trivial handler (ceiling)", &ceiling);
    let folder = std::env::temp_dir().join(format!("muster-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let root = certificates(&folder)?;
    let devices = Arc::new(devices(&plan, &folder, &root)?);
    for (name, url) in common::databases(&plan, &folder) {
        measure(&plan, name, &url, &folder, &devices, &ceiling).await?;
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

/// Writes the certificates of the listener and of the device CA; answers the listener's, PEM.
fn certificates(folder: &Path) -> anyhow::Result<String> {
    let ca = Pair::make_ca(&mut Clock::system().moment())?;
    std::fs::write(folder.join("ca.pem"), ca.certificate().to_pem())?;
    std::fs::write(folder.join("ca.key"), ca.key.to_pem()?)?;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(folder.join("tls.pem"), made.cert.pem())?;
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    Ok(made.cert.pem())
}

/// Devices with a key in common and a certificate each.
fn devices(plan: &Plan, folder: &Path, root: &str) -> anyhow::Result<Vec<Device>> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let ca = Pair::from_pem(&read("ca.pem")?, &read("ca.key")?)?;
    let mut moment = Clock::system().moment();
    let key = Key::make(&mut moment)?;
    let spki = key.spki()?;
    let root = reqwest::Certificate::from_pem(root.as_bytes())?;
    let make = |n: usize| {
        let udid = format!("00008030-{n:016}");
        let wanted = Wanted { purpose: Purpose::Device, common_name: &udid, spki: &spki, life_ms: 100 * DAY_MS };
        let certificate = Certificate::issue(&mut Clock::system().moment(), Some(ca.certificate()), &ca.key, &wanted)?;
        let signing = Signing { certificate: &certificate, key: &key, chain: &[], now_ms: moment.now_ms };
        let signed = |body: String| -> anyhow::Result<_> { Ok((STANDARD.encode(signing.sign_detached(body.as_bytes())?), body)) };
        let identity = reqwest::Identity::from_pem((key.to_pem()? + &certificate.to_pem()).as_bytes())?;
        let done = |(way, ..): (Way, &str, &str)| signed(message(&udid, &[("Status", "Acknowledged"), ("CommandUUID", &way.command())]));
        anyhow::Ok(Device {
            forwarded: format!(":{}:", STANDARD.encode(certificate.der())),
            idle: signed(message(&udid, &[("Status", "Idle")]))?,
            done: Way::ALL.into_iter().map(done).collect::<Result<_, _>>()?,
            tls: reqwest::Client::builder().tls_certs_only([root.clone()]).identity(identity).http1_only().build()?,
            udid,
        })
    };
    (0..plan.devices).map(make).collect()
}

fn message(udid: &str, pairs: &[(&str, &str)]) -> String {
    let pairs: String = pairs.iter().map(|(key, value)| format!("<key>{key}</key><string>{value}</string>")).collect();
    format!("<plist version=\"1.0\"><dict><key>UDID</key><string>{udid}</string>{pairs}</dict></plist>")
}

async fn measure(plan: &Plan, name: &str, url: &str, folder: &Path, devices: &Arc<Vec<Device>>, ceiling: &Row) -> anyhow::Result<()> {
    let tls_port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut config = Config { database_url: url.to_owned(), ..Config::default() };
    let listener = |address: &str, tls| anyhow::Ok(Listener { address: address.parse()?, tls, serves: Part::all() });
    config.listeners = vec![listener("127.0.0.1:0", false)?, listener(&tls_port.to_string(), true)?];
    config.tls = Some(Tls { cert: folder.join("tls.pem"), key: folder.join("tls.key") });
    config.trusted_proxies = vec!["127.0.0.1".parse()?];
    config.mdm.proxy_client_cert_header = Some(HEADER.into());
    (config.mdm.ca_cert, config.mdm.ca_key) = (Some(folder.join("ca.pem")), Some(folder.join("ca.key")));
    (config.mdm.require_known_certificate, config.mdm.refresh_every_s) = (false, 0);
    let running = Running::start(config).await?;
    let (base, key) = (running.base.clone(), running.key.clone());
    let client = reqwest::Client::builder().pool_max_idle_per_host(plan.connections).build()?;
    let enrolled = enroll(plan, &base, &client, devices).await?;
    table::line(name, "enrollment, header", &enrolled, ceiling);
    for (at, (way, idle, command)) in Way::ALL.into_iter().enumerate() {
        let base = if way == Way::Tls { format!("https://{tls_port}") } else { base.clone() };
        let speaker = Speaker { way, url: format!("{base}/mdm/connect"), client: client.clone(), devices: devices.clone() };
        // Connections are opened before anything is measured.
        let once = speaker.clone();
        load(plan.connections, Some(devices.len()), 600, move |n| once.clone().says(n, None)).await?;
        let before = groups();
        let often = speaker.clone();
        let row = load(plan.connections, None, plan.seconds, move |n| often.clone().says(n, None)).await?;
        told_groups(idle, before);
        table::line(name, idle, &row, ceiling);
        order(&client, &base, &key, way, devices).await?;
        let before = groups();
        let row = load(plan.connections, Some(devices.len()), plan.seconds * 10, move |n| {
            let speaker = speaker.clone();
            async move {
                speaker.clone().says(n, None).await?;
                speaker.says(n, Some(at)).await
            }
        })
        .await?;
        told_groups(command, before);
        table::line(name, command, &row, ceiling);
    }
    running.stop().await?;
    Ok(())
}

/// Authenticate and TokenUpdate of every device, known by the header.
async fn enroll(plan: &Plan, base: &str, client: &reqwest::Client, devices: &Arc<Vec<Device>>) -> anyhow::Result<Row> {
    let (url, client, devices) = (format!("{base}/mdm/checkin"), client.clone(), devices.clone());
    load(plan.connections, Some(devices.len()), 600, move |n| {
        let (url, client, devices) = (url.clone(), client.clone(), devices.clone());
        async move {
            let Device { udid, forwarded, .. } = &devices[n];
            let topic = ("Topic", "com.apple.mgmt.External.bench");
            let authenticate = message(udid, &[("MessageType", "Authenticate"), topic, ("ProductName", "iPhone15,2")]);
            let update = message(udid, &[("MessageType", "TokenUpdate"), topic, ("PushMagic", "magic")]);
            let update = update.replace("</dict>", "<key>Token</key><data>q83v</data></dict>");
            for body in [authenticate, update] {
                let request = client.put(&url).header(HEADER, forwarded).header("Content-Type", CHECKIN).body(body);
                request.send().await?.error_for_status()?.bytes().await?;
            }
            Ok(())
        }
    })
    .await
}

/// Orders one command for every device, and waits until all tasks are there.
async fn order(client: &reqwest::Client, base: &str, key: &str, way: Way, devices: &[Device]) -> anyhow::Result<()> {
    let client = if way == Way::Tls { &devices[0].tls } else { client };
    let params = json!({"command": {"RequestType": "RestartDevice"}, "command_uuid": way.command()});
    let body = json!({"kind": "apple_command", "params": params, "target": {"all": true}});
    let made = client.post(format!("{base}/api/v1/jobs")).bearer_auth(key).json(&body).send().await?.error_for_status()?;
    let job = made.json::<Value>().await?["id"].as_str().unwrap_or_default().to_owned();
    loop {
        let seen = client.get(format!("{base}/api/v1/jobs/{job}")).bearer_auth(key).send().await?.error_for_status()?;
        if seen.json::<Value>().await?["state"] != "expanding" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the devices speak with.
#[derive(Clone)]
struct Speaker {
    way: Way,
    url: String,
    client: reqwest::Client,
    devices: Arc<Vec<Device>>,
}

impl Speaker {
    /// Device `n` asks for its next command, or acknowledges that of a job.
    async fn says(self, n: usize, done: Option<usize>) -> anyhow::Result<()> {
        let device = &self.devices[n % self.devices.len()];
        let (signature, body) = done.map_or(&device.idle, |at| &device.done[at]);
        let client = if self.way == Way::Tls { &device.tls } else { &self.client };
        let request = client.put(&self.url).body(body.clone());
        let request = match self.way {
            Way::Header => request.header(HEADER, &device.forwarded),
            Way::Signature => request.header("Mdm-Signature", signature),
            Way::Tls => request,
        };
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }
}
