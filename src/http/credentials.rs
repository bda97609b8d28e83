//! Push credentials that operators bring, by the API or at the console: looked at, stored, used, then tried.

use std::sync::Arc;

use crate::app::{App, SEALED_PREFIX};
use crate::change;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Role};
use crate::ops::credentials::Removal;
use crate::ops::{canary, credentials};
use crate::protocol::pki::chain::Proof;
use crate::push::apns::Identity;
use crate::push::{Sender, SenderState};
use crate::seal::Seal;
use crate::store::{Class, Conn, sealed};

/// Stores a credential under `name` and uses it. What cannot be used is refused and stored nowhere; what cannot be stored is not used, and
/// the one in use stays.
pub async fn put(app: &App, actor: &Actor, name: &str, bytes: &[u8]) -> Result<()> {
    actor.require(Role::Admin)?;
    app.check_credential(name, bytes).map_err(|error| Error::invalid("", format!("{error:#}")))?;
    let _turn = app.senders.turn().await;
    let version = change!(app, Class::Operators, |conn, moment| store(conn, moment, actor, &app.seal, name, bytes).await)?;
    app.senders.was_brought(name, version);
    app.use_credential(name, bytes).map_err(|error| Error::invalid("", format!("{error:#}")))
}

/// Takes the credential of `sender` away that the API has set. Refuses where devices are called with it, unless a file of the settings takes
/// its place or it is `forced`.
pub async fn remove(app: &App, actor: &Actor, sender: &str, forced: bool) -> Result<()> {
    actor.require(Role::Admin)?;
    let name = format!("{SEALED_PREFIX}{sender}");
    let _turn = app.senders.turn().await;
    let how = Removal { sender, forced, is_filed: app.filed(&name).is_some() };
    let version = change!(app, Class::Operators, |conn, moment| credentials::remove(conn, moment, actor, how).await)?;
    app.senders.was_brought(&name, version);
    app.drop_credential(&name);
    Ok(())
}

/// As [`put`], for what devices hear under one project or as one app alone: refused with their number where another than the one in use
/// comes, unless `forced`.
pub async fn put_own(app: &App, actor: &Actor, name: &str, bytes: &[u8], forced: bool) -> Result<()> {
    actor.require(Role::Admin)?;
    if !forced {
        credentials::preflight_own(&mut app.db.read().await?, name, app.meant(name, bytes)).await?;
    }
    put(app, actor, name, bytes).await
}

/// Seals a credential, and orders its canary with it; answers its version.
async fn store(conn: &mut Conn, moment: &mut Moment, actor: &Actor, seal: &Seal, name: &str, bytes: &[u8]) -> Result<i64> {
    credentials::put(conn, moment, actor, seal, name, bytes).await?;
    canary::order(conn, moment, actor, name.strip_prefix(SEALED_PREFIX).unwrap_or(name), true).await?;
    sealed::version(conn, name).await
}

/// Orders a canary of each sender that `name` means: a sender's own name, or `apns-app` and `apns-mdm` as the API's paths have them, of
/// which the latter may have several topics.
pub async fn try_out(app: &App, actor: &Actor, name: &str) -> Result<()> {
    let name = match name {
        "apns-app" => "apns_app",
        "apns-mdm" => "apns_mdm",
        other => other,
    };
    let meant = |sender: &str| sender == name || sender.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    let senders: Vec<_> = app.senders.all().into_iter().filter(|sender| meant(sender.name())).collect();
    if senders.is_empty() {
        return Err(Error::NotFound("sender"));
    }
    // All are looked at before any is tried, and all are ordered together: a call that is refused has changed nothing.
    if let Some(bare) = senders.iter().find(|sender| sender.status().state == SenderState::Unconfigured) {
        return Err(Error::refused("sender_unconfigured", format!("{} has no credential to be tried", bare.name())));
    }
    change!(app, Class::Operators, |conn, moment| order_all(conn, moment, actor, &senders).await)
}

async fn order_all(conn: &mut Conn, moment: &mut Moment, actor: &Actor, senders: &[Arc<Sender>]) -> Result<()> {
    for sender in senders {
        canary::order(conn, moment, actor, sender.name(), false).await?;
    }
    Ok(())
}

/// As [`put`], for an MDM push certificate, whose chain and topic are looked at before unless `forced`. Answers how far its issuer is
/// proved; `None` where nobody looked.
pub async fn put_mdm(app: &App, actor: &Actor, bytes: &[u8], forced: bool) -> Result<Option<Proof>> {
    actor.require(Role::Admin)?;
    let now_ms = app.clock.now_ms();
    let identity = Identity::current(bytes, now_ms).map_err(|error| Error::invalid("", error.to_string()))?;
    let ca_file = app.config.push.apns_mdm.as_ref().and_then(|settings| settings.ca_file.as_deref());
    let mut conn = app.db.read().await?;
    let in_use = app.has_credential(&format!("apns_mdm/{}", identity.topic()));
    let look = credentials::Look { topic: identity.topic(), in_use, ca_file, now_ms, forced };
    let proof = credentials::preflight(&mut conn, identity.chain(), look).await?;
    drop(conn);
    put(app, actor, &format!("push/apns_mdm/{}", identity.topic()), bytes).await?;
    Ok(proof)
}
