//! A request id through everything: the answer's header, the log, the problem document.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::app::App;
use crate::telemetry::Seldom;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives every request an id and a span, and every answer the id as `x-request-id`.
pub async fn request_id(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = app.clock.moment().id().to_string();
    let path = path_of(&request);
    let span = tracing::info_span!("request", id = %id, method = %request.method(), path = %path);
    let started = std::time::Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.in_scope(|| {
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        // A server that sends a fleet away for a while says so once in a while.
        static SENT_AWAY: Seldom = Seldom::new();
        if status.is_server_error() && (status != StatusCode::SERVICE_UNAVAILABLE || SENT_AWAY.is_time()) {
            tracing::warn!(%status, ms, "answered");
        } else {
            tracing::debug!(%status, ms, "answered");
        }
    });
    count(path, status);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The route of a request, without what stands for its names.
pub fn path_of(request: &Request) -> String {
    request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned()
}

/// Counts an answered request.
pub fn count(path: String, status: StatusCode) {
    metrics::counter!("muster_http_requests_total", "path" => path, "status" => status.as_u16().to_string()).increment(1);
}
