use super::*;
use crate::change;
use crate::ops::tasks::{EndCause, WIPE_UNDELIVERED, end_open};
use crate::store::testing::{bend, device, devices, each_database};
use crate::store::{Class, alarms};

#[tokio::test]
async fn the_first_final_result_wins_and_a_repeat_is_answered_alike() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, _) = device(&db, &site.clock).await;
        let job = site.order(json!({"kind": "scan", "target": {"devices": [id]}})).await;
        let task = site.sync(id, json!({})).await.tasks.remove(0);
        assert_eq!(task.attempt, 1);
        let path = format!("/tasks/{}", task.id);
        let said = async |status: &str| site.sync(id, result(&task.id, status)).await.results[0].outcome;
        assert_eq!(said("received").await, "recorded");
        assert_eq!(said("received").await, "duplicate");
        assert_eq!(said("running").await, "recorded");
        assert_eq!(said("received").await, "duplicate", "it cannot go back");
        site.counts_are_exact(&job).await;
        let failed = json!({"cause": "push", "results": [{"task_id": task.id, "status": "failed", "code": "no_engine", "message": "no engine",
            "data": {"chain": [{"code": 7}]}, "at_ms": START_MS}]});
        assert_eq!(site.sync(id, failed).await.results[0].outcome, "recorded");
        assert_eq!(said("done").await, "duplicate");
        assert_eq!(said("running").await, "duplicate");
        let task = site.get(&path).await;
        assert_eq!(task["error"], json!({"code": "no_engine", "message": "no engine", "chain": [{"code": 7}]}));
        assert_eq!((&task["state"], &task["late"], &task["reason"]), (&json!("failed"), &Value::Null, &Value::Null));
        let stranger = site.sync(id, result("0198f3a2-7c4e-7b1a-9f00-3c2d1e0f4a5b", "done")).await;
        assert_eq!(stranger.results[0].outcome, "unknown");
        site.turn().await;
        site.counts_are_exact(&job).await;
        assert_eq!(site.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await["state"], json!("done"));
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_task_says_whether_it_was_delivered_and_keeps_a_late_result() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, _) = device(&db, &site.clock).await;
        let target = json!({"devices": [id]});
        let job = site.order(json!({"kind": "scan", "target": target})).await;
        let delivered = site.sync(id, json!({})).await.tasks.remove(0).id;
        let (status, task) = site.post(&format!("/tasks/{delivered}/cancel")).await;
        assert_eq!((status, &task["state"]), (StatusCode::OK, &json!("cancelled")));
        assert!(task["error"]["message"].as_str().unwrap().starts_with("cancelled after delivery"), "{task}");
        assert_eq!(site.post(&format!("/tasks/{delivered}/cancel")).await.0, StatusCode::OK, "cancelling twice does no harm");
        for _ in 0..2 {
            assert_eq!(site.sync(id, result(&delivered, "done")).await.results[0].outcome, "late");
        }
        let task = site.get(&format!("/tasks/{delivered}")).await;
        assert_eq!((&task["state"], &task["late"]["state"]), (&json!("cancelled"), &json!("done")));
        site.counts_are_exact(&job).await;
        site.order(json!({"kind": "message", "params": {"text": "t"}, "target": target})).await;
        let queued = site.all("/tasks?state=queued").await[0]["id"].as_str().unwrap().to_owned();
        let (_, task) = site.post(&format!("/tasks/{queued}/cancel")).await;
        assert_eq!(task["error"]["message"], json!("cancelled before delivery"));
        assert!(site.sync(id, json!({})).await.tasks.is_empty());
        // A finished one cannot be cancelled.
        site.order(json!({"kind": "locate", "target": target})).await;
        let done = site.sync(id, json!({})).await.tasks.remove(0).id;
        site.sync(id, result(&done, "done")).await;
        let (status, problem) = site.post(&format!("/tasks/{done}/cancel")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("task_finished")));
        let (status, problem) = site.post(&format!("/tasks/{done}/retry")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("task_not_retryable")));
    })
    .await;
}

