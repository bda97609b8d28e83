//! The request body: nothing but "come in". No id, name or content ever goes into it.

use serde::Serialize;

use crate::push::{AddressKind, Nudge};

/// FCM keeps a message at most 28 days.
const TTL_S_MAX: i64 = 2_419_200;
/// A ttl of 0 would mean "now or never".
const TTL_S_MIN: i64 = 1;
/// Bodies are about 300 bytes with today's tokens.
const BODY_BYTES_TYPICAL: usize = 512;

#[derive(Serialize)]
struct Body<'a> {
    message: Message<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    validate_only: bool,
}

#[derive(Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fid: Option<&'a str>,
    data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    android: Option<Android<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apns: Option<Apns>,
}

#[derive(Serialize)]
struct Data {
    k: &'static str,
}

#[derive(Serialize)]
struct Android<'a> {
    priority: &'static str,
    ttl: String,
    collapse_key: &'static str,
    direct_boot_ok: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    restricted_package_name: &'a str,
}

/// Apple devices take a data-only push with background type and priority 5 only.
#[derive(Serialize)]
struct Apns {
    headers: ApnsHeaders,
    payload: ApnsPayload,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ApnsHeaders {
    apns_priority: &'static str,
    apns_push_type: &'static str,
    apns_expiration: String,
}

#[derive(Serialize)]
struct ApnsPayload {
    aps: Aps,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Aps {
    content_available: u8,
}

/// The JSON body for `nudge` at `now_ms` (Unix milliseconds).
pub(super) fn of(nudge: &Nudge, now_ms: i64) -> Vec<u8> {
    with(nudge, now_ms, false)
}

/// The same, to be looked at by FCM and delivered to nobody.
pub(super) fn for_a_look(nudge: &Nudge, now_ms: i64) -> Vec<u8> {
    with(nudge, now_ms, true)
}

fn with(nudge: &Nudge, now_ms: i64, validate_only: bool) -> Vec<u8> {
    let value = nudge.address.value.as_str();
    let ttl_s = ((nudge.expires_at_ms.saturating_sub(now_ms)) / 1_000).clamp(TTL_S_MIN, TTL_S_MAX);
    let android = || Android {
        priority: if nudge.high { "HIGH" } else { "NORMAL" },
        ttl: format!("{ttl_s}s"),
        collapse_key: "sync",
        direct_boot_ok: true,
        restricted_package_name: &nudge.app,
    };
    let apns = || Apns {
        headers: ApnsHeaders {
            apns_priority: "5",
            apns_push_type: "background",
            apns_expiration: (now_ms.div_euclid(1_000) + ttl_s).to_string(),
        },
        payload: ApnsPayload { aps: Aps { content_available: 1 } },
    };
    let message = Message {
        token: (nudge.address.kind == AddressKind::Token).then_some(value),
        fid: (nudge.address.kind == AddressKind::Fid).then_some(value),
        data: Data { k: "sync" },
        android: (!nudge.ios).then(android),
        apns: nudge.ios.then(apns),
    };
    let mut body = Vec::with_capacity(BODY_BYTES_TYPICAL);
    // Strings and numbers only: this cannot fail.
    let _ = serde_json::to_writer(&mut body, &Body { message, validate_only });
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, Lane};
    use crate::push::Address;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn nudge(kind: AddressKind) -> Nudge {
        Nudge {
            channel_id: Id::v7(1, [1; 10]),
            address: Address { kind, value: "abc:\"def".into() },
            app: "org.example.agent".into(),
            ios: false,
            lane: Lane::Urgent,
            high: true,
            again: false,
            expires_at_ms: NOW_MS + 604_800_000,
            registered_at_ms: 0,
        }
    }

    fn text(nudge: &Nudge) -> String {
        String::from_utf8(of(nudge, NOW_MS)).unwrap()
    }

    #[test]
    fn an_android_body_says_sync_and_nothing_else() {
        assert_eq!(
            text(&nudge(AddressKind::Token)),
            r#"{"message":{"token":"abc:\"def","data":{"k":"sync"},"android":{"priority":"HIGH","ttl":"604800s","collapse_key":"sync","direct_boot_ok":true,"restricted_package_name":"org.example.agent"}}}"#
        );
    }

    #[test]
    fn an_installation_id_goes_under_its_own_name_and_an_unknown_app_is_left_out() {
        let nudge = Nudge { app: String::new(), high: false, ..nudge(AddressKind::Fid) };
        assert_eq!(
            text(&nudge),
            r#"{"message":{"fid":"abc:\"def","data":{"k":"sync"},"android":{"priority":"NORMAL","ttl":"604800s","collapse_key":"sync","direct_boot_ok":true}}}"#
        );
    }

    #[test]
    fn an_ios_body_is_a_background_push() {
        let nudge = Nudge { ios: true, ..nudge(AddressKind::Token) };
        assert_eq!(
            text(&nudge),
            r#"{"message":{"token":"abc:\"def","data":{"k":"sync"},"apns":{"headers":{"apns-priority":"5","apns-push-type":"background","apns-expiration":"1700604800"},"payload":{"aps":{"content-available":1}}}}}"#
        );
    }

    #[test]
    fn the_ttl_stays_within_what_fcm_takes() {
        for (expires_at_ms, ttl) in [(0, "1s"), (i64::MIN, "1s"), (NOW_MS + 1_500, "1s"), (i64::MAX, "2419200s")] {
            let nudge = Nudge { expires_at_ms, ..nudge(AddressKind::Token) };
            assert!(text(&nudge).contains(&format!(r#""ttl":"{ttl}""#)), "{expires_at_ms}");
        }
    }
}
