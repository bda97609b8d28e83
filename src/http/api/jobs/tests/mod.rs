mod order;
mod task;
mod walk;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::App;
use crate::clock::Clock;
use crate::intake::contacts::{Contact, Contacts, Heard, Said};
use crate::intake::group::Kind;
use crate::model::Id;
use crate::model::token::hash;
use crate::protocol::agent::{SyncAnswer, TaskAnswer, parse_sync};
use crate::store::contacts::Way;
use crate::store::testing::{TOKEN_HASH, api_key, number};
use crate::store::{Db, tallies};

const START_MS: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// A server with its operator API, its intake and its background, each moved by the test.
struct Site {
    db: Db,
    clock: Clock,
    app: App,
    router: Router,
}

impl Site {
    async fn new(db: &Db) -> Site {
        let clock = Clock::moved(START_MS, 1);
        let app = App::for_tests(db, &clock);
        for role in ["operator", "viewer", "admin"] {
            api_key(db, &hash(role), role).await;
        }
        Site { db: db.clone(), router: crate::http::api().with_state(app.clone()), app, clock }
    }

    async fn send(&self, key: &str, request: axum::http::request::Builder, body: Option<&Value>) -> (StatusCode, Value) {
        let request = request.header("authorization", format!("Bearer {key}")).header("content-type", "application/json");
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send("viewer", Request::get(path), None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn post(&self, path: &str) -> (StatusCode, Value) {
        self.send("operator", Request::post(path), None).await
    }

    /// Orders a job and answers it.
    async fn order(&self, body: Value) -> Value {
        let (status, job) = self.send("operator", Request::post("/jobs"), Some(&body)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{job}");
        job
    }

    async fn ordered_with(&self, key: &str, idempotency_key: &str, body: &Value) -> (StatusCode, Value) {
        self.send(key, Request::post("/jobs").header("idempotency-key", idempotency_key), Some(body)).await
    }

    /// The items of a list, with all its pages.
    async fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let mut page = self.get(&format!("{path}{joint}limit=1000{cursor}")).await;
            items.append(page["items"].as_array_mut().unwrap());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    /// One sync of one device.
    async fn sync(&self, device: Id, said: Value) -> SyncAnswer {
        self.syncs(&[(device, said)]).await.remove(0)
    }

    /// Syncs of several devices, committed together.
    async fn syncs(&self, said: &[(Id, Value)]) -> Vec<SyncAnswer> {
        let answer = |heard| match heard {
            Heard::Sync(answer) => *answer,
            other => panic!("{other:?}"),
        };
        self.heard(said).await.into_iter().map(answer).collect()
    }

    /// One sync of a device that may not go on; what it is given all the same.
    async fn denied(&self, device: Id) -> Vec<TaskAnswer> {
        match self.heard(&[(device, json!({}))]).await.remove(0) {
            Heard::Denied(members) => members.tasks,
            other => panic!("{other:?}"),
        }
    }

    async fn heard(&self, said: &[(Id, Value)]) -> Vec<Heard> {
        let contact = |(device_id, said): &(Id, Value)| Contact {
            device_id: *device_id,
            way: Way::Agent,
            token_hash: TOKEN_HASH.into(),
            said: Said::Sync(Box::new(parse_sync(said.to_string().as_bytes()).unwrap())),
        };
        let contacts: Vec<Contact> = said.iter().map(contact).collect();
        Contacts { app: self.app.clone(), seat: Arc::default() }.commit(&contacts).await.unwrap()
    }

    /// The background does all that it has to do.
    async fn turn(&self) {
        while crate::work::background::pass(&self.app).await.unwrap() {}
    }

    async fn count(&self, text: &'static str) -> i64 {
        number(&self.db, text).await
    }

    /// The counts of a job are those of its tasks that were not ordered again.
    async fn counts_are_exact(&self, job: &Value) {
        let mut counted = std::collections::BTreeMap::<String, i64>::new();
        for task in self.all(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await {
            if task["retried_by"].is_null() {
                *counted.entry(task["state"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        let topic = crate::ops::jobs::topic(job["id"].as_str().unwrap().parse().unwrap());
        assert_eq!(tallies::read(&mut self.db.read().await.unwrap(), &topic).await.unwrap(), counted);
    }
}

/// What an agent says of one task.
fn result(task: &str, status: &str) -> Value {
    json!({"cause": "push", "results": [{"task_id": task, "status": status, "at_ms": START_MS}]})
}

fn ids(devices: &[(Id, Id)]) -> Vec<Id> {
    devices.iter().map(|(device, _)| *device).collect()
}
