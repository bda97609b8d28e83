//! Declarative management: what policies declare reaches an iPhone by its own fetching, and its status proves it.

use muster::sim::apple::Iphone;
use plist::Value as Plist;
use serde_json::{Value, json};

use super::commands::task;
use super::simulated::iphone;
use crate::support::apple::{AppleDevice, bytes, each_quiet, texts};
use crate::support::server::TestServer;

const CHECKIN: &str = "application/x-apple-aspen-mdm-checkin";

fn configuration(identifier: &str, payload: Value) -> Value {
    json!({"Type": "com.apple.configuration.passcode.settings", "Identifier": identifier, "Payload": payload})
}

fn activation(of: &[&str]) -> Value {
    json!({"Type": "com.apple.activation.simple", "Identifier": "activation", "Payload": {"StandardConfigurations": of}})
}

/// A policy of these declarations for every device.
async fn declare(server: &TestServer, declarations: Value) {
    let policy = json!({"document": {"apple": {"declarations": declarations}}, "message": "declared"});
    let put = server.put("/policies/declared", policy).await;
    assert!(put.status == 200 || put.status == 201, "{}", put.body);
    server
        .put("/policies/declared/assignments", json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]}))
        .await
        .expect(200);
}

/// The one channel of a device, as it is shown.
async fn channel(server: &TestServer, phone: &Iphone) -> Value {
    server.get(&format!("/devices/{}", phone.udid)).await["channels"][0].clone()
}

/// Its declarations by identifier: state and reasons.
async fn declared(server: &TestServer, phone: &Iphone) -> Value {
    let shown = server.get(&format!("/devices/{}/declarations", phone.udid)).await;
    let all = shown[0]["declarations"].as_array().unwrap().iter();
    all.map(|one| (one["identifier"].as_str().unwrap().to_owned(), json!([one["state"], one["reasons"]])))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test]
