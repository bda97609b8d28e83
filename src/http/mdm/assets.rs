//! What declarations refer to: the data of assets, and the profiles that policies' payloads make. A device fetches them as it says everything
//! else, with its identity; the body that its signature is over is empty.

use axum::extract::{Extension, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::identity;
use super::refusal::Refusal;
use crate::app::App;
use crate::http::serve::Peer;
use crate::intake::authority;
use crate::ops::mdm::declarative;

/// A content by its hash, to a device that is declared it; 403 to strangers, 404 for what the device is not declared.
pub async fn asset(
    State(app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(hash): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let presented = identity::presented(&app, peer.ip(), &parts, &Bytes::new()).await?;
    let found = declarative::content(&mut app.db.read().await?, &app.seal, &presented.hash, &hash, app.clock.now_ms()).await?;
    let stranger = || Refusal::new(StatusCode::FORBIDDEN, "this certificate opens no enrollment");
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "this content is not declared to the device");
    let content = found.ok_or_else(stranger)?.ok_or_else(missing)?;
    let kind = content.content_type.parse().unwrap_or_else(|_| header::HeaderValue::from_static("application/octet-stream"));
    let bytes = if content.is_profile { authority::signed(&app.config, content.bytes, app.clock.now_ms()) } else { content.bytes };
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, kind)], bytes).into_response())
}
