use super::*;
use crate::clock::Clock;
use crate::store::Db;
use crate::store::findings::Which;
use crate::store::testing::{bend, device, each_database, number};

const START_MS: i64 = 1_800_000_000_000;
const CONTACT: &str = "UPDATE channel SET last_contact_ms = $2 WHERE id = $1";
const UNANSWERED: &str = "UPDATE wakes SET unanswered = $2 WHERE channel_id = $1";

async fn state(db: &Db, id: Id) -> String {
    let page = liveness::page(&mut db.read().await.unwrap(), id.bucket(), "", 0, 100).await.unwrap();
    page.into_iter().find(|evidence| evidence.id == id).unwrap().state
}

async fn open_findings(db: &Db, id: Id) -> usize {
    let which = Which { device: Some(id), open: Some(true), ..Which::default() };
    found::list(&mut db.read().await.unwrap(), &which, 10).await.unwrap().len()
}

#[tokio::test]
async fn a_device_becomes_idle_and_silent_by_the_clock_and_active_by_its_contact() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 1);
        let app = App::for_tests(&db, &clock);
        let (id, channel_id) = device(&db, &clock).await;
        clock.advance(47 * HOUR_MS);
        bend(&db, UNANSWERED, channel_id, 9).await;
        pass(&app).await.unwrap();
        assert_eq!(state(&db, id).await, "active", "seen within 48 hours, whatever its nudges came to");
        bend(&db, UNANSWERED, channel_id, 2).await;
        clock.advance(HOUR_MS);
        pass(&app).await.unwrap();
        assert_eq!((state(&db, id).await.as_str(), open_findings(&db, id).await), ("idle", 1));
        clock.advance(HOUR_MS);
        bend(&db, UNANSWERED, channel_id, 3).await;
        pass(&app).await.unwrap();
        assert_eq!(state(&db, id).await, "silent");
        bend(&db, UNANSWERED, channel_id, 0).await;
        clock.advance(6 * DAY_MS);
        pass(&app).await.unwrap();
        assert_eq!(state(&db, id).await, "silent", "not seen for seven days");
        bend(&db, CONTACT, channel_id, clock.now_ms()).await;
        clock.advance(LAP_MS);
        pass(&app).await.unwrap();
        assert_eq!((state(&db, id).await.as_str(), open_findings(&db, id).await), ("active", 0));
        let told = number(&db, "SELECT COUNT(*) FROM feed_in WHERE kind = 'device.state'").await;
        assert_eq!(told, 3);
    })
    .await;
}

#[tokio::test]
async fn an_app_is_silent_by_itself_only_where_the_device_is_not() {
    const MDM: &str = "INSERT INTO channel (bucket, id, device_id, kind, subject, platform, activation, activated_at_ms, push_state, push_since_ms, \
        skew_ms, label_set_id, generation, stack_id, desired_at_ms, last_contact_ms) \
        SELECT bucket, 'mdm of ' || id, device_id, 'mdm', '', 'ios', 0, NULL, 'none', 0, 0, '', 0, '', 0, $2 FROM channel WHERE id = $1";
    const MDM_CAME: &str = "UPDATE channel SET last_contact_ms = $2 WHERE id = 'mdm of ' || $1";
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 6);
        let app = App::for_tests(&db, &clock);
        let (_, agent) = device(&db, &clock).await;
        bend(&db, MDM, agent, START_MS).await;
        let open = async || {
            clock.advance(LAP_MS);
            pass(&app).await.unwrap();
            let which = Which { open: Some(true), ..Which::default() };
            let open = found::list(&mut db.read().await.unwrap(), &which, 10).await.unwrap();
            open.into_iter().map(|finding| finding.kind).collect::<std::collections::BTreeSet<_>>()
        };
        clock.advance(47 * HOUR_MS);
        bend(&db, MDM_CAME, agent, clock.now_ms()).await;
        assert!(open().await.is_empty());
        clock.advance(HOUR_MS);
        assert!(open().await.contains("client_silent"));
        // The whole device falls silent: both stand, and each ends with its own.
        clock.advance(3 * DAY_MS);
        assert_eq!(open().await.len(), 2);
        bend(&db, MDM_CAME, agent, clock.now_ms()).await;
        assert_eq!(open().await.into_iter().collect::<Vec<_>>(), ["client_silent"]);
        bend(&db, CONTACT, agent, clock.now_ms()).await;
        assert!(open().await.is_empty());
        // Both silent from the same hour: that is the device's silence alone.
        clock.advance(3 * DAY_MS);
        assert_eq!(open().await.into_iter().collect::<Vec<_>>(), ["silence"]);
    })
    .await;
}