#[tokio::test]
async fn a_task_is_ordered_again_once_and_its_job_runs_again() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, _) = device(&db, &site.clock).await;
        let job = site.order(json!({"kind": "scan", "target": {"devices": [id]}, "expires_in_s": 600})).await;
        let path = format!("/jobs/{}", job["id"].as_str().unwrap());
        let old = site.sync(id, json!({})).await.tasks.remove(0).id;
        site.sync(id, result(&old, "failed")).await;
        site.turn().await;
        assert_eq!(site.get(&path).await["state"], json!("done"));
        site.clock.advance(1_000_000);
        let retry = format!("/tasks/{old}/retry");
        let racing = (0..4).map(|_| site.post(&retry));
        let answers = futures_util::future::join_all(racing).await;
        let made: Vec<&Value> = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).map(|(_, task)| task).collect();
        assert_eq!(made.len(), 1, "{answers:?}");
        assert_eq!((&made[0]["state"], &made[0]["expires_at_ms"]), (&json!("queued"), &json!(START_MS + 1_600_000)));
        assert_eq!(site.get(&format!("/tasks/{old}")).await["retried_by"], made[0]["id"]);
        let job = site.get(&path).await;
        assert_eq!((&job["state"], &job["counts"], &job["tasks"]), (&json!("running"), &json!({"queued": 1}), &json!(1)));
        let fresh = site.sync(id, json!({})).await.tasks.remove(0).id;
        assert_eq!(json!(fresh), made[0]["id"]);
        site.sync(id, result(&fresh, "done")).await;
        site.turn().await;
        assert_eq!(site.get(&path).await["counts"], json!({"done": 1}));
    })
    .await;
}

#[tokio::test]
async fn every_open_task_says_why_it_waits_and_since_when() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, channel) = device(&db, &site.clock).await;
        site.order(json!({"kind": "scan", "target": {"devices": [id]}})).await;
        let reason = async || {
            let task = &site.all("/tasks?state=queued").await[0];
            assert!(task["next_attempt_at_ms"].as_i64().is_some(), "{task}");
            (task["reason"].as_str().unwrap().to_owned(), task["reason_since_ms"].as_i64().unwrap() - START_MS)
        };
        assert_eq!(reason().await, ("no_push_address".into(), 0));
        bend(&db, "UPDATE channel SET push_state = 'active', push_since_ms = $2 WHERE id = $1", channel, START_MS + 5).await;
        bend(&db, "UPDATE wakes SET sender = 'fcm', due_at_ms = $2 WHERE channel_id = $1", channel, START_MS + 9).await;
        assert_eq!(reason().await, ("push_unconfigured".into(), 0), "this server has no credential for it");
        bend(&db, "UPDATE channel SET push_state = 'dead', push_since_ms = $2 WHERE id = $1", channel, START_MS + 7).await;
        assert_eq!(reason().await, ("push_dead".into(), 7));
        bend(&db, "UPDATE device SET state = 'silent', state_since_ms = $2 WHERE id = $1", id, START_MS + 11).await;
        assert_eq!(reason().await, ("device_silent".into(), 11));
        bend(&db, "UPDATE device SET state = 'active', state_since_ms = $2 WHERE id = $1", id, START_MS).await;
        bend(&db, "UPDATE channel SET push_state = 'active', push_since_ms = $2 WHERE id = $1", channel, START_MS).await;
        let rows = crate::store::tasks::list(
            &mut db.read().await.unwrap(),
            &Default::default(),
            &crate::model::Callers { names: " fcm ".into(), ..Default::default() },
            10,
        )
        .await
        .unwrap();
        assert_eq!((rows[0].reason.as_deref(), rows[0].next_attempt_at_ms), (Some("awaiting_contact"), Some(START_MS + 9)));
        site.sync(id, json!({})).await;
        let delivered = &site.all("/tasks?state=delivered").await[0];
        assert_eq!(delivered["reason"], json!("push_unconfigured"), "also a delivered one carries a reason");
        bend(&db, "UPDATE device SET denied = 'operator', denied_at_ms = $2 WHERE id = $1", id, START_MS + 13).await;
        let held = &site.all("/tasks?reason=device_unauthorized").await[0];
        assert_eq!(held["reason_since_ms"], json!(START_MS + 13));
    })
    .await;
}

#[tokio::test]
async fn counts_stay_exact_while_results_cancels_and_folding_run_at_once() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 60).await;
        let listed = ids(&made);
        let job = site.order(json!({"kind": "scan", "target": {"devices": listed}})).await;
        let tasks: Vec<String> = site.all("/tasks?state=queued").await.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect();
        let phones = listed.chunks(6).map(|group| {
            let site = &site;
            async move {
                for device in group {
                    for task in site.sync(*device, json!({})).await.tasks {
                        site.sync(*device, result(&task.id, "running")).await;
                        site.sync(*device, result(&task.id, "done")).await;
                    }
                }
            }
        });
        let operator = async {
            for task in tasks.iter().step_by(2) {
                site.post(&format!("/tasks/{task}/cancel")).await;
            }
        };
        let folding = async {
            for _ in 0..50 {
                crate::work::background::pass(&site.app).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(futures_util::future::join_all(phones), operator, folding);
        site.counts_are_exact(&job).await;
        site.turn().await;
        site.counts_are_exact(&job).await;
        let job = site.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
        assert_eq!((&job["state"], &job["tasks"]), (&json!("done"), &json!(60)));
    })
    .await;
}

