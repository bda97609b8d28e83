//! Reads APNs' answers: `{"reason": "..."}`, of which the reason decides, then the HTTP status.

use serde::Deserialize;

use super::connection::Reply;
use crate::push::retry_after;
use crate::push::strange;
use crate::push::verdict::Verdict;

/// How much of an unknown reason is shown to the operator.
const REASON_CHARS_MAX: usize = 80;
const DEVICE_WAIT_MS: i64 = 60_000;
const INTERNAL_WAIT_MS: i64 = 30_000;
/// A timestamp below this is in seconds, whatever Apple's documentation says: in milliseconds it would be in 1973.
const SECONDS_BELOW: i64 = 100_000_000_000;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    reason: String,
    timestamp: Option<serde_json::Number>,
}

/// What APNs said, as far as it could be understood.
pub(super) struct Said {
    status: u16,
    pub(super) reason: String,
    /// What came instead of Apple's JSON.
    raw: String,
    /// Unix milliseconds since when the token is dead.
    dead_since_ms: Option<i64>,
    retry_after: Option<String>,
    html: bool,
}

/// Reads a reply to a push to `address`, which is removed from every text that is kept.
pub(super) fn read(reply: &Reply, address: &str) -> Said {
    let body: Body = if reply.whole { serde_json::from_slice(&reply.body).unwrap_or_default() } else { Body::default() };
    let reason = if address.is_empty() { body.reason } else { body.reason.replace(address, "...") };
    let reason: String = reason.chars().filter(|char| char.is_ascii_graphic() || *char == ' ').take(REASON_CHARS_MAX).collect();
    let stamp = body.timestamp.and_then(|number| number.as_i64().or_else(|| number.as_f64().map(|stamp| stamp as i64)));
    let dead_since_ms = stamp.map(|stamp| if (0..SECONDS_BELOW).contains(&stamp) { stamp * 1_000 } else { stamp });
    let html = reply.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<');
    let raw = if reason.is_empty() { strange::words_of(&reply.body, address) } else { String::new() };
    Said { status: reply.status, reason, raw, dead_since_ms, retry_after: reply.retry_after.clone(), html }
}

/// A reason that is named in the last words of a connection.
pub(super) fn fault_in(text: &str) -> Option<&'static str> {
    const FAULTS: [&str; 6] = [
        "BadCertificateEnvironment",
        "BadCertificate",
        "Forbidden",
        "InvalidProviderToken",
        "MissingProviderToken",
        "BadEnvironmentKeyIdInToken",
    ];
    FAULTS.into_iter().find(|reason| text.contains(reason))
}

impl Said {
    /// What becomes of the nudge, to a token that was registered at `registered_at_ms`.
    pub(super) fn verdict(&self, registered_at_ms: i64, now_ms: i64) -> Verdict {
        if self.status == 200 {
            // A page in place of APNs' answer comes from something in between.
            return if self.html { Verdict::Failed { reason: "html", wait_ms: INTERNAL_WAIT_MS } } else { Verdict::Accepted };
        }
        self.by_reason(registered_at_ms, now_ms).unwrap_or_else(|| self.by_status(registered_at_ms, now_ms))
    }

    /// The words of an answer that Apple's table does not have.
    pub(super) fn strange(&self) -> Option<(u16, &str)> {
        let known = self.status == 200 || self.by_reason(0, 0).is_some();
        let words = if self.reason.is_empty() { self.raw.as_str() } else { self.reason.as_str() };
        (!known).then_some((self.status, words))
    }

