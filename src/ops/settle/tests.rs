use super::*;
use crate::error::Error;
use crate::model::{Precondition, Tags};
use crate::ops::labels::{LabelInput, Membership};
use crate::ops::policies::{Assignments, PolicyInput, Stored};
use crate::ops::testing::{Door, commit, phone};
use crate::ops::{labels as label_ops, policies as policy_ops};
use crate::store::testing::{self, each_database, number};

const NUDGES: &str = "SELECT COALESCE(CAST(SUM(work_seq) AS BIGINT), 0) FROM wakes";

/// What the tests do as an operator.
impl Door {
    async fn label(&self, name: &str, devices: &[Id]) {
        commit!(self, |conn, moment| label_ops::put(conn, moment, &self.actor, name, &LabelInput::default()).await.unwrap());
        self.give(name, Membership::Add, devices).await;
    }

    async fn give(&self, name: &str, how: Membership, devices: &[Id]) {
        let named: Vec<String> = devices.iter().map(Id::to_string).collect();
        commit!(self, |conn, moment| label_ops::change(conn, moment, &self.actor, name, how, &named).await.unwrap());
    }

    async fn publish(&self, name: &str, document: Value) -> Stored {
        self.put_policy(name, document, false, None).await.unwrap()
    }

    async fn put_policy(&self, name: &str, document: Value, draft: bool, asked: Option<Precondition>) -> Result<Stored> {
        let input = PolicyInput { document, message: String::new() };
        commit!(self, |conn, moment| policy_ops::put(conn, moment, &self.actor, name, &input, draft, asked.as_ref()).await)
    }

    async fn assign(&self, policy: &str, assignments: Value) {
        let input: Assignments = serde_json::from_value(json!({ "assignments": assignments })).unwrap();
        commit!(self, |conn, moment| policy_ops::assign(conn, moment, &self.actor, policy, &input).await.unwrap());
    }

    /// Moves channels in chunks of `limit` until no set has stale ones; answers how many were moved.
    async fn move_all(&self, limit: i64) -> usize {
        let mut moved = 0;
        loop {
            let sets = stacks::moving(&mut self.db.read().await.unwrap()).await.unwrap();
            let Some(set) = sets.first() else { return moved };
            let some = commit!(self, |conn, moment| move_some(conn, moment, set, limit, Lane::Change).await.unwrap());
            if some == 0 {
                commit!(self, |conn, _moment| stacks::moved(conn, set).await.unwrap());
            }
            moved += some;
        }
    }

    async fn delivered(&self, channel: Id) -> Delivered {
        documents(&mut self.db.read().await.unwrap(), Reader::Operator, &[channel], 0).await.unwrap().remove(0)
    }

    async fn channel(&self, id: Id) -> Follower {
        stacks::of_channels(&mut self.db.read().await.unwrap(), &[id]).await.unwrap().remove(0)
    }

    async fn channel_of(&self, device: Id) -> Follower {
        stacks::of_devices(&mut self.db.read().await.unwrap(), &[device]).await.unwrap().remove(0)
    }

    async fn settled_devices(&self, count: usize) -> Vec<(Id, Id)> {
        let made = testing::devices(&self.db, &self.clock, count).await;
        let ids: Vec<Id> = made.iter().map(|(device, _)| *device).collect();
        commit!(self, |conn, moment| devices(conn, moment, &ids, Lane::Change).await.unwrap());
        made
    }
}

fn in_force(policy: Id, name: &str, label: &str, mode: &str, rank: i64) -> InForce {
    InForce { policy_id: policy, name: name.into(), version: 1, label_id: label.into(), mode: mode.into(), rank }
}

#[test]
fn a_policy_applies_by_its_labels_the_strongest_first_and_an_exclusion_wins() {
    let mut moment = Moment::fixed(1, 1);
    let (a, b, c, x, y) = (moment.id(), moment.id(), moment.id(), moment.id(), moment.id());
    let (x_name, y_name) = (x.to_string(), y.to_string());
    let rows = [
        in_force(a, "a", ALL, "include", 1),
        in_force(a, "a", &y_name, "include", 7),
        in_force(b, "b", &x_name, "include", 5),
        in_force(b, "b", &y_name, "exclude", 0),
        in_force(c, "c", &x_name, "include", 5),
    ];
    let names = |labels: &[Id]| resolve(&rows, labels).into_iter().map(|item| (item.name, item.rank)).collect::<Vec<_>>();
    let of = |name: &str, rank: i64| (name.to_owned(), rank);
    assert_eq!(names(&[]), [of("a", 1)], "only what is assigned to all");
    assert_eq!(names(&[x]), [of("b", 5), of("c", 5), of("a", 1)], "the greater rank, then the name");
    assert_eq!(names(&[x, y]), [of("a", 7), of("c", 5)], "excluded by one label, though included by another; the best rank counts");
    let everywhere = [in_force(a, "a", &x_name, "include", 9), in_force(a, "a", ALL, "exclude", 0)];
    assert_eq!(resolve(&everywhere, &[x]), []);
}

