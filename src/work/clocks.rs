//! The clocks that the server keeps: findings run out, and devices become idle and silent, though nobody calls.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::change;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{BUCKETS, Id};
use crate::ops::findings::{self, CLIENT_SILENT, Change, DAY_MS, HOUR_MS, SILENCE, To};
use crate::store::feed::{self, Entry};
use crate::store::liveness::{self, Evidence, Move};
use crate::store::{Class, Conn, findings as found, gauges, meta};

const PULSE: Pulse = Pulse { tick: Duration::from_secs(1), rest: Duration::ZERO };
const LEASE: &str = "clocks";
const LEASE_MS: i64 = 10_000;
/// Rows moved in one transaction.
const ROWS_MAX: i64 = 500;
/// Devices looked at in one pass: a million take about eight minutes, at little cost beside clocks of days.
const LOOKED_AT_MAX: usize = 2_000;
/// A walk around all devices begins so long after the one before began, at the earliest.
const LAP_MS: i64 = 30_000;
/// Where the walk stands, in `meta`.
const POSITION: &str = "clocks_position";

/// A device seen within this time is active, whatever its nudges came to.
const ACTIVE_MS: i64 = 48 * HOUR_MS;
/// A device not seen for this long is silent.
const SILENT_MS: i64 = 7 * DAY_MS;
/// As many accepted nudges unanswered make an idle device silent before its time.
const UNANSWERED_MAX: i64 = 3;

/// Where the walk stands: in `bucket`, after the device `after`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Position {
    bucket: i64,
    after: String,
    lap_began_ms: i64,
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, LEASE, PULSE, None, &stop, || async { pass(&app).await.map(|()| false) }).await;
    let mut conn = app.db.begin(Class::Background).await?;
    meta::drop_lease(&mut conn, LEASE, &app.process).await?;
    conn.commit().await
}

/// One look at all clocks, at a bounded number of devices. Only one process at a time does it.
pub async fn pass(app: &App) -> Result<()> {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let position: Position = match meta::get(&mut conn, POSITION).await? {
        Some(text) => serde_json::from_str(&text).unwrap_or_default(),
        None => Position::default(),
    };
    let due = found::any_due(&mut conn, now_ms).await?;
    drop(conn);
    let resting = position.bucket == 0 && position.after.is_empty() && now_ms < position.lap_began_ms.saturating_add(LAP_MS);
    if (resting && !due) || !lease(app, now_ms).await? {
        return Ok(());
    }
    if due {
        while run_out(app).await? {}
    }
    if resting { Ok(()) } else { walk(app, position).await }
}

async fn lease(app: &App, now_ms: i64) -> Result<bool> {
    let mut conn = app.db.begin(Class::Background).await?;
    let held = meta::take_lease(&mut conn, LEASE, &app.process, now_ms, now_ms + LEASE_MS).await?;
    conn.commit().await?;
    Ok(held)
}

async fn run_out(app: &App) -> Result<bool> {
    let told = change!(app, Class::Background, |conn, moment| findings::run_out(conn, moment, ROWS_MAX).await)?;
    Ok(i64::try_from(told).is_ok_and(|told| told == ROWS_MAX))
}

/// Goes on from `position` and saves where it got to; the end of the last bucket ends the lap.
async fn walk(app: &App, mut position: Position) -> Result<()> {
    let (mut looked_at, mut counted) = (0, None);
    if position.bucket == 0 && position.after.is_empty() {
        position.lap_began_ms = app.clock.now_ms();
    }
    while looked_at < LOOKED_AT_MAX {
        let page =
            liveness::page(&mut app.db.read().await?, position.bucket, &position.after, app.clock.now_ms() - ACTIVE_MS, ROWS_MAX).await?;
        looked_at += page.len();
        judge(app, &page).await?;
        match page.last() {
            Some(last) if i64::try_from(page.len()).is_ok_and(|rows| rows == ROWS_MAX) => position.after = last.id.to_string(),
            _ if position.bucket + 1 < BUCKETS => (position.bucket, position.after) = (position.bucket + 1, String::new()),
            _ => {
                (position.bucket, position.after) = (0, String::new());
                counted = Some(gauges::count_fleet(&mut app.db.read().await?).await?);
                break;
            }
        }
    }
    let mut conn = app.db.begin(Class::Background).await?;
    meta::put(&mut conn, POSITION, &serde_json::to_string(&position).unwrap_or_default()).await?;
    // At the end of a lap the states are counted, once for all processes.
    if let Some(fleet) = counted {
        gauges::keep_fleet(&mut conn, &fleet).await?;
    }
    conn.commit().await
}

