use serde_json::{Value, json};

use super::*;
use crate::store::findings::{FindingRow, Which};
use crate::store::testing::each_database;
use crate::store::{Class, Db};

const NOW_MS: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;

/// A phone whose clock and events the test makes.
struct Phone {
    channel_id: Id,
    device_id: Id,
    activation: i64,
    skew_ms: i64,
}

impl Phone {
    fn new(moment: &mut Moment) -> Phone {
        let device_id = moment.id();
        Phone { channel_id: moment.id_beside(device_id), device_id, activation: 1, skew_ms: 0 }
    }

    fn brings(&self, events: &[Value]) -> Arrived {
        let body = json!({ "events": events }).to_string();
        self.brings_body(body.as_bytes())
    }

    fn brings_body(&self, body: &[u8]) -> Arrived {
        let events = crate::protocol::agent::parse_events(body).unwrap();
        let Phone { channel_id, device_id, activation, skew_ms } = *self;
        Arrived { channel_id, device_id, activation, skew_ms, told_ms: None, events }
    }
}

/// The `n`th event of a phone; its id follows from `n`.
fn event(n: i64, kind: &str, data: Value) -> Value {
    json!({"event_id": format!("00000000-0000-4000-8000-{n:012}"), "type": kind, "seq": n, "occurred_at_ms": NOW_MS, "attempt": 1, "data": data})
}

fn usb(n: i64, enabled: bool) -> Value {
    event(n, "usb_debugging_changed", json!({"enabled": enabled}))
}

fn malware(n: i64, threat: &str) -> Value {
    event(n, "malware_unresolved", json!({"threat": threat}))
}

fn scan(n: i64, outcome: &str, threats: Value) -> Value {
    event(n, "scan_finished", json!({"outcome": outcome, "threats": threats}))
}

async fn commit(db: &Db, moment: &mut Moment, batch: &[Arrived]) -> Applied {
    let mut conn = db.begin(Class::Results).await.unwrap();
    let applied = apply(&mut conn, moment, batch).await.unwrap();
    conn.commit().await.unwrap();
    applied
}

fn words(applied: &Applied) -> Vec<&'static str> {
    applied.outcomes.iter().flatten().map(|outcome| outcome.outcome).collect()
}

async fn findings_of(db: &Db, phone: &Phone, open: Option<bool>) -> Vec<FindingRow> {
    let which = Which { device: Some(phone.device_id), open, ..Which::default() };
    found::list(&mut db.read().await.unwrap(), &which, 1000).await.unwrap()
}

async fn open_kinds(db: &Db, phone: &Phone) -> Vec<String> {
    findings_of(db, phone, Some(true)).await.into_iter().map(|finding| format!("{} {}", finding.kind, finding.subject)).collect()
}

async fn events_of(db: &Db, phone: &Phone) -> Vec<crate::store::events::EventRow> {
    events::list(&mut db.read().await.unwrap(), Some(phone.device_id), None, None, 1000).await.unwrap()
}

async fn feed_kinds(db: &Db) -> Vec<String> {
    let mut conn = db.begin(Class::Background).await.unwrap();
    while feed::number(&mut conn, 500).await.unwrap() > 0 {}
    conn.commit().await.unwrap();
    let reading = feed::Reading { rows_max: 1000, ..feed::Reading::default() };
    let read = feed::read(&mut db.read().await.unwrap(), &reading).await.unwrap();
    read.rows.into_iter().map(|entry| entry.kind).collect()
}

fn count(kinds: &[String], kind: &str) -> usize {
    kinds.iter().filter(|found| *found == kind).count()
}

#[tokio::test]
async fn a_minute_storm_of_the_same_batch_is_recorded_once_and_answered_every_time() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 1);
        let phones: Vec<Phone> = (0..8).map(|_| Phone::new(&mut moment)).collect();
        let batch: Vec<Arrived> = phones.iter().map(|phone| phone.brings(&[usb(1, true), malware(2, "EICAR"), usb(1, true)])).collect();
        assert_eq!(words(&commit(&db, &mut moment, &batch).await)[..3], ["recorded", "recorded", "duplicate"]);
        let told = feed_kinds(&db).await;
        for _ in 0..49 {
            moment.now_ms += 60_000;
            let applied = commit(&db, &mut moment, &batch).await;
            assert!(words(&applied).iter().all(|outcome| *outcome == "duplicate"));
        }
        assert_eq!(feed_kinds(&db).await.len(), told.len(), "a repeat tells nothing");
        assert_eq!(count(&told, "event.usb_debugging_changed"), 8);
        for phone in &phones {
            assert_eq!(events_of(&db, phone).await.len(), 2);
            assert_eq!(open_kinds(&db, phone).await.len(), 2);
        }
    })
    .await;
}

