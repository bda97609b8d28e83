//! Google's token endpoint: checks the assertion (RFC 7523) and hands out access tokens that live by the clock.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// Access tokens remembered; the one that ends first makes room.
const TOKENS_MAX: usize = 10_000;
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Assertions may live an hour and be off by five minutes.
const ASSERTION_LIFE_S: i64 = 3_600;
const SKEW_S: i64 = 300;

#[derive(Deserialize)]
struct Claims {
    iss: String,
    scope: String,
    iat: i64,
    exp: i64,
}

/// The access tokens that are good at present.
#[derive(Default)]
pub(super) struct Granted {
    tokens: HashMap<String, (Arc<str>, i64)>,
}

impl Granted {
    pub(super) fn grant(&mut self, token: String, project: Arc<str>, ends_at_ms: i64) {
        if self.tokens.len() >= TOKENS_MAX {
            let oldest = self.tokens.iter().min_by_key(|(_, (_, ends_at_ms))| *ends_at_ms).map(|(token, _)| token.clone());
            oldest.map(|token| self.tokens.remove(&token));
        }
        self.tokens.insert(token, (project, ends_at_ms));
    }

    /// The project of a good access token.
    pub(super) fn project_of(&self, authorization: &[u8], now_ms: i64) -> Option<Arc<str>> {
        let token = std::str::from_utf8(authorization.strip_prefix(b"Bearer ")?).ok()?;
        self.tokens.get(token).filter(|(_, ends_at_ms)| now_ms < *ends_at_ms).map(|(project, _)| project.clone())
    }

    pub(super) fn revoke_all(&mut self) {
        self.tokens.clear();
    }
}

/// The e-mail address of the service account whose assertion `form` holds, or the description of an `invalid_grant`.
pub(super) fn check(form: &[u8], audience: &str, verifier: &DecodingKey, now_ms: i64) -> Result<String, &'static str> {
    let url =
        reqwest::Url::parse(&format!("http://form/?{}", std::str::from_utf8(form).map_err(|_| "not a form")?)).map_err(|_| "not a form")?;
    let field = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    if field("grant_type").as_deref() != Some(GRANT) {
        return Err("Invalid grant_type");
    }
    let assertion = field("assertion").ok_or("Missing assertion")?;
    let mut validation = Validation::new(Algorithm::RS256);
    // Time is checked below, by the clock.
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    validation.set_audience(&[audience]);
    let claims = jsonwebtoken::decode::<Claims>(&assertion, verifier, &validation).map_err(|_| "Invalid JWT Signature.")?.claims;
    let now_s = now_ms.div_euclid(1_000);
    if claims.scope != SCOPE {
        return Err("Invalid scope");
    }
    let lives = claims.iat <= now_s + SKEW_S && claims.exp > now_s && claims.exp - claims.iat <= ASSERTION_LIFE_S;
    if !lives {
        return Err("Invalid JWT: Token must be a short-lived token and in a reasonable timeframe.");
    }
    Ok(claims.iss)
}
