//! Faults on demand: each answer and each failure that APNs is known for.

use bytes::Bytes;
use serde_json::json;

pub use super::super::plans::{Plans, Times};

/// Bodies of [`Fault::huge`].
const HUGE_BYTES: usize = 1_048_576;

/// What happens to a push instead of the ordinary course.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An answer as given.
    Answer(Canned),
    /// The head of an answer with this status, then RST_STREAM.
    ResetAfterHeaders(u16),
    /// RST_STREAM without an answer, with this code of RFC 9113 section 7: 7 REFUSED_STREAM, 2 INTERNAL_ERROR.
    ResetStream(u32),
    /// GOAWAY. The streams up to this one are answered, if `processed`; else this one and all after it never are, as if they had not
    /// come. `reason` goes as Apple's JSON into the debug data.
    GoAway { processed: bool, code: u32, reason: Option<&'static str> },
    /// The connection ends without an answer.
    Close,
    /// The connection is reset (TCP RST) without an answer.
    Reset,
    /// The request is taken and never answered.
    Hang,
    /// The ordinary course, so many milliseconds later.
    Slow(u64),
    /// The ordinary course; afterwards no body gets through on this connection, for its window is 0.
    Stall,
}

/// A ready answer.
#[derive(Clone, Debug)]
pub struct Canned {
    pub status: u16,
    pub retry_after: Option<String>,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Canned {
    pub(super) fn reason(status: u16, reason: &str) -> Canned {
        Canned::json(status, &json!({ "reason": reason }))
    }

    pub(super) fn unregistered(timestamp: i64) -> Canned {
        Canned::json(410, &json!({"reason": "Unregistered", "timestamp": timestamp}))
    }

    fn json(status: u16, body: &serde_json::Value) -> Canned {
        Canned { status, retry_after: None, content_type: "application/json", body: body.to_string().into() }
    }
}

fn raw(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Fault {
    Fault::Answer(Canned { status, retry_after: None, content_type, body: body.into() })
}

impl Fault {
    /// `{"reason": ...}` with this status: any row of Apple's table, or one that Apple has yet to invent.
    pub fn reason(status: u16, reason: &str) -> Fault {
        Fault::Answer(Canned::reason(status, reason))
    }

    /// 410 Unregistered with this timestamp, milliseconds if it is as Apple says.
    pub fn unregistered(timestamp: i64) -> Fault {
        Fault::Answer(Canned::unregistered(timestamp))
    }

    /// 429 TooManyRequests.
    pub fn too_many_requests(retry_after: Option<&str>) -> Fault {
        let canned = Canned::reason(429, "TooManyRequests");
        Fault::Answer(Canned { retry_after: retry_after.map(str::to_owned), ..canned })
    }

    /// 503 ServiceUnavailable.
    pub fn unavailable(retry_after: Option<&str>) -> Fault {
        let canned = Canned::reason(503, "ServiceUnavailable");
        Fault::Answer(Canned { retry_after: retry_after.map(str::to_owned), ..canned })
    }

    /// GOAWAY NO_ERROR, with this push the last one that is answered.
    pub fn go_away() -> Fault {
        Fault::GoAway { processed: true, code: 0, reason: None }
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
        raw(status, "application/json", r#"{"reason":"Unregis"#)
    }

    /// A body of 1 MiB.
    pub fn huge(status: u16) -> Fault {
        raw(status, "application/json", vec![b' '; HUGE_BYTES])
    }
}

/// What a fault is applied to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every push.
    Send,
    /// Pushes for one topic.
    Topic(String),
    /// Pushes to one device token, in lower-case hex.
    Token(String),
}

/// The control handle. A token comes before a topic, a topic before all.
pub type Faults = Plans<Scope, Fault>;

pub(super) fn next(faults: &Faults, token: &str, topic: &str) -> Option<Fault> {
    if !faults.any() {
        return None;
    }
    let of_token = faults.take(&Scope::Token(token.to_owned()));
    of_token.or_else(|| faults.take(&Scope::Topic(topic.to_owned()))).or_else(|| faults.take(&Scope::Send))
}
