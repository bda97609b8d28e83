//! Silent activation: an enrollment token becomes a device token.

mod admit;
mod renew;
#[cfg(test)]
mod tests;

use serde_json::json;

use crate::clock::Moment;
use crate::error::Result;
use crate::model::token::{self, Secret};
use crate::model::{Id, Lane};
use crate::ops::settle;
use crate::ops::tasks::{self, EndCause};
use crate::protocol::agent::{ActivateRequest, PushAddress};
use crate::store::channels::{self, NewChannel, Push};
use crate::store::feed::{self, Entry};
use crate::store::tokens::{self, TokenRow};
use crate::store::users::{self, UserRow};
use crate::store::{Conn, devices};

/// The key under which the device that has a piece of hardware is found.
pub const HARDWARE: &str = "hardware";
/// The key of a newcomer that waits for an operator: one for each hardware and user.
pub const PARKED: &str = "parked";
/// The key of a device whose app wants to activate anew and waits for an operator: its id.
pub const KNOCKING: &str = "knocking";
/// The same once an operator has admitted it: its next activation goes on.
pub const READMITTED: &str = "readmitted";

/// What the settings say about admission.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Devices that a user may have unless the user's own limit says otherwise; 0 for any number.
    pub devices_per_user: i64,
    /// True where an operator admits every re-activation.
    pub approve_reactivation: bool,
}

/// Somebody at the door.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub request: ActivateRequest,
    /// The device token of an earlier activation, as it came.
    pub bearer: Option<Secret>,
    /// The peer's address, for the token's record.
    pub remote: String,
}

/// What became of it. A refusal is an outcome, not an error: its entry in the audit is committed.
#[derive(Clone, Debug)]
pub enum Activation {
    Admitted {
        device_id: Id,
        device_token: Secret,
        next_sync_in_s: i64,
        /// True where an earlier device token was the credential: 200, not 201.
        renewed: bool,
    },
    Refused {
        code: &'static str,
        detail: &'static str,
    },
}

/// Why somebody is not let in: code and detail.
#[derive(Clone, Copy, Debug)]
struct No(&'static str, &'static str);

type Verdict = std::result::Result<Activation, No>;

const UNAUTHORIZED: No = No("device_unauthorized", "this device may not activate; an operator can authorize it");
const EXHAUSTED: No = No("token_exhausted", "this enrollment token has no use left; ask an operator for a new one");

