//! Webhooks: the feed goes to endpoints, in its order and at least once; one process at a time delivers to each, by a lease.

mod post;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use post::{Outcome, Post, RootsError};

use crate::app::App;
use crate::change;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::Id;
use crate::ops::webhooks as ops;
use crate::push::retry_after;
use crate::store::feed::{self, FeedRow, Reading};
use crate::store::webhooks::{self as store, Attempted, DeliveryRow, WebhookRow};
use crate::store::{Class, Conn, meta};

const TICK: Duration = Duration::from_millis(200);
/// Passes between two counts of what waits.
const COUNT_EVERY: u32 = 50;
/// Endpoints that one process delivers to at the same time.
const ENDPOINTS_MAX: usize = 32;
/// An attempt takes twelve seconds at most; who holds the lease renews it before each.
const LEASE_MS: i64 = 60_000;
/// Deliveries made at once for an endpoint; no more wait in the table, however far behind it is.
const DELIVERIES_MAX: i64 = 100;
/// So many times as many entries are passed by in one step for an endpoint that wants none of them: ten thousand a second, more than a fleet
/// under bulk work makes.
const FILLS_MAX: usize = 20;
/// Waits between attempts, the last of them again and again; each is shortened by up to a fifth.
const BACKOFF_S: [i64; 8] = [5, 30, 300, 1800, 7200, 18_000, 28_800, 36_000];
/// An attempt after this time is not made: the delivery is dead, and the next one goes.
const GIVE_UP_MS: i64 = 3 * 86_400_000;
/// An endpoint that has failed for this time is disabled.
const DISABLE_MS: i64 = 5 * 86_400_000;
/// The longest wait that an endpoint can ask for.
const RETRY_AFTER_S_MAX: i64 = 86_400;
const GONE: u16 = 410;

