//! TLS as APNs has it: a client certificate may come; one that does is checked at the handshake, against the stand-in's clock.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};

use super::credentials::{Authority, topic_of};
use crate::clock::Clock;

/// Certificates that Apple has taken back, by topic.
pub(super) type Revoked = Arc<Mutex<HashSet<String>>>;

/// The configuration of a server whose certificate `presents` signs and whose clients' certificates `accepts` has signed.
pub(super) fn server(presents: &Authority, accepts: &Authority, clock: Clock, revoked: Revoked) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(accepts.certificate.clone()).map_err(io::Error::other)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).allow_unauthenticated();
    let verifier = Arc::new(Doorkeeper { verifier: verifier.build().map_err(io::Error::other)?, clock, revoked });
    let (certificate, key) = presents.server()?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session asks for no certificate: one that has expired or was revoked since would go on being let in.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The usual checks, at the stand-in's time.
#[derive(Debug)]
struct Doorkeeper {
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Clock,
    revoked: Revoked,
}

impl ClientCertVerifier for Doorkeeper {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.clock.now_ms().unsigned_abs()));
        let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        if topic_of(end_entity).is_some_and(|topic| revoked.contains(&topic)) {
            return Err(CertificateError::Revoked.into());
        }
        self.verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
