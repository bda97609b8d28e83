//! A server whose iPhones are nudged through the APNs stand-in.

use muster::config::Config;
use muster::sim::apns::{Door, Push, PushCertificate, StandIn};
use plist::Value as Plist;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::apple::{AppleDevice, TOPIC, behind_proxy, texts};
use super::device::{TestDevice, activation};
use super::server::{START_MS, TestServer};
use muster::clock::Clock;

/// The bundle id of the app on iOS.
pub const APP: &str = "org.example.agent";
pub const KEY_ID: &str = "KEY0000001";
/// The least time between two nudges of an app on iOS.
pub const GAP_MS: i64 = 20 * 60_000;

/// A server with both of its senders to APNs, and the stand-in on the same clock.
pub struct Apns {
    pub server: TestServer,
    pub apns: StandIn,
    /// The database and the credentials lie in it.
    folder: tempfile::TempDir,
    /// The push settings.
    settings: Value,
}

/// An iPhone with our app, connected to the stand-in.
pub struct IPhone {
    pub device: TestDevice,
    pub pushes: mpsc::Receiver<Push>,
}

/// An iPhone under MDM, connected to the stand-in.
pub struct Managed {
    pub id: String,
    pub pushes: mpsc::Receiver<Push>,
}

impl Apns {
    pub async fn start() -> Apns {
        let clock = Clock::moved(START_MS, 7);
        let apns = StandIn::start(clock.clone()).await.unwrap();
        let certificate = apns.issue_certificate(TOPIC).unwrap();
        Apns::start_with(clock, apns, certificate).await
    }

