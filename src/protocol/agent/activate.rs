//! `POST /agent/v1/activate`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check::{self, ParseError};
use super::sync::PushAddress;
use crate::model::Fault;

/// The agent's own package, where a request names none.
const APP_DEFAULT: &str = "org.muster.agent";
const NAME_CHARS_MAX: usize = 256;

/// Silent activation.
#[derive(Clone, Deserialize, ToSchema)]
pub struct ActivateRequest {
    /// The enrollment token; absent where an earlier device token is the credential.
    #[serde(default)]
    pub token: Option<String>,
    /// Compared in lower case; may be absent when the token names a user.
    #[serde(default)]
    pub email: Option<String>,
    pub device: DeviceInfo,
    #[serde(default)]
    pub push: Option<PushAddress>,
}

impl std::fmt::Debug for ActivateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret, and an address reaches a person.
        f.debug_struct("ActivateRequest").field("token", &self.token.is_some()).field("device", &self.device).finish_non_exhaustive()
    }
}

/// What the agent says of its device.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct DeviceInfo {
    pub platform: Platform,
    /// Package or bundle id; the agent's own where it is absent.
    #[serde(default = "app_default", deserialize_with = "app_or_default")]
    pub app: String,
    pub hardware_id: String,
    #[serde(default)]
    pub serial: Option<String>,
    pub model: String,
    pub os_version: String,
    pub agent_version: String,
    pub management_mode: ManagementMode,
}

fn app_default() -> String {
    APP_DEFAULT.to_owned()
}

fn app_or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(app_default))
}

/// The platforms that the agent protocol serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    Android,
    Ios,
}

impl Platform {
    pub fn name(self) -> &'static str {
        match self {
            Platform::Android => "android",
            Platform::Ios => "ios",
        }
    }
}

/// The agent's power over its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ManagementMode {
    DeviceOwner,
    ProfileOwner,
    App,
}

impl ManagementMode {
    pub fn name(self) -> &'static str {
        match self {
            ManagementMode::DeviceOwner => "device_owner",
            ManagementMode::ProfileOwner => "profile_owner",
            ManagementMode::App => "app",
        }
    }
}

/// The answer to an activation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ActivateAnswer {
    pub device_id: crate::model::Id,
    pub device_token: String,
    pub sync_every_s: i64,
    pub next_sync_in_s: i64,
    pub server_time_ms: i64,
}

/// Reads an activation request.
pub fn parse_activate(bytes: &[u8]) -> Result<ActivateRequest, ParseError> {
    let request: ActivateRequest = check::whole(bytes)?;
    let device = &request.device;
    let fields = [
        ("/token", request.token.as_deref()),
        ("/email", request.email.as_deref()),
        ("/device/app", Some(device.app.as_str())),
        ("/device/hardware_id", Some(device.hardware_id.as_str())),
        ("/device/serial", device.serial.as_deref()),
        ("/device/model", Some(device.model.as_str())),
        ("/device/os_version", Some(device.os_version.as_str())),
        ("/device/agent_version", Some(device.agent_version.as_str())),
    ];
    let mut faults: Vec<Fault> = fields
        .into_iter()
        .filter_map(|(pointer, text)| check::text(text?, NAME_CHARS_MAX).err().map(|detail| Fault { pointer: pointer.into(), detail }))
        .collect();
    for (pointer, text) in [("/device/hardware_id", &device.hardware_id), ("/device/app", &device.app)] {
        if text.trim().is_empty() {
            faults.push(Fault { pointer: pointer.into(), detail: "must not be empty".into() });
        }
    }
    if let Some(fault) = request.push.as_ref().and_then(PushAddress::fault) {
        faults.push(fault);
    }
    if faults.is_empty() { Ok(request) } else { Err(ParseError::Invalid(faults)) }
}