#[tokio::test]
async fn an_older_event_that_comes_later_is_kept_and_changes_nothing() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 2);
        let phone = Phone::new(&mut moment);
        commit(&db, &mut moment, &[phone.brings(&[usb(3, false)])]).await;
        assert_eq!(words(&commit(&db, &mut moment, &[phone.brings(&[usb(2, true)])]).await), ["recorded"]);
        assert!(open_kinds(&db, &phone).await.is_empty());
        let late: Vec<(i64, i64)> = events_of(&db, &phone).await.iter().map(|event| (event.seq, event.late)).collect();
        assert_eq!(late, [(2, 1), (3, 0)]);
        // Within one request the order is theirs, not that of the list.
        commit(&db, &mut moment, &[phone.brings(&[usb(6, true), usb(5, false)])]).await;
        assert_eq!(open_kinds(&db, &phone).await, ["usb_debugging "]);
        // Another threat's earlier report is no older news of this one.
        commit(&db, &mut moment, &[phone.brings(&[malware(9, "A")])]).await;
        commit(&db, &mut moment, &[phone.brings(&[malware(8, "B")])]).await;
        assert_eq!(open_kinds(&db, &phone).await.len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_new_activation_counts_from_one_again() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 3);
        let mut phone = Phone::new(&mut moment);
        commit(&db, &mut moment, &[phone.brings(&[usb(100, true)])]).await;
        phone.activation = 2;
        let mut first = usb(1, false);
        first["event_id"] = json!("10000000-0000-4000-8000-000000000001");
        commit(&db, &mut moment, &[phone.brings(&[first])]).await;
        assert!(open_kinds(&db, &phone).await.is_empty());
        // What the old installation had sent already stays a duplicate and does not count in the new order.
        let mut second = usb(2, true);
        second["event_id"] = json!("10000000-0000-4000-8000-000000000002");
        let applied = commit(&db, &mut moment, &[phone.brings(&[usb(100, true), second])]).await;
        assert_eq!(words(&applied), ["duplicate", "recorded"]);
        assert_eq!(open_kinds(&db, &phone).await, ["usb_debugging "]);
        assert!(events_of(&db, &phone).await.iter().all(|event| event.late == 0));
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_days_wrong_is_corrected_and_no_event_happens_after_it_was_received() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 4);
        let mut phone = Phone::new(&mut moment);
        phone.skew_ms = 3 * 24 * HOUR_MS;
        let claim = |n: i64, at_ms: i64| {
            let mut event = usb(n, true);
            event["occurred_at_ms"] = json!(at_ms);
            event
        };
        let claimed = NOW_MS + phone.skew_ms - HOUR_MS;
        commit(&db, &mut moment, &[phone.brings(&[claim(1, claimed), claim(2, i64::MAX - 1), claim(3, -5)])]).await;
        let mut rows = events_of(&db, &phone).await;
        rows.sort_by_key(|row| row.seq);
        let times: Vec<(i64, i64)> = rows.iter().map(|row| (row.occurred_at_ms, row.claimed_at_ms)).collect();
        assert_eq!(times, [(NOW_MS - HOUR_MS, claimed), (NOW_MS, i64::MAX - 1), (0, -5)]);
    })
    .await;
}

#[test]
fn the_skew_is_that_of_an_event_sent_for_the_first_time_else_the_known_one() {
    let mut moment = Moment::fixed(NOW_MS, 9);
    let phone = Phone::new(&mut moment);
    let sent = |attempt: i64, first_ms: i64| {
        let mut event = usb(attempt, true);
        event["attempt"] = json!(attempt);
        event["first_attempt_at_ms"] = json!(first_ms);
        event
    };
    let skew = |events: &[Value]| skew_ms(&phone.brings(events).events, 77, NOW_MS);
    assert_eq!(skew(&[sent(1, NOW_MS - 72 * HOUR_MS)]), -72 * HOUR_MS);
    assert_eq!(skew(&[sent(1, NOW_MS + 72 * HOUR_MS), sent(9, NOW_MS)]), 72 * HOUR_MS);
    assert_eq!(skew(&[sent(1, NOW_MS - 900)]), 0);
    assert_eq!(skew(&[sent(5, NOW_MS - 72 * HOUR_MS)]), 77);
    assert_eq!(skew(&[]), 77);
    assert_eq!(skew(&[sent(1, i64::MIN)]), i64::MIN);
}

