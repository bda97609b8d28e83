//! Operators, their sessions and passwords, and API keys.

#[cfg(test)]
mod tests;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::token::{Secret, hash};
use crate::model::{Actor, Id, Role, text};
use crate::store::Conn;
use crate::store::feed::{self, Entry};
use crate::store::operators::{self, NewKey, OperatorRow};

/// How long a one-time sign-in link is good.
pub const LINK_MS: i64 = 15 * 60 * 1000;
/// How long a console session lasts.
pub const SESSION_MS: i64 = 12 * 3600 * 1000;
const PASSWORD_CHARS_MIN: usize = 12;
const PASSWORD_CHARS_MAX: usize = 256;
/// What is checked for a name that nobody has.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm8$Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE";

/// A session that was just opened: the cookie's secret and the token that forms repeat.
pub struct Opened {
    pub secret: Secret,
    pub csrf: String,
    pub name: String,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A one-time sign-in link, and what its making did to the operator.
#[derive(Debug)]
pub struct Linked {
    /// What the link ends in.
    pub secret: Secret,
    pub name: String,
    /// The role from now on.
    pub role: String,
    /// The former role, where there was another.
    pub was: Option<String>,
    /// True where the operator was disabled until now.
    pub enabled_again: bool,
}

impl Linked {
    /// What changed for an operator who was there, a sentence for each.
    pub fn changes(&self) -> Vec<String> {
        let role = self.was.as_ref().map(|was| format!("{} was {was} and is {} now.", self.name, self.role));
        let enabled = self.enabled_again.then(|| format!("{} was disabled and may sign in again.", self.name));
        role.into_iter().chain(enabled).collect()
    }
}

/// Adds an operator, or finds the one of that name, and makes a one-time sign-in link. Without a role the one who is there keeps the
/// present one; a new one is an operator.
pub async fn link(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str, role: Option<Role>) -> Result<Linked> {
    actor.require(Role::Admin)?;
    let name = text::named("/name", name, 64)?;
    let before = operators::by_name(conn, &name).await?;
    if let Some(before) = before.as_ref().filter(|_| role.is_some_and(|role| role != Role::Admin)) {
        spare_last_admin(conn, before).await?;
    }
    let id = moment.id();
    let (operator_id, role) = operators::ensure(conn, id, &name, role, moment.now_ms).await?;
    let secret = Secret::plain(&moment.secret());
    operators::insert_link(conn, &secret.hash(), operator_id, moment.now_ms, moment.now_ms + LINK_MS).await?;
    let shown = before.as_ref().map(|row| json!({"role": row.role, "enabled": row.disabled_at_ms.is_none()}));
    let data = json!({"id": operator_id, "name": name, "role": role, "before": shown, "after": {"role": role, "enabled": true}});
    tell(conn, moment, actor, "operator.linked", data).await?;
    let enabled_again = before.as_ref().is_some_and(|row| row.disabled_at_ms.is_some());
    let was = before.map(|row| row.role).filter(|was| *was != role);
    Ok(Linked { secret, name, role, was, enabled_again })
}

/// Opens a one-time link: a session, or `None` where the link was used, has expired or never was.
pub async fn open_link(conn: &mut Conn, moment: &mut Moment, secret: &str) -> Result<Option<Opened>> {
    let Some(operator_id) = operators::use_link(conn, &hash(secret), moment.now_ms).await? else { return Ok(None) };
    open_session(conn, moment, operator_id, "link").await
}

/// Opens a session for an operator whose password was verified.
pub async fn open_session(conn: &mut Conn, moment: &mut Moment, operator_id: Id, by: &str) -> Result<Option<Opened>> {
    let Some(operator) = operators::get(conn, operator_id).await?.filter(|operator| operator.disabled_at_ms.is_none()) else {
        return Ok(None);
    };
    let secret = Secret::plain(&moment.secret());
    let csrf = Secret::plain(&moment.secret()).reveal().to_owned();
    operators::insert_session(conn, &secret.hash(), operator_id, &csrf, moment.now_ms, moment.now_ms + SESSION_MS).await?;
    let actor = Actor { name: format!("operator:{}", operator.name), role: Role::Viewer, person: true };
    tell(conn, moment, &actor, "operator.signed_in", json!({"by": by})).await?;
    Ok(Some(Opened { secret, csrf, name: operator.name }))
}

/// Ends a session.
pub async fn sign_out(conn: &mut Conn, session_secret: &str) -> Result<()> {
    operators::delete_session(conn, &hash(session_secret)).await
}

/// argon2id of a password that is long enough, under a fresh salt ([`Moment::secret`]). Costs tens of milliseconds: call it where
/// blocking is allowed.
pub fn hash_password(password: &str, salt: &[u8; 32]) -> Result<String> {
    let length = password.chars().count();
    if !(PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX).contains(&length) {
        return Err(Error::invalid("/password", format!("take {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")));
    }
    Argon2::default()
        .hash_password_with_salt(password.as_bytes(), salt)
        .map(|hash| hash.to_string())
        .map_err(|_| Error::invalid("/password", "this password cannot be used"))
}

/// Checks a password; for a name that nobody has, against a hash of nothing, so that the time tells nobody which names exist.
pub fn verify_password(password: &str, stored: Option<&str>) -> bool {
    let parsed = PasswordHash::new(stored.unwrap_or(NOBODY));
    let fits = parsed.is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok());
    fits && stored.is_some()
}

