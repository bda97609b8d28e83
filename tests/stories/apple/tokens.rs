//! Enrollment tokens, the certificates that came by them, and their renewal.

use muster::change;
use muster::model::Id;
use muster::ops::ca;
use muster::protocol::pki::Certificate;
use muster::store::Class;
use plist::{Dictionary, Value as Plist};
use serde_json::{Value, json};

use super::commands::{state, task};
use crate::support::apple::{AppleDevice, behind_proxy, certificate, texts};
use crate::support::server::{TestServer, each_with};

const DAY_MS: i64 = 86_400_000;

/// Both databases; only issued certificates let a new device in.
async fn each(story: impl AsyncFn(TestServer)) {
    let strict = |config: &mut muster::config::Config| {
        behind_proxy(config);
        config.mdm.require_known_certificate = true;
    };
    each_with(strict, story).await;
}

/// Keeps a device's certificate as issued against a challenge, as the certificate authority does.
async fn issue(server: &TestServer, phone: &AppleDevice, challenge: &str) -> bool {
    let certificate = Certificate::from_der(&phone.certificate).unwrap();
    change!(server.app, Class::Operators, |conn, moment| ca::issued(conn, moment, challenge, &certificate).await).unwrap()
}

/// A challenge of a token's profile.
async fn challenge(server: &TestServer, token: &Value) -> String {
    let id: Id = token["id"].as_str().unwrap().parse().unwrap();
    let secret = change!(server.app, Class::Operators, |conn, moment| ca::challenge(conn, moment, id).await).unwrap();
    secret.reveal().to_owned()
}

/// A device whose certificate came by this token.
async fn with_token(server: &TestServer, name: &str, token: &Value) -> AppleDevice {
    let phone = AppleDevice::named(name);
    let challenge = challenge(server, token).await;
    assert!(issue(server, &phone, &challenge).await);
    assert!(!issue(server, &phone, &challenge).await, "a challenge is good once");
    phone
}

async fn token(server: &TestServer, more: Value) -> Value {
    let mut new = json!({"name": "a token"});
    new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/enrollment-tokens", new).await.expect(201)
}

