//! TLS: the server's certificate, read again when its file changes, and the certificates that devices show.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{self, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::Tls;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0}: {1}")]
    Pem(String, rustls_pki_types::pem::Error),
    #[error("{0} and {1} do not fit together: {2}")]
    Key(String, String, rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads certificate chain and key (PKCS#8, PKCS#1 or SEC1 PEM).
    pub fn load(files: &Tls) -> Result<Arc<Certificate>, TlsError> {
        Ok(Arc::new(Certificate { files: files.clone(), current: RwLock::new(Arc::new(read(files)?)) }))
    }

    /// A TLS acceptor that always uses the current certificate: TLS 1.2 and 1.3, session tickets, `h2` and `http/1.1`. With `devices`, the
    /// names of the CA of devices (DER), it asks for their certificates; whoever has none is as welcome.
    pub fn acceptor(self: &Arc<Certificate>, devices: Option<Vec<Vec<u8>>>) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier: Arc<dyn ClientCertVerifier> = match devices {
            Some(names) => Arc::new(Shown {
                names: names.into_iter().map(DistinguishedName::from).collect(),
                algorithms: provider.signature_verification_algorithms,
            }),
            None => Arc::new(NoClientAuth),
        };
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = crypto::ring::Ticketer::new()?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Follows the files until `stop`; a certificate that cannot be read leaves the one in use.
    pub async fn follow(self: Arc<Certificate>, stop: CancellationToken) {
        let mut seen = self.changed();
        while tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
            let now = self.changed();
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(fresh) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                    seen = now;
                    tracing::info!("the TLS certificate was read again");
                }
                Err(error) => tracing::warn!(%error, "the changed TLS certificate cannot be used; the former one stays"),
            }
        }
    }

    fn changed(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        let at = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        (at(&self.files.cert), at(&self.files.key))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Lets every certificate in whose key the peer has. Which device it opens is decided by each request, and an expired one must come so far:
/// how else could its device renew it.
#[derive(Debug)]
struct Shown {
    /// Without them browsers would ask their users for any certificate that they have.
    names: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Shown {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn read(files: &Tls) -> Result<CertifiedKey, TlsError> {
    let shown = |path: &Path| path.display().to_string();
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::Pem(shown(&files.cert), error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Pem(shown(&files.key), error))?;
    let provider = crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| TlsError::Key(shown(&files.cert), shown(&files.key), error))
}
