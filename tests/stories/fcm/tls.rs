//! HTTP/2 over TLS, as with Google: connections that age, end and hang.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster::clock::Clock;
use muster::push::fcm::Settings;
use muster::push::{Answer, Nudge, Sender};
use muster::sim::fcm::{Fault, Scope, StandIn, Times};

use crate::support::push::{Fcm, START_MS};

/// A stand-in behind TLS with a certificate of its own, and the file in which a sender finds it.
struct Tls {
    fcm: Fcm,
    folder: tempfile::TempDir,
}

fn certificate(folder: &tempfile::TempDir, name: &str) -> (PathBuf, rcgen::CertifiedKey<rcgen::KeyPair>) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, certified.cert.pem()).unwrap();
    (file, certified)
}

impl Tls {
    async fn start(timeout: Duration) -> Tls {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (ca_file, certified) = certificate(&folder, "ca.pem");
        let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder().with_no_client_auth();
        let mut tls = builder.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let clock = Clock::moved(START_MS, 1);
        let stand_in = StandIn::start_on("127.0.0.1:0".parse().unwrap(), clock.clone(), Some(Arc::new(tls))).await.unwrap();
        let settings = Settings { endpoint: stand_in.endpoint(), ca_file: Some(ca_file), ..Settings::default() };
        let sender = Sender::fcm_within(settings, timeout, clock.clone()).unwrap();
        sender.replace_credential(&stand_in.service_account()).unwrap();
        Tls { fcm: Fcm { clock, stand_in, sender: Arc::new(sender) }, folder }
    }

    fn connections(&self) -> u64 {
        self.fcm.stand_in.counts().connections
    }
}

#[tokio::test]
async fn one_http2_connection_serves_the_token_and_the_nudges() {
    let tls = Tls::start(Duration::from_secs(20)).await;
    tls.fcm.stand_in.capture(true);
    for _ in 0..3 {
        assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    }
    let captured = tls.fcm.stand_in.take_captured();
    assert!(captured.len() == 4 && captured.iter().all(|request| request.http2), "{captured:?}");
    assert!(captured.iter().all(|request| request.headers.iter().any(|(name, _)| name == "content-length")));
    assert_eq!(tls.connections(), 1);
}

#[tokio::test]
async fn a_stranger_certificate_gets_no_nudge() {
    let tls = Tls::start(Duration::from_secs(20)).await;
    let (other_file, _) = certificate(&tls.folder, "other.pem");
    let settings = Settings { endpoint: tls.fcm.stand_in.endpoint(), ca_file: Some(other_file), ..Settings::default() };
    let sender = Sender::fcm(settings, tls.fcm.clock.clone()).unwrap();
    sender.replace_credential(&tls.fcm.stand_in.service_account()).unwrap();
    let answer = sender.send(&tls.fcm.device()).await.answer;
    assert!(matches!(&answer, Answer::GivenBack { reason, .. } if reason == "oauth_connection"), "{answer:?}");
    assert_eq!(tls.fcm.stand_in.counts().requests, 0);
}

