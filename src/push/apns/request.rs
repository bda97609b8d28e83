//! One push as a request: nothing but "come in".

use a2::{Priority, PushType};
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Uri, Version};

use crate::model::Id;
use crate::push::{AddressKind, Nudge};

/// Expirations are rounded up to the minute, so that the header repeats and costs nothing.
const MINUTE_S: i64 = 60;
/// Apple says not to assume a length; this is only what fits a request.
const TOKEN_CHARS_MAX: usize = 4_096;

/// What a request needs beside the nudge.
pub(super) struct Parts<'a> {
    pub(super) authority: &'a str,
    pub(super) scheme: &'static str,
    pub(super) topic: &'a HeaderValue,
    pub(super) bearer: Option<HeaderValue>,
    pub(super) id: Id,
}

/// The head of the request; `None` for a token that is no hex.
pub(super) fn head(nudge: &Nudge, parts: Parts<'_>) -> Option<Request<()>> {
    let token = nudge.address.value.as_str();
    if token.is_empty() || token.len() > TOKEN_CHARS_MAX || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (kind, priority) = match nudge.address.kind {
        AddressKind::Mdm { .. } => (PushType::Mdm, Priority::High),
        // Apple takes background pushes with this priority only.
        AddressKind::Token | AddressKind::Fid => (PushType::Background, Priority::Normal),
    };
    let expires_s = nudge.expires_at_ms.div_euclid(1_000).max(MINUTE_S);
    let expires_s = (expires_s + MINUTE_S - 1) / MINUTE_S * MINUTE_S;
    let path = format!("/3/device/{}", token.to_ascii_lowercase());
    let uri = Uri::builder().scheme(parts.scheme).authority(parts.authority).path_and_query(path).build().ok()?;
    let mut id = HeaderValue::try_from(parts.id.to_string()).ok()?;
    // Never the same twice: it must not push the other headers out of the table of the compression.
    id.set_sensitive(true);
    let mut request = Request::builder()
        .version(Version::HTTP_2)
        .method(Method::POST)
        .uri(uri)
        .header("apns-topic", parts.topic)
        .header("apns-push-type", kind.to_string())
        .header("apns-priority", priority.to_string())
        .header("apns-expiration", expires_s)
        .header("apns-id", id);
    if let Some(bearer) = parts.bearer {
        request = request.header(AUTHORIZATION, bearer);
    }
    request.body(()).ok()
}

/// The body: of an MDM push the magic alone, of a background push that there is something to fetch.
pub(super) fn body(nudge: &Nudge) -> Bytes {
    let json = match &nudge.address.kind {
        AddressKind::Mdm { magic } => serde_json::json!({"mdm": magic}),
        AddressKind::Token | AddressKind::Fid => serde_json::json!({"aps": {"content-available": 1}}),
    };
    Bytes::from(json.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lane;
    use crate::push::Address;

    fn made(token: &str) -> Option<Request<()>> {
        let nudge = Nudge {
            channel_id: Id::v7(1, [1; 10]),
            address: Address { kind: AddressKind::Token, value: token.into() },
            app: String::new(),
            ios: true,
            lane: Lane::Urgent,
            high: true,
            again: false,
            expires_at_ms: 1_800_000_001_000,
            registered_at_ms: 0,
        };
        let (topic, mut bearer) = (HeaderValue::from_static("org.example.agent"), HeaderValue::from_static("bearer x"));
        bearer.set_sensitive(true);
        let id = Id::v7(2, [2; 10]);
        head(&nudge, Parts { authority: "api.push.apple.com", scheme: "https", topic: &topic, bearer: Some(bearer), id })
    }

    #[test]
    fn tokens_of_any_length_go_as_lower_case_hex_and_nothing_else_does() {
        for token in ["ab", "AB".repeat(32).as_str(), "0f".repeat(100).as_str(), "7".repeat(TOKEN_CHARS_MAX).as_str()] {
            let request = made(token).unwrap();
            assert_eq!(request.uri().path(), format!("/3/device/{}", token.to_lowercase()));
        }
        for wrong in ["", "xyz", "ab/../cd", "7".repeat(TOKEN_CHARS_MAX + 1).as_str()] {
            assert!(made(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_secret_or_never_the_same_stays_out_of_the_table_of_the_compression() {
        let request = made("ab").unwrap();
        let sensitive: Vec<&str> =
            request.headers().iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(sensitive, ["apns-id", "authorization"]);
        assert_eq!(request.headers()["apns-expiration"], "1800000060", "whole minutes");
    }
}
