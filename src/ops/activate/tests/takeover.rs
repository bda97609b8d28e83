//! Known hardware knocks again.

use super::*;

#[tokio::test]
async fn the_same_phone_with_the_same_token_takes_its_device_over_without_a_further_use() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        let (token_id, token) = door.token(json!({"max_uses": 1})).await;
        let newcomer = phone("h", "user@example.org", &token);
        let (id, first) = door.admitted(&newcomer).await;
        let job = serde_json::from_value(json!({"kind": "lock", "target": {"devices": [id]}})).unwrap();
        commit!(door, |conn, moment| crate::ops::jobs::create(conn, moment, &door.actor, &job, None, None).await.unwrap());
        assert_eq!(number(&door.db, "SELECT open_work FROM wakes").await, 1);
        let (again, second) = door.admitted(&newcomer).await;
        assert_eq!((again, door.uses(token_id).await), (id, 1));
        let channel = door.credentials(id).await;
        assert_eq!((channel.token_hash.as_deref(), channel.fresh_token_hash), (Some(second.hash().as_str()), None));
        assert_ne!(first.hash(), second.hash());
        assert_eq!(number(&door.db, "SELECT activation FROM channel").await, 2);
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM task WHERE state = 'cancelled'").await, 1);
        assert_eq!(number(&door.db, "SELECT open_work FROM wakes WHERE lane = 4").await, 0, "nothing nudges it before its sync");
        // Another app on the same hardware is another device.
        let mut other_app = phone("h", "user@example.org", &token);
        other_app.request.device.app = "org.example.other".into();
        assert_eq!(door.refused(&other_app).await, "token_exhausted");
    })
    .await;
}

#[tokio::test]
async fn a_device_token_renews_itself_and_the_old_one_lives_until_the_fresh_one_is_used() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        let (token_id, token) = door.token(json!({})).await;
        let newcomer = phone("h", "user@example.org", &token);
        let (id, first) = door.admitted(&newcomer).await;
        let outcome = door.knock(&with_bearer(newcomer.clone(), &first)).await;
        let Activation::Admitted { device_id, device_token: second, renewed: true, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!((device_id, door.uses(token_id).await), (id, 1));
        let channel = door.credentials(id).await;
        assert_eq!((channel.token_hash, channel.fresh_token_hash), (Some(first.hash()), Some(second.hash())));
        assert_eq!(number(&door.db, "SELECT activation FROM channel").await, 1);
        // Used as a credential, the fresh one takes the place of the old one.
        let (_, third) = door.admitted(&with_bearer(newcomer.clone(), &second)).await;
        let channel = door.credentials(id).await;
        assert_eq!((channel.token_hash, channel.fresh_token_hash), (Some(second.hash()), Some(third.hash())));
        assert_eq!(door.refused(&with_bearer(newcomer.clone(), &first)).await, "token_unknown");
        // With an enrollment token beside it, a device token that does not stand is no obstacle.
        let mut both = with_bearer(newcomer.clone(), &first);
        both.request.token = Some(token);
        assert_eq!(door.admitted(&both).await.0, id);
        // Carried to other hardware, it waits for an operator.
        let (_, now) = door.admitted(&newcomer).await;
        assert_eq!(door.refused(&with_bearer(phone("clone", "user@example.org", ""), &now)).await, "device_conflict");
        door.change_user(user.id, json!({"enabled": false})).await;
        assert_eq!(door.refused(&with_bearer(newcomer, &now)).await, "user_disabled");
    })
    .await;
}

