//! When channels are called: a Mac's users, and devices that put something off.

use std::time::Duration;

use muster::clock::Clock;
use muster::config::{ApnsMdm, Config};
use muster::model::schedule::{next_point_ms, phase_s};
use muster::sim::apns::{Push, StandIn};
use plist::{Dictionary, Value as Plist};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::commands::task;
use crate::support::apple::{AppleDevice, TOPIC, quiet, texts};
use crate::support::scep::with_topic;
use crate::support::server::{START_MS, TestServer, each_with};

/// Calls that are later than ten minutes are spread anew: the clock moves in smaller steps.
const STEP_MS: i64 = 9 * 60_000;
const LAP_MS: i64 = 3 * 3_600_000;
const USER: &str = "11111111-2222-3333-4444-555555555555";

/// A push token as a device sends it, and where its pushes arrive.
pub fn address(apns: &StandIn) -> (Dictionary, mpsc::Receiver<Push>) {
    let token = apns.register(TOPIC);
    let pushes = apns.connect(&token);
    let bytes = (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect();
    ([("Token".to_owned(), Plist::Data(bytes))].into_iter().collect(), pushes)
}

/// Waits longer than a lease that a killed process left behind, 75 s.
pub async fn is_nudged(pushes: &mut mpsc::Receiver<Push>) -> bool {
    tokio::time::timeout(Duration::from_secs(100), pushes.recv()).await.is_ok_and(|push| push.is_some())
}

/// Nine minutes pass so many times, and whoever was due has been called and has answered.
async fn pass(server: &TestServer, steps: i64) {
    let sender = format!("apns_mdm/{TOPIC}");
    for _ in 0..steps {
        server.advance(STEP_MS);
        // A call under way while the clock moves would lapse and be made again. Between claim and flight nothing shows: looked at three times.
        let mut calm = 0;
        let seen_to = async || {
            let mut conn = server.app.db.read().await.unwrap();
            let due = muster::store::wakes::due_lanes(&mut conn, &sender, server.clock.now_ms()).await.unwrap();
            drop(conn);
            let push = server.get("/push").await;
            let senders = push["senders"].as_array().unwrap();
            let idle = due.is_empty() && senders.iter().all(|sender| sender["in_flight"] == 0);
            calm = if idle { calm + 1 } else { 0 };
            calm > 2
        };
        server.until("whoever is due is called", seen_to).await;
    }
}

/// Three hours and a little more, in which each channel has had its point.
async fn lap(server: &TestServer) {
    pass(server, LAP_MS / STEP_MS + 1).await;
}

/// Runs a story on both databases, on a server that nudges through this stand-in and asks nothing by itself.
pub async fn each(apns: &StandIn, story: impl AsyncFn(TestServer)) {
    let ca = NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), apns.ca()).unwrap();
    let reachable = |config: &mut Config| {
        quiet(config);
        config.push.apns_mdm = Some(ApnsMdm { endpoint: apns.endpoint(), ca_file: Some(ca.path().to_owned()), ..ApnsMdm::default() });
    };
    each_with(reachable, async |server| story(with_topic(server, apns).await).await).await;
}