    /// With a certificate of the test's choice.
    pub async fn start_with(clock: Clock, apns: StandIn, certificate: PushCertificate) -> Apns {
        let key = apns.issue_key(KEY_ID, &[APP]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let ca_file = file("ca.pem", apns.ca());
        let settings = json!({
            "apns_app": {"key": file("app.p8", &key.p8), "key_id": key.key_id, "team_id": key.team_id, "topic": APP,
                "endpoint": apns.endpoint(), "ca_file": ca_file},
            "apns_mdm": {"certificate": file("mdm.pem", &certificate.certificate), "key": file("mdm.key", &certificate.key),
                "endpoint": apns.endpoint(), "ca_file": ca_file},
        });
        let fcm = muster::sim::fcm::StandIn::start(clock.clone()).await.unwrap();
        Apns::at(clock, fcm, apns, folder, settings).await
    }

    async fn at(clock: Clock, fcm: muster::sim::fcm::StandIn, apns: StandIn, folder: tempfile::TempDir, settings: Value) -> Apns {
        let database = folder.path().join("muster.db");
        let change = |config: &mut Config| {
            behind_proxy(config);
            let mut push = serde_json::to_value(&config.push).unwrap();
            push.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
            config.push = serde_json::from_value(push).unwrap();
        };
        let server = TestServer::beside(&format!("sqlite://{}", database.display()), None, clock, fcm, change).await;
        Apns { server, apns, folder, settings }
    }

    /// The server started anew on the same database, with both of its senders told of another endpoint.
    pub async fn again_at(self, endpoint: &str) -> Apns {
        let Apns { server, apns, folder, mut settings } = self;
        let (clock, fcm) = (server.clock.clone(), server.fcm.clone());
        server.stop().await;
        for name in ["apns_app", "apns_mdm"] {
            settings[name]["endpoint"] = json!(endpoint);
        }
        Apns::at(clock, fcm, apns, folder, settings).await
    }

    /// An iPhone of a new user, activated, with its first sync behind it.
    pub async fn iphone(&self, name: &str) -> IPhone {
        let (email, push) = (format!("{name}@example.org"), self.apns.register(APP));
        self.server.user(&email).await;
        let mut body = activation(&self.server.enrollment_token().await, &email, name, None);
        body["device"]["platform"] = json!("ios");
        body["device"]["app"] = json!(APP);
        body["device"]["management_mode"] = json!("app");
        body["push"] = json!({"provider": "apns", "kind": "token", "value": push});
        let answer = self.server.activate(&body, None).await.expect(201);
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        let device = TestDevice { id: text("device_id"), token: text("device_token"), push, hardware_id: name.to_owned() };
        let first = device.sync(&self.server, json!({"cause": "launch", "policy": {"version": null}})).await.expect(200);
        let version = first["policy"]["version"].clone();
        device.sync(&self.server, json!({"cause": "launch", "policy": {"version": version, "details": []}})).await.expect(200);
        let pushes = self.apns.connect(&device.push);
        IPhone { device, pushes }
    }

    pub async fn iphones(&self, number: usize) -> Vec<IPhone> {
        let mut phones = Vec::with_capacity(number);
        for n in 0..number {
            phones.push(self.iphone(&format!("iphone-{n}")).await);
        }
        phones
    }

    /// An iPhone under MDM, enrolled, with nothing left to do.
    pub async fn managed(&self, name: &str) -> Managed {
        self.managed_under(name, TOPIC).await
    }

    /// An iPhone under MDM that hears another topic.
    pub async fn managed_under(&self, name: &str, topic: &str) -> Managed {
        let (device, token) = (AppleDevice::named(name), self.apns.register(topic));
        let first = texts(&[("SerialNumber", &device.serial), ("ProductName", &device.product), ("OSVersion", "18.1"), ("Topic", topic)]);
        device.checkin(&self.server, "Authenticate", first).await.expect(200);
        let bytes = (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect();
        let mut more = texts(&[("Topic", topic)]);
        more.insert("Token".into(), Plist::Data(bytes));
        device.token_update(&self.server, more).await.expect(200);
        device.settle(&self.server).await;
        let mut pushes = self.apns.connect(&token);
        while pushes.try_recv().is_ok() {}
        let id = device.id(&self.server).await;
        Managed { id, pushes }
    }

    /// Asks where these devices are: an urgent task for each.
    pub async fn locate(&self, devices: &[&str]) {
        self.server.post("/jobs", json!({"kind": "locate", "target": {"devices": devices}})).await.expect(202);
    }

    /// A task of this kind for each of these devices.
    pub async fn order(&self, kind: &str, devices: &[&str]) {
        let params = if kind == "message" { json!({"text": "hello"}) } else { json!({}) };
        self.server.post("/jobs", json!({"kind": kind, "params": params, "target": {"devices": devices}})).await.expect(202);
    }

    /// Connections go through this door from now on; those that stand ready, opened through another, end.
    pub async fn come_anew_through(&self, door: Door) {
        self.apns.set_door(door);
        self.apns.refuse_connections();
        self.apns.accept_connections().await.unwrap();
    }

    /// Puts another text into one of the files that the settings name: `mdm.pem`, `mdm.key`, `app.p8`.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Puts another MDM push certificate in the place of the present one, through the operator API.
    pub async fn replace_certificate(&self, certificate: &PushCertificate) -> super::server::Reply {
        self.server.put("/push/apns-mdm", json!({"certificate": certificate.certificate, "key": certificate.key})).await
    }

    /// Puts a certificate of another topic beside the present one.
    pub async fn add_topic(&self, topic: &str) {
        let certificate = self.apns.issue_certificate(topic).unwrap();
        let body = json!({"certificate": certificate.certificate, "key": certificate.key});
        self.server.put("/push/apns-mdm?force=true", body).await.expect(200);
    }

    pub async fn locate_all(&self, phones: &[IPhone]) {
        self.locate(&phones.iter().map(|phone| phone.device.id.as_str()).collect::<Vec<_>>()).await;
    }

    /// The state of a sender, by the beginning of its name.
    pub async fn sender(&self, name: &str) -> Value {
        let push = self.server.get("/push").await;
        let senders = push["senders"].as_array().unwrap();
        senders.iter().find(|sender| sender["name"].as_str().unwrap().starts_with(name)).unwrap_or_else(|| panic!("{push}")).clone()
    }

    pub async fn push_state(&self, device: &str) -> String {
        self.server.get(&format!("/devices/{device}")).await["channels"][0]["push_state"].as_str().unwrap().to_owned()
    }

    pub async fn open_alarms(&self) -> Vec<String> {
        let alarms = self.server.get("/alarms?state=open").await;
        alarms["items"].as_array().unwrap().iter().map(|alarm| alarm["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until each of these phones has been nudged, once.
    pub async fn each_is_nudged(&self, phones: &mut [IPhone]) {
        for phone in phones {
            let name = phone.device.hardware_id.clone();
            let push = tokio::time::timeout(std::time::Duration::from_secs(60), phone.pushes.recv()).await;
            let Ok(push) = push else { panic!("{name} is not nudged: {}", self.sender("apns_app").await) };
            assert!(push.is_some());
            assert!(phone.pushes.try_recv().is_err(), "{name} is nudged once");
        }
    }

    /// Waits until each of these phones has been nudged, once or more.
    pub async fn each_is_reached(&self, phones: &mut [IPhone]) {
        for phone in phones.iter_mut() {
            let push = tokio::time::timeout(std::time::Duration::from_secs(60), phone.pushes.recv()).await;
            assert!(push.unwrap_or_else(|_| panic!("{} is not nudged", phone.device.hardware_id)).is_some());
        }
        self.server.until("no nudge is under way", async || self.sender("apns_app").await["in_flight"] == 0).await;
        for phone in phones.iter_mut() {
            while phone.pushes.try_recv().is_ok() {}
        }
    }

    /// Moves the clock in steps until the phone is nudged; answers how many milliseconds that took.
    pub async fn nudged_after_ms(&self, phone: &mut IPhone, step_ms: i64, most_ms: i64) -> i64 {
        self.pushed_after_ms(&mut phone.pushes, step_ms, most_ms).await
    }

    /// The same of whoever hears these pushes.
    pub async fn pushed_after_ms(&self, pushes: &mut mpsc::Receiver<Push>, step_ms: i64, most_ms: i64) -> i64 {
        let began_ms = self.server.clock.now_ms();
        loop {
            for _ in 0..10 {
                if pushes.try_recv().is_ok() {
                    return self.server.clock.now_ms() - began_ms;
                }
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            }
            let waited_ms = self.server.clock.now_ms() - began_ms;
            assert!(waited_ms < most_ms, "not nudged within {most_ms} ms: {}", self.server.get("/push").await);
            self.server.advance(step_ms);
        }
    }
}
