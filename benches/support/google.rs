//! FCM's stand-in as Google speaks: TLS and HTTP/2.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster::clock::Clock;
use muster::sim::fcm::StandIn;

/// Starts it; answers it and the file in which a sender finds its certificate.
pub async fn start(folder: &Path) -> anyhow::Result<(StandIn, PathBuf)> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let ca_file = folder.join("fcm-ca.pem");
    std::fs::write(&ca_file, certified.cert.pem())?;
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stand_in = StandIn::start_on(([127, 0, 0, 1], 0).into(), Clock::system(), Some(Arc::new(tls))).await?;
    Ok((stand_in, ca_file))
}
