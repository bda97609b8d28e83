use super::*;
use crate::change;
use crate::ops::jobs::{make_early, put_budget, step};
use crate::store::testing::{bend, devices, each_database};
use crate::store::{Class, Dialect};

/// More than are made at once, and more than go in the lane that was asked for.
const FLEET: usize = 1_203;

#[tokio::test]
async fn a_large_job_is_expanded_behind_its_answer_and_goes_on_where_another_process_stopped() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, FLEET).await;
        let job = site.order(json!({"kind": "lock", "target": {"all": true}})).await;
        assert_eq!((&job["state"], &job["tasks"], &job["counts"]), (&json!("expanding"), &json!(FLEET), &json!({})));
        site.clock.advance(1);
        let late = devices(&db, &site.clock, 1).await[0].0;
        // Two that come in before their chunk, one that came into being after the job.
        let early = [made[7].0, made[901].0];
        let answers = site.syncs(&[(early[0], json!({})), (early[1], json!({})), (late, json!({}))]).await;
        assert_eq!(answers.iter().map(|answer| answer.tasks.len()).collect::<Vec<_>>(), [1, 1, 0]);
        let again = site.sync(early[0], json!({"have": [answers[0].tasks[0].id]})).await;
        assert!(again.tasks.is_empty(), "it has it");
        change!(site.app, Class::Background, |conn, moment| step(conn, moment, 300).await).unwrap();
        let some = site.count("SELECT COUNT(*) FROM task").await;
        assert!((300..=302).contains(&some), "{some}: a chunk, and who came in before its own");
        // The next chunks are another process's.
        site.clock.advance(60_000);
        let other = App::for_tests(&db, &site.clock);
        while crate::work::background::pass(&other).await.unwrap() {}
        let job = site.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
        assert_eq!((&job["state"], &job["tasks"]), (&json!("running"), &json!(FLEET)));
        assert_eq!(job["counts"], json!({"queued": FLEET - 2, "delivered": 2}));
        assert_eq!(site.count("SELECT COUNT(DISTINCT device_id) FROM task").await, i64::try_from(FLEET).unwrap());
        assert_eq!(site.count("SELECT COUNT(*) FROM wakes WHERE open_work = 1 AND lane = 2").await, i64::try_from(FLEET - 2).unwrap());
        assert!(site.all(&format!("/devices/{late}/tasks")).await.is_empty());
        site.counts_are_exact(&job).await;
    })
    .await;
}

#[tokio::test]
async fn a_label_is_expanded_and_one_of_less_than_a_thousand_keeps_its_lane() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 620).await;
        let some = ids(&made[..610]);
        let (status, _) = site.send("operator", Request::put("/labels/field"), Some(&json!({}))).await;
        assert_eq!(status, StatusCode::CREATED);
        let (status, body) = site.send("operator", Request::put("/labels/field/devices"), Some(&json!({"devices": some}))).await;
        assert!(status.is_success(), "{body}");
        site.turn().await;
        bend(&db, "UPDATE device SET state = 'expected', state_since_ms = $2 WHERE id = $1", some[3], 0).await;
        let job = site.order(json!({"kind": "lock", "target": {"label": "field"}})).await;
        assert_eq!(job["state"], json!("expanding"));
        // Who leaves the label before its chunk is made gets no task; who is in it and comes early does.
        assert_eq!(site.sync(some[600], json!({})).await.tasks.len(), 1);
        assert_eq!(site.sync(made[615].0, json!({})).await.tasks.len(), 0);
        site.turn().await;
        let job = site.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
        assert_eq!((&job["state"], &job["counts"]), (&json!("running"), &json!({"queued": 608, "delivered": 1})));
        assert_eq!(site.count("SELECT COUNT(*) FROM wakes WHERE urgent_open = 1 AND lane = 0").await, 609);
    })
    .await;
}

