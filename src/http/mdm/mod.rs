//! Apple's MDM protocol: `/mdm/checkin` and `/mdm/connect`. Both take both kinds of messages: what a body is, it says itself.
//!
//! A 401 on these paths makes devices remove their management, so none ever leaves: [`guard`] stands around everything.

pub mod assets;
pub mod enroll;
pub mod guard;
pub mod identity;
mod qr;
pub mod refusal;
pub mod scep;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use self::identity::Presented;
use self::refusal::Refusal;
use super::auth::client_address;
use super::extract;
use super::serve::Peer;
use crate::app::App;
use crate::intake::authority;
use crate::intake::checkins::{Answer, Arrival};
use crate::intake::contacts::{Contact, Heard, Said};
use crate::ops::mdm;
use crate::ops::mdm::declarative::{self, Read};
use crate::protocol::apple::declarative::Asked;
use crate::protocol::apple::{CHECKIN_BYTES_MAX, CONNECT_BYTES_MAX, Checkin, CheckinMessage, Message, Report};
use crate::store::contacts::Way;

/// Messages of this size are read where they are; a millisecond at most.
const READ_AT_ONCE_BYTES_MAX: usize = 64 * 1024;
const CHECKIN_TYPE: &str = "application/x-apple-aspen-mdm-checkin";

/// A message of a device: a check-in or a report, on whichever of the two paths. 200 with a property list or without a body; 400, 403,
/// 413, 500 and 503 with a sentence; 410 to a user who is not managed.
pub async fn message(State(app): State<App>, Extension(Peer(peer)): Extension<Peer>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let is_checkin = said_to_be_checkin(&parts.headers);
    let bytes_max = if is_checkin { CHECKIN_BYTES_MAX } else { CONNECT_BYTES_MAX };
    // The signature of a message is over its bytes as they came: they are taken before anything reads them.
    let bytes = extract::body(Request::from_parts(parts.clone(), body), bytes_max).await?;
    let presented = identity::presented(&app, peer.ip(), &parts, &bytes).await?;
    let message = parse(bytes.clone()).await?;
    if is_checkin || message.0.contains_key("MessageType") {
        let remote = client_address(&app, peer.ip(), &parts.headers).to_string();
        return checkin(&app, &message, &bytes, presented, remote).await;
    }
    report(&app, Report::of(message)?, presented).await
}

/// A long list is read beside the loop that serves everybody.
async fn parse(bytes: Bytes) -> Result<Message, Refusal> {
    if bytes.len() <= READ_AT_ONCE_BYTES_MAX {
        return Ok(Message::parse(&bytes)?);
    }
    let read = tokio::task::spawn_blocking(move || Message::parse(&bytes)).await;
    Ok(read.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the message could not be read"))??)
}

fn said_to_be_checkin(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| kind.trim_start().starts_with(CHECKIN_TYPE))
}

async fn checkin(app: &App, message: &Message, bytes: &Bytes, presented: Presented, remote: String) -> Result<Response, Refusal> {
    if bytes.len() > CHECKIN_BYTES_MAX {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "a check-in may have at most 1 MiB"));
    }
    let checkin = Checkin::of(message)?;
    if let CheckinMessage::DeclarativeManagement { endpoint, .. } = &checkin.message
        && let Some(asked) = Asked::of(endpoint).filter(|asked| *asked != Asked::Status)
    {
        // What carries nothing in needs no turn of a writer.
        let mut conn = app.db.read().await?;
        let read = declarative::read(&mut conn, &app.seal, &checkin.from, &presented.hash, &asked, app.clock.now_ms()).await?;
        if let Read::Answer(answer) = read {
            return answered(answer);
        }
    }
    let credential = identity::credential(app, &checkin.message, presented).await?;
    answered(app.intake.checkin(Arrival { checkin, credential, remote }).await?)
}

fn answered(answer: Answer) -> Result<Response, Refusal> {
    match answer {
        Answer::Accepted => Ok(empty()),
        Answer::Plist(bytes) => Ok(plist(bytes)),
        Answer::Json(bytes) => Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()),
        Answer::NotAssigned => Err(Refusal::new(StatusCode::NOT_FOUND, "this declaration is not assigned")),
        Answer::NotManaged => Ok(StatusCode::GONE.into_response()),
        Answer::Unsupported(why) => Err(Refusal::new(StatusCode::BAD_REQUEST, why)),
        Answer::Refused(_, why) => Err(Refusal::new(StatusCode::FORBIDDEN, why)),
    }
}

async fn report(app: &App, report: Report, presented: Presented) -> Result<Response, Refusal> {
    let unknown = || Refusal::new(StatusCode::FORBIDDEN, "this certificate opens no enrollment of this device");
    let device = {
        let mut conn = app.db.read().await?;
        mdm::device_of(&mut conn, &report.from).await?
    };
    let device_id = device.ok_or_else(unknown)?;
    let way = Way::Mdm(report.from.user.clone());
    let said = Said::Report(Box::new(report));
    match app.intake.contact(Contact { device_id, way, token_hash: presented.hash, said }).await? {
        Heard::Command(Some(bytes)) => Ok(plist(bytes)),
        Heard::Command(None) => Ok(empty()),
        Heard::Unrecognized => Ok(refusal::unrecognized()),
        Heard::Profile(uuid, profile) => Ok(plist(authority::installation(app, uuid, *profile).await?)),
        _ => Err(unknown()),
    }
}

/// 200 with a body of no bytes, said in so many words: a chunked body would be one that a client waits for.
fn empty() -> Response {
    (StatusCode::OK, [(header::CONTENT_LENGTH, "0")]).into_response()
}

fn plist(bytes: Vec<u8>) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/xml")], bytes).into_response()
}
