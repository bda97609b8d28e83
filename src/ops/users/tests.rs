use super::*;
use crate::ops::policies;
use crate::ops::testing::{Door, commit, phone};
use crate::store::Class;
use crate::store::testing::{each_database, number};

fn new(value: Value) -> NewUser {
    serde_json::from_value(value).unwrap()
}

fn code(error: &Error) -> &'static str {
    match error {
        Error::Refused(refusal) => refusal.code,
        Error::Invalid(_) => "invalid",
        Error::NotFound(_) => "not_found",
        _ => "other",
    }
}

#[tokio::test]
async fn an_address_is_one_users_in_whatever_case_and_free_again_after_deletion() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("First.User@Example.ORG").await;
        assert_eq!((user.email.as_str(), user.enabled, user.device_limit), ("first.user@example.org", true, None));
        let other = door.user("other@example.org").await;
        let mut conn = door.db.begin(Class::Operators).await.unwrap();
        let mut moment = door.clock.moment();
        let taken = create(&mut conn, &mut moment, &door.actor, &new(json!({"email": "FIRST.user@example.org"}))).await.unwrap_err();
        assert_eq!(code(&taken), "email_taken");
        for email in ["", "nobody", "@example.org", "a b@example.org", "a@b@c"] {
            let invalid = create(&mut conn, &mut moment, &door.actor, &new(json!({"email": email}))).await.unwrap_err();
            assert_eq!(code(&invalid), "invalid", "{email}");
        }
        let patch = UserPatch { email: Some("first.user@example.org".into()), ..UserPatch::default() };
        assert_eq!(code(&change(&mut conn, &mut moment, &door.actor, other.id, &patch).await.unwrap_err()), "email_taken");
        conn.rollback().await.unwrap();
        commit!(door, |conn, moment| delete(conn, moment, &door.actor, user.id).await.unwrap());
        let again = door.user("first.user@example.org").await;
        assert_ne!(again.id, user.id);
        let gone = commit!(door, |conn, moment| delete(conn, moment, &door.actor, user.id).await.unwrap_err());
        assert_eq!(code(&gone), "not_found");
        let viewer = Actor { role: Role::Viewer, ..door.actor.clone() };
        let refused = commit!(door, |conn, moment| delete(conn, moment, &viewer, again.id).await.unwrap_err());
        assert_eq!(code(&refused), "role_insufficient");
    })
    .await;
}

#[tokio::test]
async fn a_limit_is_set_cleared_and_left_alone_and_attributes_are_plain_values() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        let changed = async |patch: Value| {
            let patch: UserPatch = serde_json::from_value(patch).unwrap();
            let mut conn = door.db.begin(Class::Operators).await.unwrap();
            let changed = change(&mut conn, &mut door.clock.moment(), &door.actor, user.id, &patch).await;
            conn.commit().await.unwrap();
            changed
        };
        assert_eq!(changed(json!({"device_limit": 3})).await.unwrap().device_limit, Some(3));
        assert_eq!(changed(json!({"name": "Another name"})).await.unwrap().device_limit, Some(3));
        assert_eq!(changed(json!({"device_limit": null})).await.unwrap().device_limit, None);
        assert_eq!(code(&changed(json!({"device_limit": -1})).await.unwrap_err()), "invalid");
        let with = changed(json!({"attributes": {"floor": 3, "site": "north"}})).await.unwrap();
        assert_eq!(json!(with.attributes), json!({"floor": 3, "site": "north"}));
        assert_eq!(code(&changed(json!({"attributes": {"list": []}})).await.unwrap_err()), "invalid");
    })
    .await;
}