    fn by_reason(&self, registered_at_ms: i64, now_ms: i64) -> Option<Verdict> {
        Some(match self.reason.as_str() {
            "BadDeviceToken" => Verdict::Suspect("BadDeviceToken"),
            "DeviceTokenNotForTopic" => Verdict::Suspect("DeviceTokenNotForTopic"),
            "Unregistered" => self.dead("Unregistered", registered_at_ms),
            "ExpiredToken" => self.dead("ExpiredToken", registered_at_ms),
            "TooManyRequests" => self.too_many(now_ms),
            "InternalServerError" => Verdict::Failed { reason: "InternalServerError", wait_ms: INTERNAL_WAIT_MS },
            "ServiceUnavailable" => self.unavailable("ServiceUnavailable", now_ms),
            "Shutdown" => Verdict::Failed { reason: "Shutdown", wait_ms: 0 },
            "IdleTimeout" => Verdict::Failed { reason: "IdleTimeout", wait_ms: 0 },
            "BadTopic" => self.config("BadTopic", "the topic is not one of this credential"),
            "TopicDisallowed" => self.config("TopicDisallowed", "pushes to this topic are not allowed"),
            "BadCertificate" => self.config("BadCertificate", "the push certificate is refused"),
            "BadCertificateEnvironment" => self.config("BadCertificateEnvironment", "the certificate is for the other environment"),
            "Forbidden" => self.config("Forbidden", "the credential may not push"),
            "InvalidProviderToken" => self.config("InvalidProviderToken", "the key, its id or the team is wrong, or the key was revoked"),
            "MissingProviderToken" => self.config("MissingProviderToken", "neither a certificate nor a provider token reached APNs"),
            "BadEnvironmentKeyIdInToken" => self.config("BadEnvironmentKeyIdInToken", "the key is for the other environment"),
            "UnrelatedKeyIdInToken" => self.config("UnrelatedKeyIdInToken", "the key does not belong to the team's other keys"),
            "ExpiredProviderToken" => self.config("ExpiredProviderToken", "a fresh provider token is called expired: is the clock right?"),
            "TooManyProviderTokenUpdates" => {
                self.config("TooManyProviderTokenUpdates", "another server makes tokens for this team; the present one is used on")
            }
            "BadCollapseId" => self.bug("BadCollapseId"),
            "BadExpirationDate" => self.bug("BadExpirationDate"),
            "BadMessageId" => self.bug("BadMessageId"),
            "BadPath" => self.bug("BadPath"),
            "BadPriority" => self.bug("BadPriority"),
            "DuplicateHeaders" => self.bug("DuplicateHeaders"),
            "InvalidPushType" => self.bug("InvalidPushType"),
            "MethodNotAllowed" => self.bug("MethodNotAllowed"),
            "MissingDeviceToken" => self.bug("MissingDeviceToken"),
            "MissingTopic" => self.bug("MissingTopic"),
            "PayloadEmpty" => self.bug("PayloadEmpty"),
            "PayloadTooLarge" => self.bug("PayloadTooLarge"),
            _ => return None,
        })
    }

    fn by_status(&self, registered_at_ms: i64, now_ms: i64) -> Verdict {
        match self.status {
            // Without Apple's own words the token is not given up.
            410 if self.dead_since_ms.is_some() => self.dead("HTTP_410", registered_at_ms),
            410 => Verdict::Suspect("HTTP_410"),
            403 => self.config("HTTP_403", "APNs refuses the credential"),
            429 => self.too_many(now_ms),
            503 => self.unavailable("HTTP_503", now_ms),
            500..=599 => Verdict::Failed { reason: "HTTP_5XX", wait_ms: INTERNAL_WAIT_MS },
            300..=399 => self.config("REDIRECT", "the address answers with a redirect: is the endpoint right?"),
            _ => self.bug("HTTP_4XX"),
        }
    }

    /// A registration after the death wins.
    fn dead(&self, reason: &'static str, registered_at_ms: i64) -> Verdict {
        match self.dead_since_ms {
            Some(since_ms) if since_ms < registered_at_ms => Verdict::DeviceThrottled { reason, wait_ms: DEVICE_WAIT_MS },
            _ => Verdict::Dead(reason),
        }
    }

