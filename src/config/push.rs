//! The settings of the push providers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The push providers; none is needed to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fcm: Option<Fcm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apns_mdm: Option<ApnsMdm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apns_app: Option<ApnsApp>,
}

/// Apple's push service for devices under MDM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApnsMdm {
    /// The MDM push certificate and its key, PEM; one set by the API for the same topic wins over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    pub endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Apple's push service for our app on iOS.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApnsApp {
    /// The .p8 file; a credential set by the API wins over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    pub key_id: String,
    pub team_id: String,
    /// The app's bundle id.
    pub topic: String,
    pub endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

const APNS: &str = "https://api.push.apple.com";

impl Default for ApnsMdm {
    fn default() -> ApnsMdm {
        ApnsMdm { certificate: None, key: None, endpoint: APNS.into(), ca_file: None }
    }
}

impl Default for ApnsApp {
    fn default() -> ApnsApp {
        let (key_id, team_id, topic) = <(String, String, String)>::default();
        ApnsApp { key: None, key_id, team_id, topic, endpoint: APNS.into(), ca_file: None }
    }
}

/// Firebase Cloud Messaging, HTTP v1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fcm {
    /// The service account's JSON file; a credential set by the API wins over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<PathBuf>,
    pub endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Messages per second at most, of all servers on one database together: four fifths of the project's quota.
    pub quota_per_s: u32,
    /// Requests in flight at most.
    pub concurrency_max: u32,
}

impl Default for Fcm {
    fn default() -> Fcm {
        Fcm {
            service_account: None,
            endpoint: "https://fcm.googleapis.com".into(),
            ca_file: None,
            quota_per_s: 8_000,
            concurrency_max: 1_600,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fcm;

    #[test]
    fn a_server_without_settings_has_the_senders_own_limits() {
        let (ours, theirs) = (Fcm::default(), crate::push::fcm::Settings::default());
        assert_eq!((ours.quota_per_s, ours.concurrency_max), (theirs.quota_per_s, theirs.concurrency_max));
    }
}
