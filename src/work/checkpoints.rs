//! Writes SQLite's log back into the file, so that the writer does not have to.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::error::Result;

/// A busy writer fills some thousand pages a second.
const PULSE: Pulse = Pulse { tick: Duration::from_millis(100), rest: Duration::from_millis(100) };

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, "checkpoints", PULSE, None, &stop, || pass(&app)).await;
    Ok(())
}

/// One look. On a full disk everything is written back that has its place in the file, so that the log can begin anew: nudges and answers
/// are small and go on in it.
async fn pass(app: &App) -> Result<bool> {
    match app.db.write_back(app.room.out_since_ms().is_some()).await {
        // The file had to grow, too; the room is watched elsewhere.
        Err(error) if error.is_full() => app.heed(&error),
        outcome => drop(outcome?),
    }
    Ok(false)
}
