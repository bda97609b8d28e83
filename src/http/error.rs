//! The one place that chooses statuses: every error becomes an RFC 9457 problem document here.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::console;
use crate::error::{Error, Refusal, Trouble, is_full};
use crate::model::Fault;
use crate::telemetry::Seldom;

/// Seconds after which a client may try again when the database is away.
const AWAY_RETRY_AFTER_S: i64 = 5;

/// Seconds after which a client may try again when the disk of the database is full.
const FULL_RETRY_AFTER_S: i64 = 30;

/// The media type of every answer that is no success.
const PROBLEM: &str = "application/problem+json";

/// The code of a body that is compressed; its answer says what would be taken.
pub const ENCODING_UNSUPPORTED: &str = "encoding_unsupported";

/// An answer that is no success.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    pub errors: Vec<Fault>,
    pub retry_after_s: Option<i64>,
    pub members: Map<String, Value>,
}

/// What a handler answers.
pub type Answer<T> = Result<T, Problem>;

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), errors: Vec::new(), retry_after_s: None, members: Map::new() }
    }

    /// 422 with the faults.
    pub fn invalid(errors: Vec<Fault>) -> Problem {
        let detail = errors.first().map_or_else(
            || "the request is invalid".to_owned(),
            |fault| match fault.pointer.as_str() {
                // The whole of it is meant.
                "" | "?" => fault.detail.clone(),
                pointer => format!("{pointer}: {}", fault.detail),
            },
        );
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }
}

/// The status of each code that a refusal can carry.
fn status_of(code: &str) -> StatusCode {
    match code {
        "token_unknown" | "key_unknown" | "device_unknown" | "token_replaced" | "session_unknown" => StatusCode::UNAUTHORIZED,
        "token_expired"
        | "token_revoked"
        | "token_exhausted"
        | "user_unknown"
        | "user_disabled"
        | "user_mismatch"
        | "device_mismatch"
        | "device_unauthorized"
        | "unauthorized"
        | "role_insufficient"
        | "second_operator_needed"
        | "csrf_mismatch" => StatusCode::FORBIDDEN,
        "cursor_expired" => StatusCode::GONE,
        "precondition_failed" => StatusCode::PRECONDITION_FAILED,
        "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "idempotency_mismatch" | "invalid" => StatusCode::UNPROCESSABLE_ENTITY,
        "too_many_tries" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::CONFLICT,
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let trouble = error.trouble();
        match error {
            Error::NotFound(what) => Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}")),
            Error::Invalid(errors) => Problem::invalid(errors),
            Error::Refused(refusal) => {
                let Refusal { code, detail, mut members } = *refusal;
                let retry_after_s = members.remove("retry_after_s").and_then(|s| s.as_i64());
                Problem { members, retry_after_s, ..Problem::new(status_of(code), code, detail) }
            }
            Error::Busy { retry_after_s } => Problem {
                retry_after_s: Some(retry_after_s),
                ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", format!("the server is busy; try again in {retry_after_s} s"))
            },
            Error::Full => full(),
            Error::Database(error) if is_full(&error) => full(),
            Error::Database(error) if matches!(trouble, Trouble::Away | Trouble::Repeat) => {
                static TOLD: Seldom = Seldom::new();
                if TOLD.is_time() {
                    tracing::warn!(%error, "the database does not answer");
                }
                Problem {
                    retry_after_s: Some(AWAY_RETRY_AFTER_S),
                    ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database_away", "the database does not answer; try again")
                }
            }
            Error::Database(error) => {
                tracing::error!(%error, "a statement failed");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why, under this request's id")
            }
        }
    }
}

/// Puts what the router refuses by itself (a method that an address does not take, an address that is no UTF-8) into the same words as
/// everything else.
pub async fn as_problem(request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    let status = answer.status();
    let is_told = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM);
    if !(status.is_client_error() || status.is_server_error()) || is_told {
        return answer;
    }
    let (code, detail) = match status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this address takes other methods: see the header Allow"),
        StatusCode::BAD_REQUEST => ("address_malformed", "the address cannot be read: percent-encode its parts as UTF-8"),
        StatusCode::NOT_FOUND => ("not_found", "there is no such address"),
        status if status.is_server_error() => ("internal", "the server failed; its log says why, under this request's id"),
        _ => ("refused", "the request cannot be taken as it is"),
    };
    let mut told = Problem::new(status, code, detail).into_response();
    if let Some(methods) = answer.headers().get(header::ALLOW) {
        told.headers_mut().insert(header::ALLOW, methods.clone());
    }
    told
}

/// An address with U+0000 in it is nobody's: no name has it, and PostgreSQL takes no text with it.
pub async fn no_nul(request: Request, next: Next) -> Response {
    if request.uri().path().contains("%00") {
        return console::layout::missing(request.uri().clone()).await;
    }
    next.run(request).await
}

/// Phones keep what they have to say and come again; somebody must make room meanwhile.
fn full() -> Problem {
    static TOLD: Seldom = Seldom::new();
    if TOLD.is_time() {
        tracing::error!("the disk of the database is full: nothing can be written until there is room; reading goes on");
    }
    metrics::counter!("muster_database_full_total").increment(1);
    let detail =
        "the disk of the server's database is full; what was accepted is safe, and everything goes on by itself once there is room";
    Problem { retry_after_s: Some(FULL_RETRY_AFTER_S), ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database_full", detail) }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.members;
        body.insert("type".into(), json!("about:blank"));
        body.insert("title".into(), json!(self.status.canonical_reason().unwrap_or("Error")));
        body.insert("status".into(), json!(self.status.as_u16()));
        body.insert("code".into(), json!(self.code));
        body.insert("detail".into(), json!(self.detail));
        if !self.errors.is_empty() {
            body.insert("errors".into(), json!(self.errors));
        }
        let mut response = (self.status, Json(Value::Object(body))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(HeaderName::from_static("www-authenticate"), HeaderValue::from_static("Bearer"));
        }
        if self.code == ENCODING_UNSUPPORTED {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        response
    }
}
