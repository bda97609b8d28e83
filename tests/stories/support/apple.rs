//! An Apple device as a value: it says exactly what the test tells it to say, with its certificate in a trusted proxy's header.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster::clock::Moment;
use muster::config::Config;
use muster::ops::ca::Pair;
use muster::protocol::pki::certificate::Wanted;
use muster::protocol::pki::{Certificate, Purpose};
use plist::{Dictionary, Value};

use super::server::{START_MS, TestServer, each_with};

pub const CERT_HEADER: &str = "X-Client-Cert";
pub const TOPIC: &str = "com.apple.mgmt.External.11111111-2222-3333-4444-555555555555";

const CA: &str = include_str!("../apple/fixtures/throwaway_ca.pem");
const CA_KEY: &str = include_str!("../apple/fixtures/throwaway_ca.key");
/// Before every clock of the tests.
const ISSUED_MS: i64 = 1_700_000_000_000;
/// 300 days after the clocks of the tests begin.
const ENDS_MS: i64 = START_MS + 300 * 86_400_000;

/// The path of a file of the tests' device CA: `pem` or `key`.
pub fn ca_file(ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/stories/apple/fixtures/throwaway_ca.{ending}"))
}

/// A certificate of the tests' device CA, DER; the same for the same name.
pub fn certificate(name: &str) -> Vec<u8> {
    certificate_of(&Pair::from_pem(CA, CA_KEY).unwrap(), name)
}

/// A certificate of a CA with the CA's own key.
pub fn certificate_of(ca: &Pair, name: &str) -> Vec<u8> {
    let spki = ca.key.spki().unwrap();
    let wanted = Wanted { purpose: Purpose::Device, common_name: name, spki: &spki, life_ms: ENDS_MS - ISSUED_MS };
    let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let moment = &mut Moment::fixed(ISSUED_MS, seed);
    Certificate::issue(moment, Some(ca.certificate()), &ca.key, &wanted).unwrap().der().to_vec()
}

/// Settings under which a proxy on loopback is believed, and any certificate of the tests' device CA lets a new device in.
pub fn behind_proxy(config: &mut Config) {
    config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    config.mdm.proxy_client_cert_header = Some(CERT_HEADER.into());
    config.mdm.require_known_certificate = false;
    (config.mdm.ca_cert, config.mdm.ca_key) = (Some(ca_file("pem")), Some(ca_file("key")));
}

/// The same, and the server asks devices nothing by itself.
pub fn quiet(config: &mut Config) {
    behind_proxy(config);
    config.mdm.refresh_every_s = 0;
}

/// Runs a story on both databases, on a server that is [`quiet`].
pub async fn each_quiet(story: impl AsyncFn(TestServer)) {
    each_with(quiet, story).await;
}

/// An Apple device.
#[derive(Clone, Debug)]
pub struct AppleDevice {
    pub udid: String,
    /// DER of its certificate.
    pub certificate: Vec<u8>,
    pub serial: String,
    pub product: String,
}

/// What a device was answered.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Told {
    /// The command and its id; none where the body is empty.
    #[track_caller]
    pub fn command(&self) -> Option<(String, Dictionary)> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() {
            assert_eq!(self.headers.get("content-length").map(|value| value.as_bytes()), Some(b"0".as_slice()));
            return None;
        }
        let value = plist::from_bytes::<Value>(&self.body).unwrap();
        let outer = value.into_dictionary().unwrap();
        let uuid = outer.get("CommandUUID").and_then(Value::as_string).unwrap().to_owned();
        Some((uuid, outer.get("Command").and_then(Value::as_dictionary).unwrap().clone()))
    }

    /// The id and the request type of the command that there must be.
    #[track_caller]
    pub fn request(&self) -> (String, String) {
        let (uuid, command) = self.command().expect("a command");
        (uuid, command.get("RequestType").and_then(Value::as_string).unwrap().to_owned())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Told {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// A dictionary of texts.
pub fn texts(pairs: &[(&str, &str)]) -> Dictionary {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect()
}

/// The bytes of a dictionary as a device sends it.
pub fn bytes(dictionary: Dictionary) -> Vec<u8> {
    let mut bytes = Vec::new();
    Value::Dictionary(dictionary).to_writer_xml(&mut bytes).unwrap();
    bytes
}

impl AppleDevice {
    pub fn named(name: &str) -> AppleDevice {
        AppleDevice {
            udid: format!("00008030-{name}"),
            certificate: certificate(&format!("certificate of {name}")),
            serial: format!("SER-{name}"),
            product: "iPhone15,2".into(),
        }
    }

    pub fn header(&self) -> String {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&self.certificate));
        pem.replace('%', "%25").replace('\n', "%0A").replace('+', "%2B").replace(' ', "%20")
    }

    /// Sends bytes to a path under `/mdm`.
    pub async fn send(&self, server: &TestServer, path: &str, kind: &str, body: Vec<u8>) -> Told {
        let request =
            server.client.put(format!("{}/mdm/{path}", server.url)).header(CERT_HEADER, self.header()).header("Content-Type", kind);
        let response = request.body(body).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Told { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub async fn checkin(&self, server: &TestServer, message: &str, more: Dictionary) -> Told {
        let mut body = texts(&[("MessageType", message), ("UDID", &self.udid), ("Topic", TOPIC)]);
        body.extend(more);
        self.send(server, "checkin", "application/x-apple-aspen-mdm-checkin", bytes(body)).await
    }

    pub async fn authenticate(&self, server: &TestServer) -> Told {
        let more =
            texts(&[("SerialNumber", &self.serial), ("ProductName", &self.product), ("OSVersion", "18.1"), ("DeviceName", "A phone")]);
        self.checkin(server, "Authenticate", more).await
    }

    pub async fn token_update(&self, server: &TestServer, more: Dictionary) -> Told {
        let mut body = texts(&[("PushMagic", "magic words")]);
        body.insert("Token".into(), Value::Data(vec![0xab; 32]));
        body.extend(more);
        self.checkin(server, "TokenUpdate", body).await
    }

    /// Authenticate and TokenUpdate.
    pub async fn enroll(&self, server: &TestServer) -> String {
        self.authenticate(server).await.expect(200);
        self.token_update(server, Dictionary::new()).await.expect(200);
        self.id(server).await
    }

    /// The device's id in the API.
    pub async fn id(&self, server: &TestServer) -> String {
        server.get(&format!("/devices/{}", self.udid)).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn connect(&self, server: &TestServer, status: &str, command: Option<&str>, more: Dictionary) -> Told {
        let mut body = texts(&[("Status", status), ("UDID", &self.udid)]);
        if let Some(command) = command {
            body.insert("CommandUUID".into(), Value::String(command.into()));
        }
        body.extend(more);
        self.send(server, "connect", "application/x-apple-aspen-mdm; charset=UTF-8", bytes(body)).await
    }

    pub async fn idle(&self, server: &TestServer) -> Told {
        self.connect(server, "Idle", None, Dictionary::new()).await
    }

    pub async fn acknowledge(&self, server: &TestServer, command: &str) -> Told {
        self.connect(server, "Acknowledged", Some(command), Dictionary::new()).await
    }

    /// Acknowledges whatever the server asks by itself, until it asks nothing more.
    pub async fn settle(&self, server: &TestServer) {
        let mut told = self.idle(server).await;
        while let Some((uuid, _)) = told.command() {
            assert!(uuid.starts_with("refresh."), "{uuid}");
            told = self.acknowledge(server, &uuid).await;
        }
    }
}
