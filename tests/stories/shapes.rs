//! What holds of every address of the operator API: lists come in pages, mistakes are named, refusals are problem documents.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::device::activation;
use crate::support::server::{Reply, TestServer, each_database, reply};

const LIMIT_MAX: usize = 1000;
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// An operation of the description.
struct Operation {
    method: String,
    path: String,
    /// Names of its query parameters.
    queries: Vec<String>,
    /// Its answer is a list.
    is_list: bool,
    /// The properties of its JSON body.
    body: Option<Vec<String>>,
}

async fn operations(server: &TestServer) -> Vec<Operation> {
    let description = reply(server.client.get(format!("{}/api/openapi.json", server.url))).await.expect(200);
    let mut operations = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/api/v1/")) {
        for (method, operation) in item.as_object().unwrap() {
            let schema = |value: &Value| value["content"]["application/json"]["schema"]["$ref"].as_str().map(str::to_owned);
            let queries = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query");
            let body = schema(&operation["requestBody"]).map(|name| {
                let shape = description.pointer(name.strip_prefix('#').unwrap()).unwrap();
                shape["properties"].as_object().unwrap().keys().cloned().collect()
            });
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.strip_prefix("/api/v1").unwrap().to_owned(),
                queries: queries.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect(),
                is_list: schema(&operation["responses"]["200"]).is_some_and(|name| name.contains("/List_")),
                body,
            });
        }
    }
    assert!(operations.len() > 60, "{}", operations.len());
    operations
}

/// A server with one of everything that a path may name, and what to write in the place of `{id}` and `{name}`.
async fn furnished(server: &TestServer) -> BTreeMap<&'static str, String> {
    let phone = server.phone("ada").await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut named = BTreeMap::from([("devices", phone.id.clone()), ("labels", "field".to_owned()), ("policies", "p".to_owned())]);
    server.put("/labels/field", json!({})).await.expect(201);
    server.put("/policies/p", json!({"document": {}})).await.expect(201);
    named.insert("users", text(&server.get("/users").await["items"][0]["id"]));
    named.insert("enrollment-tokens", text(&server.get("/enrollment-tokens").await["items"][0]["id"]));
    let job = server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id]}})).await.expect(202);
    named.insert("jobs", text(&job["id"]));
    named.insert("webhooks", text(&server.post("/webhooks", json!({"url": "https://hook.example.org/"})).await.expect(201)["id"]));
    named
}

fn filled(path: &str, named: &BTreeMap<&'static str, String>) -> String {
    let noun = path.split('/').nth(1).unwrap();
    let name = named.get(noun).map_or("01890000-0000-7000-8000-000000000000", String::as_str);
    path.replace("{id}", name).replace("{name}", name).replace("{n}", "1")
}

