//! Messages that other implementations made, byte for byte: Python's plistlib and OpenSSL (see fixtures/make.py).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::apple::{AppleDevice, Told, each_quiet};
use crate::support::server::TestServer;

const UDID: &str = "00008030-001A2B3C4D5E6F70";

/// A message in each of its forms, and what OpenSSL signed of the first.
struct Recorded {
    xml: &'static [u8],
    binary: &'static [u8],
    signature: &'static [u8],
}

macro_rules! recorded {
    ($name:literal) => {
        Recorded {
            xml: include_bytes!(concat!("fixtures/", $name, ".plist")),
            binary: include_bytes!(concat!("fixtures/", $name, ".bplist")),
            signature: include_bytes!(concat!("fixtures/", $name, ".cms")),
        }
    };
}

const AUTHENTICATE: Recorded = recorded!("authenticate");
const TOKEN_UPDATE: Recorded = recorded!("token_update");
const IDLE: Recorded = recorded!("idle");
const INFORMATION: Recorded = recorded!("information");
const STATUS: Recorded = recorded!("status");
const SETTINGS: [&[u8]; 2] = [include_bytes!("fixtures/settings.plist"), include_bytes!("fixtures/settings.bplist")];
/// Binary lists that no writer makes: too deep, holding themselves, and a hundred bytes that stand for a billion elements.
const HOSTILE: [(&str, &[u8]); 3] = [
    ("nested", include_bytes!("fixtures/nested.bplist")),
    ("circular", include_bytes!("fixtures/circular.bplist")),
    ("bomb", include_bytes!("fixtures/bomb.bplist")),
];

