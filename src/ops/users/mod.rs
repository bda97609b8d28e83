//! Users: made, changed, disabled, deleted.

pub mod offboarding;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Denial, Id, Lane, Role, nullable};
use crate::ops::{devices as device_ops, settle};
use crate::store::feed::{self, Entry};
use crate::store::users::{self, UserRow};
use crate::store::{Conn, devices};

const NAME_CHARS_MAX: usize = 256;
const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_NAME_CHARS_MAX: usize = 64;
const ATTRIBUTE_CHARS_MAX: usize = 4096;

/// A user as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct User {
    pub id: Id,
    pub email: String,
    pub name: String,
    pub enabled: bool,
    /// Devices this user may have, 0 for any number; null for the server's setting.
    pub device_limit: Option<i64>,
    /// Values for `{{user.attributes.NAME}}`: texts, numbers, true or false.
    pub attributes: BTreeMap<String, Value>,
    pub created_at_ms: i64,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> User {
        User {
            id: row.id,
            email: row.email,
            name: row.name,
            enabled: row.state == "enabled",
            device_limit: row.device_limit,
            attributes: serde_json::from_str(&row.attributes).unwrap_or_default(),
            created_at_ms: row.created_at_ms,
        }
    }
}

/// A user to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    pub email: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub device_limit: Option<i64>,
    #[serde(default)]
    pub attributes: BTreeMap<String, Value>,
}

/// What changes of a user; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    pub email: Option<String>,
    pub name: Option<String>,
    pub enabled: Option<bool>,
    /// 0 for any number, null for the server's setting.
    #[serde(default, deserialize_with = "nullable::given")]
    #[schema(value_type = Option<i64>)]
    pub device_limit: Option<Option<i64>>,
    /// Replaces all of them.
    pub attributes: Option<BTreeMap<String, Value>>,
}

/// Makes a user; 409 `email_taken` where another has the address.
pub async fn create(conn: &mut Conn, moment: &mut Moment, actor: &Actor, new: &NewUser) -> Result<User> {
    actor.require(Role::Operator)?;
    let row = UserRow {
        id: moment.id(),
        email: email(&new.email)?,
        name: name(&new.name)?,
        state: "enabled".into(),
        device_limit: limit(new.device_limit)?,
        attributes: attributes(&new.attributes)?,
        created_at_ms: moment.now_ms,
        updated_at_ms: moment.now_ms,
    };
    if !users::insert(conn, &row).await? {
        return Err(taken(&row.email));
    }
    let data = json!({"id": row.id, "email": row.email, "before": null, "after": shown(&row)});
    tell(conn, moment, actor, "user.created", data).await?;
    Ok(row.into())
}

/// Changes a user. Disabling denies its devices, enabling lifts only that; a changed value reaches exactly its devices.
pub async fn change(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, patch: &UserPatch) -> Result<User> {
    actor.require(Role::Operator)?;
    let before = live(conn, id).await?;
    let mut row = before.clone();
    if let Some(text) = &patch.email {
        row.email = email(text)?;
    }
    if let Some(text) = &patch.name {
        row.name = name(text)?;
    }
    if let Some(most) = patch.device_limit {
        row.device_limit = limit(most)?;
    }
    if let Some(map) = &patch.attributes {
        row.attributes = attributes(map)?;
    }
    if let Some(enabled) = patch.enabled {
        row.state = if enabled { "enabled" } else { "disabled" }.into();
    }
    row.updated_at_ms = moment.now_ms;
    if !users::update(conn, &row).await? {
        return Err(taken(&row.email));
    }
    let devices = users::device_ids(conn, id).await?;
    match (before.state == row.state, row.state.as_str()) {
        (true, _) => Vec::new(),
        (false, "disabled") => device_ops::deny(conn, moment, actor, &devices, Denial::UserDisabled).await?,
        (false, _) => device_ops::lift(conn, moment, actor, &devices, Some(Denial::UserDisabled)).await?,
    };
    if (&row.email, &row.name, &row.attributes) != (&before.email, &before.name, &before.attributes) {
        settle::devices(conn, moment, &devices, Lane::Change).await?;
        for device in &devices {
            if let Some(device) = devices::get(conn, *device).await? {
                device_ops::reindex(conn, &device, Some(&row)).await?;
            }
        }
    }
    let data = json!({"id": id, "before": shown(&before), "after": shown(&row)});
    tell(conn, moment, actor, "user.changed", data).await?;
    Ok(row.into())
}

/// Deletes a user: its devices delete the app's data; its e-mail address is free again.
pub async fn delete(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<()> {
    actor.require(Role::Operator)?;
    let mut row = live(conn, id).await?;
    let before = shown(&row);
    row.state = "deleted".into();
    row.updated_at_ms = moment.now_ms;
    users::update(conn, &row).await?;
    let devices = users::device_ids(conn, id).await?;
    device_ops::deny(conn, moment, actor, &devices, Denial::UserDeleted).await?;
    tell(
        conn,
        moment,
        actor,
        "user.deleted",
        json!({"id": id, "email": row.email, "devices": devices.len(), "before": before, "after": null}),
    )
    .await
}

/// A user that is not deleted, its row locked.
async fn live(conn: &mut Conn, id: Id) -> Result<UserRow> {
    users::locked(conn, id).await?.filter(|user| user.state != "deleted").ok_or(Error::NotFound("user"))
}

fn shown(row: &UserRow) -> serde_json::Value {
    let attributes: Value = serde_json::from_str(&row.attributes).unwrap_or_default();
    json!({"email": row.email, "name": row.name, "state": row.state, "device_limit": row.device_limit, "attributes": attributes})
}

fn taken(email: &str) -> Error {
    Error::refused("email_taken", format!("another user has the address {email}"))
}

fn email(text: &str) -> Result<String> {
    let email = text.trim().to_lowercase();
    let plausible = email.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
    if !plausible || email.chars().count() > 254 || email.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid("/email", "this is no e-mail address"));
    }
    Ok(email)
}

fn name(text: &str) -> Result<String> {
    crate::model::text::checked("/name", text, NAME_CHARS_MAX)
}

fn limit(limit: Option<i64>) -> Result<Option<i64>> {
    match limit {
        Some(..0) => Err(Error::invalid("/device_limit", "must be 0 or more")),
        limit => Ok(limit),
    }
}

fn attributes(map: &BTreeMap<String, Value>) -> Result<String> {
    if map.len() > ATTRIBUTES_MAX {
        return Err(Error::invalid("/attributes", format!("at most {ATTRIBUTES_MAX}")));
    }
    for (key, value) in map {
        let pointer = format!("/attributes/{}", key.replace('~', "~0").replace('/', "~1"));
        crate::model::text::named(&pointer, key, ATTRIBUTE_NAME_CHARS_MAX)?;
        match value {
            Value::String(text) => crate::model::text::checked(&pointer, text, ATTRIBUTE_CHARS_MAX).map(drop)?,
            Value::Number(_) | Value::Bool(_) => {}
            _ => return Err(Error::invalid(pointer, "take a text, a number, true or false")),
        }
    }
    Ok(serde_json::to_string(map).unwrap_or_else(|_| "{}".into()))
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, data: serde_json::Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: None, data }]).await
}
