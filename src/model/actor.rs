//! Who does something, and what they may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What an operator or an API key may do; each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Runs tasks; edits labels, users, policies.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Role, String> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "operator" => Ok(Role::Operator),
            "admin" => Ok(Role::Admin),
            _ => Err(format!("{text:?} is no role; take viewer, operator or admin")),
        }
    }
}

/// Who acts. `name` is what the feed and the audit show: `operator:NAME`, `key:NAME`, `device:ID` or `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub role: Role,
    /// True for a person at the console; an API key is never the second approver.
    pub person: bool,
}

impl Actor {
    /// The server itself.
    pub fn server() -> Actor {
        Actor { name: "server".to_owned(), role: Role::Admin, person: false }
    }

    /// Refuses unless the role suffices; every function of `ops` that an operator can reach asks first.
    pub fn require(&self, role: Role) -> Result<()> {
        if self.role >= role {
            return Ok(());
        }
        Err(Error::refused("role_insufficient", format!("this needs the role {role}; {} has {}", self.name, self.role)))
    }
}