/// Status, code and the place of the first fault of a problem document.
#[track_caller]
fn told(reply: &Reply) -> (u16, String, String) {
    assert_eq!(reply.headers["content-type"], "application/problem+json", "{}", reply.body);
    assert_eq!(reply.body["status"], reply.status, "{}", reply.body);
    assert!(reply.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{}", reply.body);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (reply.status, text(&reply.body["code"]), text(&reply.body["errors"][0]["pointer"]))
}

#[tokio::test]
async fn every_list_comes_in_pages_and_names_what_is_wrong_with_a_limit_or_a_cursor() {
    let server = TestServer::on_sqlite().await;
    let named = furnished(&server).await;
    let mut lists = 0;
    for list in operations(&server).await.iter().filter(|operation| operation.is_list) {
        lists += 1;
        let path = filled(&list.path, &named);
        let cursor = if list.path == "/feed" { "after" } else { "cursor" };
        for parameter in ["limit", cursor] {
            assert!(list.queries.iter().any(|name| name == parameter), "{} takes no {parameter}", list.path);
        }
        for limit in ["0", "-1", "1001", "x", "1.5", "99999999999999999999"] {
            let refused = server.call("GET", &format!("{path}?limit={limit}"), None).await;
            assert_eq!(told(&refused), (422, "invalid".into(), "?limit".into()), "{path} with the limit {limit}");
        }
        for garbage in ["x", "bm9uZQ", "%FF", "e30", "IlwxdTAwMDAi"] {
            let refused = server.call("GET", &format!("{path}?{cursor}={garbage}"), None).await;
            assert_eq!(told(&refused), (422, "invalid".into(), format!("?{cursor}")), "{path} with the cursor {garbage}");
        }
        let unknown = server.call("GET", &format!("{path}?limt=5"), None).await;
        assert_eq!(told(&unknown).0, 422, "{path}");
        assert!(unknown.body["errors"][0]["detail"].as_str().unwrap().contains("`limit`"), "{}", unknown.body);
        // A filter without a value is none.
        let blank: Vec<String> = list.queries.iter().map(|name| format!("{name}=")).collect();
        let page = server.get(&format!("{path}?{}", blank.join("&"))).await;
        assert!(page["items"].is_array() && page.get("next_cursor").is_some(), "{path}: {page}");
        assert!(server.get(&format!("{path}?limit={LIMIT_MAX}")).await["items"].is_array());
    }
    assert!(lists > 15, "{lists}");
    server.stop().await;
}

#[tokio::test]
async fn a_list_read_page_by_page_is_the_whole_list_once() {
    each_database(async |server| {
        server.user("user@example.org").await;
        for n in 0..5 {
            let token = server.enrollment_token().await;
            server.phone_with(&token, "user@example.org", &format!("h{n}")).await;
            server.user(&format!("user-{n}@example.org")).await;
            server.put(&format!("/labels/l{n}"), json!({})).await.expect(201);
            server.put(&format!("/policies/p{n}"), json!({"document": {}})).await.expect(201);
            server.post("/jobs", json!({"kind": "scan", "target": {"all": true}})).await.expect(202);
            server.post("/webhooks", json!({"url": "https://hook.example.org/"})).await.expect(201);
            for path in ["/operators", "/keys"] {
                server.post(path, json!({"name": format!("n{n}"), "role": "viewer"})).await.expect(201);
            }
        }
        let whole = async |path: &str, limit: usize| {
            let (mut items, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = server.get(&format!("{path}?limit={limit}{cursor}")).await;
                let of_page = page["items"].as_array().unwrap();
                assert!(of_page.len() <= limit, "{path}");
                items.extend(of_page.iter().map(|item| item.get("id").unwrap_or(&item["name"]).clone()));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => return items,
                }
            }
        };
        for path in
            ["/users", "/devices", "/enrollment-tokens", "/labels", "/policies", "/jobs", "/tasks", "/webhooks", "/operators", "/keys"]
        {
            let all = whole(path, LIMIT_MAX).await;
            assert!(all.len() >= 5, "{path}: {}", all.len());
            assert_eq!(whole(path, 2).await, all, "{path}");
        }
        let gone = server.get("/keys").await["items"].as_array().unwrap().iter().find(|key| key["name"] == "n0").unwrap()["id"].clone();
        server.call("DELETE", &format!("/keys?id={}", gone.as_str().unwrap()), None).await.expect(204);
        assert_eq!(told(&server.call("DELETE", "/keys", None).await).0, 422, "nobody is named");
        let gone = server.get("/operators").await["items"][0]["id"].clone();
        server.call("DELETE", &format!("/operators?id={}", gone.as_str().unwrap()), None).await.expect(204);
        assert_eq!(server.get("/operators").await["items"][0]["enabled"], false);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_field_that_nobody_knows_is_refused_in_every_body_with_the_nearest_name() {
    let server = TestServer::on_sqlite().await;
    let named = furnished(&server).await;
    let mut bodies = 0;
    for operation in operations(&server).await {
        let Some(fields) = &operation.body else { continue };
        bodies += 1;
        for field in fields {
            // The last letter twice: `emaill`.
            let typo = format!("{field}{}", field.chars().last().unwrap());
            let refused = server.call(&operation.method, &filled(&operation.path, &named), Some(json!({&typo: 1}))).await;
            let at = format!("{} {} {typo}", operation.method, operation.path);
            assert_eq!(told(&refused), (422, "invalid".into(), format!("/{typo}")), "{at}");
            let detail = refused.body["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("did you mean `{field}`?")), "{at}: {detail}");
        }
    }
    assert!(bodies > 12, "{bodies}");
    // Within bodies too.
    for (method, path, body, pointer, nearest) in [
        ("POST", "/jobs", json!({"kind": "scan", "target": {"lable": "x"}}), "/target/lable", "label"),
        ("POST", "/jobs", json!({"kind": "scan", "params": {"scop": "x"}, "target": {"all": true}}), "/params/scop", "scope"),
        ("POST", "/jobs", json!({"kind": "scann", "target": {"all": true}}), "/kind", "scan"),
        ("PUT", "/policies/p/assignments", json!({"assignments": [{"labell": "all"}]}), "/assignments/0/labell", "label"),
        ("PUT", "/policies/p", json!({"document": {"cameraAcess": "CAMERA_ACCESS_DISABLED"}}), "/document/cameraAcess", "cameraAccess"),
        ("PUT", "/push/apns-app", json!({"keyid": "x"}), "/keyid", "key_id"),
        ("PUT", "/push/apns-mdm", json!({"certificat": "x"}), "/certificat", "certificate"),
    ] {
        let refused = server.call(method, path, Some(body)).await;
        assert_eq!(told(&refused), (422, "invalid".into(), pointer.into()), "{path}: {}", refused.body);
        assert!(refused.body["errors"][0]["detail"].as_str().unwrap().contains(nearest), "{}", refused.body);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_list_does_not_do_where_an_object_is_meant() {
    let server = TestServer::on_sqlite().await;
    let named = furnished(&server).await;
    let device = &named["devices"];
    let mut bodies = 0;
    for operation in operations(&server).await.iter().filter(|operation| operation.body.is_some()) {
        bodies += 1;
        let refused = server.call(&operation.method, &filled(&operation.path, &named), Some(json!([]))).await;
        assert_eq!(told(&refused), (422, "invalid".into(), String::new()), "{} {}", operation.method, operation.path);
    }
    assert!(bodies > 12, "{bodies}");
    let account: Value = serde_json::from_slice(&server.fcm.service_account()).unwrap();
    let account: Vec<&Value> = account.as_object().unwrap().values().collect();
    for (method, path, body, pointer) in [
        ("POST", "/users", json!(["a@example.org", "N"]), ""),
        ("POST", "/jobs", json!(["message", {"text": "t"}, {"devices": [device]}, null, null]), ""),
        ("POST", "/jobs", json!({"kind": "scan", "target": [[device], null, null]}), "/target"),
        ("PUT", "/policies/p/assignments", json!({"assignments": [["all", "include", 5]]}), "/assignments/0"),
        ("PUT", "/push/fcm", json!(account), ""),
        ("PUT", "/push/apns-app", json!(["key"]), ""),
    ] {
        let refused = server.call(method, path, Some(body)).await;
        assert_eq!(told(&refused), (422, "invalid".into(), pointer.into()), "{path}: {}", refused.body);
        assert!(refused.body["errors"][0]["detail"].as_str().unwrap().contains("an object"), "{}", refused.body);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_has_no_etag_is_not_changed_where_one_is_asked_for() {
    let server = TestServer::on_sqlite().await;
    let named = furnished(&server).await;
    let send = async |method: &str, path: &str, tag: &str, key: &str| {
        let request = server.client.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}/api/v1{path}", server.url));
        reply(request.bearer_auth(key).header("if-match", tag).json(&json!({}))).await
    };
    let mut changing = 0;
    for operation in operations(&server).await.iter().filter(|operation| matches!(operation.method.as_str(), "PUT" | "PATCH" | "DELETE")) {
        changing += 1;
        let path = filled(&operation.path, &named);
        let refused = send(&operation.method, &path, "\"nothing has this\"", &server.key).await;
        // What is wrong with a body is told before a policy is looked at.
        let is_expected = refused.status == 412 || (refused.status == 422 && operation.path.starts_with("/policies/"));
        assert!(is_expected, "{} {path}: {}", operation.method, refused.body);
    }
    assert!(changing > 12, "{changing}");
    let user = format!("/users/{}", named["users"]);
    assert_eq!(send("PATCH", &user, "\"1\"", "mk_nobody").await.status, 401);
    assert_eq!(told(&send("PATCH", &user, "\"1\"", &server.key).await).1, "precondition_failed");
    assert_eq!(send("PATCH", &user, "*", &server.key).await.status, 200);
    assert_eq!(send("PUT", "/labels/new", "*", &server.key).await.status, 412, "it is not there");
    let once = async |name: &str| {
        let request = server.client.put(format!("{}/api/v1/labels/{name}", server.url)).bearer_auth(&server.key);
        reply(request.header("if-none-match", "*").json(&json!({"description": "mine"}))).await
    };
    assert_eq!(once("new").await.status, 201);
    assert_eq!(told(&once("field").await).1, "precondition_failed");
    assert_eq!(server.get("/labels/field").await["description"], "", "it is left as it was");
    server.stop().await;
}

#[tokio::test]
async fn what_an_address_does_not_take_is_refused_as_a_problem_with_what_it_takes() {
    let server = TestServer::on_sqlite().await;
    let named = furnished(&server).await;
    let operations = operations(&server).await;
    let mut by_path: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for operation in &operations {
        by_path.entry(filled(&operation.path, &named)).or_default().push(operation.method.clone());
    }
    let send = async |method: &str, url: String, kind: Option<&str>, body: String| {
        let mut request = server.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url).bearer_auth(&server.key).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        reply(request).await
    };
    for (path, methods) in &by_path {
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE"].iter().filter(|method| !methods.iter().any(|known| known == *method)) {
            let refused = server.call(method, path, None).await;
            assert_eq!(told(&refused).1, "method_not_allowed", "{method} {path}");
            assert_eq!(refused.status, 405);
            let allowed = refused.headers["allow"].to_str().unwrap();
            assert!(methods.iter().all(|method| allowed.contains(method.as_str())), "{path}: {allowed}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/agent/v1/sync", "/agent/v1/activate", "/agent/v1/events"] {
        let refused = send("DELETE", format!("{}{path}", server.url), None, String::new()).await;
        assert_eq!((refused.status, told(&refused).1.as_str()), (405, "method_not_allowed"), "{path}");
    }
    for operation in operations.iter().filter(|operation| operation.body.is_some() && !operation.path.ends_with("/revoke")) {
        let url = format!("{}/api/v1{}", server.url, filled(&operation.path, &named));
        // RFC 7662 asks by a form.
        let takes_forms = operation.path == "/introspect";
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")].into_iter().take(if takes_forms { 2 } else { 3 })
        {
            let refused = send(&operation.method, url.clone(), kind, "{}".into()).await;
            assert_eq!((refused.status, told(&refused).1.as_str()), (415, "unsupported_media_type"), "{url} {kind:?}");
        }
        let malformed = send(&operation.method, url.clone(), Some("application/json"), "{\"a\": ".into()).await;
        assert_eq!((malformed.status, told(&malformed).1.as_str()), (400, "json_malformed"), "{url}");
    }
    for path in ["/users", "/jobs", &format!("/enrollment-tokens/{}/revoke", named["enrollment-tokens"])] {
        let large = format!("{{\"x\": \"{}\"}}", "x".repeat(BODY_BYTES_MAX));
        let refused = send("POST", format!("{}/api/v1{path}", server.url), Some("application/json; charset=utf-8"), large).await;
        assert_eq!((refused.status, told(&refused).1.as_str()), (413, "body_too_large"), "{path}");
        assert_eq!(refused.body["limit_bytes"], BODY_BYTES_MAX);
    }
    let unreadable = server.call("GET", "/labels/%FF", None).await;
    assert_eq!((unreadable.status, told(&unreadable).1.as_str()), (400, "address_malformed"));
    let nowhere = server.call("GET", "/nowhere", None).await;
    assert_eq!((nowhere.status, told(&nowhere).1.as_str()), (404, "not_found"));
    let stranger = reply(server.client.get(format!("{}/api/v1/users", server.url))).await;
    assert_eq!((stranger.status, told(&stranger).1.as_str()), (401, "key_unknown"));
    assert_eq!(stranger.headers["www-authenticate"], "Bearer");
    server.stop().await;
}

#[tokio::test]
async fn u_0000_in_an_address_a_query_or_a_body_is_refused_on_both_databases() {
    each_database(async |server| {
        let named = furnished(&server).await;
        let anna = server.operator("anna", muster::model::Role::Admin).await;
        for operation in operations(&server).await {
            let path = filled(&operation.path, &named);
            for name in operation.queries.iter().filter(|name| !matches!(name.as_str(), "draft" | "force" | "open")) {
                let refused =
                    server.call(&operation.method, &format!("{path}?{name}=a%00b"), operation.body.as_ref().map(|_| json!({}))).await;
                assert!((400..500).contains(&refused.status), "{} {path}?{name}: {} {}", operation.method, refused.status, refused.body);
            }
            if operation.path.contains('{') {
                let path = operation.path.replace("{id}", "a%00b").replace("{name}", "%00").replace("{n}", "1");
                let refused = server.call(&operation.method, &path, operation.body.as_ref().map(|_| json!({}))).await;
                assert_eq!(told(&refused).0, 404, "{} {path}", operation.method);
            }
        }
        for (method, path, body, pointer) in [
            ("POST", "/jobs", json!({"kind": "scan", "target": {"devices": ["a\0b"]}}), "/target/devices/0"),
            ("POST", "/jobs", json!({"kind": "scan", "target": {"label": "\0"}}), "/target/label"),
            ("POST", "/labels/field/devices", json!({"devices": ["x", "\0"]}), "/devices/1"),
            ("POST", "/users", json!({"email": "a\0@example.org", "name": ""}), "/email"),
            ("POST", "/users", json!({"email": "a@example.org", "name": "", "attributes": {"a\0": "x"}}), "/attributes"),
            (
                "PUT",
                "/policies/p",
                json!({"document": {"messages": {"shortSupportMessage": "\0"}}}),
                "/document/messages/shortSupportMessage",
            ),
            ("POST", "/enrollment-tokens", json!({"name": "n", "user": "\0"}), "/user"),
        ] {
            let refused = server.call(method, path, Some(body)).await;
            assert_eq!(told(&refused), (422, "invalid".into(), pointer.into()), "{path}");
        }
        for path in [
            "/devices?q=%00",
            "/devices?label=%00&state=%00",
            "/tasks?device=%00",
            "/events?type=%00",
            "/audit?actor=%00",
            "/users?cursor=IlwxdTAwMDAi",
        ] {
            assert_eq!(anna.get(path).await.status, 200, "{path}");
        }
        for path in ["/devices/%00", "/labels/%00", "/policies/%00", "/enroll/%00", "/mdm/assets/%00"] {
            assert_eq!(anna.get(path).await.status, 404, "{path}");
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_name_that_several_devices_have_is_answered_with_their_ids_and_nothing_is_ordered() {
    each_database(async |server| {
        let (one, two, alone) = (server.phone("one").await, server.phone("two").await, server.phone("alone").await);
        for device in [&one, &two] {
            server.call("PATCH", &format!("/devices/{}", device.id), Some(json!({"serial": "TWICE"}))).await.expect(200);
        }
        let mut ids = [json!(one.id), json!(two.id)];
        ids.sort_by_key(Value::to_string);
        for (method, path, body) in [
            ("GET", "/devices/twice", None),
            ("GET", "/devices/TWICE/tasks", None),
            ("GET", "/tasks?device=TWICE", None),
            ("POST", "/devices/TWICE/sync", None),
            ("PATCH", "/devices/TWICE", Some(json!({}))),
            ("POST", "/jobs", Some(json!({"kind": "scan", "target": {"devices": [alone.id, "twice", "nobody"]}}))),
            ("POST", "/jobs", Some(json!({"kind": "wipe", "target": {"devices": ["TWICE"]}}))),
            ("POST", "/jobs", Some(json!({"kind": "scan", "target": {"devices": ["TWICE:somebody"]}}))),
        ] {
            let refused = server.call(method, path, body).await;
            assert_eq!((refused.status, told(&refused).1.as_str()), (409, "ambiguous_device"), "{path}");
            assert_eq!(refused.body["device_ids"], json!(ids), "{path}");
        }
        assert_eq!(server.get("/jobs").await["items"], json!([]));
        let request = server.client.post(format!("{}/api/v1/jobs", server.url)).bearer_auth(&server.key).header("idempotency-key", "k");
        let order = |name: &str| request.try_clone().unwrap().json(&json!({"kind": "scan", "target": {"devices": [name]}}));
        assert_eq!(reply(order("TWICE")).await.status, 409);
        reply(order(&one.id)).await.expect(202);
        let targets = json!([alone.id, "nobody", alone.id, "S-alone"]);
        let job = server.post("/jobs", json!({"kind": "scan", "target": {"devices": targets}})).await.expect(202);
        assert_eq!((&job["tasks"], &job["unknown_devices"]), (&json!(1), &json!(["nobody"])), "once for one device");
        assert_eq!((&job["counts"], &job["duplicate_devices"]), (&json!({"queued": 1}), &json!([])));
        let job = server.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
        assert_eq!((&job["reasons"], &job["state"]), (&json!({"awaiting_contact": 1}), &json!("running")));
        server.put("/labels/field", json!({})).await.expect(201);
        let given = server.post("/labels/field/devices", json!({"devices": [alone.id, "TWICE", "nobody"]})).await.expect(200);
        assert_eq!((&given["unknown_devices"], &given["ambiguous_devices"]), (&json!(["nobody"]), &json!(["TWICE"])));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn every_refusal_of_an_activation_is_in_the_audit_and_uses_nothing_up() {
    each_database(async |server| {
        let made = async |more: Value| {
            let mut new = json!({"name": "a token"});
            new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server.post("/enrollment-tokens", new).await.expect(201)
        };
        let value = |token: &Value| token["token"].as_str().unwrap().to_owned();
        server.post("/users", json!({"email": "full@example.org", "name": "", "device_limit": 1})).await.expect(201);
        let disabled = server.user("disabled@example.org").await;
        server.call("PATCH", &format!("/users/{}", disabled["id"].as_str().unwrap()), Some(json!({"enabled": false}))).await.expect(200);
        let (open, soon, revoked, once) = (
            made(json!({})).await,
            made(json!({"expires_at_ms": server.clock.now_ms() + 1000})).await,
            made(json!({})).await,
            made(json!({"max_uses": 1})).await,
        );
        server.post(&format!("/enrollment-tokens/{}/revoke", revoked["id"].as_str().unwrap()), json!({})).await.expect(200);
        let phone = server.phone_with(&value(&once), "full@example.org", "h").await;
        let shut_out = server.phone("shut-out").await;
        server.post(&format!("/devices/{}/unauthorize", shut_out.id), json!({})).await.expect(200);
        server.clock.advance(2000);
        let knocks = [
            ("mdt_nobody".to_owned(), "full@example.org", "x", 401, "token_unknown"),
            (value(&soon), "full@example.org", "x", 403, "token_expired"),
            (value(&revoked), "full@example.org", "x", 403, "token_revoked"),
            (value(&once), "full@example.org", "x", 403, "token_exhausted"),
            (value(&open), "nobody@example.org", "x", 403, "user_unknown"),
            (value(&open), "disabled@example.org", "x", 403, "user_disabled"),
            (value(&open), "full@example.org", "shut-out", 403, "device_unauthorized"),
            (value(&open), "full@example.org", "x", 409, "device_limit"),
            (value(&open), "full@example.org", "h", 409, "device_conflict"),
        ];
        for (token, email, hardware, status, code) in &knocks {
            let refused = server.activate(&activation(token, email, hardware, None), None).await;
            assert_eq!((refused.status, told(&refused).1.as_str()), (*status, *code));
        }
        let audited = async || server.get("/audit?kind=activation&limit=100").await["items"].as_array().unwrap().clone();
        for (_, email, hardware, _, code) in &knocks {
            let is_told = |entry: &Value| entry["data"]["code"] == *code;
            server.until(&format!("{code} in the audit"), async || audited().await.iter().any(is_told)).await;
            let entry = audited().await.into_iter().find(is_told).unwrap();
            assert_eq!((&entry["actor"], &entry["data"]["remote"]), (&json!("remote:127.0.0.1"), &json!("127.0.0.1")), "{entry}");
            assert_eq!((&entry["data"]["email"], &entry["data"]["serial"]), (&json!(email), &json!(format!("S-{hardware}"))), "{entry}");
        }
        let text = json!(audited().await).to_string();
        assert!(!text.contains("mdt_"), "the audit shows a token");
        for (token, uses) in [(&open, 0), (&soon, 0), (&revoked, 0), (&once, 1)] {
            assert_eq!(server.get(&format!("/enrollment-tokens/{}", token["id"].as_str().unwrap())).await["uses"], uses);
        }
        phone.visit(&server, "periodic").await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn push_shows_each_sender_with_its_state_and_never_its_credential() {
    let server = TestServer::on_sqlite().await;
    let push = server.get("/push").await;
    let fcm = push["senders"].as_array().unwrap().iter().find(|sender| sender["name"] == "fcm").unwrap();
    assert_eq!((&fcm["state"], &fcm["in_flight"]), (&json!("ok"), &json!(0)), "{push}");
    assert!(push["senders"].as_array().unwrap().iter().any(|sender| sender["state"] == "unconfigured"), "{push}");
    let text = push.to_string();
    for secret in ["PRIVATE", "private_key", "client_email"] {
        assert!(!text.contains(secret), "{text}");
    }
    server.stop().await;
}
