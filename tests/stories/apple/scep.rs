//! iPhones get their identities from the server itself, and renew them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster::change;
use muster::clock::Clock;
use muster::config::Config;
use muster::model::Actor;
use muster::ops::ca::{Pair, authority};
use muster::protocol::apple::scep::{Answer, Kind};
use muster::protocol::cms::{Cipher, SignedData};
use muster::sim::apns::StandIn;
use muster::store::Class;
use serde_json::json;

use super::commands::{state, task};
use crate::support::apple::{AppleDevice, ca_file, certificate, certificate_of};
use crate::support::postgres;
use crate::support::scep::{Asker, each, link, phone, post, profile, strict, with_topic};
use crate::support::server::{START_MS, TestServer, each_with};

const DAY_MS: i64 = 86_400_000;

#[tokio::test]
async fn an_iphone_opens_a_link_gets_its_identity_and_is_managed() {
    each(async |server| {
        let mut phone = phone(&server, "A");
        phone.enroll_by(&link(&server, json!({"max_uses": 1})).await, &[7; 32]).await.unwrap();
        assert_eq!(phone.session().await.unwrap(), 6, "the server asks six things by itself");
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "active");
        let lock = task(&server, "lock", json!({}), &id).await;
        phone.session().await.unwrap();
        assert_eq!(state(&server, &lock).await, "done");
        let issued = phone.identity.as_ref().unwrap().certificate.clone();
        assert!(!issued.is_ca() && issued.is_valid_at(START_MS) && !issued.is_valid_at(START_MS + 366 * DAY_MS));
        server.until("the feed tells it", async || server.get("/feed").await.to_string().contains("certificate.issued")).await;
        assert!(server.get("/feed").await.to_string().contains(&issued.serial_hex()));
        // Another phone with the first one's UDID and a certificate of its own does not take its place.
        let mut thief = crate::support::scep::phone(&server, "A");
        assert!(thief.enroll_by(&link(&server, json!({})).await, &[8; 32]).await.is_err());
        assert_eq!(phone.session().await.unwrap(), 0);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn every_cipher_and_both_ways_of_sending_lead_to_an_identity() {
    each(async |server| {
        let phone = phone(&server, "B");
        for (n, cipher) in Cipher::ALL.into_iter().enumerate() {
            let enrollment = profile(&server, &phone).await;
            let asker = Asker { cipher, ..Asker::new(&phone, &enrollment, &format!("B{n}")).await };
            let (message, nonce) = asker.message(Some(&enrollment.challenge));
            // As one client has it: what is posted stands in the query once more, escaped.
            let escaped: String = message.iter().map(|byte| format!("%{byte:02X}")).collect();
            let url = format!("{}/mdm/scep?operation=PKIOperation&message=", server.url);
            let asked = match n % 2 {
                0 => server.client.get(url + &STANDARD.encode(&message).replace('+', "%2B").replace('/', "%2F")),
                _ => server.client.post(url + &escaped).body(message),
            };
            let answer = asked.send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], "application/x-pki-message");
            let Answer::Issued(issued) = asker.read(&answer.bytes().await.unwrap(), &nonce) else { panic!("{cipher:?}") };
            assert_eq!(issued.spki(), asker.by.certificate.spki());
        }
        let capabilities = server.client.get(format!("{}/mdm/scep?operation=GetCACaps&message=x", server.url)).send().await.unwrap();
        assert_eq!(capabilities.headers()["content-type"], "text/plain");
        assert!(capabilities.text().await.unwrap().lines().any(|line| line == "POSTPKIOperation"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_request_that_comes_again_is_answered_again_with_the_same_certificate() {
    each(async |server| {
        let phone = phone(&server, "C");
        let enrollment = profile(&server, &phone).await;
        let asker = Asker::new(&phone, &enrollment, "C").await;
        let message = asker.message(Some(&enrollment.challenge));
        let (first, beside) = tokio::join!(asker.send(&server, &message), asker.send(&server, &message));
        let Answer::Issued(certificate) = &first else { panic!("{first:?}") };
        assert_eq!((&beside, &asker.send(&server, &message).await), (&first, &first));
        // The same request in another envelope is the same; in another transaction its challenge is used up.
        assert_eq!(asker.send(&server, &asker.message(Some(&enrollment.challenge))).await, first);
        let another = Asker { transaction: "another".into(), ..asker };
        assert_eq!(another.send(&server, &another.message(Some(&enrollment.challenge))).await, Answer::Failed("2".into()));
        server.advance(30 * DAY_MS);
        let asker = Asker { transaction: "transaction of C".into(), ..another };
        assert_eq!(asker.send(&server, &message).await, Answer::Issued(certificate.clone()));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_identity_is_renewed_by_a_profile_after_two_thirds_of_its_life() {
    each(async |server| {
        let mut phone = phone(&server, "D");
        phone.enroll_by(&link(&server, json!({})).await, &[7; 32]).await.unwrap();
        phone.session().await.unwrap();
        let first = phone.identity.clone().unwrap().certificate;
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        server.advance(242 * DAY_MS);
        phone.session().await.unwrap();
        assert_eq!(phone.identity.clone().unwrap().certificate, first, "not yet");
        server.advance(2 * DAY_MS);
        let restart = task(&server, "restart", json!({}), &id).await;
        phone.session().await.unwrap();
        let second = phone.identity.clone().unwrap().certificate;
        assert!(second != first && second.is_valid_at(server.clock.now_ms() + 300 * DAY_MS));
        assert_eq!(state(&server, &restart).await, "done");
        server.until("the feed tells it", async || server.get("/feed").await.to_string().contains("device.identity_renewed")).await;
        assert_eq!(server.get("/devices").await["items"].as_array().unwrap().len(), 1, "it is the same device");
        server.advance(2 * DAY_MS);
        let times = phone.state.done.iter().filter(|request| *request == "InstallProfile").count();
        phone.session().await.unwrap();
        assert_eq!((times, phone.identity.unwrap().certificate), (1, second), "once");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_renews_by_the_identity_it_has_and_speaks_with_the_new_one_without_a_word() {
    each(async |server| {
        let mut phone = phone(&server, "E");
        let enrollment = profile(&server, &phone).await;
        phone.enroll_by(&link(&server, json!({})).await, &[7; 32]).await.unwrap();
        let mut certificates = vec![phone.identity.clone().unwrap().certificate];
        for _ in 0..3 {
            phone.renew(&enrollment).await.unwrap();
            phone.session().await.unwrap();
            certificates.push(phone.identity.clone().unwrap().certificate);
        }
        certificates.dedup();
        assert_eq!(certificates.len(), 4);
        let mut old = AppleDevice { udid: phone.udid.clone(), certificate: certificates[0].der().to_vec(), ..AppleDevice::named("E") };
        old.idle(&server).await.expect(403);
        old.certificate = certificates[3].der().to_vec();
        old.idle(&server).await.expect(200);
        // One that signs a renewal with a certificate of its own gets nothing, and neither does a device that was retired.
        let stranger = Asker { kind: Kind::Renewal, ..Asker::new(&phone, &enrollment, "stranger").await };
        assert_eq!(stranger.send(&server, &stranger.message(None)).await, Answer::Failed("4".into()));
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        server.post(&format!("/devices/{id}/unauthorize"), json!({})).await;
        assert!(phone.renew(&enrollment).await.unwrap_err().to_string().ends_with("failInfo 4"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_the_former_ca_issued_stays_good_when_another_takes_its_place() {
    each(async |server| {
        let (mut phone, mut other) = (phone(&server, "G"), crate::support::scep::phone(&server, "H"));
        let enrollment = profile(&server, &phone).await;
        phone.enroll_by(&link(&server, json!({})).await, &[7; 32]).await.unwrap();
        phone.session().await.unwrap();
        let (_, former) = phone.authorities(&enrollment).await.unwrap();
        let made = Pair::make_ca(&mut server.clock.moment()).unwrap();
        let made = change!(server.app, Class::Operators, |conn, moment| {
            authority::rotate_ca(conn, moment, &server.app.seal, &Actor::server(), made.clone()).await
        });
        let ca = made.unwrap().certificate().clone();
        let current = async || profile(&server, &other).await.fingerprint == ca.fingerprint();
        server.until("profiles name the new CA", current).await;
        assert_eq!(phone.session().await.unwrap(), 0, "nothing has changed for it");
        let fresh = profile(&server, &phone).await;
        phone.renew(&fresh).await.unwrap();
        let identity = phone.identity.clone().unwrap().certificate;
        assert!(identity.is_issued_by(&ca) && !identity.is_issued_by(&former));
        phone.session().await.unwrap();
        other.enroll_by(&link(&server, json!({})).await, &[8; 32]).await.unwrap();
        assert!(other.identity.as_ref().unwrap().certificate.is_issued_by(&ca));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn servers_that_start_at_once_end_with_one_ca() {
    let Some(url) = postgres::fresh_database().await else { return };
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let first = TestServer::at(&url, None, |config| strict(config, &apns)).await;
    let second = TestServer::beside(&url, None, Clock::moved(START_MS, 99), first.fcm.clone(), |config| strict(config, &apns)).await;
    let listed = async |server: &TestServer| {
        let answer = server.client.get(format!("{}/mdm/scep?operation=GetCACert", server.url)).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/x-x509-ca-ra-cert");
        SignedData::parse(&answer.bytes().await.unwrap()).unwrap().certificates().to_vec()
    };
    let (one, other) = tokio::join!(listed(&first), listed(&second));
    assert_eq!((&one, one.len()), (&other, 2));
    assert!(!one[0].is_ca() && one[0].is_issued_by(&one[1]));
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_ca_of_the_settings_issues_and_lets_in_what_it_issued_elsewhere_where_that_is_allowed() {
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let given = |config: &mut Config| {
        strict(config, &apns);
        (config.mdm.ca_cert, config.mdm.ca_key) = (Some(ca_file("pem")), Some(ca_file("key")));
        config.mdm.require_known_certificate = false;
    };
    let story = async |server: TestServer| {
        let server = with_topic(server, &apns).await;
        let mut phone = phone(&server, "F");
        let enrollment = profile(&server, &phone).await;
        let (_, ca) = phone.authorities(&enrollment).await.unwrap();
        let text = std::fs::read_to_string(ca_file("pem")).unwrap();
        assert_eq!(ca, muster::protocol::pki::Certificate::chain_from_pem(&text).unwrap()[0]);
        phone.enroll_by(&link(&server, json!({})).await, &[7; 32]).await.unwrap();
        phone.session().await.unwrap();
        AppleDevice::named("from elsewhere").enroll(&server).await;
        // The same name and another key is another CA; what ended lets nobody in; what is no certificate neither.
        let made = Pair::make_ca(&mut Clock::moved(1_700_000_000_000, 3).moment()).unwrap();
        for wrong in [certificate_of(&made, "G"), b"no certificate".to_vec()] {
            AppleDevice { certificate: wrong, ..AppleDevice::named("G") }.authenticate(&server).await.expect(403);
        }
        server.advance(301 * DAY_MS);
        AppleDevice { certificate: certificate("ended"), ..AppleDevice::named("H") }.authenticate(&server).await.expect(403);
        let known = AppleDevice::named("from elsewhere");
        known.idle(&server).await.expect(200);
        known.token_update(&server, Default::default()).await.expect(200);
        assert_eq!(post(&server, Vec::new()).await.0, 400);
        server.stop().await;
    };
    each_with(given, story).await;
}
