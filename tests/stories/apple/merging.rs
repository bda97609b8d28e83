//! An app on an iPhone activated by itself and made a device of its own: an operator joins it to the one that Apple's MDM made.

use muster::change;
use muster::error::Error;
use muster::model::{Actor, Id, Role};
use muster::ops::devices;
use muster::store::Class;
use muster::store::jobs::{self, JobRow};
use plist::Dictionary;
use serde_json::{Value, json};

use super::commands::{each, state, task};
use crate::support::apple::AppleDevice;
use crate::support::device::TestDevice;
use crate::support::server::TestServer;

pub const EMAIL: &str = "one@example.org";

/// An app on iOS that activates by a token that names no device, with its first syncs behind it.
pub async fn app(server: &TestServer, hardware_id: &str, token: &str) -> TestDevice {
    let device = json!({"platform": "ios", "app": "org.example.agent", "hardware_id": hardware_id, "model": "iPhone", "os_version": "18.0",
        "agent_version": "2.1", "management_mode": "app"});
    let push = server.fcm.register();
    let address = json!({"provider": "fcm", "kind": "token", "value": push});
    let answer = server.activate(&json!({"token": token, "email": EMAIL, "device": device, "push": address}), None).await.expect(201);
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    let app = TestDevice { id: text("device_id"), token: text("device_token"), push, hardware_id: hardware_id.into() };
    let facts = json!({"battery_percent": 70, "os_version": "18.0", "encrypted": false});
    let first = app.sync(server, json!({"cause": "launch", "policy": {"version": null}, "facts": facts})).await.expect(200);
    let version = &first["policy"]["version"];
    app.sync(server, json!({"cause": "launch", "policy": {"version": version, "details": []}})).await.expect(200);
    app
}

/// An iPhone that Apple's MDM manages, of the same user.
pub async fn iphone(server: &TestServer, name: &str) -> (AppleDevice, String) {
    let phone = AppleDevice::named(name);
    let id = phone.enroll(server).await;
    server.call("PATCH", &format!("/devices/{id}"), Some(json!({"user": EMAIL}))).await.expect(200);
    phone.settle(server).await;
    (phone, id)
}

async fn merge(server: &TestServer, from: &str, into: &str) -> crate::support::server::Reply {
    server.post(&format!("/devices/{from}/merge"), json!({"into": into})).await
}

fn malware(event_id: &str, seq: i64, at_ms: i64) -> Value {
    json!([{"event_id": event_id, "type": "malware_unresolved", "seq": seq, "occurred_at_ms": at_ms, "first_attempt_at_ms": at_ms, "attempt": 1,
        "boot_id": "b", "uptime_ms": 1, "policy_version": null, "data": {"threat": "t", "detected_at_ms": at_ms}}])
}

