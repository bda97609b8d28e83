//! Wipes and retirements above the budget wait for a second operator.

use muster::config::Config;
use muster::model::Role;
use serde_json::{Value, json};

use crate::support::device::TestDevice;
use crate::support::server::{START_MS, TestServer};
use crate::support::{postgres, server};

const HOUR_MS: i64 = 3_600_000;

/// A story on both databases with a budget of so many devices an hour.
async fn with_budget(per_hour: i64, story: impl AsyncFn(TestServer)) {
    let change = |config: &mut Config| config.limits.wipes_per_hour = per_hour;
    story(TestServer::with(change).await).await;
    if let Some(url) = postgres::fresh_database().await {
        eprintln!("on PostgreSQL");
        story(TestServer::at(&url, None, change).await).await;
    }
}

async fn phones(server: &TestServer, n: usize) -> Vec<TestDevice> {
    server.user("user@example.org").await;
    let token = server.enrollment_token().await;
    let mut phones = Vec::new();
    for i in 0..n {
        let phone = server.phone_with(&token, "user@example.org", &format!("h{i}")).await;
        phone.visit(server, "launch").await;
        phones.push(phone);
    }
    phones
}

fn wipe(phones: &[TestDevice]) -> Value {
    json!({"kind": "wipe", "target": {"devices": phones.iter().map(|phone| &phone.id).collect::<Vec<_>>()}})
}

fn path(job: &Value) -> String {
    format!("/jobs/{}", job["id"].as_str().unwrap())
}

async fn kinds_for(server: &TestServer, phone: &TestDevice) -> Vec<Value> {
    let said = phone.sync(server, json!({"cause": "periodic"})).await;
    said.body["tasks"].as_array().unwrap().iter().map(|task| task["kind"].clone()).collect()
}

async fn open_alarms(server: &TestServer, kind: &str) -> usize {
    let alarms = server.get("/alarms?state=open").await;
    alarms["items"].as_array().unwrap().iter().filter(|alarm| alarm["kind"] == kind).count()
}

