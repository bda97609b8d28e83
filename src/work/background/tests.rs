use serde_json::json;

use super::*;
use crate::clock::Clock;
use crate::model::{Actor, Id};
use crate::ops::policies::{self as policy_ops, Assignments, PolicyInput};
use crate::store::Db;
use crate::store::testing::{self, each_database, number};

const START_MS: i64 = 1_800_000_000_000;
const DEVICES: usize = 600;
const BEHIND: &str = "SELECT COUNT(*) FROM channel c JOIN label_set s ON s.id = c.label_set_id WHERE c.generation < s.generation";

/// A server with settled devices and one policy, assigned to all and not yet moved.
async fn published(db: &Db, clock: &Clock) -> App {
    let app = App::for_tests(db, clock);
    let ids: Vec<Id> = testing::devices(db, clock, DEVICES).await.into_iter().map(|(device, _)| device).collect();
    change!(app, Class::Operators, |conn, moment| settle::devices(conn, moment, &ids, Lane::Change).await).unwrap();
    publish(&app, 1).await;
    let assignments: Assignments =
        serde_json::from_value(json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]})).unwrap();
    let actor = Actor::server();
    change!(app, Class::Operators, |conn, moment| policy_ops::assign(conn, moment, &actor, "p", &assignments).await).unwrap();
    app
}

async fn publish(app: &App, length: i64) {
    let document = json!({"passwordPolicies": [{"passwordMinimumLength": length}]});
    let (actor, input) = (Actor::server(), PolicyInput { document, message: String::new() });
    change!(app, Class::Operators, |conn, moment| policy_ops::put(conn, moment, &actor, "p", &input, false, None).await).unwrap();
}

async fn all_are_moved_once(db: &Db) {
    assert_eq!(number(db, BEHIND).await, 0);
    assert_eq!(number(db, "SELECT COUNT(*) FROM label_set WHERE moving > 0").await, 0);
    assert_eq!(number(db, "SELECT COUNT(*) FROM wakes WHERE work_seq = 1").await, i64::try_from(DEVICES).unwrap(), "each is called once");
}

#[tokio::test]
async fn a_move_that_was_stopped_midway_goes_on_in_another_process() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 1);
        let app = published(&db, &clock).await;
        let set = stacks::moving(&mut db.read().await.unwrap()).await.unwrap().remove(0);
        change!(app, Class::Background, |conn, moment| settle::move_some(conn, moment, &set, 100, Lane::Change).await).unwrap();
        assert_eq!(number(&db, BEHIND).await, i64::try_from(DEVICES).unwrap() - 100);
        drop(app);
        let next = App::for_tests(&db, &clock);
        while pass(&next).await.unwrap() {}
        all_are_moved_once(&db).await;
    })
    .await;
}

#[tokio::test]
async fn two_movers_at_once_call_each_device_once() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 1);
        let app = published(&db, &clock).await;
        // Without the lease, so that they meet.
        let move_all = || async {
            loop {
                let sets = stacks::moving(&mut db.read().await.unwrap()).await.unwrap();
                let Some(set) = sets.first() else { return };
                let moved = change!(app, Class::Background, |conn, moment| settle::move_some(conn, moment, set, 50, Lane::Change).await);
                if moved.unwrap() == 0 {
                    change!(app, Class::Background, |conn, _moment| stacks::moved(conn, set).await).unwrap();
                }
            }
        };
        tokio::join!(move_all(), move_all(), move_all());
        all_are_moved_once(&db).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_overtaken_ends_at_the_newest_version() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 1);
        let app = published(&db, &clock).await;
        let set = stacks::moving(&mut db.read().await.unwrap()).await.unwrap().remove(0);
        change!(app, Class::Background, |conn, moment| settle::move_some(conn, moment, &set, 100, Lane::Change).await).unwrap();
        publish(&app, 2).await;
        change!(app, Class::Background, |conn, _moment| stacks::moved(conn, &set).await).unwrap();
        while pass(&app).await.unwrap() {}
        assert_eq!(number(&db, BEHIND).await, 0);
        assert_eq!(number(&db, "SELECT COUNT(DISTINCT desired) FROM channel").await, 1);
        let called = number(&db, "SELECT CAST(SUM(work_seq) AS BIGINT) FROM wakes").await;
        assert_eq!(called, i64::try_from(DEVICES).unwrap() + 100, "those that were moved before are called again, the others once");
    })
    .await;
}
