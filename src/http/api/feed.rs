//! The feed: the ordered log of everything that happened, in pages and as a stream; and the audit, its part that somebody caused.

pub mod stream;
#[cfg(test)]
mod tests;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::json;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::auth::Caller;
use crate::http::error::Answer;
use crate::http::extract::QueryOf;
use crate::http::page::{self, List};
use crate::model::Id;
use crate::store::Conn;
use crate::store::feed::{self, FeedRow, Reading};

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct FeedEntry {
    /// What to send as `after` to read on behind this entry.
    pub cursor: String,
    #[schema(value_type = String)]
    pub id: Id,
    pub at_ms: i64,
    /// A dotted word: `task.done`, `policy.published`, `event.usb_debugging_changed`.
    pub kind: String,
    /// Who did it: `operator:NAME`, `key:NAME`; null for what the server or a device did by itself.
    pub actor: Option<String>,
    #[schema(value_type = Option<String>)]
    pub device_id: Option<Id>,
    pub data: Value,
}

impl From<&FeedRow> for FeedEntry {
    fn from(row: &FeedRow) -> FeedEntry {
        FeedEntry {
            cursor: page::encode(&row.seq),
            id: row.id,
            at_ms: row.at_ms,
            kind: row.kind.clone(),
            actor: row.actor.clone(),
            device_id: row.device_id,
            data: json(&row.data),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// A cursor of this feed; without one the feed is read from its oldest entry, the stream from now on. `cursor` says the same.
    #[serde(alias = "cursor")]
    after: Option<String>,
    /// A whole kind (`task.done`) or its first word (`task`).
    kind: Option<String>,
    limit: Option<i64>,
}

/// Entries in order, oldest first. `next_cursor` is where to read on; it is null only on an empty page at the end of the feed, where
/// the cursor that was sent stays good.
#[utoipa::path(
    get, path = "/api/v1/feed", tag = "feed", params(FeedQuery),
    responses((status = 200, body = List<FeedEntry>), (status = 410, description = "cursor_expired, with the oldest cursor that stands"))
)]
pub async fn list(State(app): State<App>, Caller(_): Caller, QueryOf(query): QueryOf<FeedQuery>) -> Answer<Json<List<FeedEntry>>> {
    let rows_max = page::limit(query.limit)?;
    let mut conn = app.db.read().await?;
    let after = start(&mut conn, query.after.as_deref(), |oldest, _| oldest - 1).await?;
    let read = feed::read(&mut conn, &Reading { after, kind: query.kind.unwrap_or_default(), rows_max }).await?;
    let done = read.rows.is_empty() && read.at_end;
    let next_cursor = (!done).then(|| page::encode(&read.read_to));
    Ok(Json(List { items: read.rows.iter().map(FeedEntry::from).collect(), next_cursor }))
}

/// The number behind which to begin: the cursor's, if it still stands, or what `otherwise` makes of the oldest and the newest.
async fn start(conn: &mut Conn, cursor: Option<&str>, otherwise: impl Fn(i64, i64) -> i64) -> Result<i64> {
    let after: Option<i64> =
        page::decode(cursor).map_err(|_| Error::invalid("?after", "this is no cursor of the feed; start without one"))?;
    let (oldest, newest) = feed::range(conn).await?;
    match after {
        None => Ok(otherwise(oldest, newest)),
        Some(after) if (oldest - 1..=newest).contains(&after) => Ok(after),
        Some(_) => {
            let detail = "entries behind this cursor are no longer kept; read on from the cursor in `oldest`, knowing that some are missed";
            let members = Map::from_iter([("oldest".to_owned(), page::encode(&(oldest - 1)).into())]);
            Err(Error::refused_with("cursor_expired", detail, members))
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// `operator:NAME` or `key:NAME`.
    actor: Option<String>,
    /// A whole kind (`policy.published`) or its first word (`policy`).
    kind: Option<String>,
    cursor: Option<String>,
    limit: Option<i64>,
}

/// What operators, keys and devices did on their own account, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "feed", params(AuditQuery), responses((status = 200, body = List<FeedEntry>)))]
pub async fn audit(State(app): State<App>, Caller(_): Caller, QueryOf(query): QueryOf<AuditQuery>) -> Answer<Json<List<FeedEntry>>> {
    let limit = page::limit(query.limit)?;
    let before = page::decode(query.cursor.as_deref())?;
    let (actor, kind) = (query.actor.unwrap_or_default(), query.kind.unwrap_or_default());
    let rows = feed::audit(&mut app.db.read().await?, &actor, &kind, before, limit + 1).await?;
    Ok(Json(List::of(rows, limit, |row| row.seq).map(|row| FeedEntry::from(&row))))
}
