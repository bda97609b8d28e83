//! Calls a device for each canary that is due, and watches what comes of it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::change;
use crate::error::Result;
use crate::ops::canary;
use crate::store::{Class, canary as kept};

const PULSE: Pulse = Pulse { tick: Duration::from_secs(1), rest: Duration::ZERO };

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, "canary", PULSE, None, &stop, || async { pass(&app).await.map(|()| false) }).await;
    Ok(())
}

/// One look. Costs one read of a table with a row a sender where nothing is under way.
pub async fn pass(app: &App) -> Result<()> {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    for row in kept::list(&mut conn).await? {
        match (row.state.as_str(), row.channel_id) {
            ("waiting", _) if row.starts_at_ms <= now_ms => {
                change!(app, Class::Operators, |conn, moment| canary::begin(conn, moment, &row).await)?;
            }
            ("watched", Some(channel)) => {
                let fault = kept::fault_since(&mut conn, &row.sender, row.called_at_ms.unwrap_or(now_ms)).await?;
                let looked = canary::look(&row, kept::seen(&mut conn, channel).await?.as_ref(), fault, now_ms);
                if looked.state != row.state || looked.answer != row.answer || looked.contact_at_ms != row.contact_at_ms {
                    change!(app, Class::Operators, |conn, moment| canary::watch(conn, moment, &looked).await)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
