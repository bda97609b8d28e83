//! Bad input on `/mdm` is refused with 400, 403 or 413, never with 401, and harms nothing else.

use base64::Engine;
use plist::{Dictionary, Value as Plist};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::commands::{each, task};
use crate::support::apple::{AppleDevice, CERT_HEADER, Told, bytes, texts};
use crate::support::process::Process;
use crate::support::server::TestServer;

const CHECKIN: &str = "application/x-apple-aspen-mdm-checkin";

/// Property lists as another implementation writes them, XML and binary (see fixtures/make.py).
const FIXTURES: &[(&str, &[u8])] = &[
    ("authenticate", include_bytes!("fixtures/authenticate.plist")),
    ("authenticate, binary", include_bytes!("fixtures/authenticate.bplist")),
];

async fn sent(server: &TestServer, phone: &AppleDevice, kind: &str, body: impl Into<Vec<u8>>) -> Told {
    phone.send(server, "checkin", kind, body.into()).await
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_400_and_the_server_lives() {
    each(async |server| {
        let phone = AppleDevice::named("A");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let lock = task(&server, "lock", json!({}), &id).await;
        let nested = |levels: usize| format!("<plist><dict><key>UDID</key><string>{}</string><key>Status</key><string>Idle</string><key>a</key>{}", phone.udid, "<array>".repeat(levels));
        let wide = format!("<plist><dict><key>a</key><array>{}</array></dict></plist>", "<array/>".repeat(400_000));
        let entities = "<!DOCTYPE plist [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><plist><dict><key>UDID</key><string>&b;</string></dict></plist>";
        let twice = format!("<plist><dict><key>UDID</key><string>{}</string><key>UDID</key><string>x</string><key>Status</key><string>Idle</string></dict></plist>", phone.udid);
        let typed = "<plist><dict><key>UDID</key><integer>5</integer><key>Status</key><string>Idle</string></dict></plist>";
        let no_status = format!("<plist><dict><key>UDID</key><string>{}</string></dict></plist>", phone.udid);
        let strange = bytes(texts(&[("MessageType", "Strange"), ("UDID", &phone.udid)]));
        let nobody = bytes(texts(&[("Status", "Idle")]));
        let says = |pairs: &[(&str, &str)]| {
            let mut message = texts(pairs);
            message.insert("UDID".into(), Plist::String(phone.udid.clone()));
            bytes(message)
        };
        let bodies: Vec<Vec<u8>> = vec![
            says(&[("Status", "Acknowledged")]),
            says(&[("Status", "NotNow")]),
            says(&[("Status", "Done"), ("CommandUUID", &lock)]),
            says(&[("MessageType", "Authenticate")]),
            says(&[("MessageType", "Authenticate"), ("Topic", "t"), ("UserID", "11111111-1111-1111-1111-111111111111")]),
            says(&[("MessageType", "TokenUpdate"), ("Topic", "t"), ("PushMagic", "without a token")]),
            Vec::new(),
            b"{}".to_vec(),
            nested(100_000).into_bytes(),
            wide.into_bytes(),
            entities.into(),
            twice.into_bytes(),
            typed.into(),
            no_status.into_bytes(),
            strange,
            nobody,
            b"bplist00".to_vec(),
        ];
        for (n, body) in bodies.into_iter().enumerate() {
            for (path, kind) in [("connect", "application/x-apple-aspen-mdm; charset=UTF-8"), ("checkin", CHECKIN), ("connect", "")] {
                let told = phone.send(&server, path, kind, body.clone()).await;
                let too_long = kind == CHECKIN && body.len() > 1024 * 1024;
                assert_eq!(told.status, if too_long { 413 } else { 400 }, "{n} on {path}: {}", String::from_utf8_lossy(&told.body));
            }
        }
        assert_eq!(phone.idle(&server).await.request().0, lock, "nothing has happened to the real one");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn each_path_takes_both_kinds_of_messages_in_both_forms_by_both_methods() {
    each(async |server| {
        for (name, body) in FIXTURES {
            for (path, kind) in [("checkin", CHECKIN), ("connect", CHECKIN), ("connect", "text/xml"), ("checkin", "")] {
                let phone = AppleDevice::named("fixture");
                let told = phone.send(&server, path, kind, body.to_vec()).await;
                assert_eq!(told.status, 200, "{name} on {path}: {}", String::from_utf8_lossy(&told.body));
                assert_eq!(told.headers["content-length"], "0");
            }
        }
        let device = server.get("/devices/00008030-001A2B3C4D5E6F70").await;
        assert_eq!((&device["serial"], &device["os_version"]), (&json!("C02FIXTURE01"), &json!("18.1")));
        let phone = AppleDevice { udid: "00008030-001A2B3C4D5E6F70".into(), ..AppleDevice::named("fixture") };
        phone.token_update(&server, Dictionary::new()).await.expect(200);
        let mut binary = Vec::new();
        Plist::Dictionary(texts(&[("Status", "Idle"), ("UDID", &phone.udid)])).to_writer_binary(&mut binary).unwrap();
        let request = server.client.post(format!("{}/mdm/checkin", server.url)).header(CERT_HEADER, phone.header()).body(binary);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.unwrap().contains("DeviceInformation"));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_certificate_may_come_in_any_form_that_proxies_use_and_a_false_one_is_refused() {
    each(async |server| {
        let phone = AppleDevice::named("B");
        phone.enroll(&server).await;
        let body = || bytes(texts(&[("Status", "Idle"), ("UDID", &phone.udid)]));
        let with = async |value: String| {
            let request = server.client.put(format!("{}/mdm/connect", server.url)).header(CERT_HEADER, value).body(body());
            request.send().await.unwrap().status().as_u16()
        };
        let base64 = base64::engine::general_purpose::STANDARD.encode(&phone.certificate);
        assert!(base64.contains('+'), "the test is about it");
        assert_eq!(with(format!(":{base64}:")).await, 200, "RFC 9440");
        assert_eq!(with(phone.header()).await, 200);
        assert_eq!(with(phone.header().replace("%20", "+")).await, 200, "a plus is a space where the armour says so");
        assert_eq!(with(phone.header().replace("%2B", "+")).await, 200, "and a plus elsewhere");
        for wrong in ["", ":", "::", "%", "-----BEGIN%20CERTIFICATE-----", ":AAAA:"] {
            assert_eq!(with(wrong.to_owned()).await, 403, "{wrong}");
        }
        let bare = server.client.put(format!("{}/mdm/connect", server.url)).body(body()).send().await.unwrap();
        assert_eq!(bare.status(), 403);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_body_beyond_its_limit_is_413_before_it_is_read() {
    let server = TestServer::with(crate::support::apple::behind_proxy).await;
    let phone = AppleDevice::named("C");
    let padded = |bytes_min: usize| {
        let mut body = texts(&[("MessageType", "Authenticate"), ("UDID", &phone.udid), ("Topic", "t")]);
        body.insert("Challenge".into(), Plist::Data(vec![0; bytes_min]));
        bytes(body)
    };
    sent(&server, &phone, CHECKIN, padded(1024 * 1024)).await.expect(413);
    sent(&server, &phone, "", padded(1024 * 1024)).await.expect(413);
    phone.send(&server, "connect", "", vec![b' '; 10 * 1024 * 1024 + 1]).await.expect(413);
    // Three hundred megabytes are announced and none is waited for; without an announcement they are cut off at the limit.
    let address = server.url.trim_start_matches("http://").to_owned();
    let head = format!("PUT /mdm/connect HTTP/1.1\r\nHost: x\r\n{CERT_HEADER}: {}\r\n", phone.header());
    let announced = exchange(&address, format!("{head}Content-Length: 314572800\r\n\r\n").into_bytes(), 0).await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    let chunked = exchange(&address, format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), 12).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_megabytes_are_413_and_take_no_more_memory_than_a_body_may_have() {
    const CHUNKS: usize = 300;
    const GROWTH_KIB_MAX: u64 = 96 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let fcm = muster::sim::fcm::StandIn::start(muster::clock::Clock::system()).await.unwrap();
    let mut process = Process::new(folder.path(), &format!("sqlite://{}", folder.path().join("muster.db").display()), &fcm);
    process.start().await;
    let address = process.url.trim_start_matches("http://").to_owned();
    let Some(before) = process.peak_kib() else { return };
    let heads = [
        format!("PUT /mdm/connect HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", CHUNKS * 0x10_0000),
        "PUT /mdm/connect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        format!("PUT /mdm/checkin HTTP/1.1\r\nHost: x\r\nContent-Type: {CHECKIN}\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "POST /mdm/scep?operation=PKIOperation HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    ];
    for head in heads.iter().cycle().take(3 * heads.len()) {
        let answer = exchange(&address, head.clone().into_bytes(), CHUNKS).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    let after = process.peak_kib().unwrap();
    assert!(after < before + GROWTH_KIB_MAX, "from {before} to {after} KiB");
    process.kill().await;
}

/// Sends a head and then so many chunks of a megabyte, as long as they are taken; answers what came back.
async fn exchange(address: &str, head: Vec<u8>, chunks: usize) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        let mut chunk = b"100000\r\n".to_vec();
        chunk.resize(chunk.len() + 0x10_0000, b' ');
        chunk.extend_from_slice(b"\r\n");
        for _ in 0..chunks {
            if write.write_all(&chunk).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await
    };
    let mut answer = vec![0; 64];
    let reading = async { read.read_exact(&mut answer[..16]).await };
    tokio::select! {
        () = sending => {}
        read = reading => { read.unwrap(); }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_path_under_mdm_ever_answers_401() {
    let server = TestServer::with(crate::support::apple::behind_proxy).await;
    let phone = AppleDevice::named("D");
    for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
        for path in ["checkin", "connect", "scep", "assets/x", "elsewhere", ""] {
            for bearer in [None, Some("dvt_nonsense"), Some("mk_nonsense")] {
                let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
                let mut request = server.client.request(method.clone(), format!("{}/mdm/{path}", server.url)).body("x");
                if let Some(bearer) = bearer {
                    request = request.bearer_auth(bearer);
                }
                let answer = request.send().await.unwrap();
                let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
                assert!(status != 401 && status >= 400, "{method} {path}: {status}");
                assert!(!text.contains("com.apple."), "a code of Apple's would make it act: {text}");
            }
        }
    }
    // The database goes away in the middle: 500 or 503, and the devices come again.
    phone.enroll(&server).await;
    server.app.db.close().await;
    let told = phone.idle(&server).await;
    assert!(matches!(told.status, 500 | 503), "{}", told.status);
    let told = phone.authenticate(&server).await;
    assert!(matches!(told.status, 500 | 503), "{}", told.status);
    server.abandon();
}