/// The state that the evidence speaks for.
fn state_of(evidence: &Evidence, now_ms: i64) -> &'static str {
    let unseen_ms = now_ms - evidence.seen_ms;
    if unseen_ms < ACTIVE_MS {
        "active"
    } else if unseen_ms >= SILENT_MS || evidence.unanswered >= UNANSWERED_MAX {
        "silent"
    } else {
        "idle"
    }
}

/// Moves the devices of a page whose evidence has changed; a page without any costs no transaction.
async fn judge(app: &App, page: &[Evidence]) -> Result<()> {
    let now_ms = app.clock.now_ms();
    let mut moves = Vec::new();
    let mut silences = Vec::new();
    for evidence in page {
        let ours = ["active", "idle", "silent"].contains(&evidence.state.as_str());
        let to_state = state_of(evidence, now_ms);
        if ours && to_state != evidence.state {
            let id = evidence.id;
            moves.push(Move { bucket: id.bucket(), id, from_state: evidence.state.clone(), to_state });
        }
        let judged = ours && evidence.denied == 0;
        let silent = judged && to_state != "active";
        if silent != (evidence.silences & liveness::DEVICE_SILENT != 0) {
            silences.push(silence(evidence.id, SILENCE, silent.then_some(evidence.seen_ms)));
        }
        let app_silent = app_is_silent(evidence, judged, to_state, now_ms);
        if app_silent != (evidence.silences & liveness::APP_SILENT != 0) {
            silences.push(silence(evidence.id, CLIENT_SILENT, evidence.app_seen_ms.filter(|_| app_silent)));
        }
    }
    if moves.is_empty() && silences.is_empty() {
        return Ok(());
    }
    change!(app, Class::Background, |conn, moment| {
        let moved = liveness::advance(conn, &moves, moment.now_ms).await;
        match moved {
            Ok(moved) => tell(conn, moment, &moves, &moved, silences.clone()).await,
            Err(error) => Err(error),
        }
    })
}

/// Whether the app of a device is silent by itself. Of a device that nothing comes from that is known already; it is judged anew when the
/// device is there again.
fn app_is_silent(evidence: &Evidence, judged: bool, to_state: &str, now_ms: i64) -> bool {
    let unheard = evidence.app_seen_ms.is_some_and(|seen_ms| now_ms - seen_ms >= ACTIVE_MS);
    let was = evidence.silences & liveness::APP_SILENT != 0;
    judged && unheard && (to_state == "active" || was)
}

/// A finding of silence that opens where nothing has been heard since `seen_ms`, and else closes.
fn silence(device_id: Id, kind: &'static str, seen_ms: Option<i64>) -> Change {
    let to = match seen_ms {
        Some(seen_ms) => To::Open { due_at_ms: seen_ms.saturating_add(ACTIVE_MS), detail: json!({"seen_ms": seen_ms}) },
        None => To::Closed { by: "contact".to_owned() },
    };
    Change { device_id, kind, subject: String::new(), to }
}

async fn tell(conn: &mut Conn, moment: &mut Moment, moves: &[Move], moved: &[Id], silences: Vec<Change>) -> Result<()> {
    let entry = |change: &Move| Entry {
        kind: "device.state",
        actor: None,
        device_id: Some(change.id),
        data: json!({"before": change.from_state, "after": change.to_state}),
    };
    let entries: Vec<Entry> = moves.iter().filter(|change| moved.contains(&change.id)).map(entry).collect();
    feed::append(conn, moment, &entries).await?;
    findings::apply(conn, moment, silences).await
}

#[cfg(test)]
mod tests;
