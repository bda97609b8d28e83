//! How far orders come: the funnel and the gauges.

use muster::work::observer;
use serde_json::{Value, json};

use crate::support::server::{TestServer, each_database};

/// What the overview says of the last hour, stage by stage, after everything counted is written.
async fn last_hour(server: &TestServer) -> Vec<(String, i64)> {
    observer::pass(&server.app).await.unwrap();
    let overview = server.get("/overview").await;
    let step = |step: &Value| (step["stage"].as_str().unwrap().to_owned(), step["last_hour"].as_i64().unwrap());
    overview["funnel"].as_array().unwrap().iter().map(step).collect()
}

fn of(steps: &[(String, i64)], stage: &str) -> i64 {
    steps.iter().find(|(name, _)| name == stage).unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_counted_at_every_stage_of_its_way_and_a_silent_phone_shows_where_it_stopped() {
    each_database(async |server| {
        let (phone, silent) = (server.phone("here").await, server.phone("away").await);
        // A phone that says which document it has is not handed it again.
        let known = phone.visit(&server, "launch").await["policy"]["version"].clone();
        let policy = json!({"version": known, "details": []});
        phone.sync(&server, json!({"cause": "launch", "policy": policy})).await.expect(200);
        server.advance(60_000);
        let before = last_hour(&server).await;
        let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["queued", "sent", "accepted", "contacted", "served", "acknowledged", "verified"]);
        let mut pushes = server.fcm.connect(&phone.push);
        while pushes.try_recv().is_ok() {}
        server.post("/jobs", json!({"kind": "scan", "target": {"devices": [phone.id, silent.id]}})).await.expect(202);
        server.until("the nudge", async || pushes.try_recv().is_ok()).await;
        let visit = phone.sync(&server, json!({"cause": "push", "policy": policy})).await.expect(200);
        let results = json!([{"task_id": visit["tasks"][0]["id"], "status": "done", "at_ms": 1}]);
        let say = json!({"cause": "push", "policy": policy, "results": results});
        phone.sync(&server, say.clone()).await.expect(200);
        let gained = async |stage: &str| of(&last_hour(&server).await, stage) - of(&before, stage);
        // Two are called, one comes: twice, with one task out and one result in.
        for (stage, n) in
            [("queued", 2), ("sent", 2), ("accepted", 2), ("contacted", 2), ("served", 1), ("acknowledged", 1), ("verified", 1)]
        {
            server.until(&format!("{n} {stage}"), async || gained(stage).await == n).await;
        }
        // A repeat of the result proves nothing new.
        phone.sync(&server, say).await.expect(200);
        assert_eq!((gained("contacted").await, gained("acknowledged").await, gained("verified").await), (3, 1, 1));
        // An hour later it is history, but still of the same day.
        server.advance(4_000_000);
        assert_eq!(of(&last_hour(&server).await, "verified"), 0);
        let day = server.get("/overview").await["funnel"][6]["last_day"].as_i64().unwrap();
        assert_eq!(day, of(&before, "verified") + 1);
        server.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_writes_away_what_it_has_counted() {
    let server = TestServer::on_sqlite().await;
    let phone = server.phone("last").await;
    phone.visit(&server, "launch").await;
    let app = server.app.clone();
    observer::pass(&app).await.unwrap();
    phone.visit(&server, "launch").await;
    server.stop().await;
    assert!(app.funnel.take().is_empty(), "what was counted is lost with the process");
}
