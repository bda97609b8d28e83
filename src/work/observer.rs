//! Looks at the schedule and the fleet's counts every few seconds for the gauges, and writes the funnel's counts away. Reads by index alone,
//! without a lease: every process shows the same, whichever of them counted the fleet.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::change;
use crate::error::Result;
use crate::model::Lane;
use crate::store::feed::{self, Entry};
use crate::store::gauges::Depth;
use crate::store::{Class, alarms, funnel, gauges};
use crate::telemetry;

/// The states that a device can be in, and a push address.
const DEVICE_STATES: [&str; 6] = ["expected", "pending_approval", "active", "idle", "silent", "unmanaged"];
const TOKEN_STATES: [&str; 3] = ["active", "quarantined", "dead"];

const PULSE: Pulse = Pulse { tick: Duration::from_secs(15), rest: Duration::ZERO };

/// Runs until `stop`; what is counted then is written before it ends.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, "observer", PULSE, None, &stop, || async { pass(&app).await.map(|()| false) }).await;
    // A database that is gone at the end costs the counts since the last look, no more.
    let (counts, refusals) = (flush(&app).await, sum_up(&app, true).await);
    counts.and(refusals).or(Ok(()))
}

/// One look.
pub async fn pass(app: &App) -> Result<()> {
    // What histograms were given since the last look is one entry each until it is folded: nobody may ever read the metrics.
    telemetry::metrics().run_upkeep();
    flush(app).await?;
    sum_up(app, false).await?;
    look(app).await
}

/// Writes the funnel's counts away; where the database refuses, they are counted again.
async fn flush(app: &App) -> Result<()> {
    let taken = app.funnel.take();
    if taken.is_empty() {
        return Ok(());
    }
    let written = write(app, &taken.iter().map(|(stage, n)| (stage.name(), *n)).collect::<Vec<_>>()).await;
    if written.is_err() {
        taken.iter().for_each(|(stage, n)| app.funnel.add(*stage, *n));
    }
    written
}

async fn write(app: &App, counts: &[(&'static str, i64)]) -> Result<()> {
    let mut conn = app.db.begin(Class::Background).await?;
    funnel::add(&mut conn, &app.process, counts, app.clock.now_ms()).await?;
    conn.commit().await
}

/// Refused activations beyond what is told one by one get one entry an address and minute.
async fn sum_up(app: &App, everything: bool) -> Result<()> {
    let summaries = app.refusals.take(app.clock.now_ms(), everything);
    if summaries.is_empty() {
        return Ok(());
    }
    let entries: Vec<Entry> = summaries
        .iter()
        .map(|summary| Entry {
            kind: "activation.refused_often",
            actor: Some(format!("remote:{}", summary.remote)),
            device_id: None,
            data: json!({"remote": summary.remote, "count": summary.count(), "codes": summary.codes, "since_ms": summary.since_ms}),
        })
        .collect();
    change!(app, Class::Background, |conn, moment| feed::append(conn, moment, &entries).await)
}

async fn look(app: &App) -> Result<()> {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    for sender in &app.senders.all() {
        let depths: Vec<Depth> = gauges::depths(&mut conn, sender.name(), now_ms).await?;
        for lane in Lane::ALL {
            let due = depths.iter().find(|depth| depth.lane == lane);
            let oldest_ms = due.and_then(|depth| depth.oldest_ms).unwrap_or(now_ms);
            let labels = [("provider", sender.name().to_owned()), ("lane", lane.name().to_owned())];
            metrics::gauge!("muster_queue_depth", &labels).set(due.map_or(0, |depth| depth.wakes) as f64);
            metrics::gauge!("muster_queue_oldest_seconds", &labels).set((now_ms - oldest_ms) as f64 / 1000.0);
        }
    }
    let expected = gauges::expected(&mut conn).await?;
    metrics::gauge!("muster_armed_devices").set(expected.armed as f64);
    metrics::gauge!("muster_overdue_devices").set(expected.overdue as f64);
    metrics::gauge!("muster_stale_devices").set(gauges::stale(&mut conn).await? as f64);
    let fleet = gauges::fleet(&mut conn).await?;
    for state in DEVICE_STATES {
        metrics::gauge!("muster_devices", "state" => state).set(fleet.devices.get(state).copied().unwrap_or(0) as f64);
    }
    for state in TOKEN_STATES {
        metrics::gauge!("muster_tokens", "state" => state).set(fleet.tokens.get(state).copied().unwrap_or(0) as f64);
    }
    metrics::gauge!("muster_alarms_open").set(alarms::open_count(&mut conn).await? as f64);
    metrics::gauge!("muster_intake_backlog").set(app.intake.backlog() as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::clock::Clock;
    use crate::ops::alarms as told;
    use crate::store::testing::each_database;
    use crate::store::testing::fleet::fleet;
    use crate::work::clocks;

    const START_MS: i64 = 1_800_000_000_000;

    #[tokio::test]
    async fn every_process_shows_the_fleet_whoever_counted_it() {
        each_database(async |db| {
            let clock = Clock::moved(START_MS, 3);
            let (counting, other) = (App::for_tests(&db, &clock), App::for_tests(&db, &clock));
            fleet(&db, &clock, 3, 2).await;
            change!(counting, Class::Background, |conn, moment| told::open(conn, moment, "mail_failing", "x", "y").await).unwrap();
            clocks::pass(&counting).await.unwrap();
            // What the other process shows, and nobody else.
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            {
                let _shown = metrics::set_default_local_recorder(&recorder);
                clocks::pass(&other).await.unwrap();
                look(&other).await.unwrap();
            }
            let shown = handle.render();
            for line in [
                "muster_devices{state=\"active\"} 5",
                "muster_devices{state=\"idle\"} 0",
                "muster_tokens{state=\"active\"} 5",
                "muster_alarms_open 1",
            ] {
                assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
            }
        })
        .await;
    }
}
