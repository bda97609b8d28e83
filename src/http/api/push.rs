//! Push credentials and the overview.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::{Answer, Problem};
use crate::http::extract::{self, QueryOf};
use crate::model::{Actor, Role};
use crate::ops::credentials;
use crate::push::SenderStatus;
use crate::push::apns::{AppKey, Identity};
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
    Ok(Json(PushStatus { senders: app.senders.all().iter().map(|sender| sender.status()).collect() }))
}

/// Replaces FCM's service account; the body is its JSON file. Sealed in the database; it wins over the settings' file, and the other
/// server processes follow within five seconds.
#[utoipa::path(put, path = "/api/v1/push/fcm", tag = "push", responses((status = 200, body = PushStatus), (status = 422, description = "no service account")))]
pub async fn put_fcm(State(app): State<App>, Caller(actor): Caller, request: Request) -> Answer<Json<PushStatus>> {
    actor.require(Role::Admin)?;
    let bytes = extract::body(request, CREDENTIAL_BYTES_MAX).await?;
    let sender = app.senders.named("fcm");
    let sender = sender.ok_or_else(|| Problem::new(StatusCode::CONFLICT, "sender_unknown", "this server has no FCM sender"))?;
    sender.replace_credential(&bytes).map_err(|error| Error::invalid("", error.to_string()))?;
    let seal = &app.seal;
    change!(app, Class::Operators, |conn, moment| credentials::put(conn, moment, &actor, seal, "push/fcm", &bytes).await)?;
    get(State(app.clone()), Caller(actor)).await
}

/// What a push certificate may be forced into.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Forced {
    /// Takes the certificate although enrolled devices have another topic.
    #[serde(default)]
    force: bool,
}

/// Replaces the key of background pushes to our app on iOS: `{"key": the .p8 file, "key_id", "team_id", "topic": the bundle id}`. Sealed
/// in the database; it wins over the settings, and the other server processes follow within five seconds.
#[utoipa::path(put, path = "/api/v1/push/apns-app", tag = "push", responses((status = 200, body = PushStatus), (status = 422, description = "no key")))]
pub async fn put_apns_app(State(app): State<App>, Caller(actor): Caller, request: Request) -> Answer<Json<PushStatus>> {
    actor.require(Role::Admin)?;
    let bytes = extract::body(request, CREDENTIAL_BYTES_MAX).await?;
    extract::parse::<AppKeyFields>(&bytes)?;
    AppKey::parse(&bytes).map_err(|error| Error::invalid("", error.to_string()))?;
    keep(&app, &actor, "push/apns_app", &bytes).await?;
    get(State(app.clone()), Caller(actor)).await
}

/// Puts an MDM push certificate into use: `{"certificate": PEM, "key": PEM}`. Devices hear only the topic they enrolled with, so one whose
/// topic differs from theirs is refused unless `?force=true`; the senders of several topics stand side by side.
#[utoipa::path(put, path = "/api/v1/push/apns-mdm", tag = "push", params(Forced), responses((status = 200, body = PushStatus), (status = 409, description = "enrolled devices have another topic"), (status = 422, description = "no MDM push certificate")))]
pub async fn put_apns_mdm(
    State(app): State<App>,
    Caller(actor): Caller,
    QueryOf(forced): QueryOf<Forced>,
    request: Request,
) -> Answer<Json<PushStatus>> {
    actor.require(Role::Admin)?;
    let bytes = extract::body(request, CREDENTIAL_BYTES_MAX).await?;
    extract::parse::<IdentityFields>(&bytes)?;
    let identity = Identity::current(&bytes, app.clock.now_ms()).map_err(|error| Error::invalid("", error.to_string()))?;
    credentials::preflight_topic(&mut app.db.read().await?, identity.topic(), forced.force).await?;
    keep(&app, &actor, &format!("push/apns_mdm/{}", identity.topic()), &bytes).await?;
    get(State(app.clone()), Caller(actor)).await
}

/// The names that a credential's body may have. Only they are read here: a fault of a value must not repeat the value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppKeyFields {
    #[serde(rename = "key")]
    _key: Option<IgnoredAny>,
    #[serde(rename = "key_id")]
    _key_id: Option<IgnoredAny>,
    #[serde(rename = "team_id")]
    _team_id: Option<IgnoredAny>,
    #[serde(rename = "topic")]
    _topic: Option<IgnoredAny>,
}

/// As [`AppKeyFields`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFields {
    #[serde(rename = "certificate")]
    _certificate: Option<IgnoredAny>,
    #[serde(rename = "key")]
    _key: Option<IgnoredAny>,
}

/// Seals a credential that was looked at, and uses it.
async fn keep(app: &App, actor: &Actor, name: &str, bytes: &[u8]) -> Answer<()> {
    let seal = &app.seal;
    change!(app, Class::Operators, |conn, moment| credentials::put(conn, moment, actor, seal, name, bytes).await)?;
    app.use_credential(name, bytes).map_err(|error| Error::invalid("", error.to_string()))?;
    Ok(())
}

/// Everything at a glance.
#[utoipa::path(get, path = "/api/v1/overview", tag = "overview", responses((status = 200, body = Overview)))]
pub async fn overview(State(app): State<App>, _: Caller) -> Answer<Json<serde_json::Value>> {
    let senders = app.sender_names();
    let mut shown = json!(overview::get(&mut app.db.read().await?, &senders, app.clock.now_ms()).await?);
    shown["push"] = json!(app.senders.all().iter().map(|sender| sender.status()).collect::<Vec<_>>());
    Ok(Json(shown))
}
