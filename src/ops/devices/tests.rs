use super::*;
use crate::ops::testing::{Door, commit, phone};
use crate::store::search::{self, Search};
use crate::store::testing::{each_database, number};

async fn ambiguous(door: &Door, name: &str) -> Vec<Value> {
    match devices::resolve(&mut door.db.read().await.unwrap(), name).await {
        Err(Error::Refused(refusal)) if refusal.code == "ambiguous_device" => refusal.members["device_ids"].as_array().unwrap().clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_device_is_named_by_id_or_serial_number_in_any_case_and_several_are_none() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let (a, _) = door.admitted(&phone("a", "user@example.org", &token)).await;
        let (b, _) = door.admitted(&phone("b", "user@example.org", &token)).await;
        let mut conn = door.db.read().await.unwrap();
        for name in [a.to_string(), a.to_string().to_uppercase(), "S-a".into(), "s-A".into(), " S-a ".into()] {
            assert_eq!(devices::resolve(&mut conn, &name).await.unwrap(), a, "{name:?}");
        }
        // A model and an e-mail address are words to search by, not names.
        for name in ["Model", "user@example.org", "", "S-", "0198f3a2-7c4e-7b1a-9f00-3c2d1e0f4a5b"] {
            assert!(matches!(devices::resolve(&mut conn, name).await, Err(Error::NotFound("device"))), "{name:?}");
        }
        drop(conn);
        let patch = serde_json::from_value(json!({"serial": "s-A"})).unwrap();
        commit!(door, |conn, moment| change(conn, moment, &door.actor, b, &patch).await.unwrap());
        assert_eq!(ambiguous(&door, "S-a").await.len(), 2);
        let names: Vec<String> = ["S-a", "nobody"].into_iter().map(str::to_owned).chain([a.to_string(), a.to_string()]).collect();
        let resolved = devices::resolve_many(&mut door.db.read().await.unwrap(), &names).await.unwrap();
        assert_eq!(resolved, (vec![a], vec!["nobody".into()], vec!["S-a".into()]));
        // A device that is gone leaves its name to the one that is there.
        commit!(door, |conn, moment| retire(conn, moment, &door.actor, a).await.unwrap());
        assert_eq!(devices::resolve(&mut door.db.read().await.unwrap(), "S-a").await.unwrap(), b);
        let cleared = serde_json::from_value(json!({"serial": null})).unwrap();
        assert_eq!(commit!(door, |conn, moment| change(conn, moment, &door.actor, b, &cleared).await.unwrap()).serial, None);
        assert_eq!(devices::resolve(&mut door.db.read().await.unwrap(), "S-a").await.unwrap(), a);
    })
    .await;
}

#[tokio::test]
async fn a_stronger_denial_takes_the_place_of_a_weaker_one_and_never_the_other_way_round() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        for (at, first) in Denial::ALL.into_iter().enumerate() {
            for (then, second) in Denial::ALL.into_iter().enumerate() {
                let (id, _) = door.admitted(&phone(&format!("{at}-{then}"), "user@example.org", &token)).await;
                commit!(door, |conn, moment| {
                    assert_eq!(deny(conn, moment, &door.actor, &[id], first).await.unwrap(), [id]);
                    let concerned = deny(conn, moment, &door.actor, &[id], second).await.unwrap();
                    assert_eq!(concerned.len(), usize::from(then > at));
                });
                let stands = door.device(id).await.unauthorized_reason.unwrap();
                assert_eq!(Denial::named(&stands), Some(first.max(second)));
            }
        }
        assert_eq!(
            number(&door.db, "SELECT COUNT(*) FROM device d JOIN channel c ON c.device_id = d.id WHERE c.denied = d.denied").await,
            25
        );
    })
    .await;
}

#[tokio::test]
async fn a_device_that_changes_hands_follows_its_new_user() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        let heir = door.user("heir@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let (id, _) = door.admitted(&phone("a", "user@example.org", &token)).await;
        door.change_user(user.id, json!({"enabled": false})).await;
        let to = async |user: &str| {
            let patch = serde_json::from_value(json!({"user": user})).unwrap();
            commit!(door, |conn, moment| change(conn, moment, &door.actor, id, &patch).await.unwrap())
        };
        let device = to("HEIR@example.org").await;
        assert_eq!((device.user_id, device.unauthorized), (Some(heir.id), false));
        assert_eq!(to(&user.id.to_string()).await.unauthorized_reason.as_deref(), Some("user_disabled"));
    })
    .await;
}

