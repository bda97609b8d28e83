//! `POST /agent/v1/sync`.

use axum::extract::{Request, State};
use axum::response::Response;

use super::contact;
use crate::app::App;
use crate::http::error::Answer;
use crate::intake::contacts::Said;
use crate::protocol::agent::parse_sync;

/// The agent's visit: results, reports and events in; tasks and the document out. Answered after its commit.
#[utoipa::path(post, path = "/agent/v1/sync", tag = "agent", request_body = crate::protocol::agent::SyncBody, responses(
    (status = 200, description = "what to do now", body = crate::protocol::agent::SyncAnswer),
    (status = 401, description = "device_unknown, token_replaced"),
    (status = 403, description = "unauthorized: sign out or delete the app's data"),
    (status = 503, description = "busy; Retry-After says when to come back"),
))]
pub async fn sync(State(app): State<App>, request: Request) -> Answer<Response> {
    contact(&app, request, |bytes| parse_sync(bytes).map(|sync| Said::Sync(Box::new(sync)))).await
}
