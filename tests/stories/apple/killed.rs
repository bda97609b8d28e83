//! `kill -9` in the middle of what Apple devices do: an enrollment, a command, an app that is being installed.

use std::path::Path;
use std::time::Duration;

use muster::clock::Clock;
use muster::protocol::apple::profile;
use muster::sim::apns::{Push, StandIn};
use muster::sim::apple::Iphone;
use plist::{Dictionary, Value as Plist};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::called::is_nudged;
use crate::support::apple::{AppleDevice, CERT_HEADER, TOPIC, bytes, ca_file, texts};
use crate::support::postgres;
use crate::support::process::Process;

/// A server process that is killed again and again, and the APNs that it nudges through.
struct Site {
    process: Process,
    key: String,
    client: reqwest::Client,
    apns: StandIn,
    _folder: tempfile::TempDir,
}

/// Runs a story on SQLite and, where it is installed, on PostgreSQL.
async fn each(story: impl AsyncFn(Site)) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("muster.db").display());
    story(Site::start(folder, &url).await).await;
    if let Some(url) = postgres::fresh_database().await {
        eprintln!("on PostgreSQL");
        story(Site::start(tempfile::tempdir().unwrap(), &url).await).await;
    }
}

fn settings(folder: &Path, apns: &StandIn) -> String {
    let identity = apns.issue_certificate(TOPIC).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        format!("{path:?}")
    };
    format!(
        "trusted_proxies = [\"127.0.0.1\"]\n[mdm]\nproxy_client_cert_header = \"{CERT_HEADER}\"\nrequire_known_certificate = false\n\
         refresh_every_s = 0\nca_cert = {:?}\nca_key = {:?}\n[push.apns_mdm]\ncertificate = {}\nkey = {}\nca_file = {}\nendpoint = {:?}\n",
        ca_file("pem"),
        ca_file("key"),
        file("push.pem", &identity.certificate),
        file("push.key", &identity.key),
        file("apns.pem", apns.ca()),
        apns.endpoint(),
    )
}

impl Site {
    async fn start(folder: tempfile::TempDir, database_url: &str) -> Site {
        let apns = StandIn::start(Clock::system()).await.unwrap();
        std::fs::write(folder.path().join("muster.toml"), settings(folder.path(), &apns)).unwrap();
        let fcm = muster::sim::fcm::StandIn::start(Clock::system()).await.unwrap();
        let mut process = Process::new(folder.path(), database_url, &fcm);
        process.start().await;
        let key = process.key().await;
        Site { process, key, client: muster::sim::client(Duration::from_secs(60)).build().unwrap(), apns, _folder: folder }
    }

    /// The process dies, and another takes its place.
    async fn again(&mut self) {
        self.process.kill().await;
        self.process.start().await;
    }

