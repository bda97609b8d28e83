//! Faults on demand: each answer and each failure that FCM and Google's token endpoint are known for.

use bytes::Bytes;
use serde_json::json;

pub use super::super::plans::{Plans, Times};

/// Bodies of [`Fault::huge`].
const HUGE_BYTES: usize = 1_048_576;

/// What happens to a request instead of the ordinary course.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer as given.
    Answer(Canned),
    /// Status and half of the announced body, then the connection ends.
    Cut(u16),
    /// The connection ends without an answer.
    Close,
    /// The connection is reset (RST) without an answer.
    Reset,
    /// RST_STREAM without an answer, with this code of RFC 9113 section 7: 7 REFUSED_STREAM, 2 INTERNAL_ERROR. On HTTP/1.1 the connection
    /// closes.
    ResetStream(u32),
    /// The request is taken and never answered.
    Hang,
    /// The ordinary course, so many milliseconds later.
    Slow(u64),
    /// The ordinary course, and the connection ends in order: GOAWAY, as FCM sends it for `max_age` and `session_timed_out`. On
    /// HTTP/1.1 the connection closes after the answer.
    GoAway,
    /// The ordinary course, and then a GOAWAY with this error code and these words, after which the connection ends at once, whatever is
    /// under way on it. On HTTP/1.1 as [`Fault::GoAway`].
    Dismissed { code: u32, words: &'static str },
}

/// ENHANCE_YOUR_CALM (RFC 9113, 7).
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A ready answer.
#[derive(Clone, Debug)]
pub struct Canned {
    pub status: u16,
    pub retry_after: Option<String>,
    pub content_type: &'static str,
    pub body: Bytes,
}

fn error(status: u16, name: &str, code: Option<&str>, message: &str, extra: serde_json::Value) -> Canned {
    let mut details = Vec::new();
    if !extra.is_null() {
        details.push(extra);
    }
    if let Some(code) = code {
        details.push(json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}));
    }
    let mut error = json!({"code": status, "message": message, "status": name});
    if !details.is_empty() {
        error["details"] = details.into();
    }
    Canned {
        status,
        retry_after: None,
        content_type: "application/json; charset=UTF-8",
        body: json!({ "error": error }).to_string().into(),
    }
}

fn raw(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Fault {
    Fault::Answer(Canned { status, retry_after: None, content_type, body: body.into() })
}

impl Canned {
    pub(super) fn invalid_token() -> Canned {
        let violation = json!({"@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": "message.token", "description": "Invalid registration token"}]});
        let message = "The registration token is not a valid FCM registration token";
        error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), message, violation)
    }

    pub(super) fn invalid_argument(field: &str, description: &str) -> Canned {
        let violation = json!({"@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": description}]});
        error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), description, violation)
    }

    pub(super) fn unauthenticated() -> Canned {
        error(401, "UNAUTHENTICATED", None, "Request had invalid authentication credentials.", json!(null))
    }

    pub(super) fn permission_denied() -> Canned {
        error(403, "PERMISSION_DENIED", None, "Permission 'cloudmessaging.messages.create' denied on resource", json!(null))
    }

    pub(super) fn sender_id_mismatch() -> Canned {
        error(403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), "SenderId mismatch", json!(null))
    }

    pub(super) fn unregistered() -> Canned {
        error(404, "NOT_FOUND", Some("UNREGISTERED"), "Requested entity was not found.", json!(null))
    }

    pub(super) fn project_not_found() -> Canned {
        error(404, "NOT_FOUND", None, "Requested entity was not found.", json!(null))
    }

    fn retry_after(mut self, value: Option<&str>) -> Fault {
        self.retry_after = value.map(str::to_owned);
        Fault::Answer(self)
    }
}

impl Fault {
    /// What three PINGs without a request between them bring.
    pub fn too_many_pings() -> Fault {
        Fault::Dismissed { code: ENHANCE_YOUR_CALM, words: "too_many_pings" }
    }

    /// What four idle minutes bring.
    pub fn session_timed_out() -> Fault {
        Fault::Dismissed { code: 0, words: "session_timed_out" }
    }

