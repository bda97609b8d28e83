//! Devices. Wherever `{id}` stands, a serial number or a UDID may stand as well.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::mail::outbox;
use super::one_of;
use super::tasks::{TaskQuery, listed};
use super::users::PageQuery;
use crate::app::App;
use crate::change;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, QueryOf};
use crate::http::page::{self, List};
use crate::model::{Actor, Id};
use crate::ops::devices::{self as ops, Device, DevicePatch, MergeInto, NewDevice};
use crate::ops::explain::{self, Explanation};
use crate::ops::jobs::Job;
use crate::ops::mdm::declarative::{self, ShownChannel};
use crate::ops::settle::{self, Delivered, Reader};
use crate::ops::tasks::Task;
use crate::store::search::{self, Search};
use crate::store::{Class, channels, contacts, devices};

/// What devices can be, whichever of them are there.
const PLATFORMS: [&str; 6] = ["android", "ios", "macos", "tvos", "watchos", "visionos"];
const STATES: [&str; 6] = ["expected", "pending_approval", "active", "idle", "silent", "unmanaged"];

/// Which devices to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeviceQuery {
    /// The beginning of a name, serial number, e-mail address or model.
    pub q: Option<String>,
    pub label: Option<String>,
    pub state: Option<String>,
    pub platform: Option<String>,
    pub cursor: Option<String>,
    pub limit: Option<i64>,
}

/// A device that was announced, with its one-time enrollment link.
#[derive(Debug, Serialize, ToSchema)]
pub struct Announced {
    #[serde(flatten)]
    pub device: Device,
    /// {token, link, expires_at_ms, mail?: {id, state}}
    pub enrollment: Value,
}

/// Announces a device: it is expected, and its link admits it once.
#[utoipa::path(post, path = "/api/v1/devices", tag = "devices", request_body = NewDevice, responses((status = 201, body = Announced)))]
pub async fn create(
    State(app): State<App>,
    Caller(actor): Caller,
    JsonBody(new): JsonBody<NewDevice>,
) -> Answer<(StatusCode, Json<Announced>)> {
    let outbox = outbox(&app);
    let (device, enrollment) = change!(app, Class::Operators, |conn, moment| ops::announce(conn, moment, &actor, &new, outbox).await)?;
    app.bells.mail.notify_one();
    Ok((StatusCode::CREATED, Json(Announced { device, enrollment })))
}

/// Devices, in no particular order.
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", params(DeviceQuery), responses((status = 200, body = List<Device>)))]
pub async fn list(State(app): State<App>, _: Caller, QueryOf(query): QueryOf<DeviceQuery>) -> Answer<Json<List<Device>>> {
    let limit = page::limit(query.limit)?;
    let state = one_of("?state", query.state, &STATES)?;
    let platform = one_of("?platform", query.platform, &PLATFORMS)?;
    let search = Search { q: query.q, label: query.label, state, platform, after: page::decode(query.cursor.as_deref())? };
    let mut conn = app.db.read().await?;
    let found = List::of(search::devices(&mut conn, &search, limit + 1).await?, limit, |id| (id.bucket(), id.to_string()));
    let items = ops::views(&mut conn, &found.items).await?;
    Ok(Json(List { items, next_cursor: found.next_cursor }))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "devices", params(("id" = String, Path)), responses((status = 200, body = Device), (status = 409, description = "ambiguous_device")))]
pub async fn get(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Json<Device>> {
    let mut conn = app.db.read().await?;
    let id = devices::resolve(&mut conn, &name).await?;
    Ok(Json(ops::view(&mut conn, id).await?))
}

/// Changes a device's serial number, user or labels.
#[utoipa::path(patch, path = "/api/v1/devices/{id}", tag = "devices", params(("id" = String, Path)), request_body = DevicePatch, responses((status = 200, body = Device)))]
pub async fn patch(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    JsonBody(patch): JsonBody<DevicePatch>,
) -> Answer<Json<Device>> {
    let id = resolved(&app, &name).await?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::change(conn, moment, &actor, id, &patch).await)?))
}

/// Forgets a device.
#[utoipa::path(delete, path = "/api/v1/devices/{id}", tag = "devices", params(("id" = String, Path)), responses((status = 204)))]
pub async fn delete(State(app): State<App>, Caller(actor): Caller, Path(name): Path<String>) -> Answer<StatusCode> {
    let id = resolved(&app, &name).await?;
    change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, &actor, id).await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Calls a device in.
#[utoipa::path(post, path = "/api/v1/devices/{id}/sync", tag = "devices", params(("id" = String, Path)), responses((status = 202, body = Device)))]
pub async fn sync(State(app): State<App>, Caller(actor): Caller, Path(name): Path<String>) -> Answer<(StatusCode, Json<Device>)> {
    let id = resolved(&app, &name).await?;
    let device = change!(app, Class::Operators, |conn, moment| ops::call_in(conn, moment, &actor, id).await)?;
    Ok((StatusCode::ACCEPTED, Json(device)))
}

/// Joins the device that an app on iOS made for itself to the one that Apple's MDM manages: the app becomes its agent channel, and goes on
/// with the token that it has. Tasks keep what they are, with other ids; the former id leads to the merged device.
#[utoipa::path(post, path = "/api/v1/devices/{id}/merge", tag = "devices", params(("id" = String, Path)), request_body = MergeInto, responses((status = 200, body = Device), (status = 409, description = "device_conflict, ambiguous_device, job_expanding"), (status = 422, description = "invalid")))]
pub async fn merge(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<MergeInto>,
) -> Answer<Json<Device>> {
    let id = resolved(&app, &name).await?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::merge(conn, moment, &actor, id, &body.into).await)?))
}