#[tokio::test]
async fn no_connection_grows_older_than_55_minutes() {
    let tls = Tls::start(Duration::from_secs(20)).await;
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    tls.fcm.clock.advance(49 * 60_000);
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    assert_eq!(tls.connections(), 1);
    tls.fcm.clock.advance(6 * 60_000);
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    assert_eq!(tls.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goaway_in_the_middle_of_a_burst_loses_no_nudge() {
    let tls = Tls::start(Duration::from_secs(20)).await;
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    for _ in 0..5 {
        tls.fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::GoAway);
        let nudges: Vec<Nudge> = (0..20).map(|_| tls.fcm.device()).collect();
        for answer in tls.fcm.send_all(nudges).await {
            assert_eq!(answer, Answer::Accepted);
        }
    }
    assert!(tls.connections() >= 3, "{}", tls.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_words_of_a_goaway_are_another_connection_takes_over_and_no_nudge_is_lost() {
    for dismissal in [Fault::too_many_pings, Fault::session_timed_out] {
        let tls = Tls::start(Duration::from_secs(20)).await;
        assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
        // While the connection has nothing else to do, and in the middle of a burst.
        for nudges in [1, 20] {
            let before = tls.connections();
            tls.fcm.stand_in.faults().set(Scope::Send, Times::Next(1), dismissal());
            let nudges: Vec<Nudge> = (0..nudges).map(|_| tls.fcm.device()).collect();
            for answer in tls.fcm.send_all(nudges).await {
                assert_eq!(answer, Answer::Accepted, "{:?}", dismissal());
            }
            assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
            assert!(tls.connections() > before, "{:?}", dismissal());
        }
        // The provider is well and the credential is good: nothing is paused, and nobody is told.
        assert_eq!(tls.fcm.sender.status().state, muster::push::SenderState::Ok);
        assert_eq!(tls.fcm.sender.take_notices(), []);
    }
}

#[tokio::test]
async fn a_connection_that_went_dead_is_replaced_after_a_timeout() {
    let tls = Tls::start(Duration::from_secs(1)).await;
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    tls.fcm.clock.advance(10_000);
    tls.fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::Hang);
    assert!(matches!(tls.fcm.send(&tls.fcm.device()).await, Answer::Failed { reason, .. } if reason == "timeout"));
    assert_eq!(tls.connections(), 1);
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    assert_eq!(tls.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_costs_its_own_nudge_at_most_and_a_refused_one_not_even_that() {
    let tls = Tls::start(Duration::from_secs(20)).await;
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    // REFUSED_STREAM says that nobody has looked at it: it goes again at once.
    tls.fcm.stand_in.faults().set(Scope::Send, Times::Next(1), Fault::ResetStream(7));
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    // INTERNAL_ERROR, twice, since the first is tried over.
    let broken = tls.fcm.device();
    tls.fcm.stand_in.faults().set(Scope::Address(broken.address.value.clone()), Times::Next(2), Fault::ResetStream(2));
    let mut nudges: Vec<Nudge> = (0..20).map(|_| tls.fcm.device()).collect();
    nudges.push(broken);
    let mut answers = tls.fcm.send_all(nudges).await;
    assert!(matches!(answers.pop(), Some(Answer::Failed { reason, .. }) if reason == "connection_lost"));
    assert!(answers.iter().all(|answer| *answer == Answer::Accepted), "{answers:?}");
    assert_eq!(tls.connections(), 1, "the others went on the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_stalls_is_left_for_another_connection_and_blames_no_token() {
    let tls = Tls::start(Duration::from_secs(4)).await;
    // The access token comes over a connection with windows: only the nudges' own has none.
    assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    tls.fcm.stand_in.stall_new_connections(true);
    tls.fcm.stand_in.refuse_connections();
    tls.fcm.stand_in.accept_connections().await.unwrap();
    let mut answer = tls.fcm.send(&tls.fcm.device()).await;
    // The former connection may take a moment to end.
    for _ in 0..100 {
        if answer == Answer::Accepted {
            answer = tls.fcm.send(&tls.fcm.device()).await;
        }
    }
    assert!(matches!(&answer, Answer::Failed { reason, .. } if reason == "timeout"), "{answer:?}");
    tls.fcm.stand_in.stall_new_connections(false);
    tls.fcm.clock.advance(10_000);
    assert!(matches!(tls.fcm.send(&tls.fcm.device()).await, Answer::Failed { .. }), "the last one on it, after which it is given up");
    for _ in 0..5 {
        assert_eq!(tls.fcm.send(&tls.fcm.device()).await, Answer::Accepted);
    }
    assert_eq!(tls.fcm.sender.take_notices(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_connections_and_never_shakes_hands_gives_nudges_back_and_shuts_the_sender_for_a_while() {
    let tls = Tls::start(Duration::from_secs(20)).await;
    // Connections are taken by the kernel and lie there.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    let settings = Settings { endpoint, ca_file: Some(tls.folder.path().join("ca.pem")), ..Settings::default() };
    let sender = Sender::fcm_within(settings, Duration::from_secs(2), tls.fcm.clock.clone()).unwrap();
    let mut account: serde_json::Value = serde_json::from_slice(&tls.fcm.stand_in.service_account()).unwrap();
    account["token_uri"] = serde_json::json!(format!("{}/token", tls.fcm.stand_in.endpoint()));
    sender.replace_credential(account.to_string().as_bytes()).unwrap();
    let sends: Vec<_> = (0..40).map(|_| tls.fcm.device()).collect();
    let answers = futures_util::future::join_all(sends.iter().map(|nudge| sender.send(nudge))).await;
    for trip in &answers {
        assert!(
            matches!(&trip.answer, Answer::GivenBack { reason, .. } if ["connect", "breaker_open"].contains(&reason.as_str())),
            "{trip:?}"
        );
    }
    assert_eq!((sender.status().state, sender.capacity()), (muster::push::SenderState::Paused, 0));
}
