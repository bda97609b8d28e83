//! The OAuth access token: fetched once for everybody, renewed ahead of its end, never shown.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use reqwest::header::HeaderValue;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::account::ServiceAccount;
use super::wire::{Reply, Wire};
use crate::clock::Clock;

/// The token endpoint answers in well under a second.
const MINT_TIMEOUT: Duration = Duration::from_secs(10);
/// A token is renewed at 80 % of its life, and at the latest this long before its end.
const RENEW_BEFORE_MS: i64 = 300_000;
/// After a failed fetch nobody asks again for so long; while the old token lasts, for ten times as long.
const FAILED_REST_MS: i64 = 1_000;
const RENEW_REST_MS: i64 = 10_000;
/// What the endpoint may claim as the life of a token.
const LIFE_S_MAX: i64 = 86_400;
/// How much of an error description is shown to the operator.
const DETAIL_CHARS_MAX: usize = 200;

/// Why no access token could be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MintError {
    /// Google refuses the account: key deleted, clock wrong.
    Refused(String),
    /// Try again later.
    Unavailable(&'static str),
}

/// An access token, ready as a header.
pub(super) struct Token {
    /// `Bearer ...`, marked sensitive so that neither Debug nor HPACK keep it.
    pub(super) header: HeaderValue,
    minted_at_ms: i64,
    renew_at_ms: i64,
    ends_at_ms: i64,
}

/// The cache of one service account.
#[derive(Default)]
pub(super) struct Tokens {
    state: RwLock<State>,
    /// Held by whoever fetches: the others wait for what it brings.
    fetching: Mutex<()>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Fetches finished so far, so that who waited can tell that somebody else has just tried.
    fetches: u64,
    failed: Option<(i64, MintError)>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: i64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Tokens {
    /// The present token; a fresh one if there is none. Concurrent callers cause one fetch. A token that should be renewed is used
    /// on while the renewal runs.
    pub(super) async fn get(
        self: &Arc<Self>,
        account: &Arc<ServiceAccount>,
        wire: &Arc<Wire>,
        clock: &Clock,
    ) -> Result<Arc<Token>, MintError> {
        let now_ms = clock.now_ms();
        let (token, fetches) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.usable(now_ms), state.fetches)
        };
        if let Some(token) = token {
            if now_ms >= token.renew_at_ms && !self.rests(now_ms, RENEW_REST_MS) {
                self.renew(account, wire, clock);
            }
            return Ok(token);
        }
        let _fetching = self.fetching.lock().await;
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(token) = state.usable(clock.now_ms()) {
                return Ok(token);
            }
            if let Some((at_ms, error)) = &state.failed
                && (state.fetches != fetches || clock.now_ms() - at_ms < FAILED_REST_MS)
            {
                return Err(error.clone());
            }
        }
        self.fetch(account, wire, clock).await
    }

    /// Forgets `refused`, unless another token has taken its place already.
    pub(super) fn drop_if(&self, refused: &Arc<Token>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
            state.token = None;
        }
    }

    pub(super) fn age_s(&self, now_ms: i64) -> Option<i64> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.token.as_ref().map(|token| (now_ms - token.minted_at_ms).div_euclid(1_000))
    }

    /// Renews beside the requests that use the old token.
    fn renew(self: &Arc<Self>, account: &Arc<ServiceAccount>, wire: &Arc<Wire>, clock: &Clock) {
        let (tokens, account, wire, clock) = (self.clone(), account.clone(), wire.clone(), clock.clone());
        tokio::spawn(async move {
            let Ok(_fetching) = tokens.fetching.try_lock() else { return };
            let now_ms = clock.now_ms();
            let due = {
                let state = tokens.state.read().unwrap_or_else(PoisonError::into_inner);
                state.token.as_ref().is_none_or(|token| now_ms >= token.renew_at_ms)
            };
            if due {
                // A failure is kept in the state; the old token serves on until its end.
                let _ = tokens.fetch(&account, &wire, &clock).await;
            }
        });
    }

    fn rests(&self, now_ms: i64, rest_ms: i64) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.failed.as_ref().is_some_and(|(at_ms, _)| now_ms - at_ms < rest_ms)
    }

    /// One exchange with the token endpoint; the caller holds `fetching`.
    async fn fetch(&self, account: &ServiceAccount, wire: &Wire, clock: &Clock) -> Result<Arc<Token>, MintError> {
        let asked_at_ms = clock.now_ms();
        let outcome = exchange(account, wire, asked_at_ms).await;
        let result = match &outcome {
            Ok(_) => "granted",
            Err(MintError::Refused(_)) => "refused",
            Err(MintError::Unavailable(_)) => "unavailable",
        };
        metrics::counter!("muster_oauth_mints_total", "result" => result).increment(1);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.fetches += 1;
        match outcome {
            Ok(token) => {
                let token = Arc::new(token);
                state.token = Some(token.clone());
                state.failed = None;
                Ok(token)
            }
            Err(error) => {
                state.failed = Some((clock.now_ms(), error.clone()));
                Err(error)
            }
        }
    }
}

