//! A fleet that its provider knows: made, picked from, and waited for.

use std::time::{Duration, Instant};

use muster::clock::Clock;
use muster::model::Id;
use muster::sim::fcm::{PROJECT, StandIn};
use sqlx::{AnyConnection, Connection};

use crate::seed;
use crate::site::Phone;

/// A phase that takes longer is told as it stands.
pub const PHASE_MAX: Duration = Duration::from_secs(900);

/// Seeds phones and registers them with the provider.
pub async fn grow(url: &str, fcm: &StandIn, from: usize, to: usize) -> anyhow::Result<Vec<Id>> {
    let ids = seed::fleet(url, from, to).await?;
    for n in from..to {
        fcm.register_as(&seed::push(n), PROJECT, None);
    }
    Ok(ids)
}

/// So many phones, evenly from all over the fleet.
pub fn sample(fleet: &[Id], count: usize) -> Vec<Phone> {
    let step = (fleet.len() / count.max(1)).max(1);
    fleet.iter().enumerate().step_by(step).map(|(n, id)| Phone::seeded(n, *id)).collect()
}

/// Waits until no call is half an hour overdue: those that were have been spread over the period, or sent.
pub async fn settled(url: &str) -> anyhow::Result<()> {
    let (began, before_ms) = (Instant::now(), Clock::system().now_ms() - 1_800_000);
    while overdue(url, before_ms).await? > 0 && began.elapsed() < PHASE_MAX {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// How many calls are waiting that were due before this time, Unix milliseconds.
async fn overdue(url: &str, before_ms: i64) -> anyhow::Result<i64> {
    let mut conn = AnyConnection::connect(url).await?;
    let waiting = "SELECT COUNT(*) FROM wakes WHERE sender = 'fcm' AND lane = 4 AND due_at_ms < $1";
    Ok(sqlx::query_scalar(waiting).bind(before_ms).fetch_one(&mut conn).await?)
}

/// How many phones have something to fetch of which they have not been told: neither were they called since, nor did they come.
pub async fn untold(url: &str) -> anyhow::Result<i64> {
    seed::count(url, "SELECT COUNT(*) FROM wakes WHERE sender = 'fcm' AND open_work = 1 AND told_seq < work_seq").await
}
