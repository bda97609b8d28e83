//! `muster edge` and `muster storage-node`: what runs on machines of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::stop_on_signal;
use crate::clock::Clock;
use crate::model::token::Secret;
use crate::outpost::storage::{self, Files, Limits, Node, Proof};
use crate::outpost::{Outpost, Place, Upstream, edge};
use crate::protocol::pki::Certificate;

const MIB: u64 = 1024 * 1024;

/// Where the server is, and where this listens.
#[derive(Args, Debug)]
struct Ends {
    /// The server's base address.
    #[arg(long, env = "MUSTER_SERVER", value_name = "URL")]
    server: String,
    /// CA certificates to trust beside those of the system, PEM: those of the server's own TLS.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Certificate chain to show, PEM; followed while it runs.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Allow plain HTTP on other addresses than loopback: a proxy in front speaks TLS.
    #[arg(long)]
    behind_proxy: bool,
}

impl Ends {
    fn place(&self, listen: SocketAddr) -> Place {
        Place { listen, tls: self.tls_cert.clone().zip(self.tls_key.clone()), behind_proxy: self.behind_proxy }
    }

    fn upstream(&self) -> anyhow::Result<Upstream> {
        Upstream::new(&self.server, self.ca_file.as_deref())
    }
}

/// Options of `muster edge`.
#[derive(Args, Debug)]
pub struct EdgeOptions {
    #[command(flatten)]
    ends: Ends,
    /// Where devices reach it.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The device CA, PEM, as `muster ca show` prints it: devices are asked for their certificates, which are handed on as Client-Cert.
    #[arg(long, value_name = "FILE")]
    device_ca: Option<PathBuf>,
    /// An address whose forwarded headers are believed: what stands before the relay. May be given several times.
    #[arg(long, value_name = "ADDRESS")]
    trusted_proxy: Vec<IpAddr>,
}

/// Options of `muster storage-node`.
#[derive(Args)]
pub struct StorageOptions {
    #[command(flatten)]
    ends: Ends,
    /// Where apps reach it.
    #[arg(long, default_value = "127.0.0.1:6071", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// An API key of the server, of any role: by it the node asks whether tokens stand.
    #[arg(long, env = "MUSTER_KEY", hide_env_values = true, value_name = "KEY")]
    key: String,
    /// The folder of the files.
    #[arg(long, default_value = "storage", value_name = "DIR")]
    dir: PathBuf,
    /// The audience that tokens must have.
    #[arg(long, default_value = "storage", value_name = "NAME")]
    audience: String,
    /// How large a file may be, MiB.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    file_mib_max: u64,
    /// How much a device may have, MiB.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    device_mib_max: u64,
}

impl std::fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageOptions").field("ends", &self.ends).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Runs the relay until a signal.
pub async fn edge(options: EdgeOptions) -> anyhow::Result<()> {
    let devices = options.device_ca.as_ref().map(names_of).transpose()?;
    let relay = edge::Edge::new(options.ends.upstream()?, options.trusted_proxy);
    let outpost = Outpost::bind(&options.ends.place(options.listen), devices, edge::router(relay)).await?;
    serve(outpost, "muster edge", &options.ends.server).await;
    Ok(())
}

/// Runs the storage node until a signal.
pub async fn storage_node(options: StorageOptions) -> anyhow::Result<()> {
    ensure!(!options.key.is_empty(), "say who asks: --key or MUSTER_KEY; `muster key add` makes one, of the role viewer");
    let proof = Proof::new(options.ends.upstream()?, Secret::given(&options.key), options.audience);
    let limits = Limits { file_bytes_max: options.file_mib_max * MIB, device_bytes_max: options.device_mib_max * MIB };
    let files = Files::open(&options.dir, limits).with_context(|| format!("--dir {}", options.dir.display()))?;
    let node = Node::new(proof, files, Clock::system());
    let outpost = Outpost::bind(&options.ends.place(options.listen), None, storage::router(node)).await?;
    serve(outpost, "muster storage-node", &options.ends.server).await;
    Ok(())
}

async fn serve(outpost: Outpost, what: &str, server: &str) {
    if let Some(address) = outpost.address() {
        tracing::info!(%address, server, "{what} serves");
    }
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    outpost.run(stop).await;
    tracing::info!("{what} has stopped");
}

/// The names of the certificates in a file: what a device is told when it is asked for its own.
fn names_of(file: &PathBuf) -> anyhow::Result<Vec<Vec<u8>>> {
    let shown = || format!("--device-ca {}", file.display());
    let pem = std::fs::read_to_string(file).with_context(shown)?;
    let chain = Certificate::chain_from_pem(&pem).with_context(shown)?;
    ensure!(!chain.is_empty(), "{} holds no certificate: take what `muster ca show` prints", shown());
    Ok(chain.iter().map(|certificate| certificate.subject().to_vec()).collect())
}
