//! The agent protocol, `/agent/v1`: bytes to contacts and back.

pub mod activate;
pub mod events;
pub mod service_token;
pub mod sync;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::auth::bearer;
use super::error::{Answer, Problem};
use super::extract;
use crate::app::App;
use crate::error::Error;
use crate::intake::contacts::{Contact, Heard, Said};
use crate::model::Id;
use crate::model::token::parse_device_token;
use crate::protocol::agent::{BODY_BYTES_MAX, ParseError};
use crate::store::contacts::Way;
use crate::store::devices;

/// Reads the body and the device token of a contact.
pub async fn read(request: Request) -> Answer<(Id, String, Bytes)> {
    let (device_id, token_hash) = device_token(request.headers())?;
    let bytes = extract::body(request, BODY_BYTES_MAX).await?;
    Ok((device_id, token_hash, bytes))
}

fn device_token(headers: &HeaderMap) -> Answer<(Id, String)> {
    let found = bearer(headers).and_then(parse_device_token);
    found.ok_or_else(|| Error::refused("device_unknown", "send Authorization: Bearer dvt_... as activation gave it").into())
}

/// What is wrong with a body as its answer says it.
pub fn parse_problem(error: ParseError) -> Problem {
    match error {
        ParseError::Malformed(detail) => Problem::new(StatusCode::BAD_REQUEST, "json_malformed", format!("the body is no JSON: {detail}")),
        ParseError::Invalid(faults) => Problem::invalid(faults),
    }
}

/// Commits a contact with its group and turns what came of it into the answer. An app whose device became a part of another still shows
/// the token that names the former; it is heard as the agent of the latter.
async fn contact(app: &App, request: Request, parse: fn(&[u8]) -> Result<Said, ParseError>) -> Answer<Response> {
    let (device_id, token_hash, bytes) = read(request).await?;
    let as_agent_of = |device_id: Id| -> Answer<Contact> {
        let said = parse(&bytes).map_err(parse_problem)?;
        Ok(Contact { device_id, way: Way::Agent, token_hash: token_hash.clone(), said })
    };
    let mut heard = app.intake.contact(as_agent_of(device_id)?).await?;
    if matches!(heard, Heard::DeviceUnknown)
        && let Some(into) = devices::merged_into(&mut app.db.read().await?, device_id).await?
    {
        heard = app.intake.contact(as_agent_of(into)?).await?;
    }
    Ok(match heard {
        Heard::Sync(answer) => axum::Json(answer).into_response(),
        Heard::Events(answer) => axum::Json(answer).into_response(),
        Heard::Denied(members) => denied(&members),
        Heard::DeviceUnknown => {
            Problem::from(Error::refused("device_unknown", "there is no such device; activate again if you hold an enrollment token"))
                .into_response()
        }
        Heard::Command(_) | Heard::Profile(..) | Heard::Unrecognized => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "an agent was answered a command").into_response()
        }
        Heard::TokenReplaced => Problem::from(Error::refused(
            "token_replaced",
            "a later activation replaced this token; activate again if you hold an enrollment token",
        ))
        .into_response(),
    })
}

fn denied(members: &crate::protocol::agent::DeniedMembers) -> Response {
    let mut problem = Problem::new(
        StatusCode::FORBIDDEN,
        "unauthorized",
        "this device may not go on; do what `action` says and confirm with action_done",
    );
    if let Ok(serde_json::Value::Object(map)) = serde_json::to_value(members) {
        problem.members = map;
    }
    problem.into_response()
}
