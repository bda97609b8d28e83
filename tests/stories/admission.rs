//! Users, enrollment tokens and the ways in.

use serde_json::{Value, json};

use crate::support::device::activation;
use crate::support::server::{Reply, START_MS, TestServer, each_database, reply};

const HOUR_MS: i64 = 3_600_000;

/// Status and code of a refusal.
fn refusal(reply: Reply) -> (u16, String) {
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    (reply.status, reply.body["code"].as_str().unwrap().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn token(server: &TestServer, more: Value) -> (String, String) {
    let mut new = json!({"name": "a token"});
    new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = server.post("/enrollment-tokens", new).await.expect(201);
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn users_live_through_the_api() {
    let server = TestServer::on_sqlite().await;
    let user = server
        .post("/users", json!({"email": "User@Example.org", "name": "A user", "device_limit": 2, "attributes": {"floor": "3"}}))
        .await
        .expect(201);
    for (field, value) in [
        ("email", json!("user@example.org")),
        ("name", json!("A user")),
        ("enabled", json!(true)),
        ("device_limit", json!(2)),
        ("attributes", json!({"floor": "3"})),
    ] {
        assert_eq!(user[field], value, "{field}");
    }
    let path = format!("/users/{}", user["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await["id"], user["id"]);
    assert_eq!(refusal(server.post("/users", json!({"email": "USER@example.org", "name": ""})).await), is(409, "email_taken"));
    let typo = server.post("/users", json!({"email": "a@example.org", "name": "", "device_limt": 1})).await;
    assert!(typo.body["errors"][0]["detail"].as_str().unwrap().contains("device_limit"), "{}", typo.body);
    assert_eq!(refusal(typo), is(422, "invalid"));
    let patched = server.call("PATCH", &path, Some(json!({"device_limit": null, "enabled": false}))).await.expect(200);
    assert_eq!((&patched["device_limit"], &patched["enabled"]), (&Value::Null, &json!(false)));
    for n in 0..4 {
        server.user(&format!("more-{n}@example.org")).await;
    }
    let page = server.get("/users?limit=3").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    let rest = server.get(&format!("/users?limit=3&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (2, &Value::Null));
    assert_eq!(server.call("DELETE", &path, None).await.expect(204), json!(""));
    assert_eq!(refusal(server.call("GET", &path, None).await), is(404, "not_found"));
    server.user("user@example.org").await;
    server.stop().await;
}

#[tokio::test]
async fn every_refusal_at_the_door_has_its_own_status_and_code() {
    each_database(async |server| {
        server.user("user@example.org").await;
        let disabled = server.user("disabled@example.org").await;
        let path = format!("/users/{}", disabled["id"].as_str().unwrap());
        server.call("PATCH", &path, Some(json!({"enabled": false}))).await.expect(200);
        let (_, open) = token(&server, json!({})).await;
        let (short_id, short) = token(&server, json!({"expires_at_ms": START_MS + HOUR_MS})).await;
        let (revoked_id, revoked) = token(&server, json!({})).await;
        server.post(&format!("/enrollment-tokens/{revoked_id}/revoke"), json!({})).await.expect(200);
        let (once_id, once) = token(&server, json!({"max_uses": 1})).await;
        server.phone_with(&once, "user@example.org", "first").await;
        server.advance(2 * HOUR_MS);
        let knock = async |token: &str, email: &str| refusal(server.activate(&activation(token, email, "h", None), None).await);
        assert_eq!(knock("mdt_nonsense", "user@example.org").await, is(401, "token_unknown"));
        assert_eq!(knock(&short, "user@example.org").await, is(403, "token_expired"));
        assert_eq!(knock(&revoked, "user@example.org").await, is(403, "token_revoked"));
        assert_eq!(knock(&once, "user@example.org").await, is(403, "token_exhausted"));
        assert_eq!(knock(&open, "nobody@example.org").await, is(403, "user_unknown"));
        assert_eq!(knock(&open, "disabled@example.org").await, is(403, "user_disabled"));
        for (id, state, uses) in [(&short_id, "expired", 0), (&revoked_id, "revoked", 0), (&once_id, "exhausted", 1)] {
            let shown = server.get(&format!("/enrollment-tokens/{id}")).await;
            assert_eq!((&shown["state"], &shown["uses"], shown.get("token")), (&json!(state), &json!(uses), None));
        }
        let shown = server.get(&format!("/enrollment-tokens/{once_id}")).await;
        assert_eq!(shown["devices"][0]["remote"], json!("127.0.0.1"));
        let unknown = server.post("/enrollment-tokens", json!({"name": "x", "labels": ["nobody made it"]})).await;
        assert_eq!(unknown.body["errors"][0]["pointer"], "/labels/0");
        assert_eq!(refusal(unknown), is(422, "invalid"));
        server
            .until("the audit", async || server.get("/audit?kind=activation.refused").await["items"].as_array().unwrap().len() == 6)
            .await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_phone_that_knocks_again_takes_over_its_device_and_the_old_token_ends_at_once() {
    each_database(async |server| {
        server.user("user@example.org").await;
        let (_, once) = token(&server, json!({"max_uses": 1})).await;
        let before = server.phone_with(&once, "user@example.org", "h").await;
        let after = server.phone_with(&once, "user@example.org", "h").await;
        assert_eq!(before.id, after.id);
        assert_eq!(refusal(before.sync(&server, json!({})).await), is(401, "token_replaced"));
        after.visit(&server, "launch").await;
        // By its device token: 200, and both tokens stand until the fresh one is used.
        let renewed = server.activate(&activation("", "user@example.org", "h", None), Some(&after.token)).await.expect(200);
        let fresh = crate::support::device::TestDevice { token: renewed["device_token"].as_str().unwrap().to_owned(), ..after.clone() };
        after.visit(&server, "periodic").await;
        fresh.visit(&server, "periodic").await;
        assert_eq!(refusal(after.sync(&server, json!({})).await), is(401, "token_replaced"));
        assert_eq!(server.get("/devices").await["items"].as_array().unwrap().len(), 1);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_phone_in_other_hands_waits_for_an_operator() {
    each_database(async |server| {
        server.user("user@example.org").await;
        server.user("heir@example.org").await;
        let (_, open) = token(&server, json!({})).await;
        let earlier = server.phone_with(&open, "user@example.org", "h").await;
        let knock = activation(&open, "heir@example.org", "h", None);
        assert_eq!(refusal(server.activate(&knock, None).await), is(409, "device_conflict"));
        assert_eq!(refusal(server.activate(&knock, None).await), is(409, "device_conflict"));
        let parked = server.get("/devices?state=pending_approval").await;
        assert_eq!(parked["items"].as_array().unwrap().len(), 1);
        let id = parked["items"][0]["id"].as_str().unwrap().to_owned();
        server.post(&format!("/devices/{id}/authorize"), json!({})).await.expect(200);
        assert_eq!(server.activate(&knock, None).await.expect(201)["device_id"], json!(id));
        assert_eq!(refusal(earlier.sync(&server, json!({})).await), is(401, "token_replaced"));
        assert_eq!(server.get(&format!("/devices/{}", earlier.id)).await["state"], "unmanaged");
        assert_eq!(server.get("/devices/S-h").await["id"], json!(id));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_announced_phone_comes_in_by_its_link() {
    let server = TestServer::on_sqlite().await;
    server.user("user@example.org").await;
    server.put("/labels/field", json!({})).await;
    let new = json!({"user": "user@example.org", "platform": "android", "serial": "S-h", "labels": ["field"]});
    let announced = server.post("/devices", new).await.expect(201);
    assert_eq!((&announced["state"], &announced["labels"]), (&json!("expected"), &json!(["field"])));
    let value = announced["enrollment"]["token"].as_str().unwrap();
    assert_eq!(announced["enrollment"]["link"], json!(format!("{}/enroll/{value}", server.config.public_url)));
    let phone = server.phone_with(value, "user@example.org", "h").await;
    assert_eq!(announced["id"], json!(phone.id));
    assert_eq!(server.get("/devices/s-H").await["state"], "active");
    server.stop().await;
}

#[tokio::test]
async fn operators_and_keys_are_the_administrators_business() {
    let server = TestServer::on_sqlite().await;
    let made = server.post("/keys", json!({"name": "ci", "role": "operator"})).await.expect(201);
    let again = server.post("/keys", json!({"name": "ci", "role": "viewer"})).await;
    assert_eq!(refusal(again), is(409, "name_taken"), "its name is the scope of its idempotency");
    let key = made["key"].as_str().unwrap();
    let with_key = async |method: reqwest::Method, path: &str, body: Value| {
        reply(server.client.request(method, format!("{}/api/v1{path}", server.url)).bearer_auth(key).json(&body)).await
    };
    with_key(reqwest::Method::POST, "/users", json!({"email": "user@example.org", "name": ""})).await.expect(201);
    for path in ["/keys", "/operators"] {
        let refused = with_key(reqwest::Method::POST, path, json!({"name": "another", "role": "admin"})).await;
        assert_eq!(refusal(refused), is(403, "role_insufficient"), "{path}");
        with_key(reqwest::Method::GET, path, json!({})).await.expect(200);
    }
    let keys = server.get("/keys").await;
    assert_eq!(keys["items"].as_array().unwrap().len(), 2);
    assert!(!keys.to_string().contains(key));
    server.call("DELETE", &format!("/keys/{}", made["id"].as_str().unwrap()), None).await.expect(204);
    assert_eq!(refusal(with_key(reqwest::Method::GET, "/users", json!({})).await), is(401, "key_unknown"));
    let invited = server.post("/operators", json!({"name": "night desk", "role": "viewer"})).await.expect(201);
    assert!(invited["link"].as_str().unwrap().starts_with(&format!("{}/sign-in/", server.config.public_url)));
    server.call("DELETE", &format!("/operators/{}", invited["id"].as_str().unwrap()), None).await.expect(204);
    server.stop().await;
}

#[tokio::test]
async fn a_stranger_who_knocks_without_end_fills_neither_the_audit_nor_the_database() {
    each_database(async |server| {
        for n in 0..60 {
            let knock = server.activate(&activation("mdt_nonsense", "user@example.org", &format!("h{n}"), None), None).await;
            assert_eq!(refusal(knock), is(401, "token_unknown"), "everybody is answered");
        }
        let audit = async |kind: &str| server.get(&format!("/audit?kind={kind}&limit=500")).await["items"].as_array().unwrap().clone();
        server.until("the first are told one by one", async || audit("activation.refused").await.len() == 20).await;
        server.advance(60_000);
        muster::work::observer::pass(&server.app).await.unwrap();
        server.until("the rest are summed up", async || audit("activation.refused_often").await.len() == 1).await;
        let summary = audit("activation.refused_often").await.remove(0);
        assert_eq!((&summary["data"]["count"], &summary["data"]["codes"]), (&json!(40), &json!({"token_unknown": 40})));
        assert_eq!(summary["data"]["remote"], "127.0.0.1");
        // After a minute of quiet the same address is told as ever, and a phone that is welcome was never in the way.
        server.activate(&activation("mdt_nonsense", "user@example.org", "h", None), None).await;
        server.until("a normal rate is told", async || audit("activation.refused").await.len() == 21).await;
        server.phone("welcome").await;
        server.stop().await;
    })
    .await;
}
