//! Bytes to typed input at the edge: JSON bodies and query strings whose every mistake is named.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{ENCODING_UNSUPPORTED, Problem};
use super::serve::Patience;
use crate::app::App;
use crate::model::Fault;
use crate::model::json::{self, Unread};

/// How large a body of the operator API may be.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How much of a body that is refused is read on, and for how long, so that its sender comes to hear why.
const DRAINED_BYTES_MAX: usize = 4 * 1024 * 1024;
const DRAINED_FOR_MAX: Duration = Duration::from_secs(2);

/// A JSON body. Its type says `#[serde(deny_unknown_fields)]`: a typo must not pass.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _app: &App) -> Result<JsonBody<T>, Problem> {
        parse(&json_bytes(request).await?).map(JsonBody)
    }
}

/// The body of a request that says that it is JSON.
pub async fn json_bytes(request: Request) -> Result<Bytes, Problem> {
    says_json(request.headers())?;
    body(request, BODY_BYTES_MAX).await
}

/// A JSON body that may be left out.
#[derive(Debug)]
pub struct JsonIfAny<T>(pub Option<T>);

impl<T: DeserializeOwned> FromRequest<App> for JsonIfAny<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _app: &App) -> Result<JsonIfAny<T>, Problem> {
        let said = says_json(request.headers());
        let bytes = body(request, BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Ok(JsonIfAny(None));
        }
        said?;
        parse(&bytes).map(|read| JsonIfAny(Some(read)))
    }
}

fn says_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "send Content-Type: application/json"));
    }
    Ok(())
}

/// Reads a whole body of at most `bytes_max`; more is 413 and names the limit, and one that is compressed is 415.
pub async fn body(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let (parts, mut body) = request.into_parts();
    let patience = parts.extensions.get::<Patience>().copied().unwrap_or_default();
    let declared =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    let refused = if !is_plain(&parts.headers) {
        Some(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ENCODING_UNSUPPORTED, "send the body as it is, without Content-Encoding"))
    } else if declared.is_some_and(|length| length > bytes_max as u64) {
        Some(too_large(bytes_max as u64))
    } else {
        None
    };
    if let Some(problem) = refused {
        // Who asks before it sends has sent nothing, and need not.
        if !parts.headers.contains_key(header::EXPECT) {
            drain(&mut body, patience).await;
        }
        return Err(problem);
    }
    let Ok(outcome) = tokio::time::timeout(patience.body, Limited::new(&mut body, bytes_max).collect()).await else {
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body took too long; send it again"));
    };
    match outcome {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            drain(&mut body, patience).await;
            Err(too_large(bytes_max as u64))
        }
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended early; send it again")),
    }
}

fn is_plain(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    named.map(<[u8]>::trim_ascii).all(|name| name.is_empty() || name.eq_ignore_ascii_case(b"identity"))
}

/// 413 with the limit.
pub fn too_large(bytes_max: u64) -> Problem {
    let mut problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body may have at most {bytes_max} bytes"));
    problem.members.insert("limit_bytes".into(), bytes_max.into());
    problem
}

/// Reads on for a while and forgets it, before a request is refused. A connection that is closed over unread bytes is reset, and a client that
/// writes all before it reads would never see the answer.
pub async fn drain(body: &mut Body, patience: Patience) {
    let read = async {
        let mut left = DRAINED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    tokio::time::timeout(patience.body.min(DRAINED_FOR_MAX), read).await.ok();
}

/// JSON to `T`: 400 where it is no JSON, 422 with a pointer where it is the wrong JSON.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let parsed = json::read(bytes).map_err(|unread| match unread {
        Unread::Malformed(why) => Problem::new(StatusCode::BAD_REQUEST, "json_malformed", format!("the body is no JSON: {why}")),
        Unread::Invalid(fault) => Problem::invalid(vec![Fault { detail: explain(&fault.detail), ..fault }]),
    })?;
    match nul(bytes) {
        Some(pointer) => Err(Problem::invalid(vec![Fault { pointer, detail: "U+0000 is not allowed".into() }])),
        None => Ok(parsed),
    }
}

/// Where a text or a name of the body has U+0000, which PostgreSQL does not take.
fn nul(bytes: &[u8]) -> Option<String> {
    fn find(value: &Value, at: &str) -> Option<String> {
        match value {
            Value::String(text) if text.contains('\0') => Some(at.to_owned()),
            Value::Array(items) => items.iter().enumerate().find_map(|(n, item)| find(item, &format!("{at}/{n}"))),
            Value::Object(members) => {
                let mut members = members.iter();
                members.find_map(|(name, item)| if name.contains('\0') { Some(at.to_owned()) } else { find(item, &json::below(at, name)) })
            }
            _ => None,
        }
    }
    // Almost no body has the escape at all: only one that does is read a second time.
    let is_escaped = bytes.windows(6).any(|six| six == b"\\u0000");
    if is_escaped { find(&serde_json::from_slice(bytes).ok()?, "") } else { None }
}

/// A fault of what serde says of the part at `pointer`.
pub fn fault(pointer: &str, sentence: &str) -> Fault {
    Fault { pointer: pointer.to_owned(), detail: explain(sentence) }
}

/// Serde's sentence, with the nearest known name where a field or a word is not known.
fn explain(sentence: &str) -> String {
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
            let path = error.path().to_string();
            let pointer = if path == "." { "?".to_owned() } else { format!("?{path}") };
            Problem::invalid(vec![Fault { pointer, detail: explain(&error.into_inner().to_string()) }])
        })
    }
}
