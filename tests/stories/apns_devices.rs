//! From an operator's order over APNs to an Apple device, and the push certificates by which devices are reached.

use std::time::Duration;

use muster::clock::Clock;
use muster::config::ApnsMdm;
use muster::protocol::apple::profile;
use muster::sim::apns::StandIn;
use muster::sim::apple::Iphone;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::apple::commands::{state, task};
use crate::support::apple::{AppleDevice, CERT_HEADER, TOPIC, behind_proxy};
use crate::support::push::START_MS;
use crate::support::server::TestServer;

const OTHER_TOPIC: &str = "com.apple.mgmt.External.0a0a0a0a-1111-4222-8333-444455556666";

/// A server that is told where APNs is, without a certificate.
async fn start() -> (TestServer, StandIn, NamedTempFile) {
    let stand_in = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let ca = NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), stand_in.ca()).unwrap();
    let (endpoint, ca_file) = (stand_in.endpoint(), Some(ca.path().to_owned()));
    let server = TestServer::with(|config| {
        behind_proxy(config);
        config.push.apns_mdm = Some(ApnsMdm { endpoint, ca_file, ..ApnsMdm::default() });
    })
    .await;
    (server, stand_in, ca)
}

fn certificate(stand_in: &StandIn, topic: &str) -> Value {
    let identity = stand_in.issue_certificate(topic).unwrap();
    json!({"certificate": identity.certificate, "key": identity.key})
}

fn phone(server: &TestServer, name: &str) -> Iphone {
    let phone = Iphone::new(&server.url, name, &profile::identifier(&server.config.public_url));
    let mut phone = phone.behind_proxy(CERT_HEADER, &AppleDevice::named(name).header());
    phone.topic = TOPIC.into();
    phone
}

fn bytes_of(token: &str) -> Vec<u8> {
    (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn an_order_calls_an_iphone_by_its_magic_and_is_carried_out() {
    let (server, stand_in, _ca) = start().await;
    let mut phone = phone(&server, "N");
    let token = stand_in.register(TOPIC);
    let mut pushes = stand_in.connect(&token);
    phone.enroll(&bytes_of(&token)).await.unwrap();
    phone.session().await.unwrap();
    let order = task(&server, "lock", json!({}), &phone.udid).await;
    // The certificate comes while the device waits: its wake is simply not claimed until then.
    server.put("/push/apns-mdm", certificate(&stand_in, TOPIC)).await.expect(200);
    stand_in.capture(true);
    server.advance(60_000);
    tokio::time::timeout(Duration::from_secs(60), pushes.recv()).await.unwrap().unwrap();
    let push = stand_in.take_captured().pop().unwrap();
    assert_eq!(push.body, format!(r#"{{"mdm":"magic of {}"}}"#, phone.udid));
    assert_eq!((push.path, push.certificate_topic.as_deref()), (format!("/3/device/{token}"), Some(TOPIC)));
    phone.session().await.unwrap();
    assert_eq!(state(&server, &order).await, "done");
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_devices_would_not_hear_is_refused_and_forced_it_stands_beside_theirs() {
    let (server, stand_in, _ca) = start().await;
    server.put("/push/apns-mdm", certificate(&stand_in, TOPIC)).await.expect(200);
    phone(&server, "P").enroll(&bytes_of(&stand_in.register(TOPIC))).await.unwrap();
    let refused = server.put("/push/apns-mdm", certificate(&stand_in, OTHER_TOPIC)).await.expect(409);
    assert_eq!((&refused["code"], &refused["devices"]), (&json!("topic_differs"), &json!(1)));
    server.put("/push/apns-mdm", certificate(&stand_in, TOPIC)).await.expect(200);
    let shown = server.put("/push/apns-mdm?force=true", certificate(&stand_in, OTHER_TOPIC)).await.expect(200);
    let names: Vec<&str> = shown["senders"].as_array().unwrap().iter().map(|sender| sender["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fcm", "apns_app", &format!("apns_mdm/{TOPIC}"), &format!("apns_mdm/{OTHER_TOPIC}")]);
    let mut mixed = certificate(&stand_in, TOPIC);
    mixed["key"] = certificate(&stand_in, TOPIC)["key"].clone();
    let ended = stand_in.issue_certificate_until(TOPIC, START_MS - 1_000).unwrap();
    let ended = json!({"certificate": ended.certificate, "key": ended.key});
    let foreign = certificate(&stand_in, "org.example.other");
    for wrong in [mixed, ended, foreign, json!({"certificate": "no PEM", "key": "no PEM"}), json!({"certificate": 7}), json!({})] {
        let refused = server.put("/push/apns-mdm", wrong).await.expect(422);
        assert!(!refused.to_string().contains("PRIVATE KEY"));
    }
    server.put("/push/apns-app", json!({"key": "no PEM", "key_id": "A", "team_id": "B", "topic": "C"})).await.expect(422);
    server.stop().await;
}
