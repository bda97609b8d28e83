use serde_json::json;

use super::*;
use crate::change;
use crate::clock::Clock;
use crate::ops::events::{Arrived, apply};
use crate::store::feed::{Entry, append};
use crate::store::testing::{device, each_database, number};
use crate::work::sequencer;

#[tokio::test]
async fn what_is_old_is_forgotten_and_the_feed_never_loses_its_count() {
    each_database(async |db| {
        let clock = Clock::moved(1_800_000_000_000, 1);
        let app = App::for_tests(&db, &clock);
        let (device_id, channel_id) = device(&db, &clock).await;
        let brings = |n: i64| {
            let event = json!({"event_id": format!("00000000-0000-4000-8000-{n:012}"), "type": "usb_debugging_changed", "seq": n,
                "occurred_at_ms": 0, "data": {"enabled": n % 2 == 1}});
            let events = crate::protocol::agent::parse_events(json!({"events": [event]}).to_string().as_bytes()).unwrap();
            [Arrived { channel_id, device_id, activation: 1, skew_ms: 0, told_ms: None, events }]
        };
        for n in 1..=2 {
            let batch = brings(n);
            change!(app, Class::Results, |conn, moment| apply(conn, moment, &batch).await).unwrap();
        }
        let entries = vec![Entry { kind: "test.told", actor: None, device_id: None, data: json!({}) }; 1200];
        change!(app, Class::Operators, |conn, moment| append(conn, moment, &entries).await).unwrap();
        while sequencer::pass(&app).await.unwrap() {}
        let newest = number(&db, "SELECT MAX(seq) FROM feed").await;
        assert_eq!(pass(&app).await.unwrap(), 0);
        clock.advance(100 * DAY_MS);
        pass(&app).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM event").await, 2, "events are kept longer than the feed");
        assert_eq!(number(&db, "SELECT COUNT(*) FROM feed").await, 1);
        assert_eq!(number(&db, "SELECT MAX(seq) FROM feed").await, newest);
        clock.advance(100 * DAY_MS);
        pass(&app).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM event").await, 0);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM finding").await, 0, "the one finding was closed");
    })
    .await;
}
