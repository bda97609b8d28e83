//! A request as APNs takes it: what Apple documents as wrong is answered with Apple's reason. The stand-in is stricter where Muster has
//! rules of its own: the expiration and the push type are never left out, and a body holds exactly what its push type needs.

use http::HeaderMap;
use http::request::Parts;

use super::faults::Canned;

const BODY_BYTES_MAX: usize = 4_096;
const COLLAPSE_ID_BYTES_MAX: usize = 64;
/// Headers that must not come twice.
const HEADERS: [&str; 7] =
    ["authorization", "apns-id", "apns-expiration", "apns-priority", "apns-topic", "apns-push-type", "apns-collapse-id"];
const PUSH_TYPES: [&str; 10] =
    ["alert", "background", "complication", "controls", "fileprovider", "liveactivity", "location", "mdm", "pushtotalk", "voip"];

/// A request whose form is right.
pub(super) struct Accepted {
    /// Lower-case hex.
    pub(super) token: String,
    pub(super) topic: String,
    pub(super) mdm: bool,
    pub(super) magic: Option<String>,
    /// Unix seconds; 0 for one attempt.
    pub(super) expires_at_s: i64,
}

/// The device token in a path, if it is one.
pub(super) fn token_of(path: &str) -> Option<String> {
    let token = path.strip_prefix("/3/device/")?;
    let hex = !token.is_empty() && token.len().is_multiple_of(2) && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| token.to_ascii_lowercase())
}

/// Reads a request. `own_topic` is the one topic of a client certificate, which may then be left out.
pub(super) fn read(head: &Parts, body: &[u8], own_topic: Option<&str>) -> Result<Accepted, Canned> {
    let path = head.uri.path();
    if head.method != http::Method::POST {
        return Err(Canned::reason(405, "MethodNotAllowed"));
    }
    if path == "/3/device/" || path == "/3/device" {
        return Err(Canned::reason(400, "MissingDeviceToken"));
    }
    if !path.starts_with("/3/device/") {
        return Err(Canned::reason(404, "BadPath"));
    }
    let Some(token) = token_of(path) else { return Err(Canned::reason(400, "BadDeviceToken")) };
    if HEADERS.iter().any(|name| head.headers.get_all(*name).iter().count() > 1) {
        return Err(Canned::reason(400, "DuplicateHeaders"));
    }
    let header = |name: &str| text(&head.headers, name);
    if header("apns-id").is_some_and(|id| !is_message_id(id)) {
        return Err(Canned::reason(400, "BadMessageId"));
    }
    let expires_at_s = header("apns-expiration").and_then(|text| text.parse().ok()).filter(|at_s| *at_s >= 0);
    let Some(expires_at_s) = expires_at_s else { return Err(Canned::reason(400, "BadExpirationDate")) };
    if header("apns-collapse-id").is_some_and(|id| id.len() > COLLAPSE_ID_BYTES_MAX) {
        return Err(Canned::reason(400, "BadCollapseId"));
    }
    let topic = match (header("apns-topic"), own_topic) {
        (Some(topic), _) if !topic.is_empty() => topic,
        (None, Some(own)) => own,
        _ => return Err(Canned::reason(400, "MissingTopic")),
    };
    if topic.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(Canned::reason(400, "BadTopic"));
    }
    let push_type = header("apns-push-type").unwrap_or_default();
    if !PUSH_TYPES.contains(&push_type) {
        return Err(Canned::reason(400, "InvalidPushType"));
    }
    match (header("apns-priority"), push_type) {
        (Some("5"), _) => {}
        (None | Some("10" | "1"), kind) if kind != "background" => {}
        _ => return Err(Canned::reason(400, "BadPriority")),
    }
    if body.is_empty() {
        return Err(Canned::reason(400, "PayloadEmpty"));
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(Canned::reason(413, "PayloadTooLarge"));
    }
    let magic = match push_type {
        "mdm" => Some(magic_of(body).ok_or_else(|| Canned::reason(400, "InvalidPushType"))?),
        "background" if body == br#"{"aps":{"content-available":1}}"# => None,
        // Muster sends nothing else; a payload that does not go with its push type is refused.
        _ => return Err(Canned::reason(400, "InvalidPushType")),
    };
    Ok(Accepted { token, topic: topic.to_owned(), mdm: push_type == "mdm", magic, expires_at_s })
}

