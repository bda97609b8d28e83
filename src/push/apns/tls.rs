//! Where the connections go and whom they trust.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::{CredentialError, Identity, Settings};

const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;

/// Why the settings of the sender cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the APNs endpoint is not a URL of a host and, if need be, a port")]
    Endpoint,
    #[error("the APNs endpoint must be https, or http on a loopback address")]
    Plain,
    #[error("ca_file cannot be read: {0}")]
    CaFile(#[source] std::io::Error),
    #[error("ca_file holds no certificate in PEM form")]
    CaPem,
}

/// The endpoint, taken apart.
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    /// As it stands in requests.
    pub(super) authority: String,
    pub(super) plain: bool,
    pub(super) name: ServerName<'static>,
    roots: Arc<RootCertStore>,
}

impl Target {
    pub(super) fn new(settings: &Settings) -> Result<Target, SettingsError> {
        let uri: http::Uri = settings.endpoint.trim_end_matches('/').parse().map_err(|_| SettingsError::Endpoint)?;
        let authority = uri.authority().ok_or(SettingsError::Endpoint)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(SettingsError::Endpoint);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let plain = match uri.scheme_str() {
            Some("https") => false,
            Some("http") if loopback => true,
            _ => return Err(SettingsError::Plain),
        };
        let port = authority.port_u16().unwrap_or(if plain { HTTP_PORT } else { HTTPS_PORT });
        let name = ServerName::try_from(host.clone()).map_err(|_| SettingsError::Endpoint)?;
        let mut roots = RootCertStore::empty();
        if !plain {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        if let Some(path) = &settings.ca_file {
            let pem = std::fs::read(path).map_err(SettingsError::CaFile)?;
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
            if roots.add_parsable_certificates(certificates).0 == 0 {
                return Err(SettingsError::CaPem);
            }
        }
        Ok(Target { host, port, authority: authority.as_str().to_owned(), plain, name, roots: Arc::new(roots) })
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    /// How connections under one credential shake hands.
    pub(super) fn tls(&self, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, CredentialError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(CredentialError::Tls)?;
        let builder = builder.with_root_certificates(self.roots.clone());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(CredentialError::Tls)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// What is wrong with a JSON text, without the text: it may hold a key.
pub(super) fn kind_of(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a field is missing, unknown or of the wrong type",
        _ => "it is not well-formed",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}
