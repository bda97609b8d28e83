//! Requests for identities that are refused, and how.

use muster::protocol::apple::scep::{Answer, Kind};
use muster::protocol::pki::Key;
use muster::protocol::pki::request::Request;
use serde_json::json;

use crate::support::scep::{Asker, each, link, phone, post, profile};
use crate::support::server::TestServer;

const HOUR_MS: i64 = 3_600_000;
/// An RSA key of 1024 bits, which nobody uses.
const SHORT_KEY: &str = include_str!("fixtures/throwaway_1024.key");

fn failed(code: &str) -> Answer {
    Answer::Failed(code.into())
}

#[tokio::test]
async fn a_challenge_is_good_once_and_for_an_hour_and_nothing_replaces_it() {
    each(async |server| {
        let phone = phone(&server, "A");
        let enrollment = profile(&server, &phone).await;
        let asker = Asker::new(&phone, &enrollment, "A").await;
        for wrong in [None, Some(""), Some("another"), Some(&enrollment.challenge[1..])] {
            assert_eq!(asker.send(&server, &asker.message(wrong)).await, failed("2"), "{wrong:?}");
        }
        let right = asker.message(Some(&enrollment.challenge));
        assert!(matches!(asker.send(&server, &right).await, Answer::Issued(_)));
        let thief = Asker::new(&phone, &enrollment, "thief").await;
        assert_eq!(thief.send(&server, &thief.message(Some(&enrollment.challenge))).await, failed("2"));
        let late = profile(&server, &phone).await;
        server.advance(HOUR_MS);
        assert_eq!(thief.send(&server, &thief.message(Some(&late.challenge))).await, failed("2"));
        let renewal = Asker { kind: Kind::Renewal, ..thief };
        assert_eq!(renewal.send(&server, &renewal.message(Some(&late.challenge))).await, failed("2"));
        let other = Asker { kind: Kind::Other, ..renewal };
        assert_eq!(other.send(&server, &other.message(Some(&late.challenge))).await, failed("2"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn whatever_does_not_decrypt_is_answered_alike_and_weak_keys_are_not_certified() {
    let story = async |server: TestServer| {
        let phone = phone(&server, "B");
        let enrollment = profile(&server, &phone).await;
        let asker = Asker::new(&phone, &enrollment, "B").await;
        // No request at all, one that was changed after it was signed, and one for another server.
        let request = Request::make(&asker.by.key, asker.by.certificate.subject(), Some(&enrollment.challenge)).unwrap();
        let mut changed = request.clone();
        changed[30] ^= 1;
        for wrong in [b"no request".as_slice(), &[], &changed] {
            assert_eq!(asker.send(&server, &asker.around(wrong)).await, failed("1"));
        }
        let elsewhere = Asker { recipient: asker.by.certificate.clone(), by: asker.by.clone(), transaction: "t".into(), ..asker };
        let (message, _) = elsewhere.around(&request);
        let (status, answer) = post(&server, message).await;
        let said = muster::protocol::cms::SignedData::parse(&answer).unwrap();
        let fail_info = der::asn1::ObjectIdentifier::new_unwrap("2.16.840.1.113733.1.9.4");
        let said = said.verify(None).unwrap();
        assert_eq!((status, said.attributes.get(fail_info).map(|(_, value)| value)), (200, Some(b"1".as_slice())));
        let asker = Asker::new(&phone, &enrollment, "B").await;
        let short = Key::from_pem(SHORT_KEY).unwrap();
        let weak = Request::make(&short, asker.by.certificate.subject(), Some(&enrollment.challenge)).unwrap();
        assert_eq!(asker.send(&server, &asker.around(&weak)).await, failed("0"));
        // None of them has used the challenge up.
        assert!(matches!(asker.send(&server, &asker.around(&request)).await, Answer::Issued(_)));
        server.stop().await;
    };
    each(story).await;
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_the_server_goes_on() {
    each(async |server| {
        let mut good = phone(&server, "C");
        let enrollment = profile(&server, &good).await;
        let asker = Asker::new(&good, &enrollment, "C").await;
        let (message, _) = asker.message(Some(&enrollment.challenge));
        let mut outcomes = std::collections::BTreeMap::new();
        for at in (0..message.len()).step_by(61) {
            let mut changed = message.clone();
            changed[at] ^= 0x10;
            *outcomes.entry(post(&server, changed).await.0).or_insert(0) += 1;
        }
        assert!(outcomes.keys().all(|status| [200, 400].contains(status)), "{outcomes:?}");
        assert!(outcomes[&400] > 10, "{outcomes:?}");
        for garbage in [Vec::new(), b"garbage".to_vec(), [0x30, 0x80].repeat(20_000), message[..message.len() / 2].to_vec()] {
            assert_eq!(post(&server, garbage).await.0, 400);
        }
        assert_eq!(post(&server, vec![0x30; 65 * 1024]).await.0, 413);
        let get = async |query: &str| server.client.get(format!("{}/mdm/scep{query}", server.url)).send().await.unwrap().status().as_u16();
        for query in ["", "?operation=", "?operation=GetNextCACert", "?operation=PKIOperation", "?operation=PKIOperation&message=%FF%FE"] {
            assert_eq!(get(query).await, 400, "{query}");
        }
        assert_eq!(get(&format!("?operation=PKIOperation&message={}", "A".repeat(60_000))).await, 400);
        good.enroll_by(&link(&server, json!({})).await, &[7; 32]).await.unwrap();
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_address_that_asks_without_end_is_told_to_wait_never_401_and_others_are_served_meanwhile() {
    let server = TestServer::with(|config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]).await;
    let asked = async |from: &str, operation: &str, message: Option<Vec<u8>>| {
        let url = format!("{}/mdm/scep?operation={operation}", server.url);
        let request = if let Some(message) = message { server.client.post(url).body(message) } else { server.client.get(url) };
        request.header("X-Forwarded-For", from).send().await.unwrap()
    };
    let mut statuses = std::collections::BTreeMap::new();
    for _ in 0..400 {
        let answer = asked("192.0.2.1", "GetCACaps", None).await;
        *statuses.entry(answer.status().as_u16()).or_insert(0) += 1;
        if answer.status() == 503 {
            assert_eq!(answer.headers()["retry-after"], "5");
            break;
        }
    }
    assert_eq!(statuses.keys().copied().collect::<Vec<u16>>(), [200, 503], "{statuses:?}");
    // Messages are counted with everything else, before they are read.
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let status = asked("192.0.2.1", "PKIOperation", Some(b"no message".to_vec())).await.status().as_u16();
        if !statuses.insert(status) && status == 503 {
            break;
        }
    }
    assert!(statuses.contains(&503) && statuses.iter().all(|status| [400, 503].contains(status)), "{statuses:?}");
    assert_eq!(asked("192.0.2.2", "GetCACaps", None).await.status(), 200);
    server.stop().await;
}
