//! Settings: the file, then `MUSTER_*` variables, then flags. Unknown ones are refused.

mod mail;
mod push;
mod telemetry;
mod webhooks;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

pub use mail::{Alarms, Mail};
pub use push::{ApnsApp, ApnsMdm, Fcm, Push};
use serde::{Deserialize, Serialize};
pub use telemetry::Telemetry;
pub use webhooks::Webhooks;

/// Why the settings cannot be used; the text names the setting.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// All settings of `muster serve`. Every one has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    pub reactivation: Reactivation,
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
    /// Reads the settings: `file` if it is there (a file that was asked for must be), then the variables.
    pub fn load(file: &Path, asked_for: bool, variables: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => String::new(),
            Err(error) => return Err(ConfigError(format!("{}: {error}", file.display()))),
        };
        let mut table: toml::Table = text.parse().map_err(|error| ConfigError(format!("{}: {error}", file.display())))?;
        for (path, value) in variables.filter_map(|(name, value)| Some((setting_of(&name)?, value))) {
            put(&mut table, &path, &value)?;
        }
        let config: Config =
            toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| ConfigError(format!("settings: {}", error.message())))?;
        config.check()?;
        Ok(config)
    }

    /// Refuses combinations that would be unsafe or could not work.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(self.public_url.starts_with("https://") || self.public_url.starts_with("http://")) {
            return Err(ConfigError("public_url must begin with https:// or http://".into()));
        }
        if self.mdm.ca_cert.is_some() != self.mdm.ca_key.is_some() {
            return Err(ConfigError("[mdm] ca_cert and ca_key stand together: set both or neither".into()));
        }
        self.mail.check().and_then(|()| self.alarms.check(&self.mail)).map_err(ConfigError)?;
        for listener in self.listening() {
            if !listener.tls && !listener.address.ip().is_loopback() && !self.behind_proxy {
                return Err(ConfigError(format!(
                    "{} would speak plain HTTP to the outside: set [tls] cert and key, or behind_proxy = true, or listen on 127.0.0.1",
                    listener.address
                )));
            }
            if listener.tls && self.tls.is_none() {
                return Err(ConfigError(format!("{} asks for TLS: set [tls] cert and key", listener.address)));
            }
        }
        Ok(())
    }

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
        self.database_url.starts_with("sqlite:")
    }

    /// The settings in force as TOML, secrets hidden.
    pub fn print(&self) -> String {
        let mut shown = self.clone();
        shown.secrets.key = shown.secrets.key.map(|_| "hidden".into());
        shown.database_url = hide_password(&shown.database_url);
        shown.mail.smtp_url = shown.mail.smtp_url.as_deref().map(hide_password);
        toml::to_string_pretty(&shown).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

/// `postgres://user:secret@host/db` without the secret.
pub fn hide_password(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (login, host))) => {
            let user = login.split(':').next().unwrap_or("");
            format!("{scheme}://{user}:hidden@{host}")
        }
        None => url.to_owned(),
    }
}

/// `MUSTER_PUSH__FCM__ENDPOINT` is `push.fcm.endpoint`; `MUSTER_SECRETS_KEY` is `secrets.key`.
fn setting_of(variable: &str) -> Option<Vec<String>> {
    let name = variable.strip_prefix("MUSTER_")?;
    // Read by the command line or by tests, not settings of the server.
    if matches!(name, "SERVER" | "KEY" | "CONFIG" | "LOG" | "REQUIRE_POSTGRES") {
        return None;
    }
    if name == "SECRETS_KEY" {
        return Some(vec!["secrets".into(), "key".into()]);
    }
    Some(name.to_ascii_lowercase().split("__").map(str::to_owned).collect())
}

fn put(table: &mut toml::Table, path: &[String], text: &str) -> Result<(), ConfigError> {
    let Some((last, parents)) = path.split_last() else { return Ok(()) };
    let mut at = table;
    for parent in parents {
        let entry = at.entry(parent.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut().ok_or_else(|| ConfigError(format!("{} is no section of the settings", path.join("."))))?;
    }
    // A value that reads as TOML (number, true, list) is one; anything else is text.
    let parsed = format!("v = {text}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    let value = parsed.filter(|value| !value.is_datetime()).unwrap_or_else(|| toml::Value::String(text.to_owned()));
    at.insert(last.clone(), value);
    Ok(())
}

/// The process's environment, for [`Config::load`].
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars().collect::<BTreeMap<_, _>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("muster.toml");
        std::fs::write(&path, file).unwrap();
        Config::load(&path, true, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn variables_win_over_the_file_and_nest_with_two_underscores() {
        let config = load(
            "database_url = \"sqlite://a.db\"\n[push.fcm]\nendpoint = \"http://127.0.0.1:1\"",
            &[
                ("MUSTER_DATABASE_URL", "sqlite://b.db"),
                ("MUSTER_PUSH__FCM__ENDPOINT", "http://127.0.0.1:2"),
                ("MUSTER_LIMITS__DEVICES_PER_USER", "3"),
            ],
        )
        .unwrap();
        assert_eq!(config.database_url, "sqlite://b.db");
        assert_eq!(config.push.fcm.unwrap().endpoint, "http://127.0.0.1:2");
        assert_eq!(config.limits.devices_per_user, 3);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let error = load("databse_url = \"x\"", &[]).unwrap_err().to_string();
        assert!(error.contains("databse_url") && error.contains("database_url"), "{error}");
    }

    #[test]
    fn plain_http_to_the_outside_needs_to_be_said() {
        let error = load("listen = \"0.0.0.0:80\"", &[]).unwrap_err().to_string();
        assert!(error.contains("behind_proxy"), "{error}");
        assert!(load("listen = \"0.0.0.0:80\"\nbehind_proxy = true", &[]).is_ok());
    }

    #[test]
    fn printing_hides_secrets() {
        let config = load("database_url = \"postgres://muster:pass@db/muster\"", &[("MUSTER_SECRETS_KEY", "c2VjcmV0")]).unwrap();
        let shown = config.print();
        assert!(!shown.contains("pass@") && !shown.contains("c2VjcmV0"), "{shown}");
        assert!(!format!("{config:?}").contains("c2VjcmV0"));
    }
}
