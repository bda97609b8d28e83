//! Whose message it is: by its signature, or by the TLS handshake. (What a proxy says is told with everything else.)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster::config::Config;
use muster::protocol::cms::{SignedData, Signing};
use muster::protocol::pki::{Certificate, Key};
use muster::sim::apns::StandIn;
use muster::sim::apple::Iphone;
use serde_json::json;

use super::commands::{state, task};
use crate::support::apple::{AppleDevice, behind_proxy, bytes, ca_file, texts};
use crate::support::scep::{link, strict, with_topic};
use crate::support::server::{START_MS, TestServer, each_with};
use crate::support::tls::OwnCertificate;

const DAY_MS: i64 = 86_400_000;
/// What OpenSSL signed: detached, with SHA-1 and no attributes, and with the content inside in indefinite lengths.
const SIGNED: &str = "<plist>a message</plist>";
const SIGNATURES: [&[u8]; 4] = [
    include_bytes!("../../../src/protocol/cms/fixtures/rsa_sha256.der"),
    include_bytes!("../../../src/protocol/cms/fixtures/rsa_sha1_bare.der"),
    include_bytes!("../../../src/protocol/cms/fixtures/rsa_sha1_indefinite.ber"),
    include_bytes!("../../../src/protocol/cms/fixtures/p256.der"),
];

/// Runs a story on both databases, on a server that no proxy stands before.
async fn each(story: impl AsyncFn(TestServer)) {
    let apns = StandIn::start(muster::clock::Clock::moved(START_MS, 8)).await.unwrap();
    let open = |config: &mut Config| {
        strict(config, &apns);
        (config.trusted_proxies, config.mdm.proxy_client_cert_header) = (Vec::new(), None);
    };
    each_with(open, async |server| story(with_topic(server, &apns).await).await).await;
}

/// Enrolls a phone, carries a task out, and renews its identity when its time has come.
async fn is_managed(server: &TestServer, phone: &mut Iphone) {
    phone.enroll_by(&link(server, json!({"max_uses": 1})).await, &[7; 32]).await.unwrap();
    assert_eq!(phone.session().await.unwrap(), 6, "the server asks six things by itself");
    let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
    let lock = task(server, "lock", json!({}), &id).await;
    phone.session().await.unwrap();
    assert_eq!(state(server, &lock).await, "done");
    let first = phone.identity.clone().unwrap().certificate;
    // It was off for two years: its certificate has ended, and it is as welcome as ever, to get another.
    server.advance(730 * DAY_MS);
    phone.state.locked = false;
    phone.session().await.unwrap();
    let second = phone.identity.clone().unwrap().certificate;
    assert!(!first.is_valid_at(server.clock.now_ms()) && second.is_valid_at(server.clock.now_ms()));
    let restart = task(server, "restart", json!({}), &id).await;
    phone.session().await.unwrap();
    assert_eq!(state(server, &restart).await, "done");
}

#[tokio::test]
async fn an_iphone_is_known_by_its_signatures_alone() {
    each(async |server| {
        let mut phone = Iphone::new(&server.url, "A", "");
        is_managed(&server, &mut phone).await;
        assert!(phone.signs, "the profile wants it");
        phone.signs = false;
        assert!(phone.session().await.unwrap_err().to_string().contains("403"), "without a signature it is nobody");
        server.stop().await;
    })
    .await;
}

