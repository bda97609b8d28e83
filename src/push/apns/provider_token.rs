//! Provider tokens: a JWT signed with ES256 (RFC 7518), one for all connections of a key. Apple takes a token for an hour and refuses a
//! new one more often than every 20 minutes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey;

use super::{AppKey, CredentialError};

/// A token is used for so long.
const LIFE_MS: i64 = 50 * 60_000;
/// Apple refuses a fresh token sooner than this after the last one.
const REST_MS: i64 = 20 * 60_000;

/// A token as it goes into a request.
pub(super) struct Minted {
    /// Marked sensitive.
    pub(super) header: HeaderValue,
    minted_at_ms: i64,
}

/// The one token of a key. Signing takes well under a millisecond and happens under the lock, so any number of requests that find it
/// expired make one new token.
pub(super) struct ProviderToken {
    key: SigningKey,
    head: String,
    team_id: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Minted>>,
    rest_until_ms: i64,
}

impl ProviderToken {
    pub(super) fn new(key: &AppKey) -> Result<ProviderToken, CredentialError> {
        let pem = key.key.trim();
        let secret =
            p256::SecretKey::from_pkcs8_pem(pem).or_else(|_| p256::SecretKey::from_sec1_pem(pem)).map_err(|_| CredentialError::Key)?;
        let head = serde_json::json!({"alg": "ES256", "kid": key.key_id}).to_string();
        Ok(ProviderToken { key: SigningKey::from(secret), head, team_id: key.team_id.clone(), state: Mutex::default() })
    }

    /// The token in use, or a new one when it is 50 minutes old.
    pub(super) fn get(&self, now_ms: i64) -> Result<Arc<Minted>, String> {
        let mut state = self.state();
        let resting = now_ms < state.rest_until_ms;
        match &state.token {
            // A clock that was set back makes a token of the future, which Apple refuses too.
            Some(token) if resting || (0..LIFE_MS).contains(&(now_ms - token.minted_at_ms)) => Ok(token.clone()),
            _ => self.mint(&mut state, now_ms),
        }
    }

    /// After Apple called `used` expired: true when another token is there to try with. A token that is not 20 minutes old cannot be
    /// expired: then a clock is wrong.
    pub(super) fn renew(&self, used: &Arc<Minted>, now_ms: i64) -> bool {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|token| !Arc::ptr_eq(token, used)) {
            return true;
        }
        if now_ms < state.rest_until_ms || now_ms - used.minted_at_ms < REST_MS {
            return false;
        }
        self.mint(&mut state, now_ms).is_ok()
    }

    /// Apple saw too many tokens: none is minted for 20 minutes.
    pub(super) fn rest(&self, now_ms: i64) {
        self.state().rest_until_ms = now_ms + REST_MS;
    }

    pub(super) fn age_s(&self, now_ms: i64) -> Option<i64> {
        self.state().token.as_ref().map(|token| (now_ms - token.minted_at_ms) / 1_000)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mint(&self, state: &mut State, now_ms: i64) -> Result<Arc<Minted>, String> {
        let claims = serde_json::json!({"iss": self.team_id, "iat": now_ms.div_euclid(1_000)}).to_string();
        let text = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(&self.head), BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature: Signature = self.key.sign(text.as_bytes());
        let bearer = format!("bearer {text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes()));
        let mut header = HeaderValue::try_from(bearer).map_err(|_| "the provider token cannot be built".to_owned())?;
        header.set_sensitive(true);
        metrics::counter!("muster_provider_tokens_total").increment(1);
        let token = Arc::new(Minted { header, minted_at_ms: now_ms });
        state.token = Some(token.clone());
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use p256::pkcs8::EncodePrivateKey;

    use super::*;

    #[test]
    fn a_thousand_requests_that_were_called_expired_together_make_one_new_token() {
        let pem = p256::SecretKey::from_slice(&[7; 32]).unwrap().to_pkcs8_pem(p256::pkcs8::LineEnding::LF).unwrap();
        let key = AppKey { key: pem.to_string(), key_id: "KEY0000001".into(), team_id: "TEAM000001".into(), topic: "org.example".into() };
        let tokens = ProviderToken::new(&key).unwrap();
        let now_ms = 1_800_000_000_000;
        let used = tokens.get(now_ms).unwrap();
        let later_ms = now_ms + REST_MS;
        // Each has the old token in its hand; all come at once.
        let renewed: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..125).map(|_| tokens.renew(&used, later_ms)).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(renewed.len() == 1_000 && renewed.iter().all(|renewed| *renewed), "each tries again");
        let fresh = tokens.get(later_ms).unwrap();
        assert!(!Arc::ptr_eq(&fresh, &used) && fresh.minted_at_ms == later_ms);
        assert!(!tokens.renew(&fresh, later_ms + 1), "one that is called expired again is a wrong clock");
        assert!(Arc::ptr_eq(&tokens.get(later_ms + 1).unwrap(), &fresh), "and none was minted after it");
    }
}
