//! Findings: states of non-compliance, with the clocks that the server keeps.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{json, one_of};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::QueryOf;
use crate::http::page::{self, List};
use crate::model::Id;
use crate::ops::findings::KINDS;
use crate::store::findings::{self, FindingRow, Which};

/// A state of non-compliance of one device.
#[derive(Debug, Serialize, ToSchema)]
pub struct Finding {
    #[schema(value_type = String)]
    pub id: Id,
    #[schema(value_type = String)]
    pub device_id: Id,
    /// `malware`, `password_overdue`, `password_not_set`, `password_not_compliant`, `usb_debugging`, `device_admin`, `profile_changed`,
    /// `encryption_off`, `rooted`, `app_blocked`, `app_missing`, `silence` (the device has not come for 48 hours) or `client_silent` (the
    /// device comes by its MDM client, but our app on it has not for 48 hours).
    pub kind: String,
    /// What of its kind: the threat, the profile; empty where a device has only one.
    pub subject: String,
    pub opened_at_ms: i64,
    /// When the device must have put it right.
    pub due_at_ms: i64,
    /// When it had not.
    pub overdue_at_ms: Option<i64>,
    pub closed_at_ms: Option<i64>,
    /// `event:ID`, `fact:KEY`, `report`, `contact`, or why the device is no longer judged.
    pub closed_by: Option<String>,
    pub detail: Value,
}

impl From<FindingRow> for Finding {
    fn from(row: FindingRow) -> Finding {
        Finding {
            id: row.id,
            device_id: row.device_id,
            kind: row.kind,
            subject: row.subject,
            opened_at_ms: row.opened_at_ms,
            due_at_ms: row.due_at_ms,
            overdue_at_ms: row.overdue_at_ms,
            closed_at_ms: row.closed_at_ms,
            closed_by: row.closed_by,
            detail: json(&row.detail),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FindingsQuery {
    /// A device's id, serial number or UDID.
    device: Option<String>,
    kind: Option<String>,
    /// Only the open ones, or only the closed ones.
    open: Option<bool>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// Findings, newest first.
#[utoipa::path(get, path = "/api/v1/findings", tag = "events", params(FindingsQuery), responses((status = 200, body = List<Finding>)))]
pub async fn list(State(app): State<App>, Caller(_): Caller, QueryOf(query): QueryOf<FindingsQuery>) -> Answer<Json<List<Finding>>> {
    let limit = page::limit(query.limit)?;
    let kind = one_of("?kind", query.kind, &KINDS)?;
    let before = page::decode(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let device = super::device(&mut conn, query.device.as_deref()).await?;
    let rows = findings::list(&mut conn, &Which { device, kind, open: query.open, before }, limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.id).map(Finding::from)))
}
