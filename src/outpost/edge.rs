//! `muster edge`: a relay in a DMZ. Devices reach it and nothing else; it hands on what a device may say, once that is well formed, and never
//! the operator API or the console. It keeps nothing: the device token that the server gives goes through it to the device.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Router, middleware};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;

use super::Upstream;
use crate::http::auth::behind;
use crate::http::error::{Answer, Problem, as_problem};
use crate::http::mdm::guard::guard;
use crate::http::mdm::refusal::Refusal;
use crate::http::serve::{Peer, PeerCertificate};
use crate::http::{agent, extract, health, trace};
use crate::protocol::agent::{BODY_BYTES_MAX, ParseError, parse_activate, parse_events, parse_service_token, parse_sync};
use crate::protocol::apple::CONNECT_BYTES_MAX;
use crate::telemetry::{self, Seldom};

/// Requests that wait for the server at a time; more are sent away.
const UNDER_WAY_MAX: usize = 1024;
/// Seconds after which who was sent away comes again: at least so many, and spread over so many more.
const RETRY_AFTER_S: i64 = 5;
const RETRY_SPREAD_S: i64 = 55;
/// What of a request reaches the server. All else is left here: above all whatever a client says of where it comes from and who it is.
const HANDED_ON: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::IF_NONE_MATCH,
    header::USER_AGENT,
    HeaderName::from_static("mdm-signature"),
    HeaderName::from_static("traceparent"),
];
/// What belongs to a connection and not to an answer (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
/// A device's certificate as RFC 9440 hands it on; the server's `[mdm] proxy_client_cert_header` names it.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");

/// The relay. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Edge {
    upstream: Upstream,
    /// Whose forwarded headers are believed: what stands before this relay.
    trusted_proxies: Arc<[IpAddr]>,
    under_way: Arc<Semaphore>,
}

impl Edge {
    pub fn new(upstream: Upstream, trusted_proxies: Vec<IpAddr>) -> Edge {
        Edge { upstream, trusted_proxies: trusted_proxies.into(), under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }
}

/// Every address that is relayed, and no other.
pub fn router(edge: Edge) -> Router {
    telemetry::metrics();
    let programs = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(fetch))
        .route("/metrics", get(metrics))
        .route("/agent/v1/activate", post(activate))
        .route("/agent/v1/sync", post(sync))
        .route("/agent/v1/events", post(events))
        .route("/agent/v1/service-token", post(service_token))
        .route("/.well-known/jwks.json", get(fetch))
        .fallback(nowhere)
        .layer(middleware::from_fn(as_problem));
    let devices = Router::new()
        .route("/mdm/checkin", put(message).post(message))
        .route("/mdm/connect", put(message).post(message))
        .route("/mdm/scep", get(message).post(message))
        .route("/mdm/assets/{hash}", get(message))
        .layer(middleware::from_fn(guard));
    let people = Router::new()
        .route("/enroll/{token}", get(fetch))
        .route("/enroll/{token}/profile.mobileconfig", get(fetch))
        .route("/assets/{name}", get(fetch));
    programs.merge(devices).merge(people).layer(middleware::from_fn(count)).with_state(edge)
}

async fn activate(State(edge): State<Edge>, request: Request) -> Answer<Response> {
    let (parts, request) = with_parts(request);
    let bytes = extract::body(request, BODY_BYTES_MAX).await?;
    well_formed(parse_activate(&bytes).map(drop))?;
    edge.relay(parts, bytes).await
}

async fn sync(State(edge): State<Edge>, request: Request) -> Answer<Response> {
    edge.contact(request, |bytes| parse_sync(bytes).map(drop)).await
}

async fn events(State(edge): State<Edge>, request: Request) -> Answer<Response> {
    edge.contact(request, |bytes| parse_events(bytes).map(drop)).await
}

async fn service_token(State(edge): State<Edge>, request: Request) -> Answer<Response> {
    edge.contact(request, |bytes| parse_service_token(bytes).map(drop)).await
}

/// A message of an Apple device. Its signature is over its bytes: they go on as they came.
async fn message(State(edge): State<Edge>, request: Request) -> Result<Response, Refusal> {
    let (parts, request) = with_parts(request);
    let bytes = extract::body(request, CONNECT_BYTES_MAX).await?;
    Ok(edge.relay(parts, bytes).await?)
}

