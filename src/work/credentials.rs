//! Follows the credentials that the API has set: also those set through another process.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Result;
use crate::store::sealed;

/// Another process's change is in use here within this time.
const LOOK_EVERY: Duration = Duration::from_secs(4);

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) -> Result<()> {
    let mut seen = HashMap::new();
    loop {
        if let Err(error) = pass(&app, &mut seen).await {
            tracing::warn!(%error, "push credentials cannot be looked up; trying again");
        }
        if tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await.is_ok() {
            return Ok(());
        }
    }
}

/// Takes over credentials whose version is not the one in use.
pub async fn pass(app: &App, seen: &mut HashMap<String, i64>) -> Result<()> {
    for sender in &app.senders {
        let name = format!("push/{}", sender.name());
        let mut conn = app.db.read().await?;
        let version = sealed::version(&mut conn, &name).await?;
        if version == 0 || seen.get(&name) == Some(&version) {
            continue;
        }
        let Some(text) = sealed::get(&mut conn, &name).await? else { continue };
        match app.seal.open(&name, &text) {
            Ok(secret) => {
                if let Err(error) = sender.replace_credential(&secret) {
                    tracing::error!(%error, sender = sender.name(), "the stored push credential cannot be used");
                }
            }
            Err(error) => tracing::error!(%error, sender = sender.name(), "the stored push credential does not open"),
        }
        seen.insert(name, version);
    }
    Ok(())
}