#[tokio::test]
async fn a_user_who_has_not_been_there_for_two_days_is_called_for_work_alone() {
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let story = async |server: TestServer| {
        let mac = AppleDevice { product: "Mac14,2".into(), ..AppleDevice::named("A") };
        let user = || texts(&[("UserID", USER), ("UserShortName", "eve")]);
        let ((own, mut pushes), (mut theirs, mut user_pushes)) = (address(&apns), address(&apns));
        theirs.extend(user());
        mac.authenticate(&server).await.expect(200);
        mac.token_update(&server, own).await.expect(200);
        mac.token_update(&server, theirs).await.expect(200);
        assert!(mac.idle(&server).await.command().is_none());
        assert!(mac.connect(&server, "Idle", None, user()).await.command().is_none());
        // A canary calls the Mac itself, though its user came last: that user may not be at it.
        server.post("/push/apns-mdm/canary", json!({})).await.expect(202);
        server.advance(1_000);
        assert!(is_nudged(&mut pushes).await);
        assert!(mac.idle(&server).await.command().is_none());
        assert!(user_pushes.try_recv().is_err());
        lap(&server).await;
        assert!(is_nudged(&mut pushes).await && is_nudged(&mut user_pushes).await, "both have been there lately");
        server.advance(49 * 3_600_000);
        lap(&server).await;
        while pushes.try_recv().is_ok() || user_pushes.try_recv().is_ok() {}
        lap(&server).await;
        lap(&server).await;
        assert!(is_nudged(&mut pushes).await, "the Mac itself is called however long it is silent");
        assert!(user_pushes.try_recv().is_err(), "its user is not");
        // There is work: the user is called, comes, and has been seen.
        let profiles = task(&server, "refresh", json!({"what": "profiles"}), &format!("{}:{USER}", mac.udid)).await;
        assert!(is_nudged(&mut user_pushes).await);
        assert_eq!(mac.connect(&server, "Idle", None, user()).await.request().0, profiles);
        assert!(mac.connect(&server, "Acknowledged", Some(&profiles), user()).await.command().is_none());
        while user_pushes.try_recv().is_ok() {}
        lap(&server).await;
        assert!(is_nudged(&mut user_pushes).await);
        server.stop().await;
    };
    each(&apns, story).await;
}

#[tokio::test]
async fn a_device_that_put_something_off_is_called_for_it_later_if_it_went_on_sooner() {
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let story = async |server: TestServer| {
        let phone = AppleDevice::named("B");
        let (own, mut pushes) = address(&apns);
        phone.authenticate(&server).await.expect(200);
        phone.token_update(&server, own).await.expect(200);
        // Its own point is behind it, and the next one far.
        let channel = server.get(&format!("/devices/{}", phone.udid)).await["channels"][0]["id"].clone();
        let phase_s = phase_s(channel.as_str().unwrap().parse().unwrap());
        let point_ms = next_point_ms(server.clock.now_ms(), phase_s);
        while server.clock.now_ms() <= point_ms {
            pass(&server, 1).await;
        }
        assert!(is_nudged(&mut pushes).await, "the call of its point");
        server.advance(60_000);
        let name = |name: &str| json!({"command": {"RequestType": "Settings", "Settings": [{"Item": "DeviceName", "DeviceName": name}]}});
        let first = task(&server, "apple_command", name("first"), &phone.udid).await;
        assert!(is_nudged(&mut pushes).await);
        assert_eq!(phone.idle(&server).await.request().0, first);
        // Its last word: it comes by itself when it can; the server asks after half an hour.
        assert!(phone.connect(&server, "NotNow", Some(&first), Dictionary::new()).await.command().is_none());
        pass(&server, 3).await;
        assert!(pushes.try_recv().is_err(), "not after 27 minutes");
        pass(&server, 1).await;
        assert!(is_nudged(&mut pushes).await, "after 36");
        // It goes on to something else: from then on it does not come by itself, and is asked earlier.
        let (second, third) = (
            task(&server, "apple_command", name("second"), &phone.udid).await,
            task(&server, "apple_command", name("third"), &phone.udid).await,
        );
        assert_eq!(phone.idle(&server).await.request().0, first);
        assert_eq!(phone.connect(&server, "NotNow", Some(&first), Dictionary::new()).await.request().0, second);
        assert_eq!(phone.acknowledge(&server, &second).await.request().0, first);
        assert_eq!(phone.connect(&server, "NotNow", Some(&first), Dictionary::new()).await.request().0, third);
        assert!(phone.acknowledge(&server, &third).await.command().is_none(), "twice in a conversation, not oftener");
        while pushes.try_recv().is_ok() {}
        // Three times put off: five minutes, doubled twice.
        pass(&server, 2).await;
        assert!(pushes.try_recv().is_err(), "not after 18 minutes");
        pass(&server, 1).await;
        assert!(is_nudged(&mut pushes).await, "after 27");
        assert_eq!(phone.idle(&server).await.request().0, first);
        assert!(phone.acknowledge(&server, &first).await.command().is_none());
        server.stop().await;
    };
    each(&apns, story).await;
}
