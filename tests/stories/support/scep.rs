//! A server that issues identities itself, and messages of SCEP as values.

use muster::clock::Clock;
use muster::config::{ApnsMdm, Config};
use muster::protocol::apple::scep::{Answer, Asking, Kind};
use muster::protocol::cms::Cipher;
use muster::protocol::pki::Certificate;
use muster::protocol::pki::request::Request;
use muster::sim::apns::StandIn;
use muster::sim::apple::Iphone;
use muster::sim::apple::identity::{Enrollment, Identity};
use serde_json::{Value, json};

use super::apple::{CERT_HEADER, TOPIC};
use super::server::{START_MS, TestServer, each_with};

/// Runs a story on both databases, on a server that lets in only what it issued.
pub async fn each(story: impl AsyncFn(TestServer)) {
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    each_with(|config| strict(config, &apns), async |server| story(with_topic(server, &apns).await).await).await;
}

/// Settings of a server behind a proxy, with the device CA that it makes itself.
pub fn strict(config: &mut Config, apns: &StandIn) {
    config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    config.mdm.proxy_client_cert_header = Some(CERT_HEADER.into());
    config.push.apns_mdm = Some(ApnsMdm { endpoint: apns.endpoint(), ..ApnsMdm::default() });
}

/// Gives a server the push certificate without which there is no profile.
pub async fn with_topic(server: TestServer, apns: &StandIn) -> TestServer {
    let identity = apns.issue_certificate(TOPIC).unwrap();
    server.put("/push/apns-mdm?force=true", json!({"certificate": identity.certificate, "key": identity.key})).await.expect(200);
    // Its canary is due when every process has the certificate; nobody is there yet to be called, and no story hears it later.
    server.advance(7_000);
    let canary_ended = async || {
        let push = server.get("/push").await;
        let mut senders = push["senders"].as_array().unwrap().iter();
        senders.any(|sender| sender["topic"] == TOPIC && sender["canary"]["state"] == "ended")
    };
    server.until("the canary has ended", canary_ended).await;
    server
}

/// A phone that nobody knows yet.
pub fn phone(server: &TestServer, name: &str) -> Iphone {
    Iphone::new(&server.url, name, "").behind_proxy(CERT_HEADER, "")
}

/// A fresh enrollment link.
pub async fn link(server: &TestServer, more: Value) -> String {
    let mut new = json!({"name": "a link"});
    new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = server.post("/enrollment-tokens", new).await.expect(201);
    format!("{}/enroll/{}", server.url, made["token"].as_str().unwrap())
}

/// The profile of a fresh link.
pub async fn profile(server: &TestServer, phone: &Iphone) -> Enrollment {
    Enrollment::read(&phone.fetch_profile(&link(server, json!({})).await).await.unwrap()).unwrap()
}

/// Somebody who speaks SCEP.
pub struct Asker {
    pub by: Identity,
    pub recipient: Certificate,
    pub transaction: String,
    pub cipher: Cipher,
    pub kind: Kind,
}

impl Asker {
    pub async fn new(phone: &Iphone, enrollment: &Enrollment, name: &str) -> Asker {
        let (recipient, _) = phone.authorities(enrollment).await.unwrap();
        let by = Identity::of_its_own(name).await.unwrap();
        Asker { by, recipient, transaction: format!("transaction of {name}"), cipher: Cipher::Aes256, kind: Kind::First }
    }

    fn asking(&self) -> Asking<'_> {
        let Identity { certificate: signer, key } = &self.by;
        Asking { kind: self.kind, signer, key, recipient: &self.recipient, cipher: self.cipher, transaction: &self.transaction }
    }

    /// A message and its nonce.
    pub fn message(&self, challenge: Option<&str>) -> (Vec<u8>, Vec<u8>) {
        let request = Request::make(&self.by.key, self.by.certificate.subject(), challenge).unwrap();
        self.around(&request)
    }

    /// A message around any request.
    pub fn around(&self, request: &[u8]) -> (Vec<u8>, Vec<u8>) {
        self.asking().message(&mut Clock::system().moment(), request).unwrap()
    }

    pub fn read(&self, answer: &[u8], nonce: &[u8]) -> Answer {
        self.asking().answer(&mut Clock::system().moment(), answer, nonce).unwrap()
    }

    /// Sends a message and reads the answer.
    pub async fn send(&self, server: &TestServer, (message, nonce): &(Vec<u8>, Vec<u8>)) -> Answer {
        let (status, answer) = post(server, message.clone()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        self.read(&answer, nonce)
    }
}

/// Posts bytes as a message of SCEP.
pub async fn post(server: &TestServer, message: Vec<u8>) -> (u16, Vec<u8>) {
    let sent = server.client.post(format!("{}/mdm/scep?operation=PKIOperation", server.url)).body(message).send().await.unwrap();
    (sent.status().as_u16(), sent.bytes().await.unwrap().to_vec())
}
