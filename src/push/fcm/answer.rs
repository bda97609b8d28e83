//! Reads FCM's answers. The decision rests on the `errorCode` of the FcmError detail, then on `error.status`, then on the HTTP status:
//! details may be missing, their order varies, and a proxy may answer with HTML or nothing.

use serde::Deserialize;

use super::INTERNAL_WAIT_MS;
use super::wire::Reply;
use crate::push::retry_after;
use crate::push::strange::{self, Strange};
use crate::push::verdict::Verdict;

/// How much of FCM's message is shown to the operator.
const DETAIL_CHARS_MAX: usize = 300;
/// FCM's word for a request, or an address, that it cannot read.
pub(super) const INVALID_ARGUMENT: &str = "INVALID_ARGUMENT";
/// The shortest wait of a device whose own rate is exceeded.
const DEVICE_WAIT_MS: i64 = 60_000;

#[derive(Default, Deserialize)]
struct Body {
    #[serde(default)]
    error: Error,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Error {
    message: String,
    status: String,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    #[serde(rename = "errorCode")]
    error_code: String,
    #[serde(rename = "fieldViolations")]
    field_violations: Vec<Violation>,
    /// Of QuotaFailure.
    violations: Vec<Violation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Violation {
    field: String,
    subject: String,
    description: String,
}

/// What FCM said, as far as it could be understood.
struct Said<'a> {
    error: Error,
    reply: &'a Reply,
    address: &'a str,
    now_ms: i64,
}

/// The class of `reply` to a push to `address`, which is removed from every text that is kept. What FCM's description does not know is
/// noted in `strange`.
pub(super) fn read(reply: &Reply, address: &str, now_ms: i64, strange: &Strange) -> Verdict {
    if reply.status == 200 {
        // A page in place of FCM's answer comes from something in between.
        return match reply.body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'<') => Verdict::Failed { reason: "html", wait_ms: INTERNAL_WAIT_MS },
            _ => Verdict::Accepted,
        };
    }
    let error = if reply.whole { serde_json::from_slice::<Body>(&reply.body).unwrap_or_default().error } else { Error::default() };
    let said = Said { error, reply, address, now_ms };
    let known = said.by_error_code();
    if known.is_none()
        && let Some(words) = said.strange()
    {
        strange.note("fcm", reply.status, &words, now_ms);
    }
    known.or_else(|| said.by_status()).unwrap_or_else(|| said.by_http())
}