impl State {
    fn usable(&self, now_ms: i64) -> Option<Arc<Token>> {
        self.token.as_ref().filter(|token| now_ms < token.ends_at_ms).cloned()
    }
}

async fn exchange(account: &ServiceAccount, wire: &Wire, now_ms: i64) -> Result<Token, MintError> {
    let assertion = account.assertion(now_ms).map_err(|error| MintError::Refused(error.to_string()))?;
    let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)];
    let reply = wire.post_form(&account.token_uri, &form, MINT_TIMEOUT, now_ms).await.map_err(MintError::Unavailable)?;
    read(&reply, now_ms)
}

fn read(reply: &Reply, now_ms: i64) -> Result<Token, MintError> {
    match reply.status {
        200 => {
            let granted: Granted = serde_json::from_slice(&reply.body).map_err(|_| MintError::Unavailable("oauth_unreadable"))?;
            let mut header = HeaderValue::try_from(format!("Bearer {}", granted.access_token))
                .map_err(|_| MintError::Unavailable("oauth_unreadable"))?;
            header.set_sensitive(true);
            let life_ms = granted.expires_in.clamp(1, LIFE_S_MAX) * 1_000;
            let fifth_ms = life_ms / 5;
            // Five minutes before the end, where a token lives long enough for that to leave it some use.
            let before_ms = if life_ms > 2 * RENEW_BEFORE_MS { fifth_ms.max(RENEW_BEFORE_MS) } else { fifth_ms };
            Ok(Token { header, minted_at_ms: now_ms, renew_at_ms: now_ms + life_ms - before_ms, ends_at_ms: now_ms + life_ms })
        }
        408 | 429 | 500..=599 => Err(MintError::Unavailable("oauth_unavailable")),
        status => {
            let detail = match serde_json::from_slice::<Refused>(&reply.body) {
                Ok(refused) => format!("the token endpoint refused the account: {} {}", refused.error, refused.error_description),
                Err(_) => format!("the token endpoint answered with status {status}"),
            };
            Err(MintError::Refused(detail.trim_end().chars().filter(|char| !char.is_control()).take(DETAIL_CHARS_MAX).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, retry_after: None, body: body.as_bytes().to_vec(), whole: true }
    }

    #[test]
    fn a_token_is_renewed_at_four_fifths_or_five_minutes_before_its_end() {
        for (life_s, renew_s) in [(3_600, 2_880), (1_200, 900), (601, 301), (300, 240), (0, 0)] {
            let body = format!(r#"{{"access_token":"t","expires_in":{life_s},"token_type":"Bearer"}}"#);
            let token = read(&reply(200, &body), 0).unwrap_or_else(|_| panic!("{life_s}"));
            assert_eq!(token.renew_at_ms / 1_000, renew_s, "{life_s}");
            assert!(token.header.is_sensitive());
        }
    }

    #[test]
    fn refusals_are_told_from_outages() {
        let refused = read(&reply(400, r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#), 0);
        assert!(matches!(refused, Err(MintError::Refused(detail)) if detail.ends_with("invalid_grant Invalid JWT Signature.")));
        for (status, body) in [(500, ""), (503, "<html>"), (200, "<html>"), (200, ""), (200, r#"{"access_token":"a\nb","expires_in":1}"#)] {
            assert!(matches!(read(&reply(status, body), 0), Err(MintError::Unavailable(_))), "{status} {body}");
        }
    }
}
