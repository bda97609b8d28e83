//! Keeps PostgreSQL's statistics up with tables that grow fast.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::error::Result;

/// A fleet that enrolls in one go gains some hundred devices in that time.
const PULSE: Pulse = Pulse { tick: Duration::from_secs(1), rest: Duration::from_secs(1) };

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, "statistics", PULSE, None, &stop, || pass(&app)).await;
    Ok(())
}

async fn pass(app: &App) -> Result<bool> {
    for table in app.db.analyze_doubled().await? {
        tracing::debug!(table, "analyzed: it has doubled");
    }
    Ok(false)
}