async fn a_policy_is_declared_fetched_and_applied_only_when_the_device_says_so() {
    each_quiet(async |server| {
        let mut phone = iphone(&server, "A");
        phone.enroll(&[7; 32]).await.unwrap();
        assert_eq!(phone.session().await.unwrap(), 0, "where nothing is declared, nothing is begun");
        assert_eq!(channel(&server, &phone).await["desired"], Value::Null);
        declare(&server, json!([configuration("passcode", json!({"MinimumLength": 6})), activation(&["passcode"])])).await;
        server.until("it has something to have", async || !channel(&server, &phone).await["desired"].is_null()).await;
        let uuid = phone.fetch().await.unwrap().unwrap();
        assert!(uuid.starts_with("declare."), "{uuid}");
        assert_eq!(phone.fetch().await.unwrap().unwrap(), uuid, "again, until it is answered");
        assert_eq!(phone.session().await.unwrap(), 1);
        assert_eq!(phone.state.declarations.held["passcode"].payload, json!({"MinimumLength": 6}));
        let shown = channel(&server, &phone).await;
        assert_eq!((&shown["applied"], &shown["reported"]), (&shown["desired"], &shown["desired"]));
        assert_eq!(declared(&server, &phone).await, json!({"activation": ["active", []], "passcode": ["active", []]}));
        let device = server.get(&format!("/devices/{}", phone.udid)).await;
        assert_eq!((&device["facts"]["passcode_compliant"], &device["facts"]["password_set"]), (&json!(true), &json!(true)));
        server.until("the feed tells it", async || server.get("/feed").await.to_string().contains("policy.applied")).await;
        // It has said which status items it has: the server subscribes to them, of which it is told once.
        assert_eq!(phone.session().await.unwrap(), 1);
        let subscribed = phone.state.declarations.held["muster.status"].payload["StatusItems"].clone();
        assert!(subscribed.to_string().contains("mdm.app") && !subscribed.to_string().contains("battery"), "{subscribed}");
        assert_eq!(phone.session().await.unwrap(), 0, "told once");
        // One of them changes: it alone is fetched.
        let fetched = phone.state.declarations.fetched;
        declare(&server, json!([configuration("passcode", json!({"MinimumLength": 8})), activation(&["passcode"])])).await;
        server.until("it is to have another", async || channel(&server, &phone).await["desired"] != shown["desired"]).await;
        assert_eq!(channel(&server, &phone).await["applied"], shown["applied"], "nothing is applied because it was ordered");
        phone.session().await.unwrap();
        assert_eq!(
            (phone.state.declarations.fetched - fetched, &phone.state.declarations.held["passcode"].payload["MinimumLength"]),
            (1, &json!(8))
        );
        // And all of them go: that too is declared, and proved.
        let before = channel(&server, &phone).await["desired"].clone();
        server.call("DELETE", "/policies/declared?force=true", None).await;
        server.put("/policies/declared/assignments", json!({"assignments": []})).await;
        server.until("it is to have nothing", async || channel(&server, &phone).await["desired"] != before).await;
        phone.session().await.unwrap();
        assert!(phone.state.declarations.held.is_empty());
        let shown = channel(&server, &phone).await;
        assert!(shown["desired"].is_string() && shown["applied"] == shown["desired"], "{shown}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_invalid_unused_or_unsupported_is_told_with_the_devices_reasons_and_nothing_is_applied() {
    each_quiet(async |server| {
        let mut phone = iphone(&server, "B");
        phone.enroll(&[7; 32]).await.unwrap();
        let unknown = json!({"Type": "com.apple.configuration.diskmanagement.settings", "Identifier": "disk", "Payload": {}});
        let all =
            json!([configuration("broken", json!({"Broken": 1})), configuration("unused", json!({})), activation(&["broken"]), unknown]);
        declare(&server, all).await;
        server.until("it has something to have", async || !channel(&server, &phone).await["desired"].is_null()).await;
        phone.session().await.unwrap();
        // It has said what it supports: what it does not is taken off its list, of which it is told at once.
        phone.session().await.unwrap();
        assert!(!phone.state.declarations.held.contains_key("disk"));
        let expected = json!({
            "activation": ["active", []], "broken": ["invalid", ["Error.UnknownPayloadKeys"]], "disk": ["unsupported", []],
            "unused": ["inactive", ["Info.NotReferencedByActivation"]],
        });
        assert_eq!(declared(&server, &phone).await, expected);
        let shown = channel(&server, &phone).await;
        assert_eq!((&shown["applied"], &shown["reported"]), (&Value::Null, &shown["desired"]));
        let states = server.get("/policies/declared/convergence").await["versions"][0]["states"].clone();
        assert_eq!((&states["failed"], &states["applied"]), (&json!(1), &json!(0)), "{states}");
        declare(&server, json!([configuration("broken", json!({})), activation(&["broken"])])).await;
        server.until("it is to have another", async || channel(&server, &phone).await["desired"] != shown["desired"]).await;
        phone.session().await.unwrap();
        let shown = channel(&server, &phone).await;
        assert_eq!(shown["applied"], shown["desired"]);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_variable_is_resolved_for_each_device_and_without_a_value_nothing_is_said() {
    each_quiet(async |server| {
        let mut phone = iphone(&server, "C");
        phone.enroll(&[7; 32]).await.unwrap();
        let name = |variable: &str| {
            json!([{"Type": "com.apple.management.organization-info", "Identifier": "organization", "Payload": {"Name": format!("of {variable}")}}])
        };
        declare(&server, name("{{device.serial}}")).await;
        server.until("it has something to have", async || !channel(&server, &phone).await["desired"].is_null()).await;
        phone.session().await.unwrap();
        assert_eq!(phone.state.declarations.held["organization"].payload["Name"], format!("of {}", phone.serial));
        let before = channel(&server, &phone).await;
        assert_eq!(before["applied"], before["desired"]);
        declare(&server, name("{{user.email}}")).await;
        server.until("it is held", async || !channel(&server, &phone).await["hold"].is_null()).await;
        phone.session().await.unwrap();
        assert!(phone.follow_declarations().await.unwrap_err().to_string().contains("503"), "it asks again later");
        assert_eq!(phone.state.declarations.held["organization"].payload["Name"], format!("of {}", phone.serial), "and keeps what it has");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn only_the_device_itself_is_answered_and_strange_words_are_refused() {
    each_quiet(async |server| {
        let (phone, other) = (AppleDevice::named("D"), AppleDevice::named("E"));
        let id = phone.enroll(&server).await;
        other.enroll(&server).await;
        declare(&server, json!([configuration("passcode", json!({})), activation(&["passcode"])])).await;
        let desired = async || server.get(&format!("/devices/{id}")).await["channels"][0]["desired"].clone();
        server.until("it has something to have", async || !desired().await.is_null()).await;
        let says = async |device: &AppleDevice, udid: &str, endpoint: &str, data: Option<&[u8]>| {
            let mut body = texts(&[("MessageType", "DeclarativeManagement"), ("UDID", udid), ("Endpoint", endpoint)]);
            if let Some(data) = data {
                body.insert("Data".into(), Plist::Data(data.to_vec()));
            }
            device.send(&server, "checkin", CHECKIN, bytes(body)).await
        };
        let tokens = says(&phone, &phone.udid, "tokens", None).await.expect(200);
        let items = says(&phone, &phone.udid, "declaration-items", None).await.expect(200);
        assert_eq!(tokens.headers["content-type"], "application/json");
        let json_of = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap();
        assert_eq!(json_of(&tokens.body)["SyncTokens"]["DeclarationsToken"], json_of(&items.body)["DeclarationsToken"]);
        says(&phone, &phone.udid, "declaration/configuration/passcode", None).await.expect(200);
        for (endpoint, data, status) in [
            ("declaration/configuration/other", None, 404),
            ("declaration/activation/passcode", None, 404),
            ("declaration/nonsense/passcode", None, 400),
            ("", None, 400),
            ("status", None, 400),
            ("status", Some(b"[1]".as_slice()), 400),
            ("status", Some(&[0xff, 0xfe]), 400),
            ("status", Some("[".repeat(100_000).as_bytes()), 400),
            ("status", Some(br#"{"StatusItems": {"Strange": {"a": [1, null]}}, "Unknown": 5}"#.as_slice()), 200),
            ("status", Some(br#"{"StatusItems": {"a": "\u0000"}, "Errors": [{"StatusItem": "x"}]}"#.as_slice()), 200),
        ] {
            says(&phone, &phone.udid, endpoint, data).await.expect(status);
        }
        for endpoint in ["tokens", "declaration-items", "declaration/configuration/passcode", "status"] {
            says(&other, &phone.udid, endpoint, Some(b"{}")).await.expect(403);
            says(&phone, "00008030-nobody", endpoint, Some(b"{}")).await.expect(403);
        }
        server.post(&format!("/devices/{id}/unauthorize"), json!({})).await.expect(200);
        says(&phone, &phone.udid, "tokens", None).await.expect(403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_status_item_that_no_database_keeps_is_left_out_alone_and_named() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("N");
        phone.enroll(&server).await;
        declare(&server, json!([configuration("a", json!({})), activation(&["a"])])).await;
        let says = async |data: &[u8]| {
            let mut body = texts(&[("MessageType", "DeclarativeManagement"), ("UDID", &phone.udid), ("Endpoint", "status")]);
            body.insert("Data".into(), Plist::Data(data.to_vec()));
            phone.send(&server, "checkin", CHECKIN, bytes(body)).await
        };
        let shown = async || server.get(&format!("/devices/{}/declarations", phone.udid)).await;
        server.until("it has something to have", async || !shown().await.as_array().unwrap().is_empty()).await;
        let first = br#"{"StatusItems": {"device": {"operating-system": {"version": "18.1", "build-version": "22A\u0000"}, "power": {"battery-health": "\ud800"}}, "mdm": {"app": [{"identifier": "org.example.a", "state": "managed", "name": "\u0000"}, {"identifier": "\udfff", "state": "managed"}], "odd": 1e999}}}"#;
        says(first).await.expect(200);
        let told = shown().await[0].clone();
        assert_eq!(
            told["status"],
            json!({"device": {"operating-system": {"version": "18.1"}, "power": {}}, "mdm": {"app": [{"identifier": "org.example.a", "state": "managed"}]}})
        );
        let refused =
            json!(["device.operating-system.build-version", "device.power.battery-health", "mdm.app.name", "mdm.app.identifier", "mdm.odd"]);
        assert_eq!(told["refused"], refused);
        assert_eq!(server.get(&format!("/devices/{}", phone.udid)).await["facts"]["os_version"], "18.1");
        // What comes in a form that can be kept is kept, and is refused no more; what was said before stays.
        let second = br#"{"StatusItems": {"device": {"operating-system": {"build-version": "22A1"}, "power": {"battery-health": "normal\u0000"}}}}"#;
        says(second).await.expect(200);
        let told = shown().await[0].clone();
        assert_eq!(told["status"]["device"], json!({"operating-system": {"version": "18.1", "build-version": "22A1"}, "power": {}}));
        assert_eq!(told["refused"], json!(["mdm.app.name", "mdm.app.identifier", "mdm.odd", "device.power.battery-health"]));
        says(br#"{"StatusItems": {}, "FullReport": true}"#).await.expect(200);
        assert_eq!(shown().await[0]["refused"], json!([]));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_user_of_a_mac_has_declarations_of_its_own() {
    each_quiet(async |server| {
        let mac = AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("F") };
        mac.enroll(&server).await;
        let user = || texts(&[("UserID", "11111111-2222-3333-4444-555555555555"), ("UserShortName", "eve")]);
        mac.token_update(&server, user()).await.expect(200);
        let policy = json!({"document": {"apple": {"userDeclarations": [{"Type": "com.apple.management.properties", "Identifier": "u", "Payload": {"ring": 1}}]}}, "message": ""});
        server.put("/policies/users", policy).await.expect(201);
        server.put("/policies/users/assignments", json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]})).await.expect(200);
        let channels = async || server.get(&format!("/devices/{}", mac.udid)).await["channels"].as_array().unwrap().clone();
        server.until("the user has something to have", async || channels().await.iter().any(|one| !one["desired"].is_null())).await;
        assert!(mac.idle(&server).await.command().is_none(), "the device itself has nothing");
        let (uuid, request) = mac.connect(&server, "Idle", None, user()).await.request();
        assert_eq!(request, "DeclarativeManagement");
        assert!(mac.connect(&server, "Acknowledged", Some(&uuid), user()).await.command().is_none());
        let mut body = user();
        body.extend(texts(&[("MessageType", "DeclarativeManagement"), ("UDID", &mac.udid), ("Endpoint", "declaration/management/u")]));
        let told = mac.send(&server, "checkin", CHECKIN, bytes(body)).await.expect(200);
        let declaration: Value = serde_json::from_slice(&told.body).unwrap();
        assert_eq!(declaration["Payload"], json!({"ring": 1}));
        // The user's own status proves it, and an enrollment that begins anew has proved nothing.
        let stands = json!([{"identifier": "u", "server-token": declaration["ServerToken"], "active": false, "valid": "valid", "reasons": []}]);
        let says = async |stands: &Value| {
            let status = json!({"StatusItems": {"management": {"declarations":
                {"activations": [], "assets": [], "configurations": [], "management": stands}}}, "Errors": []});
            let mut body = user();
            body.extend(texts(&[("MessageType", "DeclarativeManagement"), ("UDID", &mac.udid), ("Endpoint", "status")]));
            body.insert("Data".into(), Plist::Data(status.to_string().into_bytes()));
            mac.send(&server, "checkin", CHECKIN, bytes(body)).await.expect(200);
        };
        let applied = async || channels().await.iter().filter(|one| !one["applied"].is_null()).count();
        for (stands, count) in [(&stands, 1), (&json!([]), 0), (&stands, 1)] {
            says(stands).await;
            assert_eq!(applied().await, count, "what it denies is taken back: {stands}");
        }
        mac.authenticate(&server).await.expect(200);
        assert_eq!(applied().await, 0);
        assert!(channels().await.iter().all(|one| one["reported"].is_null()));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_about_a_list_that_was_exchanged_since_is_not_one_about_the_new_list() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("H");
        let id = phone.enroll(&server).await;
        let unknown = json!({"Type": "com.apple.configuration.diskmanagement.settings", "Identifier": "disk", "Payload": {}});
        declare(&server, json!([configuration("passcode", json!({})), activation(&["passcode"]), unknown])).await;
        server
            .until("it has something to have", async || !server.get(&format!("/devices/{id}")).await["channels"][0]["desired"].is_null())
            .await;
        let (first, _) = phone.idle(&server).await.request();
        assert!(phone.acknowledge(&server, &first).await.command().is_none());
        let supported = json!({"configurations": ["com.apple.configuration.passcode.settings"], "activations": ["com.apple.activation.simple"],
            "assets": [], "management": []});
        let able = json!({"supported-versions": ["1.0.0"], "supported-features": {}, "supported-payloads": {"declarations": supported, "status-items": []}});
        let status = json!({"StatusItems": {"management": {"client-capabilities": able}}, "Errors": []});
        let mut body = texts(&[("MessageType", "DeclarativeManagement"), ("UDID", &phone.udid), ("Endpoint", "status")]);
        body.insert("Data".into(), Plist::Data(status.to_string().into_bytes()));
        phone.send(&server, "checkin", CHECKIN, bytes(body)).await.expect(200);
        // The answer to the first announcement comes once more, of the same version of the document.
        let (second, request) = phone.acknowledge(&server, &first).await.request();
        assert_eq!(request, "DeclarativeManagement");
        assert_ne!(second, first);
        assert!(phone.acknowledge(&server, &second).await.command().is_none());
        assert!(phone.idle(&server).await.command().is_none(), "told once");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_knows_no_declarations_says_so_once_and_one_that_enrolls_anew_is_told_anew() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("G");
        let id = phone.enroll(&server).await;
        declare(&server, json!([activation(&[])])).await;
        server
            .until("it has something to have", async || !server.get(&format!("/devices/{id}")).await["channels"][0]["desired"].is_null())
            .await;
        let (uuid, _) = phone.idle(&server).await.request();
        let lock = task(&server, "lock", json!({}), &id).await;
        let refused = phone.connect(&server, "Error", Some(&uuid), Default::default()).await;
        assert_eq!(refused.request().0, lock, "what operators order goes on");
        phone.acknowledge(&server, &lock).await.expect(200);
        assert!(phone.idle(&server).await.command().is_none(), "it is not told again");
        assert_eq!(server.get("/policies/declared/convergence").await["versions"][0]["states"]["failed"], 1);
        phone.enroll(&server).await;
        assert_eq!(phone.idle(&server).await.request().1, "DeclarativeManagement");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_device_tells_by_itself_it_is_not_asked() {
    let story = async |server: TestServer| {
        let mut phone = iphone(&server, "H");
        phone.enroll(&[7; 32]).await.unwrap();
        assert_eq!(phone.session().await.unwrap(), 6, "the server asks six things by itself");
        declare(&server, json!([configuration("passcode", json!({"MinimumLength": 6})), activation(&["passcode"])])).await;
        server.until("it has something to have", async || !channel(&server, &phone).await["desired"].is_null()).await;
        phone.session().await.unwrap();
        phone.session().await.unwrap();
        assert!(phone.state.declarations.held.contains_key("muster.status"));
        let install = task(&server, "install_app", json!({"app": "org.example.app"}), &phone.udid).await;
        phone.session().await.unwrap();
        phone.state.has_passcode = false;
        phone.follow_declarations().await.unwrap();
        let facts = server.get(&format!("/devices/{}", phone.udid)).await["facts"].clone();
        assert_eq!((&facts["password_set"], &facts["encrypted"]), (&json!(false), &json!(false)));
        assert_eq!(facts["managed_apps"], json!({"org.example.app": "Managed"}));
        assert_eq!(super::commands::state(&server, &install).await, "done", "its status says so, and nobody had to ask once more");
        server.advance(10_800_000);
        phone.state.done.clear();
        phone.session().await.unwrap();
        assert_eq!(phone.state.done, ["DeviceInformation", "InstalledApplicationList", "ProfileList", "CertificateList"]);
        // It does not tell it any more: it is asked again.
        server.put("/policies/declared/assignments", json!({"assignments": []})).await.expect(200);
        server
            .until("it has nothing", async || {
                phone.session().await.unwrap();
                phone.state.declarations.held.is_empty()
            })
            .await;
        server.advance(10_800_000);
        phone.state.done.clear();
        phone.session().await.unwrap();
        assert_eq!(phone.state.done.len(), 6, "{:?}", phone.state.done);
        server.stop().await;
    };
    super::commands::each(story).await;
}
