//! Settings: the file, then `MUSTER_*` variables, then flags. Unknown ones are refused.

mod check;
mod mail;
mod push;
mod read;
mod show;
mod telemetry;
mod webhooks;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use mail::{Alarms, Mail};
pub use push::{ApnsApp, ApnsMdm, Fcm, Push};
pub use read::environment;
use serde::{Deserialize, Serialize};
pub use show::hide_password;
pub use telemetry::Telemetry;
pub use webhooks::Webhooks;

/// How the URL of an embedded database begins.
const SQLITE: &str = "sqlite://";

/// Why the settings cannot be used; the text names the setting.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// All settings of `muster serve`. Every one has a default. Its Debug hides what is secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the one plain listener; with `[tls]` it speaks TLS.
    pub listen: SocketAddr,
    /// Several listeners instead of `listen`.
    #[serde(rename = "listener", skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// How devices and operators reach the server.
    pub public_url: String,
    /// Allows plain HTTP on other addresses than loopback: a proxy in front speaks TLS.
    pub behind_proxy: bool,
    /// Addresses whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpAddr>,
    pub database_url: String,
    pub data_dir: PathBuf,
    /// Whether `serve` brings the schema up to date by itself.
    pub migrate: bool,
    pub secrets: Secrets,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    pub push: Push,
    pub mdm: Mdm,
    pub agent: Agent,
    pub limits: Limits,
    pub retention: Retention,
    pub mail: Mail,
    pub alarms: Alarms,
    pub webhooks: Webhooks,
    pub telemetry: Telemetry,
}

/// One of several listeners.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub address: SocketAddr,
    #[serde(default)]
    pub tls: bool,
    /// Which parts of the server it serves; all unless named.
    #[serde(default = "Part::all")]
    pub serves: Vec<Part>,
}

/// A part of the URL table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Agent,
    Mdm,
    Console,
    Api,
}

impl Part {
    /// Every part.
    pub fn all() -> Vec<Part> {
        vec![Part::Agent, Part::Mdm, Part::Console, Part::Api]
    }
}

/// Where the master key of the sealed secrets comes from.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// 32 random bytes, raw or base64; `data_dir/secret.key` unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The key itself, base64 (`MUSTER_SECRETS_KEY`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("key_file", &self.key_file).field("key", &self.key.as_ref().map(|_| "hidden")).finish()
    }
}

/// Certificate and key of the TLS listeners, PEM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Apple devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mdm {
    /// Certificate and key of the CA that issues the identities of devices, PEM; made at first start unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_key: Option<PathBuf>,
    /// The header in which a trusted proxy hands on the client's certificate: `Client-Cert`, `X-Client-Cert`...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_client_cert_header: Option<String>,
    /// Whether only certificates that this server issued let a new device in.
    pub require_known_certificate: bool,
    /// How old what a device told of itself may be before it is asked again; 0 for never.
    pub refresh_every_s: i64,
    /// Whether a device that is enrolled may enroll again under another token without an operator.
    pub allow_reenrollment: bool,
    /// Whether devices sign their messages, for servers that do not see the devices' TLS.
    pub sign_message: bool,
    /// Whether users with network accounts are managed on Macs as local ones are.
    pub network_users: bool,
}

impl Default for Mdm {
    fn default() -> Mdm {
        Mdm {
            ca_cert: None,
            ca_key: None,
            proxy_client_cert_header: None,
            require_known_certificate: true,
            refresh_every_s: 10_800,
            allow_reenrollment: false,
            sign_message: true,
            network_users: false,
        }
    }
}

/// The agent protocol.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    pub reactivation: Reactivation,
    /// The kinds of servers that agents may get service tokens for.
    pub audiences: Vec<String>,
}

impl Default for Agent {
    fn default() -> Agent {
        Agent { reactivation: Reactivation::default(), audiences: vec!["storage".into()] }
    }
}

/// What becomes of known hardware that activates again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reactivation {
    /// The same user with the same enrollment token takes the device over.
    #[default]
    Replace,
    /// An operator admits every re-activation.
    Approve,
}

/// Limits that an operator may want to set; 0 means none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub devices_per_user: i64,
    pub wipes_per_hour: i64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { devices_per_user: 0, wipes_per_hour: 10 }
    }
}

/// How long history is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    pub tasks_days: i64,
    pub events_days: i64,
    pub feed_days: i64,
    pub contacts_days: i64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { tasks_days: 180, events_days: 180, feed_days: 90, contacts_days: 14 }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            listeners: Vec::new(),
            public_url: "http://127.0.0.1:8080".into(),
            behind_proxy: false,
            trusted_proxies: Vec::new(),
            database_url: "sqlite://data/muster.db".into(),
            data_dir: "data".into(),
            migrate: true,
            secrets: Secrets::default(),
            tls: None,
            push: Push::default(),
            mdm: Mdm::default(),
            agent: Agent::default(),
            limits: Limits::default(),
            retention: Retention::default(),
            mail: Mail::default(),
            alarms: Alarms::default(),
            webhooks: Webhooks::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Config {
    /// The listeners in force.
    pub fn listening(&self) -> Vec<Listener> {
        if self.listeners.is_empty() {
            return vec![Listener { address: self.listen, tls: self.tls.is_some(), serves: Part::all() }];
        }
        self.listeners.clone()
    }

    /// True where cookies must be Secure.
    pub fn public_url_is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// True for an embedded database, whose master key may be made at first start.
    pub fn is_sqlite(&self) -> bool {
        self.database_url.starts_with(SQLITE)
    }

    /// The file of an embedded database.
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        let path = self.database_url.strip_prefix(SQLITE)?;
        Some(path.split('?').next().unwrap_or(path).into())
    }
}
