//! The key with which provider tokens are signed: Apple's .p8 file with what belongs to it.

use serde::Deserialize;

use super::CredentialError;

/// What an operator gets from Apple for one app.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppKey {
    /// The .p8 file: a P-256 key in PEM form.
    pub key: String,
    /// Ten characters, beside the key in Apple's portal.
    pub key_id: String,
    /// Ten characters: the team.
    pub team_id: String,
    /// The app's bundle id.
    pub topic: String,
}

impl AppKey {
    /// Reads the JSON `{"key", "key_id", "team_id", "topic"}` and checks it.
    pub fn parse(json: &[u8]) -> Result<AppKey, CredentialError> {
        let key: AppKey = serde_json::from_slice(json).map_err(|error| CredentialError::Json(super::tls::kind_of(&error)))?;
        let plain = |text: &str| !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic());
        for (name, value) in [("key_id", &key.key_id), ("team_id", &key.team_id), ("topic", &key.topic)] {
            if !plain(value) {
                return Err(CredentialError::Field(name));
            }
        }
        super::provider_token::ProviderToken::new(&key)?;
        Ok(key)
    }
}

impl std::fmt::Debug for AppKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppKey").field("key_id", &self.key_id).field("team_id", &self.team_id).field("topic", &self.topic).finish()
    }
}