impl Said<'_> {
    fn by_error_code(&self) -> Option<Verdict> {
        let code = self.error.details.iter().map(|detail| detail.error_code.as_str()).find(|code| !code.is_empty())?;
        Some(match code {
            "UNREGISTERED" => Verdict::Dead("UNREGISTERED"),
            "SENDER_ID_MISMATCH" => Verdict::Suspect("SENDER_ID_MISMATCH"),
            "INVALID_ARGUMENT" => self.invalid_argument(),
            "QUOTA_EXCEEDED" => self.quota("QUOTA_EXCEEDED"),
            "UNAVAILABLE" => self.unavailable(),
            "INTERNAL" => internal("INTERNAL"),
            "THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR" => Verdict::BridgeConfig {
                code: "THIRD_PARTY_AUTH_ERROR",
                detail: self.detail("the APNs key uploaded to Firebase is refused"),
            },
            _ => return None,
        })
    }

    fn by_status(&self) -> Option<Verdict> {
        Some(match self.error.status.as_str() {
            "INVALID_ARGUMENT" => self.invalid_argument(),
            "UNAUTHENTICATED" => self.unauthenticated(),
            "PERMISSION_DENIED" => self.permission_denied(),
            "NOT_FOUND" => self.not_found(),
            "RESOURCE_EXHAUSTED" => self.quota("RESOURCE_EXHAUSTED"),
            "UNAVAILABLE" => self.unavailable(),
            "INTERNAL" => internal("INTERNAL"),
            "DEADLINE_EXCEEDED" | "ABORTED" | "CANCELLED" | "UNKNOWN" => internal("INTERNAL"),
            _ => return None,
        })
    }

    fn by_http(&self) -> Verdict {
        match self.reply.status {
            401 => self.unauthenticated(),
            403 => self.permission_denied(),
            404 => self.not_found(),
            408 => internal("HTTP_408"),
            429 => self.quota("HTTP_429"),
            503 => self.unavailable(),
            500..=599 => internal("HTTP_5XX"),
            300..=399 => {
                Verdict::Config { code: "REDIRECT", detail: self.detail("FCM's address answers with a redirect: is the endpoint right?") }
            }
            _ => Verdict::Bug { reason: "HTTP_4XX", detail: self.detail("FCM refused the request") },
        }
    }

    /// FCM's words where they are none that we know: an error code, a status, or no error at all.
    fn strange(&self) -> Option<String> {
        let code = self.error.details.iter().map(|detail| detail.error_code.as_str()).find(|code| !code.is_empty());
        if code.is_none() && self.by_status().is_some() {
            return None;
        }
        let word = code.unwrap_or(&self.error.status);
        if word.is_empty() {
            return Some(strange::words_of(&self.reply.body, self.address));
        }
        Some(strange::words(&format!("{word} {}", self.error.message), self.address))
    }

    /// About the address only if the answer says so; else the request is wrong.
    fn invalid_argument(&self) -> Verdict {
        let names_address = |violation: &Violation| matches!(violation.field.as_str(), "message.token" | "message.fid");
        let address = self.error.details.iter().flat_map(|detail| &detail.field_violations).any(names_address)
            || self.error.message.contains("not a valid FCM registration token");
        if address {
            Verdict::Suspect(INVALID_ARGUMENT)
        } else {
            Verdict::Bug { reason: INVALID_ARGUMENT, detail: self.detail("FCM calls the request malformed") }
        }
    }

    /// For one device if a violation says so; else for the project.
    fn quota(&self, reason: &'static str) -> Verdict {
        let retry_after_ms = self.reply.retry_after.as_deref().and_then(|value| retry_after::wait_ms(value, self.now_ms));
        let of_device = |violation: &Violation| {
            [&violation.subject, &violation.description].iter().any(|text| text.to_ascii_lowercase().contains("device"))
        };
        if self.error.details.iter().flat_map(|detail| &detail.violations).any(of_device) {
            Verdict::DeviceThrottled { reason, wait_ms: retry_after_ms.unwrap_or(0).max(DEVICE_WAIT_MS) }
        } else {
            Verdict::Throttled { reason, retry_after_ms }
        }
    }

    fn unavailable(&self) -> Verdict {
        let retry_after_ms = self.reply.retry_after.as_deref().and_then(|value| retry_after::wait_ms(value, self.now_ms));
        Verdict::Overloaded { reason: "UNAVAILABLE", retry_after_ms }
    }

    fn unauthenticated(&self) -> Verdict {
        Verdict::Unauthenticated { detail: self.detail("FCM refuses the access token of this service account") }
    }

    fn permission_denied(&self) -> Verdict {
        Verdict::Config { code: "PERMISSION_DENIED", detail: self.detail("the service account may not send, or the FCM API is disabled") }
    }

    fn not_found(&self) -> Verdict {
        Verdict::Config { code: "NOT_FOUND", detail: self.detail("FCM does not know the project") }
    }

    /// `ours`, with FCM's own words behind it.
    fn detail(&self, ours: &str) -> String {
        if self.error.message.is_empty() {
            return format!("{ours} (status {})", self.reply.status);
        }
        let theirs = if self.address.is_empty() { self.error.message.clone() } else { self.error.message.replace(self.address, "...") };
        let theirs: String = theirs.chars().filter(|char| !char.is_control()).take(DETAIL_CHARS_MAX).collect();
        format!("{ours} (status {}: {theirs})", self.reply.status)
    }
}

