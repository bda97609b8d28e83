//! The stand-in against a bare h2 client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Door, Fault, ProviderKey, PushCertificate, Scope, StandIn, Times};
use crate::clock::Clock;

const NOW_MS: i64 = 1_800_000_000_000;
const APP: &str = "org.example.agent";
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000001";
const BACKGROUND: &str = r#"{"aps":{"content-available":1}}"#;
const REFUSED_STREAM: u32 = 7;

/// A connection of a client, with what drives it.
struct Client {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// Status, body and headers; or the code of the reset or GOAWAY.
type Got = Result<(u16, String, HeaderMap), Option<u32>>;

async fn connect(stand_in: &StandIn, certificate: Option<&PushCertificate>) -> Result<Client, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(stand_in.ca().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(push) => {
            let chain = vec![CertificateDer::from_pem_slice(push.certificate.as_bytes()).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(push.key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = stand_in.endpoint().strip_prefix("https://").unwrap().to_owned();
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.map_err(|error| error.to_string())?;
    let (send, connection) = h2::client::Builder::new().initial_max_send_streams(1).handshake(stream).await.unwrap();
    Ok(Client { send, driver: tokio::spawn(connection) })
}

fn request(token: &str, topic: &str, kind: &str, authorization: Option<&str>) -> Request<()> {
    let mut request = Request::post(format!("https://localhost/3/device/{token}"))
        .header("apns-topic", topic)
        .header("apns-push-type", kind)
        .header("apns-priority", if kind == "mdm" { "10" } else { "5" })
        .header("apns-expiration", (NOW_MS / 1_000 + 600).to_string());
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.body(()).unwrap()
}

fn code(error: h2::Error) -> Option<u32> {
    error.reason().map(u32::from)
}

impl Client {
    /// Opens a stream without regard to the peer's limit beyond what h2 itself waits for.
    async fn open(&mut self, request: Request<()>, body: &'static str) -> Result<JoinHandle<Got>, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, false)?;
        stream.send_data(Bytes::from_static(body.as_bytes()), true)?;
        Ok(tokio::spawn(async move {
            let response = response.await.map_err(code)?;
            let (head, mut body) = response.into_parts();
            let mut text = Vec::new();
            while let Some(part) = body.data().await {
                let part = part.map_err(code)?;
                body.flow_control().release_capacity(part.len()).unwrap();
                text.extend_from_slice(&part);
            }
            Ok((head.status.as_u16(), String::from_utf8(text).unwrap(), head.headers))
        }))
    }

    async fn post(&mut self, request: Request<()>, body: &'static str) -> Got {
        let answer = self.open(request, body).await.map_err(code)?;
        tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap().unwrap()
    }

    async fn until_streams(&self, streams: usize) {
        for _ in 0..1_000 {
            if self.send.current_max_send_streams() == streams {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{} streams, not {streams}", self.send.current_max_send_streams());
    }
}

fn bearer(key: &ProviderKey, team: &str, iat_s: i64) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.typ = None;
    header.kid = Some(key.key_id.clone());
    let claims = serde_json::json!({"iss": team, "iat": iat_s});
    format!("bearer {}", encode(&header, &claims, &EncodingKey::from_ec_pem(key.p8.as_bytes()).unwrap()).unwrap())
}

struct Bench {
    clock: Clock,
    apns: StandIn,
    key: ProviderKey,
    client: Client,
    bearer: String,
}

impl Bench {
    async fn start() -> Bench {
        let clock = Clock::moved(NOW_MS, 3);
        let apns = StandIn::start(clock.clone()).await.unwrap();
        let key = apns.issue_key("KEY0000001", &[APP]).unwrap();
        let client = connect(&apns, None).await.unwrap();
        let bearer = bearer(&key, &key.team_id, NOW_MS / 1_000);
        Bench { clock, apns, key, client, bearer }
    }

    fn to(&self, token: &str) -> Request<()> {
        request(token, APP, "background", Some(&self.bearer))
    }

    async fn push(&mut self) -> Got {
        let token = self.apns.register(APP);
        let request = self.to(&token);
        self.client.post(request, BACKGROUND).await
    }

    /// Pushes and answers the status and the reason.
    async fn reason(&mut self, authorization: Option<&str>, topic: &str) -> (u16, String) {
        let token = self.apns.register(topic);
        let (status, body, _) = self.client.post(request(&token, topic, "background", authorization), BACKGROUND).await.unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        (status, body["reason"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn one_stream_until_the_first_200_then_a_thousand_and_one_again_after_a_rejection() {
    let mut bench = Bench::start().await;
    bench.client.until_streams(1).await;
    let (status, body, headers) = bench.push().await.unwrap();
    assert_eq!((status, body.as_str(), headers.contains_key("apns-id")), (200, "", true));
    bench.client.until_streams(1_000).await;
    bench.apns.faults().set(Scope::Send, Times::Next(1), Fault::unregistered(NOW_MS));
    assert_eq!(bench.push().await.unwrap().0, 410);
    assert_eq!(bench.client.send.current_max_send_streams(), 1_000, "410 is no rejection");
    bench.apns.faults().set(Scope::Send, Times::Next(1), Fault::reason(400, "BadDeviceToken"));
    assert_eq!(bench.push().await.unwrap().0, 400);
    bench.client.until_streams(1).await;
    assert_eq!(bench.push().await.unwrap().0, 200);
    bench.client.until_streams(1_000).await;
    assert_eq!(bench.apns.counts().accepted, 2);
}

#[tokio::test]
async fn a_rejection_refuses_the_streams_that_are_open_beside_it() {
    let mut bench = Bench::start().await;
    bench.push().await.unwrap();
    bench.client.until_streams(1_000).await;
    bench.apns.set_answer_delay_ms(300);
    bench.apns.faults().set(Scope::Send, Times::Next(1), Fault::reason(400, "BadDeviceToken"));
    let mut open = Vec::new();
    for _ in 0..20 {
        let request = bench.to(&bench.apns.register(APP));
        open.push(bench.client.open(request, BACKGROUND).await.unwrap());
    }
    let (mut refused, mut answered) = (0, Vec::new());
    for answer in open {
        match answer.await.unwrap() {
            Err(Some(REFUSED_STREAM)) => refused += 1,
            Ok((status, ..)) => answered.push(status),
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && answered.contains(&400), "{refused} {answered:?}");
    assert_eq!(bench.apns.counts().refused_streams, refused);
    // What was refused was not processed; each accepted push was.
    assert_eq!(bench.apns.counts().accepted as usize, 1 + answered.iter().filter(|status| **status == 200).count());
}

#[tokio::test]
async fn provider_tokens_are_checked_as_apple_does() {
    let mut bench = Bench::start().await;
    let (good, team, now_s) = (bench.bearer.clone(), bench.key.team_id.clone(), NOW_MS / 1_000);
    let reason = |text: &str| (403, text.to_owned());
    assert_eq!(bench.reason(None, APP).await, reason("MissingProviderToken"));
    assert_eq!(bench.reason(Some("bearer x.y.z"), APP).await, reason("InvalidProviderToken"));
    let other = bearer(&bench.key, "OTHERTEAM0", now_s);
    assert_eq!(bench.reason(Some(&other), APP).await, reason("InvalidProviderToken"));
    let stranger = StandIn::start(bench.clock.clone()).await.unwrap().issue_key(&bench.key.key_id, &[APP]).unwrap();
    assert_eq!(bench.reason(Some(&bearer(&stranger, &team, now_s)), APP).await, reason("InvalidProviderToken"));
    let old = bearer(&bench.key, &team, now_s - 3_601);
    assert_eq!(bench.reason(Some(&old), APP).await, reason("ExpiredProviderToken"));
    assert_eq!(bench.reason(Some(&good), APP).await.0, 200);
    assert_eq!(bench.reason(Some(&good), "org.example.other").await, (400, "TopicDisallowed".into()));
    // A new token within 20 minutes is one too many; the old one still goes, and another connection begins anew.
    bench.clock.advance(19 * 60_000);
    let fresh = bearer(&bench.key, &team, now_s + 19 * 60);
    assert_eq!(bench.reason(Some(&fresh), APP).await, (429, "TooManyProviderTokenUpdates".into()));
    assert_eq!(bench.reason(Some(&good), APP).await.0, 200);
    bench.clock.advance(60_000);
    assert_eq!(bench.reason(Some(&fresh), APP).await.0, 200);
    bench.apns.revoke_key(&bench.key.key_id);
    assert_eq!(bench.reason(Some(&fresh), APP).await, reason("InvalidProviderToken"));
}

#[tokio::test]
async fn one_push_waits_for_a_device_that_is_away_until_its_expiration() {
    let mut bench = Bench::start().await;
    let token = bench.apns.register(APP);
    for _ in 0..3 {
        assert_eq!(bench.client.post(bench.to(&token), BACKGROUND).await.unwrap().0, 200);
    }
    assert!(bench.apns.stored(&token));
    let mut arrivals = bench.apns.connect(&token);
    assert_eq!(arrivals.recv().await.unwrap().magic, None);
    assert!(arrivals.try_recv().is_err(), "three pushes are one");
    assert_eq!(bench.client.post(bench.to(&token), BACKGROUND).await.unwrap().0, 200);
    assert!(arrivals.recv().await.is_some());
    drop(arrivals);
    assert_eq!(bench.client.post(bench.to(&token), BACKGROUND).await.unwrap().0, 200);
    bench.clock.advance(600_000);
    assert!(bench.apns.connect(&token).try_recv().is_err(), "expired");
    assert!(bench.apns.unregister(&token));
    let (status, body, _) = bench.client.post(bench.to(&token), BACKGROUND).await.unwrap();
    assert_eq!((status, body), (410, format!(r#"{{"reason":"Unregistered","timestamp":{}}}"#, NOW_MS + 600_000)));
    let (status, body, _) = bench.client.post(bench.to("0badc0de"), BACKGROUND).await.unwrap();
    assert_eq!((status, body.as_str()), (400, r#"{"reason":"BadDeviceToken"}"#));
}

#[tokio::test]
async fn a_push_certificate_opens_the_connection_and_says_the_topic() {
    let bench = Bench::start().await;
    let certificate = bench.apns.issue_certificate(TOPIC).unwrap();
    let mut client = connect(&bench.apns, Some(&certificate)).await.unwrap();
    let token = bench.apns.register(TOPIC);
    let mut arrivals = bench.apns.connect(&token);
    bench.apns.capture(true);
    assert_eq!(client.post(request(&token, TOPIC, "mdm", None), r#"{"mdm":"magic"}"#).await.unwrap().0, 200);
    assert_eq!(client.send.current_max_send_streams(), 1_000);
    assert_eq!(arrivals.recv().await.unwrap().magic.as_deref(), Some("magic"));
    let captured = bench.apns.take_captured();
    assert_eq!((captured.len(), captured[0].certificate_topic.as_deref()), (1, Some(TOPIC)));
    assert_eq!((captured[0].body.as_ref(), captured[0].header("apns-push-type")), (br#"{"mdm":"magic"}"#.as_ref(), Some("mdm")));
    let app = bench.apns.register(APP);
    let (status, body, _) = client.post(request(&app, APP, "background", None), BACKGROUND).await.unwrap();
    assert_eq!((status, body.as_str()), (400, r#"{"reason":"TopicDisallowed"}"#));
    // Expired, and taken back: the handshake fails, which TLS 1.3 tells after the client has finished.
    let expired = bench.apns.issue_certificate_until(TOPIC, NOW_MS - 1_000).unwrap();
    bench.apns.revoke_certificates("com.apple.mgmt.External.gone");
    let gone = bench.apns.issue_certificate("com.apple.mgmt.External.gone").unwrap();
    for (bad, word) in [(&expired, "expired"), (&gone, "revoked")] {
        let told = match connect(&bench.apns, Some(bad)).await {
            Err(told) => told.to_lowercase(),
            Ok(client) => format!("{:?}", client.driver.await.unwrap()).to_lowercase(),
        };
        assert!(told.contains(word), "{told}");
    }
}

#[tokio::test]
async fn a_goaway_leaves_unprocessed_what_lies_above_its_last_stream() {
    let mut bench = Bench::start().await;
    bench.push().await.unwrap();
    bench.client.until_streams(1_000).await;
    bench.apns.set_answer_delay_ms(200);
    let token = bench.apns.register(APP);
    let first = bench.client.open(bench.to(&bench.apns.register(APP)), BACKGROUND).await.unwrap();
    let reason = Some("Shutdown");
    bench.apns.faults().set(Scope::Token(token.clone()), Times::Next(1), Fault::GoAway { processed: false, code: 0, reason });
    let second = bench.client.open(bench.to(&token), BACKGROUND).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().0, 200, "what lies below is finished");
    assert!(second.await.unwrap().is_err());
    let ended = bench.client.driver.await.unwrap();
    assert!(ended.is_ok() || ended.unwrap_err().is_go_away());
    assert_eq!(bench.apns.counts().accepted, 2);
}

#[tokio::test]
async fn broken_answers_and_connections_come_on_demand() {
    let mut bench = Bench::start().await;
    for (fault, expected) in [
        (Fault::empty(500), Ok((500, 0))),
        (Fault::truncated(500), Ok((500, 18))),
        (Fault::huge(500), Ok((500, 1_048_576))),
        (Fault::html(502), Ok((502, 67))),
        (Fault::Slow(20), Ok((200, 0))),
        (Fault::ResetStream(REFUSED_STREAM), Err(Some(REFUSED_STREAM))),
        (Fault::ResetAfterHeaders(200), Err(Some(2))),
    ] {
        bench.apns.faults().set(Scope::Send, Times::Next(1), fault);
        let got = bench.push().await.map(|(status, body, _)| (status, body.len()));
        assert_eq!(got, expected);
    }
    bench.apns.faults().set(Scope::Send, Times::Next(1), Fault::too_many_requests(Some("30")));
    assert_eq!(bench.push().await.unwrap().2["retry-after"], "30");
    for fault in [Fault::Close, Fault::Reset] {
        bench.apns.faults().set(Scope::Topic(APP.into()), Times::Next(1), fault);
        assert_eq!(bench.push().await.unwrap_err(), None);
        bench.client = connect(&bench.apns, None).await.unwrap();
    }
    // No byte of a body gets through any more, until the connection ends.
    bench.apns.faults().set(Scope::Send, Times::Next(1), Fault::Stall);
    assert_eq!(bench.push().await.unwrap().0, 200);
    let token = bench.apns.register(APP);
    let stalled = bench.client.open(bench.to(&token), BACKGROUND).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), stalled).await.is_err());
    assert!(!bench.apns.stored(&token));
}

#[tokio::test]
async fn the_door_can_be_silent_a_strangers_or_shut() {
    let bench = Bench::start().await;
    bench.apns.set_door(Door::Silent);
    assert!(tokio::time::timeout(Duration::from_millis(100), connect(&bench.apns, None)).await.is_err());
    bench.apns.set_door(Door::Stranger);
    assert!(connect(&bench.apns, None).await.is_err_and(|error| error.contains("certificate")));
    bench.apns.set_door(Door::Open);
    bench.apns.refuse_connections();
    assert!(bench.client.driver.await.unwrap().is_err());
    assert!(connect(&bench.apns, None).await.is_err());
    bench.apns.accept_connections().await.unwrap();
    assert!(connect(&bench.apns, None).await.is_ok());
}