/// What carries nothing in: pages, keys, and whether the server is ready.
async fn fetch(State(edge): State<Edge>, request: Request) -> Answer<Response> {
    edge.relay(request.into_parts().0, Bytes::new()).await
}

/// Prometheus metrics, to this machine alone.
async fn metrics(Extension(Peer(peer)): Extension<Peer>, headers: HeaderMap) -> Response {
    if !health::is_local(peer, &headers) {
        return StatusCode::NOT_FOUND.into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry::metrics().render()).into_response()
}

async fn nowhere() -> StatusCode {
    StatusCode::NOT_FOUND
}

/// A request, and all of it but its body once more: reading the body takes the request.
fn with_parts(request: Request) -> (Parts, Request) {
    let (parts, body) = request.into_parts();
    (parts.clone(), Request::from_parts(parts, body))
}

fn well_formed(read: Result<(), ParseError>) -> Answer<()> {
    read.map_err(agent::parse_problem)
}

impl Edge {
    /// What an agent says with its device token.
    async fn contact(&self, request: Request, parse: fn(&[u8]) -> Result<(), ParseError>) -> Answer<Response> {
        let (parts, request) = with_parts(request);
        let (_, _, bytes) = agent::read(request).await?;
        well_formed(parse(&bytes))?;
        self.relay(parts, bytes).await
    }

    /// Asks the server and answers what it answers.
    async fn relay(&self, parts: Parts, body: Bytes) -> Answer<Response> {
        let peer = parts.extensions.get::<Peer>().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |peer| peer.0);
        let client = behind(&self.trusted_proxies, peer.ip(), &parts.headers);
        let Ok(_place) = self.under_way.try_acquire() else {
            return Err(away(client, "relay_busy", "the relay has as much to do as it can"));
        };
        let path_and_query = parts.uri.path_and_query().map_or("/", |whole| whole.as_str());
        let request = self.upstream.request(parts.method.clone(), path_and_query);
        let request = request.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such address"))?;
        let mut request = request.headers(handed_on(&parts, client));
        if !matches!(parts.method, http::Method::GET | http::Method::HEAD) {
            request = request.body(body);
        }
        match request.send().await {
            Ok(answer) => Ok(told(answer)),
            Err(error) => {
                static TOLD: Seldom = Seldom::new();
                if TOLD.is_time() {
                    // Without its address: that of an enrollment page is a secret.
                    let error = error.without_url();
                    tracing::warn!(
                        server = self.upstream.address(),
                        error = format!("{:#}", anyhow::Error::from(error)),
                        "the server does not answer"
                    );
                }
                Err(away(client, "server_unreachable", "the relay does not reach the server"))
            }
        }
    }
}

/// The headers of the request to the server: the client's own that are let through, and what the relay itself knows of it.
fn handed_on(parts: &Parts, client: IpAddr) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in HANDED_ON {
        for value in parts.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let mut put = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    put(HeaderName::from_static("x-forwarded-for"), client.to_string());
    if let Some(PeerCertificate(der)) = parts.extensions.get() {
        put(CLIENT_CERT, format!(":{}:", STANDARD.encode(der)));
    }
    headers
}

/// The server's answer as the relay's.
fn told(answer: reqwest::Response) -> Response {
    let (mut parts, body) = http::Response::from(answer).into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    // The relay's own connection says which version it speaks.
    parts.version = http::Version::default();
    Response::from_parts(parts, Body::new(body))
}

/// Sends a client away for a while; clients of one instant come back at different ones.
fn away(client: IpAddr, code: &'static str, why: &str) -> Problem {
    let spread: i64 = crate::model::token::hash(&client.to_string()).bytes().take(8).map(i64::from).sum();
    let seconds = RETRY_AFTER_S + spread % RETRY_SPREAD_S;
    let detail = format!("{why}; try again in {seconds} s");
    Problem { retry_after_s: Some(seconds), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail) }
}

/// Counts requests by path and status, as the server counts its own.
async fn count(request: Request, next: middleware::Next) -> Response {
    let path = trace::path_of(&request);
    let answer = next.run(request).await;
    trace::count(path, answer.status());
    answer
}