#[tokio::test]
async fn an_app_and_an_iphone_become_one_device_and_the_app_goes_on_as_if_nothing_had_happened() {
    each(async |server| {
        server.user(EMAIL).await;
        let token = server.enrollment_token().await;
        let (app, (phone, into)) = (app(&server, "app-1", &token).await, iphone(&server, "1").await);
        for (label, device) in [("staff", &app.id), ("loan", &into)] {
            server.put(&format!("/labels/{label}"), json!({"description": "d"})).await.expect(201);
            server.put(&format!("/labels/{label}/devices"), json!({"devices": [device]})).await.expect(204);
        }
        let document = json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED"}});
        server.put("/policies/loan", document).await.expect(201);
        server
            .put("/policies/loan/assignments", json!({"assignments": [{"label": "loan", "mode": "include", "rank": 1}]}))
            .await
            .expect(200);
        // One message is done, one is on the phone, one waits; malware is found, and the answer to that is lost.
        let (done, held, waiting) = {
            let done = task(&server, "message", json!({"text": "done"}), &app.id).await;
            let given = app.visit(&server, "push").await["tasks"].clone();
            app.report(&server, given.as_array().unwrap(), "done").await;
            let held = task(&server, "message", json!({"text": "held"}), &app.id).await;
            assert_eq!(app.visit(&server, "push").await["tasks"][0]["id"], json!(held));
            (done, held, task(&server, "message", json!({"text": "waits"}), &app.id).await)
        };
        let now_ms = server.clock.now_ms();
        let found = malware("0198f3a2-7c4e-7b1a-9f00-3c2d1e0f4a5b", 1, now_ms);
        assert_eq!(app.events(&server, found.clone()).await.expect(200)["events"][0]["outcome"], "recorded");

        let merged = merge(&server, &app.id, &phone.serial).await.expect(200);
        assert_eq!(merged["id"], json!(into));
        let mut kinds: Vec<&str> = merged["channels"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["agent", "mdm"]);
        assert_eq!((&merged["labels"], &merged["agent_version"]), (&json!(["loan", "staff"]), &json!("2.1")));
        assert_eq!((&merged["model"], &merged["management_mode"]), (&json!("iPhone15,2"), &json!("mdm")), "the system's word weighs more");
        assert_eq!(merged["facts"]["battery_percent"], 70);
        // One device is left, and its former id leads to it.
        let listed = server.get("/devices").await;
        let ids: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|device| &device["id"]).collect();
        assert_eq!(ids, [&json!(into)]);
        assert_eq!(server.get(&format!("/devices/{}", app.id)).await["id"], json!(into));
        // What it did and told is the device's.
        let tasks = server.get(&format!("/devices/{into}/tasks")).await;
        let tasks: Vec<(String, String)> =
            tasks["items"].as_array().unwrap().iter().filter(|task| task["kind"] == "message").map(told).collect();
        let named = |state: &str| tasks.iter().find(|(_, is)| is == state).map(|(id, _)| id.clone()).unwrap();
        assert_eq!((tasks.len(), same(&named("done"), &done), same(&named("delivered"), &held)), (3, true, true), "{tasks:?}");
        let findings = server.get("/findings").await;
        let open: Vec<&Value> = findings["items"].as_array().unwrap().iter().filter(|finding| finding["kind"] == "malware").collect();
        assert_eq!((open.len(), &open[0]["device_id"], &open[0]["closed_at_ms"]), (1, &json!(into), &Value::Null));
        assert_eq!(server.get(&format!("/devices/{into}/events")).await["items"].as_array().unwrap().len(), 1);
        assert!(server.get(&format!("/devices/{into}/contacts")).await["items"].as_array().unwrap().len() > 2);

        // A task is found by the id that it had, too.
        for (was, is) in [(&done, "done"), (&held, "delivered"), (&waiting, "queued")] {
            let shown = server.get(&format!("/tasks/{was}")).await;
            assert_eq!((&shown["device_id"], &shown["state"]), (&json!(into), &json!(is)), "{shown}");
            assert!(same(shown["id"].as_str().unwrap(), was));
        }
        server.call("GET", &format!("/tasks/{}", app.id), None).await.expect(404);

        // The app knows nothing of it: its token, its task's id and the event that it sends again are those that it had.
        let again = app.events(&server, found).await.expect(200);
        assert_eq!(again["events"][0]["outcome"], "duplicate");
        let body = json!({"cause": "push", "have": [held], "policy": {"version": "x", "details": []}});
        let told = app.sync(&server, body).await.expect(200);
        let given = told["tasks"].as_array().unwrap();
        assert_eq!(
            (given.len(), &given[0]["params"]["text"], same(given[0]["id"].as_str().unwrap(), &waiting)),
            (1, &json!("waits"), true)
        );
        assert_eq!(told["policy"]["document"]["cameraAccess"], "CAMERA_ACCESS_DISABLED", "it has the labels of both");
        let told = app.report(&server, &[json!({"id": held}), given[0].clone()], "done").await;
        let outcomes = told["results"].as_array().unwrap();
        assert_eq!((&outcomes[0]["task_id"], &outcomes[0]["outcome"]), (&json!(held), &json!("recorded")), "in its own words");
        assert_eq!((&outcomes[1]["task_id"], &outcomes[1]["outcome"]), (&given[0]["id"], &json!("recorded")));
        assert_eq!(app.report(&server, &[json!({"id": held})], "done").await["results"][0]["outcome"], "duplicate");
        for id in [named("delivered"), given[0]["id"].as_str().unwrap().to_owned()] {
            assert_eq!(state(&server, &id).await, "done");
        }
        // Each does what it can do; a nudge finds the app.
        let lock = task(&server, "lock", json!({}), &app.id).await;
        assert_eq!(phone.idle(&server).await.request(), (lock.clone(), "DeviceLock".into()));
        phone.acknowledge(&server, &lock).await;
        let fresh = task(&server, "message", json!({"text": "fresh"}), &into).await;
        assert_eq!(app.visit(&server, "push").await["tasks"][0]["id"], json!(fresh));
        // It renews its token by the one that it has; the phone's own goes on as well.
        let device = json!({"platform": "ios", "app": "org.example.agent", "hardware_id": "app-1", "model": "iPhone", "os_version": "18.0",
            "agent_version": "2.1", "management_mode": "app"});
        let renewed = server.activate(&json!({"device": device}), Some(&app.token)).await.expect(200);
        assert_eq!(renewed["device_id"], json!(into));
        let renewed = TestDevice { token: renewed["device_token"].as_str().unwrap().into(), ..app.clone() };
        assert_eq!(renewed.visit(&server, "push").await["tasks"][0]["id"], json!(fresh));
        assert_eq!(app.sync(&server, json!({"cause": "push"})).await.expect(401)["code"], "token_replaced");
        // The app installed anew comes by the token it came with, to the same device.
        let again = server.activate(&json!({"token": token, "email": EMAIL, "device": device}), None).await.expect(201);
        assert_eq!(again["device_id"], json!(into));

        server.until("it is told", async || !merged_entries(&server).await.is_empty()).await;
        let entry = merged_entries(&server).await.remove(0);
        assert_eq!((&entry["actor"], &entry["device_id"], &entry["data"]["merged"]), (&json!("key:test"), &json!(into), &json!(app.id)));
        assert_eq!(entry["data"]["before"][0]["labels"], json!(["staff"]));
        assert_eq!(entry["data"]["after"]["labels"], json!(["loan", "staff"]));
        assert_eq!(entry["data"]["tasks"].as_array().unwrap().len(), 2);
        // When the device goes, so does the former name.
        server.call("DELETE", &format!("/devices/{}", app.id), None).await.expect(204);
        server.call("GET", &format!("/devices/{}", app.id), None).await.expect(404);
        assert_eq!(renewed.sync(&server, json!({"cause": "push"})).await.expect(401)["code"], "device_unknown");
        assert_eq!(app.sync(&server, json!({"cause": "push"})).await.expect(401)["code"], "device_unknown");
        server.stop().await;
    })
    .await;
}

