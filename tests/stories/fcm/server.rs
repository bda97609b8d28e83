//! FCM through the real server: each fault that FCM and Google's token endpoint are known for, and what becomes of the nudges.

use std::collections::HashMap;
use std::time::Duration;

use muster::change;
use muster::clock::Clock;
use muster::ops::alarms;
use muster::sim::fcm::{Fault, Push, Scope, StandIn, Times};
use muster::store;
use muster::work::credentials;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::device::TestDevice;
use crate::support::server::{START_MS, TestServer};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A phone and what it hears of FCM.
struct Phone {
    device: TestDevice,
    pushes: mpsc::Receiver<Push>,
}

async fn phone(server: &TestServer, name: &str) -> Phone {
    let device = server.phone(name).await;
    let pushes = server.fcm.connect(&device.push);
    Phone { device, pushes }
}

/// A task for each of these: urgent if its kind is `locate`.
async fn order(server: &TestServer, kind: &str, devices: &[&str]) {
    let params = if kind == "message" { json!({"text": "hello"}) } else { json!({}) };
    server.post("/jobs", json!({"kind": kind, "params": params, "target": {"devices": devices}})).await.expect(202);
}

async fn sender(server: &TestServer) -> Value {
    let push = server.get("/push").await;
    push["senders"].as_array().unwrap().iter().find(|sender| sender["name"] == "fcm").unwrap().clone()
}

async fn push_state(server: &TestServer, device: &str) -> String {
    server.get(&format!("/devices/{device}")).await["channels"][0]["push_state"].as_str().unwrap().to_owned()
}

async fn open_alarms(server: &TestServer) -> String {
    server.get("/alarms?state=open").await["items"].to_string()
}