    /// 400 INVALID_ARGUMENT for the address.
    pub fn invalid_token() -> Fault {
        Fault::Answer(Canned::invalid_token())
    }

    /// 400 INVALID_ARGUMENT for anything else.
    pub fn invalid_argument() -> Fault {
        Fault::Answer(Canned::invalid_argument("message.android.ttl", "Invalid value at 'message.android.ttl'"))
    }

    /// 401 UNAUTHENTICATED.
    pub fn unauthenticated() -> Fault {
        Fault::Answer(Canned::unauthenticated())
    }

    /// 401 THIRD_PARTY_AUTH_ERROR: the APNs key uploaded to Firebase is bad.
    pub fn third_party_auth() -> Fault {
        let message = "Auth error from APNS or Web Push Service";
        Fault::Answer(error(401, "UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), message, json!(null)))
    }

    /// 403 SENDER_ID_MISMATCH.
    pub fn sender_id_mismatch() -> Fault {
        Fault::Answer(Canned::sender_id_mismatch())
    }

    /// 403 PERMISSION_DENIED.
    pub fn permission_denied() -> Fault {
        Fault::Answer(Canned::permission_denied())
    }

    /// 404 UNREGISTERED.
    pub fn unregistered() -> Fault {
        Fault::Answer(Canned::unregistered())
    }

    /// 404 NOT_FOUND without an FcmError.
    pub fn project_not_found() -> Fault {
        Fault::Answer(Canned::project_not_found())
    }

    /// 429 for the whole project.
    pub fn quota(retry_after: Option<&str>) -> Fault {
        let detail = json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"subject": "project", "description": "Message rate quota exceeded"}]});
        error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "Quota exceeded", detail).retry_after(retry_after)
    }

    /// 429 for the one device.
    pub fn device_quota(retry_after: Option<&str>) -> Fault {
        let detail = json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"subject": "device", "description": "Device message rate exceeded"}]});
        error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "Device message rate exceeded", detail).retry_after(retry_after)
    }

    /// 500 INTERNAL.
    pub fn internal() -> Fault {
        Fault::Answer(error(500, "INTERNAL", Some("INTERNAL"), "Internal error encountered.", json!(null)))
    }

    /// 503 UNAVAILABLE.
    pub fn unavailable(retry_after: Option<&str>) -> Fault {
        let canned = error(503, "UNAVAILABLE", Some("UNAVAILABLE"), "The service is currently unavailable.", json!(null));
        canned.retry_after(retry_after)
    }

    /// A page from something in between.
    pub fn html(status: u16) -> Fault {
        raw(status, "text/html", "<!DOCTYPE html><html><title>Error</title><p>That's an error.</html>")
    }

    /// No body at all.
    pub fn empty(status: u16) -> Fault {
        raw(status, "application/json", Bytes::new())
    }

    /// JSON that ends in the middle.
    pub fn truncated(status: u16) -> Fault {
        raw(status, "application/json", r#"{"error":{"code":404,"message":"Requested entity was not f"#)
    }

    /// A body of 1 MiB.
    pub fn huge(status: u16) -> Fault {
        raw(status, "application/json", vec![b' '; HUGE_BYTES])
    }

    /// The token endpoint refuses the account.
    pub fn invalid_grant() -> Fault {
        raw(400, "application/json", r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#)
    }
}

/// What a fault is applied to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every message.
    Send,
    /// Messages to one address.
    Address(String),
    /// The token endpoint.
    OAuth,
}

/// The control handle. An address comes before all.
pub type Faults = Plans<Scope, Fault>;

pub(super) fn next_send(faults: &Faults, address: Option<&str>) -> Option<Fault> {
    if !faults.any() {
        return None;
    }
    address.and_then(|address| faults.take(&Scope::Address(address.to_owned()))).or_else(|| faults.take(&Scope::Send))
}

pub(super) fn next_oauth(faults: &Faults) -> Option<Fault> {
    faults.any().then(|| faults.take(&Scope::OAuth)).flatten()
}