#[tokio::test]
async fn hardware_that_is_enrolled_otherwise_waits_for_an_operator_and_then_comes_in_as_the_newcomer() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        door.user("heir@example.org").await;
        let (_, token) = door.token(json!({"max_uses": 1})).await;
        let (_, other) = door.token(json!({"max_uses": 1})).await;
        let (earlier, _) = door.admitted(&phone("h", "user@example.org", &token)).await;
        // Another token, and another user, are conflicts; each parks one device however often it knocks.
        assert_eq!(door.refused(&phone("h", "heir@example.org", &other)).await, "device_conflict");
        assert_eq!(door.refused(&phone("h", "heir@example.org", &other)).await, "device_conflict");
        let parked = door.parked().await;
        assert_eq!(
            devices::resolve(&mut door.db.read().await.unwrap(), "S-h").await.unwrap(),
            earlier,
            "a parked newcomer has no name yet"
        );
        assert_eq!(door.authorize(parked).await.unwrap().state, "expected");
        assert_eq!(door.device(earlier).await.state, "unmanaged");
        assert_eq!(door.credentials(earlier).await.token_hash, None);
        // Used up meanwhile: what an operator has admitted comes in all the same.
        door.admitted(&phone("g", "heir@example.org", &other)).await;
        let (id, _) = door.admitted(&phone("h", "heir@example.org", &other)).await;
        assert_eq!(id, parked);
        assert_eq!(door.device(id).await.state, "active");
        assert_eq!(devices::resolve(&mut door.db.read().await.unwrap(), "S-h").await.unwrap(), id);
        // It is its device now.
        assert_eq!(door.admitted(&phone("h", "heir@example.org", &other)).await.0, id);
    })
    .await;
}

#[tokio::test]
async fn a_parked_newcomer_that_an_operator_turns_away_stays_out() {
    each_database(async |db| {
        let door = Door::new(db);
        door.user("user@example.org").await;
        door.user("heir@example.org").await;
        let (_, token) = door.token(json!({})).await;
        door.admitted(&phone("h", "user@example.org", &token)).await;
        assert_eq!(door.refused(&phone("h", "heir@example.org", &token)).await, "device_conflict");
        let parked = door.parked().await;
        commit!(door, |conn, moment| device_ops::unauthorize(conn, moment, &door.actor, parked).await.unwrap());
        assert_eq!(door.refused(&phone("h", "heir@example.org", &token)).await, "device_unauthorized");
        door.admitted(&phone("h", "user@example.org", &token)).await;
    })
    .await;
}

#[tokio::test]
async fn with_approve_every_reactivation_waits_but_a_device_token_does_not() {
    each_database(async |db| {
        let mut door = Door::new(db);
        door.rules.approve_reactivation = true;
        door.user("user@example.org").await;
        let input = crate::ops::labels::LabelInput::default();
        commit!(door, |conn, moment| crate::ops::labels::put(conn, moment, &door.actor, "field", &input).await.unwrap());
        let (token_id, token) = door.token(json!({"max_uses": 1, "labels": ["field"]})).await;
        let newcomer = phone("h", "user@example.org", &token);
        let (device, secret) = door.admitted(&newcomer).await;
        door.admitted(&with_bearer(newcomer.clone(), &secret)).await;
        for _ in 0..2 {
            assert_eq!(door.refused(&newcomer).await, "device_conflict");
        }
        assert_eq!(door.parked().await, device, "the device itself waits");
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM feed_in WHERE kind = 'device.parked'").await, 1);
        assert_eq!(door.credentials(device).await.token_hash, Some(secret.hash()), "its app goes on meanwhile");
        assert_ne!(door.authorize(device).await.unwrap().state, "pending_approval");
        let (again, _) = door.admitted(&newcomer).await;
        assert_eq!((again, door.uses(token_id).await), (device, 1), "no second device, no further use");
        let shown = door.device(device).await;
        assert_eq!((shown.state.as_str(), shown.labels), ("active", vec!["field".to_owned()]));
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM device").await, 1);
        assert_eq!(number(&door.db, "SELECT activation FROM channel").await, 2);
        // The next one waits again. Another user's is another device, as ever.
        assert_eq!(door.refused(&newcomer).await, "device_conflict");
        assert_eq!(door.parked().await, device);
        door.user("heir@example.org").await;
        let (_, other) = door.token(json!({})).await;
        assert_eq!(door.refused(&phone("h", "heir@example.org", &other)).await, "device_conflict");
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM device").await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_device_that_apples_mdm_manages_is_managed_while_its_app_waits() {
    each_database(async |db| {
        let mut door = Door::new(db);
        door.rules.approve_reactivation = true;
        door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let newcomer = phone("h", "user@example.org", &token);
        let (device, _) = door.admitted(&newcomer).await;
        crate::store::testing::bend(&door.db, "UPDATE device SET udid = 'U', facts_at_ms = $2 WHERE id = $1", device, 0).await;
        assert_eq!(door.refused(&newcomer).await, "device_conflict");
        assert_eq!(door.device(device).await.state, "active");
        door.authorize(device).await.unwrap();
        assert_eq!(door.admitted(&newcomer).await.0, device);
    })
    .await;
}
