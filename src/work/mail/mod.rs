//! Mail goes out: alarms that nobody was told of are queued, and what is queued is handed to the mail server, at least once.

mod post;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use post::{Failure, Post};

use super::{Pulse, tick};
use crate::app::App;
use crate::change;
use crate::error::Result;
use crate::model::Id;
use crate::ops::mail::{self as ops, Outbox};
use crate::store::{Class, alarms, mail};

const PULSE: Pulse = Pulse { tick: Duration::from_secs(1), rest: Duration::from_millis(200) };
/// Longer than an attempt takes: a mail that a dead process had taken is tried again after it.
const LEASE_MS: i64 = 60_000;
/// Mails of one pass, one after the other: a mail server is no place for a rush.
const MAILS_A_PASS: i64 = 20;

/// Runs until `stop`; what is on the wire then is sent again later.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let post = match Post::from_config(&app.config.mail) {
        Ok(Some(post)) => post,
        Ok(None) => {
            stop.cancelled().await;
            return Ok(());
        }
        Err(why) => {
            tracing::error!(why, "mail cannot be sent with these settings");
            stop.cancelled().await;
            return Ok(());
        }
    };
    let work = tick(&app, "mail", PULSE, Some(&app.bells.mail), &stop, || pass(&app, &post));
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Queues what is to be told, sends what is due; true where more waits.
pub async fn pass(app: &App, post: &Post) -> Result<bool> {
    tell_alarms(app).await?;
    let mut conn = app.db.read().await?;
    let due = mail::due(&mut conn, app.clock.now_ms(), MAILS_A_PASS).await?;
    metrics::gauge!("muster_mail_queued").set(mail::queued(&mut conn).await? as f64);
    drop(conn);
    let more = due.len() as i64 == MAILS_A_PASS;
    for id in due {
        send(app, post, id).await?;
    }
    Ok(more)
}

async fn tell_alarms(app: &App) -> Result<()> {
    let to = app.config.alarms.addresses();
    if to.is_empty() || !alarms::any_untold(&mut app.db.read().await?, ops::FAILING).await? {
        return Ok(());
    }
    let outbox = Outbox { seal: &app.seal, is_set_up: app.config.mail.is_set_up(), public_url: &app.config.public_url };
    change!(app, Class::Background, |conn, moment| ops::tell_alarms(conn, moment, outbox, &to).await).map(drop)
}

async fn send(app: &App, post: &Post, id: Id) -> Result<()> {
    let now_ms = app.clock.now_ms();
    let claimed = change!(app, Class::Background, |conn, _moment| mail::claim(conn, id, now_ms, now_ms + LEASE_MS).await)?;
    let Some(row) = claimed else { return Ok(()) };
    let outcome = match ops::text_of(&app.seal, &row) {
        Some(text) => post.send(id, &row.recipient, &row.subject, text).await,
        None => Err(Failure { why: "its text cannot be opened with this master key".into(), for_good: true }),
    };
    let label = if outcome.is_ok() { "sent" } else { "failed" };
    metrics::counter!("muster_mail_attempts_total", "outcome" => label).increment(1);
    if let Err(failure) = &outcome {
        tracing::warn!(mail = %id, why = failure.why, "a mail was not taken");
    }
    change!(app, Class::Background, |conn, moment| match &outcome {
        Ok(()) => ops::sent(conn, moment, &row).await,
        Err(failure) => ops::failed(conn, moment, &row, &failure.why, failure.for_good).await,
    })
}
