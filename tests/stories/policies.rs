//! Labels and policies: who gets what, from which version on, and how far it has come.

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::device::TestDevice;
use crate::support::server::{Reply, TestServer, each_database, reply};

fn of_length(n: i64) -> Value {
    json!({"document": {"passwordPolicies": [{"passwordMinimumLength": n}]}})
}

async fn put_if(server: &TestServer, path: &str, tag: &str, body: Value) -> Reply {
    let request = server.client.put(format!("{}/api/v1{path}", server.url)).bearer_auth(&server.key);
    reply(request.header(header::IF_MATCH, tag).json(&body)).await
}

/// Comes, takes what it is given, and reports it with these details.
async fn obey(server: &TestServer, phone: &TestDevice, details: Value) -> Value {
    let visit = phone.visit(server, "push").await;
    let version = visit["policy"]["version"].clone();
    phone.sync(server, json!({"cause": "push", "policy": {"version": version, "details": details}})).await.expect(200);
    visit["policy"]["document"].clone()
}

#[tokio::test]
async fn a_label_is_given_and_taken_and_names_of_nobody_are_told() {
    each_database(async |server| {
        let (one, two) = (server.phone("one").await, server.phone("two").await);
        assert_eq!(server.put("/labels/all", json!({})).await.expect(422)["errors"][0]["pointer"], "/name");
        assert_eq!(server.put("/labels/field", json!({"rule": {}})).await.expect(422)["errors"][0]["pointer"], "/rule");
        server.put("/labels/field", json!({"description": "outside"})).await.expect(201);
        assert_eq!(server.put("/labels/field", json!({})).await.expect(200)["description"], "outside");
        let path = "/labels/field/devices";
        let told = server.post(path, json!({"devices": [one.id, "nobody"]})).await.expect(200);
        assert_eq!((&told["devices"], &told["unknown_devices"]), (&json!(1), &json!(["nobody"])));
        let refused = server.call("DELETE", path, Some(json!({"devices": ["nobody"]}))).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], "/devices/0");
        assert_eq!(server.get("/labels/field").await["devices"], 1);
        server.put(path, json!({"devices": [two.id]})).await.expect(204);
        assert_eq!(server.get(path).await["items"][0]["id"], json!(two.id));
        assert_eq!(server.get(path).await["items"].as_array().map(Vec::len), Some(1));
        server.call("DELETE", path, Some(json!({"devices": [two.id]}))).await.expect(204);
        server.put(path, json!({"devices": [one.id]})).await.expect(204);
        server.put("/policies/p", of_length(6)).await.expect(201);
        let unknown =
            json!({"assignments": [{"label": "field", "mode": "include", "rank": 1}, {"label": "x", "mode": "include", "rank": 1}]});
        let refused = server.put("/policies/p/assignments", unknown).await.expect(422);
        assert_eq!(refused["errors"][0]["pointer"], "/assignments/1/label");
        server.put("/policies/p/assignments", json!({"assignments": [{"label": "field", "mode": "include", "rank": 1}]})).await.expect(200);
        assert_eq!(obey(&server, &one, json!([])).await["passwordPolicies"][0]["passwordMinimumLength"], 6);
        server.call("DELETE", "/labels/field", None).await.expect(204);
        server.put("/labels/field", json!({})).await.expect(201);
        assert_eq!(server.get("/labels/field").await["devices"], 0, "another label of the same name begins empty");
        assert_eq!(obey(&server, &one, json!([])).await, json!({}), "what the label gave is taken");
        assert_eq!(server.get("/policies/p").await["assignments"], json!([]));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_version_is_published_once_and_never_over_a_newer_one() {
    each_database(async |server| {
        assert_eq!(server.put("/policies/p?draft=true", of_length(4)).await.expect(201)["version"], 1);
        assert_eq!(server.get("/policies/p").await["version"], json!(null), "a draft is in force nowhere");
        assert_eq!(server.put("/policies/p", of_length(4)).await.expect(201)["version"], 1);
        assert_eq!(server.put("/policies/p", of_length(4)).await.expect(200)["version"], 1);
        let read = reply(server.client.get(format!("{}/api/v1/policies/p", server.url)).bearer_auth(&server.key)).await;
        let tag = read.headers[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(put_if(&server, "/policies/p", &tag, of_length(5)).await.expect(201)["version"], 2);
        assert_eq!(put_if(&server, "/policies/p", &tag, of_length(6)).await.expect(412)["code"], "precondition_failed");
        assert_eq!(server.put("/policies/p?draft=true", of_length(7)).await.expect(201)["version"], 3);
        assert_eq!(server.put("/policies/p", of_length(5)).await.expect(200)["version"], 2, "equal to what is in force");
        let policy = server.get("/policies/p").await;
        assert_eq!((&policy["version"], &policy["latest_version"]), (&json!(2), &json!(3)));
        assert_eq!(server.get("/policies/p/versions/1").await["document"], of_length(4)["document"]);
        let conditional = async |method: Method, path: &str, name: &'static str, tag: &str, body: Value| {
            let request = server.client.request(method, format!("{}/api/v1{path}", server.url)).bearer_auth(&server.key);
            reply(request.header(name, tag).json(&body)).await
        };
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        for (method, path, name, tag, body) in [
            (Method::PUT, "/policies/p/assignments", "if-match", "\"1\"", &all),
            (Method::PUT, "/policies/p/assignments", "if-match", "W/\"2\"", &all),
            (Method::DELETE, "/policies/p", "if-match", "\"1\"", &json!({})),
            (Method::PUT, "/policies/p", "if-none-match", "*", &of_length(8)),
        ] {
            let refused = conditional(method, path, name, tag, body.clone()).await.expect(412);
            assert_eq!(refused["code"], "precondition_failed", "{path}");
        }
        assert_eq!(server.get("/policies/p").await, policy, "none of them has changed anything");
        let request = server.client.get(format!("{}/api/v1/policies/p/assignments", server.url)).bearer_auth(&server.key);
        assert_eq!(reply(request).await.headers[header::ETAG], "\"2\"");
        conditional(Method::PUT, "/policies/p/assignments", "if-match", "\"1\", \"2\"", all).await.expect(200);
        conditional(Method::PUT, "/policies/new", "if-none-match", "*", of_length(4)).await.expect(201);
        conditional(Method::DELETE, "/policies/nowhere", "if-match", "\"2\"", json!({})).await.expect(404);
        conditional(Method::DELETE, "/policies/p", "if-match", "\"2\"", json!({})).await.expect(204);
        server.call("GET", "/policies/p", None).await.expect(404);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn convergence_counts_what_was_proved_what_failed_and_what_is_held() {
    each_database(async |server| {
        let phones = [server.phone("one").await, server.phone("two").await, server.phone("three").await, server.phone("four").await];
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        server.put("/policies/p", of_length(6)).await.expect(201);
        server.put("/policies/p/assignments", all).await.expect(200);
        let states = async || server.get("/policies/p/convergence").await["versions"][0].clone();
        server.until("all wait for it", async || states().await["states"]["pending"] == 4).await;
        server.advance(4000);
        obey(&server, &phones[0], json!([])).await;
        obey(&server, &phones[1], json!([])).await;
        obey(&server, &phones[2], json!([{"setting": "passwordPolicies", "reason": "USER_ACTION"}])).await;
        obey(&server, &phones[3], json!([{"setting": "passwordPolicies", "reason": "PENDING"}])).await;
        let now = states().await;
        assert_eq!(now["states"], json!({"applied": 2, "failed": 1, "pending": 1, "held": 0}));
        assert_eq!(now["seconds_to"], json!({"50": 4.0, "90": null, "99": null}), "a failure is no application");
        // The next version starts from nothing proved, and is held where a value is missing.
        let more = json!({"document": {"messages": {"shortSupportMessage": "{{user.attributes.desk}}"}}});
        server.put("/policies/p", more).await.expect(201);
        server.until("it is held", async || states().await["states"]["held"] == 4).await;
        let now = states().await;
        assert_eq!((&now["version"], &now["seconds_to"]["50"]), (&json!(2), &json!(null)));
        let shown = server.get(&format!("/devices/{}/document", phones[0].id)).await;
        assert_eq!(shown["variables_missing"], json!(["user.attributes.desk"]));
        let visit = phones[0].visit(&server, "push").await;
        assert_eq!(visit["policy"], json!(null), "never delivered empty");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_missing_value_holds_its_own_policy_and_no_other_of_the_same_device() {
    each_database(async |server| {
        let (one, two) = (server.phone("one").await, server.phone("two").await);
        let user = server.get(&format!("/devices/{}", one.id)).await["user_id"].as_str().unwrap().to_owned();
        let desk = async |attributes: Value| {
            server.call("PATCH", &format!("/users/{user}"), Some(json!({"attributes": attributes}))).await.expect(200);
        };
        desk(json!({"desk": "7"})).await;
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        let named = json!({"document": {"messages": {"shortSupportMessage": "{{user.attributes.desk}}"}}});
        for (path, document) in [("/policies/plain", of_length(6)), ("/policies/desk", named)] {
            server.put(path, document).await.expect(201);
            server.put(&format!("{path}/assignments"), all.clone()).await.expect(200);
        }
        let counts = |applied: i64, failed: i64, held: i64, pending: i64| json!({"applied": applied, "failed": failed, "held": held, "pending": pending});
        let comes_to = async |policy: &str, expected: Value| {
            let path = format!("/policies/{policy}/convergence");
            let states = async || server.get(&path).await["versions"][0].clone();
            server.until(&format!("{policy} is {expected}"), async || states().await["states"] == expected).await;
            states().await
        };
        comes_to("plain", counts(0, 0, 0, 2)).await;
        comes_to("desk", counts(0, 0, 1, 1)).await;
        server.advance(2000);
        obey(&server, &one, json!([])).await;
        assert_eq!(obey(&server, &two, json!([])).await, of_length(6)["document"], "what is held is left out");
        let plain = comes_to("plain", counts(2, 0, 0, 0)).await;
        assert_eq!(plain["seconds_to"]["99"], 2.0, "nobody is held from it");
        let named = comes_to("desk", counts(1, 0, 1, 0)).await;
        assert_eq!((&named["seconds_to"]["50"], &named["seconds_to"]["90"]), (&json!(2.0), &json!(null)));
        // The value is lost: the phone keeps what it has of both.
        desk(json!({})).await;
        comes_to("desk", counts(0, 0, 2, 0)).await;
        comes_to("plain", counts(2, 0, 0, 0)).await;
        // And is given nothing new until it is back, whatever the policy.
        server.put("/policies/plain", of_length(8)).await.expect(201);
        comes_to("plain", counts(0, 0, 1, 1)).await;
        desk(json!({"desk": "8"})).await;
        comes_to("plain", counts(0, 0, 0, 2)).await;
        comes_to("desk", counts(0, 0, 1, 1)).await;
        for phone in [&one, &two] {
            obey(&server, phone, json!([])).await;
        }
        comes_to("plain", counts(2, 0, 0, 0)).await;
        comes_to("desk", counts(1, 0, 1, 0)).await;
        let anna = server.operator("anna", muster::model::Role::Viewer).await;
        assert!(anna.get("/").await.text.contains("100 % applied"), "the overview says the same");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_phone_denies_is_no_longer_applied_and_is_applied_again_when_it_proves_it() {
    each_database(async |server| {
        let phone = server.phone("one").await;
        server.put("/policies/p", of_length(6)).await.expect(201);
        let all = json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]});
        server.put("/policies/p/assignments", all).await.expect(200);
        let channel = async || server.get(&format!("/devices/{}", phone.id)).await["channels"][0].clone();
        let states = async || server.get("/policies/p/convergence").await["versions"][0]["states"].clone();
        let proved = async || server.get(&format!("/devices/{}/explain?setting=passwordPolicies", phone.id)).await["proved"].clone();
        let counts = |applied: i64, failed: i64, pending: i64| json!({"applied": applied, "failed": failed, "pending": pending, "held": 0});
        let first = channel().await["applied"].clone();
        server.until("it waits", async || states().await == counts(0, 0, 1)).await;
        // Until it has the next one, it has the one before.
        let visit = phone.sync(&server, json!({"cause": "push", "policy": {"version": first}})).await.expect(200);
        let version = visit["policy"]["version"].clone();
        assert_eq!(channel().await["applied"], first);
        let says = async |version: &Value, reasons: &[&str]| {
            let details: Vec<Value> = reasons.iter().map(|reason| json!({"setting": "passwordPolicies", "reason": reason})).collect();
            phone.sync(&server, json!({"cause": "push", "policy": {"version": version, "details": details}})).await.expect(200)
        };
        says(&version, &[]).await;
        assert_eq!((states().await, proved().await), (counts(1, 0, 0), json!(true)));
        // A backup was restored: it is given the document again, and has proved nothing.
        assert_eq!(says(&json!("old"), &[]).await["policy"]["version"], version);
        assert_eq!((states().await, proved().await), (counts(0, 0, 1), json!(false)));
        says(&version, &["API_LEVEL"]).await;
        assert_eq!((states().await, proved().await), (counts(0, 1, 0), json!(false)));
        // Something of it is to be done again.
        says(&version, &["PENDING"]).await;
        assert_eq!((states().await, proved().await), (counts(0, 0, 1), json!(false)));
        says(&version, &[]).await;
        assert_eq!((states().await, proved().await), (counts(1, 0, 0), json!(true)));
        server.stop().await;
    })
    .await;
}
