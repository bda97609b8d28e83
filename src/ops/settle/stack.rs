//! What the policies of a stack come to, for each kind of channel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::held::documents;
use super::{StackItem, tokens};
use crate::clock::Moment;
use crate::error::Result;
use crate::policy::apple::Whose;
use crate::policy::{self, android, apple, merge, variables};
use crate::store::Conn;
use crate::store::stacks::{self, Follower, StackRow};

/// The id of the stack of these policies, made where there is none.
pub(super) async fn ensure_stack(conn: &mut Conn, moment: &Moment, items: &[StackItem]) -> Result<String> {
    let text = serde_json::to_string(items).unwrap_or_else(|_| "[]".into());
    let id = short_hash(&text);
    if stacks::stack(conn, &id).await?.is_some() {
        return Ok(id);
    }
    let merged = merge::merge(&documents(conn, items).await?);
    let stack = Stack {
        items: items.to_vec(),
        agent: Compiled::of(android::compile(&merged)),
        device: Compiled::of(apple::compile(&merged, Whose::Device)),
        users: Compiled::of(apple::compile(&merged, Whose::Users)),
    };
    let row = StackRow {
        id: id.clone(),
        items: text,
        document: stack.agent.document.to_string(),
        version: stack.agent.version,
        variables: json!(stack.agent.variables).to_string(),
        apple: json!({"device": stack.device, "users": stack.users}).to_string(),
    };
    stacks::insert_stack(conn, &row, moment.now_ms).await?;
    Ok(id)
}

/// A stack as stored; `None` for a channel before its first settling. Stacks are never deleted while they are pointed to: one that is
/// missing is an error, not an empty document.
pub(super) async fn stored(conn: &mut Conn, id: &str) -> Result<Option<StackRow>> {
    if id.is_empty() {
        return Ok(None);
    }
    Ok(Some(stacks::stack(conn, id).await?.ok_or(sqlx::Error::RowNotFound)?))
}

/// A stack at hand: what it is for each kind of channel.
pub(super) struct Stack {
    /// The policies that it is made of, strongest first.
    pub items: Vec<StackItem>,
    agent: Compiled,
    device: Compiled,
    users: Compiled,
}

/// A document as one kind of channel is given it, its variables not yet resolved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Compiled {
    pub document: Value,
    version: String,
    pub variables: Vec<String>,
}

/// The part of a stack's row that is Apple's.
#[derive(Deserialize)]
struct AppleParts {
    device: Compiled,
    users: Compiled,
}

impl Stack {
    pub async fn load(conn: &mut Conn, id: &str) -> Result<Stack> {
        Ok(Stack::of(stored(conn, id).await?.as_ref()))
    }

    /// Before its first settling a channel has the empty document.
    pub fn of(row: Option<&StackRow>) -> Stack {
        let nothing = || Compiled::of(apple::compile(&json!({}), Whose::Device));
        let Some(row) = row else {
            return Stack { items: Vec::new(), agent: Compiled::of(json!({})), device: nothing(), users: nothing() };
        };
        let agent = Compiled {
            document: serde_json::from_str(&row.document).unwrap_or_else(|_| json!({})),
            version: row.version.clone(),
            variables: serde_json::from_str(&row.variables).unwrap_or_default(),
        };
        let apple = serde_json::from_str(&row.apple).unwrap_or_else(|_| AppleParts { device: nothing(), users: nothing() });
        let items = serde_json::from_str(&row.items).unwrap_or_default();
        Stack { items, agent, device: apple.device, users: apple.users }
    }

    /// What it is for this channel.
    pub fn of_channel(&self, follower: &Follower) -> &Compiled {
        match (follower.kind.as_str(), follower.subject.as_str()) {
            ("agent", _) => &self.agent,
            (_, "") => &self.device,
            _ => &self.users,
        }
    }

    /// The names of the enrollment tokens that its documents refer to.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        [&self.agent, &self.device, &self.users].into_iter().flat_map(tokens::names)
    }

    /// True where one of its documents has this variable.
    pub fn references(&self, variable: &str) -> bool {
        [&self.agent, &self.device, &self.users].into_iter().any(|one| one.variables.iter().any(|name| name == variable))
    }
}

impl Compiled {
    fn of(document: Value) -> Compiled {
        let variables: Vec<String> = variables::names(&document).into_iter().collect();
        Compiled { version: policy::version(&document, &[]), document, variables }
    }

    /// What a document of policies is for this channel.
    pub fn for_channel(document: &Value, follower: &Follower) -> Compiled {
        Compiled::of(match (follower.kind.as_str(), follower.subject.as_str()) {
            ("agent", _) => android::compile(document),
            (_, "") => apple::compile(document, Whose::Device),
            _ => apple::compile(document, Whose::Users),
        })
    }

    /// The variables that have no value for this channel.
    pub fn missing(&self, follower: &Follower, address: &str) -> Vec<String> {
        let lacks = |name: &&String| value_of(follower, address, name).is_none_or(|value| value.is_empty());
        self.variables.iter().filter(lacks).cloned().collect()
    }

    /// True where it declares nothing to an Apple device.
    pub fn is_empty(&self) -> bool {
        ["declarations", "payloads"].iter().all(|list| self.document[list].as_array().is_none_or(Vec::is_empty))
    }

    /// The version for one channel, or the first variable that has no value.
    pub fn desired(&self, follower: &Follower, address: &str) -> std::result::Result<String, String> {
        if self.variables.is_empty() {
            return Ok(self.version.clone());
        }
        let mut values = Vec::with_capacity(self.variables.len());
        for name in &self.variables {
            let value = value_of(follower, address, name).filter(|value| !value.is_empty()).ok_or_else(|| name.clone())?;
            values.push((name.clone(), value));
        }
        Ok(policy::version(&self.document, &values))
    }
}

/// What a variable stands for on this channel.
pub(super) fn value_of(follower: &Follower, address: &str, name: &str) -> Option<String> {
    match name {
        "user.email" => follower.email.clone(),
        "user.name" => follower.name.clone(),
        "user.id" => follower.user_id.map(|id| id.to_string()),
        "device.id" => Some(follower.device_id.to_string()),
        "device.serial" => follower.serial.clone(),
        "device.model" => Some(follower.model.clone()),
        "device.os_version" => Some(follower.os_version.clone()),
        "device.platform" => Some(follower.platform.clone()),
        "server.address" => Some(address.to_owned()),
        _ => {
            if let Some(token) = name.strip_prefix(variables::TOKEN) {
                return tokens::identity(follower, token);
            }
            let key = name.strip_prefix("user.attributes.")?;
            let attributes: BTreeMap<String, Value> = serde_json::from_str(follower.attributes.as_deref()?).ok()?;
            attributes.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        }
    }
}

pub(super) fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
