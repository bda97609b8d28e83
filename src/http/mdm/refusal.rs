//! What a device is told that is turned away: a status and a sentence for whoever reads its log. A body with a `code` of Apple's makes it act,
//! so there is one only where it shall.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use serde_json::json;

use crate::error::Error;
use crate::http::error::Problem;
use crate::protocol::apple::message::MessageError;

/// A message that is not taken.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    detail: String,
    retry_after_s: Option<i64>,
}

impl Refusal {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Refusal {
        Refusal { status, detail: detail.into(), retry_after_s: None }
    }
}

/// The one refusal that a device acts on: it ends its management, where its system is new enough to know the word. Only for one that an
/// operator has dismissed for good.
pub fn unrecognized() -> Response {
    let body = json!({"code": "com.apple.unrecognized.device", "description": "this device is not managed any more"}).to_string();
    (StatusCode::FORBIDDEN, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

impl From<MessageError> for Refusal {
    fn from(error: MessageError) -> Refusal {
        tracing::info!(%error, "a message of a device is refused");
        Refusal::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        // Only these mean to a device what they say.
        let status = match problem.status {
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST => problem.status,
            status if status.is_server_error() => status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::UNSUPPORTED_MEDIA_TYPE => StatusCode::BAD_REQUEST,
            _ => StatusCode::FORBIDDEN,
        };
        Refusal { status, detail: problem.detail, retry_after_s: problem.retry_after_s }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Problem::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], self.detail).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
