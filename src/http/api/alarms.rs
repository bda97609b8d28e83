//! Alarms: what an operator must know about the server itself.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::one_of;
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::QueryOf;
use crate::http::page::{self, List};
use crate::model::Id;
use crate::ops;
use crate::store::Class;
use crate::store::alarms::{self, AlarmRow};

const STATES: [&str; 3] = ["open", "acknowledged", "closed"];

/// Something an operator must know about the server itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alarm {
    #[schema(value_type = String)]
    pub id: Id,
    pub kind: String,
    /// What of its kind: a sender, a certificate.
    pub subject: String,
    /// `open`, `acknowledged` or `closed`; it closes by itself when what it tells of is over.
    pub state: String,
    pub detail: String,
    pub opened_at_ms: i64,
    pub changed_at_ms: i64,
    pub closed_at_ms: Option<i64>,
}

impl From<AlarmRow> for Alarm {
    fn from(row: AlarmRow) -> Alarm {
        Alarm {
            id: row.id,
            kind: row.kind,
            subject: row.subject,
            state: row.state,
            detail: row.detail,
            opened_at_ms: row.opened_at_ms,
            changed_at_ms: row.changed_at_ms,
            closed_at_ms: row.closed_at_ms,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlarmsQuery {
    /// `open`, `acknowledged` or `closed`.
    state: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// Alarms, newest first.
#[utoipa::path(get, path = "/api/v1/alarms", tag = "server", params(AlarmsQuery), responses((status = 200, body = List<Alarm>)))]
pub async fn list(State(app): State<App>, Caller(_): Caller, QueryOf(query): QueryOf<AlarmsQuery>) -> Answer<Json<List<Alarm>>> {
    let limit = page::limit(query.limit)?;
    let state = one_of("?state", query.state, &STATES)?.unwrap_or_default();
    let before = page::decode(query.cursor.as_deref())?;
    let rows = alarms::list(&mut app.db.read().await?, &state, before, limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.id).map(Alarm::from)))
}

/// Says that somebody has seen the alarm; it stays until what it tells of is over.
#[utoipa::path(
    post, path = "/api/v1/alarms/{id}/acknowledge", tag = "server", params(("id" = String, Path)),
    responses((status = 200, body = Alarm), (status = 404, description = "no such alarm"))
)]
pub async fn acknowledge(State(app): State<App>, Caller(actor): Caller, Path(id): Path<String>) -> Answer<Json<Alarm>> {
    let id: Id = id.parse().map_err(|_| Error::NotFound("alarm"))?;
    let row = change!(app, Class::Operators, |conn, moment| ops::alarms::acknowledge(conn, moment, &actor, id).await)?;
    Ok(Json(row.into()))
}
