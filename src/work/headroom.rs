//! Lets the senders use as much of their pace as the server has room for. Phones that are called come in; where they come faster than they
//! can be answered, calling more of them makes all wait. Apple's clients heed no `Retry-After`, so the pace is what must give way.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Result;

/// How often it is looked how late a timer rings: what keeps the processors busy, handshakes above all, keeps it waiting too.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_A_SECOND: u32 = 10;
/// Contacts that wait longer than this are too many where they are more than one in twenty, in milliseconds: half of what an operator accepts
/// of the slowest hundredth.
const WAIT_MS_MAX: u64 = 128;

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    loop {
        for _ in 0..LOOKS_A_SECOND {
            let began = Instant::now();
            if tokio::time::timeout(LOOK, stop.cancelled()).await.is_ok() {
                return Ok(());
            }
            app.intake.headroom().timer(began.elapsed().saturating_sub(LOOK));
        }
        pass(&app);
    }
}

/// Gives each sender the share of the second that begins.
pub fn pass(app: &App) {
    let share = app.intake.headroom().judge(WAIT_MS_MAX);
    metrics::gauge!("muster_headroom_ratio").set(f64::from(share) / 1_000.0);
    for sender in app.senders.all() {
        sender.set_headroom(share);
    }
}