#[tokio::test]
async fn two_bad_events_among_256_are_rejected_and_all_others_recorded() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 5);
        let phone = Phone::new(&mut moment);
        let mut list: Vec<Value> = (1..=256).map(|n| event(n, "fact_changed", json!({"key": format!("k{n}"), "value": n}))).collect();
        list[100]["data"]["value"] = json!("a\u{0}b");
        list[200]["seq"] = json!(1e300);
        let applied = commit(&db, &mut moment, &[phone.brings(&list)]).await;
        let rejected: Vec<usize> = (0..256).filter(|at| words(&applied)[*at] == "rejected").collect();
        assert_eq!(rejected, [100, 200]);
        assert_eq!(applied.outcomes[0][100].code, Some("data_invalid"));
        assert_eq!(applied.facts.len(), 254);
        assert_eq!(applied.facts[0], Fact { device_id: phone.device_id, key: "k1".into(), value: json!(1), is_late: false });
        assert_eq!(events_of(&db, &phone).await.len(), 254);
        // A changed fact that is old news is not handed on.
        let old = event(300, "fact_changed", json!({"key": "k9", "value": "new"}));
        assert_eq!(commit(&db, &mut moment, &[phone.brings(&[old])]).await.facts.len(), 1);
        let mut older = event(299, "fact_changed", json!({"key": "k9", "value": "old"}));
        older["attempt"] = json!(7);
        assert!(commit(&db, &mut moment, &[phone.brings(&[older])]).await.facts.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_clean_scan_closes_the_threats_that_came_before_it_and_only_those() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 6);
        let phone = Phone::new(&mut moment);
        let infected = scan(1, "infected", json!([{"name": "A", "state": "found"}, {"name": "B", "state": "removed"}]));
        commit(&db, &mut moment, &[phone.brings(&[infected])]).await;
        let open = findings_of(&db, &phone, Some(true)).await;
        assert_eq!((open.len(), open[0].subject.as_str(), open[0].due_at_ms), (1, "A", NOW_MS + HOUR_MS));
        assert_eq!(open[0].overdue_at_ms, None);
        // An hour later the phone itself says so: the clock has run out.
        commit(&db, &mut moment, &[phone.brings(&[malware(2, "A"), malware(6, "C")])]).await;
        assert!(findings_of(&db, &phone, Some(true)).await.iter().all(|finding| finding.overdue_at_ms == Some(NOW_MS)));
        commit(&db, &mut moment, &[phone.brings(&[scan(5, "clean", json!([]))])]).await;
        assert_eq!(open_kinds(&db, &phone).await, ["malware C"]);
        commit(&db, &mut moment, &[phone.brings(&[malware(4, "D")])]).await;
        assert_eq!(open_kinds(&db, &phone).await, ["malware C"], "D was reported before the clean scan");
        commit(&db, &mut moment, &[phone.brings(&[malware(7, "E"), scan(8, "clean", json!([])), malware(9, "F")])]).await;
        assert_eq!(open_kinds(&db, &phone).await, ["malware F"]);
        let resolved = event(10, "malware_unresolved", json!({"threat": "F", "resolved": true}));
        commit(&db, &mut moment, &[phone.brings(&[resolved])]).await;
        assert!(open_kinds(&db, &phone).await.is_empty());
        let closed = findings_of(&db, &phone, Some(false)).await;
        assert!(closed.iter().all(|finding| finding.closed_by.as_deref().is_some_and(|by| by.starts_with("event:"))));
        let told = feed_kinds(&db).await;
        assert_eq!((count(&told, "finding.opened"), count(&told, "finding.closed"), count(&told, "finding.overdue")), (3, 3, 3));
    })
    .await;
}

