use super::*;
use crate::store::Class;
use crate::store::testing::each_database;

fn admin() -> Actor {
    Actor { name: "operator:boss".into(), role: Role::Admin, person: true }
}

#[tokio::test]
async fn a_sign_in_link_opens_one_session_and_only_in_its_time() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let viewer = Actor { role: Role::Operator, ..admin() };
        assert!(
            link(&mut conn, &mut moment, &viewer, "night desk", Some(Role::Viewer)).await.is_err(),
            "only administrators add operators"
        );
        let secret = link(&mut conn, &mut moment, &admin(), "night desk", Some(Role::Operator)).await.unwrap().secret.reveal().to_owned();
        let late = link(&mut conn, &mut moment, &admin(), "night desk", Some(Role::Viewer)).await.unwrap().secret.reveal().to_owned();
        let opened = open_link(&mut conn, &mut moment, &secret).await.unwrap().unwrap();
        let session = operators::session(&mut conn, &opened.secret.hash(), moment.now_ms).await.unwrap().unwrap();
        assert_eq!((session.name.as_str(), session.role, session.csrf), ("night desk", Role::Viewer, opened.csrf));
        assert!(open_link(&mut conn, &mut moment, &secret).await.unwrap().is_none(), "a link opens once");
        let mut moment = Moment::fixed(1_000_000 + LINK_MS, 2);
        assert!(open_link(&mut conn, &mut moment, &late).await.unwrap().is_none(), "a link lasts fifteen minutes");
        let over_ms = 1_000_000 + SESSION_MS;
        assert!(operators::session(&mut conn, &opened.secret.hash(), over_ms).await.unwrap().is_none());
        sign_out(&mut conn, opened.secret.reveal()).await.unwrap();
        assert!(operators::session(&mut conn, &opened.secret.hash(), moment.now_ms).await.unwrap().is_none());
        conn.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_link_without_a_role_takes_nobodys_role_away_and_tells_what_it_changed() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        for name in ["first", "second"] {
            link(&mut conn, &mut moment, &admin(), name, Some(Role::Admin)).await.unwrap();
        }
        let kept = link(&mut conn, &mut moment, &admin(), "second", None).await.unwrap();
        assert_eq!((kept.role.as_str(), kept.changes()), ("admin", Vec::new()));
        let lowered = link(&mut conn, &mut moment, &admin(), "second", Some(Role::Viewer)).await.unwrap();
        assert_eq!(lowered.changes(), ["second was admin and is viewer now."]);
        let id = operators::by_name(&mut conn, "second").await.unwrap().unwrap().id;
        disable(&mut conn, &mut moment, &admin(), id).await.unwrap();
        let back = link(&mut conn, &mut moment, &admin(), "second", None).await.unwrap();
        assert_eq!((back.role.as_str(), back.changes()), ("viewer", vec!["second was disabled and may sign in again.".to_owned()]));
        let new = link(&mut conn, &mut moment, &admin(), "third", None).await.unwrap();
        assert_eq!((new.role.as_str(), new.changes()), ("operator", Vec::new()));
        // The last administrator gets a link too, and stays one.
        assert_eq!(link(&mut conn, &mut moment, &admin(), "first", None).await.unwrap().role, "admin");
        conn.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_password_change_ends_the_other_sessions_and_a_disabled_operator_has_none() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let secret = link(&mut conn, &mut moment, &admin(), "desk", Some(Role::Viewer)).await.unwrap().secret.reveal().to_owned();
            sessions.push(open_link(&mut conn, &mut moment, &secret).await.unwrap().unwrap().secret);
        }
        let id = operators::by_name(&mut conn, "desk").await.unwrap().unwrap().id;
        let hash = hash_password("correct horse battery", &moment.secret()).unwrap();
        let desk = Actor { name: "operator:desk".into(), role: Role::Viewer, person: true };
        let other = Actor { name: "operator:other".into(), ..desk.clone() };
        assert!(set_password(&mut conn, &mut moment, &other, id, &hash, "").await.is_err());
        set_password(&mut conn, &mut moment, &desk, id, &hash, sessions[0].reveal()).await.unwrap();
        let now_ms = moment.now_ms;
        assert!(operators::session(&mut conn, &sessions[0].hash(), now_ms).await.unwrap().is_some());
        assert!(operators::session(&mut conn, &sessions[1].hash(), now_ms).await.unwrap().is_none());
        assert!(open_session(&mut conn, &mut moment, id, "password").await.unwrap().is_some());
        disable(&mut conn, &mut moment, &admin(), id).await.unwrap();
        assert!(operators::session(&mut conn, &sessions[0].hash(), now_ms).await.unwrap().is_none());
        assert!(open_session(&mut conn, &mut moment, id, "password").await.unwrap().is_none());
        conn.commit().await.unwrap();
    })
    .await;
}

#[test]
fn passwords_are_long_and_only_the_right_one_fits() {
    assert!(hash_password("elevenchars", &[1; 32]).is_err());
    let stored = hash_password("twelve chars", &[1; 32]).unwrap();
    assert!(stored.starts_with("$argon2id$"));
    assert_ne!(stored, hash_password("twelve chars", &[2; 32]).unwrap());
    assert!(verify_password("twelve chars", Some(&stored)));
    assert!(!verify_password("twelve Chars", Some(&stored)));
    assert!(!verify_password("twelve chars", None));
    // Nobody's hash costs as much as anybody's: it is one, with the parameters of today's.
    let parameters = |hash: &str| hash.split('$').take(4).collect::<Vec<_>>().join("$");
    assert!(PasswordHash::new(NOBODY).is_ok());
    assert_eq!(parameters(NOBODY), parameters(&stored));
}

