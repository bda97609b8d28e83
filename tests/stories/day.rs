//! A day of a fleet, over HTTP: Android phones that come by themselves, iPhones that come when they are called, a push in twenty that is
//! lost, and four hours without a server.

use futures_util::StreamExt as _;
use futures_util::stream;
use muster::clock::Moment;
use muster::sim::fcm::Push;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::mpsc;

use crate::support::device::{TestDevice, activation};
use crate::support::server::{START_MS, TestServer};

const ANDROIDS: usize = 120;
const IPHONES: usize = 120;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const PERIOD_MS: i64 = 3 * HOUR_MS;
/// How far the clock goes at a time. What is called late by more than ten minutes would be spread anew.
const STEP_MS: i64 = 5 * MINUTE_MS;
/// Pushes of a hundred that never arrive.
const LOST_PER_CENT: i64 = 5;
/// An hour in which more than this come, or fewer, is uneven: four standard deviations of a fair spread over the three hours.
const HOURLY: (usize, usize) = ((ANDROIDS + IPHONES) / 3 - 30, (ANDROIDS + IPHONES) / 3 + 30);

struct Phone {
    device: TestDevice,
    /// The version of the document that it has.
    version: Value,
    pushes: mpsc::Receiver<Push>,
    /// When an Android agent comes by itself.
    own_ms: Option<i64>,
    /// Since when a push that never arrived is to be made good.
    lost_ms: Option<i64>,
}

impl Phone {
    /// Whether it comes now, and for what.
    fn wakes(&mut self, now_ms: i64, chance: &mut Moment) -> Option<&'static str> {
        let mut cause = None;
        while self.pushes.try_recv().is_ok() {
            // The one that makes a lost one good arrives, so that it can be said until when it must.
            if self.lost_ms.is_none() && chance.below(100) < LOST_PER_CENT {
                self.lost_ms = Some(now_ms);
            } else {
                cause = Some("push");
            }
        }
        if self.own_ms.is_some_and(|own_ms| own_ms <= now_ms) {
            cause = Some("periodic");
        }
        if cause.is_some() {
            self.lost_ms = None;
        }
        let unheard_ms = self.lost_ms.map_or(0, |since_ms| now_ms - since_ms);
        assert!(unheard_ms <= PERIOD_MS + 2 * STEP_MS, "a lost nudge was not made good for {} min", unheard_ms / MINUTE_MS);
        cause
    }

    /// Comes with nothing to tell but what it has; an Android phone is told when to come by itself.
    async fn comes(&mut self, server: &TestServer, cause: &str) {
        let say = json!({"cause": cause, "policy": {"version": self.version, "details": []}});
        let told = self.device.sync(server, say).await.expect(200);
        self.own_ms = self.own_ms.map(|_| server.clock.now_ms() + told["next_sync_in_s"].as_i64().unwrap() * 1_000);
    }
}

struct Day {
    server: TestServer,
    phones: Vec<Phone>,
    chance: Moment,
    /// How many came in each hour since the beginning.
    came: Vec<usize>,
    healed: usize,
}

impl Day {
    async fn new(url: &str) -> Day {
        let server = TestServer::at(url, None, |_| {}).await;
        server.user("fleet@example.org").await;
        let token = server.enrollment_token().await;
        let phones = stream::iter(0..ANDROIDS + IPHONES)
            .map(|n| (n, &server, &token))
            .map(async |(n, server, token)| {
                let (name, push) = (format!("phone-{n}"), server.fcm.register());
                let mut body = activation(token, "fleet@example.org", &name, Some(&push));
                if n >= ANDROIDS {
                    body["device"]["platform"] = json!("ios");
                    body["device"]["management_mode"] = json!("app");
                }
                let answer = server.activate(&body, None).await.expect(201);
                let text = |name: &str| answer[name].as_str().unwrap().to_owned();
                let device = TestDevice { id: text("device_id"), token: text("device_token"), push: push.clone(), hardware_id: name };
                let visit = device.sync(server, json!({"cause": "launch", "policy": {"version": null}})).await.expect(200);
                let version = visit["policy"]["version"].clone();
                let own_ms = (n < ANDROIDS).then_some(0);
                let mut phone = Phone { pushes: server.fcm.connect(&push), device, version, own_ms, lost_ms: None };
                phone.comes(server, "launch").await;
                phone
            })
            .buffer_unordered(8)
            .collect()
            .await;
        Day { server, phones, chance: Moment::fixed(START_MS, 9), came: Vec::new(), healed: 0 }
    }