/// Whether the refusal of this address with this code is told by itself.
pub type Tell<'a> = &'a (dyn Fn(&str, &'static str) -> bool + Sync);

/// Who knocks, with the token and the user that were found good.
struct Visitor<'a> {
    newcomer: &'a Newcomer,
    rules: Rules,
    /// The key of the hardware.
    key: String,
    /// The enrollment token; absent where a device token was the credential.
    token: Option<TokenRow>,
    user: UserRow,
}

/// Admits or refuses newcomers one after the other in the caller's transaction; one outcome for each, in order. Users and tokens of
/// all of them are locked first, in the order of their ids, so that two groups cannot wait for each other in a circle.
/// `tell` decides by address and code whether a refusal gets an entry of its own.
pub async fn activate_all(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomers: &[Newcomer],
    rules: Rules,
    tell: Tell<'_>,
) -> Result<Vec<Activation>> {
    let emails: Vec<String> = newcomers.iter().filter_map(email_of).collect();
    let hashes: Vec<String> = newcomers.iter().filter_map(|newcomer| newcomer.request.token.as_deref().map(token::hash)).collect();
    users::lock_with_tokens(conn, &emails, &hashes).await?;
    let mut outcomes = Vec::with_capacity(newcomers.len());
    let mut after = After::default();
    for newcomer in newcomers {
        outcomes.push(one(conn, moment, newcomer, rules, tell, &mut after).await?);
    }
    after.write(conn, moment).await?;
    Ok(outcomes)
}

/// What follows from admissions, gathered to be done for all of a group at once.
#[derive(Default)]
struct After {
    /// Devices that came in: to be settled on their documents.
    came: Vec<Id>,
    terms: Vec<(Id, Vec<String>)>,
    /// Channels that were there before: their wakes rest, their open tasks end.
    again: Vec<NewChannel>,
    entries: Vec<Entry>,
}

impl After {
    /// In the order of the locks: channels, wakes, tasks, feed.
    async fn write(mut self, conn: &mut Conn, moment: &mut Moment) -> Result<()> {
        self.came.sort_unstable();
        self.came.dedup();
        settle::devices(conn, moment, &self.came, Lane::Change).await?;
        for channel in &self.again {
            channels::rest(conn, channel, moment.now_ms).await?;
        }
        let channels: Vec<Id> = self.again.iter().map(|channel| channel.id).collect();
        if !channels.is_empty() {
            tasks::end_open(conn, moment, &channels, EndCause::ReEnrolled).await?;
        }
        devices::put_terms(conn, &self.terms).await?;
        feed::append(conn, moment, &self.entries).await
    }
}

/// Admits or refuses. Checks go in the order of the protocol; a refusal uses nothing up and is told in the audit.
async fn one(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    rules: Rules,
    tell: Tell<'_>,
    after: &mut After,
) -> Result<Activation> {
    let verdict = decide(conn, moment, newcomer, rules, after).await?;
    let label = match &verdict {
        Ok(_) => "admitted",
        Err(No(code, _)) => code,
    };
    metrics::counter!("muster_activations_total", "outcome" => label).increment(1);
    match verdict {
        Ok(admitted) => Ok(admitted),
        Err(No(code, detail)) => {
            let Newcomer { request: ActivateRequest { email, device, .. }, remote, .. } = newcomer;
            let data = json!({"code": code, "email": email, "serial": device.serial, "model": device.model, "remote": remote});
            if tell(remote, code) {
                let actor = Some(format!("remote:{remote}"));
                after.entries.push(Entry { kind: "activation.refused", actor, device_id: None, data });
            }
            Ok(Activation::Refused { code, detail })
        }
    }
}

async fn decide(conn: &mut Conn, moment: &mut Moment, newcomer: &Newcomer, rules: Rules, after: &mut After) -> Result<Verdict> {
    if let Some(bearer) = &newcomer.bearer {
        let verdict = renew::renew(conn, moment, newcomer, rules, bearer, after).await?;
        // An agent may send both; a device token that does not stand is no reason to turn a good enrollment token away.
        let falls_back = matches!(verdict, Err(No("token_unknown", _))) && newcomer.request.token.is_some();
        if !falls_back {
            return Ok(verdict);
        }
    }
    let key = hardware_key(newcomer);
    let known = devices::by_key(conn, HARDWARE, &key).await?;
    let token = match good_token(conn, moment, newcomer, known).await? {
        Ok(token) => token,
        Err(no) => return Ok(Err(no)),
    };
    let user = match good_user(conn, newcomer, &token).await? {
        Ok(user) => user,
        Err(no) => return Ok(Err(no)),
    };
    let visitor = Visitor { newcomer, rules, key, token: Some(token), user };
    match known {
        Some(known) => admit::known(conn, moment, visitor, known, after).await,
        None => admit::unknown(conn, moment, visitor, after).await,
    }
}

/// The enrollment token, if it opens the door. `known` is the device that has the newcomer's hardware.
async fn good_token(conn: &mut Conn, moment: &Moment, newcomer: &Newcomer, known: Option<Id>) -> Result<std::result::Result<TokenRow, No>> {
    let hash = newcomer.request.token.as_deref().map(token::hash).unwrap_or_default();
    let Some(token) = tokens::by_hash(conn, &hash).await? else {
        return Ok(Err(No("token_unknown", "the server does not know this enrollment token; ask an operator for one")));
    };
    if token.expires_at_ms.is_some_and(|expires| expires <= moment.now_ms) {
        return Ok(Err(No("token_expired", "this enrollment token has expired; ask an operator for a new one")));
    }
    if token.revoked_at_ms.is_some() {
        return Ok(Err(No("token_revoked", "this enrollment token was revoked; ask an operator for a new one")));
    }
    // A phone that this token let in before may return without a further use.
    let exhausted = token.max_uses.is_some_and(|most| token.uses >= most);
    if exhausted && !is_token_of(conn, &token, known).await? {
        return Ok(Err(EXHAUSTED));
    }
    Ok(Ok(token))
}

async fn is_token_of(conn: &mut Conn, token: &TokenRow, known: Option<Id>) -> Result<bool> {
    match known {
        None => Ok(false),
        Some(device) if token.device_id == Some(device) => Ok(true),
        Some(device) => tokens::was_used_by(conn, token.id, device).await,
    }
}

async fn good_user(conn: &mut Conn, newcomer: &Newcomer, token: &TokenRow) -> Result<std::result::Result<UserRow, No>> {
    let user = match (email_of(newcomer), token.user_id) {
        (Some(email), named) => users::by_email(conn, &email).await?.filter(|user| named.is_none_or(|id| id == user.id)),
        (None, Some(id)) => users::get(conn, id).await?,
        (None, None) => None,
    };
    Ok(enabled(user))
}

fn enabled(user: Option<UserRow>) -> std::result::Result<UserRow, No> {
    match user {
        Some(user) if user.state == "enabled" => Ok(user),
        Some(user) if user.state == "disabled" => Err(No("user_disabled", "this user is disabled; ask an operator")),
        _ => Err(No("user_unknown", "no user has this e-mail address, or the token is another user's; ask an operator")),
    }
}

/// The e-mail address in the form in which addresses are compared.
fn email_of(newcomer: &Newcomer) -> Option<String> {
    newcomer.request.email.as_deref().map(|email| email.trim().to_lowercase())
}

/// hardware_id is compared within (platform, app).
fn hardware_key(newcomer: &Newcomer) -> String {
    let info = &newcomer.request.device;
    hardware_key_of(info.platform.name(), &info.app, &info.hardware_id)
}

/// The key of a piece of hardware.
pub fn hardware_key_of(platform: &str, app: &str, hardware_id: &str) -> String {
    token::hash(&format!("{platform}\0{app}\0{hardware_id}"))
}

/// The key of a newcomer with that hardware, parked for that user.
pub fn parked_key_of(hardware_key: &str, user: Id) -> String {
    format!("{hardware_key}/{user}")
}

fn push_of(address: &PushAddress) -> Push {
    Push {
        provider: address.provider.name().into(),
        kind: address.kind.name().into(),
        value: address.value.clone(),
        sender: address.provider.sender().into(),
    }
}
