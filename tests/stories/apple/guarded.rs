//! Commands that operators wrote: what they erase is counted, their secrets are kept, and none of them holds up a device for ever.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use muster::config::Config;
use muster::model::{Id, Lane, Role};
use muster::protocol::apple::profile;
use muster::store::Class;
use muster::store::tasks::{self, NewTask, Of};
use plist::Dictionary;
use serde_json::{Value, json};

use super::commands::state;
use crate::support::apple::{AppleDevice, each_quiet, quiet};
use crate::support::server::{TestServer, each_with};

const PIN: &str = "987654";

/// A server that lets one device an hour be wiped, and asks devices nothing by itself.
fn strict(config: &mut Config) {
    quiet(config);
    config.limits.wipes_per_hour = 1;
}

fn order(params: Value, device: &str) -> Value {
    json!({"kind": "apple_command", "params": params, "target": {"devices": [device]}})
}

/// A command with these texts as a property list.
fn listed(keys: &[(&str, &str)]) -> Value {
    let keys: String = keys.iter().map(|(key, text)| format!("<key>{key}</key><string>{text}</string>")).collect();
    json!({"plist": STANDARD.encode(format!("<plist><dict><key>Command</key><dict>{keys}</dict></dict></plist>"))})
}

fn path(job: &Value) -> String {
    format!("/jobs/{}", job["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_command_that_erases_a_device_or_ends_its_management_counts_as_a_wipe_in_either_form() {
    each_with(strict, async |server| {
        let (first, phone) = (AppleDevice::named("A"), AppleDevice::named("B"));
        let (first_id, id) = (first.enroll(&server).await, phone.enroll(&server).await);
        let spent = server.post("/jobs", order(json!({"command": {"RequestType": "EraseDevice"}}), &first_id)).await.expect(202);
        assert_eq!(spent["state"], "running", "within the budget");
        assert_eq!(first.idle(&server).await.request().1, "EraseDevice");
        let enrollment = profile::identifier(&server.config.public_url);
        for params in [
            json!({"command": {"RequestType": "EraseDevice"}}),
            listed(&[("RequestType", "EraseDevice"), ("PIN", PIN)]),
            json!({"command": {"RequestType": "RemoveProfile", "Identifier": enrollment}}),
            listed(&[("RequestType", "RemoveProfile"), ("Identifier", &enrollment)]),
        ] {
            let job = server.post("/jobs", order(params.clone(), &id)).await.expect(202);
            assert_eq!((&job["state"], &job["counts"]), (&json!("awaiting_approval"), &json!({"awaiting_approval": 1})), "{params}");
            assert!(phone.idle(&server).await.command().is_none(), "nothing goes out while it waits");
            server.post(&format!("{}/reject", path(&job)), json!({})).await.expect(200);
        }
        let other = json!({"command": {"RequestType": "RemoveProfile", "Identifier": "org.example.wifi"}});
        assert_eq!(server.post("/jobs", order(other, &id)).await.expect(202)["state"], "running");
        let (uuid, _) = phone.idle(&server).await.request();
        assert!(phone.acknowledge(&server, &uuid).await.command().is_none());
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_erasure_goes_out_once_a_second_person_approved_it_and_is_not_ordered_again_above_the_budget() {
    each_with(strict, async |server| {
        let (first, phone) = (AppleDevice::named("A"), AppleDevice::named("B"));
        let (first_id, id) = (first.enroll(&server).await, phone.enroll(&server).await);
        server.post("/jobs", json!({"kind": "wipe", "target": {"devices": [first_id]}})).await.expect(202);
        let job = server.post("/jobs", order(listed(&[("RequestType", "EraseDevice"), ("PIN", PIN)]), &id)).await.expect(202);
        let second = server.operator("second", Role::Operator).await;
        second.call("POST", &format!("{}/approve", path(&job)), None).await.expect(200);
        let (uuid, command) = phone.idle(&server).await.command().unwrap();
        assert_eq!(command.get("PIN").and_then(plist::Value::as_string), Some(PIN));
        assert!(phone.connect(&server, "Error", Some(&uuid), Dictionary::new()).await.command().is_none());
        let refused = second.call("POST", &format!("{}/retry", path(&job)), None).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("budget_exceeded")));
        let refused = second.call("POST", &format!("/tasks/{uuid}/retry"), None).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("budget_exceeded")));
        // The console asks whoever erases this way as well whether they know what they do.
        let form = [("kind", "apple_command"), ("aim", "devices"), ("device", &*id), ("p_command", "{\"RequestType\": \"EraseDevice\"}")];
        let page = second.post("/jobs/new", &form).await;
        assert!(page.status == 422 && page.text.contains("name=\"sure\""), "{}", page.text);
        let page = second.submit("/jobs/new", &[&form[..], &[("sure", "yes")]].concat()).await;
        assert!(page.text.contains("awaiting approval"), "{}", page.text);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_id_as_the_server_gives_them_is_refused_and_a_task_that_has_one_ends() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("A");
        let id = phone.enroll(&server).await;
        let told = json!({"command": {"RequestType": "ProfileList"}, "command_uuid": "MY-OWN"});
        let job = server.post("/jobs", order(told, &id)).await.expect(202);
        let task = server.get(&format!("{}/tasks", path(&job))).await["items"][0].clone();
        for taken in ["refresh.1.0", "uninstall.x", "lost_mode_off.x", task["id"].as_str().unwrap()] {
            let params = json!({"command": {"RequestType": "ProfileList"}, "command_uuid": taken});
            let problem = server.post("/jobs", order(params, &id)).await.expect(422);
            assert_eq!(problem["errors"][0]["pointer"], "/params/command_uuid", "{taken}");
        }
        assert_eq!(phone.idle(&server).await.request().0, "MY-OWN");
        assert!(phone.acknowledge(&server, "MY-OWN").await.command().is_none());
        // One that was stored before such ids were refused.
        let device: Id = id.parse().unwrap();
        let now_ms = server.clock.now_ms();
        let left = NewTask {
            bucket: device.bucket(),
            id: Id::v7(now_ms, [5; 10]).in_bucket_of(device),
            device_id: device,
            channel_id: server.get(&format!("/devices/{id}")).await["channels"][0]["id"].as_str().unwrap().parse().unwrap(),
            state: "queued".into(),
            expires_at_ms: now_ms + 1_000_000,
            finished_at_ms: None,
            error: None,
            command_uuid: Some("refresh.1.0".into()),
        };
        let mut conn = server.app.db.begin(Class::Operators).await.unwrap();
        let of = Of { job_id: job["id"].as_str().unwrap().parse().unwrap(), kind: "apple_command", lane: Lane::Change.rank() };
        tasks::insert(&mut conn, of, std::slice::from_ref(&left), now_ms).await.unwrap();
        conn.commit().await.unwrap();
        assert_eq!(phone.idle(&server).await.request(), ("refresh.1.0".into(), "ProfileList".into()));
        assert!(phone.acknowledge(&server, "refresh.1.0").await.command().is_none(), "it is not given again");
        assert_eq!(state(&server, &left.id.to_string()).await, "done");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_property_list_cannot_say_is_refused_with_its_place() {
    each_quiet(async |server| {
        let id = AppleDevice::named("A").enroll(&server).await;
        for (kind, params, pointer) in [
            ("lock", json!({"message": "a\u{1}b"}), "/params/message"),
            ("lock", json!({"message": "a\u{b}b"}), "/params/message"),
            ("lock", json!({"phone": "\u{fffe}"}), "/params/phone"),
            ("remove_app", json!({"app": "org.example\u{ffff}"}), "/params/app"),
            ("apple_command", json!({"command": {"RequestType": "X"}, "command_uuid": "\u{1}"}), "/params/command_uuid"),
            ("apple_command", json!({"command": {"RequestType": "X", "Items": ["\u{1}"]}}), "/params/command/Items/0"),
        ] {
            let problem = server.post("/jobs", json!({"kind": kind, "params": params, "target": {"devices": [id]}})).await.expect(422);
            assert_eq!(problem["errors"][0]["pointer"], pointer);
        }
        let apple = json!({"payloads": [{"PayloadType": "com.apple.webClip.managed", "Label": "a\u{1}b"}]});
        let problem = server.put("/policies/one", json!({"document": {"apple": apple}})).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], "/document/apple/payloads/0/Label");
        let lines = server.post("/jobs", json!({"kind": "lock", "params": {"message": "a\tb\nc"}, "target": {"devices": [id]}})).await;
        lines.expect(202);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_secrets_of_a_command_are_shown_to_nobody_and_told_to_the_device() {
    each_quiet(async |server: TestServer| {
        let phone = AppleDevice::named("A");
        let id = phone.enroll(&server).await;
        let viewer = server.operator("viewer", Role::Viewer).await;
        let lock = json!({"command": {"RequestType": "DeviceLock", "PIN": PIN, "Message": "call us"}});
        for params in [lock, listed(&[("RequestType", "DeviceLock"), ("PIN", PIN), ("Message", "call us")])] {
            let hidden = params["plist"].as_str().unwrap_or(PIN).to_owned();
            let job = server.post("/jobs", order(params.clone(), &id)).await.expect(202);
            let task = server.get(&format!("{}/tasks", path(&job))).await["items"][0].clone();
            let shown = json!({"RequestType": "DeviceLock", "PIN": "***", "Message": "call us"});
            assert_eq!((&job["params"]["command"], &task["params"]["command"]), (&shown, &shown));
            let (uuid, command) = phone.idle(&server).await.command().unwrap();
            let text = |key: &str| command.get(key).and_then(plist::Value::as_string).unwrap().to_owned();
            assert_eq!((text("PIN"), text("Message")), (PIN.to_owned(), "call us".to_owned()));
            assert!(phone.acknowledge(&server, &uuid).await.command().is_none());
            for page in [path(&job), format!("/devices/{id}"), "/jobs".into(), "/tasks".into(), "/audit".into()] {
                let html = viewer.get(&page).await;
                assert!(html.status == 200 && !html.text.contains(PIN) && !html.text.contains(&hidden), "{page}: {}", html.text);
            }
            for list in
                [path(&job), format!("{}/tasks", path(&job)), format!("/tasks/{uuid}"), "/jobs".into(), "/feed".into(), "/audit".into()]
            {
                let said = viewer.call("GET", &list, None).await.expect(200).to_string();
                assert!(!said.contains(PIN) && !said.contains(&hidden), "{list}: {said}");
            }
        }
        server.stop().await;
    })
    .await;
}
