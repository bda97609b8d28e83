use super::*;
use crate::store::testing::{bend, device, devices, each_database};

#[tokio::test]
async fn a_job_makes_one_task_for_each_device_and_calls_it() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 3).await;
        let [a, b, _] = ids(&made)[..] else { panic!() };
        let job = site.order(json!({"kind": "lock", "params": {"message": "lost"}, "target": {"devices": [a, b, a, "nobody"]}})).await;
        assert_eq!((job["state"].as_str(), job["tasks"].as_i64()), (Some("running"), Some(2)));
        assert_eq!((&job["unknown_devices"], &job["counts"], &job["lane"]), (&json!(["nobody"]), &json!({"queued": 2}), &json!("urgent")));
        assert_eq!(site.count("SELECT COUNT(*) FROM wakes WHERE open_work = 1 AND work_seq = 1 AND lane = 0 AND urgent_open = 1").await, 2);
        let tasks = site.all(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
        assert_eq!(tasks.len(), 2);
        let task = site.get(&format!("/tasks/{}", tasks[0]["id"].as_str().unwrap())).await;
        assert_eq!(task, tasks[0]);
        assert_eq!((&task["state"], &task["params"], &task["channel"]), (&json!("queued"), &json!({"message": "lost"}), &json!("agent")));
        assert_eq!((&task["reason"], &task["reason_since_ms"]), (&json!("no_push_address"), &json!(START_MS)));
        assert!(task["next_attempt_at_ms"].as_i64().unwrap() > START_MS, "the phone's own next point");
        assert_eq!(site.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await["reasons"], json!({"no_push_address": 2}));
        assert_eq!(site.all(&format!("/devices/{a}/tasks")).await.len(), 1);
        assert_eq!(site.all("/tasks?state=queued&kind=lock&reason=no_push_address").await.len(), 2);
        assert_eq!(site.all("/tasks?reason=push_dead").await.len(), 0);
        assert_eq!(site.all("/jobs?state=running&kind=lock").await.len(), 1);
        assert_eq!(site.count("SELECT COUNT(*) FROM feed_in WHERE kind = 'job.created' AND actor = 'key:operator'").await, 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_device_cannot_do_fails_at_once_and_a_job_without_open_tasks_is_done() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let made = devices(&db, &site.clock, 3).await;
        let [iphone, denied, expected] = ids(&made)[..] else { panic!() };
        bend(&db, "UPDATE device SET platform = 'ios', state_since_ms = $2 WHERE id = $1", iphone, 0).await;
        bend(&db, "UPDATE device SET denied = 'operator', denied_at_ms = $2 WHERE id = $1", denied, 0).await;
        bend(&db, "UPDATE channel SET device_id = 'none', activation = $2 WHERE device_id = $1", expected, 0).await;
        let job = site.order(json!({"kind": "scan", "target": {"devices": [iphone, denied, expected]}})).await;
        assert_eq!((&job["state"], &job["counts"]), (&json!("done"), &json!({"failed": 3})));
        for (device, code) in [(iphone, "unsupported"), (denied, "unauthorized"), (expected, "no_channel")] {
            let task = &site.all(&format!("/devices/{device}/tasks")).await[0];
            assert_eq!((&task["state"], &task["error"]["code"], &task["reason"]), (&json!("failed"), &json!(code), &Value::Null));
        }
        let job = site.order(json!({"kind": "wipe", "target": {"devices": [denied]}})).await;
        assert_eq!(job["counts"], json!({"queued": 1}), "a denied device can still be wiped");
        let nobody = site.order(json!({"kind": "scan", "target": {"devices": ["nobody"]}})).await;
        assert_eq!((&nobody["state"], &nobody["tasks"]), (&json!("done"), &json!(0)));
    })
    .await;
}

