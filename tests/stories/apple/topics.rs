//! A topic that no credential has is accepted, and an operator is told until it has one or nobody listens.

use muster::clock::Clock;
use muster::config::ApnsMdm;
use muster::sim::apns::StandIn;
use plist::Dictionary;
use serde_json::{Value, json};

use crate::support::apple::{AppleDevice, TOPIC, behind_proxy, texts};
use crate::support::postgres;
use crate::support::server::{START_MS, TestServer};

const OTHER: &str = "com.apple.mgmt.External.99999999-2222-3333-4444-555555555555";

/// Runs a story on both databases, beside a stand-in for APNs for which the server has no certificate yet.
async fn each(story: impl AsyncFn(TestServer, &StandIn)) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite://{}", folder.path().join("muster.db").display());
    for url in [Some(sqlite), postgres::fresh_database().await].into_iter().flatten() {
        eprintln!("on {url}");
        let clock = Clock::moved(START_MS, 7);
        let apns = StandIn::start(clock.clone()).await.unwrap();
        let fcm = muster::sim::fcm::StandIn::start(clock.clone()).await.unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, apns.ca()).unwrap();
        let mdm = ApnsMdm { endpoint: apns.endpoint(), ca_file: Some(ca), ..ApnsMdm::default() };
        let server = TestServer::beside(&url, None, clock, fcm, |config| {
            behind_proxy(config);
            config.push.apns_mdm = Some(mdm);
        })
        .await;
        story(server, &apns).await;
    }
}

/// The alarms of topics that stand.
async fn told(server: &TestServer) -> Vec<Value> {
    let alarms = server.get("/alarms?state=open").await["items"].as_array().unwrap().clone();
    alarms.into_iter().filter(|alarm| alarm["kind"] == "topic_unconfigured").collect()
}

#[tokio::test]
async fn a_topic_without_a_credential_is_told_of_once_and_until_it_has_one_or_nobody_listens() {
    each(async |server, apns| {
        let detail = async || told(&server).await.first().map(|alarm| alarm["detail"].as_str().unwrap().to_owned()).unwrap_or_default();
        AppleDevice::named("1").enroll(&server).await;
        server.until("it is told", async || detail().await.starts_with(&format!("1 device listens to the topic {TOPIC}"))).await;
        AppleDevice::named("2").enroll(&server).await;
        server.until("it is told of both", async || detail().await.starts_with("2 devices listen")).await;
        assert_eq!(told(&server).await.len(), 1, "once for the topic");
        // Another topic has an alarm of its own, which goes with its last device.
        let strange = AppleDevice::named("3");
        strange.authenticate(&server).await.expect(200);
        strange.token_update(&server, texts(&[("Topic", OTHER)])).await.expect(200);
        server.until("the other is told", async || told(&server).await.len() == 2).await;
        strange.checkin(&server, "CheckOut", Dictionary::new()).await.expect(200);
        server.until("nobody listens to the other", async || told(&server).await.len() == 1).await;
        assert!(detail().await.contains(TOPIC));
        // The certificate comes: what is said of it is over, and a device that comes now is nothing to be told of.
        let identity = apns.issue_certificate(TOPIC).unwrap();
        server.put("/push/apns-mdm", json!({"certificate": identity.certificate, "key": identity.key})).await.expect(200);
        server.until("the alarm is over", async || told(&server).await.is_empty()).await;
        AppleDevice::named("4").enroll(&server).await;
        let entries = async || server.get("/feed?limit=1000").await["items"].as_array().unwrap().clone();
        let of = |entries: &[Value], kind: &str| {
            entries.iter().filter(|entry| entry["kind"] == kind && entry["data"]["kind"] == "topic_unconfigured").count()
        };
        server.until("all is told", async || of(&entries().await, "alarm.closed") == 2).await;
        assert_eq!(of(&entries().await, "alarm.opened"), 2);
        server.stop().await;
    })
    .await;
}
