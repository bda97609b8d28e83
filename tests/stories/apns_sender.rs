//! The APNs sender against the stand-in: what goes over the wire, what becomes of each answer, and how streams and credentials are used.

mod faults;

use std::sync::Arc;
use std::time::Duration;

use muster::clock::Clock;
use muster::push::apns::Settings;
use muster::push::{Address, AddressKind, Answer, Notice, Nudge, Sender, SenderState};
use muster::sim::apns::{Captured, Fault, Scope, StandIn, TEAM, Times};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::support::push::{START_MS, nudge_to};

const TOPIC: &str = "com.apple.mgmt.External.6f4f1b0e-1111-4222-8333-444455556666";
const OTHER_TOPIC: &str = "com.apple.mgmt.External.0a0a0a0a-1111-4222-8333-444455556666";
const BUNDLE: &str = "org.example.agent";
const MAGIC: &str = "magic \"with\", quotes";
const HOUR_MS: i64 = 3_600_000;

/// A stand-in with a sender that uses it, both on one clock that the test moves.
struct Apns {
    clock: Clock,
    stand_in: StandIn,
    sender: Arc<Sender>,
    topic: &'static str,
    _ca: NamedTempFile,
}

impl Apns {
    async fn mdm() -> Apns {
        Apns::start(TOPIC, Duration::from_secs(20)).await
    }

    async fn app() -> Apns {
        Apns::start(BUNDLE, Duration::from_secs(20)).await
    }

    async fn start(topic: &'static str, timeout: Duration) -> Apns {
        let clock = Clock::moved(START_MS, 7);
        let stand_in = StandIn::start(clock.clone()).await.unwrap();
        let ca = NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), stand_in.ca()).unwrap();
        let settings = Settings { endpoint: stand_in.endpoint(), ca_file: Some(ca.path().to_owned()) };
        let (sender, credential) = if topic == BUNDLE {
            (Sender::apns_app_within(&settings, timeout, clock.clone()).unwrap(), app_json(&stand_in))
        } else {
            (Sender::apns_mdm_within(&settings, topic, timeout, clock.clone()).unwrap(), mdm_json(&stand_in, topic))
        };
        sender.replace_credential(&credential).unwrap();
        Apns { clock, stand_in, sender: Arc::new(sender), topic, _ca: ca }
    }

    fn device(&self) -> Nudge {
        self.nudge(&self.stand_in.register(self.topic))
    }

    fn nudge(&self, token: &str) -> Nudge {
        let kind = if self.topic == BUNDLE { AddressKind::Token } else { AddressKind::Mdm { magic: MAGIC.into() } };
        Nudge { address: Address { kind, value: token.into() }, ios: true, ..nudge_to("") }
    }

    async fn send(&self, nudge: &Nudge) -> Answer {
        tokio::time::timeout(Duration::from_secs(60), self.sender.send(nudge)).await.unwrap().answer
    }

    /// Sends `count` nudges to as many devices at once and returns the answers.
    async fn send_many(&self, count: usize) -> Vec<Answer> {
        let sends: Vec<_> = (0..count)
            .map(|_| {
                let (sender, nudge) = (self.sender.clone(), self.device());
                tokio::spawn(async move {
                    loop {
                        match sender.send(&nudge).await.answer {
                            // A slow machine: what found no free stream in time goes again, as a server would let it.
                            Answer::GivenBack { reason, .. } if reason == "no_stream" => {}
                            answer => return answer,
                        }
                    }
                })
            })
            .collect();
        let mut answers = Vec::new();
        for send in sends {
            answers.push(tokio::time::timeout(Duration::from_secs(60), send).await.unwrap().unwrap());
        }
        answers
    }

    /// Sends one nudge while APNs answers with `fault`.
    async fn answer_to(&self, fault: Fault) -> Answer {
        self.stand_in.faults().set(Scope::Send, Times::Next(1), fault);
        self.send(&self.device()).await
    }

    async fn captured(&self) -> Captured {
        self.stand_in.capture(true);
        assert_eq!(self.send(&self.device()).await, Answer::Accepted);
        self.stand_in.take_captured().pop().unwrap()
    }
}

