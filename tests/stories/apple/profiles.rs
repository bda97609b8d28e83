//! Payloads of policies on devices that know no declarations: one profile, given by command.

use muster::config::{Config, Tls};
use muster::protocol::apple::configuration;
use muster::protocol::cms::SignedData;
use muster::sim::apple::Iphone;
use plist::{Dictionary, Value as Plist};
use serde_json::{Value, json};

use super::commands::task;
use super::simulated::iphone;
use crate::support::apple::{AppleDevice, each_quiet, quiet, texts};
use crate::support::server::{TestServer, each_with};

const HOUR_MS: i64 = 3_600_000;

/// A policy with this under `apple`, for every device.
async fn put(server: &TestServer, apple: Value) {
    let put = server.put("/policies/payloads", json!({"document": {"apple": apple}})).await;
    assert!(put.status == 200 || put.status == 201, "{}", put.body);
    let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
    server.put("/policies/payloads/assignments", all).await.expect(200);
}

fn camera(more: Value) -> Value {
    let mut payload = json!({"PayloadType": "com.apple.applicationaccess", "allowCamera": false});
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"payloads": [payload, {"PayloadType": "com.apple.wifi.managed", "SSID_STR": "office", "Password": "of {{device.serial}}"}]})
}

async fn channel(server: &TestServer, udid: &str) -> Value {
    server.get(&format!("/devices/{udid}")).await["channels"][0].clone()
}

/// Waits until the channel is to have another document than this; answers it.
async fn another(server: &TestServer, udid: &str, than: &Value) -> Value {
    server.until("it is to have another", async || channel(server, udid).await["desired"] != *than).await;
    channel(server, udid).await["desired"].clone()
}

async fn applies(server: &TestServer, udid: &str) -> bool {
    let shown = channel(server, udid).await;
    shown["desired"].is_string() && shown["applied"] == shown["desired"]
}

/// A phone whose system is older than declarative management, enrolled.
async fn old_phone(server: &TestServer, name: &str) -> Iphone {
    let mut phone = iphone(server, name);
    phone.state.knows_declarations = false;
    phone.enroll(&[7; 32]).await.unwrap();
    phone
}

