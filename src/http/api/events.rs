//! Events that devices reported by themselves.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{json, one_of};
use crate::app::App;
use crate::error::Result;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::QueryOf;
use crate::http::page::{self, List};
use crate::model::Id;
use crate::protocol::agent::EVENT_TYPES;
use crate::store::events::{self, EventRow};

/// Something that a device reported by itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeviceEvent {
    #[schema(value_type = String)]
    pub id: Id,
    /// The device's own id of it.
    pub event_id: String,
    #[schema(value_type = String)]
    pub device_id: Id,
    #[schema(value_type = String)]
    pub channel_id: Id,
    pub r#type: String,
    /// Which activation of the channel `seq` counts in.
    pub activation: i64,
    pub seq: i64,
    /// Corrected by the skew of the device's clock, never later than `received_at_ms`.
    pub occurred_at_ms: i64,
    /// By the device's own clock.
    pub claimed_at_ms: i64,
    pub first_attempt_at_ms: Option<i64>,
    pub received_at_ms: i64,
    pub attempt: i64,
    pub boot_id: Option<String>,
    pub uptime_ms: Option<i64>,
    pub policy_version: Option<String>,
    /// It came after a newer one of its subject and changed no state.
    pub late: bool,
    pub data: Value,
}

impl From<EventRow> for DeviceEvent {
    fn from(row: EventRow) -> DeviceEvent {
        DeviceEvent {
            id: row.id,
            event_id: row.event_id,
            device_id: row.device_id,
            channel_id: row.channel_id,
            r#type: row.r#type,
            activation: row.activation,
            seq: row.seq,
            occurred_at_ms: row.occurred_at_ms,
            claimed_at_ms: row.claimed_at_ms,
            first_attempt_at_ms: row.first_attempt_at_ms,
            received_at_ms: row.received_at_ms,
            attempt: row.attempt,
            boot_id: row.boot_id,
            uptime_ms: row.uptime_ms,
            policy_version: row.policy_version,
            late: row.late == 1,
            data: json(&row.data),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// A device's id, serial number or UDID.
    device: Option<String>,
    r#type: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// Events of all devices, newest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventsQuery), responses((status = 200, body = List<DeviceEvent>)))]
pub async fn list(State(app): State<App>, Caller(_): Caller, QueryOf(query): QueryOf<EventsQuery>) -> Answer<Json<List<DeviceEvent>>> {
    Ok(Json(listed(&app, query).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeviceEventsQuery {
    r#type: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// Events of one device, newest first.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/events", tag = "events",
    params(("id" = String, Path, description = "the device's id, serial number or UDID"), DeviceEventsQuery),
    responses((status = 200, body = List<DeviceEvent>), (status = 404, description = "no such device"))
)]
pub async fn of_device(
    State(app): State<App>,
    Caller(_): Caller,
    Path(id): Path<String>,
    QueryOf(query): QueryOf<DeviceEventsQuery>,
) -> Answer<Json<List<DeviceEvent>>> {
    let DeviceEventsQuery { r#type, cursor, limit } = query;
    Ok(Json(listed(&app, EventsQuery { device: Some(id), r#type, cursor, limit }).await?))
}

async fn listed(app: &App, query: EventsQuery) -> Result<List<DeviceEvent>> {
    let limit = page::limit(query.limit)?;
    let kind = one_of("?type", query.r#type, &EVENT_TYPES)?;
    let before = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let device = super::device(&mut conn, query.device.as_deref()).await?;
    let rows = events::list(&mut conn, device, kind.as_deref(), before, limit + 1).await?;
    Ok(List::of(rows, limit, |row| row.id).map(DeviceEvent::from))
}
