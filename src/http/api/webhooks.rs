//! Webhooks: endpoints that are told of the feed, after Standard Webhooks.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::one_of;
use super::users::PageQuery;
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::{JsonBody, JsonIfAny, QueryOf};
use crate::http::page::{self, List};
use crate::model::{Id, Role};
use crate::ops::webhooks::{self as ops, Again, Unreachable};
use crate::store::webhooks::{self, DeliveryRow, WebhookRow};
use crate::store::{Class, Conn};

/// An endpoint. Its secret is shown once, when it is made or rotated.
#[derive(Debug, Serialize, ToSchema)]
pub struct Webhook {
    #[schema(value_type = String)]
    pub id: Id,
    /// Its host alone for viewers: what follows may be a secret.
    pub url: String,
    /// Kinds of the feed that it is told of; empty for all.
    pub kinds: Vec<String>,
    /// `enabled` or `disabled`.
    pub state: String,
    pub disabled_reason: Option<String>,
    /// Since when every attempt has failed.
    pub failing_since_ms: Option<i64>,
    /// Until when the secret before the last rotation signs too.
    pub former_secret_until_ms: Option<i64>,
    pub created_by: String,
    pub created_at_ms: i64,
}

impl From<WebhookRow> for Webhook {
    fn from(row: WebhookRow) -> Webhook {
        Webhook {
            id: row.id,
            url: row.url,
            kinds: serde_json::from_str(&row.kinds).unwrap_or_default(),
            state: row.state,
            disabled_reason: row.disabled_reason,
            failing_since_ms: row.failing_since_ms,
            former_secret_until_ms: row.former_until_ms,
            created_by: row.created_by,
            created_at_ms: row.created_at_ms,
        }
    }
}

/// One message to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// The `webhook-id`, the same in every attempt.
    #[schema(value_type = String)]
    pub id: Id,
    pub kind: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    pub attempts: i64,
    pub created_at_ms: i64,
    pub last_attempt_at_ms: Option<i64>,
    pub next_attempt_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    /// The last answer's status; null where there was none.
    pub status: Option<i64>,
    /// The first 200 bytes of the last answer, or why there was none.
    pub answer: Option<String>,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Delivery {
        Delivery {
            id: row.id,
            kind: row.kind,
            state: row.state,
            attempts: row.attempts,
            created_at_ms: row.created_at_ms,
            last_attempt_at_ms: row.last_attempt_at_ms,
            next_attempt_at_ms: row.next_attempt_at_ms,
            finished_at_ms: row.finished_at_ms,
            status: row.status,
            answer: row.answer,
        }
    }
}

/// An endpoint to be told.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// https, and public unless `[webhooks] allow` lists it.
    pub url: String,
    /// Kinds (`task.done`) or prefixes (`task.*`); all unless given.
    #[serde(default)]
    pub kinds: Vec<String>,
}

/// A secret that was just made.
#[derive(Serialize, ToSchema)]
pub struct MadeWebhook {
    #[schema(value_type = String)]
    pub id: Id,
    /// `whsec_` and base64, shown once.
    pub secret: String,
}

/// Which deliveries to send again: one, or all dead letters.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redelivery {
    /// The id of a delivery.
    pub delivery: Option<String>,
    /// True for all dead letters, ten thousand at most.
    #[serde(default)]
    pub dead: bool,
}

/// How many are sent again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Redelivered {
    pub deliveries: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveriesQuery {
    /// `pending`, `delivered` or `dead`.
    state: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Named {
    pub id: String,
}

/// Refuses a URL that may not be called. A name that cannot be resolved now is taken: it is resolved and checked for each delivery.
pub async fn admit(app: &App, url: &str) -> Result<()> {
    let refused = |error: Unreachable| Error::invalid("/url", error.to_string());
    let url = ops::parse(url).map_err(refused)?;
    match ops::addresses(&url, &app.config.webhooks.allow).await {
        Err(Unreachable::Unresolved) if url.scheme() == "https" => Ok(()),
        Err(error) => Err(refused(error)),
        Ok(_) => Ok(()),
    }
}

/// The id in a path.
fn id_of(text: &str) -> Result<Id> {
    text.parse().map_err(|_| Error::NotFound("webhook"))
}

async fn row(conn: &mut Conn, id: &str) -> Result<WebhookRow> {
    webhooks::get(conn, id_of(id)?).await?.ok_or(Error::NotFound("webhook"))
}

/// Makes a webhook; its secret is shown in this answer alone.
#[utoipa::path(
    post, path = "/api/v1/webhooks", tag = "webhooks", request_body = NewWebhook,
    responses((status = 201, body = MadeWebhook), (status = 422, description = "not https, or not public and not in [webhooks] allow"))
)]
pub async fn create(
    State(app): State<App>,
    Caller(actor): Caller,
    JsonBody(new): JsonBody<NewWebhook>,
) -> Answer<(StatusCode, Json<MadeWebhook>)> {
    actor.require(Role::Admin)?;
    admit(&app, &new.url).await?;
    let (seal, url) = (&app.seal, &new.url);
    let made = change!(app, Class::Operators, |conn, moment| ops::create(conn, moment, &actor, seal, url, &new.kinds).await)?;
    Ok((StatusCode::CREATED, Json(MadeWebhook { id: made.id, secret: made.secret })))
}

