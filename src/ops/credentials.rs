//! Push credentials: kept when the API sets them, looked at before they are used, followed when their files change.

use std::path::Path;

use serde_json::{Map, json};

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Role};
use crate::ops::mdm::topics;
use crate::ops::{alarms, canary};
use crate::protocol::pki::Certificate;
use crate::protocol::pki::chain::{self, Proof};
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::{Conn, channels, gauges, sealed};

/// Devices that are counted before a credential is taken away.
const COUNTED_MAX: i64 = 1_000;

/// Keeps a credential, sealed under its name.
pub async fn put(conn: &mut Conn, moment: &mut Moment, actor: &Actor, seal: &Seal, name: &str, secret: &[u8]) -> Result<()> {
    actor.require(Role::Admin)?;
    let sealed_secret = seal.seal(moment, name, secret);
    let before = sealed::version(conn, name).await?;
    sealed::put(conn, name, &sealed_secret, moment.now_ms).await?;
    // A secret is told by how often it was replaced, never by itself.
    let after = sealed::version(conn, name).await?;
    let data = json!({"name": name, "before": {"version": before}, "after": {"version": after}});
    feed::append(conn, moment, &[Entry { kind: "push.credential_set", actor: Some(actor.name.clone()), device_id: None, data }]).await
}

/// What is to be forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Removal<'a> {
    pub sender: &'a str,
    pub forced: bool,
    /// A file of the settings holds one that takes its place.
    pub is_filed: bool,
}

/// Forgets the credential that the API has set for a sender. Refuses with the number of devices that would not be called any more, unless
/// forced. Answers the version that says so.
pub async fn remove(conn: &mut Conn, moment: &mut Moment, actor: &Actor, how: Removal<'_>) -> Result<i64> {
    actor.require(Role::Admin)?;
    let Removal { sender, forced, is_filed } = how;
    let name = format!("push/{sender}");
    let called = if forced || is_filed { 0 } else { gauges::devices_of(conn, sender, COUNTED_MAX).await? };
    if sealed::get(conn, &name).await?.is_none() {
        return Err(Error::NotFound("credential that was set by the API"));
    }
    if called > 0 {
        let are = if called == 1 { "is" } else { "are" };
        let detail =
            format!("{} {are} called with it and no file takes its place; with ?force=true it is taken away all the same", many(called));
        let members = Map::from_iter([("devices".to_owned(), json!(called))]);
        return Err(Error::refused_with("credential_needed", detail, members));
    }
    let before = sealed::version(conn, &name).await?;
    sealed::remove(conn, &name, moment.now_ms).await?;
    let data = json!({"name": name, "before": {"version": before}, "after": null});
    feed::append(conn, moment, &[Entry { kind: "push.credential_removed", actor: Some(actor.name.clone()), device_id: None, data }])
        .await?;
    if is_filed {
        follow_file(conn, moment, &name).await?;
    } else {
        for kind in [alarms::PUSH_FAULT, alarms::PUSH_UNREACHED] {
            alarms::close(conn, moment, kind, sender).await?;
        }
        if let Some(topic) = sender.strip_prefix(topics::SENDER_PREFIX) {
            let waiting = topics::waiting(conn, topic).await?;
            topics::tell(conn, moment, topic, waiting).await?;
        }
    }
    sealed::version(conn, &name).await
}

/// A credential was taken from a file that the settings name, in place of another: told, and then tried on one device.
pub async fn follow_file(conn: &mut Conn, moment: &mut Moment, name: &str) -> Result<()> {
    let data = json!({"name": name, "before": null, "after": {"from": "file"}});
    let actor = Actor::server();
    let entry = Entry { kind: "push.credential_set", actor: Some(actor.name.clone()), device_id: None, data };
    feed::append(conn, moment, &[entry]).await?;
    canary::order(conn, moment, &actor, name.strip_prefix("push/").unwrap_or(name), true).await
}

/// What an MDM push certificate is looked at for.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub topic: &'a str,
    /// A credential with that topic is in use here.
    pub in_use: bool,
    /// The setting of that name.
    pub ca_file: Option<&'a Path>,
    pub now_ms: i64,
    pub forced: bool,
}

