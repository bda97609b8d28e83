//! Answers in words that we do not know: judged by their status, and kept so that somebody can read them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Answers of one status are logged once in this time, whatever they say: a page may hold another number each time.
const TOLD_EVERY_MS: i64 = 600_000;
/// How much of them is kept.
const CHARS_MAX: usize = 120;
/// How much of a body is looked at for words.
const BODY_BYTES_SHOWN: usize = 1_024;

/// The last such answer of a sender.
#[derive(Debug, Default)]
pub(super) struct Strange(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Option<String>,
    /// When answers of a status were last logged, Unix milliseconds. There are a few hundred statuses.
    told_at_ms: HashMap<u16, i64>,
}

impl Strange {
    /// Notes the words of `provider`, which hold no address and are short.
    pub(super) fn note(&self, provider: &str, status: u16, words: &str, now_ms: i64) {
        let text = if words.is_empty() { format!("{status} without a word") } else { format!("{status}: {words}") };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.told_at_ms.get(&status).is_none_or(|at_ms| now_ms - at_ms >= TOLD_EVERY_MS) {
            tracing::warn!(provider, answer = text, "an answer that the provider does not describe; it is judged by its status");
            kept.told_at_ms.insert(status, now_ms);
        }
        kept.last = Some(text);
    }

    /// What was said last.
    pub(super) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }
}

/// What is kept of a body that is none of the provider's: a proxy's page, say.
pub(super) fn words_of(body: &[u8], address: &str) -> String {
    words(&String::from_utf8_lossy(&body[..body.len().min(BODY_BYTES_SHOWN)]), address)
}

/// What is kept of `text`: short, without control characters and without `address`.
pub(super) fn words(text: &str, address: &str) -> String {
    let text = if address.is_empty() { text.to_owned() } else { text.replace(address, "...") };
    let clean: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_short_and_holds_no_address() {
        assert_eq!(words("<html>\n  bad\tabcdef \u{0}", "abcdef"), "<html> bad ...");
        assert_eq!(words(&"x".repeat(9_000), "").len(), CHARS_MAX);
        let strange = Strange::default();
        strange.note("fcm", 500, "NewThing", 0);
        strange.note("fcm", 502, "", 0);
        assert_eq!(strange.last().as_deref(), Some("502 without a word"));
    }
}