#[tokio::test]
async fn cancelling_stops_an_expansion_and_what_was_cancelled_can_be_ordered_again() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, FLEET).await;
        let listed = ids(&made);
        let job = site.order(json!({"kind": "message", "params": {"text": "t"}, "target": {"devices": listed}})).await;
        let path = format!("/jobs/{}", job["id"].as_str().unwrap());
        for _ in 0..3 {
            change!(site.app, Class::Background, |conn, moment| step(conn, moment, 300).await).unwrap();
        }
        let early = site.sync(*listed.last().unwrap(), json!({})).await.tasks[0].id.clone();
        let some = site.count("SELECT COUNT(*) FROM task").await;
        assert!((900..=901).contains(&some), "{some}: three chunks, and who came in before its own");
        assert_eq!(site.post(&format!("{path}/cancel")).await.0, StatusCode::OK);
        assert_eq!(site.post(&format!("{path}/cancel")).await.0, StatusCode::OK, "cancelling twice does no harm");
        let (status, problem) = site.post(&format!("{path}/retry")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("job_cancelling")));
        assert!(site.sync(listed[0], json!({})).await.tasks.is_empty(), "what is cancelled is not delivered, ended or not yet");
        site.turn().await;
        let job = site.get(&path).await;
        assert_eq!((&job["state"], &job["counts"]), (&json!("cancelled"), &json!({"cancelled": some})));
        assert_eq!(site.count("SELECT COUNT(*) FROM task").await, some);
        let task = site.get(&format!("/tasks/{early}")).await;
        assert!(task["error"]["message"].as_str().unwrap().starts_with("cancelled after delivery"), "{task}");
        // Ordered again: as many as were cancelled, in chunks; the old ones are kept.
        site.clock.advance(1);
        let (status, job) = site.post(&format!("{path}/retry")).await;
        assert_eq!((status, &job["state"]), (StatusCode::ACCEPTED, &json!("expanding")));
        site.turn().await;
        let job = site.get(&path).await;
        assert_eq!((&job["state"], &job["counts"], &job["tasks"]), (&json!("running"), &json!({"queued": some}), &json!(some)));
        assert_eq!(site.count("SELECT COUNT(*) FROM task").await, 2 * some);
        site.counts_are_exact(&job).await;
        site.post(&format!("{path}/retry")).await;
        site.turn().await;
        assert_eq!(site.count("SELECT COUNT(*) FROM task").await, 2 * some, "nothing is left to be ordered again");
    })
    .await;
}

#[tokio::test]
async fn wipes_that_are_ordered_again_all_count_however_many_they_are() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let listed = ids(&devices(&db, &site.clock, FLEET).await);
        let budget =
            async |per_hour: i64| change!(site.app, Class::Operators, |conn, moment| put_budget(conn, moment, per_hour).await).unwrap();
        budget(2_000).await;
        let job = site.order(json!({"kind": "wipe", "target": {"devices": listed}})).await;
        let path = format!("/jobs/{}", job["id"].as_str().unwrap());
        site.turn().await;
        assert_eq!(site.post(&format!("{path}/cancel")).await.0, StatusCode::OK);
        site.turn().await;
        site.clock.advance(3_600_001);
        budget(600).await;
        let (status, problem) = site.post(&format!("{path}/retry")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("budget_exceeded")));
        budget(i64::try_from(FLEET).unwrap()).await;
        assert_eq!(site.post(&format!("{path}/retry")).await.0, StatusCode::ACCEPTED);
    })
    .await;
}

#[tokio::test]
async fn a_phone_that_comes_in_while_its_job_is_cancelled_leaves_nothing_open() {
    each_database(async |db| {
        // SQLite has one writer: there is no such instant.
        if db.dialect() == Dialect::Sqlite {
            return;
        }
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 600).await;
        let job = site.order(json!({"kind": "scan", "target": {"all": true}})).await;
        let path = format!("/jobs/{}", job["id"].as_str().unwrap());
        let mut contact = db.begin(Class::Results).await.unwrap();
        make_early(&mut contact, &mut site.clock.moment(), &[(made[0].0, START_MS)], &[made[0].1]).await.unwrap();
        assert_eq!(site.post(&format!("{path}/cancel")).await.0, StatusCode::OK);
        site.turn().await;
        contact.commit().await.unwrap();
        assert!(site.sync(made[0].0, json!({})).await.tasks.is_empty());
        site.turn().await;
        let job = site.get(&path).await;
        assert_eq!((&job["state"], &job["counts"]), (&json!("cancelled"), &json!({"cancelled": 1})));
        site.counts_are_exact(&job).await;
    })
    .await;
}

#[tokio::test]
async fn tasks_expire_and_their_job_is_done() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 3).await;
        let target = json!({"devices": ids(&made)});
        let short = site.order(json!({"kind": "scan", "target": target, "expires_in_s": 60})).await;
        let long = site.order(json!({"kind": "scan", "target": target})).await;
        site.sync(made[0].0, json!({})).await;
        site.clock.advance(60_000);
        assert_eq!(site.sync(made[1].0, json!({})).await.tasks.len(), 1, "what is over is not delivered, ended or not yet");
        site.turn().await;
        let short = site.get(&format!("/jobs/{}", short["id"].as_str().unwrap())).await;
        assert_eq!((&short["state"], &short["counts"]), (&json!("done"), &json!({"expired": 3})));
        assert_eq!(short["finished_at_ms"], json!(START_MS + 60_000));
        let task = &site.all("/tasks?state=expired").await[0];
        assert_eq!(task["error"]["code"], json!("expired"));
        assert_eq!(site.get(&format!("/jobs/{}", long["id"].as_str().unwrap())).await["state"], json!("running"));
    })
    .await;
}
