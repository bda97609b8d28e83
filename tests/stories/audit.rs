//! Every change that an operator can make is in the audit: who, what, and, where something had a state before, before and after.

use std::collections::BTreeSet;

use muster::config::Config;
use muster::model::Role;
use muster::ops::alarms;
use muster::sim::smtp::{Fault, StandIn};
use muster::store::Class;
use serde_json::{Value, json};

use crate::apple::merging;
use crate::support::apple::behind_proxy;
use crate::support::server::{Reply, TestServer};

/// Changing routes that are not in the audit, and why.
const NOT_AUDITED: &[(&str, &str, &str)] = &[
    ("post", "/agent/v1/activate", "a device's: told in the feed as it is"),
    ("post", "/agent/v1/sync", "a device's"),
    ("post", "/agent/v1/events", "a device's"),
    ("post", "/agent/v1/service-token", "a device's, and nothing changes"),
    ("post", "/api/v1/introspect", "a question"),
];

/// What was called, and what the audit must say of it.
struct Walk {
    server: TestServer,
    called: BTreeSet<(String, String)>,
    expected: Vec<(&'static str, bool)>,
}

impl Walk {
    /// Calls a route with `{}` filled in. The audit must have an entry of `kind`; with before and after where `is_diff`.
    async fn call(&mut self, method: &str, template: &str, fill: &str, body: Option<Value>, kind: &'static str, is_diff: bool) -> Value {
        let path = filled(template, fill);
        let reply: Reply = self.server.call(&method.to_uppercase(), &path, body).await;
        assert!((200..300).contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.body);
        self.called.insert((method.to_owned(), format!("/api/v1{template}")));
        self.expected.push((kind, is_diff));
        reply.body
    }
}

fn filled(template: &str, fill: &str) -> String {
    match (template.find('{'), template.find('}')) {
        (Some(from), Some(to)) => format!("{}{fill}{}", &template[..from], &template[to + 1..]),
        _ => template.to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_changing_route_of_the_description_is_in_the_audit() {
    let smtp = StandIn::start().await.unwrap();
    let url = smtp.url();
    let change = move |config: &mut Config| {
        behind_proxy(config);
        config.mail.smtp_url = Some(url);
        config.mail.from = Some("muster@example.org".into());
        config.webhooks.allow = vec!["127.0.0.1".into()];
        config.limits.wipes_per_hour = 1;
    };
    let server = TestServer::with(change).await;
    let (phone, other) = (server.phone("a").await, server.phone("b").await);
    let second = server.operator("second", Role::Operator).await;
    let mut walk = Walk { server, called: BTreeSet::new(), expected: Vec::new() };
    people(&mut walk, &smtp).await;
    orders(&mut walk, &phone.id, &other.id, &second).await;
    policies(&mut walk, &phone.id).await;
    the_server(&mut walk).await;
    let device = text(
        &walk.call("post", "/devices", "", Some(json!({"user": "a@example.org", "platform": "android"})), "device.announced", true).await["id"],
    );
    walk.call("patch", "/devices/{id}", &device, Some(json!({"serial": "S-9"})), "device.changed", true).await;
    walk.call("delete", "/devices/{id}", &device, None, "device.deleted", true).await;
    walk.server.user(merging::EMAIL).await;
    let token = walk.server.enrollment_token().await;
    let (app, (_, iphone)) = (merging::app(&walk.server, "app-1", &token).await, merging::iphone(&walk.server, "1").await);
    walk.call("post", "/devices/{id}/merge", &app.id, Some(json!({"into": iphone})), "device.merged", true).await;

    let Walk { server, called, expected } = walk;
    let entries = async || server.get("/audit?limit=1000").await["items"].as_array().unwrap().clone();
    for (kind, is_diff) in expected {
        let by_us = |entry: &Value| entry["actor"] == "key:test" || entry["actor"] == "operator:second";
        server.until(&format!("{kind} is told"), async || entries().await.iter().any(|entry| entry["kind"] == kind && by_us(entry))).await;
        let told: Vec<Value> = entries().await.into_iter().filter(|entry| entry["kind"] == kind && by_us(entry)).collect();
        let has = |entry: &Value, name: &str| entry["data"].as_object().is_some_and(|data| data.contains_key(name));
        if kind == "operator.disabled" {
            assert!(told.iter().all(|entry| entry["data"]["keys_that_stand"] == json!([])), "{told:?}");
        }
        assert!(!is_diff || told.iter().all(|entry| has(entry, "before") && has(entry, "after")), "{kind}: {told:?}");
    }
    let text = serde_json::to_string(&entries().await).unwrap();
    for secret in ["hunter2", "PRIVATE KEY", "whsec_", "mk_", "mdt_"] {
        assert!(!text.contains(secret), "the audit shows {secret}");
    }
    let description = crate::support::server::reply(server.client.get(format!("{}/api/openapi.json", server.url))).await.expect(200);
    let mut missing = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|method| ["post", "put", "patch", "delete"].contains(&method.as_str())) {
            let is_justified = NOT_AUDITED.iter().any(|(known, route, why)| known == method && route == path && !why.is_empty());
            if !is_justified && !called.contains(&(method.clone(), path.clone())) {
                missing.push(format!("{method} {path}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "walk these routes here, or say why they are not in the audit");
    server.stop().await;
}

async fn people(walk: &mut Walk, smtp: &StandIn) {
    let user = json!({"email": "c@example.org", "name": "A user"});
    let user = text(&walk.call("post", "/users", "", Some(user), "user.created", true).await["id"]);
    walk.call("patch", "/users/{id}", &user, Some(json!({"name": "Another"})), "user.changed", true).await;
    smtp.next(Fault::Refuse("550 5.1.1 no such user".into()));
    let mail = text(&walk.call("post", "/users/{id}/activation", &user, None, "mail.queued", false).await["id"]);
    walk.server.until("the mail has failed", async || walk.server.get(&format!("/mail/{mail}")).await["state"] == "failed").await;
    walk.call("post", "/mail/{id}/resend", &mail, None, "mail.queued", false).await;
    walk.call("delete", "/users/{id}", &user, None, "user.deleted", true).await;
    let token =
        text(&walk.call("post", "/enrollment-tokens", "", Some(json!({"name": "t"})), "enrollment_token.created", true).await["id"]);
    let since = Some(json!({"quarantine_since_ms": 0}));
    walk.call("post", "/enrollment-tokens/{id}/revoke", &token, since, "enrollment_token.revoked", true).await;
    let named = json!({"name": "third", "role": "viewer"});
    let operator = text(&walk.call("post", "/operators", "", Some(named.clone()), "operator.linked", true).await["id"]);
    walk.call("delete", "/operators/{id}", &operator, None, "operator.disabled", true).await;
    let key = text(&walk.call("post", "/keys", "", Some(named.clone()), "key.created", true).await["id"]);
    walk.call("delete", "/keys/{id}", &key, None, "key.revoked", true).await;
    // Both can be named by a query too.
    for route in ["/operators", "/keys"] {
        let made = walk.server.post(route, json!({"name": "fourth", "role": "viewer"})).await.expect(201);
        walk.server.call("DELETE", &format!("{route}?id={}", text(&made["id"])), None).await.expect(204);
        walk.called.insert(("delete".into(), format!("/api/v1{route}")));
    }
}

async fn orders(walk: &mut Walk, phone: &str, other: &str, second: &crate::support::browser::Browser) {
    let order = |kind: &str, params: Value, device: &str| Some(json!({"kind": kind, "params": params, "target": {"devices": [device]}}));
    let secret = order("reset_password", json!({"password": "hunter2"}), phone);
    let job = text(&walk.call("post", "/jobs", "", secret, "job.created", false).await["id"]);
    walk.call("post", "/jobs/{id}/cancel", &job, None, "job.cancelled", true).await;
    walk.call("post", "/jobs/{id}/retry", &job, None, "job.retried", true).await;
    let task = text(&walk.server.get(&format!("/jobs/{job}/tasks?state=queued")).await["items"][0]["id"]);
    walk.call("post", "/tasks/{id}/cancel", &task, None, "task.cancelled", true).await;
    walk.call("post", "/tasks/{id}/retry", &task, None, "task.retried", false).await;
    walk.call("post", "/devices/{id}/sync", phone, None, "device.called", false).await;
    walk.call("post", "/devices/{id}/unauthorize", phone, None, "device.unauthorized", true).await;
    walk.call("post", "/devices/{id}/authorize", phone, None, "device.authorized", true).await;
    walk.call("post", "/devices/{id}/retire", other, None, "device.denied", false).await;
    let job = walk.call("post", "/jobs", "", order("wipe", json!({}), phone), "job.awaiting_approval", false).await;
    assert_eq!(job["state"], "awaiting_approval");
    let path = format!("/jobs/{}/approve", text(&job["id"]));
    second.call("POST", &path, None).await.expect(200);
    walk.called.insert(("post".into(), "/api/v1/jobs/{id}/approve".into()));
    walk.expected.push(("job.approved", true));
    let job = walk.call("post", "/jobs", "", order("wipe", json!({}), phone), "job.awaiting_approval", false).await;
    walk.call("post", "/jobs/{id}/reject", &text(&job["id"]), None, "job.rejected", true).await;
}

async fn policies(walk: &mut Walk, phone: &str) {
    walk.call("put", "/labels/{name}", "staff", Some(json!({"description": "d"})), "label.created", true).await;
    let devices = Some(json!({"devices": [phone]}));
    for method in ["put", "post", "delete"] {
        walk.call(method, "/labels/{name}/devices", "staff", devices.clone(), "label.members_changed", true).await;
    }
    let told = async || {
        let items = walk.server.get("/feed?kind=label.members_changed").await["items"].as_array().unwrap().clone();
        items.len() == 3 && items[0]["data"]["given_to"] == json!([phone]) && items[2]["data"]["taken_from"] == json!([phone])
    };
    walk.server.until("the audit says whom it is about", told).await;
    let document = json!({"document": {"cameraAccess": "CAMERA_ACCESS_DISABLED"}});
    walk.call("put", "/policies/{name}", "p", Some(document), "policy.published", true).await;
    let assignments = json!({"assignments": [{"label": "staff", "mode": "include", "rank": 1}]});
    walk.call("put", "/policies/{name}/assignments", "p", Some(assignments), "policy.assigned", true).await;
    walk.call("delete", "/policies/{name}", "p", None, "policy.deleted", true).await;
    walk.call("delete", "/labels/{name}", "staff", None, "label.deleted", true).await;
}

async fn the_server(walk: &mut Walk) {
    let account: Value = serde_json::from_slice(&walk.server.fcm.service_account()).unwrap();
    walk.call("put", "/push/fcm", "", Some(account), "push.credential_set", true).await;
    walk.expected.push(("push.canary_ordered", false));
    let ended = async || {
        walk.server.advance(60_000);
        walk.server.get("/push").await["senders"][0]["canary"]["state"] == "ended"
    };
    walk.server.until("its canary has ended", ended).await;
    walk.call("post", "/push/{name}/canary", "fcm", None, "push.canary_ordered", false).await;
    let apns = muster::sim::apns::StandIn::start(walk.server.clock.clone()).await.unwrap();
    let key = apns.issue_key("KEY0000001", &["org.example.agent"]).unwrap();
    let body = json!({"key": key.p8, "key_id": key.key_id, "team_id": key.team_id, "topic": "org.example.agent"});
    walk.call("put", "/push/apns-app", "", Some(body), "push.credential_set", true).await;
    walk.expected.push(("push.canary_ordered", false));
    let certificate = apns.issue_certificate("com.apple.mgmt.External.1").unwrap();
    let body = json!({"certificate": certificate.certificate, "key": certificate.key});
    // The stand-in is not Apple, and this server was not told of its CA.
    walk.server.put("/push/apns-mdm?force=true", body).await.expect(200);
    walk.called.insert(("put".into(), "/api/v1/push/apns-mdm".into()));
    walk.expected.push(("push.credential_set", true));
    walk.expected.push(("push.canary_ordered", false));
    walk.server.delete("/push/apns-mdm?topic=com.apple.mgmt.External.1").await.expect(204);
    walk.called.insert(("delete".into(), "/api/v1/push/apns-mdm".into()));
    walk.expected.push(("push.credential_removed", true));
    walk.call("delete", "/push/apns-app", "", None, "push.credential_removed", true).await;
    // The settings' file takes its place.
    walk.call("delete", "/push/fcm", "", None, "push.credential_removed", true).await;
    let endpoint = json!({"url": "http://127.0.0.1:9/"});
    let made = walk.call("post", "/webhooks", "", Some(endpoint.clone()), "webhook.created", true).await;
    let id = text(&made["id"]);
    walk.call("post", "/webhooks/{id}/rotate", &id, None, "webhook.rotated", true).await;
    walk.call("post", "/webhooks/{id}/enable", &id, None, "webhook.enabled", true).await;
    walk.call("post", "/webhooks/{id}/redeliver", &id, Some(json!({"dead": true})), "webhook.redelivered", false).await;
    walk.call("delete", "/webhooks/{id}", &id, None, "webhook.deleted", true).await;
    let named = text(&walk.server.post("/webhooks", endpoint).await.expect(201)["id"]);
    walk.server.call("DELETE", &format!("/webhooks?id={named}"), None).await.expect(204);
    walk.called.insert(("delete".into(), "/api/v1/webhooks".into()));
    let mut moment = walk.server.clock.moment();
    let mut conn = walk.server.app.db.begin(Class::Operators).await.unwrap();
    alarms::open(&mut conn, &mut moment, "push_fault", "x", "a detail").await.unwrap();
    conn.commit().await.unwrap();
    let alarm = text(&walk.server.get("/alarms?state=open").await["items"][0]["id"]);
    walk.call("post", "/alarms/{id}/acknowledge", &alarm, None, "alarm.acknowledged", true).await;
}