async fn merged_entries(server: &TestServer) -> Vec<Value> {
    let entries = server.get("/audit?limit=1000").await["items"].as_array().unwrap().clone();
    entries.into_iter().filter(|entry| entry["kind"] == "device.merged").collect()
}

fn told(task: &Value) -> (String, String) {
    (task["id"].as_str().unwrap().to_owned(), task["state"].as_str().unwrap().to_owned())
}

/// True where two ids are one in two buckets.
fn same(one: &str, other: &str) -> bool {
    let parse = |text: &str| text.parse::<muster::model::Id>().unwrap();
    let (one, other) = (parse(one), parse(other));
    one.in_bucket_of(other) == other
}

#[tokio::test]
async fn which_device_it_is_the_system_says_and_not_the_app() {
    each(async |server| {
        server.user(EMAIL).await;
        let app = app(&server, "app-1", &server.enrollment_token().await).await;
        let (_, into) = iphone(&server, "1").await;
        merge(&server, &app.id, &into).await.expect(200);
        let shown = async || server.get(&format!("/devices/{into}")).await;
        let who = |device: &Value| ["model", "os_version", "serial"].map(|name| device[name].clone());
        let before = shown().await;
        let says = json!({"model": "iPhone", "os_version": "17.0", "serial": "of the app", "battery_percent": 31});
        app.sync(&server, json!({"cause": "periodic", "facts": says})).await.expect(200);
        let event = |seq: i64, key: &str, value: Value| {
            let now_ms = server.clock.now_ms();
            json!({"event_id": format!("0198f3a2-7c4e-7b1a-9f00-{seq:012}"), "type": "fact_changed", "seq": seq, "occurred_at_ms": now_ms,
                "first_attempt_at_ms": now_ms, "attempt": 1, "data": {"key": key, "value": value}})
        };
        app.events(&server, json!([event(1, "os_version", json!("16.0")), event(2, "locale", json!("de"))])).await.expect(200);
        let after = shown().await;
        assert_eq!((who(&after), who(&after["facts"])), (who(&before), who(&before["facts"])));
        assert_eq!(
            (&after["facts"]["battery_percent"], &after["facts"]["locale"]),
            (&json!(31), &json!("de")),
            "all else is the app's to tell"
        );
        assert_eq!(server.get(&format!("/devices/{}", before["serial"].as_str().unwrap())).await["id"], json!(into));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_not_two_halves_of_one_phone_is_not_merged() {
    each(async |server| {
        server.user(EMAIL).await;
        server.user("two@example.org").await;
        let token = server.enrollment_token().await;
        let first = app(&server, "app-1", &token).await;
        let second = app(&server, "app-2", &token).await;
        let android = server.phone("a").await;
        let ((_, into), (_, other)) = (iphone(&server, "1").await, iphone(&server, "2").await);
        let refused = async |from: &str, into: &str| {
            let reply = merge(&server, from, into).await;
            (reply.status, reply.body["code"].as_str().unwrap_or_default().to_owned(), reply.body["errors"][0]["pointer"].clone())
        };
        let conflict = (409, "device_conflict".to_owned(), Value::Null);
        let invalid = (422, "invalid".to_owned(), json!("/into"));
        assert_eq!(refused(&first.id, &first.id).await, invalid, "itself");
        assert_eq!(refused(&first.id, "nobody").await, invalid);
        assert_eq!(refused(&first.id, &second.id).await, invalid, "which no MDM manages");
        assert_eq!(refused("nobody", &into).await.0, 404);
        assert_eq!(refused(&other, &into).await, conflict, "managed by MDM itself");
        assert_eq!(refused(&android.id, &into).await, conflict, "another's, and another platform");
        server.call("PATCH", &format!("/devices/{into}"), Some(json!({"user": "two@example.org"}))).await.expect(200);
        assert_eq!(refused(&first.id, &into).await, conflict, "another's");
        server.call("PATCH", &format!("/devices/{into}"), Some(json!({"user": EMAIL}))).await.expect(200);
        server.post(&format!("/devices/{}/unauthorize", first.id), json!({})).await.expect(200);
        assert_eq!(refused(&first.id, &into).await, conflict, "it may not go on");
        server.post(&format!("/devices/{}/authorize", first.id), json!({})).await.expect(200);
        // Nothing of all that left a trace.
        assert_eq!(server.get(&format!("/devices/{}", first.id)).await["channels"].as_array().unwrap().len(), 1);
        first.visit(&server, "push").await;
        merge(&server, &first.id, &into).await.expect(200);
        assert_eq!(refused(&first.id, &into).await, invalid, "done already");
        assert_eq!(refused(&second.id, &into).await, conflict, "it has an app");
        first.visit(&server, "push").await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_merged_while_a_job_may_have_made_a_task_for_the_one_half_and_not_yet_for_the_other() {
    each(async |server| {
        server.user(EMAIL).await;
        let app = app(&server, "app-1", &server.enrollment_token().await).await;
        let (_, into) = iphone(&server, "1").await;
        let from: Id = app.id.parse().unwrap();
        let refused = change!(server.app, Class::Operators, |conn, moment| {
            let (id, now_ms) = (moment.id(), moment.now_ms);
            let job = JobRow {
                id,
                kind: "message".into(),
                params: "{}".into(),
                lane: "change".into(),
                selector: json!({"all": true}).to_string(),
                state: "expanding".into(),
                tasks: 2,
                unknown_devices: "[]".into(),
                duplicate_devices: "[]".into(),
                created_by: "somebody".into(),
                created_at_ms: now_ms,
                expires_at_ms: now_ms + 1,
                finished_at_ms: None,
                walk: jobs::MAKE.into(),
                walk_at_ms: now_ms,
                expand_after: String::new(),
            };
            jobs::insert(conn, &job).await.unwrap();
            devices::merge(conn, moment, &Actor::server(), from, &into).await
        });
        assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code == "job_expanding"));
        merge(&server, &app.id, &into).await.expect(200);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_device_that_belongs_to_nobody_gets_the_user_of_its_app() {
    each(async |server| {
        server.user(EMAIL).await;
        let app = app(&server, "app-1", &server.enrollment_token().await).await;
        let phone = AppleDevice::named("1");
        let into = phone.enroll(&server).await;
        let console = server.operator("somebody", Role::Operator).await;
        assert!(!console.get(&format!("/devices/{into}")).await.text.contains("Merge into it"));
        assert!(console.get(&format!("/devices/{}", app.id)).await.text.contains("Merge into it"));
        let page = console.submit(&format!("/devices/{}/merge", app.id), &[("into", "nothing")]).await;
        assert!(page.text.contains("there is no device"), "{}", page.text);
        let page = console.submit(&format!("/devices/{}/merge", app.id), &[("into", &phone.serial)]).await;
        assert!(page.text.contains("The app is now a channel of this device."), "{}", page.text);
        assert_eq!(server.get(&format!("/devices/{into}")).await["user"]["email"], EMAIL);
        assert_eq!(server.get("/devices?q=one@example.org").await["items"][0]["id"], json!(into));
        // It left and came back with its MDM; its app was with it all the time.
        phone.checkin(&server, "CheckOut", Dictionary::new()).await.expect(200);
        app.visit(&server, "periodic").await;
        server.stop().await;
    })
    .await;
}