/// The header's text; empty where it is not even text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Lower-case 8-4-4-4-12.
fn is_message_id(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| !byte.is_ascii_uppercase()) && uuid::Uuid::parse_str(id).is_ok()
}

/// The magic of an MDM push: the body's only member.
fn magic_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Mdm {
        mdm: String,
    }
    serde_json::from_slice::<Mdm>(body).ok().map(|body| body.mdm)
}

#[cfg(test)]
mod tests {
    use super::read;

    const BACKGROUND: &str = r#"{"aps":{"content-available":1}}"#;

    /// The reason with which a request is refused; empty where it is taken.
    fn refused(path: &str, changes: &[(&'static str, &str)], body: &str) -> String {
        let mut request = http::Request::post(format!("https://localhost{path}"));
        let usual = [("apns-topic", "org.example.app"), ("apns-push-type", "background"), ("apns-priority", "5"), ("apns-expiration", "9")];
        for (name, value) in usual.iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name)).chain(changes) {
            if *value != "-" {
                request = request.header(*name, *value);
            }
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        read(&head, body.as_bytes(), None).map_or_else(|canned| String::from_utf8_lossy(&canned.body).into_owned(), |_| String::new())
    }

    #[test]
    fn what_apns_takes_is_taken() {
        assert_eq!(refused("/3/device/00ff", &[], BACKGROUND), "");
        assert_eq!(refused("/3/device/00ff", &[("apns-id", "0198f3a2-7c4e-7b1a-9f00-aabbccddeeff")], BACKGROUND), "");
        assert_eq!(refused("/3/device/00ff", &[("apns-push-type", "mdm"), ("apns-priority", "10")], r#"{"mdm":"a\"b"}"#), "");
    }

    #[test]
    fn what_apns_refuses_is_refused_with_its_reason() {
        let long = "x".repeat(65);
        let large = format!("{BACKGROUND}{}", " ".repeat(4_096));
        for (path, changes, body, reason) in [
            ("/3/device/", vec![], BACKGROUND, "MissingDeviceToken"),
            ("/2/device/00", vec![], BACKGROUND, "BadPath"),
            ("/3/device/xyz", vec![], BACKGROUND, "BadDeviceToken"),
            ("/3/device/0", vec![], BACKGROUND, "BadDeviceToken"),
            ("/3/device/00", vec![("apns-id", "not-an-id")], BACKGROUND, "BadMessageId"),
            ("/3/device/00", vec![("apns-id", "0198F3A2-7C4E-7B1A-9F00-AABBCCDDEEFF")], BACKGROUND, "BadMessageId"),
            ("/3/device/00", vec![("apns-expiration", "-")], BACKGROUND, "BadExpirationDate"),
            ("/3/device/00", vec![("apns-expiration", "soon")], BACKGROUND, "BadExpirationDate"),
            ("/3/device/00", vec![("apns-collapse-id", &long)], BACKGROUND, "BadCollapseId"),
            ("/3/device/00", vec![("apns-topic", "-")], BACKGROUND, "MissingTopic"),
            ("/3/device/00", vec![("apns-topic", "a b")], BACKGROUND, "BadTopic"),
            ("/3/device/00", vec![("apns-topic", "a"), ("apns-topic", "b")], BACKGROUND, "DuplicateHeaders"),
            ("/3/device/00", vec![("apns-push-type", "-")], BACKGROUND, "InvalidPushType"),
            ("/3/device/00", vec![("apns-push-type", "silent")], BACKGROUND, "InvalidPushType"),
            ("/3/device/00", vec![("apns-priority", "10")], BACKGROUND, "BadPriority"),
            ("/3/device/00", vec![("apns-priority", "-")], BACKGROUND, "BadPriority"),
            ("/3/device/00", vec![], "", "PayloadEmpty"),
            ("/3/device/00", vec![], &large, "PayloadTooLarge"),
            ("/3/device/00", vec![], r#"{"mdm":"x"}"#, "InvalidPushType"),
            ("/3/device/00", vec![("apns-push-type", "mdm")], r#"{"mdm":"x","aps":{}}"#, "InvalidPushType"),
        ] {
            assert_eq!(refused(path, &changes, body), format!(r#"{{"reason":"{reason}"}}"#), "{path} {changes:?}");
        }
    }
}
