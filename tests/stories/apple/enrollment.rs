//! Devices enroll, come again, are mistaken for others, and leave.

use muster::config::Config;
use muster::protocol::pki::Certificate;
use plist::{Dictionary, Value as Plist};
use serde_json::json;

use super::commands::{each, state, task};
use crate::support::apple::{AppleDevice, behind_proxy, certificate, texts};
use crate::support::server::{TestServer, each_with};

#[tokio::test]
async fn whoever_shows_anothers_udid_is_parked_and_the_enrollment_that_there_is_stays() {
    each(async |server| {
        let phone = AppleDevice::named("A");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let lock = task(&server, "lock", json!({}), &id).await;
        let thief = AppleDevice { certificate: certificate("another certificate"), ..phone.clone() };
        thief.authenticate(&server).await.expect(403);
        thief.token_update(&server, Dictionary::new()).await.expect(403);
        thief.idle(&server).await.expect(403);
        thief.acknowledge(&server, &lock).await.expect(403);
        thief.checkin(&server, "CheckOut", Dictionary::new()).await.expect(403);
        assert_eq!(phone.idle(&server).await.request().0, lock, "nothing has changed for the real one");
        let parked = server.get("/devices?state=pending_approval").await["items"].as_array().unwrap().clone();
        assert_eq!(parked.len(), 1);
        let newcomer = parked[0]["id"].as_str().unwrap().to_owned();
        thief.authenticate(&server).await.expect(403);
        assert_eq!(server.get("/devices?state=pending_approval").await["items"].as_array().unwrap().len(), 1, "parked once");
        server.post(&format!("/devices/{newcomer}/authorize"), json!({})).await.expect(200);
        phone.idle(&server).await.expect(403);
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "unmanaged");
        assert_eq!(state(&server, &lock).await, "cancelled");
        assert_eq!(thief.enroll(&server).await, newcomer, "the admitted one comes in");
        thief.settle(&server).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_certificate_serves_one_device_and_a_device_may_come_again_with_the_one_it_has() {
    each(async |server| {
        let phone = AppleDevice::named("B");
        let id = phone.enroll(&server).await;
        let other = AppleDevice { certificate: phone.certificate.clone(), ..AppleDevice::named("C") };
        other.authenticate(&server).await.expect(403);
        assert_eq!(server.call("GET", &format!("/devices/{}", other.udid), None).await.status, 404);
        phone.settle(&server).await;
        let (wipe, restart) = (task(&server, "wipe", json!({}), &id).await, task(&server, "restart", json!({}), &id).await);
        assert_eq!(phone.idle(&server).await.request(), (wipe.clone(), "EraseDevice".into()));
        phone.authenticate(&server).await.expect(200);
        assert_eq!(state(&server, &wipe).await, "done", "that it enrolls anew proves the wipe");
        assert_eq!(state(&server, &restart).await, "cancelled");
        assert_eq!(server.get(&format!("/devices/{id}")).await["channels"][0]["push_state"], "none", "nothing is sent before TokenUpdate");
        phone.token_update(&server, Dictionary::new()).await.expect(200);
        assert_eq!(phone.idle(&server).await.request().1, "DeviceInformation", "it is asked anew");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_checks_out_is_unmanaged_and_may_enroll_again() {
    each(async |server| {
        let phone = AppleDevice::named("D");
        AppleDevice::named("nobody").checkin(&server, "CheckOut", Dictionary::new()).await.expect(403);
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let retire = server.post(&format!("/devices/{id}/retire"), json!({})).await;
        assert_eq!(retire.status, 202, "{}", retire.body);
        let (uuid, request) = phone.idle(&server).await.request();
        assert_eq!(request, "RemoveProfile");
        phone.checkin(&server, "CheckOut", Dictionary::new()).await.expect(200);
        phone.checkin(&server, "CheckOut", Dictionary::new()).await.expect(200);
        assert_eq!(state(&server, &uuid).await, "done", "it has left as it was told");
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "unmanaged");
        phone.idle(&server).await.expect(403);
        phone.token_update(&server, Dictionary::new()).await.expect(403);
        phone.authenticate(&server).await.expect(403);
        server.post(&format!("/devices/{id}/authorize"), json!({})).await.expect(200);
        let fresh = AppleDevice { certificate: certificate("fresh"), ..phone.clone() };
        assert_eq!(fresh.enroll(&server).await, id);
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "active");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn users_of_a_mac_have_channels_of_their_own_and_it_keeps_its_bootstrap_token_here() {
    each(async |server| {
        let mac = AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("E") };
        let id = mac.enroll(&server).await;
        let user = || texts(&[("UserID", "11111111-1111-1111-1111-111111111111"), ("UserShortName", "ada")]);
        mac.connect(&server, "Idle", None, user()).await.expect(403);
        mac.checkin(&server, "UserAuthenticate", user()).await.expect(410);
        mac.token_update(&server, user()).await.expect(200);
        let device = server.get(&format!("/devices/{id}")).await;
        assert_eq!(device["channels"].as_array().unwrap().len(), 2);
        assert!(mac.connect(&server, "Idle", None, user()).await.command().is_none(), "a user's channel has a queue of its own");
        let lock = task(&server, "lock", json!({"pin": "123456"}), &id).await;
        assert!(mac.connect(&server, "Idle", None, user()).await.command().is_none());
        let (uuid, command) = mac.idle(&server).await.command().unwrap();
        assert_eq!((uuid, command.get("PIN").and_then(Plist::as_string)), (lock, Some("123456")));
        let name = format!("{}:11111111-1111-1111-1111-111111111111", mac.udid);
        let profiles = task(&server, "refresh", json!({"what": "profiles"}), &name).await;
        assert_eq!(mac.connect(&server, "Idle", None, user()).await.request(), (profiles.clone(), "ProfileList".into()));
        let stranger = json!({"kind": "lock", "target": {"devices": [format!("{}:nobody", mac.udid)]}});
        assert_eq!(server.post("/jobs", stranger).await.expect(202)["unknown_devices"][0], format!("{}:nobody", mac.udid));
        mac.connect(&server, "Error", Some(&profiles), user()).await.expect(200);
        let again = server.post(&format!("/tasks/{profiles}/retry"), json!({})).await.expect(201);
        assert_eq!(mac.connect(&server, "Idle", None, user()).await.request().0, again["id"], "ordered again, it is for the same user");
        assert!(mac.checkin(&server, "GetBootstrapToken", Dictionary::new()).await.expect(200).body.is_empty());
        let token: Dictionary = [("BootstrapToken".to_owned(), Plist::Data(b"boot".to_vec()))].into_iter().collect();
        mac.checkin(&server, "SetBootstrapToken", token.clone()).await.expect(200);
        let told = mac.checkin(&server, "GetBootstrapToken", Dictionary::new()).await.expect(200);
        let answer = plist::from_bytes::<Plist>(&told.body).unwrap().into_dictionary().unwrap();
        assert_eq!(answer.get("BootstrapToken"), token.get("BootstrapToken"));
        mac.checkin(&server, "SetBootstrapToken", Dictionary::new()).await.expect(200);
        assert!(mac.checkin(&server, "GetBootstrapToken", Dictionary::new()).await.expect(200).body.is_empty());
        mac.checkin(&server, "GetToken", texts(&[("TokenServiceType", "com.apple.maid")])).await.expect(400);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_mac_and_its_users_had_ends_with_the_enrollment_and_a_later_token_update_only_updates() {
    each(async |server| {
        let mac = AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("H") };
        let id = mac.enroll(&server).await;
        let user = || texts(&[("UserID", "11111111-1111-1111-1111-111111111111"), ("UserShortName", "ada")]);
        mac.token_update(&server, user()).await.expect(200);
        let token: Dictionary = [("BootstrapToken".to_owned(), Plist::Data(b"boot".to_vec()))].into_iter().collect();
        mac.checkin(&server, "SetBootstrapToken", token).await.expect(200);
        mac.settle(&server).await;
        let name = format!("{}:11111111-1111-1111-1111-111111111111", mac.udid);
        let profiles = task(&server, "refresh", json!({"what": "profiles"}), &name).await;
        let lock = task(&server, "lock", json!({}), &id).await;
        // One more TokenUpdate is another address and nothing else.
        mac.token_update(&server, texts(&[("PushMagic", "another")])).await.expect(200);
        assert!(!mac.checkin(&server, "GetBootstrapToken", Dictionary::new()).await.expect(200).body.is_empty());
        assert_eq!((state(&server, &lock).await, state(&server, &profiles).await), ("queued".into(), "queued".into()));
        mac.authenticate(&server).await.expect(200);
        assert_eq!((state(&server, &lock).await, state(&server, &profiles).await), ("cancelled".into(), "cancelled".into()));
        let channels = server.get(&format!("/devices/{id}")).await["channels"].as_array().unwrap().clone();
        assert!(channels.len() == 2 && channels.iter().all(|channel| channel["push_state"] == "none"), "{channels:?}");
        mac.token_update(&server, Dictionary::new()).await.expect(200);
        assert!(mac.checkin(&server, "GetBootstrapToken", Dictionary::new()).await.expect(200).body.is_empty(), "it is escrowed anew");
        let channels = server.get(&format!("/devices/{id}")).await["channels"].as_array().unwrap().clone();
        let reachable = channels.iter().filter(|channel| channel["push_state"] == "active").count();
        assert_eq!(reachable, 1, "the user follows by its own TokenUpdate");
        mac.token_update(&server, user()).await.expect(200);
        assert!(mac.connect(&server, "Idle", None, user()).await.command().is_none(), "with nothing of before");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn users_with_network_accounts_are_managed_without_a_password_where_that_is_wanted() {
    let wanted = |config: &mut Config| {
        behind_proxy(config);
        config.mdm.network_users = true;
    };
    let story = async |server: TestServer| {
        let mac = AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("L") };
        let user = || texts(&[("UserID", "22222222-1111-1111-1111-111111111111"), ("UserShortName", "grace")]);
        mac.checkin(&server, "UserAuthenticate", user()).await.expect(403);
        mac.authenticate(&server).await.expect(200);
        mac.checkin(&server, "UserAuthenticate", user()).await.expect(410);
        mac.token_update(&server, Dictionary::new()).await.expect(200);
        let told = mac.checkin(&server, "UserAuthenticate", user()).await.expect(200);
        let asked = plist::from_bytes::<Plist>(&told.body).unwrap().into_dictionary().unwrap();
        assert_eq!(asked, texts(&[("DigestChallenge", "")]));
        let mut answer = user();
        answer.extend(texts(&[("DigestResponse", "")]));
        let told = mac.checkin(&server, "UserAuthenticate", answer).await.expect(200);
        assert_eq!((told.body.len(), told.headers["content-length"].as_bytes()), (0, b"0".as_slice()));
        mac.token_update(&server, user()).await.expect(200);
        assert!(mac.connect(&server, "Idle", None, user()).await.command().is_none());
        server.stop().await;
    };
    each_with(wanted, story).await;
}

#[tokio::test]
async fn one_that_was_retired_and_may_not_remove_its_profile_is_told_that_it_is_nobody() {
    each(async |server| {
        let (phone, other) = (AppleDevice::named("J"), AppleDevice::named("K"));
        let (id, other_id) = (phone.enroll(&server).await, other.enroll(&server).await);
        server.post(&format!("/devices/{id}/retire"), json!({})).await.expect(202);
        let refuse = async |command: &str| {
            let (uuid, request) = phone.idle(&server).await.request();
            assert_eq!((request.as_str(), uuid.starts_with(command)), ("RemoveProfile", true), "{uuid}");
            phone.connect(&server, "Error", Some(&uuid), Dictionary::new()).await
        };
        // The order itself fails, and tells the operator why.
        let order = phone.idle(&server).await.request().0;
        assert!(refuse(&order).await.command().is_none());
        assert_eq!(state(&server, &order).await, "failed");
        for _ in 0..2 {
            let told = refuse("remove.").await.expect(403);
            assert_eq!(told.headers["content-type"], "application/json");
            let body: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
            assert_eq!(body["code"], "com.apple.unrecognized.device");
        }
        // Nobody else is told so: not one that may come back, whatever it refuses.
        server.post(&format!("/devices/{other_id}/unauthorize"), json!({})).await.expect(200);
        assert!(other.connect(&server, "Error", Some("remove.1"), Dictionary::new()).await.command().is_none());
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_same_phone_restored_on_other_hardware_is_another_device() {
    each(async |server| {
        let phone = AppleDevice::named("I");
        let id = phone.enroll(&server).await;
        let restored = AppleDevice { udid: "00008030-other".into(), certificate: certificate("of the other"), ..phone.clone() };
        assert_ne!(restored.enroll(&server).await, id, "though it shows the same serial number");
        phone.settle(&server).await;
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "active", "the old one is as it was");
        // With the certificate of the old one it is nobody.
        AppleDevice { certificate: phone.certificate.clone(), ..restored.clone() }.idle(&server).await.expect(403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn without_a_certificate_that_this_server_issued_nobody_new_comes_in() {
    let server = TestServer::with(|config| {
        behind_proxy(config);
        config.mdm.require_known_certificate = true;
    })
    .await;
    AppleDevice::named("F").authenticate(&server).await.expect(403);
    server.stop().await;
    // A header from an address that is no proxy's is no certificate.
    let server = TestServer::with(|config| {
        behind_proxy(config);
        config.trusted_proxies.clear();
    })
    .await;
    AppleDevice::named("G").authenticate(&server).await.expect(403);
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_for_clients_lets_nobody_in_whoever_issued_it() {
    const FOR: [(&str, &str, u16); 5] = [
        ("servers", include_str!("fixtures/throwaway_usage_server.pem"), 403),
        ("the CA itself", include_str!("fixtures/throwaway_ca.pem"), 403),
        ("servers and clients", include_str!("fixtures/throwaway_usage_client.pem"), 200),
        ("anything", include_str!("fixtures/throwaway_usage_any.pem"), 200),
        ("it does not say what", include_str!("fixtures/throwaway_usage_none.pem"), 200),
    ];
    each(async |server| {
        for (name, pem, status) in FOR {
            let certificate = Certificate::chain_from_pem(pem).unwrap()[0].der().to_vec();
            let told = AppleDevice { certificate, ..AppleDevice::named(name) }.authenticate(&server).await;
            assert_eq!(told.status, status, "{name}");
        }
        server.stop().await;
    })
    .await;
}