    /// Lives on for so long; answers how many pushes left.
    async fn live(&mut self, for_ms: i64) -> usize {
        let before = self.server.fcm.counts().accepted;
        for _ in 0..for_ms / STEP_MS {
            self.step().await;
        }
        usize::try_from(self.server.fcm.counts().accepted - before).unwrap()
    }

    async fn step(&mut self) {
        self.server.advance(STEP_MS);
        let now_ms = self.server.clock.now_ms();
        let mut database = SqliteConnection::connect(&self.server.config.database_url).await.unwrap();
        let mut waiting = async || -> i64 {
            let due = "SELECT COUNT(*) FROM wakes WHERE due_at_ms <= $1 OR lease_id IS NOT NULL";
            sqlx::query_scalar(due).bind(now_ms).fetch_one(&mut database).await.unwrap()
        };
        self.server.until("nobody is left to call", async || waiting().await == 0).await;
        let server = &self.server;
        let mut coming = Vec::new();
        for phone in &mut self.phones {
            let was_lost = phone.lost_ms.is_some();
            if let Some(cause) = phone.wakes(now_ms, &mut self.chance) {
                self.healed += usize::from(was_lost);
                coming.push(phone.comes(server, cause));
            }
        }
        let hour = usize::try_from((now_ms - START_MS - 1) / HOUR_MS).unwrap();
        self.came.resize(hour + 1, 0);
        self.came[hour] += coming.len();
        stream::iter(coming).for_each_concurrent(8, |visit| visit).await;
    }

    fn is_even(&self, hours: std::ops::Range<usize>) {
        for hour in hours {
            assert!((HOURLY.0..=HOURLY.1).contains(&self.came[hour]), "{} came in hour {hour}: {:?}", self.came[hour], self.came);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_over_http_is_even_hour_by_hour_heals_lost_nudges_and_stays_even_after_four_hours_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("muster.db").display());
    let mut day = Day::new(&url).await;
    let pushes = day.live(9 * HOUR_MS).await;
    // The first hours have fewer: a point within an hour of the arrival may have passed.
    day.is_even(1..9);
    let fair = IPHONES * 3;
    assert!((fair * 9 / 10..=fair * 11 / 10).contains(&pushes), "{pushes} pushes; Android phones cost none, {fair} are the iPhones'");
    // Four hours without a server: who comes meanwhile finds nobody and comes again at its next point.
    let (clock, fcm) = (day.server.clock.clone(), day.server.fcm.clone());
    day.server.stop().await;
    clock.advance(4 * HOUR_MS);
    day.came.resize(13, 0);
    let now_ms = clock.now_ms();
    for phone in &mut day.phones {
        phone.lost_ms = None;
        phone.own_ms =
            phone.own_ms.map(|own_ms| if own_ms > now_ms { own_ms } else { own_ms + ((now_ms - own_ms) / PERIOD_MS + 1) * PERIOD_MS });
    }
    day.server = TestServer::beside(&url, None, clock, fcm, |_| {}).await;
    let first = day.live(STEP_MS).await;
    let fair = (IPHONES as f64) * STEP_MS as f64 / PERIOD_MS as f64;
    assert!(first as f64 <= fair + 6.0 * fair.sqrt(), "{first} are called in the first minutes, {fair} are fair: a herd");
    day.live(11 * HOUR_MS - STEP_MS).await;
    day.is_even(13..24);
    assert!(day.healed > 0, "some of the lost nudges were made good");
    let active = day.server.get("/devices?state=active&limit=1000").await;
    assert_eq!(active["items"].as_array().unwrap().len(), ANDROIDS + IPHONES, "nobody fell behind");
    day.server.stop().await;
}
