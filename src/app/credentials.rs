//! The senders, as the settings and the stored credentials have them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::App;
use crate::clock::Clock;
use crate::config::{ApnsApp, ApnsMdm, Config, Fcm};
use crate::intake::authority;
use crate::push::apns::{self, AppKey, Identity};
use crate::push::{CredentialSource, Sender, Senders, fcm};

/// Sealed credentials are named by this and the name of their sender.
pub const SEALED_PREFIX: &str = "push/";
const MDM_PREFIX: &str = "push/apns_mdm/";

/// The senders of the settings, with the credentials in their files. Without one a sender waits for it: it can be set by the API at any
/// time. Those of MDM topics come with their certificates.
pub fn senders(config: &Config, clock: &Clock) -> anyhow::Result<Senders> {
    let push = &config.push;
    // Settings that cannot work are told at the start, not when a credential comes.
    let mdm = push.apns_mdm.clone().unwrap_or_default();
    anyhow::ensure!(
        mdm.certificate.is_some() == mdm.key.is_some(),
        "[push.apns_mdm] certificate and key belong together: set both or neither"
    );
    Sender::apns_mdm(&wire_of(&mdm), "", clock.clone()).context("[push.apns_mdm]")?;
    let senders = Senders::from(vec![
        Arc::new(Sender::fcm(fcm_wire_of(&push.fcm.clone().unwrap_or_default()), clock.clone())?),
        Arc::new(Sender::apns_app(&app_wire_of(&push.apns_app.clone().unwrap_or_default()), clock.clone()).context("[push.apns_app]")?),
    ]);
    for file in files(config) {
        let json = file.json?;
        let name = name_of(file.setting, &json).with_context(|| file.shown.clone())?;
        take(&senders, config, clock, &name, &json, CredentialSource::File).with_context(|| file.shown.clone())?;
        senders.was_read(file.setting, &json);
    }
    Ok(senders)
}

/// A credential in files that the settings name.
pub struct CredentialFile {
    /// The setting: `push.fcm`, `push.apns_app` or `push.apns_mdm`.
    pub setting: &'static str,
    /// The setting with its path, as operators are told of it.
    pub shown: String,
    /// In the form that [`Sender::replace_credential`] takes.
    json: anyhow::Result<Vec<u8>>,
}

impl std::fmt::Debug for CredentialFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialFile").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl CredentialFile {
    /// SHA-256 of what it holds, or of why it cannot be read.
    pub fn fingerprint(&self) -> [u8; 32] {
        match &self.json {
            Ok(json) => Sha256::digest(json).into(),
            Err(error) => Sha256::digest(format!("{error:#}")).into(),
        }
    }
}

fn files(config: &Config) -> Vec<CredentialFile> {
    let push = &config.push;
    let mut files = Vec::new();
    let mut add = |setting, key: &str, path: &Path, json: &dyn Fn() -> anyhow::Result<Vec<u8>>| {
        let shown = format!("[{setting}] {key} = {}", path.display());
        let json = json().with_context(|| shown.clone());
        files.push(CredentialFile { setting, shown, json });
    };
    if let Some(path) = push.fcm.as_ref().and_then(|fcm| fcm.service_account.as_ref()) {
        add("push.fcm", "service_account", path, &|| Ok(std::fs::read(path)?));
    }
    if let Some((app, path)) = push.apns_app.as_ref().and_then(|app| Some((app, app.key.as_ref()?))) {
        add("push.apns_app", "key", path, &|| {
            let key = std::fs::read_to_string(path)?;
            let json = json!({"key": key, "key_id": app.key_id, "team_id": app.team_id, "topic": app.topic});
            Ok(json.to_string().into_bytes())
        });
    }
    if let Some((certificate, key)) = push.apns_mdm.as_ref().and_then(|mdm| mdm.certificate.as_ref().zip(mdm.key.as_ref())) {
        add("push.apns_mdm", "certificate", certificate, &|| {
            let key = std::fs::read_to_string(key).with_context(|| format!("key = {}", key.display()))?;
            Ok(json!({"certificate": std::fs::read_to_string(certificate)?, "key": key}).to_string().into_bytes())
        });
    }
    files
}

/// The name under which the API would keep it.
fn name_of(setting: &str, json: &[u8]) -> anyhow::Result<String> {
    match setting {
        "push.apns_mdm" => Ok(format!("{MDM_PREFIX}{}", Identity::parse(json)?.topic())),
        setting => Ok(setting.replace('.', "/")),
    }
}

fn fcm_wire_of(settings: &Fcm) -> fcm::Settings {
    fcm::Settings {
        endpoint: settings.endpoint.clone(),
        ca_file: settings.ca_file.clone(),
        quota_per_s: settings.quota_per_s,
        concurrency_max: settings.concurrency_max,
    }
}

fn app_wire_of(settings: &ApnsApp) -> apns::Settings {
    apns::Settings { endpoint: settings.endpoint.clone(), ca_file: settings.ca_file.clone() }
}

fn wire_of(settings: &ApnsMdm) -> apns::Settings {
    apns::Settings { endpoint: settings.endpoint.clone(), ca_file: settings.ca_file.clone() }
}