#[test]
fn a_report_proves_the_desired_version_and_no_other() {
    let report = |version: Option<&str>, reasons: &[&str]| PolicyReport {
        version: version.map(str::to_owned),
        details: reasons.iter().map(|reason| Detail { setting: "s".into(), reason: (*reason).into(), current: None }).collect(),
    };
    assert!(proof(Some("v"), &report(Some("v"), &[])).applies);
    for (desired, said) in [(Some("v"), Some("u")), (Some("v"), None), (None, None), (None, Some("v"))] {
        assert!(!proof(desired, &report(said, &[])).applies, "{desired:?} {said:?}");
    }
    let pending = proof(Some("v"), &report(Some("v"), &["PENDING"]));
    assert_eq!((pending.applies, pending.details), (false, None), "pending is neither applied nor failed");
    for (applied, said, reasons, stays) in [
        (None, None, &[][..], true),
        (Some("u"), Some("u"), &[], true),
        (Some("u"), Some("u"), &["API_LEVEL"], true),
        (Some("u"), Some("u"), &["PENDING"], false),
        (Some("v"), Some("v"), &["API_LEVEL", "PENDING"], false),
        (Some("v"), Some("u"), &[], false),
        (Some("v"), None, &[], false),
    ] {
        assert_eq!(proof(Some("v"), &report(said, reasons)).leaves(applied), stays, "{applied:?} {said:?} {reasons:?}");
    }
    let failed = proof(Some("v"), &report(Some("v"), &["API_LEVEL", "PENDING"]));
    assert!(failed.details.is_some_and(|details| details.contains("API_LEVEL") && !details.contains("PENDING")));
}

