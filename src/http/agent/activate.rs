//! `POST /agent/v1/activate`.

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::parse_problem;
use crate::app::App;
use crate::error::Error;
use crate::http::auth::{bearer, client_address};
use crate::http::error::Answer;
use crate::http::extract;
use crate::http::serve::Peer;
use crate::intake::activations::{Admission, Newcomer};
use crate::model::schedule::PERIOD_S;
use crate::model::token::Secret;
use crate::protocol::agent::{ActivateAnswer, ActivateRequest, BODY_BYTES_MAX, parse_activate};

/// Silent activation: an enrollment token, or an earlier device token as bearer, becomes a device token.
#[utoipa::path(post, path = "/agent/v1/activate", tag = "agent", request_body = ActivateRequest, responses(
    (status = 201, description = "admitted", body = ActivateAnswer),
    (status = 200, description = "a fresh device token; the earlier one lives until it is used", body = ActivateAnswer),
    (status = 401, description = "token_unknown"),
    (status = 403, description = "token_expired, token_revoked, token_exhausted, user_unknown, user_disabled, device_unauthorized"),
    (status = 409, description = "device_limit, device_conflict"),
))]
pub async fn activate(State(app): State<App>, Extension(Peer(peer)): Extension<Peer>, request: Request) -> Answer<Response> {
    let bearer = bearer(request.headers()).map(Secret::given);
    let remote = client_address(&app, peer.ip(), request.headers()).to_string();
    let bytes = extract::body(request, BODY_BYTES_MAX).await?;
    let request = parse_activate(&bytes).map_err(parse_problem)?;
    let newcomer = Newcomer { request, bearer, remote };
    match app.intake.activate(newcomer).await? {
        Admission::Refused { code, detail } => Err(Error::refused(code, detail).into()),
        Admission::Admitted { device_id, device_token, next_sync_in_s, renewed } => {
            let answer = ActivateAnswer {
                device_id,
                device_token: device_token.reveal().to_owned(),
                sync_every_s: PERIOD_S,
                next_sync_in_s,
                server_time_ms: app.clock.now_ms(),
            };
            Ok((if renewed { StatusCode::OK } else { StatusCode::CREATED }, Json(answer)).into_response())
        }
    }
}
