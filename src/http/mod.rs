//! HTTP: this file is the table of every URL; `error` chooses every status.

pub mod agent;
pub mod api;
pub mod auth;
pub mod error;
pub mod extract;
pub mod health;
pub mod page;
pub mod serve;
pub mod tls;
pub mod trace;

use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::app::App;
use crate::config::Part;

/// Every URL that a listener with these parts serves; health is served by all.
pub fn router(app: App, parts: &[Part]) -> Router {
    let mut router =
        Router::new().route("/healthz", get(health::alive)).route("/readyz", get(health::ready)).route("/metrics", get(health::metrics));
    if parts.contains(&Part::Agent) {
        router = router.nest("/agent/v1", agent());
    }
    if parts.contains(&Part::Api) {
        router = router.nest("/api/v1", api());
    }
    router.layer(middleware::from_fn_with_state(app.clone(), trace::request_id)).with_state(app)
}

/// The agent protocol.
fn agent() -> Router<App> {
    Router::new().route("/activate", post(agent::activate)).route("/sync", post(agent::sync)).route("/events", post(agent::events))
}

/// The operator API.
pub(crate) fn api() -> Router<App> {
    Router::new()
        // Events, findings, alarms, the feed
        .route("/events", get(api::events::list))
        .route("/devices/{id}/events", get(api::events::of_device))
        .route("/findings", get(api::findings::list))
        .route("/alarms", get(api::alarms::list))
        .route("/alarms/{id}/acknowledge", post(api::alarms::acknowledge))
        .route("/feed", get(api::feed::list))
        .route("/feed/stream", get(api::feed::stream))
        .route("/audit", get(api::feed::audit))
}
