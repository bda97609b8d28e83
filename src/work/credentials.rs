//! Follows what another process may have changed: push credentials that the API has set, and the device CA. Alarms of senders at fault are
//! brought up to date, at the start those of certificates that end as well. Topics that devices listen to and that no credential has are told
//! of, until one has them or nobody listens.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, SEALED_PREFIX};
use crate::change;
use crate::error::Result;
use crate::ops::alarms::{self as told, PUSH_FAULT, PUSH_UNREACHED};
use crate::ops::ca::authority::CA_NAME;
use crate::ops::mdm::topics;
use crate::push::Sender;
use crate::store::{Class, alarms, gauges, sealed};
use crate::work::expiry;

/// Another process's change is in use here within this time.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// Senders at fault that are looked at; there are as many as topics.
const FAULTS_MAX: i64 = 1_000;

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let mut seen = HashMap::new();
    let (mut is_first, mut ends_told) = (true, false);
    loop {
        if let Err(error) = pass(&app, &mut seen).await {
            tracing::warn!(%error, "push credentials cannot be looked up; trying again");
        } else if !ends_told {
            // The calendar tells it once an hour; who has just started the server is not left waiting for that, nor are the gauges.
            match expiry::pass(&app).await {
                Ok(()) => ends_told = true,
                Err(error) => tracing::warn!(%error, "the ends of certificates cannot be told; trying again"),
            }
        }
        if let Err(error) = faults(&app).await {
            tracing::warn!(%error, "alarms of senders at fault cannot be looked up; trying again");
        }
        match topics(&app, is_first).await {
            Ok(()) => is_first = false,
            Err(error) => tracing::warn!(%error, "topics without a credential cannot be looked up; trying again"),
        }
        if let Err(error) = device_ca(&app, &mut seen).await {
            tracing::warn!(%error, "the device CA cannot be looked up; trying again");
        }
        if tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_ok() {
            return Ok(());
        }
    }
}

/// Takes over credentials whose version is not the one in use, those too of MDM topics that this process has not met.
pub async fn pass(app: &App, seen: &mut HashMap<String, i64>) -> Result<()> {
    let _turn = app.senders.turn().await;
    let mut conn = app.db.read().await?;
    for (name, version) in sealed::versions(&mut conn, SEALED_PREFIX).await? {
        // What an operator has just brought to this process is in use already: taken once more, it would begin all over.
        if seen.get(&name) == Some(&version) || app.senders.is_in_use(&name, version) {
            continue;
        }
        let Some(text) = sealed::get(&mut conn, &name).await? else {
            // It was taken away. One that was never in use here is none to be dropped.
            if seen.contains_key(&name) || app.senders.is_brought(&name) {
                app.drop_credential(&name);
                // Told anew, perhaps, while this process had it longer than the one that took it away.
                let sender = name.strip_prefix(SEALED_PREFIX).unwrap_or(&name);
                for kind in [PUSH_FAULT, PUSH_UNREACHED] {
                    change!(app, Class::Background, |conn, moment| told::close(conn, moment, kind, sender).await)?;
                }
            }
            seen.insert(name, version);
            continue;
        };
        match app.seal.open(&name, &text) {
            Ok(secret) => {
                if let Err(error) = app.use_credential(&name, &secret) {
                    tracing::error!(%error, name, "the stored push credential cannot be used");
                }
            }
            Err(error) => tracing::error!(%error, name, "the stored push credential does not open"),
        }
        seen.insert(name, version);
    }
    Ok(())
}

/// Brings the alarms of senders up to date, of a fault and of a provider that is not reached. A fault's notices do that as it happens; here
/// is mended what these could not: an alarm of a process that is no more, and one that could not be written. One closes only where the
/// sender has worked since it was told: another process may know of a fault of which this one has seen nothing.
pub async fn faults(app: &App) -> Result<()> {
    keep(app, PUSH_FAULT, |sender| sender.fault()).await?;
    keep(app, PUSH_UNREACHED, |sender| sender.outage()).await
}

async fn keep(app: &App, kind: &'static str, says: impl Fn(&Sender) -> Option<String>) -> Result<()> {
    let standing = alarms::standing_since(&mut app.db.read().await?, kind, FAULTS_MAX).await?;
    for sender in app.senders.all() {
        let told_at_ms = standing.iter().find(|(subject, _)| subject == sender.name()).map(|(_, changed_at_ms)| *changed_at_ms);
        let name = sender.name();
        match (says(&sender), told_at_ms) {
            (Some(text), None) => change!(app, Class::Background, |conn, moment| told::open(conn, moment, kind, name, &text).await)?,
            (None, Some(told_at_ms)) if sender.worked_at_ms() > told_at_ms => {
                change!(app, Class::Background, |conn, moment| told::close(conn, moment, kind, name).await)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Brings the alarms of topics without a credential up to date; with `all`, which reads an index to its end, finds those that nobody told of:
/// a credential may have been in the settings of the server's last run.
pub async fn topics(app: &App, all: bool) -> Result<()> {
    let mut conn = app.db.read().await?;
    let mut known = topics::told(&mut conn).await?;
    if all {
        let called = gauges::called_by(&mut conn).await?;
        let uncalled = called.iter().filter(|(sender, _)| !app.has_credential(sender));
        known.extend(uncalled.filter_map(|(sender, _)| sender.strip_prefix(topics::SENDER_PREFIX).map(str::to_owned)));
    }
    let mut waiting = Vec::with_capacity(known.len());
    for topic in known {
        let has_one = app.has_credential(&format!("{}{topic}", topics::SENDER_PREFIX));
        waiting.push((if has_one { 0 } else { topics::waiting(&mut conn, &topic).await? }, topic));
    }
    drop(conn);
    for (waiting, topic) in waiting {
        change!(app, Class::Background, |conn, moment| topics::tell(conn, moment, &topic, waiting).await)?;
    }
    Ok(())
}

/// Takes over a device CA that has taken the place of the one in use.
async fn device_ca(app: &App, seen: &mut HashMap<String, i64>) -> Result<()> {
    let version = sealed::version(&mut app.db.read().await?, CA_NAME).await?;
    if seen.get(CA_NAME) != Some(&version) {
        app.follow_device_ca().await?;
        seen.insert(CA_NAME.to_owned(), version);
    }
    Ok(())
}
