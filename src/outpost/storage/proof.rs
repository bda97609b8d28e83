//! Whether a service token stands: its signature by the server's key set, then the server's own word, which is kept for two seconds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::http::auth::bearer;
use crate::http::error::{Answer, Problem};
use crate::model::token::{Secret, hash};
use crate::outpost::Upstream;
use crate::protocol::service_token::{Claims, KeySet, TokenError};

/// How long the key set is used; the next key stands in it for weeks before it signs.
const KEYS_FOR: Duration = Duration::from_secs(300);
/// The key set is asked for again at most so often, whatever keys tokens name.
const KEYS_EVERY: Duration = Duration::from_secs(1);
/// How long the server's word holds.
const WORD_FOR: Duration = Duration::from_secs(2);
/// How long the server may take to answer the node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Words that are kept; beyond it those that no longer hold are forgotten, then all.
const WORDS_MAX: usize = 10_000;
/// Seconds after which a device tries again that the node could not ask about.
const RETRY_AFTER_S: i64 = 10;

/// Who is let in. Its Debug hides the key.
#[derive(Debug)]
pub struct Proof {
    upstream: Upstream,
    key: Secret,
    audience: String,
    keys: tokio::sync::Mutex<Keys>,
    /// The server's word by the token's hash.
    words: Mutex<HashMap<String, (bool, Instant)>>,
}

/// The server's key set as it was read last.
#[derive(Debug, Default)]
struct Keys {
    set: Option<KeySet>,
    read_at: Option<Instant>,
    /// When it was asked for last, whatever came of it.
    asked_at: Option<Instant>,
}

impl Proof {
    /// With an API key of the server, of any role, for tokens of this audience.
    pub fn new(upstream: Upstream, key: Secret, audience: String) -> Proof {
        Proof { upstream, key, audience, keys: tokio::sync::Mutex::default(), words: Mutex::default() }
    }

    /// What the token of a request says, if it stands: 401 where it does not, 403 where it is for another kind of server, 503 where the server
    /// cannot be asked.
    pub async fn admit(&self, headers: &HeaderMap, now_ms: i64) -> Answer<Claims> {
        let missing = || refused("token_unknown", "send Authorization: Bearer with a service token of the server");
        let token = bearer(headers).ok_or_else(missing)?;
        let claims = match self.keys(false).await?.verify_for(&self.audience, token, now_ms) {
            // It may be of a key that is new.
            Err(TokenError::KeyUnknown) => self.keys(true).await?.verify_for(&self.audience, token, now_ms),
            read => read,
        };
        let claims = claims.map_err(|error| match error {
            TokenError::Audience => Problem::new(StatusCode::FORBIDDEN, "token_audience", error.to_string()),
            TokenError::Expired => refused("token_expired", "the token has ended; get another from the server"),
            error => refused("token_unknown", error.to_string()),
        })?;
        if !self.stands(token).await? {
            return Err(refused("token_inactive", "the server says that this token no longer stands"));
        }
        Ok(claims)
    }

    /// Fails where the server does not answer or does not know the node's key.
    pub async fn reach(&self) -> Answer<()> {
        self.ask("-").await.map(drop)
    }

    async fn stands(&self, token: &str) -> Answer<bool> {
        let name = hash(token);
        let known = self.words.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        if let Some((stands, at)) = known
            && at.elapsed() < WORD_FOR
        {
            return Ok(stands);
        }
        // Before the question: the word is as old as that.
        let at = Instant::now();
        let stands = self.ask(token).await?;
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() >= WORDS_MAX {
            words.retain(|_, (_, at)| at.elapsed() < WORD_FOR);
        }
        if words.len() >= WORDS_MAX {
            words.clear();
        }
        words.insert(name, (stands, at));
        Ok(stands)
    }

    /// The server's word.
    async fn ask(&self, token: &str) -> Answer<bool> {
        let request = self.upstream.request(http::Method::POST, "/api/v1/introspect").ok_or_else(unreachable)?;
        let answer = request.timeout(ANSWER_TIMEOUT).bearer_auth(self.key.reveal()).json(&json!({"token": token})).send().await.map_err(
            |error| {
                tracing::warn!(%error, "the server does not answer");
                unreachable()
            },
        )?;
        let status = answer.status();
        if !status.is_success() {
            tracing::error!(%status, "the server does not say whether a token stands; does it know the node's key?");
            return Err(unreachable());
        }
        let told: Value = answer.json().await.map_err(|_| unreachable())?;
        told["active"].as_bool().ok_or_else(unreachable)
    }

    /// The server's key set, asked for again where it is old or, with `anew`, whenever it was not asked for just now. One that is old is used on
    /// while the server does not answer: what it says of a token is asked for anyway.
    async fn keys(&self, anew: bool) -> Answer<KeySet> {
        let mut kept = self.keys.lock().await;
        let within = |at: Option<Instant>, limit: Duration| at.is_some_and(|at| at.elapsed() < limit);
        let is_fresh = !anew && within(kept.read_at, KEYS_FOR);
        if !is_fresh && !within(kept.asked_at, KEYS_EVERY) {
            let read = self.read_keys().await;
            // Behind the answer: those who have waited for it do not ask one after the other.
            kept.asked_at = Some(Instant::now());
            if let Some(set) = read {
                (kept.set, kept.read_at) = (Some(set), kept.asked_at);
            }
        }
        kept.set.clone().ok_or_else(unreachable)
    }

    async fn read_keys(&self) -> Option<KeySet> {
        let request = self.upstream.request(http::Method::GET, "/.well-known/jwks.json")?;
        request.timeout(ANSWER_TIMEOUT).send().await.ok()?.json().await.ok()
    }
}

fn refused(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
}

/// Nobody is let in on the word of nobody.
fn unreachable() -> Problem {
    let detail = "the server cannot be asked whether the token stands; try again";
    Problem { retry_after_s: Some(RETRY_AFTER_S), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "server_unreachable", detail) }
}
