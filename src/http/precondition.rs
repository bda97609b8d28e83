//! `If-Match` and `If-None-Match`: a change is made to what its sender has seen, or not at all.
//!
//! Policies have an ETag. Nothing else has one: whoever names one there, names one that nothing has.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::auth::Caller;
use super::error::Problem;
use crate::app::App;
use crate::error::Error;
use crate::model::{Precondition, Tags};

/// The addresses whose handlers look at the headers themselves.
const TAGGED: [&str; 2] = ["/api/v1/policies/{name}", "/api/v1/policies/{name}/assignments"];

/// What the headers of a request ask for.
#[derive(Debug)]
pub struct Conditional(pub Precondition);

impl FromRequestParts<App> for Conditional {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Conditional, Infallible> {
        Ok(Conditional(read(&parts.headers)))
    }
}

fn read(headers: &HeaderMap) -> Precondition {
    // What cannot be read as text is no tag of ours; two lines are one list.
    let tags = |name: HeaderName, weak: bool| {
        let lines: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("")).collect();
        (!lines.is_empty()).then(|| Tags::read(&lines.join(","), weak))
    };
    Precondition { if_match: tags(header::IF_MATCH, false), if_none_match: tags(header::IF_NONE_MATCH, true) }
}

/// Around the operator API: refuses to change a thing that has no ETag where one is asked for, once it is known who asks.
pub async fn untagged(State(app): State<App>, request: Request, next: Next) -> Response {
    let changes = matches!(*request.method(), Method::PUT | Method::PATCH | Method::DELETE);
    let is_tagged = request.extensions().get::<MatchedPath>().is_some_and(|path| TAGGED.contains(&path.as_str()));
    if !changes || is_tagged || !matches!(read(request.headers()).if_match, Some(Tags::These(_))) {
        return next.run(request).await;
    }
    let (mut parts, _) = request.into_parts();
    match Caller::from_request_parts(&mut parts, &app).await {
        Ok(_) => Problem::from(Error::refused("precondition_failed", "this has no ETag: send If-Match: *, or none")).into_response(),
        Err(problem) => problem.into_response(),
    }
}
