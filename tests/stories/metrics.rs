//! What Prometheus reads: every family from the start, and what a nudge leaves in them.

use std::collections::BTreeMap;

use muster::sim::fcm::Push;
use serde_json::json;
use tokio::sync::mpsc;

use crate::support::device::TestDevice;
use crate::support::server::{TestServer, each_database};

/// The families that alerts and boards of operators rest on.
const FAMILIES: [&str; 35] = [
    "muster_nudges_total",
    "muster_nudges_coalesced_total",
    "muster_nudges_saved_total",
    "muster_nudged_no_contact_total",
    "muster_retries_total",
    "muster_retry_budget_exhausted",
    "muster_queue_depth",
    "muster_queue_oldest_seconds",
    "muster_in_flight",
    "muster_stream_limit",
    "muster_concurrency_limit",
    "muster_send_seconds",
    "muster_nudge_to_contact_seconds",
    "muster_tokens",
    "muster_token_deaths_total",
    "muster_breaker_state",
    "muster_paused_until",
    "muster_connections",
    "muster_connects_total",
    "muster_reconnects",
    "muster_goaway_total",
    "muster_refused_stream_total",
    "muster_credential_expiry_timestamp",
    "muster_provider_token_age_seconds",
    "muster_fcm_quota_used_ratio",
    "muster_overdue_devices",
    "muster_armed_devices",
    "muster_stale_devices",
    "muster_clock_skew",
    "muster_contacts_total",
    "muster_intake_batch_size",
    "muster_commit_seconds",
    "muster_intake_backlog",
    "muster_headroom_ratio",
    "muster_alarms_open",
];

/// Each sample by its name and labels.
async fn samples(server: &TestServer) -> BTreeMap<String, f64> {
    let text = server.client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The sum of all samples of `name` whose labels hold all of `labels`.
fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let of = |sample: &str| sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label));
    samples.iter().filter(|(sample, _)| of(sample)).map(|(_, value)| value).sum()
}

/// Connects a phone once what its activation made is behind it: the gap, and a push that may have come.
async fn connected(server: &TestServer, phone: &TestDevice) -> mpsc::Receiver<Push> {
    server.advance(60_000);
    server.until("nobody is called", async || server.get("/push").await["senders"][0]["in_flight"] == 0).await;
    let mut pushes = server.fcm.connect(&phone.push);
    while pushes.try_recv().is_ok() {}
    pushes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_family_is_there_from_the_start_and_a_nudge_is_measured_from_its_acceptance_to_the_contact() {
    each_database(async |server| {
        let text = server.client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
        for family in FAMILIES {
            assert!(text.contains(&format!("# TYPE {family} ")), "{family} has no type");
            let there = text.lines().any(|line| line.starts_with(family) && !line.starts_with('#'));
            assert!(there || family.ends_with("_seconds") || family.ends_with("_size"), "{family} has no sample");
        }
        // Other stories of this process count too: what this one adds is looked at.
        let lane = ["platform=\"android\"", "lane=\"urgent\""];
        let phone = server.phone("measured").await;
        let gone = server.phone("gone").await;
        server.fcm.unregister(&gone.push);
        let mut pushes = connected(&server, &phone).await;
        let before = samples(&server).await;
        server.post("/jobs", json!({"kind": "locate", "target": {"devices": [phone.id, gone.id]}})).await.expect(202);
        tokio::time::timeout(std::time::Duration::from_secs(60), pushes.recv()).await.unwrap().unwrap();
        // Three more orders in the gap: one call for all of them.
        for _ in 0..3 {
            server.post("/jobs", json!({"kind": "locate", "target": {"devices": [phone.id]}})).await.expect(202);
        }
        server.advance(10_000);
        tokio::time::timeout(std::time::Duration::from_secs(60), pushes.recv()).await.unwrap().unwrap();
        server
            .until("the answer is written", async || {
                server.get(&format!("/devices/{}", gone.id)).await["channels"][0]["push_state"] == "dead"
            })
            .await;
        // Nobody comes: the same work is called for again five minutes after the answer.
        let grown = async |name: &str, labels: &[&str]| sum(&samples(&server).await, name, labels) - sum(&before, name, labels);
        server.until("the second is written", async || grown("muster_nudges_coalesced_total", &["lane=\"urgent\""]).await >= 2.0).await;
        server.advance(301_000);
        tokio::time::timeout(std::time::Duration::from_secs(60), pushes.recv()).await.unwrap().unwrap();
        server.until("it is written", async || grown("muster_nudged_no_contact_total", &lane).await >= 1.0).await;
        server.advance(4_000);
        server
            .until("the contact is measured", async || {
                phone.visit(&server, "push").await;
                grown("muster_nudge_to_contact_seconds_count", &lane).await >= 1.0
            })
            .await;
        assert!(grown("muster_nudges_total", &["provider=\"fcm\"", "lane=\"urgent\"", "result=\"accepted\""]).await >= 2.0);
        assert!(grown("muster_token_deaths_total", &["reason=\"UNREGISTERED\"", "state=\"dead\""]).await >= 1.0);
        assert!(sum(&samples(&server).await, "muster_connects_total", &["provider=\"fcm\"", "result=\"opened\""]) >= 1.0);
        assert!(samples(&server).await.keys().any(|name| name.starts_with("muster_provider_token_age_seconds{provider=\"fcm\"}")));
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_comes_at_once_is_measured_once_and_in_the_lane_of_its_nudge() {
    each_database(async |server| {
        for (lane, kind) in [("urgent", "locate"), ("change", "scan")] {
            let label = format!("lane=\"{lane}\"");
            let labels = ["platform=\"android\"", label.as_str()];
            let phone = server.phone(lane).await;
            let mut pushes = connected(&server, &phone).await;
            let before = samples(&server).await;
            server.post("/jobs", json!({"kind": kind, "target": {"devices": [phone.id]}})).await.expect(202);
            tokio::time::timeout(std::time::Duration::from_secs(60), pushes.recv()).await.unwrap().unwrap();
            // It comes before what the provider answered is written, and once more with what it did.
            let visit = phone.visit(&server, "push").await;
            phone.report(&server, visit["tasks"].as_array().unwrap(), "done").await;
            let history = server.get(&format!("/devices/{}/contacts", phone.id)).await;
            let after: Vec<bool> =
                history["items"].as_array().unwrap()[..2].iter().map(|contact| contact["after_nudge_ms"].is_i64()).collect();
            assert_eq!(after, [false, true], "{lane}: {history}");
            let shown = samples(&server).await;
            let grown = sum(&shown, "muster_nudge_to_contact_seconds_count", &labels)
                - sum(&before, "muster_nudge_to_contact_seconds_count", &labels);
            assert!(grown >= 1.0, "{lane}: {grown}");
            // Nor is it counted later, when the answer is written.
            server.until("it is written", async || server.get("/push").await["senders"][0]["in_flight"] == 0).await;
            phone.visit(&server, "launch").await;
            let later = server.get(&format!("/devices/{}/contacts", phone.id)).await;
            let counted = later["items"].as_array().unwrap().iter().filter(|contact| contact["after_nudge_ms"].is_i64());
            assert_eq!(counted.count(), 1, "{lane}: {later}");
        }
        server.stop().await;
    })
    .await;
}