#[tokio::test]
async fn a_use_counts_when_a_device_enrolls_and_the_device_is_its_users() {
    each(async |server| {
        server.user("ada@example.org").await;
        server.put("/labels/field", json!({})).await.expect(201);
        let token = token(&server, json!({"user": "ada@example.org", "max_uses": 1, "labels": ["field"]})).await;
        let (one, other) = (with_token(&server, "A", &token).await, with_token(&server, "B", &token).await);
        AppleDevice::named("C").authenticate(&server).await.expect(403);
        let id = one.enroll(&server).await;
        let device = server.get(&format!("/devices/{id}")).await;
        assert_eq!((&device["user"]["email"], &device["labels"]), (&json!("ada@example.org"), &json!(["field"])));
        let shown = server.get(&format!("/enrollment-tokens/{}", token["id"].as_str().unwrap())).await;
        assert_eq!((&shown["uses"], &shown["devices"][0]["device_id"]), (&json!(1), &json!(id)));
        other.authenticate(&server).await.expect(403);
        one.enroll(&server).await;
        assert_eq!(
            server.get(&format!("/enrollment-tokens/{}", token["id"].as_str().unwrap())).await["uses"],
            1,
            "it comes again without one"
        );
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_announced_device_a_disabled_user_and_a_full_one_are_as_for_agents() {
    each(async |server| {
        let user = server.user("bob@example.org").await;
        let announced = server.post("/devices", json!({"user": "bob@example.org", "platform": "ios", "serial": "SER-A"})).await.expect(201);
        let free = token(&server, json!({"user": "bob@example.org"})).await;
        let phone = with_token(&server, "A", &free).await;
        assert_eq!(phone.enroll(&server).await, announced["device"]["id"].as_str().or(announced["id"].as_str()).unwrap());
        let path = format!("/users/{}", user["id"].as_str().unwrap());
        server.call("PATCH", &path, Some(json!({"device_limit": 1}))).await.expect(200);
        with_token(&server, "B", &free).await.authenticate(&server).await.expect(403);
        server.call("PATCH", &path, Some(json!({"device_limit": 5, "enabled": false}))).await.expect(200);
        with_token(&server, "C", &free).await.authenticate(&server).await.expect(403);
        let lock = task(&server, "lock", json!({}), &phone.udid).await;
        assert_eq!(phone.idle(&server).await.request().0, lock, "a lock reaches the device of a disabled user");
        assert!(phone.acknowledge(&server, &lock).await.command().is_none(), "and nothing else does");
        server.post(&format!("/enrollment-tokens/{}/revoke", free["id"].as_str().unwrap()), json!({})).await.expect(200);
        server.call("PATCH", &path, Some(json!({"enabled": true}))).await.expect(200);
        with_token(&server, "D", &free).await.authenticate(&server).await.expect(403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn another_token_does_not_take_an_enrolled_device_over_and_one_made_for_it_does() {
    each(async |server| {
        server.user("eve@example.org").await;
        let (first, second) = (token(&server, json!({})).await, token(&server, json!({"user": "eve@example.org"})).await);
        let phone = with_token(&server, "A", &first).await;
        let id = phone.enroll(&server).await;
        let thief = AppleDevice { certificate: certificate("by another token"), ..phone.clone() };
        assert!(issue(&server, &thief, &challenge(&server, &second).await).await);
        thief.authenticate(&server).await.expect(403);
        assert_eq!(phone.idle(&server).await.request().1, "DeviceInformation");
        let parked = server.get("/devices?state=pending_approval").await;
        assert_eq!((&parked["items"][0]["udid"], parked["items"].as_array().unwrap().len()), (&json!(phone.udid), 1));
        let again = AppleDevice { certificate: certificate("by the same token"), ..phone.clone() };
        assert!(issue(&server, &again, &challenge(&server, &first).await).await);
        again.authenticate(&server).await.expect(200);
        phone.idle(&server).await.expect(200);
        again.token_update(&server, Dictionary::new()).await.expect(200);
        phone.idle(&server).await.expect(403);
        assert_eq!(again.id(&server).await, id);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_identity_is_renewed_in_time_and_its_renewal_leaves_everything_as_it_was() {
    each(async |server| {
        let token = token(&server, json!({})).await;
        let phone = with_token(&server, "A", &token).await;
        let id = phone.enroll(&server).await;
        let unlock: Dictionary = [("UnlockToken".to_owned(), Plist::Data(b"open".to_vec()))].into_iter().collect();
        phone.token_update(&server, unlock).await.expect(200);
        phone.settle(&server).await;
        server.advance(199 * DAY_MS);
        // What renews identities is the device CA: here it is made before it is needed.
        assert_eq!(server.client.get(format!("{}/mdm/scep?operation=GetCACert", server.url)).send().await.unwrap().status(), 200);
        phone.settle(&server).await;
        server.advance(2 * DAY_MS);
        let clear = task(&server, "clear_passcode", json!({}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, clear, "behind operators' commands");
        let told = phone.connect(&server, "NotNow", Some(&clear), Dictionary::new()).await;
        assert!(told.command().is_none());
        let (uuid, command) = phone.acknowledge(&server, &clear).await.command().unwrap();
        assert_eq!(command.get("RequestType").and_then(Plist::as_string), Some("InstallProfile"));
        let profile = command.get("Payload").and_then(Plist::as_data).unwrap();
        let profile = plist::from_bytes::<Plist>(profile).unwrap().into_dictionary().unwrap();
        let scep = profile.get("PayloadContent").unwrap().as_array().unwrap()[1].as_dictionary().unwrap();
        let challenge = scep.get("PayloadContent").unwrap().as_dictionary().unwrap().get("Challenge").and_then(Plist::as_string).unwrap();
        let lock = task(&server, "lock", json!({}), &id).await;
        let renewed = AppleDevice { certificate: certificate("renewed"), ..phone.clone() };
        assert!(issue(&server, &renewed, challenge).await);
        // The device switches before it reports: the report never comes.
        renewed.authenticate(&server).await.expect(200);
        renewed.token_update(&server, Dictionary::new()).await.expect(200);
        assert_eq!(renewed.idle(&server).await.request().0, lock, "the queue has stayed");
        assert_eq!(renewed.acknowledge(&server, &lock).await.command().map(|(next, _)| next.starts_with("refresh.")), Some(true), "{uuid}");
        let clear = task(&server, "clear_passcode", json!({}), &id).await;
        assert_eq!(renewed.idle(&server).await.request().0, clear);
        phone.idle(&server).await.expect(403);
        assert_eq!(state(&server, &lock).await, "done");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_in_setup_assistant_is_let_go_when_everything_was_said() {
    each(async |server| {
        let token = token(&server, json!({})).await;
        let phone = with_token(&server, "A", &token).await;
        phone.authenticate(&server).await.expect(200);
        phone.token_update(&server, texts(&[("AwaitingConfiguration", "true")])).await.expect(200);
        let mut told = phone.idle(&server).await;
        let mut requests = Vec::new();
        while let Some((uuid, command)) = told.command() {
            requests.push(command.get("RequestType").and_then(Plist::as_string).unwrap().to_owned());
            told = phone.acknowledge(&server, &uuid).await;
        }
        assert_eq!((requests.len(), requests.last().map(String::as_str)), (7, Some("DeviceConfigured")));
        assert!(phone.idle(&server).await.command().is_none());
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_enrollment_link_shows_a_page_and_a_used_one_says_so() {
    let server = TestServer::on_sqlite().await;
    let made = token(&server, json!({"name": "For <Ada>", "expires_at_ms": server.clock.now_ms() + 1000})).await;
    let value = made["token"].as_str().unwrap();
    let page = server.stranger().get(&format!("/enroll/{value}")).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.policy().contains("default-src 'none'") && !page.policy().contains("unsafe"), "{}", page.policy());
    assert!(page.text.contains("For &#60;Ada&#62;") && page.text.contains("<svg") && page.text.contains(value), "{}", page.text);
    assert!(!page.text.contains("<script") && !page.text.contains("style=\""));
    // Without a push certificate there is no topic, and without a topic no profile.
    let profile = server.stranger().get(&format!("/enroll/{value}/profile.mobileconfig")).await;
    assert!(profile.status == 409 && profile.text.contains("push certificate"), "{}", profile.text);
    assert_eq!(server.stranger().get("/enroll/mdt_nothing").await.status, 404);
    server.advance(2000);
    assert_eq!(server.stranger().get(&format!("/enroll/{value}")).await.status, 404);
    assert_eq!(server.stranger().get(&format!("/enroll/{value}/profile.mobileconfig")).await.status, 404);
    server.stop().await;
}
