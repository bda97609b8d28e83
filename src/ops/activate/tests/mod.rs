mod races;
mod takeover;

use serde_json::json;

use super::*;
use crate::ops::testing::{Door, HOUR_MS, RULES, START_MS, commit, phone, with_bearer};
use crate::ops::{devices as device_ops, tokens as token_ops};
use crate::store::Class;
use crate::store::testing::{each_database, number};

#[tokio::test]
async fn every_refusal_is_distinct_uses_nothing_up_and_is_audited() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("User@Example.org").await;
        let other = door.user("other@example.org").await;
        let (_, open) = door.token(json!({})).await;
        assert_eq!(door.refused(&phone("h", "user@example.org", "mdt_nonsense")).await, "token_unknown");
        let (_, short) = door.token(json!({"expires_at_ms": START_MS + HOUR_MS})).await;
        let (revoked_id, revoked) = door.token(json!({})).await;
        commit!(door, |conn, moment| token_ops::revoke(conn, moment, &door.actor, revoked_id, None).await.unwrap());
        let (_, once) = door.token(json!({"max_uses": 1})).await;
        door.admitted(&phone("first", "user@example.org", &once)).await;
        door.clock.advance(2 * HOUR_MS);
        assert_eq!(door.refused(&phone("h", "user@example.org", &short)).await, "token_expired");
        assert_eq!(door.refused(&phone("h", "user@example.org", &revoked)).await, "token_revoked");
        assert_eq!(door.refused(&phone("h", "user@example.org", &once)).await, "token_exhausted");
        assert_eq!(door.refused(&phone("h", "nobody@example.org", &open)).await, "user_unknown");
        let (_, named) = door.token(json!({"user": other.id})).await;
        assert_eq!(door.refused(&phone("h", "user@example.org", &named)).await, "user_unknown");
        door.change_user(other.id, json!({"enabled": false})).await;
        assert_eq!(door.refused(&phone("h", "other@example.org", &open)).await, "user_disabled");
        // The token comes before the user, whatever is wrong with the user.
        assert_eq!(door.refused(&phone("h", "nobody@example.org", &short)).await, "token_expired");
        door.change_user(user.id, json!({"device_limit": 1})).await;
        assert_eq!(door.refused(&phone("h", "user@example.org", &open)).await, "device_limit");
        let audited = number(&door.db, "SELECT COUNT(*) FROM feed_in WHERE kind = 'activation.refused' AND actor IS NOT NULL").await;
        assert_eq!(audited, 9);
    })
    .await;
}

#[tokio::test]
async fn an_admitted_phone_is_active_labelled_findable_and_left_alone_until_it_syncs() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let input = crate::ops::labels::LabelInput::default();
        commit!(door, |conn, moment| crate::ops::labels::put(conn, moment, &door.actor, "field", &input).await.unwrap());
        let (token_id, token) = door.token(json!({"labels": ["field"], "user": "USER@example.org"})).await;
        let mut newcomer = phone("h", "", &token);
        newcomer.request.email = None;
        let (id, _) = door.admitted(&newcomer).await;
        let device = door.device(id).await;
        assert_eq!((device.state.as_str(), device.labels), ("active", vec!["field".to_owned()]));
        assert_eq!(device.channels.len(), 1);
        assert!(device.channels[0].desired.is_some(), "an unassigned device has the empty document");
        let mut conn = door.db.read().await.unwrap();
        assert_eq!(devices::resolve(&mut conn, "s-H").await.unwrap(), id);
        let shown = token_ops::get(&mut conn, token_id, door.clock.now_ms()).await.unwrap();
        assert_eq!((shown.uses, shown.devices.unwrap()[0].device_id), (1, id));
        let due_ms = number(&door.db, "SELECT due_at_ms FROM wakes WHERE lane = 4 AND open_work = 0 AND lazy = 1 AND sender = 'fcm'").await;
        assert!(due_ms > door.clock.now_ms() + 20 * 60_000 && due_ms <= door.clock.now_ms() + 3 * HOUR_MS + 20 * 60_000);
    })
    .await;
}

