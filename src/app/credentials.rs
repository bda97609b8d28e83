//! The senders, as the settings and the stored credentials have them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::App;
use crate::clock::Clock;
use crate::config::{ApnsApp, ApnsMdm, Config, Fcm};
use crate::intake::authority;
use crate::push::apns::{self, AppKey, Identity};
use crate::push::{Sender, Senders, fcm};

/// Sealed credentials are named by this and the name of their sender.
pub const SEALED_PREFIX: &str = "push/";
const MDM_PREFIX: &str = "push/apns_mdm/";

/// The senders of the settings. Without a credential a sender waits for one: it can be set by the API at any time. Those of MDM topics
/// come with their certificates.
pub fn senders(config: &Config, clock: &Clock) -> anyhow::Result<Senders> {
    let mut senders = vec![
        Arc::new(fcm_sender(&config.push.fcm.clone().unwrap_or_default(), clock)?),
        Arc::new(app_sender(&config.push.apns_app.clone().unwrap_or_default(), clock)?),
    ];
    let mdm = config.push.apns_mdm.clone().unwrap_or_default();
    if let Some(sender) = mdm_sender(&mdm, clock)? {
        senders.push(Arc::new(sender));
    }
    Ok(Senders::from(senders))
}

fn fcm_wire_of(settings: &Fcm) -> fcm::Settings {
    fcm::Settings {
        endpoint: settings.endpoint.clone(),
        ca_file: settings.ca_file.clone(),
        quota_per_s: settings.quota_per_s,
        concurrency_max: settings.concurrency_max,
    }
}

fn fcm_sender(settings: &Fcm, clock: &Clock) -> anyhow::Result<Sender> {
    let sender = Sender::fcm(fcm_wire_of(settings), clock.clone())?;
    if let Some(path) = &settings.service_account {
        let json = std::fs::read(path).with_context(|| format!("[push.fcm] service_account = {}", path.display()))?;
        sender.replace_credential(&json).with_context(|| format!("[push.fcm] service_account = {}", path.display()))?;
    }
    Ok(sender)
}

fn app_wire_of(settings: &ApnsApp) -> apns::Settings {
    apns::Settings { endpoint: settings.endpoint.clone(), ca_file: settings.ca_file.clone() }
}

fn app_sender(settings: &ApnsApp, clock: &Clock) -> anyhow::Result<Sender> {
    let sender = Sender::apns_app(&app_wire_of(settings), clock.clone()).context("[push.apns_app]")?;
    if let Some(path) = &settings.key {
        let key = read(path, "[push.apns_app] key")?;
        let json = json!({"key": key, "key_id": settings.key_id, "team_id": settings.team_id, "topic": settings.topic});
        sender.replace_credential(json.to_string().as_bytes()).context("[push.apns_app]")?;
    }
    Ok(sender)
}

fn mdm_sender(settings: &ApnsMdm, clock: &Clock) -> anyhow::Result<Option<Sender>> {
    let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else {
        anyhow::ensure!(
            settings.certificate.is_none() && settings.key.is_none(),
            "[push.apns_mdm] certificate and key belong together: set both or neither"
        );
        // Settings that cannot work are told at the start, not when a certificate comes.
        Sender::apns_mdm(&wire_of(settings), "", clock.clone()).context("[push.apns_mdm]")?;
        return Ok(None);
    };
    let (certificate, key) = (read(certificate, "[push.apns_mdm] certificate")?, read(key, "[push.apns_mdm] key")?);
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).context("[push.apns_mdm]")?;
    let sender = Sender::apns_mdm(&wire_of(settings), identity.topic(), clock.clone()).context("[push.apns_mdm]")?;
    let json = json!({"certificate": certificate, "key": key});
    sender.replace_credential(json.to_string().as_bytes()).context("[push.apns_mdm]")?;
    Ok(Some(sender))
}

fn wire_of(settings: &ApnsMdm) -> apns::Settings {
    apns::Settings { endpoint: settings.endpoint.clone(), ca_file: settings.ca_file.clone() }
}

fn read(path: &Path, setting: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{setting} = {}", path.display()))
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

/// Takes a credential into use that is sealed under `name`; for an MDM topic without a sender, one is added. On an error everything
/// stays as it was.
pub fn take(senders: &Senders, config: &Config, clock: &Clock, name: &str, json: &[u8]) -> anyhow::Result<()> {
    let sender_name = name.strip_prefix(SEALED_PREFIX).unwrap_or(name);
    if let Some(sender) = senders.named(sender_name) {
        return Ok(sender.replace_credential(json)?);
    }
    let topic = name.strip_prefix(MDM_PREFIX).context("no sender has this name")?;
    let sender = Sender::apns_mdm(&wire_of(&config.push.apns_mdm.clone().unwrap_or_default()), topic, clock.clone())?;
    sender.replace_credential(json)?;
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

    /// As [`take`], in the running server.
    pub fn use_credential(&self, name: &str, json: &[u8]) -> anyhow::Result<()> {
        take(&self.senders, &self.config, &self.clock, name, json)
    }
}
