//! Loops around a public `pass`: each is woken by a bell, with a tick as fallback; twice does no harm.

pub mod background;
pub mod calendar;
pub mod canary;
pub mod checkpoints;
pub mod clocks;
pub mod credential_files;
pub mod credentials;
pub mod expiry;
pub mod feed_tail;
pub mod headroom;
pub mod mail;
pub mod nudger;
pub mod observer;
pub mod peers;
pub mod retention;
pub mod room;
pub mod sequencer;
pub mod statistics;
pub mod webhooks;

use std::future::Future;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Workers};
use crate::error::Result;
use crate::store::Dialect;

/// How often a worker looks for work.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// Without a bell it looks again after this time.
    pub tick: Duration,
    /// After a pass it hears no bell for so long: under load one pass serves the bells of many commits.
    pub rest: Duration,
}

/// Calls `pass` again and again until `stop`: at once while there is more to do, else after `bell` or the tick of `pulse`.
/// A pass that fails (the database is away) is tried again at the next tick.
pub async fn tick<F: Future<Output = Result<bool>>>(
    app: &App,
    name: &'static str,
    pulse: Pulse,
    bell: Option<&Notify>,
    stop: &CancellationToken,
    mut pass: impl FnMut() -> F,
) {
    while !stop.is_cancelled() {
        let more = match pass().await {
            Ok(more) => more,
            Err(error) => {
                app.heed(&error);
                tracing::warn!(worker = name, %error, "a pass failed; trying again");
                false
            }
        };
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let rung = async {
            match bell {
                Some(bell) => bell.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::time::sleep(pulse.rest).await; rung.await } => {}
            () = tokio::time::sleep(pulse.tick) => {}
        }
    }
}

/// Starts every worker of a server process.
pub fn start(app: &App, stop: &CancellationToken, workers: &mut Workers) {
    workers.spawn("nudger", nudger::run(app.clone(), stop.clone()));
    workers.spawn("sequencer", sequencer::run(app.clone(), stop.clone()));
    workers.spawn("feed_tail", feed_tail::run(app.clone(), stop.clone()));
    workers.spawn("clocks", clocks::run(app.clone(), stop.clone()));
    workers.spawn("background", background::run(app.clone(), stop.clone()));
    workers.spawn("calendar", calendar::run(app.clone(), stop.clone()));
    workers.spawn("headroom", headroom::run(app.clone(), stop.clone()));
    match app.db.dialect() {
        Dialect::Sqlite => {
            // Two cannot be on one file.
            metrics::gauge!("muster_servers").set(1.0);
            workers.spawn("checkpoints", checkpoints::run(app.clone(), stop.clone()));
        }
        Dialect::Postgres => {
            workers.spawn("statistics", statistics::run(app.clone(), stop.clone()));
            workers.spawn("peers", peers::run(app.clone(), stop.clone()));
        }
    }
    workers.spawn("room", room::run(app.clone(), stop.clone()));
    workers.spawn("observer", observer::run(app.clone(), stop.clone()));
    workers.spawn("credentials", credentials::run(app.clone(), stop.clone()));
    workers.spawn("credential_files", credential_files::run(app.clone(), stop.clone()));
    workers.spawn("canary", canary::run(app.clone(), stop.clone()));
    workers.spawn("webhooks", webhooks::run(app.clone(), stop.clone()));
    workers.spawn("mail", mail::run(app.clone(), stop.clone()));
}
