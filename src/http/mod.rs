//! HTTP: this file is the table of every URL; `error` chooses every status.

pub mod auth;
pub mod error;
pub mod extract;
pub mod health;
pub mod page;
pub mod serve;
pub mod tls;
pub mod trace;

use axum::Router;

use crate::app::App;

/// Every URL of the server.
pub fn router(app: App) -> Router {
    Router::new().nest("/api/v1", api()).with_state(app)
}

/// The operator API.
fn api() -> Router<App> {
    Router::new()
}