/// Looks at an MDM push certificate before it is used, unless it is forced: its chain (DER, the certificate first) and its topic. Answers how
/// far its issuer is proved; `None` where nobody looked.
pub async fn preflight<'a>(conn: &mut Conn, chain: impl Iterator<Item = &'a [u8]>, look: Look<'_>) -> Result<Option<Proof>> {
    if look.forced {
        return Ok(None);
    }
    let chain: std::result::Result<Vec<_>, _> = chain.map(Certificate::from_der).collect();
    let chain = chain.map_err(|error| Error::invalid("", error.to_string()))?;
    let proof = preflight_chain(&chain, &given(look.ca_file)?, look.now_ms)?;
    if !look.in_use {
        preflight_topic(conn, look.topic).await?;
    }
    Ok(Some(proof))
}

/// Looks whether devices would be lost by a service account of another project, or by the key of another app, than the one in use:
/// (in use, comes). They are registered with one project, and have one app.
pub async fn preflight_own(conn: &mut Conn, name: &str, meant: (Option<String>, Option<String>)) -> Result<()> {
    match (name, meant) {
        (_, (in_use, comes)) if comes.is_none() || in_use == comes => Ok(()),
        ("push/fcm", (Some(in_use), Some(comes))) => {
            let called = gauges::devices_of(conn, "fcm", COUNTED_MAX).await?;
            let detail = format!("{} are registered with the project {in_use} and hear nothing from {comes}", many(called));
            differs(called, "project_differs", detail, json!({"project_id": comes}))
        }
        ("push/apns_app", (_, Some(comes))) => {
            let lost = channels::of_other_apps(conn, &comes, COUNTED_MAX).await?;
            differs(lost, "topic_differs", format!("{} have another app than {comes}", many(lost)), json!({"topic": comes}))
        }
        _ => Ok(()),
    }
}

/// A refusal with the number of devices that would be lost, if any would.
fn differs(devices: i64, code: &'static str, detail: String, members: serde_json::Value) -> Result<()> {
    if devices == 0 {
        return Ok(());
    }
    let mut members = members.as_object().cloned().unwrap_or_default();
    members.insert("devices".to_owned(), json!(devices));
    Err(Error::refused_with(code, format!("{detail}; with ?force=true it is used all the same"), members))
}

fn many(devices: i64) -> String {
    match devices {
        1 => "1 device".to_owned(),
        most if most >= COUNTED_MAX => format!("{most} devices or more"),
        many => format!("{many} devices"),
    }
}

/// The CAs of `[push.apns_mdm] ca_file`: those of a stand-in, which issues its own push certificates.
pub fn given(ca_file: Option<&Path>) -> Result<Vec<Certificate>> {
    let Some(path) = ca_file else { return Ok(Vec::new()) };
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let parsed = read.and_then(|pem| Certificate::chain_from_pem(&pem).map_err(|error| error.to_string()));
    parsed.map_err(|error| Error::refused("ca_file_unreadable", format!("[push.apns_mdm] ca_file: {error}")))
}

/// Looks whether a push certificate is Apple's work, or that of a CA of `given`, and how far that is proved; anything else APNs would
/// refuse at the handshake.
pub fn preflight_chain(chain: &[Certificate], given: &[Certificate], now_ms: i64) -> Result<Proof> {
    let fault = match chain::check(chain, given, now_ms) {
        Ok(Ok(proof)) => return Ok(proof),
        Ok(Err(fault)) => fault.to_string(),
        Err(error) => error.to_string(),
    };
    Err(Error::refused("issuer_differs", format!("{fault} (?force=true, or muster push install --force, takes it all the same)")))
}

/// Looks whether enrolled devices would not hear pushes to `topic`: a certificate that was replaced instead of renewed has another topic,
/// and devices hear only the one they enrolled with. One that somebody listens to already is no such certificate.
async fn preflight_topic(conn: &mut Conn, topic: &str) -> Result<()> {
    if gauges::devices_of(conn, &format!("apns_mdm/{topic}"), 1).await? > 0 {
        return Ok(());
    }
    let lost = channels::of_other_topics(conn, topic).await?;
    if lost == 0 {
        return Ok(());
    }
    let detail = format!(
        "{lost} enrolled devices listen to another topic than {topic}: was the certificate made anew instead of renewed? With ?force=true \
         (muster push install --force) it is used for new devices, beside the one of the others"
    );
    let members = Map::from_iter([("devices".to_owned(), json!(lost)), ("topic".to_owned(), json!(topic))]);
    Err(Error::refused_with("topic_differs", detail, members))
}
