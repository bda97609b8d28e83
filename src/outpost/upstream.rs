//! The server as an outpost reaches it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Client, Url};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: more than the server lets its own peers take for a body, and a commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);
/// Less than the 15 s after which the server ends an idle connection: none is used in the instant in which it does.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Connections that are kept for the next request.
const KEPT_MAX: usize = 256;

/// The server's address and a client that trusts what the system trusts, and this outpost's CA file.
#[derive(Clone, Debug)]
pub struct Upstream {
    base: Url,
    client: Client,
}

impl Upstream {
    /// Refuses what is no base address.
    pub fn new(server: &str, ca_file: Option<&Path>) -> anyhow::Result<Upstream> {
        let shown = || format!("--server {server:?}: give the server's base address, https://mdm.internal.example.org");
        let base = Url::parse(server).with_context(shown)?;
        let is_base = matches!(base.scheme(), "http" | "https") && base.host().is_some() && base.path() == "/" && base.query().is_none();
        ensure!(is_base && base.username().is_empty() && base.password().is_none(), shown());
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(KEPT_MAX)
            // What is relayed goes to this server and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = ca_file {
            let pem = std::fs::read(path).with_context(|| format!("--ca-file {}", path.display()))?;
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        Ok(Upstream { base, client: builder.build()? })
    }

    /// A request to this path and query; `None` where the address would become another on its way (`/enroll/..`).
    pub fn request(&self, method: http::Method, path_and_query: &str) -> Option<reqwest::RequestBuilder> {
        let url = self.base.join(path_and_query).ok()?;
        let path = path_and_query.split('?').next().unwrap_or_default();
        let is_same = url.origin() == self.base.origin() && url.path() == path;
        is_same.then(|| self.client.request(method, url))
    }

    /// How it is named in the log.
    pub fn address(&self) -> &str {
        self.base.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reaches_the_server_as_it_came_or_not_at_all() {
        // Whoever runs first installs it; the process uses one provider only.
        rustls::crypto::ring::default_provider().install_default().ok();
        let upstream = Upstream::new("https://mdm.example.org", None).unwrap();
        let reached = |path: &str| upstream.request(http::Method::GET, path).map(|request| request.build().unwrap().url().to_string());
        assert_eq!(reached("/enroll/mdt_x?a=%2e").as_deref(), Some("https://mdm.example.org/enroll/mdt_x?a=%2e"));
        for path in ["/enroll/..", "/enroll/%2e%2e", "/mdm/assets/%2E%2e", "/enroll/./x", "//evil.example.org/x", "\\\\evil.example.org/x"]
        {
            assert_eq!(reached(path), None, "{path}");
        }
        for server in
            ["mdm.example.org", "ftp://mdm.example.org", "https://mdm.example.org/base", "https://a:b@mdm.example.org", "https:///x?"]
        {
            assert!(Upstream::new(server, None).is_err(), "{server}");
        }
    }
}
