//! Check-in messages: a device speaks of its enrollment.

use std::fmt;

use super::message::{Enrollee, Message, MessageError};

/// A push token may have so many bytes; today's have 32.
const TOKEN_BYTES_MAX: usize = 256;
/// An unlock or bootstrap token may have so many bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;
/// What declarative management sends at most.
const DATA_BYTES_MAX: usize = 1024 * 1024;

/// A check-in message and who sent it.
#[derive(Clone, Debug)]
pub struct Checkin {
    pub from: Enrollee,
    pub message: CheckinMessage,
}

/// What it says.
#[derive(Clone, Debug)]
pub enum CheckinMessage {
    Authenticate(Authenticate),
    TokenUpdate(TokenUpdate),
    CheckOut,
    /// A user with a network account logs in on a Mac; `answers` where the Mac has been asked for more.
    UserAuthenticate {
        answers: bool,
    },
    SetBootstrapToken(Option<Secret>),
    GetBootstrapToken,
    GetToken,
    DeclarativeManagement {
        endpoint: String,
        data: Option<Vec<u8>>,
    },
}

/// The first message of an enrollment.
#[derive(Clone, Debug, Default)]
pub struct Authenticate {
    pub topic: String,
    pub model: String,
    /// `iPhone15,2`, `Mac14,2`: what tells the platform.
    pub product: String,
    pub os_version: String,
    pub serial: Option<String>,
    pub device_name: Option<String>,
}

/// Where the device can be nudged from now on.
#[derive(Clone, Debug)]
pub struct TokenUpdate {
    pub topic: String,
    /// Lower-case hex.
    pub token: String,
    pub push_magic: Secret,
    pub unlock_token: Option<Secret>,
    /// True while it sits in Setup Assistant and waits for DeviceConfigured.
    pub awaiting_configuration: bool,
}

/// Bytes that nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Checkin {
    /// Reads a check-in message.
    pub fn of(message: &Message) -> Result<Checkin, MessageError> {
        let name = message.needed("MessageType")?;
        let from = Enrollee::of(message)?;
        let message = match name.as_str() {
            "Authenticate" => CheckinMessage::Authenticate(authenticate(message)?),
            "TokenUpdate" => CheckinMessage::TokenUpdate(token_update(message)?),
            "CheckOut" => CheckinMessage::CheckOut,
            "UserAuthenticate" => CheckinMessage::UserAuthenticate { answers: message.0.contains_key("DigestResponse") },
            "SetBootstrapToken" => {
                let token = message.data("BootstrapToken", SECRET_BYTES_MAX)?.filter(|token| !token.is_empty());
                CheckinMessage::SetBootstrapToken(token.map(Secret))
            }
            "GetBootstrapToken" => CheckinMessage::GetBootstrapToken,
            "GetToken" => CheckinMessage::GetToken,
            "DeclarativeManagement" => {
                CheckinMessage::DeclarativeManagement { endpoint: message.needed("Endpoint")?, data: message.data("Data", DATA_BYTES_MAX)? }
            }
            other => return Err(MessageError::UnknownType(other.chars().take(64).collect())),
        };
        Ok(Checkin { from, message })
    }
}

fn authenticate(message: &Message) -> Result<Authenticate, MessageError> {
    Ok(Authenticate {
        topic: message.needed("Topic")?,
        model: message.loose("ModelName").or_else(|| message.loose("Model")).or_else(|| message.loose("ProductName")).unwrap_or_default(),
        product: message.loose("ProductName").or_else(|| message.loose("Model")).or_else(|| message.loose("ModelName")).unwrap_or_default(),
        os_version: message.loose("OSVersion").unwrap_or_default(),
        serial: message.loose("SerialNumber"),
        device_name: message.loose("DeviceName"),
    })
}

fn token_update(message: &Message) -> Result<TokenUpdate, MessageError> {
    let token = message.data("Token", TOKEN_BYTES_MAX)?.filter(|token| !token.is_empty()).ok_or(MessageError::Missing("Token"))?;
    Ok(TokenUpdate {
        topic: message.needed("Topic")?,
        token: token.iter().map(|byte| format!("{byte:02x}")).collect(),
        push_magic: Secret(message.needed("PushMagic")?.into_bytes()),
        unlock_token: message.data("UnlockToken", SECRET_BYTES_MAX)?.filter(|token| !token.is_empty()).map(Secret),
        awaiting_configuration: message.flag("AwaitingConfiguration"),
    })
}

/// The platform of a product or model name.
pub fn platform_of(product: &str) -> &'static str {
    let product = product.to_ascii_lowercase();
    match () {
        () if product.contains("mac") => "macos",
        () if product.contains("appletv") || product.contains("apple tv") => "tvos",
        () if product.contains("watch") => "watchos",
        () if product.contains("vision") || product.starts_with("realitydevice") => "visionos",
        () => "ios",
    }
}
