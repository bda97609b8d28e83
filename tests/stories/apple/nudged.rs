//! The whole road: an order, a push through APNs that says nothing but its magic, a connection, a command, its end.

use std::time::Duration;

use muster::clock::Clock;
use muster::config::ApnsMdm;
use muster::sim::apns::StandIn;
use plist::{Dictionary, Value as Plist};
use serde_json::json;

use super::commands::{state, task};
use crate::support::apple::{AppleDevice, TOPIC, behind_proxy};
use crate::support::server::{START_MS, TestServer};

#[tokio::test]
async fn an_order_reaches_an_iphone_through_apns_and_its_end_comes_back() {
    let clock = Clock::moved(START_MS, 7);
    let apns = StandIn::start(clock.clone()).await.unwrap();
    let fcm = muster::sim::fcm::StandIn::start(clock.clone()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let identity = apns.issue_certificate_until(TOPIC, START_MS + 5 * 86_400_000).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let mdm = ApnsMdm {
        certificate: file("push.pem", &identity.certificate),
        key: file("push.key", &identity.key),
        endpoint: apns.endpoint(),
        ca_file: file("ca.pem", apns.ca()),
    };
    let url = format!("sqlite://{}", folder.path().join("muster.db").display());
    let server = TestServer::beside(&url, None, clock, fcm, |config| {
        behind_proxy(config);
        config.push.apns_mdm = Some(mdm);
    })
    .await;
    // What ends soon is told at the start, not only when the calendar comes to it.
    server
        .until("the end of the certificate is told", async || {
            let alarms = server.get("/alarms?state=open").await;
            alarms["items"].as_array().unwrap().iter().any(|alarm| alarm["kind"] == "push_certificate_ends")
        })
        .await;
    let token = apns.register(TOPIC);
    let mut pushes = apns.connect(&token);
    let phone = AppleDevice::named("A");
    phone.authenticate(&server).await.expect(200);
    let bytes: Vec<u8> = (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect();
    let address: Dictionary = [("Token".to_owned(), Plist::Data(bytes))].into_iter().collect();
    phone.token_update(&server, address).await.expect(200);
    let mut nudged = async || tokio::time::timeout(Duration::from_secs(60), pushes.recv()).await.unwrap().is_some();
    assert!(nudged().await, "a new device is called in: there is something to ask it");
    phone.settle(&server).await;
    server.advance(60_000);
    let lock = task(&server, "lock", json!({}), &phone.udid).await;
    assert!(nudged().await, "the order calls it");
    // It comes at once and says not why: before what APNs answered is written it was the push as well.
    assert_eq!(phone.idle(&server).await.request().0, lock);
    let history = server.get(&format!("/devices/{}/contacts", phone.udid)).await;
    let last = &history["items"][0];
    assert_eq!((&last["cause"], last["after_nudge_ms"].is_i64()), (&json!("push"), true), "{history}");
    phone.acknowledge(&server, &lock).await.expect(200);
    assert_eq!(state(&server, &lock).await, "done");
    let made = server.post("/enrollment-tokens", json!({"name": "a token"})).await.expect(201);
    let value = made["token"].as_str().unwrap();
    let profile = server.stranger().get(&format!("/enroll/{value}/profile.mobileconfig")).await;
    assert_eq!((profile.status, profile.headers["content-type"].as_bytes()), (200, b"application/x-apple-aspen-config".as_slice()));
    let again = server.stranger().get(&format!("/enroll/{value}/profile.mobileconfig")).await;
    assert!(profile.text.contains(TOPIC) && profile.text != again.text, "each download has a challenge of its own");
    server.stop().await;
}
