//! Provider tokens: ES256, no older than an hour, and not renewed more often than every 20 minutes on a connection.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

use super::faults::Canned;

const AGE_S_MAX: i64 = 3_600;
/// How far ahead of the stand-in's clock a token may be.
const AHEAD_S_MAX: i64 = 300;
const RENEWAL_MS_MIN: i64 = 20 * 60_000;
/// Tokens remembered of one connection.
const SEEN_MAX: usize = 64;

/// The key of provider tokens, as the stand-in knows it.
pub(super) struct Known {
    pub(super) team_id: String,
    pub(super) verifier: DecodingKey,
    /// The bundle ids of the team.
    pub(super) topics: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
}

/// The tokens that one connection has seen, each with the time at which it came first. Unix milliseconds.
#[derive(Default)]
pub(super) struct Seen(Vec<(Arc<str>, i64)>);

impl Seen {
    /// Whether the connection may use this token: one that is new must come 20 minutes after the last new one.
    fn admit(&mut self, token: &str, now_ms: i64) -> bool {
        if self.0.iter().any(|(seen, _)| **seen == *token) {
            return true;
        }
        if self.0.last().is_some_and(|(_, at_ms)| now_ms - at_ms < RENEWAL_MS_MIN) {
            return false;
        }
        if self.0.len() == SEEN_MAX {
            self.0.remove(0);
        }
        self.0.push((token.into(), now_ms));
        true
    }
}

/// Checks an `authorization` header. Answers the team's topics.
pub(super) fn check<'a>(
    authorization: Option<&str>,
    keys: &'a HashMap<String, Known>,
    seen: &mut Seen,
    now_ms: i64,
) -> Result<&'a [String], Canned> {
    let Some(authorization) = authorization else { return Err(Canned::reason(403, "MissingProviderToken")) };
    let invalid = || Canned::reason(403, "InvalidProviderToken");
    let (scheme, token) = authorization.split_once(' ').ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid());
    }
    let header = decode_header(token.as_bytes()).map_err(|_| invalid())?;
    let known = header.kid.and_then(|kid| keys.get(&kid)).ok_or_else(invalid)?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let claims = decode::<Claims>(token.as_bytes(), &known.verifier, &validation).map_err(|_| invalid())?.claims;
    let age_s = now_ms / 1_000 - claims.iat;
    if claims.iss != known.team_id || age_s < -AHEAD_S_MAX {
        return Err(invalid());
    }
    if age_s > AGE_S_MAX {
        return Err(Canned::reason(403, "ExpiredProviderToken"));
    }
    if !seen.admit(token, now_ms) {
        return Err(Canned::reason(429, "TooManyProviderTokenUpdates"));
    }
    Ok(&known.topics)
}
