//! The sequencer: one process at a time gives committed feed entries their numbers, so that no reader ever passes one by.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Pulse, tick};
use crate::app::App;
use crate::error::Result;
use crate::store::{Class, feed, meta};

/// What somebody sees live may be so late.
const PULSE: Pulse = Pulse { tick: Duration::from_millis(200), rest: Duration::from_millis(50) };
/// Entries numbered in one transaction.
const ROWS_MAX: i64 = 500;
/// A process that has died is followed by another after this time.
const LEASE_MS: i64 = 5_000;
const LEASE: &str = "sequencer";

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    tick(&app, LEASE, PULSE, Some(&app.bells.feed), &stop, || pass(&app)).await;
    let mut conn = app.db.begin(Class::Background).await?;
    meta::drop_lease(&mut conn, LEASE, &app.process).await?;
    conn.commit().await
}

/// Numbers one chunk; true where another may wait. The lease's row is locked until the commit, so even a holder whose lease has run
/// out meanwhile cannot number beside its successor.
pub async fn pass(app: &App) -> Result<bool> {
    if !feed::any_waiting(&mut app.db.read().await?).await? {
        // Whoever numbered it: a process that had the lease once does not go on showing what waited then.
        metrics::gauge!("muster_feed_unsequenced").set(0.0);
        return Ok(false);
    }
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.begin(Class::Background).await?;
    if !meta::take_lease(&mut conn, LEASE, &app.process, now_ms, now_ms + LEASE_MS).await? {
        return Ok(false);
    }
    let numbered = feed::number(&mut conn, ROWS_MAX).await?;
    conn.commit().await?;
    app.feed_tail.ring();
    let more = i64::try_from(numbered).is_ok_and(|numbered| numbered == ROWS_MAX);
    let left = if more { feed::waiting_count(&mut app.db.read().await?).await? } else { 0 };
    metrics::gauge!("muster_feed_unsequenced").set(left as f64);
    Ok(more)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64};

    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::store::feed::{Entry, Reading};
    use crate::store::testing::each_database;
    use crate::work::feed_tail;
    use crate::{change, store};

    fn entry(n: i64) -> Entry {
        Entry { kind: "test.told", actor: None, device_id: None, data: json!(n) }
    }

    async fn read_all(app: &App, after: &mut i64) -> Vec<i64> {
        let reading = Reading { after: *after, rows_max: 1000, ..Reading::default() };
        let read = feed::read(&mut app.db.read().await.unwrap(), &reading).await.unwrap();
        *after = read.read_to;
        read.rows.iter().map(|row| row.data.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_entry_that_is_committed_late_is_never_passed_by() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 1);
            let app = App::for_tests(&db, &clock);
            let mut after = 0;
            if db.dialect() == store::Dialect::Postgres {
                // Its id is older than that of what is committed and read before it.
                let mut slow = db.begin(Class::Operators).await.unwrap();
                feed::append(&mut slow, &mut clock.moment(), &[entry(1)]).await.unwrap();
                clock.advance(1000);
                change!(app, Class::Operators, |conn, moment| feed::append(conn, moment, &[entry(2)]).await).unwrap();
                pass(&app).await.unwrap();
                assert_eq!(read_all(&app, &mut after).await, [2]);
                slow.commit().await.unwrap();
                pass(&app).await.unwrap();
                assert_eq!(read_all(&app, &mut after).await, [1]);
            }
            // Many writers, two sequencers, one reader: it gets everything once.
            let other = App::for_tests(&db, &clock);
            let done = AtomicBool::new(false);
            let write = async {
                let writers = (0..8_i64).map(|writer| {
                    let app = &app;
                    async move {
                        for n in 0..20 {
                            let told = [entry(1000 + writer * 100 + n), entry(9000)];
                            change!(app, Class::Operators, |conn, moment| feed::append(conn, moment, &told).await).unwrap();
                        }
                    }
                });
                futures_util::future::join_all(writers).await;
                done.store(true, std::sync::atomic::Ordering::SeqCst);
            };
            let number = async |app: &App| {
                loop {
                    let ending = done.load(std::sync::atomic::Ordering::SeqCst);
                    clock.advance(LEASE_MS);
                    while pass(app).await.unwrap() {}
                    if ending && !feed::any_waiting(&mut app.db.read().await.unwrap()).await.unwrap() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let read = async {
                let mut seen = Vec::new();
                while seen.len() < 320 {
                    seen.extend(read_all(&app, &mut after).await);
                    tokio::task::yield_now().await;
                }
                seen
            };
            let reading = tokio::time::timeout(Duration::from_secs(60), read);
            let ((), (), (), seen) = tokio::join!(write, number(&app), number(&other), reading);
            let mut seen = seen.unwrap();
            seen.sort_unstable();
            let once: Vec<i64> = (0..8).flat_map(|writer| (0..20).map(move |n| 1000 + writer * 100 + n)).collect();
            assert_eq!(seen[..160], once[..]);
            assert!(seen[160..].iter().all(|n| *n == 9000));
        })
        .await;
    }

    #[tokio::test]
    async fn entries_of_one_call_keep_their_order_and_reach_those_who_watch() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 2);
            let app = App::for_tests(&db, &clock);
            let told = AtomicI64::new(feed_tail::NOT_BEGUN);
            feed_tail::pass(&app, &told).await.unwrap();
            let mut watch = app.feed_tail.watch().unwrap();
            let entries: Vec<Entry> = (0..1100).map(entry).collect();
            change!(app, Class::Operators, |conn, moment| feed::append(conn, moment, &entries).await).unwrap();
            while pass(&app).await.unwrap() {}
            while feed_tail::pass(&app, &told).await.unwrap() {}
            for n in 0..1100 {
                let entry = watch.entries.try_recv().unwrap();
                assert_eq!((entry.seq, entry.data.as_str()), (n + 1, n.to_string().as_str()));
            }
        })
        .await;
    }
}