fn mdm_json(stand_in: &StandIn, topic: &str) -> Vec<u8> {
    let identity = stand_in.issue_certificate(topic).unwrap();
    json!({"certificate": identity.certificate, "key": identity.key}).to_string().into_bytes()
}

fn app_json(stand_in: &StandIn) -> Vec<u8> {
    let key = stand_in.issue_key("ABCDEFGHIJ", &[BUNDLE]).unwrap();
    json!({"key": key.p8, "key_id": key.key_id, "team_id": TEAM, "topic": BUNDLE}).to_string().into_bytes()
}

fn all_accepted(answers: &[Answer]) -> bool {
    answers.iter().all(|answer| *answer == Answer::Accepted)
}

#[tokio::test]
async fn an_mdm_push_is_the_magic_and_nothing_else() {
    let apns = Apns::mdm().await;
    let push = apns.captured().await;
    assert_eq!(push.method, "POST");
    assert!(push.path.starts_with("/3/device/") && push.path.len() == 10 + 64, "{}", push.path);
    assert_eq!(push.body, r#"{"mdm":"magic \"with\", quotes"}"#);
    assert_eq!(push.certificate_topic.as_deref(), Some(TOPIC));
    assert_eq!(push.header("apns-topic"), Some(TOPIC));
    assert_eq!(push.header("apns-push-type"), Some("mdm"));
    assert_eq!(push.header("apns-priority"), Some("10"));
    assert_eq!(push.header("apns-expiration"), Some("1800604800"));
    assert_eq!(push.header("authorization"), None);
    let id = push.header("apns-id").unwrap();
    assert!(id.len() == 36 && id.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c)), "{id}");
    assert_eq!(apns.sender.name(), format!("apns_mdm/{TOPIC}"));
    assert_eq!(apns.sender.status().topic.as_deref(), Some(TOPIC));
}