/// A command under an id of the test's own.
async fn order(server: &TestServer, uuid: &str, command: Value) -> String {
    let order = json!({"kind": "apple_command", "params": {"command": command, "command_uuid": uuid}, "target": {"devices": [UDID]}});
    let job = server.post("/jobs", order).await.expect(202);
    let tasks = server.get(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
    tasks["items"][0]["id"].as_str().unwrap().to_owned()
}

/// What the recorded answers say is known of the device.
async fn is_known(server: &TestServer, information: &str) {
    let shown = server.get(&format!("/tasks/{information}")).await;
    assert_eq!(shown["state"], "done");
    let answers = &shown["result"]["QueryResponses"];
    assert_eq!((&answers["Large"], &answers["Negative"]), (&json!(i64::MAX), &json!(i64::MIN)));
    assert_eq!((&answers["Unsigned"], &answers["LastCloudBackupDate"]), (&json!(u64::MAX), &json!("2026-01-30T03:04:05Z")));
    let device = server.get(&format!("/devices/{UDID}")).await;
    assert_eq!(
        (&device["serial"], &device["os_version"], &device["model"]),
        (&json!("C02FIXTURE01"), &json!("18.1.1"), &json!("iPhone15,2"))
    );
    let facts = &device["facts"];
    assert_eq!((&facts["battery_percent"], &facts["storage_free_bytes"]), (&json!(42), &json!(63_500_000_000_i64)));
    assert_eq!(facts["device_name"], "A phone \u{2022} \u{1f4f1}");
}

#[tokio::test]
async fn another_writers_messages_are_read_as_our_own_in_xml_and_in_binary() {
    for form in [0, 1] {
        each_quiet(async |server| {
            let phone = AppleDevice { udid: UDID.into(), ..AppleDevice::named("fixture") };
            let of = |recorded: &Recorded| if form == 0 { recorded.xml.to_vec() } else { recorded.binary.to_vec() };
            phone.send(&server, "checkin", "", of(&AUTHENTICATE)).await.expect(200);
            phone.send(&server, "checkin", "", of(&TOKEN_UPDATE)).await.expect(200);
            let information =
                order(&server, "recorded-information", json!({"RequestType": "DeviceInformation", "Queries": ["OSVersion"]})).await;
            let items = json!([{"Item": "DeviceName", "DeviceName": "x"}, {"Item": "Wallpaper", "Image": {"$data": "AA=="}, "Where": 3}]);
            let settings = order(&server, "recorded-settings", json!({"RequestType": "Settings", "Settings": items})).await;
            let told = phone.send(&server, "connect", "", of(&IDLE)).await;
            assert_eq!(told.request(), ("recorded-information".into(), "DeviceInformation".into()));
            let told = phone.send(&server, "connect", "", of(&INFORMATION)).await;
            assert_eq!(told.request(), ("recorded-settings".into(), "Settings".into()));
            assert!(phone.send(&server, "connect", "", SETTINGS[form].to_vec()).await.command().is_none());
            is_known(&server, &information).await;
            // Acknowledged as a whole, and one of its items was not taken.
            let settings = server.get(&format!("/tasks/{settings}")).await;
            assert_eq!((settings["state"].as_str(), settings["error"]["code"].as_str()), (Some("failed"), Some("settings_failed")));
            assert_eq!(settings["error"]["message"], "1 of 2 items were not taken: Wallpaper");
            assert_eq!(
                settings["error"]["chain"][0],
                json!({"code": 12069, "domain": "MCMDMErrorDomain", "message": "The image is invalid."})
            );
            // A status report that speaks of things nobody has heard of.
            phone.send(&server, "checkin", "", of(&STATUS)).await.expect(200);
            let device = server.get(&format!("/devices/{UDID}")).await;
            assert_eq!((&device["os_version"], &device["facts"]["passcode_compliant"]), (&json!("18.1.2"), &json!(false)));
            let said = server.get(&format!("/devices/{UDID}/declarations")).await;
            assert_eq!(said[0]["status"]["device"]["something-new"]["deep"][0]["list"], json!([1, 2.5, null, true]));
            server.stop().await;
        })
        .await;
    }
}

#[tokio::test]
async fn what_openssl_signed_is_from_whom_it_says_in_every_form_and_over_no_other_body() {
    each_quiet(async |server| {
        let sent = async |body: &[u8], signature: &[u8]| {
            let request = server.client.put(format!("{}/mdm/connect", server.url)).header("Mdm-Signature", STANDARD.encode(signature));
            let answer = request.body(body.to_vec()).send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Told { status, headers, body: answer.bytes().await.unwrap().to_vec() }
        };
        sent(AUTHENTICATE.xml, AUTHENTICATE.signature).await.expect(200);
        sent(TOKEN_UPDATE.xml, TOKEN_UPDATE.signature).await.expect(200);
        let information =
            order(&server, "recorded-information", json!({"RequestType": "DeviceInformation", "Queries": ["OSVersion"]})).await;
        assert_eq!(sent(IDLE.xml, IDLE.signature).await.request().0, "recorded-information");
        assert!(sent(INFORMATION.xml, INFORMATION.signature).await.command().is_none());
        is_known(&server, &information).await;
        sent(STATUS.xml, STATUS.signature).await.expect(200);
        for (body, signature) in [(IDLE.binary, IDLE.signature), (IDLE.xml, STATUS.signature), (INFORMATION.xml, IDLE.signature)] {
            sent(body, signature).await.expect(403);
        }
        let mut tampered = INFORMATION.xml.to_vec();
        let last = tampered.len() - 1;
        tampered[last] ^= 1;
        sent(&tampered, INFORMATION.signature).await.expect(403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn binary_lists_that_are_too_deep_circular_or_would_grow_without_end_are_refused() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("hostile");
        phone.enroll(&server).await;
        for (name, body) in HOSTILE {
            let told = phone.send(&server, "connect", "", body.to_vec()).await;
            assert_eq!(told.status, 400, "{name}: {}", String::from_utf8_lossy(&told.body));
        }
        assert!(phone.idle(&server).await.command().is_none(), "it lives");
        server.stop().await;
    })
    .await;
}