/// Whether a credential could be used under `name` at `now_ms`: everything that [`take`] would find out, before anything is changed.
/// A certificate that has ended is refused here, for nobody means to begin with one.
pub fn check(config: &Config, now_ms: i64, name: &str, json: &[u8]) -> anyhow::Result<()> {
    let push = &config.push;
    match name {
        "push/fcm" => Ok(fcm_wire_of(&push.fcm.clone().unwrap_or_default()).check(json)?),
        "push/apns_app" => {
            AppKey::parse(json)?;
            app_wire_of(&push.apns_app.clone().unwrap_or_default()).check(None)
        }
        _ => {
            let topic = name.strip_prefix(MDM_PREFIX).context("no sender has this name")?;
            let identity = Identity::current(json, now_ms)?;
            anyhow::ensure!(identity.topic() == topic, "the certificate is for the topic {}", identity.topic());
            wire_of(&push.apns_mdm.clone().unwrap_or_default()).check(Some(&identity))
        }
    }
}

/// Takes a credential into use that is, or would be, sealed under `name`; for an MDM topic without a sender, one is added. On an error
/// everything stays as it was.
pub fn take(senders: &Senders, config: &Config, clock: &Clock, name: &str, json: &[u8], from: CredentialSource) -> anyhow::Result<()> {
    if let Some(sender) = senders.named(name.strip_prefix(SEALED_PREFIX).unwrap_or(name)) {
        sender.replace_credential(json)?;
        sender.came_from(from);
        return Ok(());
    }
    let topic = name.strip_prefix(MDM_PREFIX).context("no sender has this name")?;
    let sender = Sender::apns_mdm(&wire_of(&config.push.apns_mdm.clone().unwrap_or_default()), topic, clock.clone())?;
    sender.replace_credential(json)?;
    sender.came_from(from);
    senders.add(sender);
    Ok(())
}

impl App {
    /// Takes over a device CA that another process has put in the place of the one in use.
    pub async fn follow_device_ca(&self) -> crate::error::Result<()> {
        authority::follow(self).await
    }

    /// As [`check`], for the running server.
    pub fn check_credential(&self, name: &str, json: &[u8]) -> anyhow::Result<()> {
        check(&self.config, self.clock.now_ms(), name, json)
    }

    /// As [`take`], in the running server, for one that the API has set.
    pub fn use_credential(&self, name: &str, json: &[u8]) -> anyhow::Result<()> {
        take(&self.senders, &self.config, &self.clock, name, json, CredentialSource::Api)
    }

    /// Stops using the credential that the API had set under `name`. One that a file of the settings holds takes its place.
    pub fn drop_credential(&self, name: &str) {
        if let Some((setting, json)) = self.filed(name)
            && self.use_file(name, &json).is_ok()
        {
            self.senders.was_read(setting, &json);
            return;
        }
        if let Some(sender) = self.senders.named(name.strip_prefix(SEALED_PREFIX).unwrap_or(name)) {
            sender.remove_credential();
        }
        // What the file holds was passed over while the API's stood.
        let setting: Vec<&str> = name.split('/').take(2).collect();
        self.senders.read_again(&setting.join("."));
    }

    /// The project, or the topic, that the credential in use of `name` is for, and the one that `json` is for: devices hear under one alone. Of
    /// an MDM push certificate it is the name that tells.
    pub fn meant(&self, name: &str, json: &[u8]) -> (Option<String>, Option<String>) {
        let status = self.senders.named(name.strip_prefix(SEALED_PREFIX).unwrap_or(name)).map(|sender| sender.status());
        let in_use = status.and_then(|status| status.project_id.or(status.topic));
        let key = if name == "push/fcm" { "project_id" } else { "topic" };
        let json: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        (in_use, json[key].as_str().map(str::to_owned))
    }

    /// What a file of the settings holds that could be used in the place of the credential that the API has set under `name`, for the same
    /// project or topic.
    pub fn filed(&self, name: &str) -> Option<(&'static str, Vec<u8>)> {
        files(&self.config).into_iter().find_map(|file| {
            let json = file.json.ok()?;
            let (in_use, comes) = self.meant(name, &json);
            let is_same = name.starts_with(MDM_PREFIX) || in_use == comes;
            let is_usable = || self.check_credential(name, &json).is_ok();
            (is_same && name_of(file.setting, &json).is_ok_and(|held| held == name) && is_usable()).then_some((file.setting, json))
        })
    }

    /// The files of credentials that the settings name.
    pub fn credential_files(&self) -> Vec<CredentialFile> {
        files(&self.config)
    }

    /// What a file holds, with the name under which the API would keep it; `None` where that was taken, or passed over, before.
    pub fn fresh_in(&self, file: &CredentialFile) -> anyhow::Result<Option<(String, Vec<u8>)>> {
        let json = file.json.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        if self.senders.is_read(file.setting, json) {
            return Ok(None);
        }
        let name = name_of(file.setting, json).with_context(|| file.shown.clone())?;
        Ok(Some((name, json.clone())))
    }

    /// As [`App::use_credential`], for one of a file.
    pub fn use_file(&self, name: &str, json: &[u8]) -> anyhow::Result<()> {
        take(&self.senders, &self.config, &self.clock, name, json, CredentialSource::File)
    }
}