#[tokio::test]
async fn a_background_push_carries_a_provider_token_and_no_content() {
    let apns = Apns::app().await;
    let push = apns.captured().await;
    assert_eq!(push.body, r#"{"aps":{"content-available":1}}"#);
    assert_eq!(push.header("apns-topic"), Some(BUNDLE));
    assert_eq!(push.header("apns-push-type"), Some("background"));
    assert_eq!(push.header("apns-priority"), Some("5"));
    let token = push.header("authorization").unwrap().strip_prefix("bearer ").unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let text = |part: &str| String::from_utf8(base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, part).unwrap()).unwrap();
    assert_eq!(text(parts[0]), r#"{"alg":"ES256","kid":"ABCDEFGHIJ"}"#);
    assert_eq!(text(parts[1]), format!(r#"{{"iat":{},"iss":"{TEAM}"}}"#, START_MS / 1_000));
}

#[tokio::test]
async fn streams_grow_from_one_and_none_is_refused_before_a_push_fails() {
    for apns in [Apns::mdm().await, Apns::app().await] {
        assert!(all_accepted(&apns.send_many(300).await));
        assert_eq!(apns.stand_in.counts().accepted, 300);
        assert_eq!(apns.stand_in.counts().refused_streams, 0, "{}", apns.topic);
        assert!(apns.stand_in.counts().connections <= 8);
    }
}

#[tokio::test]
async fn streams_that_were_refused_are_sent_again_and_nothing_is_lost() {
    let apns = Apns::app().await;
    assert!(all_accepted(&apns.send_many(150).await));
    // After a rejection the peer takes one stream and refuses the others.
    apns.stand_in.set_answer_delay_ms(5);
    apns.stand_in.faults().set(Scope::Send, Times::Next(3), Fault::reason(400, "BadDeviceToken"));
    let answers = apns.send_many(150).await;
    let suspects = answers.iter().filter(|answer| matches!(answer, Answer::Suspect { .. })).count();
    assert_eq!(suspects, 3);
    let others = answers.iter().filter(|answer| !matches!(answer, Answer::Suspect { .. }));
    assert!(others.clone().all(|answer| *answer == Answer::Accepted), "{:?}", others.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_connection_that_says_goodbye_is_replaced_and_nothing_is_lost() {
    let apns = Apns::mdm().await;
    assert!(all_accepted(&apns.send_many(200).await));
    let before = apns.stand_in.counts().connections;
    apns.stand_in.set_answer_delay_ms(5);
    apns.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::go_away());
    assert!(all_accepted(&apns.send_many(150).await));
    assert!(apns.stand_in.counts().connections > before);
    apns.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::GoAway { processed: false, code: 0, reason: None });
    assert!(all_accepted(&apns.send_many(150).await));
}

#[tokio::test]
async fn each_answer_has_its_class() {
    let failed = |reason: &str, wait_ms| Answer::Failed { reason: reason.into(), retry_after_ms: Some(wait_ms) };
    for (fault, expected) in [
        (Fault::reason(400, "BadDeviceToken"), Answer::Suspect { reason: "BadDeviceToken".into() }),
        (Fault::reason(400, "DeviceTokenNotForTopic"), Answer::Suspect { reason: "DeviceTokenNotForTopic".into() }),
        (Fault::unregistered(START_MS + 1), Answer::Dead { reason: "Unregistered".into() }),
        (Fault::unregistered(START_MS / 1_000), Answer::Dead { reason: "Unregistered".into() }),
        (Fault::unregistered(START_MS - 1), failed("Unregistered", 60_000)),
        (Fault::reason(410, "ExpiredToken"), Answer::Dead { reason: "ExpiredToken".into() }),
        (Fault::too_many_requests(None), failed("TooManyRequests", 60_000)),
        (Fault::too_many_requests(Some("300")), failed("TooManyRequests", 300_000)),
        (Fault::reason(500, "InternalServerError"), failed("InternalServerError", 30_000)),
        (Fault::unavailable(None), failed("ServiceUnavailable", 10_000)),
        (Fault::unavailable(Some("120")), failed("ServiceUnavailable", 120_000)),
        (Fault::html(502), failed("HTTP_5XX", 30_000)),
        (Fault::reason(507, "SomethingNew"), failed("HTTP_5XX", 30_000)),
        (Fault::empty(500), failed("HTTP_5XX", 30_000)),
        (Fault::huge(500), failed("HTTP_5XX", 30_000)),
        (Fault::truncated(410), Answer::Suspect { reason: "HTTP_410".into() }),
    ] {
        let apns = Apns::mdm().await;
        assert_eq!(apns.answer_to(fault.clone()).await, expected, "{fault:?}");
    }
}

#[tokio::test]
async fn a_request_that_apns_calls_wrong_is_told_and_no_token_suffers() {
    for reason in ["BadPriority", "PayloadTooLarge", "MissingTopic", "SomethingNew"] {
        let apns = Apns::mdm().await;
        let answer = apns.answer_to(Fault::reason(400, reason)).await;
        assert!(matches!(answer, Answer::GivenBack { .. }), "{answer:?}");
        assert!(matches!(&apns.sender.take_notices()[..], [Notice::Bug { detail }] if detail.contains(reason)));
        assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
    }
}

#[tokio::test]
async fn a_refused_credential_stops_the_sender_until_another_one_comes() {
    for reason in ["BadCertificate", "Forbidden", "BadCertificateEnvironment"] {
        let apns = Apns::mdm().await;
        assert!(matches!(apns.answer_to(Fault::reason(403, reason)).await, Answer::GivenBack { .. }));
        assert_eq!(apns.sender.status().state, SenderState::Fault);
        assert_eq!(apns.sender.capacity(), 0);
        assert!(matches!(&apns.sender.take_notices()[..], [Notice::Fault { code, .. }] if code == reason));
        apns.sender.replace_credential(&mdm_json(&apns.stand_in, TOPIC)).unwrap();
        assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
    }
}

#[tokio::test]
async fn a_certificate_that_the_handshake_refuses_is_a_fault_of_the_credential() {
    let apns = Apns::mdm().await;
    apns.stand_in.revoke_certificates(TOPIC);
    assert!(matches!(apns.send(&apns.device()).await, Answer::GivenBack { .. }));
    assert_eq!(apns.sender.status().state, SenderState::Fault, "{:?}", apns.sender.status());
    assert!(matches!(&apns.sender.take_notices()[..], [Notice::Fault { code, .. }] if code == "tls_alert"));
}

#[tokio::test]
async fn a_thousand_pushes_that_find_the_token_expired_mint_one() {
    let apns = Apns::app().await;
    // More than a sender would claim: a slow machine gives some of them back.
    assert!(apns.send_many(1_000).await.iter().all(|answer| matches!(answer, Answer::Accepted | Answer::GivenBack { .. })));
    assert!(apns.stand_in.counts().accepted > 0);
    // Older than 20 minutes, younger than the 50 after which it would be renewed anyway.
    apns.clock.advance(HOUR_MS / 2);
    apns.stand_in.capture(true);
    apns.stand_in.faults().set(Scope::Send, Times::Next(1_000), Fault::reason(403, "ExpiredProviderToken"));
    let answers = apns.send_many(1_000).await;
    let tokens: std::collections::HashSet<String> =
        apns.stand_in.take_captured().iter().filter_map(|push| push.header("authorization").map(str::to_owned)).collect();
    assert!(tokens.len() <= 2, "{} tokens", tokens.len());
    // A fault that outlives the new token is a fault of the credential; until then every push is given back or accepted.
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Accepted | Answer::GivenBack { .. })));
}