    fn too_many(&self, now_ms: i64) -> Verdict {
        Verdict::DeviceThrottled { reason: "TooManyRequests", wait_ms: self.wait_ms(now_ms).unwrap_or(0).max(DEVICE_WAIT_MS) }
    }

    fn unavailable(&self, reason: &'static str, now_ms: i64) -> Verdict {
        Verdict::Overloaded { reason, retry_after_ms: self.wait_ms(now_ms) }
    }

    fn wait_ms(&self, now_ms: i64) -> Option<i64> {
        self.retry_after.as_deref().and_then(|value| retry_after::wait_ms(value, now_ms))
    }

    fn config(&self, code: &'static str, ours: &str) -> Verdict {
        Verdict::Config { code, detail: self.detail(ours) }
    }

    fn bug(&self, reason: &'static str) -> Verdict {
        Verdict::Bug { reason, detail: self.detail("APNs calls the request wrong") }
    }

    fn detail(&self, ours: &str) -> String {
        if self.reason.is_empty() {
            return format!("{ours} (status {})", self.status);
        }
        format!("{ours} (status {}: {})", self.status, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str, registered_at_ms: i64) -> Verdict {
        let reply = Reply { status, retry_after: None, body: body.as_bytes().to_vec(), whole: true };
        read(&reply, "abcdef").verdict(registered_at_ms, 0)
    }

    #[test]
    fn a_registration_after_the_death_wins_in_milliseconds_and_in_seconds() {
        let at = 1_700_000_000_000_i64;
        for stamp in [at, at / 1_000] {
            let body = format!(r#"{{"reason":"Unregistered","timestamp":{stamp}}}"#);
            assert_eq!(of(410, &body, at - 1), Verdict::Dead("Unregistered"));
            assert_eq!(of(410, &body, at), Verdict::Dead("Unregistered"));
            assert!(matches!(of(410, &body, at + 1), Verdict::DeviceThrottled { .. }));
        }
    }

    #[test]
    fn what_cannot_be_read_is_judged_by_its_status() {
        for body in ["", "<html>", r#"{"reason":"#, "null", "[]", r#"{"reason":7}"#, r#"{"reason":"NewThing"}"#] {
            assert!(matches!(of(500, body, 0), Verdict::Failed { reason: "HTTP_5XX", .. }), "{body}");
            assert!(matches!(of(503, body, 0), Verdict::Overloaded { .. }), "{body}");
            assert!(matches!(of(400, body, 0), Verdict::Bug { reason: "HTTP_4XX", .. }), "{body}");
            assert!(matches!(of(403, body, 0), Verdict::Config { .. }), "{body}");
            assert!(matches!(of(429, body, 0), Verdict::DeviceThrottled { .. }), "{body}");
            assert!(matches!(of(410, body, 0), Verdict::Suspect(_)), "{body}");
        }
    }

    #[test]
    fn words_that_are_not_in_the_table_are_kept() {
        let said = |status, body: &str| {
            let reply = Reply { status, retry_after: None, body: body.as_bytes().to_vec(), whole: true };
            read(&reply, "abcdef").strange().map(|(status, words)| format!("{status} {words}"))
        };
        assert_eq!(said(200, ""), None);
        assert_eq!(said(410, r#"{"reason":"Unregistered","timestamp":1}"#), None);
        assert_eq!(said(429, r#"{"reason":"SlowDown"}"#).as_deref(), Some("429 SlowDown"));
        assert_eq!(said(503, "<html>\nabcdef away").as_deref(), Some("503 <html> ... away"));
    }

    #[test]
    fn unknown_reasons_are_kept_short_and_without_the_address() {
        let Verdict::Bug { detail, .. } = of(400, &format!(r#"{{"reason":"x\nabcdef{}"}}"#, "y".repeat(9_000)), 0) else { panic!("a bug") };
        assert!(detail.contains("x...yyy") && detail.len() < 200, "{detail}");
    }
}