#[tokio::test]
async fn what_happens_to_a_device_ends_its_open_tasks() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 3).await;
        let job = site.order(json!({"kind": "wipe", "target": {"devices": ids(&made)}})).await;
        site.order(json!({"kind": "scan", "target": {"devices": ids(&made)}})).await;
        let [(fetched, first), (waiting, second), (denied, third)] = made[..] else { panic!() };
        site.sync(fetched, json!({})).await;
        let app = &site.app;
        for (channels, cause) in [([first], EndCause::ReEnrolled), ([second], EndCause::ReEnrolled), ([third], EndCause::Retired)] {
            change!(app, Class::Operators, |conn, moment| end_open(conn, moment, &channels, cause).await).unwrap();
        }
        let states = async |device: Id| {
            let mut states: Vec<(String, String)> = Vec::new();
            for task in site.all(&format!("/devices/{device}/tasks")).await {
                states.push((task["kind"].as_str().unwrap().to_owned(), task["state"].as_str().unwrap().to_owned()));
            }
            states.sort();
            states
        };
        let pair = |scan: &str, wipe: &str| vec![("scan".to_owned(), scan.to_owned()), ("wipe".to_owned(), wipe.to_owned())];
        assert_eq!(states(fetched).await, pair("cancelled", "done"));
        assert_eq!(states(waiting).await, pair("cancelled", "awaiting_approval"));
        assert_eq!(states(denied).await, pair("cancelled", "queued"), "a denied device is still wiped");
        let wipe = &site.all(&format!("/devices/{fetched}/tasks?kind=wipe")).await[0];
        assert_eq!((&wipe["result"], &wipe["error"]), (&json!({"evidence": "re_enrolled"}), &Value::Null));
        let open = async || alarms::list(&mut db.read().await.unwrap(), "open", None, 10).await.unwrap();
        let alarm = &open().await[0];
        assert_eq!((alarm.kind.as_str(), alarm.subject.clone()), (WIPE_UNDELIVERED, waiting.to_string()));
        assert!(site.sync(waiting, json!({})).await.tasks.is_empty(), "it waits for a decision");
        let held = &site.all("/tasks?reason=awaiting_approval").await[0];
        site.post(&format!("/tasks/{}/cancel", held["id"].as_str().unwrap())).await;
        assert!(open().await.is_empty());
        site.counts_are_exact(&job).await;
    })
    .await;
}

#[tokio::test]
async fn a_refresh_takes_the_place_of_an_equal_one_that_was_not_delivered() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 2).await;
        let refresh = async |what: &str| {
            site.clock.advance(1);
            let body = json!({"kind": "refresh", "params": {"what": what}, "target": {"devices": ids(&made)}});
            site.order(body).await["id"].as_str().unwrap().to_owned()
        };
        let first = refresh("apps").await;
        assert_eq!(site.sync(made[0].0, json!({})).await.tasks.len(), 1);
        let other = refresh("facts").await;
        let second = refresh("apps").await;
        let counts = async |job: &str| site.get(&format!("/jobs/{job}")).await["counts"].clone();
        assert_eq!(counts(&first).await, json!({"delivered": 1, "superseded": 1}), "what the phone has stays");
        assert_eq!(counts(&other).await, json!({"queued": 2}), "another question stays");
        assert_eq!(counts(&second).await, json!({"queued": 2}));
        let task = &site.all("/tasks?state=superseded").await[0];
        assert_eq!((&task["error"]["code"], &task["error"]["by"]), (&json!("superseded"), &json!(second)));
        assert_eq!(site.sync(made[1].0, json!({})).await.tasks.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_denied_device_is_not_called_for_what_it_is_not_given() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, channel) = device(&db, &site.clock).await;
        site.order(json!({"kind": "scan", "target": {"devices": [id]}})).await;
        let (status, body) = site.post(&format!("/devices/{id}/unauthorize")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(site.denied(id).await.is_empty());
        assert_eq!(site.count("SELECT open_work FROM wakes").await, 0);
        let (status, body) = site.post(&format!("/devices/{id}/authorize")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(site.count("SELECT open_work FROM wakes").await, 1, "{channel} is called for what waited");
        assert_eq!(site.sync(id, json!({})).await.tasks.len(), 1);
        site.order(json!({"kind": "message", "params": {"text": "t"}, "target": {"devices": [id]}})).await;
        let (status, job) = site.post(&format!("/devices/{id}/retire")).await;
        assert!(status.is_success(), "{job}");
        let kinds: Vec<Value> = site.denied(id).await.into_iter().map(|task| json!(task.kind)).collect();
        assert_eq!(kinds, [json!("retire")]);
        assert_eq!(site.all("/tasks?state=cancelled").await.len(), 2, "denied for good: the rest is over");
    })
    .await;
}
