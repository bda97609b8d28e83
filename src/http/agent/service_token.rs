//! `POST /agent/v1/service-token`.

use axum::Json;
use axum::extract::{Request, State};

use super::{parse_problem, read};
use crate::app::App;
use crate::http::error::Answer;
use crate::ops::service_tokens;
use crate::protocol::agent::{ServiceTokenAnswer, parse_service_token};

/// A token of ten minutes with which the agent proves itself to another server. Writes nothing: it is no contact.
#[utoipa::path(post, path = "/agent/v1/service-token", tag = "agent", request_body = crate::protocol::agent::ServiceTokenBody, responses(
    (status = 200, description = "a JWT signed with EdDSA; /.well-known/jwks.json has the keys", body = ServiceTokenAnswer),
    (status = 401, description = "device_unknown, token_replaced"),
    (status = 403, description = "unauthorized, user_mismatch, device_mismatch"),
))]
pub async fn issue(State(app): State<App>, request: Request) -> Answer<Json<ServiceTokenAnswer>> {
    let (device_id, token_hash, bytes) = read(request).await?;
    let body = parse_service_token(&bytes).map_err(parse_problem)?;
    let (mut conn, mut moment) = (app.db.read().await?, app.clock.moment());
    let issued = service_tokens::issue(&mut conn, &mut moment, &app.config, &app.seal, (device_id, &token_hash), &body).await;
    metrics::counter!("muster_service_tokens_total", "outcome" => if issued.is_ok() { "issued" } else { "refused" }).increment(1);
    Ok(Json(issued?))
}
