//! A message as FCM takes it: unknown fields, wrong types and out-of-range values are refused as the service does.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::faults::Canned;

const TTL_S_MAX: f64 = 2_419_200.0;
/// FCM's default ttl: 28 days.
const TTL_MS_DEFAULT: i64 = 2_419_200_000;
const DATA_BYTES_MAX: usize = 4_096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    message: Message,
    #[serde(default)]
    validate_only: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    token: Option<String>,
    fid: Option<String>,
    #[serde(default)]
    data: BTreeMap<String, String>,
    android: Option<Android>,
    apns: Option<Apns>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Android {
    priority: Option<String>,
    ttl: Option<String>,
    collapse_key: Option<String>,
    #[serde(default, rename = "direct_boot_ok")]
    _direct_boot_ok: bool,
    restricted_package_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Apns {
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    payload: serde_json::Map<String, serde_json::Value>,
}

/// A message that passed.
pub(super) struct Accepted {
    pub(super) address: String,
    pub(super) data: BTreeMap<String, String>,
    pub(super) high: bool,
    pub(super) ttl_ms: i64,
    pub(super) collapse_key: Option<String>,
    pub(super) package: Option<String>,
    pub(super) validate_only: bool,
}

/// Reads a request body.
pub(super) fn read(body: &[u8]) -> Result<Accepted, Canned> {
    let refuse = |field: &str, text: &str| Err(Canned::invalid_argument(field, text));
    let request: Request = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return refuse("message", &format!("Invalid JSON payload received. {error}")),
    };
    let message = request.message;
    let address = match (message.token, message.fid) {
        (Some(address), None) | (None, Some(address)) => address,
        _ => return refuse("message", "Exactly one of token, fid, topic or condition is required"),
    };
    if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_-".contains(&byte)) {
        return Err(Canned::invalid_token());
    }
    let reserved =
        |key: &String| key == "from" || key == "message_type" || key.starts_with("google.") || key.starts_with("gcm.notification.");
    if let Some(key) = message.data.keys().find(|key| reserved(key)) {
        return refuse("message.data", &format!("Invalid data payload key: {key}"));
    }
    if message.data.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > DATA_BYTES_MAX {
        return refuse("message.data", "Message is too big");
    }
    if let Some(apns) = &message.apns
        && apns.headers.get("apns-priority").is_some_and(|priority| priority == "10")
        && apns.payload.get("aps").is_none_or(|aps| aps.get("alert").is_none())
    {
        return refuse("message.apns.headers", "A background notification must not have priority 10");
    }
    let android = message.android.unwrap_or_default();
    let high = match android.priority.as_deref() {
        None | Some("NORMAL" | "normal") => false,
        Some("HIGH" | "high") => true,
        Some(_) => return refuse("message.android.priority", "Invalid value at 'message.android.priority'"),
    };
    let ttl_ms = match android.ttl.as_deref() {
        None => TTL_MS_DEFAULT,
        Some(text) => match text.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok()) {
            Some(seconds) if (0.0..=TTL_S_MAX).contains(&seconds) => (seconds * 1_000.0) as i64,
            _ => return refuse("message.android.ttl", "Invalid value at 'message.android.ttl'"),
        },
    };
    Ok(Accepted {
        address,
        data: message.data,
        high,
        ttl_ms,
        collapse_key: android.collapse_key,
        package: android.restricted_package_name,
        validate_only: request.validate_only,
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_fcm_refuses_is_refused() {
        let ok = r#"{"message":{"token":"a:b","data":{"k":"sync"},"android":{"priority":"HIGH","ttl":"3.5s"}}}"#;
        assert_eq!(read(ok.as_bytes()).map(|accepted| accepted.ttl_ms).ok(), Some(3_500));
        for bad in [
            r#"{"message":{"data":{"k":"sync"}}}"#,
            r#"{"message":{"token":"a","fid":"b"}}"#,
            r#"{"message":{"token":"a b"}}"#,
            r#"{"message":{"token":"a","data":{"k":1}}}"#,
            r#"{"message":{"token":"a","data":{"from":"x"}}}"#,
            r#"{"message":{"token":"a","data":{"google.x":"x"}}}"#,
            r#"{"message":{"token":"a","android":{"priority":"LOW"}}}"#,
            r#"{"message":{"token":"a","android":{"ttl":"2419201s"}}}"#,
            r#"{"message":{"token":"a","android":{"ttl":"-1s"}}}"#,
            r#"{"message":{"token":"a","android":{"ttl":"60"}}}"#,
            r#"{"message":{"token":"a","apns":{"headers":{"apns-priority":"10"},"payload":{"aps":{"content-available":1}}}}}"#,
            r#"{"message":{"token":"a","unknown":1}}"#,
            r#"{"message""#,
        ] {
            assert_eq!(read(bad.as_bytes()).map(|_| ()).map_err(|canned| canned.status), Err(400), "{bad}");
        }
    }
}
