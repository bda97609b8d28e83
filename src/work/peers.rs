//! Servers that share a database share FCM's quota too, which is the project's and not a server's. Each says that it is there, and counts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::change;
use crate::error::Result;
use crate::store::{Class, meta};
use crate::telemetry::Seldom;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A server that has not said for so long that it is there is gone.
const LIVES_MS: i64 = 20_000;

/// Runs until `stop`; then the others have this server's part.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    loop {
        if let Err(error) = pass(&app).await {
            static TOLD: Seldom = Seldom::new();
            if TOLD.is_time() {
                tracing::warn!(%error, "the servers on this database cannot be counted; trying again");
            }
        }
        if tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_ok() {
            // Where the database is away this server's time runs out by itself.
            change!(app, Class::Background, |conn, _moment| meta::left(conn, &app.process).await).ok();
            return Ok(());
        }
    }
}

/// Says that this server is there, counts those that are, and gives its senders their part.
pub async fn pass(app: &App) -> Result<()> {
    let servers = change!(app, Class::Background, |conn, moment| meta::present(conn, &app.process, moment.now_ms, LIVES_MS).await)?;
    metrics::gauge!("muster_servers").set(f64::from(servers));
    for sender in app.senders.all() {
        sender.share_quota(servers);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::push::{Sender, fcm};
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn the_quota_is_divided_among_those_that_are_there_and_whole_again_when_they_are_not() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 1);
            let server = || {
                let sender = Arc::new(Sender::fcm(fcm::Settings::default(), clock.clone()).unwrap());
                (App::for_tests_with(&db, &clock, vec![sender.clone()]).0, sender)
            };
            let ((one, of_one), (other, of_other)) = (server(), server());
            for app in [&one, &other, &one] {
                pass(app).await.unwrap();
            }
            assert_eq!((of_one.status().quota_per_s, of_other.status().quota_per_s), (4_000, 4_000));
            // The other is killed: its part is free when it has not been heard of for long enough.
            clock.advance(LIVES_MS);
            pass(&one).await.unwrap();
            assert_eq!(of_one.status().quota_per_s, 8_000);
            // It comes back, and goes in order.
            pass(&other).await.unwrap();
            pass(&one).await.unwrap();
            assert_eq!(of_one.status().quota_per_s, 4_000);
            let stop = CancellationToken::new();
            stop.cancel();
            run(other, stop).await.unwrap();
            pass(&one).await.unwrap();
            assert_eq!(of_one.status().quota_per_s, 8_000);
        })
        .await;
    }
}
