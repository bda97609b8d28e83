//! The service account: a JSON file made in Google's console, and the assertions signed with its key (RFC 7523).

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

/// Real files have about 2.4 KiB.
const JSON_BYTES_MAX: usize = 65_536;
/// Google takes an hour at most.
const ASSERTION_LIFE_S: i64 = 3_600;
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// Why a service account cannot be used. Never contains any part of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error("the service account is not a JSON object of at most 64 KiB with strings in it")]
    NotJson,
    #[error("the file is not of type \"service_account\": make a private key for a service account in the Firebase console")]
    NotServiceAccount,
    #[error("the service account has no \"{0}\"")]
    Missing(&'static str),
    #[error("\"{0}\" of the service account is not valid")]
    Invalid(&'static str),
    #[error("\"private_key\" of the service account is not an RSA key in PEM form (PKCS#8 or PKCS#1)")]
    Key,
    #[error("\"token_uri\" of the service account must be https, or http on a loopback address")]
    TokenUri,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: Option<String>,
    project_id: Option<String>,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

/// A usable service account. Debug shows neither key nor account.
pub(super) struct ServiceAccount {
    pub(super) project_id: String,
    pub(super) token_uri: reqwest::Url,
    audience: String,
    client_email: String,
    key: EncodingKey,
    header: Header,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

impl ServiceAccount {
    pub(super) fn parse(json: &[u8]) -> Result<ServiceAccount, CredentialError> {
        if json.len() > JSON_BYTES_MAX {
            return Err(CredentialError::NotJson);
        }
        let file: File = serde_json::from_slice(json).map_err(|_| CredentialError::NotJson)?;
        if file.kind.is_some_and(|kind| kind != "service_account") {
            return Err(CredentialError::NotServiceAccount);
        }
        let need = |value: Option<String>, name| value.filter(|text| !text.is_empty()).ok_or(CredentialError::Missing(name));
        let project_id = need(file.project_id, "project_id")?;
        let client_email = need(file.client_email, "client_email")?;
        let private_key = need(file.private_key, "private_key")?;
        let audience = need(file.token_uri, "token_uri")?;
        // It becomes part of a path.
        if !project_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte)) || project_id.starts_with('.') {
            return Err(CredentialError::Invalid("project_id"));
        }
        let token_uri = reqwest::Url::parse(&audience).map_err(|_| CredentialError::Invalid("token_uri"))?;
        if !super::wire::is_safe(&token_uri) {
            return Err(CredentialError::TokenUri);
        }
        let key = EncodingKey::from_rsa_pem(private_key.as_bytes()).map_err(|_| CredentialError::Key)?;
        let header = Header { kid: file.private_key_id, ..Header::new(Algorithm::RS256) };
        let account = ServiceAccount { project_id, token_uri, audience, client_email, key, header };
        // The key is parsed in earnest only when it signs.
        account.assertion(0)?;
        Ok(account)
    }

    /// A signed assertion, valid for an hour from `now_ms` (Unix milliseconds).
    pub(super) fn assertion(&self, now_ms: i64) -> Result<String, CredentialError> {
        let iat = now_ms.div_euclid(1_000);
        let claims = Claims { iss: &self.client_email, scope: SCOPE, aud: &self.audience, iat, exp: iat + ASSERTION_LIFE_S };
        jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| CredentialError::Key)
    }
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccount").field("project_id", &self.project_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(json: &str) -> CredentialError {
        ServiceAccount::parse(json.as_bytes()).err().unwrap()
    }

    #[test]
    fn each_fault_of_the_file_is_named() {
        assert_eq!(error_of("{"), CredentialError::NotJson);
        assert_eq!(error_of(r#"{"type":"authorized_user"}"#), CredentialError::NotServiceAccount);
        assert_eq!(error_of(r#"{"type":"service_account"}"#), CredentialError::Missing("project_id"));
        let full = |project: &str, key: &str, uri: &str| {
            format!(r#"{{"project_id":"{project}","client_email":"push@example.org","private_key":"{key}","token_uri":"{uri}"}}"#)
        };
        assert_eq!(error_of(&full("p", "", "https://example.org/token")), CredentialError::Missing("private_key"));
        assert_eq!(error_of(&full("p", "nonsense", "https://example.org/token")), CredentialError::Key);
        assert_eq!(error_of(&full("a/b", "nonsense", "https://example.org/token")), CredentialError::Invalid("project_id"));
        assert_eq!(error_of(&full("p", "nonsense", "http://example.org/token")), CredentialError::TokenUri);
        assert_eq!(error_of(&full("p", "nonsense", "no address")), CredentialError::Invalid("token_uri"));
        let garbage = r"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(error_of(&full("p", garbage, "https://example.org/token")), CredentialError::Key);
    }
}
