//! Housekeeping by the calendar: retention, certificates that end, addresses whose quarantine is over. The nudge schedule is no calendar job.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use super::{credentials, expiry, nudger, retention};
use crate::app::App;
use crate::error::Result;

/// Every ten minutes, in UTC; each run takes away a bounded number of rows.
const RETENTION: &str = "0 */10 * * * *";
/// Every hour.
const EXPIRY: &str = "15 7 * * * *";
/// Every five minutes.
const QUARANTINE: &str = "30 */5 * * * *";

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    match schedule(&app, &stop).await {
        Ok(mut scheduler) => {
            stop.cancelled().await;
            scheduler.shutdown().await.ok();
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "the calendar cannot start");
            Err(crate::error::Error::NotFound("calendar"))
        }
    }
}

async fn schedule(app: &App, stop: &CancellationToken) -> std::result::Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    scheduler.add(alone(RETENTION, app, stop, forget)?).await?;
    scheduler.add(alone(EXPIRY, app, stop, tell_of_ends)?).await?;
    scheduler.add(alone(QUARANTINE, app, stop, release)?).await?;
    scheduler.start().await?;
    Ok(scheduler)
}

/// The scheduler starts a run whether or not the one before has ended: each job guards itself, and the passes take their leases. A run that the
/// server's end finds under way is given up; the next one goes on from its last commit.
fn alone<F>(when: &str, app: &App, stop: &CancellationToken, work: fn(App) -> F) -> std::result::Result<Job, JobSchedulerError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (guard, app, stop) = (Arc::new(Mutex::new(())), app.clone(), stop.clone());
    Job::new_async(when, move |_, _| {
        let (guard, app, stop) = (guard.clone(), app.clone(), stop.clone());
        Box::pin(async move {
            if let Ok(_alone) = guard.try_lock() {
                stop.run_until_cancelled(work(app)).await;
            }
        })
    })
}

async fn forget(app: App) {
    match retention::pass(&app).await {
        Ok(rows) => tracing::debug!(rows, "retention"),
        Err(error) => tracing::warn!(%error, "retention failed; the next run goes on"),
    }
}

async fn tell_of_ends(app: App) {
    if let Err(error) = expiry::quiet(&app).await {
        tracing::warn!(%error, "alarms whose cause is over cannot be closed; the next run goes on");
    }
    if let Err(error) = expiry::pass(&app).await {
        tracing::warn!(%error, "the ends of certificates cannot be told; the next run goes on");
    }
    if let Err(error) = credentials::topics(&app, true).await {
        tracing::warn!(%error, "topics without a credential cannot be looked up; the next run goes on");
    }
}

async fn release(app: App) {
    if let Err(error) = nudger::release_quarantined(&app).await {
        tracing::warn!(%error, "quarantined push addresses cannot be released; the next run goes on");
    }
}
