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

#[test]
fn json_that_no_one_could_read_is_malformed_and_json_of_the_wrong_shape_is_invalid() {
    let pointer = |body: &[u8]| match parse_sync(body) {
        Err(ParseError::Invalid(faults)) => faults[0].pointer.clone(),
        other => panic!("{other:?}"),
    };
    for (body, at) in [
        (&br#"[]"#[..], ""),
        (br#"{"have": [1]}"#, "/have/0"),
        (br#"{"policy": ["v"]}"#, "/policy"),
        (br#"{"push": ["fcm", "token", "v"]}"#, "/push"),
        (br#" "text""#, ""),
        (br#"{"cause": "\ud800"}"#, "/cause"),
        (br#"{"policy": {"version": 7}}"#, "/policy/version"),
        (br#"{"facts": []}"#, "/facts"),
        (br#"{"push": {"provider": "owl", "kind": "token", "value": "v"}}"#, "/push/provider"),
        (br#"{"push": {"provider": "fcm", "kind": "token", "value": "a\u0000b"}}"#, "/push/value"),
    ] {
        assert_eq!(pointer(body), at, "{}", String::from_utf8_lossy(body));
    }
    let deep = format!(r#"{{"cause": {}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert_eq!(pointer(deep.as_bytes()), "/cause");
    for body in [&b""[..], b"{", b"{} x", b"{\"cause\": \"\xff\"}", b"[1", b"{'cause': 1}"] {
        assert!(matches!(parse_sync(body), Err(ParseError::Malformed(_))), "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn null_means_absent() {
    let body = br#"{"cause": null, "have": null, "policy": null, "push": null, "facts": null, "results": null, "events": null, "action_done": null}"#;
    let request = parse_sync(body).unwrap();
    assert!(request.have.is_empty() && request.facts.is_empty() && request.results.is_empty() && !request.action_done);
    let nulls = [
        ("malware_unresolved", json!({"threat": "t", "resolved": null, "detected_at_ms": null})),
        ("scan_finished", json!({"outcome": "clean", "threats": null})),
        ("profile_changed", json!({"change": "added", "profile": null, "managed": null})),
    ];
    for (kind, data) in nulls {
        let mut event = scan(1);
        event["type"] = json!(kind);
        event["data"] = data;
        event["boot_id"] = json!(null);
        assert!(matches!(events_of(&[event])[0], Item::Ok(_)), "{kind}");
    }
}

#[test]
fn each_type_of_event_asks_for_what_it_needs_and_no_more() {
    let needs = [
        ("profile_changed", json!({"change": "removed"})),
        ("device_admin_changed", json!({"enabled": false})),
        ("web_page_blocked", json!({"url": "https://example.org/"})),
        ("password_overdue", json!({"due_at_ms": 1})),
        ("malware_unresolved", json!({"threat": "t"})),
        ("usb_debugging_changed", json!({"enabled": true})),
        ("scan_finished", json!({"outcome": "aborted"})),
        ("fact_changed", json!({"key": "novel"})),
    ];
    assert_eq!(needs.each_ref().map(|(kind, _)| *kind), EVENT_TYPES);
    for (kind, data) in needs {
        let mut event = scan(1);
        event["type"] = json!(kind);
        event["data"] = data;
        let Item::Ok(read) = &events_of(&[event.clone()])[0] else { panic!("{kind}") };
        assert_eq!(read.data.name(), kind);
        for wrong in [json!({}), json!([true]), json!(null), json!("x")] {
            event["data"] = wrong;
            let Item::Rejected { id, code, .. } = &events_of(&[event.clone()])[0] else { panic!("{kind} without data") };
            assert_eq!((id.as_deref(), *code), (Some(EVENT_ID), "data_invalid"));
        }
    }
}

#[test]
fn a_result_without_its_task_or_its_status_is_named_and_refused() {
    let body = format!(
        r#"{{"results": [{{"task_id": "{EVENT_ID}", "message": "a\u0000b"}}, {{"task_id": "{EVENT_ID}", "status": "dreamed", "data": {{"n": 1e999}}}},
            {{"data": "\ud800", "task_id": "{EVENT_ID}"}}, {{"task_id": 7, "status": "done"}}, ["{EVENT_ID}", "done"], {{"task_id": "{EVENT_ID}", "status": "done"}}]}}"#
    );
    let results = parse_sync(body.as_bytes()).unwrap().results;
    let named = |item: &Item<TaskResult>| match item {
        Item::Rejected { id, .. } => id.clone(),
        Item::Ok(result) => panic!("{result:?}"),
    };
    assert_eq!(results[..3].iter().map(named).collect::<Vec<_>>(), vec![Some(EVENT_ID.to_owned()); 3]);
    assert_eq!((named(&results[3]), named(&results[4])), (None, None));
    assert!(matches!(results[5], Item::Ok(_)));
}

#[test]
fn a_result_counts_whatever_is_wrong_with_the_rest_of_it() {
    let read = |members: &str| {
        let body = format!(r#"{{"results": [{{"task_id": "{EVENT_ID}", "status": "failed", {members}}}]}}"#);
        match parse_sync(body.as_bytes()).unwrap().results.remove(0) {
            Item::Ok(result) => result,
            rejected => panic!("{members}: {rejected:?}"),
        }
    };
    let said = read(r#""message": "a\u0000b", "code": 5, "at_ms": 1.5, "progress": 1e300"#);
    assert_eq!((said.message.as_deref(), said.code.as_deref(), said.at_ms, said.progress), (Some("ab"), Some("5"), 1, None));
    assert_eq!((said.status, said.data, said.left_out), (TaskStatus::Failed, None, None));
    let said = read(r#""message": {"en": ["no"]}, "code": null, "at_ms": "now", "at_ms": null, "\ud800": 1"#);
    assert_eq!((said.message.as_deref(), said.code, said.at_ms), (Some(r#"{"en": ["no"]}"#), None, 0));
    assert_eq!(read(r#""message": "half \ud800""#).message.as_deref(), Some(r#""half \ud800""#));
    assert_eq!(read(r#""at_ms": 1e300"#).at_ms, 0);
    let deep = format!(r#""data": {}{}"#, "[".repeat(4000), "]".repeat(4000));
    for (members, why) in [
        (r#""data": {"n": 1e16}"#, "a number is out of range"),
        (r#""data": {"a": "\u0000"}"#, "U+0000 is not allowed"),
        (&deep, "nested 32 deep at most"),
    ] {
        let said = read(members);
        assert_eq!((said.data, said.left_out.as_deref()), (None, Some(why)));
    }
    let said = read(r#""data": {"n": 1e16}, "data": {"n": 1}"#);
    assert_eq!((said.data, said.left_out), (Some(json!({"n": 1})), None));
}

#[test]
fn an_event_id_is_answered_as_it_was_spelled() {
    let mut event = scan(1);
    event["event_id"] = json!(EVENT_ID.to_uppercase());
    let Item::Ok(event) = &events_of(&[event])[0] else { panic!() };
    assert_eq!((event.sent_id.as_str(), event.event_id.to_string().as_str()), (&*EVENT_ID.to_uppercase(), EVENT_ID));
}

#[test]
fn the_words_of_a_result_are_cut_and_its_end_is_kept() {
    let body = json!({"results": [{"task_id": EVENT_ID, "status": "failed", "code": "c".repeat(1000), "message": "m".repeat(100_000)}]});
    let Item::Ok(result) = &parse_sync(body.to_string().as_bytes()).unwrap().results[0] else { panic!() };
    assert_eq!((result.code.as_ref().unwrap().len(), result.message.as_ref().unwrap().len()), (256, 16 * 1024));
    assert_eq!(result.status, TaskStatus::Failed);
}

#[test]
fn a_long_inventory_of_apps_counts_and_its_order_does_not() {
    let app =
        |n: usize| json!({"id": format!("org.example.app{n:04}"), "name": "An app with a name of the usual length", "version": "1.2.3"});
    let apps: Vec<_> = (0..1500).map(app).collect();
    let turned: Vec<_> = apps.iter().rev().cloned().collect();
    let facts = |apps: &[serde_json::Value]| parse_sync(json!({"facts": {"apps": apps}}).to_string().as_bytes()).unwrap().facts;
    assert_eq!(facts(&apps)["apps"].as_array().unwrap().len(), 1500);
    assert_eq!(facts_hash(&facts(&apps)), facts_hash(&facts(&turned)));
    let mixed = facts(&[app(2), json!({"name": "without an id"}), json!(7), app(1)]);
    assert_eq!(mixed["apps"], json!([app(1), app(2)]));
    assert!(facts(&vec![app(1); 2001]).is_empty());
}

#[test]
fn a_fact_with_a_name_that_is_no_text_is_left_out_alone() {
    let body = br#"{"facts": {"\ud800": 1, "a\u0000": 2, "big": 1e300, "battery_percent": 57.0, "storage_free_bytes": -1, "fine": {"a": "b"}, "gone": null}}"#;
    let facts = parse_sync(body).unwrap().facts;
    assert_eq!(json!(facts), json!({"battery_percent": 57, "fine": {"a": "b"}, "gone": null}));
    let long = json!({"facts": {"long": "x".repeat(5000), "short": "x"}}).to_string();
    assert_eq!(parse_sync(long.as_bytes()).unwrap().facts.keys().collect::<Vec<_>>(), ["short"]);
    let mut event = scan(1);
    event["type"] = json!("fact_changed");
    event["data"] = json!({"key": "battery_percent", "value": 300});
    assert!(matches!(events_of(&[event])[0], Item::Rejected { code: "data_invalid", .. }));
}

#[test]
fn a_detail_that_cannot_be_read_still_says_that_something_is_not_obeyed() {
    let body =
        br#"{"policy": {"version": "v", "details": [{"setting": "cameraAccess"}, {"setting": "a", "reason": "PENDING", "current": 1}]}}"#;
    let details = parse_sync(body).unwrap().policy.details;
    assert_eq!(details.iter().map(|detail| detail.reason.as_str()).collect::<Vec<_>>(), ["UNKNOWN", "PENDING"]);
}

#[test]
fn an_activation_hides_its_token_and_takes_the_usual_app_where_none_is_named() {
    let body = |app: serde_json::Value| {
        json!({"token": "mdt_secret", "device": {"platform": "ios", "app": app, "hardware_id": "h", "model": "m", "os_version": "26",
            "agent_version": "1", "management_mode": "app"}})
        .to_string()
    };
    let request = parse_activate(body(json!(null)).as_bytes()).unwrap();
    assert_eq!(request.device.app, "org.muster.agent");
    assert!(!format!("{request:?}").contains("mdt_secret"));
    assert!(matches!(parse_activate(body(json!(" ")).as_bytes()), Err(ParseError::Invalid(_))));
}

/// What an agent could send in place of one item, well-formed JSON and often poison.
fn anything() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1e300".to_owned()),
        Just("1e9999".to_owned()),
        Just("-0".to_owned()),
        Just(r#""\u0000""#.to_owned()),
        Just(r#""\udfff""#.to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|text| json!(text).to_string()),
        Just(scan(3).to_string()),
    ];
    leaf.prop_recursive(40, 200, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec(
                (prop_oneof![Just("event_id"), Just("type"), Just("data"), Just("\\u0000"), Just("\\ud800")], inner),
                0..4
            )
            .prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[\\[\\]{}\":,a-z0-9\\\\]{0,200}") {
        let _ = (parse_sync(&bytes).is_ok(), parse_events(&bytes).is_ok(), parse_activate(&bytes).is_ok());
        let body = format!(r#"{{"results": [{text}], "events": []}}"#);
        let _ = parse_sync(body.as_bytes()).is_ok();
    }

    #[test]
    fn whatever_stands_beside_them_good_items_are_read(item in anything()) {
        let body = format!(r#"{{"events": [{}, {item}, {}], "results": [{item}], "facts": {{"a": {item}, "fine": 1}}}}"#, scan(1), scan(2));
        let request = parse_sync(body.as_bytes()).unwrap();
        prop_assert!(matches!(request.events[0], Item::Ok(_)) && matches!(request.events[2], Item::Ok(_)));
        prop_assert_eq!((request.events.len(), request.results.len()), (3, 1));
        prop_assert_eq!(&request.facts["fine"], &json!(1));
        // What was let in can be stored and read again as it is.
        for event in &request.events {
            if let Item::Ok(event) = event {
                let text = event.raw.to_string();
                prop_assert!(!text.contains("\\u0000"));
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&text).unwrap(), &event.raw);
            }
        }
    }
}
