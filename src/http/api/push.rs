//! Push credentials and the overview.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::{Answer, Problem};
use crate::http::extract;
use crate::model::Role;
use crate::ops::credentials;
use crate::push::SenderStatus;
use crate::store::Class;
use crate::store::overview::{self, Overview};

const CREDENTIAL_BYTES_MAX: usize = 64 * 1024;

/// How the senders stand in this process.
#[derive(Debug, Serialize, ToSchema)]
pub struct PushStatus {
    #[schema(value_type = Vec<Object>)]
    pub senders: Vec<SenderStatus>,
}

/// The senders and how they stand.
#[utoipa::path(get, path = "/api/v1/push", tag = "push", responses((status = 200, body = PushStatus)))]
pub async fn get(State(app): State<App>, _: Caller) -> Answer<Json<PushStatus>> {
    Ok(Json(PushStatus { senders: app.senders.iter().map(|sender| sender.status()).collect() }))
}

/// Replaces FCM's service account; the body is its JSON file. Sealed in the database; it wins over the settings' file, and the other
/// server processes follow within five seconds.
#[utoipa::path(put, path = "/api/v1/push/fcm", tag = "push", responses((status = 200, body = PushStatus), (status = 422, description = "no service account")))]
pub async fn put_fcm(State(app): State<App>, Caller(actor): Caller, request: Request) -> Answer<Json<PushStatus>> {
    actor.require(Role::Admin)?;
    let bytes = extract::body(request, CREDENTIAL_BYTES_MAX).await?;
    let sender = app.senders.iter().find(|sender| sender.name() == "fcm");
    let sender = sender.ok_or_else(|| Problem::new(StatusCode::CONFLICT, "sender_unknown", "this server has no FCM sender"))?;
    sender.replace_credential(&bytes).map_err(|error| Error::invalid("", error.to_string()))?;
    let seal = &app.seal;
    change!(app, Class::Operators, |conn, moment| credentials::put(conn, moment, &actor, seal, "push/fcm", &bytes).await)?;
    get(State(app.clone()), Caller(actor)).await
}

/// Everything at a glance.
#[utoipa::path(get, path = "/api/v1/overview", tag = "overview", responses((status = 200, body = Overview)))]
pub async fn overview(State(app): State<App>, _: Caller) -> Answer<Json<serde_json::Value>> {
    let senders = app.sender_names();
    let mut shown = json!(overview::get(&mut app.db.read().await?, &senders, app.clock.now_ms()).await?);
    shown["push"] = json!(app.senders.iter().map(|sender| sender.status()).collect::<Vec<_>>());
    Ok(Json(shown))
}