/// Sets an operator's password and ends the sessions but the one whose secret is `keep`. Only the operator and administrators may.
pub async fn set_password(
    conn: &mut Conn,
    moment: &mut Moment,
    actor: &Actor,
    operator_id: Id,
    password_hash: &str,
    keep: &str,
) -> Result<()> {
    let operator = operators::get(conn, operator_id).await?.ok_or(Error::NotFound("operator"))?;
    if !(actor.person && actor.name == format!("operator:{}", operator.name)) {
        actor.require(Role::Admin)?;
    }
    operators::set_password(conn, operator_id, password_hash).await?;
    operators::delete_sessions(conn, operator_id, &hash(keep)).await?;
    tell(conn, moment, actor, "operator.password_set", json!({"operator_id": operator_id})).await
}

/// Ends all sessions of an operator; only the operator and administrators may.
pub async fn sign_out_everywhere(conn: &mut Conn, moment: &mut Moment, actor: &Actor, operator_id: Id) -> Result<()> {
    let operator = operators::get(conn, operator_id).await?.ok_or(Error::NotFound("operator"))?;
    if !(actor.person && actor.name == format!("operator:{}", operator.name)) {
        actor.require(Role::Admin)?;
    }
    operators::delete_sessions(conn, operator_id, "").await?;
    tell(conn, moment, actor, "operator.signed_out_everywhere", json!({"name": operator.name})).await
}

/// Refuses where nobody would be left who may do everything.
async fn spare_last_admin(conn: &mut Conn, operator: &OperatorRow) -> Result<()> {
    if operators::admins(conn).await? == [operator.id] {
        return Err(Error::refused("last_admin", format!("{} is the last administrator; add another one first", operator.name)));
    }
    Ok(())
}

/// Names of keys that are told where an operator is disabled.
pub const KEYS_TOLD_MAX: i64 = 50;

/// Disables an operator and ends all sessions. The last administrator stays, and so do the keys that the operator made: programs use them.
/// They are told, for somebody to look at.
pub async fn disable(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<()> {
    actor.require(Role::Admin)?;
    let operator = operators::get(conn, id).await?.ok_or(Error::NotFound("operator"))?;
    spare_last_admin(conn, &operator).await?;
    operators::disable(conn, id, moment.now_ms).await?;
    operators::delete_sessions(conn, id, "").await?;
    let shown = |enabled: bool| json!({"role": operator.role, "enabled": enabled});
    let before = shown(operator.disabled_at_ms.is_none());
    let keys = operators::keys_of(conn, &format!("operator:{}", operator.name), KEYS_TOLD_MAX).await?;
    let data = json!({"id": id, "name": operator.name, "keys_that_stand": keys, "before": before, "after": shown(false)});
    tell(conn, moment, actor, "operator.disabled", data).await
}

/// Makes an API key; its value is the answer, once.
pub async fn add_key(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str, role: Role) -> Result<String> {
    Ok(make_key(conn, moment, actor, name, role).await?.key)
}

/// An API key that was just made.
#[derive(Clone, Serialize, ToSchema)]
pub struct MadeKey {
    pub id: Id,
    pub name: String,
    pub role: Role,
    /// The value, shown once.
    pub key: String,
}

/// Makes an API key. Its name is the actor of what it does and the scope of its Idempotency-Keys, so no two that stand share one.
pub async fn make_key(conn: &mut Conn, moment: &mut Moment, actor: &Actor, name: &str, role: Role) -> Result<MadeKey> {
    actor.require(Role::Admin)?;
    let name = text::named("/name", name, 64)?;
    let secret = Secret::api_key(&moment.secret());
    let id = moment.id();
    let key = NewKey { id, name: name.clone(), role, hash: secret.hash(), created_by: actor.name.clone(), created_at_ms: moment.now_ms };
    if !operators::insert_key(conn, &key).await? {
        let detail = format!("a key named {name:?} stands already: take another name, or revoke that one first");
        return Err(Error::refused("name_taken", detail));
    }
    tell(
        conn,
        moment,
        actor,
        "key.created",
        json!({"id": id, "name": name, "role": role, "before": null, "after": {"name": name, "role": role}}),
    )
    .await?;
    Ok(MadeKey { id, name, role, key: secret.reveal().to_owned() })
}

/// Revokes an API key.
pub async fn revoke_key(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<()> {
    actor.require(Role::Admin)?;
    let Some(name) = operators::revoke_key(conn, id, moment.now_ms).await? else { return Err(Error::NotFound("key")) };
    let data = json!({"id": id, "name": name, "before": {"revoked": false}, "after": {"revoked": true}});
    tell(conn, moment, actor, "key.revoked", data).await
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, data: serde_json::Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: None, data }]).await
}