#[tokio::test]
async fn every_kind_moves_its_finding_and_blocked_pages_are_told_together() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 7);
        let phone = Phone::new(&mut moment);
        let mut list = vec![
            event(1, "profile_changed", json!({"change": "removed", "profile": "wifi", "managed": true})),
            event(2, "profile_changed", json!({"change": "added", "profile": "game"})),
            event(3, "device_admin_changed", json!({"enabled": false})),
            event(4, "password_overdue", json!({"due_at_ms": NOW_MS - HOUR_MS})),
        ];
        list.extend((5..25).map(|n| event(n, "web_page_blocked", json!({"url": format!("https://example.org/{n}"), "count": 2}))));
        commit(&db, &mut moment, &[phone.brings(&list)]).await;
        let mut open = findings_of(&db, &phone, Some(true)).await;
        open.sort_by(|a, b| a.kind.cmp(&b.kind));
        let due: Vec<(&str, &str, i64)> = open.iter().map(|f| (f.kind.as_str(), f.subject.as_str(), f.due_at_ms - NOW_MS)).collect();
        assert_eq!(due, [("device_admin", "", 0), ("password_overdue", "", 24 * HOUR_MS), ("profile_changed", "wifi", 0)]);
        assert_eq!(count(&feed_kinds(&db).await, "event.web_page_blocked"), 1);
        let mut conn = db.begin(Class::Results).await.unwrap();
        findings::documents_proved(&mut conn, &mut moment, &[phone.device_id]).await.unwrap();
        let facts = |key: &str, value: bool| vec![(phone.device_id, vec![(key.to_owned(), json!(value))])];
        for (key, value) in [("device_admin", true), ("password_compliant", true), ("encrypted", false), ("rooted", true)] {
            findings::from_facts(&mut conn, &mut moment, &facts(key, value)).await.unwrap();
        }
        conn.commit().await.unwrap();
        let mut kinds = open_kinds(&db, &phone).await;
        kinds.sort();
        assert_eq!(kinds, ["encryption_off ", "rooted "]);
        let mut conn = db.begin(Class::Results).await.unwrap();
        findings::close_all(&mut conn, &mut moment, &[phone.device_id], "retired").await.unwrap();
        conn.commit().await.unwrap();
        assert!(open_kinds(&db, &phone).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_fact_from_before_the_device_told_all_its_facts_is_late_and_a_clock_may_be_off_by_a_minute() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 1);
        let phone = Phone::new(&mut moment);
        let at = |n: i64, occurred_at_ms: i64| {
            let mut event = event(n, "fact_changed", json!({"key": format!("k{n}"), "value": n}));
            event["occurred_at_ms"] = json!(occurred_at_ms);
            event
        };
        let told_ms = Some(NOW_MS - HOUR_MS);
        let events = [at(1, NOW_MS - 2 * HOUR_MS), at(2, NOW_MS - HOUR_MS - 59_000), at(3, NOW_MS)];
        let brought = Arrived { told_ms, ..phone.brings(&events) };
        let applied = commit(&db, &mut moment, &[brought]).await;
        assert_eq!(words(&applied), ["recorded"; 3], "kept all the same");
        assert_eq!(applied.facts.iter().map(|fact| fact.is_late).collect::<Vec<_>>(), [true, false, false]);
        let late: Vec<(i64, i64)> = events_of(&db, &phone).await.iter().map(|row| (row.seq, row.late)).collect();
        assert!(late.contains(&(1, 1)) && late.contains(&(2, 0)) && late.contains(&(3, 0)), "{late:?}");
    })
    .await;
}

#[tokio::test]
async fn a_full_group_of_full_requests_is_applied_whole() {
    each_database(async |db| {
        let mut moment = Moment::fixed(NOW_MS, 8);
        let phones: Vec<Phone> = (0..64).map(|_| Phone::new(&mut moment)).collect();
        let list: Vec<Value> = (1..=256).map(|n| usb(n, n % 2 == 1)).collect();
        let batch: Vec<Arrived> = phones.iter().map(|phone| phone.brings(&list)).collect();
        let applied = commit(&db, &mut moment, &batch).await;
        assert_eq!(words(&applied).iter().filter(|outcome| **outcome == "recorded").count(), 64 * 256);
        assert!(open_kinds(&db, &phones[63]).await.is_empty());
    })
    .await;
}