fn internal(reason: &'static str) -> Verdict {
    Verdict::Failed { reason, wait_ms: INTERNAL_WAIT_MS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, retry_after: None, body: body.as_bytes().to_vec(), whole: true }
    }

    fn of(status: u16, body: &str) -> Verdict {
        read(&reply(status, body), "secret-address", 0, &Strange::default())
    }

    #[test]
    fn words_that_nobody_described_are_kept_and_the_described_ones_are_not() {
        let strange = Strange::default();
        let say = |status, body: &str| {
            read(&reply(status, body), "secret-address", 0, &strange);
            strange.last()
        };
        assert_eq!(say(503, r#"{"error":{"status":"UNAVAILABLE","message":"x"}}"#), None);
        assert_eq!(say(404, r#"{"error":{"details":[{"errorCode":"UNREGISTERED"}]}}"#), None);
        let new = r#"{"error":{"status":"UNAVAILABLE","message":"not secret-address","details":[{"errorCode":"NEW_THING"}]}}"#;
        assert_eq!(say(503, new).as_deref(), Some("503: NEW_THING not ..."));
        assert_eq!(say(500, r#"{"error":{"status":"ODD","message":"m"}}"#).as_deref(), Some("500: ODD m"));
        assert_eq!(say(502, "<html>\nbad gateway").as_deref(), Some("502: <html> bad gateway"));
        assert_eq!(say(429, "").as_deref(), Some("429 without a word"));
    }

    #[test]
    fn the_error_code_decides_before_status_and_http_wherever_it_stands() {
        let body = r#"{"error":{"code":404,"message":"m","status":"NOT_FOUND","details":[{"@type":"x","violations":[]},
            {"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}"#;
        assert_eq!(of(404, body), Verdict::Dead("UNREGISTERED"));
        assert_eq!(of(500, body), Verdict::Dead("UNREGISTERED"));
        assert!(matches!(of(404, r#"{"error":{"status":"NOT_FOUND"}}"#), Verdict::Config { code: "NOT_FOUND", .. }));
        assert!(matches!(of(400, r#"{"error":{"status":"UNAVAILABLE"}}"#), Verdict::Overloaded { .. }));
    }

    #[test]
    fn an_unknown_error_code_falls_back_to_the_status() {
        let body = r#"{"error":{"status":"PERMISSION_DENIED","details":[{"errorCode":"NEW_THING"}]}}"#;
        assert!(matches!(of(403, body), Verdict::Config { code: "PERMISSION_DENIED", .. }));
    }

    #[test]
    fn bodies_that_are_no_json_are_judged_by_their_status() {
        for body in ["", "<html>bad gateway</html>", r#"{"error":{"status":"NOT_"#, "null", "[]", r#"{"error":7}"#, "\u{0}"] {
            assert!(matches!(of(502, body), Verdict::Failed { .. }), "{body}");
            assert!(matches!(of(503, body), Verdict::Overloaded { .. }), "{body}");
            assert!(matches!(of(404, body), Verdict::Config { .. }), "{body}");
            assert!(matches!(of(400, body), Verdict::Bug { .. }), "{body}");
            assert!(matches!(of(401, body), Verdict::Unauthenticated { .. }), "{body}");
            assert!(matches!(of(418, body), Verdict::Bug { .. }), "{body}");
        }
        assert_eq!(of(200, "  <!doctype html>"), Verdict::Failed { reason: "html", wait_ms: INTERNAL_WAIT_MS });
        assert_eq!(of(200, ""), Verdict::Accepted);
    }

    #[test]
    fn details_never_show_the_address() {
        let Verdict::Bug { detail, .. } = of(400, r#"{"error":{"message":"bad secret-address here","status":"INVALID_ARGUMENT"}}"#) else {
            panic!("a bug");
        };
        assert!(!detail.contains("secret-address") && detail.contains("bad ... here"), "{detail}");
    }

    #[test]
    fn a_null_where_a_list_should_be_does_not_kill() {
        assert!(matches!(of(500, r#"{"error":{"status":null,"details":null}}"#), Verdict::Failed { .. }));
    }
}
