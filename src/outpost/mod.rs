//! What stands beside a server on machines of its own: the relay in a DMZ and the storage node. Neither has the database or the master key;
//! both know the server by its address alone, and the server knows nothing of them.

pub mod edge;
pub mod storage;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Tls;
use crate::http::serve::{self, Bound, Patience};
use crate::http::tls::Certificate;

pub use upstream::Upstream;

/// Where an outpost listens.
#[derive(Clone, Debug)]
pub struct Place {
    pub listen: SocketAddr,
    /// Certificate and key, PEM; followed while it runs.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Allows plain HTTP on other addresses than loopback.
    pub behind_proxy: bool,
}

/// An outpost that is bound and ready to run.
pub struct Outpost {
    bound: Bound,
    certificate: Option<Arc<Certificate>>,
}

impl Outpost {
    /// Binds the address. With `devices`, the names of the CA of devices (DER), it asks for their certificates.
    pub async fn bind(place: &Place, devices: Option<Vec<Vec<u8>>>, router: Router) -> anyhow::Result<Outpost> {
        let Place { listen, tls, behind_proxy } = place;
        ensure!(
            tls.is_some() || listen.ip().is_loopback() || *behind_proxy,
            "{listen} would speak plain HTTP to the outside: give --tls-cert and --tls-key, or --behind-proxy, or listen on 127.0.0.1"
        );
        ensure!(tls.is_some() || devices.is_none(), "devices show their certificates to TLS: give --tls-cert and --tls-key");
        let certificate = tls.clone().map(|(cert, key)| Certificate::load(&Tls { cert, key })).transpose()?;
        let tls = certificate.as_ref().map(|certificate| certificate.acceptor(devices)).transpose()?;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("{listen} cannot be listened on"))?;
        Ok(Outpost { bound: Bound { listener, tls, router, patience: Patience::default() }, certificate })
    }

    /// Where it listens, for those who asked for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.listener.local_addr().ok()
    }

    /// Serves until `stop`, then lets requests in hand end.
    pub async fn run(self, stop: CancellationToken) {
        if let Some(certificate) = self.certificate {
            tokio::spawn(certificate.follow(stop.clone()));
        }
        serve::serve(self.bound, stop).await;
    }
}
