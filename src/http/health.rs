//! What monitors ask.

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::auth::Caller;
use super::error::Problem;
use super::serve::Peer;
use crate::app::App;

/// What the second line of `/readyz` begins with while the disk of the database is full.
pub const DISK_FULL: &str = "database_full";

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, description = "alive", body = String)))]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// The database is reachable and has this version's schema. A full disk is told in a second line and keeps the server in service:
/// reading goes on, and phones are to hear when to come again.
#[utoipa::path(get, path = "/readyz", tag = "server", responses((status = 200, description = "ready", body = String), (status = 503, description = "not ready")))]
pub async fn ready(State(app): State<App>) -> Response {
    match app.db.schema_is_current().await {
        Ok(true) => match app.room.out_since_ms() {
            None => "ready\n".into_response(),
            Some(since_ms) => format!("ready\n{DISK_FULL}: nothing can be written since {since_ms} ms: make room\n").into_response(),
        },
        Ok(false) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "schema_outdated",
            "the database has another version's schema; run `muster migrate`",
        )
        .into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}

/// Prometheus metrics; without a key only from loopback and without a forwarded header.
#[utoipa::path(get, path = "/metrics", tag = "server", responses((status = 200, description = "Prometheus text format", body = String)))]
pub async fn metrics(Extension(Peer(peer)): Extension<Peer>, headers: HeaderMap, caller: Result<Caller, Problem>) -> Response {
    if !is_local(peer, &headers)
        && let Err(problem) = caller
    {
        return problem.into_response();
    }
    ([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4")], crate::telemetry::metrics().render()).into_response()
}

/// True for a connection from this machine that no proxy forwarded.
pub fn is_local(peer: std::net::SocketAddr, headers: &HeaderMap) -> bool {
    // Proxies differ in what they add, and are known by any of it.
    let tells = |name: &str| matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-");
    let forwarded = headers.keys().any(|name| tells(name.as_str()));
    peer.ip().is_loopback() && !forwarded
}
