//! The bytes that leave.

use muster::clock::Clock;
use muster::push::fcm::Settings;
use muster::push::{Address, AddressKind, Answer, Nudge, Sender, Trip};
use muster::sim::fcm::StandIn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::push::{Fcm, START_MS, nudge_to};

/// Takes one HTTP/1.1 request with a Content-Length off the wire, answers 200 and returns its bytes.
async fn take_one(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let read = stream.read_buf(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|value| value.parse::<usize>().unwrap());
            length == Some(body.len())
        });
        if whole {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            return text;
        }
        assert!(read > 0, "ended early: {text}");
    }
}

#[tokio::test]
async fn nothing_but_sync_is_on_the_wire() {
    let clock = Clock::moved(START_MS, 1);
    let stand_in = StandIn::start(clock.clone()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let settings = Settings { endpoint: format!("http://{addr}/"), ..Settings::default() };
    let sender = Sender::fcm(settings, clock).unwrap();
    sender.replace_credential(&stand_in.service_account()).unwrap();
    let nudge = nudge_to("abc:def");
    let (text, trip) = tokio::join!(take_one(listener), sender.send(&nudge));
    assert_eq!(trip, Trip { answer: Answer::Accepted, left_ms: Some(START_MS) });

    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        body,
        r#"{"message":{"token":"abc:def","data":{"k":"sync"},"android":{"priority":"HIGH","ttl":"604800s","collapse_key":"sync","direct_boot_ok":true,"restricted_package_name":"org.example.agent"}}}"#
    );
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /v1/projects/muster-demo/messages:send HTTP/1.1");
    lines.sort_unstable();
    assert!(lines[1].starts_with("authorization: Bearer ya29."), "{lines:?}");
    lines.remove(1);
    let (length, host) = (format!("content-length: {}", body.len()), format!("host: {addr}"));
    assert_eq!(lines, ["accept: */*", &length, "content-type: application/json", &host]);
    assert!(!text.contains(&nudge.channel_id.to_string()));
}

#[tokio::test]
async fn a_nudge_reaches_a_connected_phone() {
    let fcm = Fcm::start().await;
    let nudge = fcm.device();
    let mut phone = fcm.stand_in.connect(&nudge.address.value);
    assert_eq!(fcm.send(&nudge).await, Answer::Accepted);
    let push = phone.recv().await.unwrap();
    assert_eq!(push.data.into_iter().collect::<Vec<_>>(), [("k".to_owned(), "sync".to_owned())]);
    assert!(push.high);
}

#[tokio::test]
async fn an_installation_id_and_an_ios_app_are_reached_too() {
    let fcm = Fcm::start().await;
    fcm.stand_in.capture(true);
    fcm.stand_in.register_as("cSVUDAwGT0uQ2gzUEXAMPL", muster::sim::fcm::PROJECT, None);
    let address = Address { kind: AddressKind::Fid, value: "cSVUDAwGT0uQ2gzUEXAMPL".into() };
    let nudge = Nudge { address, high: false, ..nudge_to("") };
    assert_eq!(fcm.send(&nudge).await, Answer::Accepted);
    let ios = Nudge { ios: true, ..fcm.device() };
    assert_eq!(fcm.send(&ios).await, Answer::Accepted);
    let bodies: Vec<serde_json::Value> =
        fcm.stand_in.take_captured().iter().filter_map(|request| serde_json::from_slice(&request.body).ok()).collect();
    assert_eq!(bodies[0]["message"]["fid"], "cSVUDAwGT0uQ2gzUEXAMPL");
    assert_eq!(bodies[0]["message"]["android"]["priority"], "NORMAL");
    assert_eq!(bodies[1]["message"]["apns"]["headers"]["apns-priority"], "5");
    assert_eq!(bodies[1]["message"]["data"], serde_json::json!({"k": "sync"}));
}

#[test]
fn plain_http_is_for_loopback_only() {
    let clock = Clock::moved(START_MS, 1);
    for (endpoint, fine) in [
        ("http://127.0.0.1:9", true),
        ("http://localhost:9", true),
        ("http://[::1]:9", true),
        ("http://192.0.2.1", false),
        ("http://localhost.example.org", false),
        ("ftp://localhost", false),
        ("nonsense", false),
    ] {
        let settings = Settings { endpoint: endpoint.into(), ..Settings::default() };
        assert_eq!(Sender::fcm(settings, clock.clone()).is_ok(), fine, "{endpoint}");
    }
}
