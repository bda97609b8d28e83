//! What happens, as server-sent events for the pages of a session: only the kind and the device of each entry, for a page to know
//! whether it should look again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::layout::{Trouble, Visitor};
use crate::app::{App, Watch};
use crate::error::Error;
use crate::model::feed_kind;

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this time, and when somebody's key or sessions were ended; the browser comes again by itself, if its session stands.
const LIFE: Duration = Duration::from_secs(600);
/// When to come back where all places are taken.
const RETRY_AFTER_S: i64 = 15;

struct Course {
    watch: Watch,
    until: Instant,
    begun: bool,
    ended: bool,
}

/// The stream. Nothing is caught up: a page that was away looks at everything again when `hello` comes.
pub async fn stream(State(app): State<App>, _visitor: Visitor) -> Result<Response, Trouble> {
    let watch = app.feed_tail.watch().ok_or(Error::Busy { retry_after_s: RETRY_AFTER_S })?;
    let course = Course { watch, until: Instant::now() + LIFE, begun: false, ended: false };
    let events = stream::unfold(course, |mut course| async { course.next().await.map(|event| (Ok::<_, Infallible>(event), course)) });
    Ok(([("x-accel-buffering", "no")], Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response())
}

impl Course {
    async fn next(&mut self) -> Option<Event> {
        if !self.begun {
            self.begun = true;
            return Some(Event::default().event("hello").data("{}"));
        }
        if self.ended {
            return None;
        }
        let entry = tokio::select! {
            () = self.watch.ended.cancelled() => return None,
            () = tokio::time::sleep_until(self.until) => return None,
            entry = self.watch.entries.recv() => entry,
        };
        match entry {
            Ok(entry) => {
                self.ended = feed_kind::ends_credentials(&entry.kind);
                let data = json!({"kind": entry.kind, "device_id": entry.device_id});
                Some(Event::default().event("entry").data(data.to_string()))
            }
            // It was too slow to hear everything: it comes again and looks at everything instead.
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => None,
        }
    }
}
