//! Retention: what has served its time is forgotten, in chunks that delay nobody. Calendar work calls [`pass`].

use crate::app::App;
use crate::error::Result;
use crate::model::BUCKETS;
use crate::ops::findings::DAY_MS;
use crate::ops::settle;
use crate::store::{Class, Conn, alarms, events, feed, findings, mail, meta, retention as store, webhooks};

const LEASE: &str = "retention";
/// Longer than a chunk takes; renewed with each.
const LEASE_MS: i64 = 60_000;
/// Rows forgotten in one transaction.
const ROWS_MAX: i64 = 500;
/// Events are known again, as duplicates, for at least this time.
const EVENTS_DAYS_MIN: i64 = 30;
/// A used or lapsed sign-in link can be looked into for this time.
const SIGN_IN_LINKS_DAYS: i64 = 7;
/// What became of a delivery to a webhook, or of a mail, can be looked into, and be sent again, for this time.
const DELIVERIES_DAYS: i64 = 30;

/// An unused token of one device goes so long after the one that it was derived from has ended.
const DERIVED_TOKENS_DAYS: i64 = 30;

/// What is forgotten; those of devices go bucket by bucket, along their primary keys.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Tasks,
    Jobs,
    Events,
    Findings,
    Contacts,
    Funnel,
    Feed,
    Alarms,
    Sessions,
    SignInLinks,
    Idempotency,
    Challenges,
    DerivedTokens,
    Deliveries,
    Mail,
}

const KINDS: [Kind; 15] = [
    Kind::Tasks,
    Kind::Jobs,
    Kind::Events,
    Kind::Findings,
    Kind::Contacts,
    Kind::Funnel,
    Kind::Feed,
    Kind::Alarms,
    Kind::Sessions,
    Kind::SignInLinks,
    Kind::Idempotency,
    Kind::Challenges,
    Kind::DerivedTokens,
    Kind::Deliveries,
    Kind::Mail,
];

/// Forgets all that is older than `[retention]` says; answers how many rows. Does nothing while another process is at it.
pub async fn pass(app: &App) -> Result<u64> {
    let mut forgotten = 0;
    for kind in KINDS {
        let buckets = if matches!(kind, Kind::Tasks | Kind::Findings | Kind::Contacts) { BUCKETS } else { 1 };
        for bucket in 0..buckets {
            loop {
                let now_ms = app.clock.now_ms();
                let mut conn = app.db.begin(Class::Background).await?;
                if !meta::take_lease(&mut conn, LEASE, &app.process, now_ms, now_ms + LEASE_MS).await? {
                    return Ok(forgotten);
                }
                let rows = chunk(app, &mut conn, kind, bucket, now_ms).await?;
                conn.commit().await?;
                forgotten += rows;
                if rows == 0 {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
    let mut conn = app.db.begin(Class::Background).await?;
    meta::drop_lease(&mut conn, LEASE, &app.process).await?;
    conn.commit().await?;
    Ok(forgotten)
}

async fn chunk(app: &App, conn: &mut Conn, kind: Kind, bucket: i64, now_ms: i64) -> Result<u64> {
    let keep = &app.config.retention;
    let before = |days: i64| now_ms - days.saturating_mul(DAY_MS);
    let events_days = keep.events_days.max(EVENTS_DAYS_MIN);
    match kind {
        Kind::Tasks => store::tasks(conn, bucket, before(keep.tasks_days), ROWS_MAX).await,
        Kind::Jobs => store::jobs(conn, before(keep.tasks_days), ROWS_MAX).await,
        Kind::Events => events::forget(conn, before(events_days), ROWS_MAX).await,
        Kind::Findings => findings::forget(conn, bucket, before(events_days), ROWS_MAX).await,
        Kind::Contacts => store::contacts(conn, bucket, before(keep.contacts_days), ROWS_MAX).await,
        Kind::Funnel => store::funnel(conn, before(keep.contacts_days), ROWS_MAX).await,
        Kind::Feed => feed::forget(conn, before(keep.feed_days), ROWS_MAX).await,
        Kind::Alarms => alarms::forget(conn, before(keep.feed_days), ROWS_MAX).await,
        Kind::Sessions => store::sessions(conn, now_ms, ROWS_MAX).await,
        Kind::SignInLinks => store::sign_in_links(conn, before(SIGN_IN_LINKS_DAYS), ROWS_MAX).await,
        Kind::Idempotency => store::idempotency(conn, now_ms, ROWS_MAX).await,
        Kind::Challenges => store::challenges(conn, now_ms, ROWS_MAX).await,
        Kind::DerivedTokens => settle::forget_unused(conn, before(DERIVED_TOKENS_DAYS), now_ms, ROWS_MAX).await,
        Kind::Deliveries => webhooks::forget(conn, before(DELIVERIES_DAYS), ROWS_MAX).await,
        Kind::Mail => mail::forget(conn, before(DELIVERIES_DAYS), ROWS_MAX).await,
    }
}

#[cfg(test)]
mod tests;