/// Webhooks, oldest first.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", params(PageQuery), responses((status = 200, body = List<Webhook>)))]
pub async fn list(State(app): State<App>, Caller(actor): Caller, QueryOf(query): QueryOf<PageQuery>) -> Answer<Json<List<Webhook>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<Id> = page::decode(query.cursor.as_deref())?;
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let rows = webhooks::list(&mut app.db.read().await?, &after, limit + 1).await?;
    let seen = |row: WebhookRow| Webhook { url: ops::url_for(&actor, &row.url), ..Webhook::from(row) };
    Ok(Json(List::of(rows, limit, |row| row.id).map(seen)))
}

/// One webhook.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), responses((status = 200, body = Webhook)))]
pub async fn get(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Webhook>> {
    let row = row(&mut app.db.read().await?, &id).await?;
    Ok(Json(Webhook { url: ops::url_for(&actor, &row.url), ..Webhook::from(row) }))
}

/// Takes a webhook away.
#[utoipa::path(delete, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = String, Path)), responses((status = 204)))]
pub async fn delete(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<StatusCode> {
    let id = id_of(&id)?;
    change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, &actor, id).await)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes the webhook away that the query names.
#[utoipa::path(delete, path = "/api/v1/webhooks", tag = "webhooks", params(Named), responses((status = 204)))]
pub async fn delete_named(State(app): State<App>, caller: Caller, QueryOf(named): QueryOf<Named>) -> Answer<StatusCode> {
    delete(State(app), caller, Path(named.id)).await
}

/// Deliveries of a webhook, newest first.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = String, Path), DeliveriesQuery),
    responses((status = 200, body = List<Delivery>))
)]
pub async fn deliveries(
    State(app): State<App>,
    Caller(_): Caller,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<DeliveriesQuery>,
) -> Answer<Json<List<Delivery>>> {
    let (limit, before) = (page::limit(query.limit)?, page::decode(query.cursor.as_deref())?);
    let state = one_of("?state", query.state, &["pending", "delivered", "dead"])?.unwrap_or_default();
    let mut conn = app.db.read().await?;
    let id = row(&mut conn, &id).await?.id;
    let rows = webhooks::deliveries(&mut conn, id, &state, before, limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.seq).map(Delivery::from)))
}

/// Sends one delivery, or all dead letters, again; each in its place of the order. Without a body: all dead letters.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/redeliver", tag = "webhooks", params(("id" = String, Path)), request_body = Redelivery,
    responses((status = 202, body = Redelivered))
)]
pub async fn redeliver(
    State(app): State<App>,
    Caller(actor): Caller,
    Path(id): Path<String>,
    JsonIfAny(asked): JsonIfAny<Redelivery>,
) -> Answer<(StatusCode, Json<Redelivered>)> {
    let (id, which) = (id_of(&id)?, asked.as_ref().map_or(Ok(Again::Dead), which)?);
    let deliveries = change!(app, Class::Operators, |conn, moment| ops::redeliver(conn, moment, &actor, id, which).await)?;
    Ok((StatusCode::ACCEPTED, Json(Redelivered { deliveries })))
}

fn which(asked: &Redelivery) -> Result<Again> {
    match (&asked.delivery, asked.dead) {
        (Some(id), false) => id.parse().map(Again::One).map_err(|_| Error::NotFound("delivery")),
        (None, true) => Ok(Again::Dead),
        _ => Err(Error::invalid("", "name one `delivery`, or say `\"dead\": true`")),
    }
}

/// Makes a new secret, shown in this answer alone; the former one signs beside it for 24 hours.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/rotate", tag = "webhooks", params(("id" = String, Path)), responses((status = 200, body = MadeWebhook))
)]
pub async fn rotate(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<MadeWebhook>> {
    let id = id_of(&id)?;
    let made = change!(app, Class::Operators, |conn, moment| ops::rotate(conn, moment, &actor, &app.seal, id).await)?;
    Ok(Json(MadeWebhook { id: made.id, secret: made.secret }))
}

/// Enables a webhook that was disabled; what waited is delivered in its order.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/enable", tag = "webhooks", params(("id" = String, Path)), responses((status = 200, body = Webhook))
)]
pub async fn enable(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Webhook>> {
    let id = id_of(&id)?;
    let row = change!(app, Class::Operators, |conn, moment| ops::enable(conn, moment, &actor, id).await)?;
    Ok(Json(row.into()))
}