/// Takes a device's authorization: the app signs out and clears its cache.
#[utoipa::path(post, path = "/api/v1/devices/{id}/unauthorize", tag = "devices", params(("id" = String, Path)), responses((status = 200, body = Device)))]
pub async fn unauthorize(State(app): State<App>, Caller(actor): Caller, Path(name): Path<String>) -> Answer<Json<Device>> {
    let id = resolved(&app, &name).await?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::unauthorize(conn, moment, &actor, id).await)?))
}

/// Authorizes a device again, or admits a parked one.
#[utoipa::path(post, path = "/api/v1/devices/{id}/authorize", tag = "devices", params(("id" = String, Path)), responses((status = 200, body = Device)))]
pub async fn authorize(State(app): State<App>, Caller(actor): Caller, Path(name): Path<String>) -> Answer<Json<Device>> {
    let id = resolved(&app, &name).await?;
    Ok(Json(change!(app, Class::Operators, |conn, moment| ops::authorize(conn, moment, &actor, id).await)?))
}

/// Ends the management of a device: its app's data is deleted.
#[utoipa::path(post, path = "/api/v1/devices/{id}/retire", tag = "devices", params(("id" = String, Path)), responses((status = 202, body = Job)))]
pub async fn retire(State(app): State<App>, Caller(actor): Caller, Path(name): Path<String>) -> Answer<(StatusCode, Json<Job>)> {
    let id = resolved(&app, &name).await?;
    Ok((StatusCode::ACCEPTED, Json(retired(&app, &actor, id).await?)))
}

async fn retired(app: &App, actor: &Actor, id: Id) -> Answer<Job> {
    Ok(change!(app, Class::Operators, |conn, moment| ops::retire(conn, moment, actor, id).await)?)
}

/// The tasks of a device, newest first.
#[utoipa::path(get, path = "/api/v1/devices/{id}/tasks", tag = "devices", params(("id" = String, Path), TaskQuery), responses((status = 200, body = List<Task>)))]
pub async fn tasks(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<TaskQuery>,
) -> Answer<Json<List<Task>>> {
    let id = resolved(&app, &name).await?;
    listed(&app, query, None, Some(id)).await
}

/// The contacts of a device that carried something, newest first.
#[utoipa::path(get, path = "/api/v1/devices/{id}/contacts", tag = "devices", params(("id" = String, Path), PageQuery), responses((status = 200, body = List<contacts::ContactRow>)))]
pub async fn contacts(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Answer<Json<List<contacts::ContactRow>>> {
    let limit = page::limit(query.limit)?;
    let before: Option<Id> = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let id = devices::resolve(&mut conn, &name).await?;
    Ok(Json(List::of(contacts::history(&mut conn, id, before, limit + 1).await?, limit, |row| row.id)))
}

/// The document of a device as it is delivered.
#[utoipa::path(get, path = "/api/v1/devices/{id}/document", tag = "devices", params(("id" = String, Path)), responses((status = 200, body = Delivered)))]
pub async fn document(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Json<Delivered>> {
    let mut conn = app.db.read().await?;
    let id = devices::resolve(&mut conn, &name).await?;
    let channels: Vec<Id> = channels::of_device(&mut conn, id).await?.into_iter().map(|channel| channel.id).collect();
    let document = settle::documents(&mut conn, Reader::Operator, &channels, app.clock.now_ms()).await?.into_iter().next();
    Ok(Json(document.ok_or(crate::error::Error::NotFound("document: the device has not activated"))?))
}

/// The declarations of a device that Apple's own client manages: what it should have, by channel, and what it says of it.
#[utoipa::path(get, path = "/api/v1/devices/{id}/declarations", tag = "devices", params(("id" = String, Path)), responses((status = 200, body = Vec<ShownChannel>)))]
pub async fn declarations(State(app): State<App>, _: Caller, Path(name): Path<String>) -> Answer<Json<Vec<ShownChannel>>> {
    let mut conn = app.db.read().await?;
    let id = devices::resolve(&mut conn, &name).await?;
    let channels: Vec<Id> =
        channels::of_device(&mut conn, id).await?.into_iter().filter(|channel| channel.kind == "mdm").map(|channel| channel.id).collect();
    Ok(Json(declarative::shown(&mut conn, &app.seal, &channels, app.clock.now_ms()).await?))
}

/// Which setting to explain.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// A setting by its name, an app as `applications/org.example.mail`, a declaration as `declarations/IDENTIFIER`. `applications` and
    /// `apple` are merged one by one: their value is the merged one, and each policy is told with what it gives.
    pub setting: String,
}

/// Why a device has a setting as it is.
#[utoipa::path(get, path = "/api/v1/devices/{id}/explain", tag = "devices", params(("id" = String, Path), ExplainQuery), responses((status = 200, body = Explanation)))]
pub async fn explain(
    State(app): State<App>,
    _: Caller,
    Path(name): Path<String>,
    QueryOf(query): QueryOf<ExplainQuery>,
) -> Answer<Json<Explanation>> {
    let mut conn = app.db.read().await?;
    let id = devices::resolve(&mut conn, &name).await?;
    Ok(Json(explain::setting(&mut conn, id, &query.setting, app.clock.now_ms()).await?))
}

async fn resolved(app: &App, name: &str) -> Answer<Id> {
    Ok(devices::resolve(&mut app.db.read().await?, name).await?)
}