#[tokio::test]
async fn a_deleted_device_leaves_nothing_that_finds_it_and_its_hardware_may_come_anew() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let newcomer = phone("a", "user@example.org", &token);
        let (id, _) = door.admitted(&newcomer).await;
        let job = serde_json::from_value(json!({"kind": "lock", "target": {"devices": [id]}})).unwrap();
        commit!(door, |conn, moment| crate::ops::jobs::create(conn, moment, &door.actor, &job, None, None).await.unwrap());
        commit!(door, |conn, moment| unauthorize(conn, moment, &door.actor, id).await.unwrap());
        commit!(door, |conn, moment| delete(conn, moment, &door.actor, id).await.unwrap());
        for table in ["device", "channel", "wakes", "device_term", "device_key", "label_member"] {
            let text: &'static str = Box::leak(format!("SELECT COUNT(*) FROM {table}").into_boxed_str());
            assert_eq!(number(&door.db, text).await, 0, "{table}");
        }
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM task WHERE finished_at_ms IS NULL").await, 0);
        assert_ne!(door.admitted(&newcomer).await.0, id);
    })
    .await;
}

#[tokio::test]
async fn a_search_finds_by_the_beginning_of_any_word_and_pages_through_everything() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("carrier@example.org").await;
        door.change_user(user.id, json!({"name": "Night Desk"})).await;
        let (_, token) = door.token(json!({})).await;
        let mut all = Vec::new();
        for n in 0..7 {
            all.push(door.admitted(&phone(&format!("h{n}"), "carrier@example.org", &token)).await.0);
        }
        let found = async |search: Search| search::devices(&mut door.db.read().await.unwrap(), &search, 100).await.unwrap().len();
        for (q, devices) in [("desk", 7), ("NIGHT d", 7), ("carrier@", 7), ("s-h3", 1), ("mod", 7), ("esk", 0), ("%", 0), ("", 7)] {
            assert_eq!(found(Search { q: Some(q.into()), ..Search::default() }).await, devices, "{q:?}");
        }
        assert_eq!(found(Search { state: Some("active".into()), platform: Some("android".into()), ..Search::default() }).await, 7);
        assert_eq!(found(Search { label: Some("nobody has it".into()), ..Search::default() }).await, 0);
        for q in [None, Some("desk".to_owned())] {
            let mut paged = Vec::new();
            let mut after = None;
            loop {
                let search = Search { q: q.clone(), after: after.clone(), ..Search::default() };
                let page = search::devices(&mut door.db.read().await.unwrap(), &search, 2).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.bucket(), last.to_string()));
                paged.extend(page);
            }
            all.sort_unstable();
            paged.sort_unstable();
            assert_eq!(paged, all);
        }
    })
    .await;
}

#[tokio::test]
async fn a_device_is_called_at_once_when_an_operator_asks_for_it() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let (id, _) = door.admitted(&phone("a", "user@example.org", &token)).await;
        commit!(door, |conn, moment| call_in(conn, moment, &door.actor, id).await.unwrap());
        assert_eq!(number(&door.db, "SELECT due_at_ms FROM wakes WHERE lane = 1 AND open_work = 1").await, door.clock.now_ms());
    })
    .await;
}

#[tokio::test]
async fn a_page_costs_the_same_number_of_statements_however_many_devices_it_has_and_keeps_their_order() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let mut ids = Vec::new();
        for n in 0..30 {
            ids.push(door.admitted(&phone(&format!("h{n}"), "user@example.org", &token)).await.0);
        }
        ids.reverse();
        let mut conn = door.db.read().await.unwrap();
        let one = views(&mut conn, &ids[..1]).await.unwrap();
        let statements = conn.statements();
        let page = views(&mut conn, &ids).await.unwrap();
        assert_eq!(conn.statements(), 2 * statements);
        assert_eq!(page.iter().map(|device| device.id).collect::<Vec<_>>(), ids);
        assert_eq!(serde_json::to_value(&page[0]).unwrap(), serde_json::to_value(&one[0]).unwrap());
        for device in &page {
            assert_eq!((device.user.as_ref().unwrap().email.as_str(), device.channels.len()), ("user@example.org", 1));
            let alone = view(&mut conn, device.id).await.unwrap();
            assert_eq!(serde_json::to_value(device).unwrap(), serde_json::to_value(alone).unwrap());
        }
        assert!(views(&mut conn, &[]).await.unwrap().is_empty());
    })
    .await;
}