#[tokio::test]
async fn a_wipe_above_the_budget_goes_out_only_after_a_second_person_approved_it() {
    with_budget(2, async |server| {
        let phones = phones(&server, 4).await;
        let (first, second) = (server.operator("first", Role::Operator).await, server.operator("second", Role::Operator).await);
        let within = first.call("POST", "/jobs", Some(wipe(&phones[..2]))).await.expect(202);
        assert_eq!(within["state"], "running");
        let job = first.call("POST", "/jobs", Some(wipe(&phones[2..3]))).await.expect(202);
        assert_eq!((&job["state"], &job["counts"]), (&json!("awaiting_approval"), &json!({"awaiting_approval": 1})));
        assert_eq!(kinds_for(&server, &phones[2]).await, [] as [Value; 0], "nothing goes out while it waits");
        assert_eq!(open_alarms(&server, "approval_waiting").await, 1);
        // Neither who ordered it nor a key is the second.
        for refused in [
            first.call("POST", &format!("{}/approve", path(&job)), None).await,
            server.post(&format!("{}/approve", path(&job)), json!({})).await,
        ] {
            assert_eq!((refused.status, &refused.body["code"]), (403, &json!("second_operator_needed")));
        }
        let viewer = server.operator("third", Role::Viewer).await;
        let refused = viewer.call("POST", &format!("{}/approve", path(&job)), None).await;
        assert_eq!((refused.status, &refused.body["code"]), (403, &json!("role_insufficient")));
        // The console offers it to those who may.
        let page = path(&job);
        assert!(!first.get(&page).await.text.contains(&format!("{page}/approve")));
        assert!(second.get(&page).await.text.contains(&format!("{page}/approve")));
        let shown = second.submit(&format!("{page}/approve"), &[]).await;
        assert!(shown.text.contains("Approved"), "{}", shown.text);
        assert_eq!(server.get(&page).await["state"], "running");
        assert_eq!(kinds_for(&server, &phones[2]).await, ["wipe"]);
        assert_eq!(open_alarms(&server, "approval_waiting").await, 0);
        let again = second.call("POST", &format!("{page}/approve"), None).await;
        assert_eq!((again.status, &again.body["code"]), (409, &json!("job_not_waiting")));
        // What was approved counts as well; an hour later there is room again.
        let job = first.call("POST", "/jobs", Some(wipe(&phones[3..]))).await.expect(202);
        assert_eq!(job["state"], "awaiting_approval");
        let rejected = second.call("POST", &format!("{}/reject", path(&job)), None).await.expect(200);
        assert_eq!((&rejected["state"], &rejected["counts"]), (&json!("rejected"), &json!({"cancelled": 1})));
        assert_eq!(kinds_for(&server, &phones[3]).await, [] as [Value; 0]);
        server.advance(HOUR_MS);
        let job = first.call("POST", "/jobs", Some(wipe(&phones[3..]))).await.expect(202);
        assert_eq!(job["state"], "running");
        server
            .until("the audit tells", async || {
                let audit = server.get("/audit").await;
                let told = |kind: &str| {
                    audit["items"].as_array().unwrap().iter().any(|entry| entry["kind"] == kind && entry["actor"] == "operator:second")
                };
                told("job.approved") && told("job.rejected")
            })
            .await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_retirement_counts_and_denies_its_device_only_once_it_is_approved() {
    with_budget(1, async |server| {
        let phones = phones(&server, 2).await;
        let second = server.operator("second", Role::Operator).await;
        let retire = async |phone: &TestDevice| server.post(&format!("/devices/{}/retire", phone.id), json!({})).await.expect(202);
        assert_eq!(retire(&phones[0]).await["state"], "running");
        let job = retire(&phones[1]).await;
        assert_eq!(job["state"], "awaiting_approval");
        let device = async || server.get(&format!("/devices/{}", phones[1].id)).await;
        assert_eq!(device().await["unauthorized"], false);
        second.call("POST", &format!("{}/approve", path(&job)), None).await.expect(200);
        assert_eq!((&device().await["unauthorized_reason"], &device().await["state"]), (&json!("retired"), &json!("unmanaged")));
        assert_eq!(kinds_for(&server, &phones[1]).await, ["retire"]);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn orders_at_the_same_time_do_not_slip_past_the_budget_and_two_approvers_make_one_approval() {
    with_budget(3, async |server| {
        let phones = phones(&server, 8).await;
        let calls = phones.chunks(1).map(|one| server.post("/jobs", wipe(one)));
        let jobs: Vec<Value> = futures_util::future::join_all(calls).await.into_iter().map(|reply| reply.expect(202)).collect();
        let waiting: Vec<&Value> = jobs.iter().filter(|job| job["state"] == "awaiting_approval").collect();
        assert_eq!(waiting.len(), 5);
        let mut operators = Vec::new();
        for name in ["one", "two"] {
            operators.push(server.operator(name, Role::Operator).await);
        }
        for (i, job) in waiting.iter().enumerate() {
            let approve = format!("{}/approve", path(job));
            let other = format!("{}/{}", path(job), ["approve", "reject", "cancel"][i % 3]);
            let (a, b) = tokio::join!(operators[0].call("POST", &approve, None), operators[1].call("POST", &other, None));
            let state = server.get(&path(job)).await["state"].clone();
            match i % 3 {
                0 => assert_eq!([a.status, b.status].iter().filter(|status| **status == 200).count(), 1, "one of two wins"),
                // A job that was approved can still be cancelled; one that was cancelled cannot be approved.
                2 => assert_eq!((b.status, &state), (200, &json!("cancelled"))),
                _ => {
                    let expected = if a.status == 200 { "running" } else { "rejected" };
                    assert!((a.status == 200) != (b.status == 200));
                    assert_eq!(state, expected);
                }
            }
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_nobody_decides_on_expires_and_a_wipe_of_a_device_that_enrolled_anew_is_decided_on() {
    with_budget(1, async |server| {
        let phones = phones(&server, 2).await;
        let mut order = wipe(&phones);
        order["expires_in_s"] = json!(600);
        let job = server.post("/jobs", order).await.expect(202);
        assert_eq!((&job["state"], &job["counts"]), (&json!("awaiting_approval"), &json!({"awaiting_approval": 2})));
        server.advance(600_000);
        server
            .until("the job is over", async || {
                let job = server.get(&path(&job)).await;
                job["counts"] == json!({"expired": 2}) && job["state"] != "awaiting_approval"
            })
            .await;
        assert_eq!(open_alarms(&server, "approval_waiting").await, 0);
        // Within the budget, but the phone is set up anew before the wipe came.
        let job = server.post("/jobs", wipe(&phones[..1])).await.expect(202);
        assert_eq!(job["state"], "running");
        let token = server.enrollment_token().await;
        let again = crate::support::device::activation(&token, "user@example.org", "h0", Some(&server.fcm.register()));
        assert_eq!(server.activate(&again, None).await.status, 409, "another token: parked");
        let parked = server.get("/devices?state=pending_approval").await["items"][0]["id"].as_str().unwrap().to_owned();
        server.post(&format!("/devices/{parked}/authorize"), json!({})).await.expect(200);
        server.until("the wipe waits", async || server.get(&path(&job)).await["counts"] == json!({"awaiting_approval": 1})).await;
        assert_eq!(open_alarms(&server, "wipe_undelivered").await, 1);
        let second = server.operator("second", Role::Operator).await;
        let rejected = second.call("POST", &format!("{}/reject", path(&job)), None).await.expect(200);
        assert_eq!(rejected["counts"], json!({"cancelled": 1}));
        assert_eq!(open_alarms(&server, "wipe_undelivered").await, 0);
        server.until("the job is done", async || server.get(&path(&job)).await["state"] == "done").await;
        assert!(server.clock.now_ms() > START_MS);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_label_does_not_grow_while_its_wipe_waits_and_a_key_and_its_maker_are_one_person() {
    with_budget(1, async |server: server::TestServer| {
        let phones = phones(&server, 3).await;
        server.put("/labels/lost", json!({})).await.expect(201);
        server.put("/labels/lost/devices", json!({"devices": [phones[0].id, phones[1].id]})).await;
        let admin = server.operator("first", Role::Admin).await;
        let key = admin.call("POST", "/keys", Some(json!({"name": "mine", "role": "admin"}))).await.expect(201);
        let order = server.client.post(format!("{}/api/v1/jobs", server.url)).bearer_auth(key["key"].as_str().unwrap());
        let job = server::reply(order.json(&json!({"kind": "wipe", "target": {"label": "lost"}}))).await.expect(202);
        assert_eq!(job["state"], "awaiting_approval");
        let refused = admin.call("POST", &format!("{}/approve", path(&job)), None).await;
        assert_eq!(refused.body["code"], "second_operator_needed");
        // Nor is it another person where the key made the key.
        let made = server.client.post(format!("{}/api/v1/keys", server.url)).bearer_auth(key["key"].as_str().unwrap());
        let made = server::reply(made.json(&json!({"name": "its own", "role": "operator"}))).await.expect(201);
        let order = server.client.post(format!("{}/api/v1/jobs", server.url)).bearer_auth(made["key"].as_str().unwrap());
        let other = server::reply(order.json(&wipe(&phones[1..]))).await.expect(202);
        let refused = admin.call("POST", &format!("{}/approve", path(&other)), None).await;
        assert_eq!((refused.status, &refused.body["code"]), (403, &json!("second_operator_needed")), "{}", refused.body);
        admin.call("POST", &format!("{}/reject", path(&other)), None).await.expect(200);
        server.call("POST", "/labels/lost/devices", Some(json!({"devices": [phones[2].id]}))).await;
        let second = server.operator("second", Role::Operator).await;
        second.call("POST", &format!("{}/approve", path(&job)), None).await.expect(200);
        let mut wiped = Vec::new();
        for phone in &phones {
            wiped.push(kinds_for(&server, phone).await.len());
        }
        assert_eq!(wiped, [1, 1, 0]);
        server.stop().await;
    })
    .await;
}
