//! Tasks become commands, and commands' statuses become the tasks' ends.

use plist::Dictionary;
use serde_json::{Value, json};

use crate::support::apple::{AppleDevice, behind_proxy};
use crate::support::postgres;
use crate::support::server::TestServer;

/// Runs a story on both databases behind a proxy.
pub async fn each(story: impl AsyncFn(TestServer)) {
    story(TestServer::with(behind_proxy).await).await;
    if let Some(url) = postgres::fresh_database().await {
        eprintln!("on PostgreSQL");
        story(TestServer::at(&url, None, behind_proxy).await).await;
    }
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
