//! Push credentials that are set by the API.

use serde_json::json;

use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Actor, Role};
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::{Conn, sealed};

/// Keeps a credential, sealed under its name.
pub async fn put(conn: &mut Conn, moment: &mut Moment, actor: &Actor, seal: &Seal, name: &str, secret: &[u8]) -> Result<()> {
    actor.require(Role::Admin)?;
    let sealed_secret = seal.seal(moment, name, secret);
    sealed::put(conn, name, &sealed_secret, moment.now_ms).await?;
    let data = json!({"name": name});
    feed::append(conn, moment, &[Entry { kind: "push.credential_set", actor: Some(actor.name.clone()), device_id: None, data }]).await
}
