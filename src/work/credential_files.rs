//! Follows the files of push credentials that the settings name: a renewed certificate is in use within seconds, and a wrong one is not.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, CredentialFile};
use crate::change;
use crate::error::{Error, Result};
use crate::ops::{alarms as told, credentials};
use crate::push::apns::Identity;
use crate::store::{Class, alarms, sealed};

const LOOK_EVERY: Duration = Duration::from_secs(4);
/// The kind of the alarm about a file that is not taken; its subject is the setting.
const REFUSED: &str = "push_file_refused";
/// A file that is refused and does not change is looked at so often, then at every so-manieth look: what it needs may come about elsewhere.
const LOOKS_CLOSELY: u32 = 3;
const LOOKS_RARELY: u32 = 15;
/// There are as many settings.
const ALARMS_MAX: i64 = 10;

/// The files that are refused, by their settings.
type Doubts = HashMap<&'static str, Doubt>;

/// A file that is refused.
#[derive(Clone, Debug, Default)]
struct Doubt {
    /// What it holds, as [`CredentialFile::print`] has it.
    print: [u8; 32],
    /// For so many looks.
    looks: u32,
    /// What operators have been told of it.
    told: String,
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let mut doubts = Doubts::new();
    while tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
        if let Err(error) = pass(&app, &mut doubts).await {
            tracing::warn!(%error, "the files of push credentials cannot be followed; trying again");
        }
    }
    Ok(())
}

/// One look at all files. A file that is refused once may be half written: operators are told at the second time.
async fn pass(app: &App, doubts: &mut Doubts) -> Result<()> {
    let files = app.credential_files();
    if files.is_empty() {
        return Ok(());
    }
    let standing = alarms::standing_since(&mut app.db.read().await?, REFUSED, ALARMS_MAX).await?;
    for file in files {
        let setting = file.setting;
        let is_told = standing.iter().any(|(subject, _)| subject == setting);
        let (print, mut doubt) = (file.print(), doubts.remove(setting).unwrap_or_default());
        if doubt.print != print {
            doubt = Doubt { print, looks: 0, ..doubt };
        }
        if doubt.looks >= LOOKS_CLOSELY && doubt.looks % LOOKS_RARELY != 0 {
            doubts.insert(setting, Doubt { looks: doubt.looks + 1, ..doubt });
            continue;
        }
        match follow(app, &file).await? {
            Ok(()) => {
                if is_told {
                    change!(app, Class::Background, |conn, moment| told::close(conn, moment, REFUSED, setting).await)?;
                }
            }
            Err(why) => {
                if doubt.looks > 0 && (!is_told || doubt.told != why) {
                    tracing::warn!(why, "a changed push credential is not taken");
                    let detail = format!("{why}; the credential in use stays");
                    change!(app, Class::Background, |conn, moment| told::open(conn, moment, REFUSED, setting, &detail).await)?;
                    doubt.told = why;
                }
                doubts.insert(setting, Doubt { looks: doubt.looks + 1, ..doubt });
            }
        }
    }
    Ok(())
}

/// Takes what a file holds, unless it is known; or says why not.
async fn follow(app: &App, file: &CredentialFile) -> Result<std::result::Result<(), String>> {
    let (name, json) = match app.fresh_in(file) {
        Ok(None) => return Ok(Ok(())),
        Ok(Some(fresh)) => fresh,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
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
        let identity = Identity::current(&json, now_ms).map_err(|error| Error::invalid("", error.to_string()))?;
        match credentials::preflight(&mut conn, identity.chain(), identity.topic(), mdm.ca_file.as_deref(), now_ms, false).await {
            Err(error @ Error::Refused { .. }) => return said(&error),
            looked => drop(looked?),
        }
    }
    drop(conn);
    if let Err(error) = app.use_file(&name, &json) {
        return said(&format!("{error:#}"));
    }
    app.senders.was_read(file.setting, &json);
    tracing::info!(name, "a push credential was read again from its file");
    change!(app, Class::Background, |conn, moment| credentials::follow_file(conn, moment, &name).await)?;
    Ok(Ok(()))
}
