//! Follows the files of push credentials that the settings name: a renewed certificate is in use within seconds, and a wrong one is not.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, CredentialFile};
use crate::change;
use crate::error::{Error, Result};
use crate::ops::alarms as told;
use crate::ops::credentials::{self, Look};
use crate::push::apns::Identity;
use crate::store::{Class, alarms, sealed};
use crate::telemetry::Seldom;

const LOOK_EVERY: Duration = Duration::from_secs(4);
/// The kind of the alarm about a file that is not taken; its subject is the setting.
const REFUSED: &str = "push_file_refused";
/// A file that is refused and does not change is looked at so often, then at one look in so many: what it needs may come about elsewhere.
const LOOKS_CLOSELY: u32 = 3;
const LOOKS_RARELY: u32 = 15;
/// There are as many settings.
const ALARMS_MAX: i64 = 10;

/// What this process has seen of the files.
#[derive(Debug, Default)]
pub struct Seen {
    begun: bool,
    /// The files that are refused, by their settings.
    doubts: HashMap<&'static str, Doubt>,
}

/// A file that is refused.
#[derive(Clone, Debug, Default)]
struct Doubt {
    /// What it holds, as [`CredentialFile::fingerprint`] has it.
    fingerprint: [u8; 32],
    /// For so many looks.
    looks: u32,
    /// What operators have been told of it.
    told: String,
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let mut seen = Seen::default();
    while tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
        if let Err(error) = pass(&app, &mut seen).await {
            static TOLD: Seldom = Seldom::new();
            if TOLD.is_time() {
                tracing::warn!(%error, "the files of push credentials cannot be followed; trying again");
            }
        }
    }
    Ok(())
}

/// One look at all files. A file that is refused once may be half written: operators are told at the second time.
pub async fn pass(app: &App, seen: &mut Seen) -> Result<()> {
    let files = app.credential_files();
    let standing = alarms::standing(&mut app.db.read().await?, REFUSED, ALARMS_MAX).await?;
    let (doubts, is_first) = (&mut seen.doubts, !seen.begun);
    // Told by a process that is no more, about a setting that is gone. Other servers have files, and alarms, of their own.
    for setting in standing.iter().filter(|setting| is_first && files.iter().all(|file| file.setting != **setting)) {
        change!(app, Class::Background, |conn, moment| told::close(conn, moment, REFUSED, setting).await)?;
    }
    for file in files {
        let setting = file.setting;
        let is_told = standing.iter().any(|subject| subject == setting);
        // Left where it is until all is done: what was told is known also where the database fails in between.
        let (fingerprint, mut doubt) = (file.fingerprint(), doubts.get(setting).cloned().unwrap_or_default());
        if doubt.fingerprint != fingerprint {
            doubt = Doubt { fingerprint, looks: 0, ..doubt };
        }
        if doubt.looks >= LOOKS_CLOSELY && doubt.looks % LOOKS_RARELY != 0 {
            doubts.insert(setting, Doubt { looks: doubt.looks + 1, ..doubt });
            continue;
        }
        match follow(app, &file).await? {
            Ok(()) => {
                if is_told && (is_first || !doubt.told.is_empty()) {
                    change!(app, Class::Background, |conn, moment| told::close(conn, moment, REFUSED, setting).await)?;
                }
                doubts.remove(setting);
            }
            Err(why) => {
                if doubt.looks > 0 && (!is_told || doubt.told != why) {
                    tracing::warn!(why, "a changed push credential is not taken");
                    let stays = if has_one(app, setting) { "the credential in use stays" } else { "there is none in use" };
                    let detail = format!("{why}; {stays}");
                    change!(app, Class::Background, |conn, moment| told::open(conn, moment, REFUSED, setting, &detail).await)?;
                    doubt.told = why;
                }
                doubts.insert(setting, Doubt { looks: doubt.looks + 1, ..doubt });
            }
        }
    }
    seen.begun = true;
    Ok(())
}

/// True where a sender of this setting has a credential.
fn has_one(app: &App, setting: &str) -> bool {
    let name = setting.strip_prefix("push.").unwrap_or(setting);
    app.senders.all().iter().any(|sender| sender.name().split('/').next() == Some(name) && app.has_credential(sender.name()))
}

/// Takes what a file holds, unless it is known; or says why not.
async fn follow(app: &App, file: &CredentialFile) -> Result<std::result::Result<(), String>> {
    let (name, json) = match app.fresh_in(file) {
        Ok(None) => return Ok(Ok(())),
        Ok(Some(fresh)) => fresh,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let _turn = app.senders.turn().await;
    let mut conn = app.db.read().await?;
    // One that the API has set wins: the file is noted and not used.
    if sealed::get(&mut conn, &name).await?.is_some() {
        app.senders.was_read(file.setting, &json);
        return Ok(Ok(()));
    }
    let said = |error: &dyn std::fmt::Display| Ok(Err(format!("{}: {error}", file.shown)));
    if let Err(error) = app.check_credential(&name, &json) {
        return said(&format!("{error:#}"));
    }
    if let Some(mdm) = app.config.push.apns_mdm.as_ref().filter(|_| file.setting == "push.apns_mdm") {
        let now_ms = app.clock.now_ms();
        let identity = match Identity::current(&json, now_ms) {
            Ok(identity) => identity,
            Err(error) => return said(&error),
        };
        let (topic, ca_file) = (identity.topic(), mdm.ca_file.as_deref());
        let in_use = app.has_credential(&format!("apns_mdm/{topic}"));
        match credentials::preflight(&mut conn, identity.chain(), Look { topic, in_use, ca_file, now_ms, forced: false }).await {
            Err(error @ (Error::Refused(_) | Error::Invalid(_))) => return said(&error),
            looked => drop(looked?),
        }
    }
    match credentials::preflight_own(&mut conn, &name, app.meant(&name, &json)).await {
        Err(error @ Error::Refused(_)) => return said(&error),
        looked => looked?,
    }
    drop(conn);
    if let Err(error) = app.use_file(&name, &json) {
        return said(&format!("{error:#}"));
    }
    tracing::info!(name, "a push credential was read again from its file");
    change!(app, Class::Background, |conn, moment| credentials::follow_file(conn, moment, &name).await)?;
    app.senders.was_read(file.setting, &json);
    Ok(Ok(()))
}
