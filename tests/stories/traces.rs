//! Traces: an OTLP collector on loopback hears of requests, groups of the intake and nudges.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use muster::clock::Clock;
use muster::sim::fcm::StandIn;
use serde_json::{Value, json};

use crate::support::device::activation;
use crate::support::process::Process;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_hears_of_requests_groups_and_nudges_and_of_no_secret() {
    let heard: Arc<Mutex<Vec<u8>>> = Arc::default();
    let keep = heard.clone();
    let take = move |headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        keep.lock().unwrap().extend_from_slice(&body);
        async { StatusCode::OK }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/v1/traces", post(take))).await.unwrap() });
    let (folder, fcm) = (tempfile::tempdir().unwrap(), StandIn::start(Clock::system()).await.unwrap());
    let mut server = Process::new(folder.path(), &format!("sqlite://{}", folder.path().join("muster.db").display()), &fcm);
    std::fs::write(folder.path().join("muster.toml"), format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\n")).unwrap();
    server.logging("info");
    server.start().await;
    let (http, key) = (muster::sim::client(Duration::from_secs(60)).build().unwrap(), server.key().await);
    let call = async |path: &str, body: Value| {
        let request = http.post(format!("{}{path}", server.url)).bearer_auth(&key).json(&body);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let token = call("/api/v1/enrollment-tokens", json!({"name": "traced"})).await;
    call("/api/v1/users", json!({"email": "user@example.org", "name": "A user"})).await;
    let body = activation(token["token"].as_str().unwrap(), "user@example.org", "traced", Some(&fcm.register()));
    let device = call("/agent/v1/activate", body).await;
    call("/api/v1/jobs", json!({"kind": "locate", "target": {"all": true}})).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let missing = || {
        let heard = heard.lock().unwrap();
        let has = |text: &str| heard.windows(text.len()).any(|window| window == text.as_bytes());
        ["intake_group", "request", "nudge", "/api/v1/jobs", "service.name"].into_iter().filter(|text| !has(text)).collect::<Vec<_>>()
    };
    while !missing().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the collector has not heard of {:?}", missing());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let heard = heard.lock().unwrap();
    for secret in [key.as_str(), device["device_token"].as_str().unwrap(), token["token"].as_str().unwrap()] {
        assert!(!heard.windows(secret.len()).any(|window| window == secret.as_bytes()), "a secret is in the traces");
    }
}
