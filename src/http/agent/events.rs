//! `POST /agent/v1/events`.

use axum::extract::{Request, State};
use axum::response::Response;

use super::contact;
use crate::app::App;
use crate::http::error::Answer;
use crate::intake::contacts::Said;
use crate::protocol::agent::parse_events;

/// Events alone, at any time, retried every minute by the device until they are heard.
#[utoipa::path(post, path = "/agent/v1/events", tag = "agent", request_body = crate::protocol::agent::EventsBody, responses(
    (status = 200, description = "what became of each", body = crate::protocol::agent::EventsAnswer),
    (status = 401, description = "device_unknown, token_replaced"),
    (status = 503, description = "busy; Retry-After says when to come back"),
))]
pub async fn events(State(app): State<App>, request: Request) -> Answer<Response> {
    contact(&app, request, |bytes| parse_events(bytes).map(Said::Events)).await
}
