//! Push credentials and the overview.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::credentials;
use crate::http::error::Answer;
use crate::http::extract::{self, QueryOf};
use crate::model::{Actor, Id, Role};
use crate::protocol::pki::chain::Proof;
use crate::push::SenderStatus;
use crate::store::canary::{self, CanaryRow};
use crate::store::overview::{self, Overview};

const CREDENTIAL_BYTES_MAX: usize = 64 * 1024;

/// How the senders stand in this process.
#[derive(Debug, Serialize, ToSchema)]
pub struct PushStatus {
    pub senders: Vec<SenderShown>,
    /// Of an MDM push certificate that has just been put into use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
}

/// What a look at an MDM push certificate proved before it was used.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preflight {
    /// `checked`: every signature up to Apple's root or a CA of `ca_file`; `named`: the issuer did not come along and is Apple's by its
    /// name alone; `forced`: nobody looked.
    pub issuer: &'static str,
    /// The same in a sentence.
    pub detail: &'static str,
}

impl Preflight {
    fn of(proof: Option<Proof>) -> Preflight {
        let (issuer, detail) = match proof {
            Some(Proof::Checked) => ("checked", "every signature was checked, up to Apple's root or to a CA of ca_file"),
            Some(Proof::Named) => (
                "named",
                "the issuer bears Apple's name; it did not come along, so its signature was not checked: the canary tells whether APNs \
                 takes the certificate",
            ),
            None => ("forced", "nobody looked at the issuer: the canary tells whether APNs takes the certificate"),
        };
        Preflight { issuer, detail }
    }
}

/// A sender, with the last canary that was sent through it.
#[derive(Debug, Serialize, ToSchema)]
pub struct SenderShown {
    #[serde(flatten)]
    #[schema(inline)]
    pub status: SenderStatus,
    pub canary: Option<Canary>,
}

/// One call by which a credential was tried, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Canary {
    /// `waiting` until every process has followed the credential, `watched`, or `ended`.
    pub state: String,
    /// The device that was called; `null` in an ended canary where no device came within a day that could be called.
    #[schema(value_type = Option<String>)]
    pub device_id: Option<Id>,
    pub called_at_ms: Option<i64>,
    /// What became of the call: `accepted`, `failed`, `address_dead`, `address_suspect`, or `fault: ` and what the provider says of the
    /// credential.
    pub answer: Option<String>,
    /// Unix milliseconds at which the answer was seen.
    pub answered_at_ms: Option<i64>,
    /// The device's first contact since the call, if it came, and what it came for.
    pub contact_at_ms: Option<i64>,
    pub contact_cause: Option<String>,
    /// How long it is watched at most.
    pub ends_at_ms: i64,
}

impl From<CanaryRow> for Canary {
    fn from(row: CanaryRow) -> Canary {
        Canary {
            state: row.state,
            device_id: row.device_id,
            called_at_ms: row.called_at_ms,
            answer: row.answer,
            answered_at_ms: row.answered_at_ms,
            contact_at_ms: row.contact_at_ms,
            contact_cause: row.contact_cause,
            ends_at_ms: row.ends_at_ms,
        }
    }
}

/// The senders and how they stand.
#[utoipa::path(get, path = "/api/v1/push", tag = "push", responses((status = 200, body = PushStatus)))]
pub async fn get(State(app): State<App>, _: Caller) -> Answer<Json<PushStatus>> {
    let mut canaries: HashMap<String, CanaryRow> =
        canary::list(&mut app.db.read().await?).await?.into_iter().map(|row| (row.sender.clone(), row)).collect();
    let mut shown = |status: SenderStatus| SenderShown { canary: canaries.remove(&status.name).map(Canary::from), status };
    Ok(Json(PushStatus { senders: app.senders.all().iter().map(|sender| shown(sender.status())).collect(), preflight: None }))
}

/// Calls one device that came lately through `fcm`, `apns-app` or each topic of `apns-mdm`; `GET /push` tells what came of it. One that is
/// under way is not repeated.
#[utoipa::path(post, path = "/api/v1/push/{name}/canary", tag = "push", params(("name" = String, Path)), responses((status = 202, body = PushStatus), (status = 404, description = "no such sender"), (status = 409, description = "it has no credential")))]
pub async fn post_canary(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
) -> Answer<(StatusCode, Json<PushStatus>)> {
    credentials::try_out(&app, &actor, &name).await?;
    Ok((StatusCode::ACCEPTED, get(State(app.clone()), Caller(actor)).await?))
}

/// Replaces FCM's service account; the body is its JSON file. Sealed in the database; it wins over the settings' file, and the other
/// server processes follow within five seconds. Devices are registered with one project: another than the one in use is refused with their
/// number unless `?force=true`.
#[utoipa::path(put, path = "/api/v1/push/fcm", tag = "push", params(Forced), responses((status = 200, body = PushStatus), (status = 409, description = "project_differs, with the number of devices"), (status = 422, description = "no service account")))]
pub async fn put_fcm(
    State(app): State<App>,
    Caller(actor): Caller,
    QueryOf(forced): QueryOf<Forced>,
    request: Request,
) -> Answer<Json<PushStatus>> {
    put_own::<AnyFields>(app, actor, "push/fcm", forced, request).await
}

