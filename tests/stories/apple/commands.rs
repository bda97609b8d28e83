//! Tasks become commands, and commands' statuses become the tasks' ends.

use plist::Dictionary;
use serde_json::{Value, json};

use crate::support::apple::{AppleDevice, behind_proxy};
use crate::support::server::{TestServer, each_with};

/// Runs a story on both databases behind a proxy.
pub async fn each(story: impl AsyncFn(TestServer)) {
    each_with(behind_proxy, story).await;
}

/// The one task of a fresh job for one device.
pub async fn task(server: &TestServer, kind: &str, params: Value, device: &str) -> String {
    let job = server.post("/jobs", json!({"kind": kind, "params": params, "target": {"devices": [device]}})).await.expect(202);
    let tasks = server.get(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
    tasks["items"][0]["id"].as_str().unwrap().to_owned()
}

pub async fn state(server: &TestServer, task: &str) -> String {
    server.get(&format!("/tasks/{task}")).await["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_iphone_enrolls_is_locked_and_its_acknowledgement_ends_the_task() {
    each(async |server| {
        let phone = AppleDevice::named("A");
        phone.authenticate(&server).await.expect(200);
        assert_eq!(server.get(&format!("/devices/{}", phone.udid)).await["state"], "expected");
        phone.token_update(&server, Dictionary::new()).await.expect(200);
        let device = server.get(&format!("/devices/{}", phone.udid)).await;
        assert_eq!(
            (&device["state"], &device["platform"], &device["channels"][0]["kind"]),
            (&json!("active"), &json!("ios"), &json!("mdm"))
        );
        assert_eq!(device["channels"][0]["push_state"], "active");
        phone.settle(&server).await;
        let lock = task(&server, "lock", json!({"message": "lost"}), &phone.serial).await;
        let told = phone.idle(&server).await;
        let (uuid, command) = told.command().unwrap();
        assert_eq!(uuid, lock);
        assert_eq!(command.get("RequestType").and_then(plist::Value::as_string), Some("DeviceLock"));
        assert_eq!(command.get("Message").and_then(plist::Value::as_string), Some("lost"));
        assert_eq!(state(&server, &lock).await, "delivered");
        assert!(phone.acknowledge(&server, &uuid).await.command().is_none());
        let shown = server.get(&format!("/tasks/{lock}")).await;
        assert_eq!((shown["state"].as_str(), shown["channel"].as_str()), (Some("done"), Some("mdm")));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_command_is_given_again_under_the_same_id_until_its_status_comes_and_a_repeat_changes_nothing() {
    each(async |server| {
        let phone = AppleDevice::named("B");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let (change, urgent) =
            (task(&server, "refresh", json!({"what": "security"}), &id).await, task(&server, "restart", json!({}), &id).await);
        assert_eq!(phone.idle(&server).await.request(), (urgent.clone(), "RestartDevice".into()), "the urgent one overtakes");
        assert_eq!(phone.idle(&server).await.request().0, urgent, "again, under the same id");
        assert_eq!(phone.acknowledge(&server, &urgent).await.request(), (change.clone(), "SecurityInfo".into()));
        assert_eq!(phone.acknowledge(&server, &urgent).await.request().0, change, "a repeat is answered alike");
        assert_eq!(phone.acknowledge(&server, "what is this").await.request().0, change, "so is an unknown id");
        let other = AppleDevice::named("C");
        other.enroll(&server).await;
        let told = other.acknowledge(&server, &change).await;
        assert!(told.command().is_some_and(|(uuid, _)| uuid != change), "another device's command is not ended");
        assert_eq!(state(&server, &change).await, "delivered");
        assert!(phone.acknowledge(&server, &change).await.command().is_none());
        assert_eq!((state(&server, &urgent).await, state(&server, &change).await), ("done".into(), "done".into()));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_device_puts_off_is_skipped_then_offered_again_and_the_server_asks_after_it() {
    each(async |server| {
        let phone = AppleDevice::named("D");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let first = task(&server, "apple_command", json!({"command": {"RequestType": "Settings", "Settings": []}}), &id).await;
        let second = task(&server, "refresh", json!({"what": "profiles"}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, first);
        assert_eq!(phone.connect(&server, "NotNow", Some(&first), Dictionary::new()).await.request().0, second);
        let put_off = server.get(&format!("/tasks/{first}")).await;
        assert_eq!((put_off["state"].as_str(), put_off["reason"].as_str()), (Some("not_now"), Some("device_locked")));
        assert_eq!(
            (&put_off["progress"]["not_now"]["count"], &put_off["progress"]["not_now"]["first_at_ms"]),
            (&json!(1), &json!(server.clock.now_ms()))
        );
        assert_eq!(phone.acknowledge(&server, &second).await.request().0, first, "once more in the same conversation");
        assert!(phone.connect(&server, "NotNow", Some(&first), Dictionary::new()).await.command().is_none());
        assert_eq!(state(&server, &first).await, "not_now");
        assert_eq!(phone.idle(&server).await.request().0, first, "the device came by itself");
        assert_eq!(state(&server, &first).await, "not_now", "to be idle changes nothing");
        assert!(phone.acknowledge(&server, &first).await.command().is_none());
        assert_eq!(state(&server, &first).await, "done");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_own_words_for_an_error_are_kept_and_a_command_it_cannot_read_alarms() {
    each(async |server| {
        let phone = AppleDevice::named("E");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let (lock, raw) = (
            task(&server, "lock", json!({}), &id).await,
            task(&server, "apple_command", json!({"command": {"RequestType": "Nonsense"}}), &id).await,
        );
        phone.idle(&server).await;
        let mut error = crate::support::apple::texts(&[("ErrorDomain", "MCMDMErrorDomain"), ("USEnglishDescription", "No passcode")]);
        error.insert("ErrorCode".into(), plist::Value::Integer(12009.into()));
        let chain: Dictionary =
            [("ErrorChain".to_owned(), plist::Value::Array(vec![plist::Value::Dictionary(error)]))].into_iter().collect();
        assert_eq!(phone.connect(&server, "Error", Some(&lock), chain).await.request().0, raw);
        let failed = server.get(&format!("/tasks/{lock}")).await;
        assert_eq!((failed["state"].as_str(), failed["error"]["code"].as_str()), (Some("failed"), Some("MCMDMErrorDomain 12009")));
        assert_eq!(failed["error"]["chain"][0], json!({"code": 12009, "domain": "MCMDMErrorDomain", "message": "No passcode"}));
        assert!(phone.connect(&server, "CommandFormatError", Some(&raw), Dictionary::new()).await.command().is_none());
        assert_eq!(state(&server, &raw).await, "failed");
        let alarms = server.get("/alarms").await;
        assert!(alarms["items"].as_array().unwrap().iter().any(|alarm| alarm["kind"] == "apple_command_format"), "{alarms}");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_is_asked_about_itself_after_it_enrolled_and_again_when_the_answers_are_old() {
    each(async |server| {
        let phone = AppleDevice::named("F");
        let id = phone.enroll(&server).await;
        let lock = task(&server, "lock", json!({}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, lock, "operators' commands come first");
        let (uuid, request) = phone.acknowledge(&server, &lock).await.request();
        assert_eq!(request, "DeviceInformation");
        let mut answers = crate::support::apple::texts(&[("OSVersion", "18.2"), ("ProductName", "iPhone15,2")]);
        answers.insert("BatteryLevel".into(), plist::Value::Real(0.5));
        let answers: Dictionary = [("QueryResponses".to_owned(), plist::Value::Dictionary(answers))].into_iter().collect();
        let told = phone.connect(&server, "Acknowledged", Some(&uuid), answers).await;
        let (uuid, request) = told.request();
        assert_eq!(request, "SecurityInfo");
        let security: Dictionary = [("PasscodePresent", true), ("PasscodeCompliant", false)]
            .into_iter()
            .map(|(key, flag)| (key.to_owned(), plist::Value::Boolean(flag)))
            .collect();
        let security: Dictionary = [("SecurityInfo".to_owned(), plist::Value::Dictionary(security))].into_iter().collect();
        let mut told = phone.connect(&server, "Acknowledged", Some(&uuid), security).await;
        while let Some((uuid, _)) = told.command() {
            told = phone.acknowledge(&server, &uuid).await;
        }
        let device = server.get(&format!("/devices/{id}")).await;
        assert_eq!((&device["facts"]["battery_percent"], &device["os_version"]), (&json!(50), &json!("18.2")));
        let findings = server.get("/findings").await;
        assert!(findings["items"].as_array().unwrap().iter().any(|finding| finding["kind"] == "password_not_compliant"), "{findings}");
        assert!(phone.idle(&server).await.command().is_none(), "nothing more until the answers are old");
        server.advance(10_800_000);
        assert_eq!(phone.idle(&server).await.request().1, "DeviceInformation");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_operators_own_command_keeps_its_id_and_a_second_with_the_same_id_is_a_duplicate() {
    each(async |server| {
        let phone = AppleDevice::named("G");
        let id = phone.enroll(&server).await;
        phone.settle(&server).await;
        let order = json!({"kind": "apple_command", "params": {"command": {"RequestType": "ProfileList"}, "command_uuid": "MY-OWN"}, "target": {"devices": [id]}});
        let job = server.post("/jobs", order.clone()).await.expect(202);
        assert_eq!(job["tasks"], 1);
        let again = server.post("/jobs", order).await.expect(202);
        assert_eq!((&again["tasks"], &again["duplicate_devices"]), (&json!(0), &json!([id])));
        assert_eq!(phone.idle(&server).await.request(), ("MY-OWN".into(), "ProfileList".into()));
        let list: Dictionary = [("ProfileList".to_owned(), plist::Value::Array(vec![]))].into_iter().collect();
        assert!(phone.connect(&server, "Acknowledged", Some("MY-OWN"), list).await.command().is_none());
        let tasks = server.get(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
        assert_eq!((&tasks["items"][0]["state"], &tasks["items"][0]["result"]), (&json!("done"), &json!({"ProfileList": []})));
        let wrong = json!({"kind": "apple_command", "params": {"command": {"No": 1}}, "target": {"devices": [id]}});
        let problem = server.post("/jobs", wrong).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], "/params/command");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn one_device_that_cannot_does_not_stop_the_others_of_a_job() {
    each(async |server| {
        let (phone, mac) = (AppleDevice::named("H"), AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("I") });
        let (phone_id, mac_id) = (phone.enroll(&server).await, mac.enroll(&server).await);
        let job = server.post("/jobs", json!({"kind": "clear_passcode", "target": {"devices": [phone_id, mac_id]}})).await.expect(202);
        let tasks = server.get(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
        let of = |id: &str| tasks["items"].as_array().unwrap().iter().find(|task| task["device_id"] == id).unwrap().clone();
        assert_eq!((of(&mac_id)["state"].as_str(), of(&mac_id)["error"]["code"].as_str()), (Some("failed"), Some("unsupported")));
        let told = phone.idle(&server).await;
        assert!(told.command().unwrap().0.starts_with("refresh."), "without an unlock token it fails, and the rest goes on");
        let failed = server.get(&format!("/tasks/{}", of(&phone_id)["id"].as_str().unwrap())).await;
        assert_eq!((failed["state"].as_str(), failed["error"]["code"].as_str()), (Some("failed"), Some("unlock_token_missing")));
        server
            .until("the job's end", async || server.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await["state"] == "done")
            .await;
        let unlock: Dictionary = [("UnlockToken".to_owned(), plist::Value::Data(b"open".to_vec()))].into_iter().collect();
        phone.token_update(&server, unlock).await.expect(200);
        phone.token_update(&server, Dictionary::new()).await.expect(200);
        let clear = task(&server, "clear_passcode", json!({}), &phone_id).await;
        let (uuid, command) = phone.idle(&server).await.command().unwrap();
        assert_eq!(
            (uuid, command.get("UnlockToken").and_then(plist::Value::as_data)),
            (clear, Some(b"open".as_slice())),
            "a later silence keeps it"
        );
        server.stop().await;
    })
    .await;
}
