//! What becomes of commands: answers become facts and findings, and an end is what the device says in detail.

use muster::model::Id;
use muster::store::devices;
use plist::{Dictionary, Value as Plist};
use serde_json::{Value, json};

use super::commands::{state, task};
use crate::support::apple::{AppleDevice, Told, each_quiet, texts};
use crate::support::server::TestServer;

/// A list of apps as a device answers it.
fn installed(apps: &[&str]) -> Dictionary {
    let apps = apps.iter().map(|id| Plist::Dictionary(texts(&[("Identifier", id), ("Name", id), ("ShortVersion", "1.0")]))).collect();
    [("InstalledApplicationList".to_owned(), Plist::Array(apps))].into_iter().collect()
}

/// Asks for the apps and answers with these.
async fn lists(server: &TestServer, phone: &AppleDevice, id: &str, apps: &[&str]) {
    task(server, "refresh", json!({"what": "apps"}), id).await;
    let (uuid, request) = phone.idle(server).await.request();
    assert_eq!(request, "InstalledApplicationList");
    let (uuid, _) = phone.connect(server, "Acknowledged", Some(&uuid), installed(apps)).await.request();
    assert!(phone.acknowledge(server, &uuid).await.command().is_none());
}

/// The open findings about apps: kind and subject.
async fn open(server: &TestServer) -> Vec<(String, String)> {
    let findings = server.get("/findings").await;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let mut open: Vec<(String, String)> = findings["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["closed_at_ms"].is_null() && text(finding, "kind").starts_with("app_"))
        .map(|finding| (text(finding, "kind"), text(finding, "subject")))
        .collect();
    open.sort();
    open
}

#[tokio::test]
async fn apps_are_audited_against_the_policy_whenever_a_device_lists_them() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("A");
        let id = phone.enroll(&server).await;
        let applications = json!([
            {"bundleId": "org.example.game", "installType": "BLOCKED"}, {"bundleId": "org.example.mail", "installType": "FORCE_INSTALLED"},
            {"packageName": "org.example.android", "installType": "FORCE_INSTALLED"}
        ]);
        server.put("/policies/apps", json!({"document": {"applications": applications}})).await.expect(201);
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        server.put("/policies/apps/assignments", all).await.expect(200);
        lists(&server, &phone, &id, &["org.example.game", "org.example.other"]).await;
        let found = |kind: &str, app: &str| (kind.to_owned(), app.to_owned());
        assert_eq!(open(&server).await, [found("app_blocked", "org.example.game"), found("app_missing", "org.example.mail")]);
        // The same answer again writes nothing, neither of the device nor of its findings.
        let device: Id = id.parse().unwrap();
        let written = async || devices::get(&mut server.app.db.read().await.unwrap(), device).await.unwrap().unwrap().facts_at_ms;
        let opened = async || server.get("/findings").await["items"].clone();
        let (before, known) = (written().await, opened().await);
        assert!(before.is_some());
        server.advance(1_000);
        lists(&server, &phone, &id, &["org.example.other", "org.example.game"]).await;
        assert_eq!((written().await, opened().await), (before, known), "the order of a list means nothing");
        lists(&server, &phone, &id, &["org.example.mail"]).await;
        assert_eq!(open(&server).await, []);
        assert!(written().await > before);
        // A question for one app says nothing of the others.
        let one = json!({"command": {"RequestType": "InstalledApplicationList", "Identifiers": ["org.example.game"]}});
        let one = task(&server, "apple_command", one, &id).await;
        let (uuid, _) = phone.idle(&server).await.request();
        assert!(phone.connect(&server, "Acknowledged", Some(&uuid), installed(&["org.example.game"])).await.command().is_none());
        assert_eq!((state(&server, &one).await, open(&server).await), ("done".into(), vec![]));
        assert_eq!(server.get(&format!("/devices/{id}")).await["facts"]["apps"][0]["id"], "org.example.mail");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_device_cannot_do_or_read_is_told_before_it_is_asked() {
    each_quiet(async |server| {
        let (phone, mac) = (AppleDevice::named("B"), AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("C") });
        let (phone_id, mac_id) = (phone.enroll(&server).await, mac.enroll(&server).await);
        let fails = async |device: &AppleDevice, id: &str, kind: &str, params: Value, code: &str| {
            let task = task(&server, kind, params, id).await;
            assert!(device.idle(&server).await.command().is_none());
            let shown = server.get(&format!("/tasks/{task}")).await;
            assert_eq!((shown["state"].as_str(), shown["error"]["code"].as_str()), (Some("failed"), Some(code)));
        };
        fails(&mac, &mac_id, "wipe", json!({"pin": "12345a"}), "pin_invalid").await;
        fails(&mac, &mac_id, "lock", json!({"pin": "1234"}), "pin_invalid").await;
        fails(&phone, &phone_id, "install_app", json!({"app": "a.b", "url": "http://example.org/m.plist"}), "url_invalid").await;
        fails(&phone, &phone_id, "install_app", json!({"app": "a.b", "store_id": "one"}), "store_id_invalid").await;
        let all = json!({"pin": "123456", "obliteration": "DoNotObliterate", "keep_data_plan": true, "forbid_proximity_setup": true,
            "return_to_service": true, "wifi_profile": "d2lmaQ==", "mdm_profile": "bWRt"});
        let erased = async |device: &AppleDevice, id: &str| {
            let wipe = task(&server, "wipe", all.clone(), id).await;
            let (uuid, command): (String, Dictionary) = Told::command(&device.idle(&server).await).unwrap();
            assert_eq!(uuid, wipe);
            let params = server.get(&format!("/tasks/{wipe}")).await["params"].clone();
            assert_eq!((&params["pin"], &params["mdm_profile"]), (&json!("***"), &json!("***")), "a profile holds secrets");
            if let Some(back) = command.get("ReturnToService").and_then(Plist::as_dictionary) {
                let data = |key: &str| back.get(key).and_then(Plist::as_data).unwrap().to_vec();
                assert_eq!((data("WiFiProfileData"), data("MDMProfileData")), (b"wifi".to_vec(), b"mdm".to_vec()));
                assert_eq!(back.get("Enabled"), Some(&Plist::Boolean(true)));
            }
            let mut keys: Vec<String> = command.keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(erased(&mac, &mac_id).await, ["ObliterationBehavior", "PIN", "RequestType"]);
        assert_eq!(erased(&phone, &phone_id).await, ["DisallowProximitySetup", "PreserveDataPlan", "RequestType", "ReturnToService"]);
        let order = |params: Value| json!({"kind": "apple_command", "params": params, "target": {"devices": [phone_id]}});
        for (command, pointer) in [
            (json!({"RequestType": "InstallProfile", "Payload": "PD94bWw="}), "/params/command/Payload"),
            (json!({"RequestType": "Settings", "Settings": {"Item": "DeviceName"}}), "/params/command/Settings"),
            (json!({"RequestType": "EraseDevice", "ObliterationBehavior": "Sometimes"}), "/params/command/ObliterationBehavior"),
            (json!({"RequestType": "EraseDevice", "ReturnToService": {}}), "/params/command/ReturnToService/Enabled"),
            (json!({"RequestType": "DeviceInformation"}), "/params/command/Queries"),
            (json!({"RequestType": "RemoveProfile"}), "/params/command/Identifier"),
            (json!({"RequestType": "Settings", "Settings": [{"Item": "Bluetooth"}]}), "/params/command/Settings/0/Enabled"),
            (json!({"RequestType": "InstallApplication", "ManagementFlags": 1}), "/params/command"),
        ] {
            let problem = server.post("/jobs", order(json!({"command": command}))).await.expect(422);
            assert_eq!(problem["errors"][0]["pointer"], pointer);
        }
        // What is newer than the list passes as it is.
        let newer = json!({"RequestType": "InstallProfileOfTomorrow", "Payload": 1});
        server.post("/jobs", order(json!({"command": newer}))).await.expect(202);
        for (params, pointer) in [
            (json!({"obliteration": "Sometimes"}), "/params/obliteration"),
            (json!({"mdm_profile": "bWRt"}), "/params/return_to_service"),
            (json!({"return_to_service": true, "wifi_profile": "%"}), "/params/wifi_profile"),
        ] {
            let problem = server.post("/jobs", json!({"kind": "wipe", "params": params, "target": {"devices": [mac_id]}})).await;
            assert_eq!(problem.expect(422)["errors"][0]["pointer"], pointer);
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn certificates_are_known_by_their_bytes_and_compliance_is_that_of_every_rule() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("D");
        let id = phone.enroll(&server).await;
        task(&server, "refresh", json!({"what": "certificates"}), &id).await;
        let (uuid, request) = phone.idle(&server).await.request();
        assert_eq!(request, "CertificateList");
        let mut one = texts(&[("CommonName", "D")]);
        one.insert("IsIdentity".into(), Plist::Boolean(true));
        one.insert("Data".into(), Plist::Data(phone.certificate.clone()));
        let mut broken = texts(&[("CommonName", "broken")]);
        broken.insert("Data".into(), Plist::Data(vec![0x30, 0x80]));
        let list = Plist::Array(vec![Plist::Dictionary(one), Plist::Dictionary(broken)]);
        let answer: Dictionary = [("CertificateList".to_owned(), list)].into_iter().collect();
        assert!(phone.connect(&server, "Acknowledged", Some(&uuid), answer).await.command().is_none());
        let facts = server.get(&format!("/devices/{id}")).await["facts"]["certificates"].clone();
        let known = muster::protocol::pki::Certificate::from_der(&phone.certificate).unwrap();
        assert!(
            facts
                .as_array()
                .unwrap()
                .contains(&json!({"name": "D", "identity": true, "sha256": known.hash(), "expires_at_ms": known.until_ms()})),
            "{facts}"
        );
        assert!(facts.to_string().contains("broken"), "{facts}");
        task(&server, "refresh", json!({"what": "security"}), &id).await;
        let (uuid, _) = phone.idle(&server).await.request();
        let said = [("PasscodePresent", true), ("PasscodeCompliant", true), ("PasscodeCompliantWithProfiles", false)];
        let said = said.into_iter().map(|(key, flag)| (key.to_owned(), Plist::Boolean(flag))).collect();
        let answer: Dictionary = [("SecurityInfo".to_owned(), Plist::Dictionary(said))].into_iter().collect();
        assert!(phone.connect(&server, "Acknowledged", Some(&uuid), answer).await.command().is_none());
        assert!(server.get("/findings").await.to_string().contains("password_not_compliant"));
        server.stop().await;
    })
    .await;
}