/// Runs until `stop`; what is on the wire then is sent again later.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let post = Post::trusting(app.config.webhooks.ca_file.as_deref()).map_err(|error| Error::refused("ca_file", error.to_string()))?;
    let post = Arc::new(post);
    let mut busy = BTreeSet::new();
    let mut running: JoinSet<Id> = JoinSet::new();
    let mut passes = 0_u32;
    while !stop.is_cancelled() {
        while let Some(ended) = running.try_join_next() {
            match ended {
                Ok(id) => busy.remove(&id),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => false,
            };
        }
        match due(&app, passes.is_multiple_of(COUNT_EVERY)).await {
            Ok(found) => {
                for id in found {
                    if running.len() >= ENDPOINTS_MAX || !busy.insert(id) {
                        continue;
                    }
                    let (app, post, stop) = (app.clone(), post.clone(), stop.clone());
                    running.spawn(async move {
                        let delivering = tokio::select! {
                            done = endpoint(&app, &post, id) => done,
                            () = stop.cancelled() => Ok(()),
                        };
                        if let Err(error) = delivering {
                            tracing::warn!(webhook = %id, %error, "a webhook waits for the database");
                        }
                        id
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "webhooks cannot be looked for; trying again"),
        }
        passes = passes.wrapping_add(1);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
    while running.join_next().await.is_some() {}
    let mut conn = app.db.begin(Class::Background).await?;
    for id in busy {
        meta::drop_lease(&mut conn, &ops::lease(id), &app.process).await?;
    }
    conn.commit().await
}

async fn due(app: &App, count: bool) -> Result<Vec<Id>> {
    let mut conn = app.db.read().await?;
    if count {
        let (pending, failing) = store::counts(&mut conn).await?;
        metrics::gauge!("muster_webhook_pending").set(pending as f64);
        metrics::gauge!("muster_webhooks_failing").set(failing as f64);
    }
    store::due(&mut conn, &app.process, app.clock.now_ms(), ENDPOINTS_MAX as i64).await
}

/// What goes to an endpoint next.
struct Next {
    webhook: WebhookRow,
    delivery: DeliveryRow,
}

/// Delivers to one endpoint until nothing is due or another process has taken over.
pub async fn endpoint(app: &App, post: &Post, id: Id) -> Result<()> {
    let mut done: Option<(Next, Outcome)> = None;
    loop {
        let stepped = change!(app, Class::Background, |conn, moment| step(conn, moment, app, id, done.as_ref()).await)?;
        let Some(next) = stepped else { return Ok(()) };
        let now_ms = app.clock.now_ms();
        let headers = headers(app, &next, now_ms);
        let outcome = post.send(&next.webhook.url, &app.config.webhooks.allow, headers, next.delivery.body.clone()).await;
        done = Some((next, outcome));
    }
}

/// In one transaction: what the last attempt came to is stored, and what goes next is found. `None` where nothing is due or the lease
/// is another's, who then sends what is not stored once more.
async fn step(conn: &mut Conn, moment: &mut Moment, app: &App, id: Id, done: Option<&(Next, Outcome)>) -> Result<Option<Next>> {
    if !ops::hold(conn, id, &app.process, moment.now_ms, LEASE_MS).await? {
        return Ok(None);
    }
    let Some(mut webhook) = store::get(conn, id).await? else {
        meta::drop_lease(conn, &ops::lease(id), &app.process).await?;
        return Ok(None);
    };
    if let Some((next, outcome)) = done {
        settle(conn, moment, &webhook, &next.delivery, outcome).await?;
        match store::get(conn, id).await? {
            Some(row) => webhook = row,
            None => return Ok(None),
        }
    }
    if webhook.state == "enabled" && webhook.due_at_ms <= moment.now_ms {
        for _ in 0..=FILLS_MAX {
            if let Some(delivery) = store::head(conn, id).await? {
                return Ok(Some(Next { webhook, delivery }));
            }
            if !fill(conn, moment, &mut webhook).await? {
                break;
            }
        }
    }
    meta::drop_lease(conn, &ops::lease(id), &app.process).await?;
    Ok(None)
}

/// Makes the deliveries of the entries that follow; false where none followed.
async fn fill(conn: &mut Conn, moment: &Moment, webhook: &mut WebhookRow) -> Result<bool> {
    let (oldest, _) = feed::range(conn).await?;
    if webhook.read_to < oldest - 1 {
        tracing::warn!(webhook = %webhook.id, "entries that a webhook was not told of are no longer kept; it goes on with the oldest");
    }
    let after = if webhook.read_to < oldest - 1 { oldest - 1 } else { webhook.read_to };
    let read = feed::read(conn, &Reading { after, rows_max: DELIVERIES_MAX, ..Reading::default() }).await?;
    for entry in read.rows.iter().filter(|entry| ops::wants(&webhook.kinds, &entry.kind)) {
        store::insert_delivery(conn, webhook.id, entry, &body(entry), moment.now_ms).await?;
    }
    store::advance(conn, webhook.id, webhook.read_to, read.read_to).await?;
    webhook.read_to = read.read_to;
    Ok(!read.rows.is_empty())
}

/// The body of Standard Webhooks: `{"type", "timestamp", "data"}`; data is the entry's, with its device and who did it.
fn body(entry: &FeedRow) -> String {
    let mut data = match serde_json::from_str(&entry.data) {
        Ok(Value::Object(members)) => members,
        Ok(other) => serde_json::Map::from_iter([("value".to_owned(), other)]),
        Err(_) => serde_json::Map::new(),
    };
    data.entry("device_id").or_insert_with(|| json!(entry.device_id));
    data.entry("actor").or_insert_with(|| json!(entry.actor));
    let at = DateTime::from_timestamp_millis(entry.at_ms).unwrap_or_default();
    json!({"type": entry.kind, "timestamp": at.to_rfc3339_opts(SecondsFormat::Millis, true), "data": data}).to_string()
}

fn headers(app: &App, next: &Next, now_ms: i64) -> HeaderMap {
    let (id, timestamp_s) = (next.delivery.id.to_string(), now_ms / 1000);
    let signature = ops::signature(&app.seal, &next.webhook, &id, timestamp_s, &next.delivery.body, now_ms);
    let mut headers = HeaderMap::new();
    for (name, value) in [("webhook-id", id), ("webhook-timestamp", timestamp_s.to_string()), ("webhook-signature", signature)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Stores what an attempt came to and when the endpoint is next tried.
async fn settle(conn: &mut Conn, moment: &mut Moment, webhook: &WebhookRow, delivery: &DeliveryRow, outcome: &Outcome) -> Result<()> {
    let now_ms = moment.now_ms;
    let status = outcome.status.map(i64::from);
    let answer = outcome.answer.clone();
    if outcome.status.is_some_and(|status| (200..300).contains(&status)) {
        metrics::counter!("muster_webhook_deliveries_total", "outcome" => "delivered").increment(1);
        let made = Attempted { state: "delivered", now_ms, next_attempt_at_ms: None, status, answer };
        store::attempted(conn, webhook.id, delivery.seq, &made).await?;
        return store::set_due(conn, webhook.id, 0, None).await;
    }
    let failing_since_ms = webhook.failing_since_ms.unwrap_or(now_ms);
    let next_ms = now_ms + wait_ms(moment, delivery.attempts, outcome.retry_after.as_deref());
    let dead = next_ms > delivery.first_attempt_at_ms.unwrap_or(now_ms) + GIVE_UP_MS;
    let (state, next_attempt_at_ms) = if dead { ("dead", None) } else { ("pending", Some(next_ms)) };
    metrics::counter!("muster_webhook_deliveries_total", "outcome" => if dead { "dead" } else { "failed" }).increment(1);
    store::attempted(conn, webhook.id, delivery.seq, &Attempted { state, now_ms, next_attempt_at_ms, status, answer }).await?;
    store::set_due(conn, webhook.id, next_attempt_at_ms.unwrap_or(0), Some(failing_since_ms)).await?;
    if outcome.status == Some(GONE) {
        ops::disable(conn, moment, webhook, "it answered 410: it is gone for good").await?;
    } else if now_ms - failing_since_ms >= DISABLE_MS {
        ops::disable(conn, moment, webhook, "every attempt of the last five days has failed").await?;
    }
    Ok(())
}

/// How long to wait after the `attempts`-th further attempt that failed, with jitter; what the endpoint asks for wins if it is longer.
fn wait_ms(moment: &mut Moment, attempts: i64, retry_after: Option<&str>) -> i64 {
    let step = usize::try_from(attempts).unwrap_or(0).min(BACKOFF_S.len() - 1);
    let whole_ms = BACKOFF_S[step] * 1000;
    let asked_s = retry_after.and_then(|value| retry_after::seconds(value, moment.now_ms)).unwrap_or(0);
    let asked_ms = asked_s.clamp(0, RETRY_AFTER_S_MAX) * 1000;
    (whole_ms - moment.below(whole_ms / 5)).max(asked_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Actor;
    use crate::store::feed::Entry;
    use crate::store::testing::each_database;

    #[tokio::test]
    async fn what_an_endpoint_does_not_want_is_passed_by_in_one_step() {
        each_database(async |db| {
            let clock = crate::clock::Clock::moved(1_800_000_000_000, 8);
            let app = App::for_tests(&db, &clock);
            let entry = |kind: &'static str| Entry { kind, actor: None, device_id: None, data: json!({}) };
            let mut entries: Vec<Entry> = (0..1_500).map(|_| entry("task.done")).collect();
            entries.push(entry("user.created"));
            let kinds = ["user.created".to_owned()];
            let (mut conn, mut moment) = (db.begin(Class::Operators).await.unwrap(), clock.moment());
            let made = ops::create(&mut conn, &mut moment, &Actor::server(), &app.seal, "https://hooks.example.org/", &kinds).await;
            let id = made.unwrap().id;
            feed::append(&mut conn, &mut moment, &entries).await.unwrap();
            while feed::number(&mut conn, 1_000).await.unwrap() > 0 {}
            conn.commit().await.unwrap();
            let next = change!(app, Class::Background, |conn, moment| step(conn, moment, &app, id, None).await).unwrap();
            assert_eq!(next.unwrap().delivery.kind, "user.created");
        })
        .await;
    }

    #[test]
    fn an_endpoint_asks_for_its_wait_in_seconds_or_by_a_date() {
        let mut moment = Moment::fixed(1_700_000_000_000, 1); // Tue, 14 Nov 2023 22:13:20 GMT
        for (asked, from_ms, to_ms) in [
            (None, 4_000, 5_000),
            (Some("soon"), 4_000, 5_000),
            (Some("2"), 4_000, 5_000),
            (Some("600"), 600_000, 600_000),
            (Some("Tue, 14 Nov 2023 22:23:20 GMT"), 600_000, 600_000),
            (Some("Tue, 14 Nov 2023 22:03:20 GMT"), 4_000, 5_000),
            (Some("Mon, 14 Nov 2033 22:00:00 GMT"), RETRY_AFTER_S_MAX * 1000, RETRY_AFTER_S_MAX * 1000),
            (Some("99999999999999999999999"), RETRY_AFTER_S_MAX * 1000, RETRY_AFTER_S_MAX * 1000),
        ] {
            let wait_ms = wait_ms(&mut moment, 0, asked);
            assert!((from_ms..=to_ms).contains(&wait_ms), "{asked:?}: {wait_ms}");
        }
    }
}
