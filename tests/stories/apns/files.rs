//! Credentials in files that the settings name, and what happens when the files change under a running server.

use std::time::Duration;

use muster::sim::apns::PushCertificate;
use muster::work::credential_files::{self, Seen};

use crate::support::apns::Apns;
use crate::support::apple::TOPIC;
use crate::support::server::START_MS;

const OTHER_TOPIC: &str = "com.apple.mgmt.External.0a0a0a0a-1111-4222-8333-444455556666";
const DAY_MS: i64 = 86_400_000;

/// Puts a certificate and its key in the place of those in the files.
fn write(world: &Apns, certificate: &PushCertificate) {
    world.write("mdm.key", &certificate.key);
    world.write("mdm.pem", &certificate.certificate);
}

async fn ends_at_ms(world: &Apns) -> i64 {
    world.sender("apns_mdm").await["credential_ends_at_ms"].as_i64().unwrap()
}

/// Looks at the files as the server does every few seconds, often enough for what is wrong to be told.
async fn look(world: &Apns, seen: &mut Seen) {
    for _ in 0..2 {
        credential_files::pass(&world.server.app, seen).await.unwrap();
    }
}

/// What the open alarm about a file says; empty where none is open.
async fn told(world: &Apns) -> String {
    let alarms = world.server.get("/alarms?state=open").await;
    let of_file = alarms["items"].as_array().unwrap().iter().find(|alarm| alarm["kind"] == "push_file_refused");
    of_file.map_or(String::new(), |alarm| format!("{}: {}", alarm["subject"].as_str().unwrap(), alarm["detail"].as_str().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_as_soon_as_its_file_has_changed_and_a_wrong_one_is_refused_with_what_would_be_lost() {
    let world = Apns::start().await;
    let mut managed = world.managed("MDM").await;
    let mut seen = Seen::default();
    assert_eq!(world.sender("apns_mdm").await["credential_from"], "file");
    let called = async |managed: &mut crate::support::apns::Managed| {
        world.server.advance(60_000);
        while managed.pushes.try_recv().is_ok() {}
        world.locate(&[&managed.id]).await;
        assert!(tokio::time::timeout(Duration::from_secs(60), managed.pushes.recv()).await.unwrap().is_some());
    };
    called(&mut managed).await;
    // Renewed: in use within seconds, on connections of its own, and tried on one device.
    let renewed = world.apns.issue_certificate_until(TOPIC, START_MS + 300 * DAY_MS).unwrap();
    let connections = world.apns.counts().connections;
    write(&world, &renewed);
    // Nobody but the server looks here.
    world.server.until("the renewed one is in use", async || ends_at_ms(&world).await == renewed.not_after_ms).await;
    called(&mut managed).await;
    assert!(world.apns.counts().connections > connections, "the former certificate's connections are not used on");
    let audited = async || {
        let audit = world.server.get("/audit?kind=push.credential_set").await;
        audit["items"][0]["data"]["after"]["from"] == "file" && audit["items"].as_array().unwrap().len() == 1
    };
    world.server.until("the audit has it, once", audited).await;
    assert!(world.sender("apns_mdm").await["canary"].is_object());
    // Made anew instead of renewed.
    write(&world, &world.apns.issue_certificate(OTHER_TOPIC).unwrap());
    look(&world, &mut seen).await;
    world.server.until("it is told", async || told(&world).await.contains("1 enrolled devices listen to another topic")).await;
    let words = told(&world).await;
    assert!(words.starts_with("push.apns_mdm: [push.apns_mdm] certificate = ") && words.contains("the credential in use stays"), "{words}");
    assert_eq!(ends_at_ms(&world).await, renewed.not_after_ms);
    called(&mut managed).await;
    // A key that does not belong to it.
    world.write("mdm.pem", &renewed.certificate);
    look(&world, &mut seen).await;
    world.server.until("that is told", async || told(&world).await.contains("the key does not belong to the certificate")).await;
    world.write("mdm.key", "no key at all");
    look(&world, &mut seen).await;
    world.server.until("so is that", async || told(&world).await.contains("the key is missing or not in PEM form")).await;
    // Right again.
    write(&world, &renewed);
    look(&world, &mut seen).await;
    world.server.until("the alarm ends", async || told(&world).await.is_empty()).await;
    called(&mut managed).await;
    // The API's wins, and what then comes in the file is not used.
    let brought = world.apns.issue_certificate_until(TOPIC, START_MS + 200 * DAY_MS).unwrap();
    world.replace_certificate(&brought).await.expect(200);
    write(&world, &world.apns.issue_certificate_until(TOPIC, START_MS + 100 * DAY_MS).unwrap());
    look(&world, &mut seen).await;
    let sender = world.sender("apns_mdm").await;
    assert_eq!((&sender["credential_from"], &sender["credential_ends_at_ms"]), (&"api".into(), &brought.not_after_ms.into()));
    assert!(told(&world).await.is_empty());
    // Taken away, the file's is used, without anybody insisting: it takes its place.
    let filed = world.apns.issue_certificate_until(TOPIC, START_MS + 90 * DAY_MS).unwrap();
    write(&world, &filed);
    world.server.delete(&format!("/push/apns-mdm?topic={TOPIC}")).await.expect(204);
    assert_eq!(world.sender("apns_mdm").await["credential_from"], "file", "at once");
    assert_eq!(ends_at_ms(&world).await, filed.not_after_ms);
    called(&mut managed).await;
    world.server.delete(&format!("/push/apns-mdm?topic={TOPIC}")).await.expect(404);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_could_not_be_used_stands_in_for_nobody_and_beside_another_topic_a_renewal_is_one() {
    let world = Apns::start().await;
    let managed = world.managed("MDM").await;
    let _other = world.managed_under("Other", OTHER_TOPIC).await;
    world.add_topic(OTHER_TOPIC).await;
    // Both have devices: neither is a certificate that was made anew.
    let renewed = world.apns.issue_certificate_until(TOPIC, START_MS + 300 * DAY_MS).unwrap();
    let mut seen = Seen::default();
    write(&world, &renewed);
    look(&world, &mut seen).await;
    let ends = async || {
        let push = world.server.get("/push").await;
        let senders = push["senders"].as_array().unwrap().clone();
        senders.iter().find(|sender| sender["topic"] == TOPIC).unwrap()["credential_ends_at_ms"].as_i64()
    };
    world.server.until("the renewed one is in use", async || ends().await == Some(renewed.not_after_ms)).await;
    let brought = world.apns.issue_certificate_until(TOPIC, START_MS + 200 * DAY_MS).unwrap();
    world.replace_certificate(&brought).await.expect(200);
    // The file's has ended: who takes the API's away would leave a device uncalled.
    write(&world, &world.apns.issue_certificate_until(TOPIC, START_MS - DAY_MS).unwrap());
    look(&world, &mut seen).await;
    let refused = world.server.delete(&format!("/push/apns-mdm?topic={TOPIC}")).await.expect(409);
    assert_eq!((&refused["code"], &refused["devices"]), (&"credential_needed".into(), &1.into()));
    world.server.delete(&format!("/push/apns-mdm?topic={TOPIC}&force=true")).await.expect(204);
    world.server.until("it is told", async || world.open_alarms().await.contains(&"topic_unconfigured".to_owned())).await;
    look(&world, &mut seen).await;
    world.server.until("of the file too", async || told(&world).await.contains("the certificate ended before now")).await;
    world.locate(&[&managed.id]).await;
    let tasks = world.server.get(&format!("/devices/{}/tasks?state=queued", managed.id)).await;
    assert_eq!(tasks["items"][0]["reason"], "push_unconfigured", "{tasks}");
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_app_is_refused_with_the_devices_that_have_this_one() {
    let world = Apns::start().await;
    let _phone = world.iphone("one").await;
    let key = world.apns.issue_key("KEY0000002", &["org.example.other"]).unwrap();
    let body = |topic: &str| serde_json::json!({"key": key.p8, "key_id": key.key_id, "team_id": key.team_id, "topic": topic});
    let refused = world.server.put("/push/apns-app", body("org.example.other")).await.expect(409);
    assert_eq!((&refused["code"], &refused["devices"]), (&"topic_differs".into(), &1.into()));
    world.server.put("/push/apns-app", body(crate::support::apns::APP)).await.expect(200);
    world.server.put("/push/apns-app?force=true", body("org.example.other")).await.expect(200);
    assert_eq!(world.sender("apns_app").await["topic"], "org.example.other");
    // The same of a project.
    let _android = world.server.phone("android").await;
    let account: serde_json::Value = serde_json::from_slice(&world.server.fcm.service_account_of("another-project")).unwrap();
    let refused = world.server.put("/push/fcm", account.clone()).await.expect(409);
    assert_eq!((&refused["code"], &refused["devices"]), (&"project_differs".into(), &1.into()));
    world.server.put("/push/fcm?force=true", account).await.expect(200);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_an_app_is_followed_as_well() {
    let world = Apns::start().await;
    let mut phone = world.iphone("one").await;
    let mut seen = Seen::default();
    world.write("app.p8", "-----BEGIN PRIVATE KEY-----\nhalf of it");
    look(&world, &mut seen).await;
    world.server.until("it is told", async || told(&world).await.starts_with("push.apns_app: ")).await;
    assert!(!told(&world).await.contains("half of it"));
    world.locate(&[&phone.device.id]).await;
    world.nudged_after_ms(&mut phone, 30_000, 60 * 60_000).await;
    let key = world.apns.issue_key(crate::support::apns::KEY_ID, &[crate::support::apns::APP]).unwrap();
    world.write("app.p8", &key.p8);
    look(&world, &mut seen).await;
    world.server.until("the alarm ends", async || told(&world).await.is_empty()).await;
    assert_eq!(world.sender("apns_app").await["state"], "ok");
    world.server.stop().await;
}
