//! Watches a full disk: tells it as an alarm as soon as an alarm can be written, and closes it once there is room again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::ops::alarms;
use crate::store::{Class, alarms as found, meta};

const PULSE: Pulse = Pulse { tick: Duration::from_secs(1), rest: Duration::ZERO };
/// The alarm's kind; the database is one, so it has no subject.
pub const ALARM: &str = "database_full";
const SUBJECT: &str = "database";
/// What is written to see whether there is room: more than fits into pages that are half empty.
const PROBE_BYTES: usize = 64 * 1024;
const PROBE: &str = "room_probe";
/// The alarm closes when no write has failed for so long, so that a disk on the brink does not open it again and again.
const QUIET_MS: i64 = 60_000;
const DETAIL: &str =
    "the database's disk is full: phones and operators get 503 for what would write; make room, and everything goes on by itself";

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, "room", PULSE, None, &stop, || async { pass(&app).await.map(|()| false) }).await;
    Ok(())
}

/// One look. Costs one read where there is room.
pub async fn pass(app: &App) -> Result<()> {
    let Some(since_ms) = app.room.out_since_ms() else {
        // A process that has ended since may have left the alarm open, or another process knows more.
        if let Some(opened_at_ms) = found::opened_at_ms(&mut app.db.read().await?, ALARM, SUBJECT).await? {
            app.room.is_out(opened_at_ms);
        }
        return Ok(());
    };
    // An alarm is small and often finds a place where a phone's report does not.
    let told = change!(app, Class::Background, |conn, moment| {
        moment.now_ms = since_ms;
        alarms::open(conn, moment, ALARM, SUBJECT, DETAIL).await
    });
    heed_only_room(told)?;
    let probed = change!(app, Class::Background, |conn, _moment| meta::put(conn, PROBE, &"x".repeat(PROBE_BYTES)).await);
    if heed_only_room(probed)? && app.room.quiet_ms(app.clock.now_ms()) >= QUIET_MS {
        change!(app, Class::Background, |conn, moment| match meta::forget(conn, PROBE).await {
            Ok(()) => alarms::close(conn, moment, ALARM, SUBJECT).await,
            Err(error) => Err(error),
        })?;
        app.room.is_back();
        tracing::info!("the database's disk has room again");
    }
    Ok(())
}

/// False where there was no room, which is no failure of this worker; the change has taken note of it.
fn heed_only_room(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.is_full() => Ok(false),
        Err(error) => Err::<bool, Error>(error),
    }
}
