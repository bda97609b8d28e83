//! Documents: what is written, what wins, what is filled in, and what a phone says of itself in return.

use muster::model::Role;
use serde_json::{Value, json};

use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database, reply};

/// Publishes a policy for every device.
async fn publish(server: &TestServer, name: &str, rank: i64, document: Value) {
    server.put(&format!("/policies/{name}"), json!({"document": document})).await.expect(201);
    let assignments = json!({"assignments": [{"label": "all", "mode": "include", "rank": rank}]});
    server.put(&format!("/policies/{name}/assignments"), assignments).await.expect(200);
}

/// What a phone is given that says that it has no document.
async fn given(server: &TestServer, phone: &TestDevice) -> Value {
    phone.sync(server, json!({"cause": "push", "policy": {"version": null}})).await.expect(200)["policy"].clone()
}

#[tokio::test]
async fn the_strongest_policy_wins_each_setting_and_each_app() {
    each_database(async |server| {
        let phone = server.phone("ada").await;
        let app = |kind: &str, id: &str, how: &str| json!({(kind): id, "installType": how});
        let weak = json!({"cameraAccess": "CAMERA_ACCESS_USER_CHOICE", "printingPolicy": "PRINTING_DISALLOWED",
            "applications": [app("packageName", "org.example.mail", "BLOCKED"), app("bundleId", "org.example.mail", "AVAILABLE")]});
        let strong = json!({"cameraAccess": "CAMERA_ACCESS_DISABLED", "apple": {"payloads": []},
            "applications": [app("packageName", "org.example.mail", "FORCE_INSTALLED")]});
        publish(&server, "weak", 1, weak).await;
        publish(&server, "strong", 9, strong).await;
        let expected = json!({"cameraAccess": "CAMERA_ACCESS_DISABLED", "printingPolicy": "PRINTING_DISALLOWED",
            "applications": [app("packageName", "org.example.mail", "FORCE_INSTALLED"), app("bundleId", "org.example.mail", "AVAILABLE")]});
        let policy = given(&server, &phone).await;
        assert_eq!(policy["document"], expected);
        server.put("/policies/elsewhere", json!({"document": {"cameraAccess": "CAMERA_ACCESS_ENFORCED"}})).await.expect(201);
        server.put("/labels/elsewhere", json!({})).await.expect(201);
        let assignments = json!({"assignments": [{"label": "elsewhere", "mode": "include", "rank": 99}]});
        server.put("/policies/elsewhere/assignments", assignments).await.expect(200);
        let path = format!("/devices/{}/explain?setting=", phone.id);
        let camera = server.get(&format!("{path}cameraAccess")).await;
        assert_eq!(
            (&camera["value"], &camera["winner"]),
            (&json!("CAMERA_ACCESS_DISABLED"), &json!({"policy": "strong", "version": 1, "rank": 9}))
        );
        let considered = |answer: &Value| -> Vec<(String, bool)> {
            let items = answer["considered"].as_array().unwrap();
            items.iter().map(|one| (one["policy"].as_str().unwrap().to_owned(), one["matched"].as_bool().unwrap())).collect()
        };
        assert_eq!(considered(&camera), [("strong".into(), true), ("weak".into(), true), ("elsewhere".into(), false)]);
        assert_eq!(camera["considered"][1]["why"], "strong is stronger");
        assert_eq!((&camera["delivered"], &camera["proved"]), (&json!(false), &json!(false)));
        let details = json!([{"setting": "printingPolicy", "reason": "API_LEVEL"}]);
        let report = json!({"cause": "push", "policy": {"version": policy["version"], "details": details}});
        phone.sync(&server, report).await.expect(200);
        let camera = server.get(&format!("{path}cameraAccess")).await;
        assert_eq!((&camera["delivered"], &camera["proved"]), (&json!(true), &json!(true)));
        let printing = server.get(&format!("{path}printingPolicy")).await;
        assert_eq!(
            (&printing["winner"]["policy"], &printing["delivered"], &printing["proved"]),
            (&json!("weak"), &json!(true), &json!(false))
        );
        let app = server.get(&format!("{path}applications/org.example.mail")).await;
        assert_eq!(app["value"]["installType"], "FORCE_INSTALLED");
        let why =
            |answer: &Value| -> Vec<Value> { answer["considered"].as_array().unwrap().iter().map(|one| one["why"].clone()).collect() };
        let apps = server.get(&format!("{path}applications")).await;
        assert_eq!((&apps["value"], &apps["winner"]["policy"]), (&expected["applications"], &json!("strong")));
        assert_eq!(why(&apps)[..2], [json!("it gives applications/org.example.mail"), json!("it gives applications/org.example.mail")]);
        assert_eq!((&apps["delivered"], &apps["proved"]), (&json!(true), &json!(true)));
        let apple = server.get(&format!("{path}apple")).await;
        assert_eq!((&apple["value"], &apple["winner"]["policy"]), (&json!({"payloads": []}), &json!("strong")));
        assert_eq!(why(&apple)[..2], [json!("it gives apple/payloads"), json!("it says nothing of apple")]);
        assert_eq!(server.get(&format!("{path}apple/payloads")).await["value"], json!([]));
        let nothing = server.get(&format!("{path}locationMode")).await;
        assert_eq!((&nothing["value"], &nothing["winner"]), (&json!(null), &json!(null)));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_document_waits_for_the_value_that_it_names_and_is_never_delivered_without() {
    each_database(async |server| {
        let user = server.user("eve@example.org").await;
        let token = server.enrollment_token().await;
        let phone = server.phone_with(&token, "eve@example.org", "eve-phone").await;
        assert_eq!(given(&server, &phone).await["document"], json!({}));
        let document = json!({"messages": {"deviceOwnerLockScreenInfo": "Room {{user.attributes.room}} of {{device.platform}}"}});
        publish(&server, "screens", 1, document).await;
        assert_eq!(given(&server, &phone).await["document"], json!({}), "the policy is held for this phone");
        publish(&server, "cameras", 0, json!({"cameraAccess": "CAMERA_ACCESS_DISABLED", "messages": {"shortSupportMessage": "weaker"}}))
            .await;
        let others = json!({"cameraAccess": "CAMERA_ACCESS_DISABLED", "messages": {"shortSupportMessage": "weaker"}});
        assert_eq!(given(&server, &phone).await["document"], others, "and the other one is delivered meanwhile");
        let why = server.get(&format!("/devices/{}/explain?setting=messages", phone.id)).await;
        assert_eq!(why["winner"]["policy"], "cameras");
        assert_eq!(why["considered"][0]["why"], "it is held for this device: no value for user.attributes.room");
        let shown = server.get(&format!("/devices/{}/document", phone.id)).await;
        assert_eq!((&shown["held"], &shown["document"]), (&json!(["screens"]), &others));
        // What is held says nothing of what is not: the console shows both.
        let version = given(&server, &phone).await["version"].clone();
        phone.sync(&server, json!({"cause": "push", "policy": {"version": version, "details": []}})).await.expect(200);
        let browser = server.operator("anna", Role::Viewer).await;
        for path in ["/devices", &format!("/devices/{}", phone.id)] {
            let page = browser.get(path).await.text;
            assert!(page.contains(">applied</span>") && page.contains(">held</span>"), "{page}");
        }
        let mut versions = Vec::new();
        for room in ["7 \"}}", "8"] {
            let path = format!("/users/{}", user["id"].as_str().unwrap());
            server.call("PATCH", &path, Some(json!({"attributes": {"room": room}}))).await.expect(200);
            let policy = given(&server, &phone).await;
            assert_eq!(policy["document"]["messages"]["deviceOwnerLockScreenInfo"], format!("Room {room} of android"));
            versions.push(policy["version"].clone());
        }
        assert_ne!(versions[0], versions[1], "another value is another version");
        // A value that is lost takes nothing away: the phone keeps what it has.
        let path = format!("/users/{}", user["id"].as_str().unwrap());
        server.call("PATCH", &path, Some(json!({"attributes": {}}))).await.expect(200);
        assert_eq!(given(&server, &phone).await, json!(null));
        assert_eq!(server.get(&format!("/devices/{}", phone.id)).await["channels"][0]["desired"], versions[1]);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_document_that_no_phone_could_obey_is_refused_with_every_fault_in_its_place() {
    let server = TestServer::on_sqlite().await;
    let configuration = json!({"ratio": 1.5, "ids": [1, 2], "a/b": null, "fine": "{{user.email}}"});
    let document = json!({
        "applications": [{"packageName": "org.example.mail", "installType": "FORCED", "managedConfiguration": configuration}],
        "longSupportMessage": {"defaultMessage": "{{user.emial}}"},
        "messages": {"shortSupportMessage": "{{secret:phones}}"},
    });
    let problem = server.put("/policies/p", json!({"document": document})).await.expect(422);
    let mut pointers: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    pointers.sort_unstable();
    assert_eq!(
        pointers,
        [
            "/document/applications/0/installType",
            "/document/applications/0/managedConfiguration/a~1b",
            "/document/applications/0/managedConfiguration/ids",
            "/document/applications/0/managedConfiguration/ratio",
            "/document/longSupportMessage/defaultMessage",
            "/document/messages/shortSupportMessage",
        ]
    );
    assert_eq!(server.call("GET", "/policies/p", None).await.status, 404, "nothing of it is kept");
    server.stop().await;
}

#[tokio::test]
async fn what_a_phone_says_wrongly_is_named_and_what_it_says_rightly_counts() {
    each_database(async |server| {
        let phone = server.phone("bob").await;
        server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id]}})).await.expect(202);
        let task = phone.visit(&server, "push").await["tasks"][0]["id"].as_str().unwrap().to_owned();
        let event_id = "0198F3A2-7C4E-7B1A-9F00-3C2D1E0F4A5B";
        let apps: Vec<Value> = (0..1500).map(|n| json!({"id": format!("org.example.app{n:04}"), "name": "An app of a phone", "version": "1"})).collect();
        let body = format!(
            r#"{{"cause": "push", "have": null, "results": [{{"task_id": "{task}", "status": "done", "message": "a\u0000b"}}],
                "events": [{{"event_id": "{event_id}", "type": "usb_debugging_changed", "seq": 1, "occurred_at_ms": 1, "data": {{"enabled": false}}}}],
                "facts": {{"\ud800": 1, "battery_percent": 57.0, "rooted": "no", "apps": {}, "novel": {{"big": 1e300}}, "fine": [1]}}}}"#,
            json!(apps)
        );
        let request = server.client.post(format!("{}/agent/v1/sync", server.url)).bearer_auth(&phone.token).body(body);
        let answer = reply(request).await.expect(200);
        assert_eq!(answer["results"], json!([{"task_id": task, "outcome": "recorded"}]));
        assert_eq!(answer["events"], json!([{"event_id": event_id, "outcome": "recorded"}]));
        let facts = server.get(&format!("/devices/{}", phone.id)).await["facts"].clone();
        assert_eq!((&facts["battery_percent"], &facts["fine"], facts["apps"].as_array().map(Vec::len)), (&json!(57), &json!([1]), Some(1500)));
        assert_eq!((&facts["rooted"], &facts["novel"]), (&json!(null), &json!(null)));
        let task = server.get(&format!("/tasks/{task}")).await;
        assert_eq!(task["state"], "done", "a result ends its task by its status, whatever is wrong with its words");
        server.stop().await;
    })
    .await;
}