#[tokio::test]
async fn a_secret_is_shown_to_nobody_and_told_to_the_device() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (device, _) = device(&db, &site.clock).await;
        let job = site.order(json!({"kind": "reset_password", "params": {"password": "hunter2"}, "target": {"devices": [device]}})).await;
        let task = &site.all(&format!("/devices/{device}/tasks")).await[0];
        assert_eq!((&job["params"]["password"], &task["params"]["password"]), (&json!("***"), &json!("***")));
        assert_eq!(site.count("SELECT COUNT(*) FROM job WHERE params LIKE '%hunter2%'").await, 0, "sealed at rest");
        assert_eq!(site.count("SELECT COUNT(*) FROM feed_in WHERE data LIKE '%hunter2%'").await, 0);
        assert_eq!(site.sync(device, json!({})).await.tasks[0].params, json!({"password": "hunter2"}));
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_named_by_its_place() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, _) = device(&db, &site.clock).await;
        let target = json!({"devices": [id]});
        for (body, pointer) in [
            (json!({"kind": "lok", "target": target}), "/kind"),
            (json!({"kind": "lock", "params": {"mesage": "x"}, "target": target}), "/params/mesage"),
            (json!({"kind": "lock", "target": {}}), "/target"),
            (json!({"kind": "lock", "target": {"devices": [id], "all": true}}), "/target"),
            (json!({"kind": "lock", "target": {"devices": []}}), "/target/devices"),
            (json!({"kind": "lock", "target": {"label": "nobody"}}), "/target/label"),
            (json!({"kind": "lock", "target": target, "lane": "periodic"}), "/lane"),
            (json!({"kind": "lock", "target": target, "expires_in_s": 0}), "/expires_in_s"),
        ] {
            let (status, problem) = site.send("operator", Request::post("/jobs"), Some(&body)).await;
            assert_eq!((status, &problem["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)), "{problem}");
        }
        let body = json!({"kind": "lock", "target": target});
        assert_eq!(site.send("viewer", Request::post("/jobs"), Some(&body)).await.0, StatusCode::FORBIDDEN);
        assert_eq!(site.count("SELECT COUNT(*) FROM job").await, 0);
    })
    .await;
}

#[tokio::test]
async fn the_same_key_and_body_make_one_job_for_seven_days() {
    each_database(async |db| {
        let site = Site::new(&db).await;
        let (id, _) = device(&db, &site.clock).await;
        let body = json!({"kind": "message", "params": {"text": "a", "title": "b"}, "target": {"devices": [id]}});
        // Many at once.
        let racing = (0..8).map(|_| site.ordered_with("operator", "k", &body));
        let made: Vec<(StatusCode, Value)> = futures_util::future::join_all(racing).await;
        let job = made[0].1["id"].clone();
        assert!(made.iter().all(|(status, one)| *status == StatusCode::ACCEPTED && one["id"] == job), "{made:?}");
        assert_eq!((site.count("SELECT COUNT(*) FROM job").await, site.count("SELECT COUNT(*) FROM task").await), (1, 1));
        // The order of the fields does not matter, the values do.
        let turned: Value = serde_json::from_str(&format!(
            r#"{{"target": {{"devices": ["{id}"]}}, "params": {{"title": "b", "text": "a"}}, "kind": "message"}}"#
        ))
        .unwrap();
        assert_eq!(site.ordered_with("operator", "k", &turned).await.1["id"], job);
        let other = json!({"kind": "message", "params": {"text": "c"}, "target": {"devices": [id]}});
        let (status, problem) = site.ordered_with("operator", "k", &other).await;
        assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_mismatch")));
        // Another caller's keys are its own.
        assert_ne!(site.ordered_with("admin", "k", &other).await.1["id"], job);
        assert_eq!(site.count("SELECT COUNT(*) FROM idempotency WHERE key = 'k'").await, 0, "the key itself is not kept");
        site.clock.advance(7 * DAY_MS - 1);
        assert_eq!(site.ordered_with("operator", "k", &body).await.1["id"], job);
        site.clock.advance(1);
        assert_ne!(site.ordered_with("operator", "k", &body).await.1["id"], job);
    })
    .await;
}