#[tokio::test]
async fn devices_that_are_not_expected_to_call_are_left_alone() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 2);
        let app = App::for_tests(&db, &clock);
        for text in [
            "UPDATE device SET state = 'unmanaged', state_since_ms = $2 WHERE id = $1",
            "UPDATE device SET state = 'expected', state_since_ms = $2 WHERE id = $1",
            "UPDATE device SET state = 'pending_approval', state_since_ms = $2 WHERE id = $1",
        ] {
            let (id, _) = device(&db, &clock).await;
            bend(&db, text, id, START_MS).await;
        }
        clock.advance(30 * DAY_MS);
        pass(&app).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM feed_in").await, 0);
    })
    .await;
}

#[tokio::test]
async fn the_walk_goes_on_where_it_stopped_and_rests_between_laps() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 3);
        let app = App::for_tests(&db, &clock);
        for _ in 0..20 {
            device(&db, &clock).await;
        }
        clock.advance(3 * DAY_MS);
        let first = Position { bucket: 40, after: String::new(), lap_began_ms: clock.now_ms() };
        walk(&app, first).await.unwrap();
        let walked = number(&db, "SELECT COUNT(*) FROM device WHERE state = 'idle' AND bucket >= 40").await;
        assert_eq!(walked, number(&db, "SELECT COUNT(*) FROM device WHERE bucket >= 40").await);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM device WHERE state = 'idle'").await, walked);
        pass(&app).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM device WHERE state = 'idle'").await, walked, "a lap had just begun");
        clock.advance(LAP_MS);
        pass(&app).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM device WHERE state = 'idle'").await, 20);
    })
    .await;
}

#[tokio::test]
async fn a_clock_runs_out_once_though_its_phone_says_nothing_more() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 4);
        let app = App::for_tests(&db, &clock);
        let (id, channel_id) = device(&db, &clock).await;
        let facts = vec![(id, vec![("encrypted".to_owned(), json!(false)), ("password_set".to_owned(), json!(false))])];
        change!(app, Class::Results, |conn, moment| findings::from_facts(conn, moment, &facts).await).unwrap();
        let overdue = async || number(&db, "SELECT COUNT(*) FROM feed_in WHERE kind = 'finding.overdue'").await;
        for (days, expected) in [(0, 0), (1, 1), (5, 1), (1, 2), (1, 2)] {
            clock.advance(days * DAY_MS);
            bend(&db, CONTACT, channel_id, clock.now_ms()).await;
            pass(&app).await.unwrap();
            pass(&app).await.unwrap();
            assert_eq!(overdue().await, expected);
        }
        assert_eq!(open_findings(&db, id).await, 2);
    })
    .await;
}

#[tokio::test]
async fn only_the_holder_of_the_lease_keeps_the_clocks() {
    each_database(async |db| {
        let clock = Clock::moved(START_MS, 5);
        let (one, other) = (App::for_tests(&db, &clock), App::for_tests(&db, &clock));
        let (id, _) = device(&db, &clock).await;
        pass(&one).await.unwrap();
        clock.advance(3 * DAY_MS);
        assert!(lease(&one, clock.now_ms()).await.unwrap());
        pass(&other).await.unwrap();
        assert_eq!(state(&db, id).await, "active");
        clock.advance(LEASE_MS);
        pass(&other).await.unwrap();
        assert_eq!(state(&db, id).await, "idle");
    })
    .await;
}