    async fn api(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.process.url)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.api("GET", path, None).await
    }

    /// The one task of a fresh job for one device.
    async fn order(&self, kind: &str, params: Value, udid: &str) -> String {
        let job = json!({"kind": kind, "params": params, "target": {"devices": [udid]}});
        let job = self.api("POST", "/jobs", Some(job)).await;
        let tasks = self.get(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
        tasks["items"][0]["id"].as_str().unwrap_or_else(|| panic!("{job} {tasks}")).to_owned()
    }

    async fn state(&self, task: &str) -> String {
        self.get(&format!("/tasks/{task}")).await["state"].as_str().unwrap().to_owned()
    }

    /// A phone, the bytes of its push token, and where its pushes arrive.
    fn phone(&self, name: &str) -> (Iphone, Vec<u8>, mpsc::Receiver<Push>) {
        let certificate = AppleDevice::named(name).header();
        let phone = Iphone::new(&self.process.url, name, &profile::identifier(&self.process.url));
        let mut phone = phone.behind_proxy(CERT_HEADER, &certificate);
        phone.topic = TOPIC.into();
        let token = self.apns.register(TOPIC);
        let pushes = self.apns.connect(&token);
        (phone, (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect(), pushes)
    }

    /// A report of a phone, exactly as the test has it; answers the command that it gets for it.
    async fn reports(&self, udid: &str, name: &str, command: &str, more: Dictionary) -> Option<(String, String)> {
        let mut body = texts(&[("Status", "Acknowledged"), ("UDID", udid), ("CommandUUID", command)]);
        body.extend(more);
        let request = self.client.put(format!("{}/mdm/connect", self.process.url)).header(CERT_HEADER, AppleDevice::named(name).header());
        let answer = request.body(bytes(body)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let answer = answer.bytes().await.unwrap();
        if answer.is_empty() {
            return None;
        }
        let outer = plist::from_bytes::<Plist>(&answer).unwrap().into_dictionary().unwrap();
        let command = outer.get("Command").and_then(Plist::as_dictionary).unwrap();
        let text = |from: &Dictionary, key: &str| from.get(key).and_then(Plist::as_string).unwrap().to_owned();
        Some((text(&outer, "CommandUUID"), text(command, "RequestType")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrollment_that_a_kill_cuts_in_two_goes_on_or_begins_anew_and_nobody_is_called_before_its_end() {
    each(async |mut site| {
        let (mut first, token, mut pushes) = site.phone("first");
        let (mut second, second_token, mut second_pushes) = site.phone("second");
        second.enroll(&second_token).await.unwrap();
        // Known from before, with an address to which it could be called.
        first.enroll(&token).await.unwrap();
        let before = site.get(&format!("/devices/{}", first.udid)).await["id"].clone();
        first.authenticate().await.unwrap();
        site.again().await;
        let device = site.get(&format!("/devices/{}", first.udid)).await;
        assert_eq!((&device["id"], &device["channels"][0]["push_state"]), (&before, &json!("none")));
        // An order waits for an address, and a change of policy concerns it as it does everybody.
        let early = site.order("lock", json!({}), &first.udid).await;
        let waiting = site.get(&format!("/tasks/{early}")).await;
        assert_eq!((&waiting["state"], &waiting["reason"]), (&json!("queued"), &json!("no_push_address")), "{waiting}");
        assert_eq!(first.fetch().await.unwrap(), None, "an enrollment that is not complete is given nothing");
        let declared = json!([{"Type": "com.apple.management.properties", "Identifier": "ring", "Payload": {"ring": 1}}]);
        site.api("PUT", "/policies/ring", Some(json!({"document": {"apple": {"declarations": declared}}}))).await;
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        site.api("PUT", "/policies/ring/assignments", Some(all)).await;
        assert!(is_nudged(&mut second_pushes).await, "who is enrolled is called");
        assert!(pushes.try_recv().is_err(), "who is not is not");
        // It goes on where it was.
        first.token_update(&token).await.unwrap();
        assert!(is_nudged(&mut pushes).await, "now it is called for what has changed");
        first.session().await.unwrap();
        assert_eq!(site.state(&early).await, "done");
        assert!(first.state.declarations.held.contains_key("ring"));
        // And one of which nobody knew before begins anew: it stays one device.
        let (mut third, third_token, mut third_pushes) = site.phone("third");
        third.authenticate().await.unwrap();
        site.again().await;
        third.authenticate().await.unwrap();
        site.again().await;
        let device = site.get(&format!("/devices/{}", third.udid)).await;
        assert_eq!((&device["state"], &device["channels"][0]["push_state"]), (&json!("expected"), &json!("none")));
        third.token_update(&third_token).await.unwrap();
        site.again().await;
        let lock = site.order("lock", json!({}), &third.udid).await;
        assert!(is_nudged(&mut third_pushes).await);
        third.session().await.unwrap();
        assert_eq!(site.state(&lock).await, "done");
        assert_eq!(site.get("/devices").await["items"].as_array().unwrap().len(), 3);
        site.process.kill().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_a_report_loses_nothing() {
    each(async |mut site| {
        let (mut phone, token, _pushes) = site.phone("K");
        phone.enroll(&token).await.unwrap();
        let lock = site.order("lock", json!({}), &phone.udid).await;
        assert_eq!(phone.fetch().await.unwrap().as_ref(), Some(&lock));
        site.again().await;
        assert_eq!(phone.fetch().await.unwrap().as_ref(), Some(&lock), "again, under the same id");
        assert_eq!(phone.session().await.unwrap(), 1);
        site.again().await;
        assert_eq!(site.state(&lock).await, "done");
        site.process.kill().await;
    })
    .await;
}

/// What a device answers of an app that it manages.
fn managed(app: &str, status: &str) -> Dictionary {
    let list: Dictionary = [(app.to_owned(), Plist::Dictionary(texts(&[("Status", status)])))].into_iter().collect();
    [("ManagedApplicationList".to_owned(), Plist::Dictionary(list))].into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_followed_to_its_end_whenever_the_server_dies_meanwhile() {
    each(async |mut site| {
        let (mut phone, token, _pushes) = site.phone("I");
        phone.enroll(&token).await.unwrap();
        let udid = phone.udid.clone();
        let install = site.order("install_app", json!({"app": "org.example.app"}), &udid).await;
        assert_eq!(phone.fetch().await.unwrap().as_ref(), Some(&install));
        site.again().await;
        // Accepted is not installed; what comes next survives with it.
        let look = (format!("{install}.1"), "ManagedApplicationList".to_owned());
        assert_eq!(site.reports(&udid, "I", &install, Dictionary::new()).await, Some(look.clone()));
        site.again().await;
        assert_eq!(site.state(&install).await, "running");
        assert_eq!(phone.fetch().await.unwrap().as_ref(), Some(&look.0), "the look whose answer was lost");
        assert_eq!(
            site.reports(&udid, "I", &install, Dictionary::new()).await,
            Some(look.clone()),
            "a repeat of the first changes nothing"
        );
        assert_eq!(site.reports(&udid, "I", &look.0, managed("org.example.app", "Installing")).await, None, "the next look has its time");
        site.again().await;
        let shown = site.get(&format!("/tasks/{install}")).await;
        assert_eq!((shown["state"].as_str(), &shown["progress"]["looks"]), (Some("running"), &json!(1)), "{shown}");
        assert_eq!(phone.fetch().await.unwrap(), None, "not before its time");
        // The device says it by itself, and it stays said.
        let status = json!({"StatusItems": {"mdm": {"app": [{"identifier": "org.example.app", "state": "managed"}]}}});
        let mut body = texts(&[("MessageType", "DeclarativeManagement"), ("UDID", &udid), ("Endpoint", "status")]);
        body.insert("Data".into(), Plist::Data(status.to_string().into_bytes()));
        let request = site.client.put(format!("{}/mdm/checkin", site.process.url)).header(CERT_HEADER, AppleDevice::named("I").header());
        assert_eq!(request.body(bytes(body)).send().await.unwrap().status().as_u16(), 200);
        site.again().await;
        let shown = site.get(&format!("/tasks/{install}")).await;
        assert_eq!((shown["state"].as_str(), &shown["result"]), (Some("done"), &json!({"status": "Managed"})), "{shown}");
        // Another one fails in the end, which only a look tells.
        let other = site.order("install_app", json!({"app": "org.example.other"}), &udid).await;
        assert_eq!(phone.fetch().await.unwrap().as_ref(), Some(&other));
        let (look, _) = site.reports(&udid, "I", &other, Dictionary::new()).await.unwrap();
        site.again().await;
        assert_eq!(site.reports(&udid, "I", &look, managed("org.example.other", "UserRejected")).await, None);
        site.again().await;
        let shown = site.get(&format!("/tasks/{other}")).await;
        assert_eq!((shown["state"].as_str(), shown["error"]["code"].as_str()), (Some("failed"), Some("UserRejected")));
        site.process.kill().await;
    })
    .await;
}
