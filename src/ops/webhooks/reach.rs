//! Where a webhook may lead: https to public addresses, and what the settings allow.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Url;

use crate::model::reach::{is_listed, is_public};

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const ADDRESSES_MAX: usize = 16;

/// Why an endpoint is not called.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("this is no absolute URL")]
    NoUrl,
    #[error("take https; plain http only leads to loopback addresses that [webhooks] allow lists")]
    Plain,
    #[error("a URL with a user, a password or a fragment cannot be called")]
    Decorated,
    #[error("{0} is not public; list it in [webhooks] allow if it shall be called")]
    Closed(String),
    #[error("the name cannot be resolved")]
    Unresolved,
}

/// The URL of a webhook, as far as it can be judged without resolving its name.
pub fn parse(url: &str) -> Result<Url, Unreachable> {
    let url = Url::parse(url.trim()).map_err(|_| Unreachable::NoUrl)?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(Unreachable::NoUrl);
    }
    if !matches!(url.scheme(), "https" | "http") {
        return Err(Unreachable::Plain);
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(Unreachable::Decorated);
    }
    Ok(url)
}

/// Resolves the host of `url` once and checks **every** address; a connection is then made to these and no others. `allow` is
/// `[webhooks] allow`. [`Unreachable::Unresolved`] is the only answer that another time may change.
pub async fn addresses(url: &Url, allow: &[String]) -> Result<Vec<SocketAddr>, Unreachable> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    let listed = |address: Option<IpAddr>| is_listed(allow, host, address);
    let own = host.trim_end_matches('.').to_ascii_lowercase();
    if (own == "localhost" || own.ends_with(".localhost")) && !listed(None) && !listed(Some(IpAddr::from([127, 0, 0, 1]))) {
        return Err(Unreachable::Closed(host.to_owned()));
    }
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
            _ => return Err(Unreachable::Unresolved),
        },
    };
    if found.is_empty() {
        return Err(Unreachable::Unresolved);
    }
    for address in found.iter().map(SocketAddr::ip) {
        let listed = listed(Some(address));
        if url.scheme() != "https" && !(listed && address.is_loopback()) {
            return Err(Unreachable::Plain);
        }
        if !listed && !is_public(address) {
            return Err(Unreachable::Closed(address.to_string()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn judged(url: &str, allow: &[&str]) -> Result<Vec<SocketAddr>, Unreachable> {
        let allow: Vec<String> = allow.iter().map(|entry| (*entry).to_owned()).collect();
        addresses(&parse(url)?, &allow).await
    }

    #[tokio::test]
    async fn only_https_to_public_addresses_is_called_unless_the_settings_allow_more() {
        for closed in [
            "https://127.0.0.1/",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://localhost/",
            "https://a.localhost./",
            "https://169.254.169.254/latest",
            "http://8.8.8.8/",
            "ftp://8.8.8.8/",
            "https:///x",
            "https://user@8.8.8.8/",
            "x",
            "https://8.8.8.8/#a",
        ] {
            assert!(judged(closed, &[]).await.is_err(), "{closed}");
        }
        assert_eq!(judged("https://8.8.8.8/hook", &[]).await.unwrap(), [SocketAddr::from(([8, 8, 8, 8], 443))]);
        assert!(judged("http://127.0.0.1:1/", &["127.0.0.0/8"]).await.is_ok());
        assert!(judged("http://localhost:1/", &["localhost"]).await.is_ok());
        assert!(judged("https://10.1.2.3/", &["10.0.0.0/8"]).await.is_ok());
        assert!(judged("http://10.1.2.3/", &["10.0.0.0/8"]).await.is_err(), "plain http stays on loopback");
    }
}
