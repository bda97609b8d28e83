//! Service tokens: an agent's proof towards another server, made and looked up without a write.

use serde::Serialize;
use serde_json::{Map, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::token::same;
use crate::model::{Denial, Id};
use crate::protocol::agent::{ServiceTokenAnswer, ServiceTokenBody};
use crate::protocol::service_token::{Claims, KeySet, LIFE_S, Signer};
use crate::seal::Seal;
use crate::store::Conn;
use crate::store::agents::{self, Standing};

/// How long a key signs. The next one stands in the key set for as long before it does, so that no server meets a key that it could not know.
const KEY_LIFE_MS: i64 = 30 * 86_400_000;

/// What another server is told of a token (RFC 7662).
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Introspection {
    pub active: bool,
    #[serde(flatten)]
    pub token: Option<ActiveToken>,
}

/// What an active token says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ActiveToken {
    /// The user's id.
    pub sub: String,
    pub aud: String,
    /// Unix seconds, as RFC 7662 has them.
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    pub device_id: String,
    pub email: String,
}

/// The keys that others check tokens by: the one that signs, the one before and the one after it.
pub fn keys(seal: &Seal, now_ms: i64) -> KeySet {
    let turn = now_ms / KEY_LIFE_MS;
    let signers = (turn - 1..=turn + 1).filter_map(|turn| signer(seal, turn));
    KeySet { keys: signers.map(|signer| signer.public().clone()).collect() }
}

/// Derived from the master key and the number of its turn: every process has it, and nothing of it is stored.
fn signer(seal: &Seal, turn: i64) -> Option<Signer> {
    Signer::from_seed(&seal.derive(&["service token key", &turn.to_string()]))
}

/// A token for the agent that shows this device token.
pub async fn issue(
    conn: &mut Conn,
    moment: &mut Moment,
    config: &Config,
    seal: &Seal,
    (device_id, token_hash): (Id, &str),
    body: &ServiceTokenBody,
) -> Result<ServiceTokenAnswer> {
    let agent = admitted(conn, device_id, token_hash).await?;
    if !config.agent.audiences.contains(&body.audience) {
        let known = config.agent.audiences.join(", ");
        return Err(Error::invalid("/audience", format!("tokens are given for: {known}")));
    }
    let own = [device_id, agent.device_id];
    if !body.device_id.parse::<Id>().is_ok_and(|named| own.contains(&named)) {
        return Err(Error::refused("device_mismatch", "name the device that the device token is for"));
    }
    let email = body.email.trim().to_lowercase();
    let (Some(user_id), Some(_)) = (agent.user_id, agent.email.as_ref().filter(|own| **own == email)) else {
        return Err(Error::refused("user_mismatch", "name the address of the user who carries this device"));
    };
    let iat = moment.now_ms / 1000;
    let claims = Claims {
        iss: config.public_url.clone(),
        sub: user_id.to_string(),
        aud: body.audience.clone(),
        iat,
        exp: iat + LIFE_S,
        jti: moment.id().to_string(),
        device_id: agent.device_id.to_string(),
        email,
    };
    let token = signer(seal, moment.now_ms / KEY_LIFE_MS).and_then(|signer| signer.sign(&claims)).ok_or(Error::NotFound("signing key"))?;
    Ok(ServiceTokenAnswer { token, expires_at_ms: claims.exp * 1000 })
}

/// The agent of this token, if it may go on.
async fn admitted(conn: &mut Conn, device_id: Id, token_hash: &str) -> Result<Standing> {
    let gone = || Error::refused("device_unknown", "there is no such device; activate again if you hold an enrollment token");
    let agent = agents::standing(conn, device_id).await?.ok_or_else(gone)?;
    let is = |known: &Option<String>| known.as_deref().is_some_and(|known| same(known, token_hash));
    if !is(&agent.token_hash) && !is(&agent.fresh_token_hash) {
        let detail = "a later activation replaced this token; activate again if you hold an enrollment token";
        return Err(Error::refused("token_replaced", detail));
    }
    match agent.denied.as_deref() {
        None => Ok(agent),
        Some(denied) => {
            let action = json!(Denial::named(denied).unwrap_or(Denial::Operator).action());
            let detail = "this device may not go on; do what `action` says, and sync for what else is asked of it";
            Err(Error::refused_with("unauthorized", detail, Map::from_iter([("action".to_owned(), action)])))
        }
    }
}

/// Whether a token stands now: signed here, not ended, its device let in and still its user's, its user enabled and under the same address.
pub async fn introspect(conn: &mut Conn, seal: &Seal, now_ms: i64, token: &str) -> Result<Introspection> {
    let Ok(claims) = keys(seal, now_ms).verify(token, now_ms) else { return Ok(Introspection::default()) };
    let Ok(device_id) = claims.device_id.parse::<Id>() else { return Ok(Introspection::default()) };
    let agent = agents::standing(conn, device_id).await?;
    let stands = agent.is_some_and(|agent| {
        agent.denied.is_none()
            && agent.user_state.as_deref() == Some("enabled")
            && agent.user_id.is_some_and(|user| user.to_string() == claims.sub)
            && agent.email.as_deref() == Some(&claims.email)
    });
    if !stands {
        return Ok(Introspection::default());
    }
    let Claims { iss, sub, aud, iat, exp, jti, device_id, email } = claims;
    Ok(Introspection { active: true, token: Some(ActiveToken { sub, aud, exp, iat, iss, jti, device_id, email }) })
}
