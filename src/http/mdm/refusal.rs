//! What a device is told that is turned away: a status and a sentence for whoever reads its log. A body with a `code` of Apple's would
//! make it act, so there is none.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

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
            StatusCode::REQUEST_TIMEOUT => StatusCode::BAD_REQUEST,
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
