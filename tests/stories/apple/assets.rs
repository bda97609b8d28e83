//! What declarations refer to is served by the server itself, to the devices that are declared it and to nobody else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::commands::task;
use super::simulated::iphone;
use crate::support::apple::{AppleDevice, CERT_HEADER, each_quiet};
use crate::support::server::TestServer;

/// A policy with this under `apple`, for every device.
async fn put(server: &TestServer, apple: Value) {
    let put = server.put("/policies/declared", json!({"document": {"apple": apple}})).await;
    assert!(put.status == 200 || put.status == 201, "{}", put.body);
    let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
    server.put("/policies/declared/assignments", all).await.expect(200);
}

async fn channel(server: &TestServer, udid: &str) -> Value {
    server.get(&format!("/devices/{udid}")).await["channels"][0].clone()
}

fn asset(reference: Value) -> Value {
    json!({"declarations": [
        {"Type": "com.apple.asset.data", "Identifier": "asset", "Payload": {"Reference": reference}},
        {"Type": "com.apple.activation.simple", "Identifier": "activation", "Payload": {"StandardConfigurations": []}},
    ]})
}

#[tokio::test]
async fn an_assets_data_reaches_its_device_verified_and_a_change_of_it_is_fetched_anew() {
    each_quiet(async |server| {
        let mut phone = iphone(&server, "A");
        phone.enroll(&[7; 32]).await.unwrap();
        put(&server, asset(json!({"ContentType": "text/plain", "Text": "for {{device.serial}}"}))).await;
        server.until("it has something to have", async || !channel(&server, &phone.udid).await["desired"].is_null()).await;
        phone.session().await.unwrap();
        let held = phone.state.declarations.held["asset"].clone();
        let reference = &held.payload["Reference"];
        let url = reference["DataURL"].as_str().unwrap().to_owned();
        assert!(url.starts_with(&format!("{}/mdm/assets/", server.config.public_url.trim_end_matches('/'))), "{url}");
        let text = format!("for {}", phone.serial);
        assert_eq!((&reference["Size"], &reference["ContentType"]), (&json!(text.len()), &json!("text/plain")));
        assert_eq!((held.payload["Authentication"]["Type"].as_str(), reference.get("Text")), (Some("MDM"), None));
        assert_eq!(phone.state.declarations.contents[&held.server_token].as_deref(), Ok(text.as_bytes()));
        let shown = channel(&server, &phone.udid).await;
        assert_eq!(shown["applied"], shown["desired"]);
        // Strangers, other devices, and devices that left are not answered.
        let path = url.rsplit('/').next().unwrap().to_owned();
        let status = async |header: Option<&str>, name: &str| {
            let mut request = server.client.get(format!("{}/mdm/assets/{name}", server.url));
            if let Some(header) = header {
                request = request.header(CERT_HEADER, header);
            }
            request.send().await.unwrap().status().as_u16()
        };
        let (own, other) = (AppleDevice::named("A").header(), AppleDevice::named("other"));
        assert_eq!((status(Some(&own), &path).await, status(None, &path).await), (200, 403));
        assert_eq!(status(Some(&other.header()), &path).await, 403);
        other.enroll(&server).await;
        assert_eq!(status(Some(&other.header()), &path).await, 404, "its own asset has another serial number in it");
        for name in ["x", &"0".repeat(64), "..%2f..%2fcheckin"] {
            assert_eq!(status(Some(&own), name).await, 404, "{name}");
        }
        // Bytes instead of a text: another hash, another token, fetched anew.
        let before = channel(&server, &phone.udid).await["desired"].clone();
        put(&server, asset(json!({"Data": STANDARD.encode([0, 255, 1])}))).await;
        server.until("it is to have another", async || channel(&server, &phone.udid).await["desired"] != before).await;
        phone.session().await.unwrap();
        let held = &phone.state.declarations.held["asset"];
        assert_eq!(phone.state.declarations.contents[&held.server_token].as_deref(), Ok([0, 255, 1].as_slice()));
        assert_eq!(status(Some(&own), &path).await, 404, "what it is not declared any more is not there");
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        let path = held.payload["Reference"]["DataURL"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        assert_eq!(status(Some(&own), &path).await, 200);
        server.post(&format!("/devices/{id}/unauthorize"), json!({})).await.expect(200);
        assert_eq!(status(Some(&own), &path).await, 403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn payloads_become_one_profile_that_is_declared_listed_replaced_and_gone_with_the_policy() {
    each_quiet(async |server| {
        let mut phone = iphone(&server, "B");
        phone.enroll(&[7; 32]).await.unwrap();
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        let camera = |allowed: bool| json!({"payloads": [
            {"PayloadType": "com.apple.applicationaccess", "allowCamera": allowed},
            {"PayloadType": "com.apple.wifi.managed", "SSID_STR": "office", "Password": "of {{device.serial}}", "EncryptionType": "WPA3"},
        ]});
        put(&server, camera(false)).await;
        server.until("it has something to have", async || !channel(&server, &phone.udid).await["desired"].is_null()).await;
        phone.session().await.unwrap();
        let shown = channel(&server, &phone.udid).await;
        assert_eq!(shown["applied"], shown["desired"]);
        let first = phone.declared_profiles();
        let host = server.config.public_url.split("://").nth(1).unwrap().split([':', '/']).next().unwrap();
        let reversed: Vec<&str> = host.split('.').rev().collect();
        assert_eq!((first.len(), first[0].0.clone()), (1, format!("{}.muster.policy", reversed.join("."))));
        let held = &phone.state.declarations.held["muster.profile"];
        let profile = phone.state.declarations.contents[&held.server_token].clone().unwrap();
        let profile = plist::from_bytes::<plist::Value>(&profile).unwrap().into_dictionary().unwrap();
        let content = profile.get("PayloadContent").and_then(plist::Value::as_array).unwrap();
        let wifi = content[1].as_dictionary().unwrap();
        assert_eq!(wifi.get("Password").and_then(plist::Value::as_string), Some(format!("of {}", phone.serial).as_str()));
        // What the device lists is what was made, by identifier and UUID.
        task(&server, "refresh", json!({"what": "profiles"}), &id).await;
        phone.session().await.unwrap();
        let facts = server.get(&format!("/devices/{id}")).await["facts"]["profiles"].clone();
        assert!(facts.as_array().unwrap().iter().any(|one| one["identifier"] == first[0].0 && one["uuid"] == first[0].1), "{facts}");
        put(&server, camera(true)).await;
        server.until("it is to have another", async || channel(&server, &phone.udid).await["desired"] != shown["desired"]).await;
        phone.session().await.unwrap();
        let second = phone.declared_profiles();
        assert!(second[0].0 == first[0].0 && second[0].1 != first[0].1, "the same profile, another content");
        let before = channel(&server, &phone.udid).await["desired"].clone();
        server.put("/policies/declared/assignments", json!({"assignments": []})).await.expect(200);
        server.until("it is to have nothing", async || channel(&server, &phone.udid).await["desired"] != before).await;
        phone.session().await.unwrap();
        assert_eq!(phone.declared_profiles(), []);
        let shown = channel(&server, &phone.udid).await;
        assert_eq!(shown["applied"], shown["desired"]);
        let wrong = json!({"document": {"apple": {"payloads": [{"PayloadType": "com.apple.mdm"}, {}]}}});
        let problem = server.put("/policies/wrong", wrong).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], "/document/apple/payloads/0/PayloadType");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_asset_that_holds_a_devices_own_token_is_served_once_it_is_minted_and_opens_the_door_to_its_app() {
    each_quiet(async |server| {
        server.user("one@example.org").await;
        server.post("/enrollment-tokens", json!({"name": "the app"})).await.expect(201);
        let mut phone = iphone(&server, "A");
        phone.enroll(&[7; 32]).await.unwrap();
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        put(&server, asset(json!({"ContentType": "text/plain", "Text": "{{token:the app}}"}))).await;
        server.until("it has something to have", async || !channel(&server, &phone.udid).await["desired"].is_null()).await;
        phone.session().await.unwrap();
        let held = phone.state.declarations.held["asset"].clone();
        let content = phone.state.declarations.contents[&held.server_token].clone().unwrap();
        let token = String::from_utf8(content).unwrap();
        assert!(token.starts_with("mdt_"), "{token}");
        for path in ["document", "declarations"] {
            assert!(!server.get(&format!("/devices/{id}/{path}")).await.to_string().contains(&token), "{path}");
        }
        // Whoever is given it finds the door open: it was known before it was served.
        let device = json!({"platform": "ios", "app": "org.example.agent", "hardware_id": "app-1", "model": "iPhone", "os_version": "18.1",
            "agent_version": "1.0", "management_mode": "app"});
        let body = json!({"token": token, "email": "one@example.org", "device": device});
        assert_eq!(server.activate(&body, None).await.expect(201)["device_id"], json!(id));
        // With its user it has another one, which nobody has asked for yet: its content is not served, though it can be told by anybody
        // who knows the master key what it will be.
        let another = {
            let (app, udid) = (&server.app, AppleDevice::named("A"));
            let mut conn = app.db.read().await.unwrap();
            let device = id.parse().unwrap();
            let channels: Vec<_> = muster::store::devices::channels_of(&mut conn, &[device]).await.unwrap();
            let reader = muster::ops::settle::Reader::Device(&app.seal);
            let found = muster::ops::settle::documents(&mut conn, reader, &channels, app.clock.now_ms()).await.unwrap();
            let text = found.iter().map(|one| one.document.to_string()).find(|text| text.contains("mdt_")).unwrap();
            let from = text.find("mdt_").unwrap();
            let will_be: String = text[from..].chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
            let name = muster::model::token::hash(&will_be);
            let request = server.client.get(format!("{}/mdm/assets/{name}", server.url)).header(CERT_HEADER, udid.header());
            (will_be, request.send().await.unwrap().status().as_u16())
        };
        assert!(another.0 != token && another.1 == 404, "{another:?}");
        phone.session().await.unwrap();
        let held = phone.state.declarations.held["asset"].clone();
        let content = phone.state.declarations.contents[&held.server_token].clone().unwrap();
        assert_eq!(String::from_utf8(content).unwrap(), another.0, "declared, and so minted, and so served");
        server.stop().await;
    })
    .await;
}