#[tokio::test]
async fn unauthorized_retired_and_quarantined_hardware_stays_out_whatever_the_token() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        door.user("heir@example.org").await;
        let (leaked, token) = door.token(json!({})).await;
        let (_, fresh) = door.token(json!({})).await;
        let (a, secret) = door.admitted(&phone("a", "user@example.org", &token)).await;
        let (b, _) = door.admitted(&phone("b", "user@example.org", &token)).await;
        door.clock.advance(HOUR_MS);
        let (c, _) = door.admitted(&phone("c", "user@example.org", &token)).await;
        commit!(door, |conn, moment| device_ops::unauthorize(conn, moment, &door.actor, a).await.unwrap());
        commit!(door, |conn, moment| device_ops::retire(conn, moment, &door.actor, b).await.unwrap());
        let since = Some(START_MS + HOUR_MS);
        commit!(door, |conn, moment| token_ops::revoke(conn, moment, &door.actor, leaked, since).await.unwrap());
        for (hardware, id, denied) in [("a", a, "operator"), ("b", b, "retired"), ("c", c, "quarantined")] {
            let device = door.device(id).await;
            assert_eq!((device.unauthorized, device.unauthorized_reason.as_deref()), (true, Some(denied)));
            assert_eq!(device.quarantined, hardware == "c", "only those it admitted since then");
            for email in ["user@example.org", "heir@example.org"] {
                assert_eq!(door.refused(&phone(hardware, email, &fresh)).await, "device_unauthorized");
            }
        }
        assert_eq!(door.refused(&with_bearer(phone("a", "user@example.org", ""), &secret)).await, "device_unauthorized");
        assert_eq!(door.device(b).await.state, "unmanaged");
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM task WHERE kind = 'retire' AND state = 'queued'").await, 1);
        door.authorize(a).await.unwrap();
        door.admitted(&with_bearer(phone("a", "user@example.org", ""), &secret)).await;
    })
    .await;
}

#[tokio::test]
async fn an_announced_device_is_met_by_its_link_or_by_its_serial_number() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let mut announced = Vec::new();
        for serial in [Some("s-one"), None] {
            let new = serde_json::from_value(json!({"user": "user@example.org", "platform": "android", "serial": serial})).unwrap();
            let (device, enrollment) = commit!(door, |conn, moment| {
                let seal = crate::seal::Seal::new(&[7; 32]);
                let outbox = crate::ops::mail::Outbox { seal: &seal, is_set_up: false, public_url: "https://mdm.example.org/" };
                device_ops::announce(conn, moment, &door.actor, &new, outbox).await.unwrap()
            });
            assert_eq!(device.state, "expected");
            announced.push((device.id, enrollment));
        }
        let (by_serial, by_link) = (announced[0].0, announced[1].0);
        assert_eq!(door.admitted(&phone("one", "user@example.org", &token)).await.0, by_serial, "S-one is s-one");
        let link = announced[1].1["token"].as_str().unwrap();
        assert_eq!(announced[1].1["link"], format!("https://mdm.example.org/enroll/{link}"));
        assert_eq!(door.admitted(&phone("two", "user@example.org", link)).await.0, by_link);
        assert_eq!(door.refused(&phone("three", "user@example.org", link)).await, "token_exhausted");
        assert_eq!(door.admitted(&phone("two", "user@example.org", link)).await.0, by_link);
    })
    .await;
}

#[tokio::test]
async fn a_token_for_one_serial_number_gives_it_and_takes_no_other() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({"serial": "s-H"})).await;
        assert_eq!(door.refused(&phone("other", "user@example.org", &token)).await, "device_conflict");
        let mut silent = phone("h", "user@example.org", &token);
        silent.request.device.serial = None;
        let (id, _) = door.admitted(&silent).await;
        assert_eq!(door.device(id).await.serial.as_deref(), Some("s-H"));
    })
    .await;
}

#[tokio::test]
async fn a_group_is_admitted_one_after_the_other_in_one_transaction() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        door.change_user(user.id, json!({"device_limit": 2})).await;
        let (token_id, token) = door.token(json!({})).await;
        let newcomers: Vec<Newcomer> = ["a", "b", "c", "a"].iter().map(|h| phone(h, "user@example.org", &token)).collect();
        let outcomes = commit!(door, |conn, moment| activate_all(conn, moment, &newcomers, RULES, &|_, _| true).await.unwrap());
        let codes: Vec<&str> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Activation::Admitted { .. } => "admitted",
                Activation::Refused { code, .. } => code,
            })
            .collect();
        assert_eq!(codes, ["admitted", "admitted", "device_limit", "admitted"]);
        assert_eq!(door.uses(token_id).await, 2);
    })
    .await;
}
