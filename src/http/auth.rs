//! Who is calling: an API key or a console session.

use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq;

use super::error::Problem;
use crate::app::App;
use crate::error::Error;
use crate::model::Actor;
use crate::model::token::hash;
use crate::store::operators;

/// The header in which the console's script repeats the session's CSRF token; forms send it as the field `csrf`.
pub const CSRF_HEADER: &str = "x-csrf-token";

/// The authenticated caller of the operator API.
#[derive(Clone, Debug)]
pub struct Caller(pub Actor);

/// A console session.
#[derive(Clone, Debug)]
pub struct Session {
    pub actor: Actor,
    pub operator_id: String,
    /// Repeated by every form and script call of this session.
    pub csrf: String,
}

/// How long a session lasts.
pub const SESSION_MS: i64 = 12 * 3600 * 1000;

/// The name of the session cookie: `__Host-` exactly when the public URL is https.
pub fn cookie_name(app: &App) -> &'static str {
    if app.config.public_url_is_https() { "__Host-muster" } else { "muster" }
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The session of the request's cookie, if it stands.
pub async fn session(app: &App, headers: &HeaderMap) -> Result<Option<Session>, Problem> {
    let name = cookie_name(app);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let Some((_, secret)) = pairs.find(|(key, _)| *key == name) else { return Ok(None) };
    let mut conn = app.db.read().await?;
    let row = operators::session(&mut conn, &hash(secret), app.clock.now_ms()).await?;
    Ok(row.map(|row| Session {
        actor: Actor { name: format!("operator:{}", row.name), role: row.role, person: true },
        operator_id: row.operator_id,
        csrf: row.csrf,
    }))
}

/// Looks once more whether the credential that a request came with stands.
pub async fn stands(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    match bearer(headers) {
        Some(key) => key_of(app, key).await.map(drop),
        None => session(app, headers).await?.map(drop).ok_or_else(unknown),
    }
}

async fn key_of(app: &App, key: &str) -> Result<Actor, Problem> {
    let mut conn = app.db.read().await?;
    let (name, role) = operators::api_key(&mut conn, &hash(key)).await?.ok_or_else(unknown)?;
    Ok(Actor { name: format!("key:{name}"), role, person: false })
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Caller, Problem> {
        if let Some(key) = bearer(&parts.headers) {
            return key_of(app, key).await.map(Caller);
        }
        let session = session(app, &parts.headers).await?.ok_or_else(unknown)?;
        let safe = parts.method == Method::GET || parts.method == Method::HEAD;
        let repeated = parts.headers.get(CSRF_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
        if !safe && !bool::from(repeated.ct_eq(session.csrf.as_bytes())) {
            let detail = format!("send the session's token in {CSRF_HEADER}, or use an API key");
            return Err(Error::refused("csrf_mismatch", detail).into());
        }
        Ok(Caller(session.actor))
    }
}

fn unknown() -> Problem {
    Error::refused("key_unknown", "send Authorization: Bearer mk_... with a key that stands; `muster key add` makes one").into()
}

/// The address of the client: the peer's, or, where the peer is a trusted proxy, the last one that it names and that is none itself.
pub fn client_address(app: &App, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    behind(&app.config.trusted_proxies, peer, headers)
}

/// The same for any list of trusted proxies.
pub fn behind(proxies: &[IpAddr], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !proxies.contains(&peer) {
        return peer;
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let named: Vec<&str> = forwarded.flat_map(|line| line.split(',')).collect();
    let mut client = peer;
    for part in named.into_iter().rev() {
        // What cannot be read was written behind the last proxy of ours: whatever stands before it is the client's own word.
        let Some(address) = address_of(part.trim()) else { break };
        client = address;
        if !proxies.contains(&address) {
            break;
        }
    }
    client
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn address_of(part: &str) -> Option<IpAddr> {
    let bare = part.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(part);
    let alone = bare.parse::<IpAddr>().ok();
    alone.or_else(|| part.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_whom_the_last_proxy_of_ours_names_however_it_writes_addresses() {
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let seen = |peer: &str, forwarded: &str| {
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), forwarded.parse().unwrap())]);
            behind(&[proxy], peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(seen("192.0.2.9", "198.51.100.1"), "192.0.2.9", "a stranger's word");
        for (forwarded, client) in [
            ("198.51.100.1", "198.51.100.1"),
            ("203.0.113.7, 198.51.100.1", "198.51.100.1"),
            ("198.51.100.1, 10.0.0.1", "198.51.100.1"),
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
            // What stands before something unreadable may be the client's own invention.
            ("203.0.113.7, unknown", "10.0.0.1"),
            ("203.0.113.7, unknown, 10.0.0.1", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(seen("10.0.0.1", forwarded), client, "{forwarded:?}");
        }
    }
}