#[tokio::test]
async fn an_expired_token_is_minted_anew_and_a_young_one_is_a_wrong_clock() {
    let apns = Apns::app().await;
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
    apns.clock.advance(HOUR_MS / 2);
    assert_eq!(apns.answer_to(Fault::reason(403, "ExpiredProviderToken")).await, Answer::Accepted);
    assert!(matches!(apns.answer_to(Fault::reason(403, "ExpiredProviderToken")).await, Answer::GivenBack { .. }));
    assert_eq!(apns.sender.status().state, SenderState::Fault);
}

#[tokio::test]
async fn another_certificate_is_used_under_load_without_losing_a_push() {
    let apns = Apns::mdm().await;
    apns.stand_in.set_answer_delay_ms(3);
    let many = apns.send_many(300);
    let swap = async {
        tokio::task::yield_now().await;
        apns.sender.replace_credential(&mdm_json(&apns.stand_in, TOPIC)).unwrap();
    };
    let (answers, ()) = tokio::join!(many, swap);
    assert!(all_accepted(&answers));
    assert!(apns.sender.replace_credential(&mdm_json(&apns.stand_in, OTHER_TOPIC)).is_err(), "another topic has another sender");
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_left_for_another_connection() {
    let apns = Apns::start(TOPIC, Duration::from_millis(300)).await;
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
    apns.stand_in.set_answer_delay_ms(5_000);
    assert_eq!(apns.send(&apns.device()).await, Answer::Failed { reason: "timeout".into(), retry_after_ms: Some(10_000) });
    apns.stand_in.set_answer_delay_ms(0);
    assert_eq!(apns.send(&apns.device()).await, Answer::Accepted);
}

#[tokio::test]
async fn refused_connections_give_nudges_back_and_no_device_pays() {
    let apns = Apns::mdm().await;
    apns.stand_in.refuse_connections();
    assert!(matches!(apns.send(&apns.device()).await, Answer::GivenBack { .. }));
    apns.stand_in.accept_connections().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while apns.send(&apns.device()).await != Answer::Accepted {
        assert!(tokio::time::Instant::now() < deadline, "it never came back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