impl Phone {
    /// Moves the clock in steps until the phone is nudged; answers how many milliseconds that took.
    async fn nudged_after_ms(&mut self, server: &TestServer, step_ms: i64, most_ms: i64) -> i64 {
        let began_ms = server.clock.now_ms();
        loop {
            for _ in 0..10 {
                if self.pushes.try_recv().is_ok() {
                    return server.clock.now_ms() - began_ms;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            let waited_ms = server.clock.now_ms() - began_ms;
            assert!(waited_ms < most_ms, "{} is not nudged within {most_ms} ms: {}", self.device.hardware_id, sender(server).await);
            server.advance(step_ms);
        }
    }
}

/// What a row of FCM's table does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Dead,
    SetAside,
    /// The phone is called again later; the attempt counts.
    Later,
    /// The sender stops until a probe finds it mended.
    Stops,
    /// Our request is wrong: told, and the phone is called later.
    Ours,
    /// It was taken, whatever its answer looks like.
    Taken,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_the_table_and_each_broken_answer_has_its_effect_and_no_other() {
    let server = TestServer::on_sqlite().await;
    let rows = [
        (Fault::unregistered(), Class::Dead),
        (Fault::invalid_token(), Class::SetAside),
        (Fault::sender_id_mismatch(), Class::SetAside),
        // Nothing has been accepted yet that could show whether the request or the address is wrong.
        (Fault::invalid_argument(), Class::Ours),
        // The same request passes for another phone: it is this one's address.
        (Fault::invalid_argument(), Class::SetAside),
        (Fault::empty(400), Class::Ours),
        (Fault::permission_denied(), Class::Stops),
        (Fault::project_not_found(), Class::Stops),
        (Fault::html(404), Class::Stops),
        (Fault::device_quota(None), Class::Later),
        (Fault::internal(), Class::Later),
        (Fault::unavailable(None), Class::Later),
        (Fault::html(502), Class::Later),
        (Fault::html(200), Class::Later),
        (Fault::empty(500), Class::Later),
        (Fault::truncated(500), Class::Later),
        (Fault::huge(500), Class::Later),
        (Fault::Cut(500), Class::Later),
        (Fault::Close, Class::Later),
        (Fault::Reset, Class::Later),
        (Fault::GoAway, Class::Taken),
    ];
    for (n, (fault, class)) in rows.into_iter().enumerate() {
        let shown: String = format!("{fault:?}").chars().take(200).collect();
        let mut phone = phone(&server, &format!("row-{n}")).await;
        let id = phone.device.id.clone();
        server.fcm.faults().set(Scope::Address(phone.device.push.clone()), Times::Next(1), fault);
        let requests = server.fcm.counts().requests;
        order(&server, "locate", &[&id]).await;
        server.until("the request", async || server.fcm.counts().requests > requests).await;
        match class {
            Class::Dead | Class::SetAside => {
                let state = if class == Class::Dead { "dead" } else { "quarantined" };
                server.until(&format!("{shown}: {state}"), async || push_state(&server, &id).await == state).await;
                assert_eq!(sender(&server).await["state"], "ok", "{shown}");
                continue;
            }
            Class::Stops => server.until("the sender stops", async || sender(&server).await["state"] == "fault").await,
            Class::Later | Class::Ours | Class::Taken => {}
        }
        let step_ms = if class == Class::Ours { 20 * MINUTE_MS } else { MINUTE_MS };
        let waited_ms = phone.nudged_after_ms(&server, step_ms, 90 * MINUTE_MS).await;
        assert_eq!(waited_ms == 0, class == Class::Taken, "{shown}: called after {waited_ms} ms");
        assert_eq!(push_state(&server, &id).await, "active", "{shown}");
        assert_eq!(sender(&server).await["state"], "ok", "{shown}");
        assert!(class != Class::Ours || open_alarms(&server).await.contains("push_request_refused"), "{shown} is told");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_the_whole_project_pauses_everybody_for_as_long_as_was_asked_and_loses_nothing() {
    for (value, least_ms, most_ms) in [
        (Some("30"), 30_000, 2 * MINUTE_MS),
        (Some("Fri, 15 Jan 2027 08:02:00 GMT"), MINUTE_MS, 4 * MINUTE_MS),
        (None, MINUTE_MS, 3 * MINUTE_MS),
        (Some("-7"), MINUTE_MS, 3 * MINUTE_MS),
        (Some("1000000000"), HOUR_MS, 3 * HOUR_MS),
    ] {
        let server = TestServer::on_sqlite().await;
        let (mut one, mut other) = (phone(&server, "one").await, phone(&server, "other").await);
        server.fcm.faults().set(Scope::Address(one.device.push.clone()), Times::Next(1), Fault::quota(value));
        order(&server, "locate", &[&one.device.id]).await;
        server.until("the pause", async || sender(&server).await["state"] == "paused").await;
        order(&server, "locate", &[&other.device.id]).await;
        let step_ms = if least_ms >= HOUR_MS { 10 * MINUTE_MS } else { 10_000 };
        let waited_ms = other.nudged_after_ms(&server, step_ms, most_ms).await;
        assert!(waited_ms >= least_ms, "{value:?}: {waited_ms}");
        one.nudged_after_ms(&server, step_ms, most_ms).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_endpoint_that_fails_is_slow_or_gives_tokens_of_a_second_costs_no_nudge() {
    for fault in [Fault::empty(500), Fault::html(503), Fault::html(200), Fault::Close, Fault::Slow(3_000)] {
        let server = TestServer::on_sqlite().await;
        let mut phone = phone(&server, "one").await;
        let shown = format!("{fault:?}");
        server.fcm.faults().set(Scope::OAuth, Times::Next(2), fault);
        order(&server, "locate", &[&phone.device.id]).await;
        server.until("the token is asked for", async || server.fcm.counts().token_requests > 0).await;
        phone.nudged_after_ms(&server, 5_000, 5 * MINUTE_MS).await;
        assert_eq!(push_state(&server, &phone.device.id).await, "active", "{shown}");
        server.stop().await;
    }
    let server = TestServer::on_sqlite().await;
    server.fcm.set_token_life_s(1);
    let mut phones = Vec::new();
    for n in 0..20 {
        phones.push(phone(&server, &format!("brief-{n}")).await);
    }
    for phone in &mut phones {
        order(&server, "locate", &[&phone.device.id]).await;
        assert_eq!(phone.nudged_after_ms(&server, 1_000, 5_000).await, 0);
        server.advance(1_000);
    }
    assert!(server.fcm.counts().tokens_granted <= 21, "{} tokens for 20 nudges, a second apart", server.fcm.counts().tokens_granted);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_google_refuses_and_a_clock_two_hours_off_are_faults_with_an_alarm_until_they_are_mended() {
    let server = TestServer::on_sqlite().await;
    let mut one = phone(&server, "one").await;
    server.fcm.faults().set(Scope::OAuth, Times::UntilCleared, Fault::invalid_grant());
    order(&server, "locate", &[&one.device.id]).await;
    server.until("the fault", async || sender(&server).await["state"] == "fault").await;
    server.until("an alarm", async || open_alarms(&server).await.contains("invalid_grant")).await;
    server.fcm.faults().clear();
    one.nudged_after_ms(&server, 30_000, 30 * MINUTE_MS).await;
    server.until("the alarm's end", async || open_alarms(&server).await == "[]").await;
    server.stop().await;
    for ahead_ms in [2 * HOUR_MS, -2 * HOUR_MS] {
        let googles = Clock::moved(START_MS + ahead_ms, 9);
        let fcm = StandIn::start(googles.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("muster.db").display());
        let server = TestServer::beside(&url, Some(folder), Clock::moved(START_MS, 7), fcm, |_| {}).await;
        let mut phone = phone(&server, "one").await;
        order(&server, "locate", &[&phone.device.id]).await;
        server.until("the fault", async || sender(&server).await["state"] == "fault").await;
        server.until("an alarm", async || open_alarms(&server).await.contains("push_fault")).await;
        if ahead_ms > 0 {
            server.advance(ahead_ms);
        } else {
            googles.advance(-ahead_ms);
        }
        phone.nudged_after_ms(&server, 30_000, HOUR_MS).await;
        assert_eq!(push_state(&server, &phone.device.id).await, "active");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alarm_of_a_fault_follows_the_sender_whatever_was_lost_between_them() {
    let server = TestServer::on_sqlite().await;
    let mut one = phone(&server, "one").await;
    // A process that is no more has left it.
    let left = "PERMISSION_DENIED: of a process that is no more";
    change!(server.app, store::Class::Operators, |conn, moment| alarms::open(conn, moment, "push_fault", "fcm", left).await).unwrap();
    server.advance(MINUTE_MS);
    order(&server, "locate", &[&one.device.id]).await;
    one.nudged_after_ms(&server, 1_000, HOUR_MS).await;
    server.until("its end", async || open_alarms(&server).await == "[]").await;
    // One that could not be written.
    server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::permission_denied());
    server.advance(MINUTE_MS);
    order(&server, "locate", &[&one.device.id]).await;
    server.until("the fault", async || sender(&server).await["state"] == "fault").await;
    server.until("its alarm", async || open_alarms(&server).await.contains("push_fault")).await;
    change!(server.app, store::Class::Operators, |conn, moment| alarms::close(conn, moment, "push_fault", "fcm").await).unwrap();
    server.until("its alarm once more", async || open_alarms(&server).await.contains("PERMISSION_DENIED")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_was_brought_here_is_not_begun_with_a_second_time() {
    let server = TestServer::on_sqlite().await;
    let account: Value = serde_json::from_slice(&server.fcm.service_account()).unwrap();
    server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::permission_denied());
    let one = phone(&server, "one").await;
    server.put("/push/fcm", account).await.expect(200);
    let fcm = server.app.senders.named("fcm").unwrap();
    order(&server, "locate", &[&one.device.id]).await;
    server.until("the fault", async || fcm.fault().is_some()).await;
    credentials::pass(&server.app, &mut HashMap::new()).await.unwrap();
    assert!(fcm.fault().is_some(), "the fault stands until a probe ends it");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_ten_minutes_in_which_nobody_listens_the_urgent_come_first_on_a_ramp_and_each_once() {
    const URGENT: usize = 20;
    let server = TestServer::on_sqlite().await;
    let mut phones = Vec::new();
    for n in 0..200 {
        phones.push(phone(&server, &format!("away-{n}")).await);
    }
    server.fcm.refuse_connections();
    let ids: Vec<&str> = phones.iter().map(|phone| phone.device.id.as_str()).collect();
    let (urgent, others) = ids.split_at(URGENT);
    order(&server, "message", others).await;
    order(&server, "locate", urgent).await;
    for _ in 0..20 {
        server.advance(30_000);
        tokio::time::sleep(Duration::from_millis(30)).await;
        // The backlog is a set of phones: asking again makes it no larger.
        order(&server, "message", &others[..5]).await;
    }
    assert_eq!(server.fcm.counts().accepted, 0);
    server.fcm.capture(true);
    server.fcm.accept_connections().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut ceiling = 0;
    while server.fcm.counts().accepted < phones.len() as u64 {
        assert!(tokio::time::Instant::now() < deadline, "{} of {}", server.fcm.counts().accepted, phones.len());
        ceiling = ceiling.max(sender(&server).await["pace_per_s"].as_i64().unwrap());
        // Nudges wait for their instants by the real clock, and their leases go by the moved one.
        server.advance(if server.fcm.counts().accepted == 0 { 1_000 } else { 200 });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((1..8_000).contains(&ceiling), "the ramp begins at its foot: {ceiling}");
    let captured = server.fcm.take_captured();
    let (addresses, at_ms): (Vec<String>, Vec<i64>) = captured
        .iter()
        .filter(|request| request.path.ends_with("messages:send"))
        .map(|request| (serde_json::from_slice::<Value>(&request.body).unwrap(), request.at_ms))
        .map(|(body, at_ms)| (body["message"]["token"].as_str().unwrap().to_owned(), at_ms))
        .unzip();
    let urgent: Vec<&str> = phones[..URGENT].iter().map(|phone| phone.device.push.as_str()).collect();
    let places: Vec<usize> = (0..addresses.len()).filter(|place| urgent.contains(&addresses[*place].as_str())).collect();
    // Those with which it was tried in vain whether somebody listens wait for instants of their own, seconds later.
    assert!(places[URGENT / 2] < addresses.len() / 2, "the urgent ones were numbers {places:?} of {}", addresses.len());
    let late_ms = at_ms[*places.last().unwrap()] - at_ms[0];
    assert!(late_ms <= 20_000, "the last urgent one came {late_ms} ms after the first of all");
    assert_eq!(addresses.iter().collect::<std::collections::BTreeSet<_>>().len(), phones.len());
    assert_eq!(addresses.len(), phones.len(), "nobody is called twice");
    for phone in &phones {
        assert_eq!(push_state(&server, &phone.device.id).await, "active");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_of_mismatches_stops_the_sender_and_loses_no_token() {
    let server = TestServer::on_sqlite().await;
    let mut phones = Vec::new();
    for n in 0..120 {
        phones.push(phone(&server, &format!("mass-{n}")).await);
    }
    server.fcm.faults().set(Scope::Send, Times::UntilCleared, Fault::sender_id_mismatch());
    order(&server, "locate", &phones.iter().map(|phone| phone.device.id.as_str()).collect::<Vec<_>>()).await;
    server.until("the alarm", async || open_alarms(&server).await.contains("push_mass_death")).await;
    assert!(server.fcm.counts().requests < 121, "it stops before it has tried all");
    server.fcm.faults().clear();
    for phone in &mut phones {
        phone.nudged_after_ms(&server, MINUTE_MS, 4 * HOUR_MS).await;
        assert_eq!(push_state(&server, &phone.device.id).await, "active");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_does_not_resolve_and_a_strangers_certificate_hold_the_nudges_and_the_right_settings_release_them() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("muster.db").display());
    let clock = Clock::moved(START_MS, 7);
    let fcm = StandIn::start(clock.clone()).await.unwrap();
    let stranger = stranger(&clock).await;
    for (n, endpoint) in ["https://muster.invalid".to_owned(), stranger.endpoint()].into_iter().enumerate() {
        let astray = TestServer::beside(&url, None, clock.clone(), fcm.clone(), |config| {
            config.push.fcm.as_mut().unwrap().endpoint = endpoint;
        })
        .await;
        let mut phone = phone(&astray, &format!("astray-{n}")).await;
        order(&astray, "locate", &[&phone.device.id]).await;
        let tried = async || fcm.counts().token_requests > 0;
        astray.until("the sender tries", tried).await;
        for _ in 0..10 {
            astray.advance(MINUTE_MS);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!((fcm.counts().accepted, stranger.counts().requests), (n as u64, 0));
        assert_eq!(push_state(&astray, &phone.device.id).await, "active");
        // One phone is enough for operators to hear of it.
        astray.until("the alarm", async || open_alarms(&astray).await.contains("push_unreached")).await;
        assert_eq!(astray.get("/push").await["senders"][0]["state"], "paused");
        astray.stop().await;
        let right = TestServer::beside(&url, None, clock.clone(), fcm.clone(), |_| {}).await;
        phone.nudged_after_ms(&right, MINUTE_MS, HOUR_MS).await;
        right.until("the alarm ends", async || !open_alarms(&right).await.contains("push_unreached")).await;
        right.stop().await;
    }
}

/// A stand-in behind a certificate that nobody knows.
async fn stranger(clock: &Clock) -> StandIn {
    rustls::crypto::ring::default_provider().install_default().ok();
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let builder = rustls::ServerConfig::builder().with_no_client_auth();
    let tls = builder.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    StandIn::start_on("127.0.0.1:0".parse().unwrap(), clock.clone(), Some(std::sync::Arc::new(tls))).await.unwrap()
}