/// Sends a body with a signature, whatever it is.
async fn signed(server: &TestServer, body: &str, signature: &str) -> u16 {
    let request = server.client.put(format!("{}/mdm/connect", server.url)).header("Mdm-Signature", signature);
    request.body(body.to_owned()).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_signature_counts_for_its_own_body_in_every_form_that_devices_send() {
    each(async |server| {
        for signature in SIGNATURES {
            let signature = STANDARD.encode(signature);
            assert_eq!(signed(&server, SIGNED, &signature).await, 400, "the signature is right, and the message none");
            assert_eq!(signed(&server, "<plist>another message</plist>", &signature).await, 403);
            assert_eq!(signed(&server, "", &signature).await, 403);
        }
        // Sixteen kilobytes of headers are nothing unusual.
        let request = server.client.put(format!("{}/mdm/connect", server.url)).header("Mdm-Signature", STANDARD.encode(SIGNATURES[0]));
        let padded = request.header("X-Padding", "x".repeat(14_000)).body(SIGNED).send().await.unwrap();
        assert_eq!(padded.status().as_u16(), 400, "read as the others are");
        let long = "A".repeat(20_000);
        for nonsense in ["", "*", "AAAA", &STANDARD.encode([0x30, 0x80].repeat(4000)), &long] {
            assert_eq!(signed(&server, SIGNED, nonsense).await, 403, "{nonsense:.20}");
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_right_signature_of_another_device_opens_nothing_and_a_wrong_one_is_made_good_by_nothing() {
    let story = async |server: TestServer| {
        // All of them have the key of the tests' CA: only the certificate tells them apart.
        let key = Key::from_pem(&std::fs::read_to_string(ca_file("key")).unwrap()).unwrap();
        let (phone, other) = (AppleDevice::named("A"), AppleDevice::named("B"));
        phone.enroll(&server).await;
        other.enroll(&server).await;
        let body = bytes(texts(&[("Status", "Idle"), ("UDID", &phone.udid)]));
        let by = |device: &AppleDevice, body: &[u8]| {
            let certificate = Certificate::from_der(&device.certificate).unwrap();
            let signing = Signing { certificate: &certificate, key: &key, chain: &[], now_ms: START_MS };
            STANDARD.encode(signing.sign_detached(body).unwrap())
        };
        let sent = async |signature: String| {
            let request = server.client.put(format!("{}/mdm/connect", server.url)).header("Mdm-Signature", signature);
            let request = request.header(crate::support::apple::CERT_HEADER, phone.header());
            request.body(body.clone()).send().await.unwrap().status().as_u16()
        };
        assert_eq!(sent(by(&phone, &body)).await, 200);
        assert_eq!(sent(by(&other, &body)).await, 403, "what the proxy says does not make it good");
        assert_eq!(sent(by(&phone, b"another body")).await, 403);
        // A report that is read beside the loop is signed like any other.
        let mut long = texts(&[("Status", "Acknowledged"), ("CommandUUID", "nobody's"), ("UDID", &phone.udid)]);
        long.insert("Padding".into(), plist::Value::String("x".repeat(200_000)));
        let long = bytes(long);
        for (signature, status) in [(by(&phone, &long), 200), (by(&phone, &body), 403)] {
            let request = server.client.put(format!("{}/mdm/connect", server.url)).header("Mdm-Signature", signature);
            assert_eq!(request.body(long.clone()).send().await.unwrap().status().as_u16(), status);
        }
        server.stop().await;
    };
    each_with(behind_proxy, story).await;
}

#[tokio::test]
async fn an_iphone_is_known_by_the_certificate_of_its_tls_handshake() {
    let apns = StandIn::start(muster::clock::Clock::moved(START_MS, 8)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let made = OwnCertificate::make(folder.path(), "127.0.0.1");
    let open = |config: &mut Config| {
        strict(config, &apns);
        (config.trusted_proxies, config.mdm.proxy_client_cert_header) = (Vec::new(), None);
        config.mdm.sign_message = false;
        config.tls = Some(made.files.clone());
    };
    let story = async |server: TestServer| {
        let server = with_topic(server, &apns).await;
        let mut phone = Iphone::new(&server.url, "A", "").trusting(&made.pem).unwrap();
        let offered = phone.fetch_profile(&link(&server, json!({})).await).await.unwrap();
        let signer = SignedData::parse(&offered).unwrap().verify(None).unwrap().certificate;
        assert_eq!(signer.der(), made.der, "a profile is signed with the certificate for TLS");
        is_managed(&server, &mut phone).await;
        assert!(!phone.signs);
        // Whoever has no certificate is served, and is no device; neither is one with a certificate that nobody issued.
        let body = bytes(texts(&[("Status", "Idle"), ("UDID", &phone.udid)]));
        let nobody = server.client.put(format!("{}/mdm/connect", server.url)).body(body).send().await.unwrap();
        assert_eq!(nobody.status().as_u16(), 403);
        let own = muster::sim::apple::identity::Identity::of_its_own("B").await.unwrap();
        let mut stranger = Iphone::new(&server.url, "A", "").trusting(&made.pem).unwrap();
        stranger.use_identity(own).unwrap();
        assert!(stranger.session().await.unwrap_err().to_string().contains("403"));
        assert!(stranger.enroll(&[8; 32]).await.unwrap_err().to_string().contains("403"));
        assert_eq!(phone.session().await.unwrap(), 0);
        server.stop().await;
    };
    each_with(open, story).await;
}