#[tokio::test]
async fn a_change_of_members_settles_exactly_those_devices() {
    each_database(async |db| {
        let door = Door::new(db);
        let made = door.settled_devices(3).await;
        let empty = crate::policy::version(&json!({}), &[]);
        assert_eq!(door.channel(made[0].1).await.desired.as_deref(), Some(empty.as_str()), "the empty document has a version");
        assert_eq!(number(&door.db, NUDGES).await, 0, "the first document is fetched, not announced");
        door.label("field", &[]).await;
        door.publish("p", json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"})).await;
        door.assign("p", json!([{"label": "field", "mode": "include", "rank": 1}])).await;
        door.give("field", Membership::Add, &[made[0].0, made[1].0]).await;
        assert_eq!(number(&door.db, NUDGES).await, 2);
        assert_eq!(door.delivered(made[0].1).await.document["cameraAccess"], "CAMERA_ACCESS_DISABLED");
        assert_eq!(door.delivered(made[0].1).await.version, door.channel(made[0].1).await.desired.unwrap());
        door.give("field", Membership::Add, &[made[0].0]).await;
        assert_eq!(number(&door.db, NUDGES).await, 2, "whoever has it already is not called");
        door.give("field", Membership::Replace, &[made[1].0, made[2].0]).await;
        assert_eq!(number(&door.db, NUDGES).await, 4, "one lost it, one got it, one kept it");
        assert_eq!(door.channel(made[0].1).await.desired.as_deref(), Some(empty.as_str()));
        door.give("field", Membership::Remove, &[made[1].0]).await;
        assert_eq!(door.delivered(made[1].1).await.document, json!({}));
        commit!(door, |conn, moment| label_ops::delete(conn, moment, &door.actor, "field").await.unwrap());
        assert_eq!(door.move_all(10).await, 1);
        assert_eq!(door.channel(made[2].1).await.desired.as_deref(), Some(empty.as_str()), "a deleted label gives nothing");
        while commit!(door, |conn, _moment| labels::sweep(conn, 10).await.unwrap()) {}
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM label_member").await, 0);
    })
    .await;
}

#[tokio::test]
async fn publishing_moves_exactly_the_devices_concerned_and_an_equal_document_calls_nobody() {
    each_database(async |db| {
        let door = Door::new(db);
        let made = door.settled_devices(4).await;
        door.label("field", &[made[0].0, made[1].0]).await;
        let (off, on) = (json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"}), json!({"cameraAccess": "CAMERA_ACCESS_USER_CHOICE"}));
        door.publish("p", off.clone()).await;
        door.assign("p", json!([{"label": "field", "mode": "include", "rank": 1}])).await;
        assert_eq!(door.move_all(10).await, 2);
        assert_eq!(number(&door.db, NUDGES).await, 2);
        assert_eq!(number(&door.db, "SELECT COUNT(*) FROM feed_in WHERE kind = 'policy.moved'").await, 1);
        // A draft reaches nobody; the published document, put again, is still the published version.
        let draft = door.put_policy("p", on.clone(), true, None).await.unwrap();
        assert_eq!((draft.version, draft.published), (2, false));
        let equal = door.publish("p", off.clone()).await;
        assert_eq!((equal.version, equal.made), (1, false), "equal to the version in force, whatever was drafted since");
        assert_eq!((door.move_all(10).await, number(&door.db, NUDGES).await), (0, 2));
        // Another policy that the first overrides makes another stack and the same document: moved, and not called.
        door.publish("weaker", on.clone()).await;
        door.assign("weaker", json!([{"label": "field", "mode": "include", "rank": 0}])).await;
        assert_eq!((door.move_all(10).await, number(&door.db, NUDGES).await), (2, 2));
        // Publishing the draft.
        let published = door.publish("p", on).await;
        assert_eq!((published.version, published.made), (2, true));
        assert_eq!((door.move_all(1).await, number(&door.db, NUDGES).await), (2, 4));
        assert_eq!(door.delivered(made[2].1).await.document, json!({}), "the others keep what they have");
        commit!(door, |conn, moment| policy_ops::delete(conn, moment, &door.actor, "p").await.unwrap());
        assert_eq!((door.move_all(10).await, number(&door.db, NUDGES).await), (2, 4), "the weaker one says the same");
    })
    .await;
}

#[tokio::test]
async fn if_match_names_the_version_in_force() {
    each_database(async |db| {
        let door = Door::new(db);
        let document = |n: i64| json!({"passwordPolicies": [{"passwordMinimumLength": n}]});
        let refused = |outcome: Result<Stored>| matches!(outcome, Err(Error::Refused(refusal)) if refusal.code == "precondition_failed");
        let any = || Precondition { if_match: Some(Tags::Any), if_none_match: None };
        for absent in [any(), Precondition::tag(0), Precondition::tag("none")] {
            assert!(refused(door.put_policy("p", document(1), true, Some(absent)).await));
        }
        door.put_policy("p", document(1), true, None).await.unwrap();
        assert!(refused(door.put_policy("p", document(1), false, Some(Precondition::tag(1))).await), "a draft is not in force");
        door.put_policy("p", document(1), false, Some(Precondition::tag(0))).await.unwrap();
        door.put_policy("p", document(2), false, Some(Precondition::tag(1))).await.unwrap();
        assert!(refused(door.put_policy("p", document(3), false, Some(Precondition::tag(1))).await));
        assert_eq!(door.put_policy("p", document(3), false, Some(any())).await.unwrap().version, 3);
    })
    .await;
}

#[tokio::test]
async fn a_changed_value_reaches_exactly_the_devices_of_its_user_and_a_missing_one_holds() {
    each_database(async |db| {
        let door = Door::new(db);
        let (_, token) = door.token(json!({})).await;
        let (one, _) = (door.user("one@example.org").await, door.user("two@example.org").await);
        door.publish("p", json!({"messages": {"shortSupportMessage": "{{user.attributes.desk}}"}})).await;
        door.assign("p", json!([{"label": "all", "mode": "include", "rank": 1}])).await;
        let (first, _) = door.admitted(&phone("h1", "one@example.org", &token)).await;
        let (second, _) = door.admitted(&phone("h2", "two@example.org", &token)).await;
        let held = door.channel_of(first).await;
        let shown = door.delivered(held.id).await;
        assert_eq!((held.desired, held.hold.as_deref()), (Some(shown.version), Some("variable_missing:user.attributes.desk")));
        assert_eq!((shown.document, shown.variables_missing), (json!({}), vec!["user.attributes.desk".to_owned()]));
        assert_eq!(shown.held, ["p"]);
        // It came, and was given nothing; when the value is there it is called.
        testing::bend(&door.db, "UPDATE channel SET last_serving_ms = $2 WHERE id = $1", held.id, door.clock.now_ms()).await;
        let before = number(&door.db, NUDGES).await;
        door.change_user(one.id, json!({"attributes": {"desk": "7"}})).await;
        assert_eq!(number(&door.db, NUDGES).await, before + 1);
        let free = door.channel_of(first).await;
        assert_eq!(free.hold, None);
        let seven = free.desired.clone().unwrap();
        assert_eq!(door.delivered(free.id).await.document["messages"]["shortSupportMessage"], "7");
        assert!(door.channel_of(second).await.hold.is_some(), "the other user has no desk yet");
        door.change_user(one.id, json!({"attributes": {"desk": "8"}})).await;
        let eight = door.channel_of(first).await.desired.unwrap();
        assert_ne!(seven, eight);
        door.change_user(one.id, json!({"attributes": {"other": "8"}})).await;
        let held = door.channel_of(first).await;
        assert_eq!((held.desired, held.hold.is_some()), (Some(eight), true), "what it has stays desired; it is never delivered empty");
        assert_eq!(door.delivered(held.id).await.document, Value::Null);
        let calls = number(&door.db, NUDGES).await;
        door.change_user(one.id, json!({"attributes": {"desk": "8"}})).await;
        assert_eq!(number(&door.db, NUDGES).await, calls + 1, "what it was held from had not been applied");
    })
    .await;
}

#[tokio::test]
async fn a_new_address_of_the_server_reaches_the_documents_that_name_it() {
    each_database(async |db| {
        let door = Door::new(db);
        let made = door.settled_devices(2).await;
        commit!(door, |conn, _moment| address(conn, "https://old.example.org").await.unwrap());
        door.label("field", &[made[0].0]).await;
        door.publish("p", json!({"messages": {"shortSupportMessage": "{{server.address}}"}})).await;
        door.assign("p", json!([{"label": "field", "mode": "include", "rank": 1}])).await;
        door.move_all(10).await;
        commit!(door, |conn, _moment| address(conn, "https://old.example.org").await.unwrap());
        assert_eq!(door.move_all(10).await, 0, "the same address again");
        commit!(door, |conn, _moment| address(conn, "https://new.example.org").await.unwrap());
        assert_eq!(door.move_all(10).await, 1);
        let delivered = door.delivered(made[0].1).await;
        assert_eq!(delivered.document["messages"]["shortSupportMessage"], "https://new.example.org");
        assert_eq!(Some(delivered.version), door.channel(made[0].1).await.desired);
    })
    .await;
}

#[tokio::test]
async fn a_stale_channel_is_settled_in_its_own_contact_without_a_call() {
    each_database(async |db| {
        let door = Door::new(db);
        let made = door.settled_devices(2).await;
        door.publish("p", json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"})).await;
        door.assign("p", json!([{"label": "all", "mode": "include", "rank": 1}])).await;
        let settled = commit!(door, |conn, moment| stale(conn, moment, &[made[0].1]).await.unwrap());
        assert_eq!((settled.len(), settled[0].moved), (1, 1));
        assert_eq!(door.channel(made[0].1).await.desired, settled[0].desired);
        assert_eq!(number(&door.db, NUDGES).await, 0, "it is here already");
        assert_eq!((door.move_all(10).await, number(&door.db, NUDGES).await), (1, 1), "the mover takes the other one");
    })
    .await;
}

#[tokio::test]
async fn many_new_members_are_settled_by_the_mover_or_by_their_own_contact() {
    each_database(async |db| {
        let door = Door::new(db);
        let made = door.settled_devices(2 * CHUNK_MAX + 10).await;
        let ids: Vec<Id> = made.iter().map(|(device, _)| *device).collect();
        door.publish("p", json!({"cameraAccess": "CAMERA_ACCESS_DISABLED"})).await;
        door.label("field", &[]).await;
        door.assign("p", json!([{"label": "field", "mode": "include", "rank": 1}])).await;
        door.give("field", Membership::Add, &ids[..CHUNK_MAX + 1]).await;
        let first = door.channel(made[0].1).await;
        assert_eq!(first.generation, -1, "left to the background");
        let settled = commit!(door, |conn, moment| stale(conn, moment, &[made[0].1]).await.unwrap());
        assert_eq!(settled[0].moved, 1);
        // More members come between the mover's last look and its end.
        let set = stacks::moving(&mut door.db.read().await.unwrap()).await.unwrap().remove(0);
        while commit!(door, |conn, moment| move_some(conn, moment, &set, 200, Lane::Change).await.unwrap()) > 0 {}
        door.give("field", Membership::Replace, &ids).await;
        commit!(door, |conn, _moment| stacks::moved(conn, &set).await.unwrap());
        assert_eq!(door.move_all(200).await, CHUNK_MAX + 9, "the move did not end");
        let applied = number(&door.db, "SELECT COUNT(*) FROM channel WHERE generation > 0").await;
        assert_eq!(applied, i64::try_from(ids.len()).unwrap());
        assert_eq!(number(&door.db, "SELECT COUNT(DISTINCT desired) FROM channel").await, 1);
    })
    .await;
}