#[tokio::test]
async fn a_key_is_shown_once_and_ends_when_it_is_revoked() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let made = make_key(&mut conn, &mut moment, &admin(), "ci", Role::Operator).await.unwrap();
        assert!(made.key.starts_with("mk_"));
        assert_eq!(operators::api_key(&mut conn, &hash(&made.key)).await.unwrap(), Some(("ci".into(), Role::Operator)));
        let listed = operators::keys(&mut conn, "", 10).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert!(!format!("{listed:?}").contains(&made.key));
        let operator = Actor { role: Role::Operator, ..admin() };
        assert!(revoke_key(&mut conn, &mut moment, &operator, made.id).await.is_err());
        revoke_key(&mut conn, &mut moment, &admin(), made.id).await.unwrap();
        assert_eq!(operators::api_key(&mut conn, &hash(&made.key)).await.unwrap(), None);
        assert!(matches!(revoke_key(&mut conn, &mut moment, &admin(), made.id).await, Err(Error::NotFound("key"))));
        conn.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn no_two_keys_that_stand_have_one_name() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let first = make_key(&mut conn, &mut moment, &admin(), "ci", Role::Operator).await.unwrap();
        let second = make_key(&mut conn, &mut moment, &admin(), " ci ", Role::Viewer).await;
        assert!(matches!(second, Err(Error::Refused(refusal)) if refusal.code == "name_taken"));
        make_key(&mut conn, &mut moment, &admin(), "cd", Role::Operator).await.unwrap();
        revoke_key(&mut conn, &mut moment, &admin(), first.id).await.unwrap();
        let again = make_key(&mut conn, &mut moment, &admin(), "ci", Role::Viewer).await.unwrap();
        assert_eq!(operators::api_key(&mut conn, &hash(&again.key)).await.unwrap(), Some(("ci".into(), Role::Viewer)));
        assert_eq!(operators::keys(&mut conn, "", 10).await.unwrap().len(), 3, "what was refused is not there");
        conn.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn who_made_a_key_is_found_behind_every_key_that_it_was_made_with() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let by = |name: &str| Actor { name: name.into(), role: Role::Admin, person: name.starts_with("operator:") };
        for (maker, name) in [("operator:alice", "k1"), ("key:k1", "k2"), ("key:k2", "k3"), ("server", "shell"), ("key:shell", "other")] {
            make_key(&mut conn, &mut moment, &by(maker), name, Role::Admin).await.unwrap();
        }
        for key in ["k1", "k2", "k3"] {
            assert!(operators::made_key(&mut conn, key, "operator:alice").await.unwrap(), "{key}");
            assert!(!operators::made_key(&mut conn, key, "operator:bob").await.unwrap(), "{key}");
        }
        assert!(!operators::made_key(&mut conn, "other", "operator:alice").await.unwrap());
        // A key that is revoked has still made what it made; a name that comes round again ends the walk all the same.
        let k1 = operators::keys(&mut conn, "", 10).await.unwrap().into_iter().find(|key| key.name == "k1").unwrap().id;
        revoke_key(&mut conn, &mut moment, &admin(), k1).await.unwrap();
        make_key(&mut conn, &mut moment, &by("key:k3"), "k1", Role::Admin).await.unwrap();
        assert!(operators::made_key(&mut conn, "k3", "operator:alice").await.unwrap());
        assert!(!operators::made_key(&mut conn, "k3", "operator:bob").await.unwrap());
        conn.commit().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_keys_that_an_operator_made_are_known_whatever_made_them_and_whoever_had_their_name_before() {
    each_database(async |db| {
        let mut moment = Moment::fixed(1_000_000, 1);
        let mut conn = db.begin(Class::Operators).await.unwrap();
        for name in ["leaver", "boss"] {
            link(&mut conn, &mut moment, &admin(), name, Some(Role::Admin)).await.unwrap();
        }
        let by = |name: &str| Actor { name: name.into(), ..admin() };
        for (maker, key) in [("operator:leaver", "a"), ("key:a", "b"), ("key:b", "c"), ("operator:boss", "d"), ("operator:leaver", "e")] {
            let made = make_key(&mut conn, &mut moment, &by(maker), key, Role::Operator).await.unwrap();
            if key == "e" {
                revoke_key(&mut conn, &mut moment, &admin(), made.id).await.unwrap();
            }
        }
        // Another key of the revoked one's name, and what it makes, is somebody else's.
        moment.now_ms += 1;
        for (maker, key) in [("operator:boss", "e"), ("key:e", "f")] {
            make_key(&mut conn, &mut moment, &by(maker), key, Role::Operator).await.unwrap();
        }
        let stand = operators::keys_of(&mut conn, "operator:leaver", KEYS_TOLD_MAX).await.unwrap();
        assert_eq!(stand, ["a", "b", "c"], "those too that a key made; a revoked one is none");
        conn.commit().await.unwrap();
    })
    .await;
}
