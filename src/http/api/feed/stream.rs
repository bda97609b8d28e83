//! The feed as server-sent events (WHATWG HTML, 9.2): what was missed first, then what happens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Sse};
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{FeedEntry, FeedQuery, start};
use crate::app::{App, Watch};
use crate::error::Error;
use crate::http::auth::{Caller, stands};
use crate::http::error::Answer;
use crate::http::extract::QueryOf;
use crate::model::feed_kind;
use crate::store::feed::{self, FeedRow, Reading};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Entries read at a time while catching up; a client that does not read keeps the server from reading on.
const PAGE_ROWS: i64 = 200;
/// When to come back where all places are taken.
const RETRY_AFTER_S: i64 = 15;
/// A stream ends after this time, whatever happens.
const LIFE: Duration = Duration::from_secs(3600);
/// When a client that was told to reconnect comes back by itself.
const RECONNECT: Duration = Duration::from_secs(1);

/// One client's course along the feed.
struct Course {
    app: App,
    watch: Watch,
    kind: String,
    /// The number of the last entry it has got, or been passed by because of its kind.
    after: i64,
    ready: VecDeque<Event>,
    /// Reads from the store; else it waits at the tail.
    behind: bool,
    ended: bool,
    until: Instant,
    /// The number of the newest entry when the caller's credential was looked at.
    proved_at: i64,
    /// Some credential ended since: whose it was is found out when the client authenticates again.
    prove_again: bool,
}

/// The feed as it grows: `id` is the cursor, `event` the kind, `data` the entry. Begins behind `Last-Event-ID`, else behind `after`,
/// else now. A comment every 15 s keeps the connection; `event: reconnect` tells a client
/// to authenticate and come again: it was too slow, the stream is an hour old, or somebody's key or sessions were ended.
#[utoipa::path(
    get, path = "/api/v1/feed/stream", tag = "feed", params(FeedQuery),
    responses((status = 200, description = "server-sent events", body = String, content_type = "text/event-stream"),
        (status = 410, description = "cursor_expired"), (status = 503, description = "all places are taken"))
)]
pub async fn stream(
    State(app): State<App>,
    Caller(_): Caller,
    headers: HeaderMap,
    QueryOf(query): QueryOf<FeedQuery>,
) -> Answer<impl IntoResponse> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    // The place first: what is numbered from here on comes through it, what was before is read.
    let watch = app.feed_tail.watch().ok_or(Error::Busy { retry_after_s: RETRY_AFTER_S })?;
    let mut conn = app.db.read().await?;
    let after = start(&mut conn, last.or(query.after.as_deref()), |_, newest| newest).await?;
    let (_, proved_at) = feed::range(&mut conn).await?;
    drop(conn);
    // Looked at once more behind that number: a credential that ends from here on is told by an entry that this stream will see.
    stands(&app, &headers).await?;
    let (kind, ready, until) = (query.kind.unwrap_or_default(), VecDeque::new(), Instant::now() + LIFE);
    let course = Course { app, watch, kind, after, ready, behind: true, ended: false, until, proved_at, prove_again: false };
    let events = stream::unfold(course, |mut course| async { course.next().await.map(|event| (Ok::<_, Infallible>(event), course)) });
    // nginx would keep events back until its buffer is full.
    Ok(([("x-accel-buffering", "no")], Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))))
}

impl Course {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if self.prove_again {
                return Some(self.reconnect());
            }
            if self.behind {
                self.catch_up().await;
                continue;
            }
            let entry = tokio::select! {
                () = self.watch.ended.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return Some(self.reconnect()),
                entry = self.watch.entries.recv() => entry,
            };
            match entry {
                Ok(entry) if entry.seq <= self.after => {}
                Ok(entry) if entry.seq == self.after + 1 => self.take(&entry),
                // Something between was not handed on: the tail has only just begun.
                Ok(_) => self.behind = true,
                Err(RecvError::Lagged(_)) => return Some(self.reconnect()),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The last event of this stream.
    fn reconnect(&mut self) -> Event {
        self.ended = true;
        Event::default().event("reconnect").retry(RECONNECT).data("{}")
    }

    /// Reads a page; where the database does not answer, the client comes again with its cursor.
    async fn catch_up(&mut self) {
        let reading = Reading { after: self.after, kind: String::new(), rows_max: PAGE_ROWS };
        let read = match self.app.db.read().await {
            Ok(mut conn) => feed::read(&mut conn, &reading).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => {
                for row in &read.rows {
                    self.take(row);
                    // What follows is for those who authenticate again.
                    if self.prove_again {
                        return;
                    }
                }
                self.after = self.after.max(read.read_to);
                self.behind = !read.at_end;
            }
            Err(error) => {
                tracing::warn!(%error, "a stream of the feed ends early");
                self.ended = true;
            }
        }
    }

    fn take(&mut self, row: &FeedRow) {
        self.after = row.seq;
        self.prove_again |= row.seq > self.proved_at && feed_kind::ends_credentials(&row.kind);
        let wanted = self.kind.is_empty() || row.kind.strip_prefix(&self.kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if wanted {
            let entry = FeedEntry::from(row);
            let data = serde_json::to_string(&entry).unwrap_or_default();
            self.ready.push_back(Event::default().id(entry.cursor).event(entry.kind).data(data));
        }
    }
}
