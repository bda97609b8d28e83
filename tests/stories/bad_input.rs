//! Bad input gets a clear error that says what to do, and harms nothing else.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::device::activation;
use crate::support::server::{TestServer, each_database, reply};

fn event(n: i64, data: Value) -> Value {
    json!({"event_id": format!("0198f3a2-7c4e-7b1a-9f00-{n:012}"), "type": "web_page_blocked", "seq": n, "occurred_at_ms": 1, "data": data})
}

#[tokio::test]
async fn one_bad_event_of_256_is_rejected_alone() {
    each_database(async |server| {
        let phone = server.phone("ada").await;
        let mut events: Vec<Value> = (1..=256).map(|n| event(n, json!({"url": "https://blocked.example/"}))).collect();
        events[100] = event(101, json!({"url": "a\u{0}b"}));
        let mut text = json!({"events": events}).to_string();
        text = text.replace("\"occurred_at_ms\":1,\"seq\":200", "\"occurred_at_ms\":1e300,\"seq\":200");
        let request = server.client.post(format!("{}/agent/v1/events", server.url)).bearer_auth(&phone.token).body(text);
        let answer = reply(request).await.expect(200);
        let outcomes = answer["events"].as_array().unwrap();
        let rejected: Vec<usize> = (0..256).filter(|at| outcomes[*at]["outcome"] == "rejected").collect();
        assert_eq!(rejected, [100, 199], "exactly the one with U+0000 and the one with 1e300");
        assert_eq!(outcomes.iter().filter(|outcome| outcome["outcome"] == "recorded").count(), 254);
        events.push(event(300, json!({"url": "x"})));
        let problem = phone.events(&server, json!(events)).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], "/events");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn every_token_that_does_not_admit_says_why() {
    each_database(async |server| {
        server.user("u@example.org").await;
        let code = async |token: &str, email: &str, hardware: &str| {
            let answer = server.activate(&activation(token, email, hardware, None), None).await;
            (answer.status, answer.body["code"].as_str().unwrap_or("none").to_owned())
        };
        assert_eq!(code("mdt_nobody", "u@example.org", "a").await, (401, "token_unknown".into()));
        let soon = json!({"name": "soon", "expires_at_ms": server.clock.now_ms() + 1000});
        let expiring = server.post("/enrollment-tokens", soon).await.expect(201);
        let single = server.post("/enrollment-tokens", json!({"name": "one", "max_uses": 1})).await.expect(201);
        let revoked = server.post("/enrollment-tokens", json!({"name": "gone"})).await.expect(201);
        server.post(&format!("/enrollment-tokens/{}/revoke", revoked["id"].as_str().unwrap()), json!({})).await.expect(200);
        server.clock.advance(2000);
        let value = |token: &Value| token["token"].as_str().unwrap().to_owned();
        assert_eq!(code(&value(&expiring), "u@example.org", "a").await, (403, "token_expired".into()));
        assert_eq!(code(&value(&revoked), "u@example.org", "a").await, (403, "token_revoked".into()));
        assert_eq!(code(&value(&single), "stranger@example.org", "a").await, (403, "user_unknown".into()));
        assert_eq!(code(&value(&single), "U@Example.org", "a").await.0, 201);
        assert_eq!(code(&value(&single), "u@example.org", "b").await, (403, "token_exhausted".into()));
        assert_eq!(code(&value(&single), "u@example.org", "a").await.0, 201, "the phone it admitted may return");
        let shown = server.get(&format!("/enrollment-tokens/{}", single["id"].as_str().unwrap())).await;
        assert_eq!((shown["uses"].as_i64(), shown["devices"].as_array().unwrap().len()), (Some(1), 1));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_operator_api_names_every_mistake() {
    let server = TestServer::on_sqlite().await;
    let typo = server.post("/users", json!({"emial": "a@example.org"})).await.expect(422);
    assert!(typo["errors"][0]["detail"].as_str().unwrap().contains("email"), "{typo}");
    let setting = server.put("/policies/p", json!({"document": {"cameraAcess": "CAMERA_ACCESS_DISABLED"}})).await.expect(422);
    assert_eq!(setting["errors"][0]["pointer"], "/document/cameraAcess");
    assert!(setting["errors"][0]["detail"].as_str().unwrap().contains("cameraAccess"));
    let long = server.post("/users", json!({"email": "a@example.org", "name": "x".repeat(1_000_000)})).await.expect(422);
    assert_eq!(long["errors"][0]["pointer"], "/name");
    let large = server.post("/users", json!({"email": "a@example.org", "name": "x".repeat(1_100_000)})).await.expect(413);
    assert_eq!((large["code"].as_str(), large["limit_bytes"].as_i64()), (Some("body_too_large"), Some(1024 * 1024)));
    let request = server.client.post(format!("{}/api/v1/users", server.url)).bearer_auth(&server.key);
    let malformed = reply(request.try_clone().unwrap().header("content-type", "application/json").body("{\"email\": ")).await;
    assert_eq!((malformed.status, malformed.body["code"].as_str()), (400, Some("json_malformed")));
    assert_eq!(malformed.headers["content-type"], "application/problem+json");
    assert_eq!(reply(request.body("x=1")).await.status, 415);
    assert_eq!(server.call("GET", "/users?cursor=nonsense", None).await.status, 422);
    assert_eq!(server.call("GET", "/users?limit=5000", None).await.status, 422);
    assert_eq!(server.call("GET", "/users/nobody", None).await.status, 404);
    let stranger = reply(server.client.get(format!("{}/api/v1/users", server.url)).bearer_auth("mk_wrong")).await;
    assert_eq!((stranger.status, stranger.body["code"].as_str()), (401, Some("key_unknown")));
    server.user("a@example.org").await;
    assert_eq!(server.post("/users", json!({"email": "A@Example.org"})).await.expect(409)["code"], "email_taken");
    let job = server.post("/jobs", json!({"kind": "lock", "target": {"devices": ["nobody"]}})).await.expect(202);
    assert_eq!((job["unknown_devices"][0].as_str(), job["tasks"].as_i64()), (Some("nobody"), Some(0)));
    assert_eq!(server.post("/jobs", json!({"kind": "lock", "target": {}})).await.status, 422);
    server.stop().await;
}

#[tokio::test]
async fn json_by_its_grammar_is_422_in_its_place_and_a_compressed_body_is_415_wherever_it_is_sent() {
    let server = TestServer::on_sqlite().await;
    let phone = server.phone("eva").await;
    let operator = server.client.post(format!("{}/api/v1/users", server.url)).bearer_auth(&server.key);
    let agent = server.client.post(format!("{}/agent/v1/sync", server.url)).bearer_auth(&phone.token);
    let send = async |request: &reqwest::RequestBuilder, encoding: &str, body: &str| {
        let request = request.try_clone().unwrap().header("content-type", "application/json").header("content-encoding", encoding);
        reply(request.body(body.to_owned())).await
    };
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for (request, name) in [(&operator, "email"), (&agent, "cause")] {
        for value in [r#""\ud800""#, "1e999", &deep] {
            let problem = send(request, "identity", &format!("{{\"{name}\": {value}}}")).await.expect(422);
            assert_eq!(problem["errors"][0]["pointer"], format!("/{name}"), "{problem}");
        }
        for encoding in ["gzip", "br", "identity, Gzip"] {
            let refused = send(request, encoding, "{}").await;
            assert_eq!((refused.status, &refused.body["code"]), (415, &json!("encoding_unsupported")), "{encoding}");
            assert_eq!(refused.headers["accept-encoding"], "identity");
        }
    }
    let attributes = format!(r#"{{"email": "a@example.org", "attributes": {{"a": {deep}}}}}"#);
    let problem = send(&operator, "identity", &attributes).await.expect(422);
    assert!(problem["errors"][0]["pointer"].as_str().unwrap().starts_with("/attributes/a/0/0"), "{problem}");
    assert_eq!(send(&agent, "", "{}").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_makes_one_job() {
    each_database(async |server| {
        let phone = server.phone("ida").await;
        let send = async |body: Value| {
            let request = server.client.post(format!("{}/api/v1/jobs", server.url)).bearer_auth(&server.key);
            reply(request.header("idempotency-key", "order-1").json(&body)).await
        };
        let body = json!({"kind": "locate", "target": {"devices": [phone.id]}});
        let (one, other) = tokio::join!(send(body.clone()), send(body.clone()));
        assert_eq!(one.expect(202)["id"], other.expect(202)["id"]);
        let problem = send(json!({"kind": "lock", "target": {"devices": [phone.id]}})).await.expect(422);
        assert_eq!(problem["code"], "idempotency_mismatch");
        assert_eq!(server.get(&format!("/devices/{}/tasks", phone.id)).await["items"].as_array().unwrap().len(), 1);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_or_is_no_json_is_answered() {
    let server = TestServer::on_sqlite().await;
    let phone = server.phone("bo").await;
    let request = server.client.post(format!("{}/agent/v1/sync", server.url)).bearer_auth(&phone.token);
    assert_eq!(reply(request.try_clone().unwrap().body("{\"cause\"")).await.expect(400)["code"], "json_malformed");
    assert_eq!(reply(request.try_clone().unwrap().body("{\"results\": 7}")).await.expect(422)["errors"][0]["pointer"], "/results");
    assert_eq!(reply(request.body(vec![b' '; 1024 * 1024 + 1])).await.expect(413)["code"], "body_too_large");
    let address = server.url.strip_prefix("http://").unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("POST /agent/v1/sync HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{", phone.token);
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(phone.visit(&server, "push").await["tasks"], json!([]), "the phone goes on");
    server.stop().await;
}

#[tokio::test]
async fn a_task_ends_by_its_status_whatever_is_wrong_with_the_rest_of_its_result() {
    each_database(async |server| {
        let phone = server.phone("mona").await;
        let bad = [
            (r#""status": "failed", "message": "a\u0000b""#, "failed", json!({"code": "failed", "message": "ab", "chain": []})),
            (r#""status": "failed", "at_ms": 1.5"#, "failed", json!({"code": "failed", "message": "", "chain": []})),
            (r#""status": "failed", "code": 5"#, "failed", json!({"code": "5", "message": "", "chain": []})),
            (
                r#""status": "failed", "message": "m", "data": {"n": 1e16}"#,
                "failed",
                json!({"code": "failed", "message": "m", "chain": [], "left_out": {"data": "a number is out of range"}}),
            ),
            (r#""status": "done", "data": {"n": 1e16}"#, "done", json!({"left_out": {"data": "a number is out of range"}})),
        ];
        for (members, state, kept) in bad {
            server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id]}})).await.expect(202);
            let id = phone.visit(&server, "push").await["tasks"][0]["id"].as_str().unwrap().to_owned();
            let body = format!(r#"{{"cause": "push", "results": [{{"task_id": "{id}", {members}}}]}}"#);
            let answer = reply(server.client.post(format!("{}/agent/v1/sync", server.url)).bearer_auth(&phone.token).body(body)).await;
            let answer = answer.expect(200);
            assert_eq!((&answer["results"][0]["outcome"], &answer["tasks"]), (&json!("recorded"), &json!([])), "{members}");
            let task = server.get(&format!("/tasks/{id}")).await;
            let said = if state == "done" { &task["result"] } else { &task["error"] };
            assert_eq!((task["state"].as_str(), said), (Some(state), &kept), "{members}");
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_strangers_task_is_unknown_and_stays_as_it_was() {
    each_database(async |server| {
        let (mine, stranger) = (server.phone("mine").await, server.phone("stranger").await);
        server.post("/jobs", json!({"kind": "locate", "target": {"devices": [mine.id]}})).await.expect(202);
        let task = mine.visit(&server, "push").await["tasks"][0].clone();
        let answer = stranger.report(&server, std::slice::from_ref(&task), "done").await;
        assert_eq!(answer["results"][0]["outcome"], "unknown");
        assert_eq!(server.get(&format!("/tasks/{}", task["id"].as_str().unwrap())).await["state"], "delivered");
        assert_eq!(server.config.public_url, "http://127.0.0.1:8080");
        assert_ne!(mine.hardware_id, stranger.hardware_id);
        server.stop().await;
    })
    .await;
}
