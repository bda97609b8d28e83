use proptest::prelude::*;
use serde_json::json;

use super::*;

const EVENT_ID: &str = "0198f3a2-7c4e-7b1a-9f00-3c2d1e0f4a5b";

fn scan(seq: i64) -> serde_json::Value {
    json!({"event_id": EVENT_ID, "type": "scan_finished", "seq": seq, "occurred_at_ms": 1, "data": {"outcome": "clean", "novel": [1]}})
}

fn events_of(items: &[serde_json::Value]) -> Vec<Item<Event>> {
    parse_events(json!({"events": items}).to_string().as_bytes()).unwrap()
}

#[test]
fn unknown_fields_are_ignored_and_unknown_data_is_kept() {
    let request = parse_sync(br#"{"cause": "push", "novel": {"a": 1}, "policy": {"version": null}}"#).unwrap();
    assert_eq!(request.cause, "push");
    let Item::Ok(event) = &events_of(&[scan(1)])[0] else { panic!() };
    assert_eq!(event.raw["novel"], json!([1]));
}

#[test]
fn one_bad_item_of_many_is_rejected_alone() {
    let deep = format!(
        r#"{{"event_id": "{EVENT_ID}", "type": "scan_finished", "seq": 1, "occurred_at_ms": 1, "data": {}{}}}"#,
        "[".repeat(4000),
        "]".repeat(4000)
    );
    let bad = [
        r#"{"event_id": "x", "type": "scan_finished", "seq": 1, "occurred_at_ms": 1, "data": {"outcome": "clean"}}"#.to_owned(),
        scan(1).to_string().replace("\"clean\"", "\"cl\\u0000ean\""),
        scan(1).to_string().replace("\"clean\"", "\"clean\", \"n\": 1e300"),
        scan(1).to_string().replace("\"clean\"", "\"clean\", \"n\": 1e999"),
        scan(1).to_string().replace("\"clean\"", "\"clean\", \"n\": \"\\ud800\""),
        scan(0).to_string(),
        scan(1).to_string().replace("scan_finished", "scan_dreamed"),
        scan(1).to_string().replace("clean", &"x".repeat(1_000_000)),
        deep,
        "7".to_owned(),
    ];
    for one in bad {
        let body = format!(r#"{{"events": [{}, {one}, {}]}}"#, scan(1), scan(2));
        let items = parse_events(body.as_bytes()).unwrap();
        assert!(matches!(items[0], Item::Ok(_)) && matches!(items[2], Item::Ok(_)), "{}", &body[..200.min(body.len())]);
        assert!(matches!(&items[1], Item::Rejected { .. }), "{}", &one[..100.min(one.len())]);
    }
}

#[test]
fn the_outer_shape_is_named_by_pointer() {
    let Err(ParseError::Invalid(faults)) = parse_sync(br#"{"results": 7}"#) else { panic!() };
    assert_eq!(faults[0].pointer, "/results");
    assert!(matches!(parse_sync(b"{\"cause\": "), Err(ParseError::Malformed(_))));
    let many = json!({"events": vec![scan(1); 257]}).to_string();
    assert!(matches!(parse_sync(many.as_bytes()), Err(ParseError::Invalid(_))));
}

#[test]
fn a_wrong_fact_is_left_out_and_the_others_count() {
    let request = parse_sync(br#"{"facts": {"battery_percent": 300, "rooted": "no", "model": "Pixel", "novel": {"a": [1]}}}"#).unwrap();
    assert_eq!(request.facts.keys().collect::<Vec<_>>(), ["model", "novel"]);
    let again = parse_sync(br#"{"facts": {"novel": {"a": [1]}, "model": "Pixel"}}"#).unwrap();
    assert_eq!(facts_hash(&request.facts), facts_hash(&again.facts));
}

#[test]
fn a_million_character_name_is_refused() {
    let body = json!({"token": "mdt_x", "device": {"platform": "android", "hardware_id": "x".repeat(1_000_000), "model": "m",
        "os_version": "15", "agent_version": "1", "management_mode": "app"}});
    let Err(ParseError::Invalid(faults)) = parse_activate(body.to_string().as_bytes()) else { panic!() };
    assert_eq!(faults[0].pointer, "/device/hardware_id");
    assert!(faults[0].detail.len() < 300);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[\\[\\]{}\":,a-z0-9\\\\]{0,200}") {
        let _ = (parse_sync(&bytes).is_ok(), parse_events(&bytes).is_ok(), parse_activate(&bytes).is_ok());
        let body = format!(r#"{{"results": [{text}], "events": []}}"#);
        let _ = parse_sync(body.as_bytes()).is_ok();
    }
}