#[tokio::test]
async fn payloads_are_given_as_a_profile_that_applies_when_the_device_took_it_and_follows_the_policy() {
    each_quiet(async |server| {
        let mut phone = old_phone(&server, "A").await;
        let identifier = configuration::commanded(&server.config.public_url);
        put(&server, camera(json!({}))).await;
        let first = another(&server, &phone.udid, &Value::Null).await;
        assert!(phone.fetch().await.unwrap().unwrap().starts_with("declare."), "it is told of declarations first");
        assert_eq!(phone.session().await.unwrap(), 2, "of which it knows nothing, and is given the profile");
        let installed = phone.state.profiles[&identifier].clone();
        assert!(phone.state.profiles.len() == 1 && applies(&server, &phone.udid).await);
        let shown = server.get(&format!("/devices/{}/declarations", phone.udid)).await;
        let shown = shown[0]["declarations"].as_array().unwrap().iter().find(|one| one["identifier"] == "muster.profile").cloned();
        assert_eq!(shown.unwrap()["state"], "active");
        server.until("the feed tells it", async || server.get("/feed").await.to_string().contains("policy.applied")).await;
        assert_eq!(phone.session().await.unwrap(), 0, "once");
        // Another content: the same profile, replaced as a whole, and not before the screen is unlocked.
        put(&server, camera(json!({"allowScreenShot": false}))).await;
        let second = another(&server, &phone.udid, &first).await;
        phone.state.locked = true;
        phone.session().await.unwrap();
        assert_eq!(phone.state.profiles[&identifier], installed);
        assert_eq!(channel(&server, &phone.udid).await["applied"], first, "nothing is applied because it was given");
        phone.state.locked = false;
        let uuid = phone.fetch().await.unwrap().unwrap();
        assert!(uuid.starts_with("install."), "{uuid}");
        assert_eq!(phone.fetch().await.unwrap().unwrap(), uuid, "again, under the same id");
        assert_eq!(phone.session().await.unwrap(), 1);
        assert_eq!(format!("install.{}", phone.state.profiles[&identifier]), uuid);
        assert!(applies(&server, &phone.udid).await && phone.state.profiles.len() == 1);
        // One that it does not take: told with its own words, not tried again, and what it has stays.
        put(&server, camera(json!({"Broken": true}))).await;
        let third = another(&server, &phone.udid, &second).await;
        assert_eq!(phone.session().await.unwrap(), 2);
        let shown = channel(&server, &phone.udid).await;
        assert_eq!((&shown["applied"], &shown["reported"]), (&second, &third));
        let states = server.get("/policies/payloads/convergence").await;
        assert!(states["versions"].as_array().unwrap().iter().any(|version| version["states"]["failed"] == 1), "{states}");
        assert_eq!(phone.session().await.unwrap(), 0);
        assert_eq!(format!("install.{}", phone.state.profiles[&identifier]), uuid);
        // And with the policy it goes.
        put(&server, camera(json!({}))).await;
        let fourth = another(&server, &phone.udid, &third).await;
        phone.session().await.unwrap();
        assert!(applies(&server, &phone.udid).await && phone.state.profiles[&identifier] == installed);
        server.put("/policies/payloads/assignments", json!({"assignments": []})).await.expect(200);
        another(&server, &phone.udid, &fourth).await;
        assert!(!applies(&server, &phone.udid).await);
        phone.session().await.unwrap();
        assert!(phone.state.profiles.is_empty() && applies(&server, &phone.udid).await);
        assert_eq!(phone.session().await.unwrap(), 0);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_device_lists_is_what_it_has() {
    each_quiet(async |server| {
        let mut phone = old_phone(&server, "B").await;
        let identifier = configuration::commanded(&server.config.public_url);
        put(&server, camera(json!({}))).await;
        let first = another(&server, &phone.udid, &Value::Null).await;
        phone.session().await.unwrap();
        let installed = phone.state.profiles[&identifier].clone();
        // It is gone, by whatever hand: the list tells, and it is given again.
        phone.state.profiles.clear();
        task(&server, "refresh", json!({"what": "profiles"}), &phone.udid).await;
        assert_eq!(phone.session().await.unwrap(), 2);
        assert!(phone.state.profiles[&identifier] == installed && applies(&server, &phone.udid).await);
        // It took another and its answer was lost: the list tells that too.
        put(&server, camera(json!({"allowScreenShot": false}))).await;
        another(&server, &phone.udid, &first).await;
        phone.state.locked = true;
        phone.session().await.unwrap();
        phone.state.locked = false;
        let uuid = phone.fetch().await.unwrap().unwrap();
        phone.state.profiles.insert(identifier.clone(), uuid.strip_prefix("install.").unwrap().to_owned());
        assert!(!applies(&server, &phone.udid).await);
        task(&server, "refresh", json!({"what": "profiles"}), &phone.udid).await;
        assert_eq!(phone.session().await.unwrap(), 1, "the list alone");
        assert!(applies(&server, &phone.udid).await);
        assert_eq!(phone.session().await.unwrap(), 0);
        // Enrolled anew it has nothing, and is given everything.
        phone.state.profiles.clear();
        phone.enroll(&[8; 32]).await.unwrap();
        assert!(!applies(&server, &phone.udid).await);
        phone.session().await.unwrap();
        assert!(phone.state.profiles.len() == 1 && applies(&server, &phone.udid).await);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_learns_declarations_keeps_its_profile_until_they_are_in_force() {
    each_quiet(async |server| {
        let mut phone = old_phone(&server, "C").await;
        put(&server, camera(json!({}))).await;
        let first = another(&server, &phone.udid, &Value::Null).await;
        phone.session().await.unwrap();
        assert!(phone.state.profiles.len() == 1 && phone.declared_profiles().is_empty());
        // A newer system, and the next change of the policy.
        phone.state.knows_declarations = true;
        put(&server, camera(json!({"allowScreenShot": false}))).await;
        another(&server, &phone.udid, &first).await;
        phone.session().await.unwrap();
        assert_eq!((phone.state.profiles.len(), phone.declared_profiles().len()), (1, 1), "first the one, then not the other");
        assert!(applies(&server, &phone.udid).await);
        phone.session().await.unwrap();
        assert_eq!((phone.state.profiles.len(), phone.declared_profiles().len()), (0, 1));
        phone.session().await.unwrap();
        assert!(applies(&server, &phone.udid).await);
        assert!(phone.state.declarations.held.contains_key("muster.status"), "and it is told of everything else");
        assert_eq!(phone.session().await.unwrap(), 0);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_only_declarations_can_say_is_told_as_missing_and_the_payloads_come_all_the_same() {
    each_quiet(async |server| {
        let mut phone = old_phone(&server, "D").await;
        let mut both = camera(json!({}));
        both["declarations"] = json!([{"Type": "com.apple.management.properties", "Identifier": "ring", "Payload": {"ring": 1}}]);
        put(&server, both).await;
        another(&server, &phone.udid, &Value::Null).await;
        assert_eq!(phone.session().await.unwrap(), 2);
        let shown = channel(&server, &phone.udid).await;
        assert_eq!((phone.state.profiles.len(), &shown["applied"], &shown["reported"]), (1, &Value::Null, &shown["desired"]));
        let declared = server.get(&format!("/devices/{}/declarations", phone.udid)).await[0]["declarations"].clone();
        let state = |name: &str| declared.as_array().unwrap().iter().find(|one| one["identifier"] == name).unwrap()["state"].clone();
        assert_eq!((state("ring"), state("muster.profile")), (json!("unsupported"), json!("active")));
        assert_eq!(phone.session().await.unwrap(), 0);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_says_yes_to_declarations_and_nothing_more_is_given_its_profile_after_an_hour() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("E");
        let id = phone.enroll(&server).await;
        put(&server, camera(json!({}))).await;
        another(&server, &phone.udid, &Value::Null).await;
        let (uuid, request) = phone.idle(&server).await.request();
        assert_eq!(request, "DeclarativeManagement");
        assert!(phone.acknowledge(&server, &uuid).await.command().is_none());
        let lists = async |profiles: Vec<Plist>| {
            let refresh = task(&server, "refresh", json!({"what": "profiles"}), &id).await;
            assert_eq!(phone.idle(&server).await.request(), (refresh.clone(), "ProfileList".into()));
            let list: Dictionary = [("ProfileList".to_owned(), Plist::Array(profiles))].into_iter().collect();
            phone.connect(&server, "Acknowledged", Some(&refresh), list).await
        };
        assert!(lists(Vec::new()).await.command().is_none(), "it may still be about it");
        server.advance(HOUR_MS);
        let (uuid, command) = lists(Vec::new()).await.command().unwrap();
        assert_eq!(command.get("RequestType").and_then(Plist::as_string), Some("InstallProfile"));
        let profile = plist::from_bytes::<Plist>(command.get("Payload").and_then(Plist::as_data).unwrap()).unwrap();
        let profile = profile.into_dictionary().unwrap();
        let text = |key: &str| profile.get(key).and_then(Plist::as_string).unwrap().to_owned();
        assert_eq!(text("PayloadIdentifier"), configuration::commanded(&server.config.public_url));
        assert_eq!(format!("install.{}", text("PayloadUUID")), uuid);
        assert!(format!("{profile:?}").contains(&format!("of {}", phone.serial)), "with its own values");
        assert!(!applies(&server, &phone.udid).await);
        assert!(phone.acknowledge(&server, &uuid).await.command().is_none());
        assert!(applies(&server, &phone.udid).await);
        let listed = texts(&[("PayloadIdentifier", &text("PayloadIdentifier")), ("PayloadUUID", &text("PayloadUUID"))]);
        assert!(lists(vec![Plist::Dictionary(listed)]).await.command().is_none());
        assert!(applies(&server, &phone.udid).await);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_whose_declarations_bring_no_profile_gets_its_payloads_by_command_and_everything_else_by_declarations() {
    each_quiet(async |server| {
        let mut phone = iphone(&server, "G");
        phone.state.lacks_profiles = true;
        phone.enroll(&[7; 32]).await.unwrap();
        let identifier = configuration::commanded(&server.config.public_url);
        let both = |payloads: Value| {
            let mut both = payloads;
            both["declarations"] = json!([{"Type": "com.apple.management.properties", "Identifier": "ring", "Payload": {"ring": 1}}]);
            both
        };
        put(&server, both(camera(json!({})))).await;
        let first = another(&server, &phone.udid, &Value::Null).await;
        // It says what it knows when it is told for the first time.
        phone.session().await.unwrap();
        phone.session().await.unwrap();
        let installed = phone.state.profiles[&identifier].clone();
        assert!(applies(&server, &phone.udid).await && phone.declared_profiles().is_empty());
        let held: Vec<&str> =
            phone.state.declarations.held.keys().map(String::as_str).filter(|name| !name.starts_with("muster.status")).collect();
        assert_eq!(held, ["ring"], "and is not told of a profile that it cannot take so");
        let declared = server.get(&format!("/devices/{}/declarations", phone.udid)).await[0]["declarations"].clone();
        let state = |name: &str| declared.as_array().unwrap().iter().find(|one| one["identifier"] == name).unwrap()["state"].clone();
        assert_eq!((state("ring"), state("muster.profile")), (json!("active"), json!("active")));
        assert_eq!(phone.session().await.unwrap(), 0);
        // Another content replaces it, and counts when it was taken; its declarations are as they were.
        put(&server, both(camera(json!({"allowScreenShot": false})))).await;
        let second = another(&server, &phone.udid, &first).await;
        phone.state.locked = true;
        phone.session().await.unwrap();
        assert!(!applies(&server, &phone.udid).await && phone.state.profiles[&identifier] == installed);
        phone.state.locked = false;
        phone.session().await.unwrap();
        assert!(applies(&server, &phone.udid).await && phone.state.profiles[&identifier] != installed);
        // Gone by whatever hand, it is given again; one that is not taken is told with the device's words.
        phone.state.profiles.clear();
        task(&server, "refresh", json!({"what": "profiles"}), &phone.udid).await;
        phone.session().await.unwrap();
        assert!(applies(&server, &phone.udid).await && phone.state.profiles.len() == 1);
        put(&server, both(camera(json!({"Broken": true})))).await;
        let third = another(&server, &phone.udid, &second).await;
        phone.session().await.unwrap();
        let shown = channel(&server, &phone.udid).await;
        assert_eq!((&shown["applied"], &shown["reported"]), (&second, &third));
        // Without payloads it goes, and the declarations stay.
        put(&server, json!({"declarations": both(json!({}))["declarations"]})).await;
        another(&server, &phone.udid, &third).await;
        phone.session().await.unwrap();
        phone.session().await.unwrap();
        assert!(phone.state.profiles.is_empty() && applies(&server, &phone.udid).await);
        assert!(phone.state.declarations.held.contains_key("ring"));
        assert_eq!(phone.session().await.unwrap(), 0);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_profile_by_command_is_signed_with_the_certificate_for_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let tls = Tls { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    std::fs::write(&tls.cert, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let encrypted = |config: &mut Config| {
        quiet(config);
        config.tls = Some(tls.clone());
    };
    let story = async |server: TestServer| {
        let phone = AppleDevice::named("F");
        phone.enroll(&server).await;
        put(&server, camera(json!({}))).await;
        another(&server, &phone.udid, &Value::Null).await;
        let (uuid, request) = phone.idle(&server).await.request();
        assert_eq!(request, "DeclarativeManagement");
        let (uuid, command) = phone.connect(&server, "Error", Some(&uuid), Dictionary::new()).await.command().unwrap();
        let payload = command.get("Payload").and_then(Plist::as_data).unwrap();
        let signed = SignedData::parse(payload).unwrap().verify(None).unwrap();
        assert_eq!(signed.certificate.der(), made.cert.der().as_ref());
        let profile = plist::from_bytes::<Plist>(&signed.content).unwrap().into_dictionary().unwrap();
        let text = |key: &str| profile.get(key).and_then(Plist::as_string).unwrap().to_owned();
        assert_eq!(text("PayloadIdentifier"), configuration::commanded(&server.config.public_url));
        assert_eq!(format!("install.{}", text("PayloadUUID")), uuid, "the same content under the same id, however it is signed");
        assert!(phone.acknowledge(&server, &uuid).await.command().is_none());
        assert!(applies(&server, &phone.udid).await);
        server.stop().await;
    };
    each_with(encrypted, story).await;
}
