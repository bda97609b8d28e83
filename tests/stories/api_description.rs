//! The description of the API says what the server does: every route is in it, every operation of it answers, and each asks who calls.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::server::TestServer;

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// Every operation of the description: method, path, and what is said of it.
fn operations(description: &Value) -> Vec<(String, String, &Value)> {
    let paths = description["paths"].as_object().unwrap().iter();
    let operations = paths
        .flat_map(|(path, item)| METHODS.iter().filter_map(move |method| Some((method.to_uppercase(), path.clone(), item.get(*method)?))));
    operations.collect()
}

/// The routes of the operator API as the URL table of the server has them.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let table = include_str!("../../src/http/mod.rs");
    let (_, table) = table.split_once("pub(crate) fn api()").unwrap();
    let (table, _) = table.split_once("\n}\n").unwrap();
    let mut routes = BTreeMap::new();
    for route in table.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        let words: BTreeSet<&str> = route.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').collect();
        let methods = METHODS.iter().filter(|method| words.contains(*method)).map(|method| method.to_uppercase());
        routes.insert(format!("/api/v1{path}"), methods.collect());
    }
    routes
}

/// Follows every reference in the document.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// A path with something in the place of each name.
fn filled(path: &str) -> String {
    path.replace("{id}", "01890000-0000-7000-8000-000000000000").replace("{name}", "nothing").replace("{n}", "1")
}

async fn described(server: &TestServer) -> Value {
    let answer = server.client.get(format!("{}/api/openapi.json", server.url)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "without a key");
    answer.json().await.unwrap()
}

async fn status(server: &TestServer, method: &str, path: &str, key: Option<&str>, body: Option<Value>) -> (StatusCode, String, Value) {
    let method: Method = method.parse().unwrap();
    let mut request = server.client.request(method, format!("{}{}", server.url, filled(path)));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let (status, kind) = (answer.status(), answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()));
    // A stream does not end; nothing else that is good is looked at.
    let body = if status.is_success() { Value::Null } else { answer.json().await.unwrap_or(Value::Null) };
    (status, kind.unwrap_or_default(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_is_whole_and_every_route_is_in_it() {
    let server = TestServer::on_sqlite().await;
    let description = described(&server).await;
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = BTreeSet::new();
    references(&description, &mut found);
    assert!(found.len() > 20, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out of the document"));
        assert!(description.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    let mut by_path: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path, operation) in operations(&description) {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no operationId"));
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path} answers nothing");
        let named: BTreeSet<&str> = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let told: BTreeSet<&str> =
            parameters.iter().filter(|parameter| parameter["in"] == "path").map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(named, told, "{method} {path}");
        if path.starts_with("/api/v1/") {
            by_path.entry(path).or_default().insert(method);
        }
    }
    assert_eq!(by_path, routes());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_asks_who_calls_and_a_viewer_changes_nothing() {
    let server = TestServer::on_sqlite().await;
    let description = described(&server).await;
    let viewer = server.post("/keys", json!({"name": "board", "role": "viewer"})).await.expect(201)["key"].as_str().unwrap().to_owned();
    let mut refused = 0;
    for (method, path, operation) in operations(&description).into_iter().filter(|(_, path, _)| path.starts_with("/api/v1/")) {
        let body = operation.get("requestBody").map(|_| json!({}));
        let (stranger, kind, problem) = status(&server, &method, &path, None, body.clone()).await;
        assert_eq!(stranger, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!((kind.as_str(), &problem["code"]), ("application/problem+json", &json!("key_unknown")), "{method} {path}");
        let (seen, kind, problem) = status(&server, &method, &path, Some(&viewer), body).await;
        assert!(seen != StatusCode::METHOD_NOT_ALLOWED && !seen.is_server_error(), "{method} {path}: {seen}");
        if !seen.is_success() {
            assert_eq!(kind, "application/problem+json", "{method} {path}");
            assert!(problem["code"].is_string() && problem["detail"].is_string(), "{method} {path}: {problem}");
        }
        if method != "GET" {
            // What is wrong in the body, or that a thing is not there, may be told first: a viewer may read. Nothing is ever done.
            assert!(matches!(seen.as_u16(), 403 | 404 | 422), "{method} {path}: {seen} {problem}");
            refused += usize::from(seen == StatusCode::FORBIDDEN);
        }
    }
    assert!(refused > 15, "{refused}");
    // What was told before this user is numbered before it: nothing of the viewer's can still be on its way.
    server.user("user@example.org").await;
    server.until("the audit has caught up", async || server.get("/audit").await.to_string().contains("user.created")).await;
    let audit = server.get("/audit?limit=1000").await;
    assert!(audit["items"].as_array().unwrap().iter().all(|entry| entry["actor"] != "key:board"), "{audit}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_overview_has_the_members_that_are_described() {
    let server = TestServer::on_sqlite().await;
    let description = described(&server).await;
    let answer = &description["paths"]["/api/v1/overview"]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    let mut described = BTreeSet::new();
    properties(&description, answer, &mut described);
    let overview = server.get("/overview").await;
    let told: BTreeSet<String> = overview.as_object().unwrap().keys().cloned().collect();
    assert_eq!(told, described);
    assert!(overview["push"].as_array().unwrap().iter().any(|sender| sender["name"] == "fcm" && sender["state"] == "ok"), "{overview}");
    server.stop().await;
}

/// The names of the members of a schema, whatever it is put together from.
fn properties(description: &Value, schema: &Value, found: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        properties(description, description.pointer(reference.strip_prefix('#').unwrap()).unwrap(), found);
    }
    found.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    for part in schema["allOf"].as_array().into_iter().flatten() {
        properties(description, part, found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_every_operation_under_a_strict_policy_and_not_to_strangers() {
    let server = TestServer::on_sqlite().await;
    let url = format!("{}/api/docs", server.url);
    let page = server.client.get(&url).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK, "from this machine");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(!text.contains("<script"), "complete without script");
    for (method, path, _) in operations(&described(&server).await) {
        assert!(text.contains(&path), "{method} {path} is not on the page");
    }
    for url in [url, format!("{}/metrics", server.url)] {
        assert_eq!(server.client.get(&url).send().await.unwrap().status(), StatusCode::OK, "{url} from this machine");
        for name in ["x-forwarded-for", "X-Forwarded-Proto", "x-forwarded-host", "x-forwarded-new", "forwarded", "via", "x-real-ip"] {
            let forwarded = || server.client.get(&url).header(name, "proxy.example.org");
            assert_eq!(forwarded().send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{url} with {name}");
            assert_eq!(forwarded().bearer_auth(&server.key).send().await.unwrap().status(), StatusCode::OK, "{url} with {name}");
        }
    }
    server.stop().await;
}
