//! Many at once, each in a transaction of its own.

use super::*;

/// Activates every newcomer at once, each in a transaction of its own; answers how many came in.
async fn race(door: &Door, newcomers: &[Newcomer]) -> usize {
    let one = async |newcomer: &Newcomer| {
        let app = crate::app::App::for_tests(&door.db, &door.clock);
        let all = std::slice::from_ref(newcomer);
        let rules = door.rules;
        crate::change!(app, Class::Results, |conn, moment| activate_all(conn, moment, all, rules, &|_, _| true).await).unwrap().remove(0)
    };
    let outcomes = futures_util::future::join_all(newcomers.iter().map(one)).await;
    outcomes.iter().filter(|outcome| matches!(outcome, Activation::Admitted { .. })).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_had_by_one_of_many() {
    each_database(async |db| {
        let door = Door::new(db);
        let mut newcomers = Vec::new();
        let (token_id, token) = door.token(json!({"max_uses": 3})).await;
        for n in 0..10 {
            let email = format!("user-{n}@example.org");
            door.user(&email).await;
            newcomers.push(phone(&format!("h-{n}"), &email, &token));
        }
        assert_eq!(race(&door, &newcomers).await, 3);
        assert_eq!(door.uses(token_id).await, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_limit_holds_against_many_at_once() {
    each_database(async |db| {
        let mut door = Door::new(db);
        door.rules.devices_per_user = 2;
        door.user("user@example.org").await;
        let mut newcomers = Vec::new();
        for n in 0..8 {
            let (_, token) = door.token(json!({})).await;
            newcomers.push(phone(&format!("h-{n}"), "user@example.org", &token));
        }
        assert_eq!(race(&door, &newcomers).await, 2);
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM device").await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_hardware_at_once_is_one_device() {
    each_database(async |db| {
        let door = Door::new(db);
        let mut newcomers = Vec::new();
        for n in 0..6 {
            let email = format!("user-{n}@example.org");
            door.user(&email).await;
            let (_, token) = door.token(json!({})).await;
            newcomers.push(phone("h", &email, &token));
        }
        assert_eq!(race(&door, &newcomers).await, 1, "the first has it, the others wait for an operator");
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM device WHERE state = 'active'").await, 1);
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM device WHERE state = 'pending_approval'").await, 5);
        assert_eq!(number(&door.db, "SELECT CAST(SUM(uses) AS BIGINT) FROM enrollment_token").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_disabled_meanwhile_keeps_no_phone_that_may_go_on() {
    each_database(async |db| {
        let door = Door::new(db);
        let user = door.user("user@example.org").await;
        let mut newcomers = Vec::new();
        for n in 0..8 {
            let (_, token) = door.token(json!({})).await;
            newcomers.push(phone(&format!("h-{n}"), "user@example.org", &token));
        }
        let patch = serde_json::from_value(json!({"enabled": false})).unwrap();
        let disable = async {
            let app = crate::app::App::for_tests(&door.db, &door.clock);
            let actor = &door.actor;
            crate::change!(app, Class::Operators, |conn, moment| crate::ops::users::change(conn, moment, actor, user.id, &patch).await)
                .unwrap();
        };
        let (first, rest) = newcomers.split_at(4);
        let (before, (), after) = tokio::join!(race(&door, first), disable, race(&door, rest));
        let denied = number(&door.db, "SELECT COUNT(*) FROM channel WHERE denied = 'user_disabled'").await;
        assert_eq!(usize::try_from(denied).unwrap(), before + after, "whoever came in before is denied, nobody came in after");
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM device WHERE denied IS NULL").await, 0);
    })
    .await;
}