/// A body that may have no other members than `F` names.
async fn put_own<F: DeserializeOwned>(app: App, actor: Actor, name: &str, forced: Forced, request: Request) -> Answer<Json<PushStatus>> {
    actor.require(Role::Admin)?;
    let bytes = extract::body(request, CREDENTIAL_BYTES_MAX).await?;
    extract::parse::<F>(&bytes)?;
    credentials::put_own(&app, &actor, name, &bytes, forced.force).await?;
    get(State(app), Caller(actor)).await
}

/// What may be forced.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Forced {
    /// Takes the credential although devices would be lost, or another CA than Apple's issued it; takes one away although devices are called
    /// with it.
    #[serde(default)]
    force: bool,
}

/// Replaces the key of background pushes to our app on iOS: `{"key": the .p8 file, "key_id", "team_id", "topic": the bundle id}`. Sealed
/// in the database; it wins over the settings, and the other server processes follow within five seconds. Refused with their number where
/// enrolled devices have an app with another bundle id, unless `?force=true`.
#[utoipa::path(put, path = "/api/v1/push/apns-app", tag = "push", params(Forced), responses((status = 200, body = PushStatus), (status = 409, description = "topic_differs, with the number of devices"), (status = 422, description = "no key")))]
pub async fn put_apns_app(
    State(app): State<App>,
    Caller(actor): Caller,
    QueryOf(forced): QueryOf<Forced>,
    request: Request,
) -> Answer<Json<PushStatus>> {
    put_own::<AppKeyFields>(app, actor, "push/apns_app", forced, request).await
}

/// Puts an MDM push certificate into use: `{"certificate": PEM, "key": PEM}`. Devices hear only the topic they enrolled with, so one whose
/// topic differs from theirs is refused unless `?force=true`, as is one that Apple did not issue; `preflight` says how far that is proved.
/// The senders of several topics stand side by side.
#[utoipa::path(put, path = "/api/v1/push/apns-mdm", tag = "push", params(Forced), responses((status = 200, body = PushStatus), (status = 409, description = "enrolled devices have another topic, or Apple did not issue it"), (status = 422, description = "no MDM push certificate")))]
pub async fn put_apns_mdm(
    State(app): State<App>,
    Caller(actor): Caller,
    QueryOf(forced): QueryOf<Forced>,
    request: Request,
) -> Answer<Json<PushStatus>> {
    actor.require(Role::Admin)?;
    let bytes = extract::body(request, CREDENTIAL_BYTES_MAX).await?;
    extract::parse::<IdentityFields>(&bytes)?;
    let proof = credentials::put_mdm(&app, &actor, &bytes, forced.force).await?;
    let Json(status) = get(State(app.clone()), Caller(actor)).await?;
    Ok(Json(PushStatus { preflight: Some(Preflight::of(proof)), ..status }))
}

/// Takes the service account away that the API has set. One for the same project in a file of the settings takes its place at once; otherwise nothing is
/// called by FCM any more, which is refused while devices are, unless `?force=true`.
#[utoipa::path(delete, path = "/api/v1/push/fcm", tag = "push", params(Forced), responses((status = 204, description = "taken away"), (status = 404, description = "the API has set none"), (status = 409, description = "credential_needed, with the number of devices")))]
pub async fn delete_fcm(State(app): State<App>, Caller(actor): Caller, QueryOf(forced): QueryOf<Forced>) -> Answer<StatusCode> {
    credentials::remove(&app, &actor, "fcm", forced.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The same of the key of background pushes.
#[utoipa::path(delete, path = "/api/v1/push/apns-app", tag = "push", params(Forced), responses((status = 204, description = "taken away"), (status = 404, description = "the API has set none"), (status = 409, description = "credential_needed, with the number of devices")))]
pub async fn delete_apns_app(State(app): State<App>, Caller(actor): Caller, QueryOf(forced): QueryOf<Forced>) -> Answer<StatusCode> {
    credentials::remove(&app, &actor, "apns_app", forced.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which of the MDM push certificates.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OfTopic {
    topic: String,
    /// Takes it away although devices are called with it.
    #[serde(default)]
    force: bool,
}

/// The same of the MDM push certificate of a topic.
#[utoipa::path(delete, path = "/api/v1/push/apns-mdm", tag = "push", params(OfTopic), responses((status = 204, description = "taken away"), (status = 404, description = "the API has set none for this topic"), (status = 409, description = "credential_needed, with the number of devices")))]
pub async fn delete_apns_mdm(State(app): State<App>, Caller(actor): Caller, QueryOf(of): QueryOf<OfTopic>) -> Answer<StatusCode> {
    credentials::remove(&app, &actor, &format!("apns_mdm/{}", of.topic), of.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A service account has more names than the server reads.
#[derive(Deserialize)]
struct AnyFields {}

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

/// Everything at a glance, with the senders of this process.
#[derive(Debug, Serialize, ToSchema)]
pub struct Glance {
    #[serde(flatten)]
    #[schema(inline)]
    pub counts: Overview,
    /// The senders as `GET /push` shows them, without their canaries.
    pub push: Vec<SenderStatus>,
}

/// Everything at a glance.
#[utoipa::path(get, path = "/api/v1/overview", tag = "overview", responses((status = 200, body = Glance)))]
pub async fn overview(State(app): State<App>, _: Caller) -> Answer<Json<Glance>> {
    let senders = app.callers().names;
    let counts = overview::get(&mut app.db.read().await?, &senders, app.clock.now_ms()).await?;
    Ok(Json(Glance { counts, push: app.senders.all().iter().map(|sender| sender.status()).collect() }))
}
