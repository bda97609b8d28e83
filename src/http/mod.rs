//! HTTP: this file is the table of every URL; `error` chooses every status.

pub mod api;
pub mod auth;
pub mod error;
pub mod extract;
pub mod health;
pub mod page;
pub mod serve;
pub mod tls;
pub mod trace;

use axum::Router;
use axum::routing::{get, post};

use crate::app::App;

/// Every URL of the server.
pub fn router(app: App) -> Router {
    Router::new().nest("/api/v1", api()).with_state(app)
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
