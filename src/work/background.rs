//! What is done in chunks behind the operators' backs: jobs expanded, cancelled and ordered again, sets moved, counts folded, tasks expired.

mod chunks;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::chunks::{Chunks, Work};
use super::{Pulse, tick};
use crate::app::{App, Stage};
use crate::change;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{BULK_ABOVE, Lane};
use crate::ops::{jobs as job_ops, settle, tasks as task_ops};
use crate::store::{Class, Conn, labels, meta, stacks, tallies};

/// Counts are exact without it and chunks follow each other without rest, so it may let many commits gather.
const PULSE: Pulse = Pulse { tick: Duration::from_millis(200), rest: Duration::from_millis(100) };
/// Chunks of a job or of a moving set between two looks at what else waits.
const CHUNKS_A_PASS: usize = 8;
const LEASE_MS: i64 = 15_000;
/// Jobs whose waiting ends in one transaction.
const WAITED_MAX: usize = 100;

/// A transaction of the background; evaluates to what came of it and to when its work began, which is not when it began to wait for its turn.
macro_rules! timed {
    ($app:expr, |$conn:ident, $moment:ident| $work:expr) => {{
        let mut began = Instant::now();
        let done = change!($app, Class::Background, |$conn, $moment| {
            began = Instant::now();
            $work
        });
        done.map(|done| (done, began))
    }};
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let chunks = Chunks::of(&app);
    tick(&app, "background", PULSE, Some(&app.bells.background), &stop, || some(&app, &chunks)).await;
    Ok(())
}

/// One chunk of everything that waits; true where more does. One process at a time, by lease.
pub async fn pass(app: &App) -> Result<bool> {
    some(app, &Chunks::of(app)).await
}

async fn some(app: &App, chunks: &Chunks) -> Result<bool> {
    let waiting = meta::waiting(&mut app.db.read().await?, app.clock.now_ms()).await?;
    if !waiting.anything() || !take_lease(app).await? {
        return Ok(false);
    }
    // One that fails must not keep the others waiting: each is tried, and the failure is told at the end.
    let mut outcomes = Vec::new();
    if waiting.walk {
        outcomes.push(walk(app, chunks).await);
    }
    if waiting.moving {
        outcomes.push(move_sets(app, chunks).await);
    }
    if waiting.gone {
        outcomes.push(sweep(app, chunks).await);
    }
    if waiting.unapproved {
        outcomes.push(expire_jobs(app).await);
    }
    if waiting.expired {
        outcomes.push(expire(app, chunks).await);
    }
    // What the others have counted is folded at once.
    outcomes.push(fold(app, chunks).await);
    let more = outcomes.iter().any(|outcome| matches!(outcome, Ok(true)));
    outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(more)
}

/// Taken without ringing the bells: whoever is refused would otherwise ring itself awake again and again. A lease that is young needs no
/// write: under load a pass comes ten times a second, and SQLite has one writer.
async fn take_lease(app: &App) -> Result<bool> {
    let now_ms = app.clock.now_ms();
    if meta::holds_lease(&mut app.db.read().await?, "background", &app.process, now_ms + LEASE_MS / 2).await? {
        return Ok(true);
    }
    let mut conn = app.db.begin(Class::Background).await?;
    let leased = meta::take_lease(&mut conn, "background", &app.process, now_ms, now_ms + LEASE_MS).await?;
    conn.commit().await?;
    Ok(leased)
}

/// A few chunks, each of the job whose turn it is then: its tasks are made, cancelled or ordered again.
async fn walk(app: &App, chunks: &Chunks) -> Result<bool> {
    for _ in 0..CHUNKS_A_PASS {
        let limit = chunks.rows(Work::Walk);
        let (more, began) = timed!(app, |conn, moment| job_ops::step(conn, moment, limit).await)?;
        if !more {
            return Ok(false);
        }
        chunks.measured(Work::Walk, began);
        chunks.rest(Work::Walk, began).await;
    }
    Ok(true)
}

/// A few chunks of one moving label set, each in a transaction of its own.
async fn move_sets(app: &App, chunks: &Chunks) -> Result<bool> {
    let mut conn = app.db.read().await?;
    let Some(set) = stacks::moving(&mut conn).await?.into_iter().next() else { return Ok(false) };
    let most = i64::try_from(BULK_ABOVE).unwrap_or(i64::MAX) + 1;
    let lane = if stacks::size(&mut conn, &set.id, most).await? == most { Lane::Bulk } else { Lane::Change };
    drop(conn);
    for _ in 0..CHUNKS_A_PASS {
        let rows = chunks.rows(Work::Move);
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        let (moved, began) = timed!(app, |conn, moment| settle::move_some(conn, moment, &set, limit, lane).await)?;
        app.funnel.add(Stage::Queued, i64::try_from(moved).unwrap_or(i64::MAX));
        if moved == rows {
            chunks.measured(Work::Move, began);
        }
        chunks.rest(Work::Move, began).await;
        if moved == 0 {
            change!(app, Class::Background, |conn, _moment| stacks::moved(conn, &set).await)?;
            break;
        }
    }
    Ok(true)
}

/// A chunk of the memberships that a deleted label has left.
async fn sweep(app: &App, chunks: &Chunks) -> Result<bool> {
    let limit = i64::try_from(chunks.rows(Work::Sweep)).unwrap_or(i64::MAX);
    let (more, began) = timed!(app, |conn, _moment| labels::sweep(conn, limit).await)?;
    chunks.measured(Work::Sweep, began);
    chunks.rest(Work::Sweep, began).await;
    Ok(more)
}

/// Jobs that waited for a second operator in vain.
async fn expire_jobs(app: &App) -> Result<bool> {
    let ended = change!(app, Class::Background, |conn, moment| job_ops::expire_waiting(conn, moment, WAITED_MAX).await)?;
    Ok(ended == WAITED_MAX)
}

/// A chunk of tasks whose time is over.
async fn expire(app: &App, chunks: &Chunks) -> Result<bool> {
    let rows = chunks.rows(Work::Expire);
    let limit = i64::try_from(rows).unwrap_or(i64::MAX);
    let (ended, began) = timed!(app, |conn, moment| task_ops::expire(conn, moment, limit).await)?;
    if ended == rows {
        chunks.measured(Work::Expire, began);
        chunks.rest(Work::Expire, began).await;
    }
    Ok(ended == rows)
}

/// A chunk of appended counts; jobs whose tasks are all final are done in the same transaction, or nobody would look at them again.
async fn fold(app: &App, chunks: &Chunks) -> Result<bool> {
    let limit = i64::try_from(chunks.rows(Work::Fold)).unwrap_or(i64::MAX);
    let ((more, queued), began) = timed!(app, |conn, moment| fold_some(conn, moment, limit).await)?;
    if more {
        chunks.measured(Work::Fold, began);
        chunks.rest(Work::Fold, began).await;
    }
    app.funnel.add(Stage::Queued, queued);
    Ok(more)
}

async fn fold_some(conn: &mut Conn, moment: &mut Moment, limit: i64) -> Result<(bool, i64)> {
    let folded = tallies::fold(conn, limit).await?;
    let jobs: BTreeSet<_> = folded.topics.iter().filter_map(|topic| job_ops::of_topic(topic)).collect();
    let mut more = folded.changes == limit;
    for job in jobs {
        more |= job_ops::close_if_done(conn, moment, job).await?;
    }
    Ok((more, folded.queued))
}

#[cfg(test)]
mod tests;
