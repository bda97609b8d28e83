//! Writes SQLite's log back into the file, so that the writer does not have to.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::error::Result;
use crate::store::Dialect;

/// A busy writer fills some thousand pages a second.
const PULSE: Pulse = Pulse { tick: Duration::from_millis(100), rest: Duration::from_millis(100) };

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    match app.db.dialect() {
        Dialect::Postgres => stop.cancelled().await,
        Dialect::Sqlite => {
            tick(&app, "checkpoints", PULSE, None, &stop, || async {
                app.db.write_back(app.room.out_since_ms().is_some()).await.map(|_| false)
            })
            .await
        }
    }
    Ok(())
}
