//! Follows what another process may have changed: push credentials that the API has set, and the device CA.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, SEALED_PREFIX};
use crate::error::Result;
use crate::ops::ca::authority::CA_NAME;
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
    let mut conn = app.db.read().await?;
    for (name, version) in sealed::versions(&mut conn, SEALED_PREFIX).await? {
        if seen.get(&name) == Some(&version) {
            continue;
        }
        let Some(text) = sealed::get(&mut conn, &name).await? else { continue };
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

/// Takes over a device CA that has taken the place of the one in use.
async fn device_ca(app: &App, seen: &mut HashMap<String, i64>) -> Result<()> {
    let version = sealed::version(&mut app.db.read().await?, CA_NAME).await?;
    if seen.get(CA_NAME) != Some(&version) {
        app.follow_device_ca().await?;
        seen.insert(CA_NAME.to_owned(), version);
    }
    Ok(())
}