#[tokio::test]
async fn disabling_signs_out_and_enabling_lifts_only_that() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        let (_, token) = door.token(json!({})).await;
        let (mine, _) = door.admitted(&phone("a", "user@example.org", &token)).await;
        let (unauthorized, _) = door.admitted(&phone("b", "user@example.org", &token)).await;
        commit!(door, |conn, moment| device_ops::unauthorize(conn, moment, &door.actor, unauthorized).await.unwrap());
        let denials = async || {
            let (a, b) = (door.device(mine).await, door.device(unauthorized).await);
            (a.unauthorized_reason, b.unauthorized_reason)
        };
        let is = |a: Option<&str>, b: Option<&str>| (a.map(str::to_owned), b.map(str::to_owned));
        door.change_user(user.id, json!({"enabled": false})).await;
        assert_eq!(denials().await, is(Some("user_disabled"), Some("operator")));
        // The channel says the same, and the phone is called so that it learns of it.
        assert_eq!(
            number(&door.db, "SELECT COUNT(*) FROM channel c JOIN device d ON d.id = c.device_id WHERE c.denied = d.denied").await,
            2
        );
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM wakes WHERE open_work = 1 AND lane = 1").await, 2);
        let refused = door.authorize(mine).await.unwrap_err();
        assert_eq!(code(&refused), "user_not_enabled");
        door.change_user(user.id, json!({"enabled": true})).await;
        assert_eq!(denials().await, is(None, Some("operator")));
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM channel WHERE denied IS NULL").await, 1);
        // What an operator takes away while the user is disabled stays away when the user is back.
        door.change_user(user.id, json!({"enabled": false})).await;
        commit!(door, |conn, moment| device_ops::unauthorize(conn, moment, &door.actor, mine).await.unwrap());
        door.change_user(user.id, json!({"enabled": true})).await;
        assert_eq!(denials().await, is(Some("operator"), Some("operator")));
        assert!(!door.authorize(mine).await.unwrap().unauthorized);
        commit!(door, |conn, moment| delete(conn, moment, &door.actor, user.id).await.unwrap());
        assert_eq!(denials().await, is(Some("user_deleted"), Some("user_deleted")));
        assert_eq!(code(&door.authorize(mine).await.unwrap_err()), "user_not_enabled");
        // The phone may come with another user, if an operator admits it.
        door.user("heir@example.org").await;
        assert_eq!(door.refused(&phone("a", "heir@example.org", &token)).await, "device_conflict");
    })
    .await;
}

#[tokio::test]
async fn a_changed_value_reaches_exactly_the_devices_whose_document_has_it() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        door.user("other@example.org").await;
        let document = json!({"applications": [{"packageName": "org.example.mail", "installType": "FORCE_INSTALLED",
            "managedConfiguration": {"EMAIL": "{{user.email}}", "FLOOR": "{{user.attributes.floor}}"}}]});
        let input = serde_json::from_value(json!({"document": document})).unwrap();
        let all = serde_json::from_value(json!({"assignments": [{"label": "all", "mode": "include", "rank": 1}]})).unwrap();
        commit!(door, |conn, moment| {
            policies::put(conn, moment, &door.actor, "mail", &input, false, None).await.unwrap();
            policies::assign(conn, moment, &door.actor, "mail", &all).await.unwrap();
        });
        let (_, token) = door.token(json!({})).await;
        let (mine, _) = door.admitted(&phone("a", "user@example.org", &token)).await;
        let (others, _) = door.admitted(&phone("b", "other@example.org", &token)).await;
        assert_eq!(door.device(mine).await.channels[0].hold.as_deref(), Some("variable_missing:user.attributes.floor"));
        door.change_user(user.id, json!({"attributes": {"floor": 3}})).await;
        let settled = door.device(mine).await.channels.remove(0);
        assert_eq!(settled.hold, None);
        door.change_user(user.id, json!({"email": "renamed@example.org"})).await;
        assert_ne!(door.device(mine).await.channels[0].desired, settled.desired);
        assert!(door.device(others).await.channels[0].hold.is_some());
        // And the device is found by the new address, no longer by the old one.
        let search = async |q: &str| {
            let search = crate::store::search::Search { q: Some(q.into()), ..Default::default() };
            crate::store::search::devices(&mut door.db.read().await.unwrap(), &search, 10).await.unwrap()
        };
        assert_eq!(search("Renamed@").await, [mine]);
        assert_eq!(search("user@").await, []);
    })
    .await;
}
