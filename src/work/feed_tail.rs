//! Reads the end of the feed once for all streams of this process.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::error::Result;
use crate::store::feed::{self, Reading};

/// Other processes' numbering is seen at this pace.
const PULSE: Pulse = Pulse { tick: Duration::from_millis(200), rest: Duration::from_millis(20) };
const ROWS_MAX: i64 = 500;

/// Runs until `stop`, then ends all streams, so that they do not hold up the end of the process.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let told = AtomicI64::new(NOT_BEGUN);
    tick(&app, "feed_tail", PULSE, Some(app.feed_tail.bell()), &stop, || pass(&app, &told)).await;
    app.feed_tail.end();
    Ok(())
}

/// Before the first pass.
pub const NOT_BEGUN: i64 = -1;

/// Hands on what follows the entry `told`; true where there is more. The first pass only finds the end.
pub async fn pass(app: &App, told: &AtomicI64) -> Result<bool> {
    let mut conn = app.db.read().await?;
    let after = told.load(Ordering::Relaxed);
    if after == NOT_BEGUN {
        told.store(feed::range(&mut conn).await?.1, Ordering::Relaxed);
        return Ok(false);
    }
    let read = feed::read(&mut conn, &Reading { after, rows_max: ROWS_MAX, ..Reading::default() }).await?;
    for entry in read.rows {
        app.feed_tail.tell(entry);
    }
    told.store(read.read_to, Ordering::Relaxed);
    Ok(!read.at_end)
}
