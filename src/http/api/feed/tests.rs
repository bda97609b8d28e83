use std::sync::atomic::AtomicI64;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::App;
use crate::change;
use crate::clock::Clock;

use crate::model::Id;
use crate::model::token::hash;
use crate::ops::events::{Arrived, apply};
use crate::store::feed::{Entry, append};
use crate::store::testing::{api_key, device, each_database};
use crate::store::{Class, Db};

const START_MS: i64 = 1_800_000_000_000;
const SECRET: &str = "mk_test";

/// A server's API and what moves its feed.
struct Server {
    app: App,
    clock: Clock,
    router: Router,
    told: AtomicI64,
}

impl Server {
    async fn new(db: &Db) -> Server {
        let clock = Clock::moved(START_MS, 1);
        let app = App::for_tests(db, &clock);
        api_key(db, &hash(SECRET), "operator").await;
        let server = Server {
            router: crate::http::api().with_state(app.clone()),
            app,
            clock,
            told: AtomicI64::new(crate::work::feed_tail::NOT_BEGUN),
        };
        crate::work::feed_tail::pass(&server.app, &server.told).await.unwrap();
        server
    }

    async fn tell(&self, kinds: &[&'static str]) {
        let entry = |kind: &&'static str| Entry { kind, actor: Some("key:test".into()), device_id: None, data: json!({"said": kind}) };
        let entries: Vec<Entry> = kinds.iter().map(entry).collect();
        let app = &self.app;
        change!(app, Class::Operators, |conn, moment| append(conn, moment, &entries).await).unwrap();
        self.turn().await;
    }

    async fn turn(&self) {
        while crate::work::sequencer::pass(&self.app).await.unwrap() {}
        while crate::work::feed_tail::pass(&self.app, &self.told).await.unwrap() {}
    }

    async fn send(&self, request: axum::http::request::Builder) -> axum::response::Response {
        let request = request.header("authorization", format!("Bearer {SECRET}")).body(Body::empty()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.send(Request::get(path)).await;
        let status = response.status();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    async fn stream(&self, path: &str, last: Option<&str>) -> Events {
        let mut request = Request::get(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body().into_data_stream(), text: String::new() }
    }
}

struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    /// The next event as (id, event, data), or `None` at the end.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned();
                let found = (field("id:"), field("event:"), serde_json::from_str(&field("data:")).unwrap());
                self.text = rest.to_owned();
                return Some(found);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await.expect("an event in time")?;
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    }
}

fn kinds(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_feed_is_read_in_pages_by_kind_and_says_when_a_cursor_has_expired() {
    each_database(async |db| {
        let server = Server::new(&db).await;
        server.tell(&["task.done", "tasks.other", "task.failed"]).await;
        server.clock.advance(1000);
        server.tell(&["policy.published"]).await;
        let (_, page) = server.get("/feed?limit=2").await;
        assert_eq!(kinds(&page), ["task.done", "tasks.other"]);
        let old = page["items"][0]["cursor"].as_str().unwrap().to_owned();
        let (_, rest) = server.get(&format!("/feed?after={}", page["next_cursor"].as_str().unwrap())).await;
        assert_eq!(kinds(&rest), ["task.failed", "policy.published"]);
        let (_, end) = server.get(&format!("/feed?after={}", rest["next_cursor"].as_str().unwrap())).await;
        assert_eq!((kinds(&end).len(), end["next_cursor"].is_null()), (0, true));
        assert_eq!(kinds(&server.get("/feed?kind=task").await.1), ["task.done", "task.failed"]);
        assert_eq!(kinds(&server.get("/feed?kind=task.failed").await.1), ["task.failed"]);
        assert_eq!(kinds(&server.get("/audit?limit=1").await.1), ["policy.published"]);
        assert_eq!(kinds(&server.get("/audit?actor=key:test&kind=task").await.1), ["task.failed", "task.done"]);
        assert_eq!(server.get("/feed?after=rubbish").await.0, StatusCode::UNPROCESSABLE_ENTITY);
        server.clock.advance(91 * 86_400_000);
        crate::work::retention::pass(&server.app).await.unwrap();
        let (status, problem) = server.get(&format!("/feed?after={old}")).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::GONE, Some("cursor_expired")));
        let (_, page) = server.get(&format!("/feed?after={}", problem["oldest"].as_str().unwrap())).await;
        assert_eq!(kinds(&page), ["policy.published"]);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_goes_on_behind_the_last_event_it_got() {
    each_database(async |db| {
        let server = Server::new(&db).await;
        server.tell(&["before.it"]).await;
        let mut events = server.stream("/feed/stream", None).await;
        server.tell(&["test.first", "test.second"]).await;
        let (last, kind, data) = events.next().await.unwrap();
        assert_eq!((kind.as_str(), &data["data"]["said"]), ("test.first", &json!("test.first")));
        drop(events);
        server.tell(&["other.third", "test.fourth"]).await;
        let mut events = server.stream("/feed/stream?kind=test", Some(&last)).await;
        assert_eq!(events.next().await.unwrap().1, "test.second");
        assert_eq!(events.next().await.unwrap().1, "test.fourth");
        server.tell(&["test.fifth"]).await;
        assert_eq!(events.next().await.unwrap().1, "test.fifth");
        // The end of the process ends it.
        server.app.feed_tail.end();
        assert!(events.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_does_not_read_is_told_to_reconnect_and_places_are_limited() {
    each_database(async |db| {
        let server = Server::new(&db).await;
        let mut slow = server.stream("/feed/stream", None).await;
        server.tell(&["test.first"]).await;
        let (last, kind, _) = slow.next().await.unwrap();
        assert_eq!(kind, "test.first");
        for _ in 0..10 {
            server.tell(&["test.flood"; 500]).await;
        }
        assert_eq!(slow.next().await.unwrap().1, "reconnect");
        assert!(slow.next().await.is_none());
        let mut again = server.stream("/feed/stream", Some(&last)).await;
        for _ in 0..5000 {
            assert_eq!(again.next().await.unwrap().1, "test.flood");
        }
        drop((slow, again));
        let mut places = Vec::new();
        while let Some(place) = server.app.feed_tail.watch() {
            places.push(place);
        }
        assert_eq!(places.len(), crate::app::STREAMS_MAX);
        let refused = server.get("/feed/stream").await;
        assert_eq!((refused.0, refused.1["code"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("busy")));
    })
    .await;
}

#[tokio::test]
async fn events_and_findings_are_listed_by_device_and_kind() {
    each_database(async |db| {
        let server = Server::new(&db).await;
        let mut devices: Vec<Id> = Vec::new();
        for phone in 0..2 {
            let (device_id, channel_id) = device(&db, &server.clock).await;
            devices.push(device_id);
            let event = |n: i64, kind: &str, data: Value| {
                json!({"event_id": format!("00000000-0000-4000-800{phone}-{n:012}"), "type": kind, "seq": n, "occurred_at_ms": 5, "data": data})
            };
            let body = json!({"events": [event(1, "usb_debugging_changed", json!({"enabled": true, "extra": 7})),
                event(2, "malware_unresolved", json!({"threat": "A"})), event(3, "usb_debugging_changed", json!({"enabled": false}))]});
            let events = crate::protocol::agent::parse_events(body.to_string().as_bytes()).unwrap();
            let batch = [Arrived { channel_id, device_id, activation: 1, skew_ms: 0, told_ms: None, events }];
            let app = &server.app;
            change!(app, Class::Results, |conn, moment| apply(conn, moment, &batch).await).unwrap();
            server.clock.advance(10);
        }
        let count = async |path: String| server.get(&path).await.1["items"].as_array().unwrap().len();
        assert_eq!(count("/events".into()).await, 6);
        assert_eq!(count(format!("/events?device={}", devices[0])).await, 3);
        assert_eq!(count("/events?type=malware_unresolved".into()).await, 2);
        assert_eq!(count(format!("/devices/{}/events?type=usb_debugging_changed", devices[1])).await, 2);
        let (_, first) = server.get("/events?limit=4").await;
        let (_, rest) = server.get(&format!("/events?limit=4&cursor={}", first["next_cursor"].as_str().unwrap())).await;
        assert_eq!((rest["items"].as_array().unwrap().len(), rest["next_cursor"].is_null()), (2, true));
        assert_eq!(first["items"][0]["device_id"], json!(devices[1]), "newest first");
        assert_eq!(count("/findings?open=true".into()).await, 2);
        assert_eq!(count(format!("/findings?device={}", devices[0])).await, 1);
        assert_eq!(count("/findings?kind=usb_debugging&open=true".into()).await, 0);
        for path in ["/events?type=nonsense", "/findings?kind=nonsense", "/findings?opne=true", "/alarms?state=nonsense", "/events?limit=0"] {
            assert_eq!(server.get(path).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        }
        assert_eq!(server.get("/events?device=nobody").await.0, StatusCode::NOT_FOUND);
        assert_eq!(server.get("/alarms").await.1["items"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_when_a_key_is_revoked_and_a_revoked_key_opens_none() {
    each_database(async |db| {
        let server = Server::new(&db).await;
        // One that was taken away before the stream began ends nothing.
        server.tell(&["key.revoked"]).await;
        server.clock.advance(1_000);
        let before = server.get("/feed").await.1["items"][0]["cursor"].as_str().unwrap().to_owned();
        let mut events = server.stream("/feed/stream?kind=task", Some(&before)).await;
        server.tell(&["task.done"]).await;
        assert_eq!(events.next().await.unwrap().1, "task.done");
        // Also where entries of that kind are not asked for.
        server.tell(&["task.failed", "key.revoked", "task.expired"]).await;
        assert_eq!(events.next().await.unwrap().1, "task.failed");
        assert_eq!(events.next().await.unwrap().1, "reconnect", "and nothing that came after it");
        assert!(events.next().await.is_none());
        crate::store::testing::end_api_key(&db, &hash(SECRET)).await;
        assert_eq!(server.send(Request::get("/feed/stream")).await.status(), StatusCode::UNAUTHORIZED);
    })
    .await;
}
