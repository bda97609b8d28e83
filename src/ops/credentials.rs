//! Push credentials that are set by the API.

use serde_json::{Map, json};

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Role};
use crate::protocol::pki::Certificate;
use crate::protocol::pki::chain::{self, Proof};
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::{Conn, channels, sealed};

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
/// and devices hear only the one they enrolled with. Refuses with their number unless `forced`.
pub async fn preflight_topic(conn: &mut Conn, topic: &str, forced: bool) -> Result<()> {
    let lost = channels::of_other_topics(conn, topic).await?;
    if forced || lost == 0 {
        return Ok(());
    }
    let detail = format!(
        "{lost} enrolled devices listen to another topic than {topic}: was the certificate made anew instead of renewed? With ?force=true \
         (muster push install --force) it is used for new devices, beside the one of the others"
    );
    let members = Map::from_iter([("devices".to_owned(), json!(lost)), ("topic".to_owned(), json!(topic))]);
    Err(Error::refused_with("topic_differs", detail, members))
}
