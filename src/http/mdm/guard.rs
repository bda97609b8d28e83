//! Around everything under `/mdm`: a panic is a 500 and the connection lives, and nothing leaves as a 401.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

/// Turns what a device would take for its dismissal into what it is.
pub async fn guard(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
            tracing::error!("an answer to a device would have been 401, which ends its management; it is 403");
            StatusCode::FORBIDDEN.into_response()
        }
        // A device follows a redirect and takes anything else for a refusal; an address that is not there is one.
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a request of a device made the server panic");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use axum::{Router, middleware};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn whatever_happens_inside_no_401_comes_out() {
        let unauthorized = || async { StatusCode::UNAUTHORIZED };
        let panicking = || async {
            if std::hint::black_box(true) {
                panic!("inside")
            }
        };
        let router = Router::new().route("/a", get(unauthorized)).route("/b", get(panicking)).layer(middleware::from_fn(guard));
        for (path, status) in [("/a", 403), ("/b", 500), ("/c", 404)] {
            let answer = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{path}");
        }
    }
}
