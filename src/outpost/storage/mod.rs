//! `muster storage-node`: keeps the files of apps. Whoever comes proves itself with a service token, which the server gave to the agent; the
//! node asks the server whether the token still stands, so that nobody goes on for more than seconds after the server sent the device away.

mod files;
mod proof;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::json;

use crate::clock::Clock;
use crate::http::error::{Answer, Problem, as_problem};
use crate::http::health;
use crate::model::Id;

pub use files::{Files, Limits};
pub use proof::Proof;

/// A storage node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    proof: Proof,
    files: Files,
    clock: Clock,
}

impl Node {
    pub fn new(proof: Proof, files: Files, clock: Clock) -> Node {
        Node { shared: Arc::new(Shared { proof, files, clock }) }
    }

    /// The device whose files are meant: that of the token.
    async fn device(&self, headers: &HeaderMap) -> Answer<Id> {
        let claims = self.shared.proof.admit(headers, self.shared.clock.now_ms()).await?;
        let nobody = |_| Problem::new(StatusCode::UNAUTHORIZED, "token_unknown", "the token names no device");
        claims.device_id.parse().map_err(nobody)
    }
}

/// Every address of the node.
pub fn router(node: Node) -> Router {
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(ready))
        .route("/storage/v1/files", get(list))
        .route("/storage/v1/files/{name}", get(read).put(write).delete(remove))
        .fallback(async || StatusCode::NOT_FOUND)
        .layer(middleware::from_fn(as_problem))
        .with_state(node)
}

/// The server knows the node's key, and there is a place for files.
async fn ready(State(node): State<Node>) -> Answer<&'static str> {
    node.shared.proof.reach().await?;
    node.shared.files.reach()?;
    Ok("ready\n")
}

/// The device's files: `{"items": [{"name", "bytes", "modified_ms"}], "next_cursor": null}`; there are never more than fit into one answer.
async fn list(State(node): State<Node>, headers: HeaderMap) -> Answer<Response> {
    let device = node.device(&headers).await?;
    Ok(Json(json!({"items": node.shared.files.list(device).await?, "next_cursor": null})).into_response())
}

/// A file as it was stored.
async fn read(State(node): State<Node>, Path(name): Path<String>, headers: HeaderMap) -> Answer<Response> {
    let device = node.device(&headers).await?;
    let (bytes, body) = node.shared.files.read(device, &name).await?;
    let described = [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())];
    Ok((described, body).into_response())
}

/// Stores a file, in the place of one that is there. The answer is the acknowledgement: 201, or 200 where it took another's place, with
/// `{"name", "bytes", "sha256"}`, once the file would survive a fall of the machine.
async fn write(State(node): State<Node>, Path(name): Path<String>, request: Request) -> Answer<Response> {
    let device = node.device(request.headers()).await?;
    let part = node.shared.clock.moment().id();
    let (stored, is_new) = node.shared.files.write(device, &name, part, request.into_body()).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(stored)).into_response())
}

/// Takes a file away.
async fn remove(State(node): State<Node>, Path(name): Path<String>, headers: HeaderMap) -> Answer<StatusCode> {
    let device = node.device(&headers).await?;
    node.shared.files.remove(device, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
