//! Bytes to typed input at the edge: JSON bodies and query strings whose every mistake is named.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::error::Problem;
use super::serve::Patience;
use crate::app::App;
use crate::model::Fault;

/// How large a body of the operator API may be.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A JSON body. Its type says `#[serde(deny_unknown_fields)]`: a typo must not pass.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _app: &App) -> Result<JsonBody<T>, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send Content-Type: application/json"));
        }
        let bytes = body(request, BODY_BYTES_MAX).await?;
        parse(&bytes).map(JsonBody)
    }
}

/// Reads a whole body of at most `bytes_max`; more is 413 and names the limit.
pub async fn body(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let mut problem =
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body may have at most {bytes_max} bytes"));
        problem.members.insert("limit_bytes".into(), bytes_max.into());
        problem
    };
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let patience = request.extensions().get::<Patience>().copied().unwrap_or_default();
    let read = tokio::time::timeout(patience.body, axum::body::to_bytes(request.into_body(), bytes_max));
    let Ok(outcome) = read.await else {
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body took too long; send it again"));
    };
    match outcome {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.to_string().contains("length limit") => Err(too_large()),
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended early; send it again")),
    }
}

/// JSON to `T`: 400 where it is no JSON, 422 with a pointer where it is the wrong JSON.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner();
        // What is wrong at its beginning may be no JSON at its end.
        match (inner.is_data(), serde_json::from_slice::<IgnoredAny>(bytes)) {
            (true, Ok(_)) => Problem::invalid(vec![Fault { pointer, detail: explain(&inner.to_string()) }]),
            (true, Err(error)) => malformed(&error),
            (false, _) => malformed(&inner),
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    match nul(bytes) {
        Some(pointer) => Err(Problem::invalid(vec![Fault { pointer, detail: "U+0000 is not allowed".into() }])),
        None => Ok(parsed),
    }
}

/// Where a text or a name of the body has U+0000, which PostgreSQL does not take.
fn nul(bytes: &[u8]) -> Option<String> {
    fn find(value: &Value, at: &str) -> Option<String> {
        let below = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        match value {
            Value::String(text) if text.contains('\0') => Some(at.to_owned()),
            Value::Array(items) => items.iter().enumerate().find_map(|(n, item)| find(item, &format!("{at}/{n}"))),
            Value::Object(members) => {
                members.iter().find_map(|(name, item)| if name.contains('\0') { Some(at.to_owned()) } else { find(item, &below(name)) })
            }
            _ => None,
        }
    }
    // Almost no body has the escape at all: only one that does is read a second time.
    let is_escaped = bytes.windows(6).any(|six| six == b"\\u0000");
    if is_escaped { find(&serde_json::from_slice(bytes).ok()?, "") } else { None }
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "json_malformed", format!("the body is no JSON: {error}"))
}

/// An RFC 6901 pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => "/?".to_owned(),
        })
        .collect()
}

/// Serde's sentence, with the nearest known name where a field or a word is not known.
fn explain(message: &str) -> String {
    let sentence = message.split(" at line ").next().unwrap_or(message);
    let names: Vec<&str> = sentence.split('`').skip(1).step_by(2).collect();
    match names.split_first() {
        Some((unknown, known)) if sentence.starts_with("unknown ") => {
            let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
            match nearest.filter(|name| strsim::jaro_winkler(unknown, name) > 0.7) {
                Some(name) => format!("{sentence}; did you mean `{name}`?"),
                None => sentence.to_owned(),
            }
        }
        _ => sentence.to_owned(),
    }
}

/// A query string. Its type says `#[serde(deny_unknown_fields)]`. A parameter without a value is as good as absent.
#[derive(Debug)]
pub struct QueryOf<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for QueryOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<QueryOf<T>, Problem> {
        let query = parts.uri.query().unwrap_or("");
        let given: String = query.split('&').filter(|pair| !pair.is_empty() && !pair.ends_with('=')).collect::<Vec<_>>().join("&");
        if form_urlencoded::parse(given.as_bytes()).any(|(_, value)| value.contains('\0')) {
            return Err(Problem::invalid(vec![Fault { pointer: "?".into(), detail: "U+0000 is not allowed".into() }]));
        }
        let deserializer = serde_urlencoded::Deserializer::new(form_urlencoded::parse(given.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(QueryOf).map_err(|error| {
            let pointer = format!("?{}", error.path());
            Problem::invalid(vec![Fault { pointer, detail: explain(&error.into_inner().to_string()) }])
        })
    }
}
