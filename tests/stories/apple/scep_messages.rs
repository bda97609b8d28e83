//! Messages of SCEP beyond the first request: renewals in their older form, and questions about what was issued before.

use muster::protocol::apple::scep::{Answer, Kind};
use muster::protocol::cms::issuer_and_serial;
use muster::protocol::pki::Certificate;
use muster::sim::apple::Iphone;
use muster::sim::apple::identity::Enrollment;
use serde_json::json;

use crate::support::scep::{Asker, each, link, phone, post, profile};
use crate::support::server::TestServer;

fn failed(code: &str) -> Answer {
    Answer::Failed(code.into())
}

/// A phone that was enrolled, and the profile of a further link.
async fn enrolled(server: &TestServer, name: &str) -> (Iphone, Enrollment) {
    let mut phone = phone(server, name);
    let enrollment = profile(server, &phone).await;
    phone.enroll_by(&link(server, json!({})).await, &[7; 32]).await.unwrap();
    phone.session().await.unwrap();
    (phone, enrollment)
}

/// The phone as somebody who speaks SCEP with the identity that it has.
async fn asker(phone: &Iphone, enrollment: &Enrollment, kind: Kind) -> Asker {
    Asker { by: phone.identity.clone().unwrap(), kind, ..Asker::new(phone, enrollment, "itself").await }
}

#[tokio::test]
async fn an_update_request_of_an_older_client_is_a_renewal() {
    each(async |server| {
        let (mut phone, enrollment) = enrolled(&server, "A").await;
        let update = asker(&phone, &enrollment, Kind::Update).await;
        let Answer::Issued(issued) = update.send(&server, &update.message(None)).await else { panic!("no certificate") };
        assert!(*issued != update.by.certificate && issued.spki() == update.by.certificate.spki());
        // It goes on with the new one without a word, and may ask again with that.
        phone.use_identity(muster::sim::apple::identity::Identity { certificate: *issued, ..update.by.clone() }).unwrap();
        phone.session().await.unwrap();
        let again = asker(&phone, &enrollment, Kind::Update).await;
        let again = Asker { transaction: "another".into(), ..again };
        assert!(matches!(again.send(&server, &again.message(None)).await, Answer::Issued(_)));
        let stranger = Asker { kind: Kind::Update, ..Asker::new(&phone, &enrollment, "stranger").await };
        assert_eq!(stranger.send(&server, &stranger.message(None)).await, failed("4"));
        assert_eq!(stranger.send(&server, &stranger.message(Some("no challenge"))).await, failed("2"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_gets_back_what_was_issued_to_it_and_nobody_elses() {
    each(async |server| {
        let (mut phone, enrollment) = enrolled(&server, "B").await;
        let (other, _) = enrolled(&server, "C").await;
        let first = phone.identity.clone().unwrap().certificate;
        phone.renew(&enrollment).await.unwrap();
        phone.session().await.unwrap();
        let present = phone.identity.clone().unwrap().certificate;
        let asks = asker(&phone, &enrollment, Kind::GetCert).await;
        let get = async |asker: &Asker, of: &Certificate| asker.send(&server, &asker.around(&issuer_and_serial(of))).await;
        for own in [&first, &present] {
            assert_eq!(get(&asks, own).await, Answer::Issued(Box::new(own.clone())));
        }
        let (recipient, ca) = phone.authorities(&enrollment).await.unwrap();
        for others in [&other.identity.as_ref().unwrap().certificate, &recipient, &ca, &asks.recipient] {
            assert_eq!(get(&asks, others).await, failed("4"));
        }
        let stranger = Asker { kind: Kind::GetCert, ..Asker::new(&phone, &enrollment, "stranger").await };
        assert_eq!(get(&stranger, &first).await, failed("4"));
        assert_eq!(get(&stranger, &stranger.by.certificate).await, failed("4"), "of which this server never heard");
        for nonsense in [&b""[..], b"nonsense", &first.der()[..40], first.der()] {
            assert_eq!(asks.send(&server, &asks.around(nonsense)).await, failed("1"));
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_this_server_does_not_do_is_said_by_its_number() {
    each(async |server| {
        let (phone, enrollment) = enrolled(&server, "D").await;
        let certificate = phone.identity.clone().unwrap().certificate;
        // There is no list of what is revoked, and no request is put off; a number that nobody knows is refused alike.
        for (kind, code) in [(Kind::GetCrl, "2"), (Kind::Poll, "4"), (Kind::Other, "2")] {
            let asks = asker(&phone, &enrollment, kind).await;
            assert_eq!(asks.send(&server, &asks.around(&issuer_and_serial(&certificate))).await, failed(code), "{kind:?}");
            let (message, _) = asks.around(b"nonsense");
            assert_eq!(post(&server, message).await.0, 200);
        }
        server.stop().await;
    })
    .await;
}
