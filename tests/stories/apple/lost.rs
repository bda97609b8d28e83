//! A phone is located through lost mode: what the server turned on for that it turns off again, whatever becomes of the order.

use muster::clock::Clock;
use muster::sim::apns::StandIn;
use plist::{Dictionary, Value as Plist};
use serde_json::{Value, json};

use super::called::{address, each, is_nudged};
use super::commands::{state, task};
use crate::support::apple::{AppleDevice, Told, each_quiet, texts};
use crate::support::server::{START_MS, TestServer};

const HOUR_MS: i64 = 3_600_000;

fn place() -> Dictionary {
    [("Latitude", 48.0), ("Longitude", 11.0)].into_iter().map(|(key, value)| (key.to_owned(), Plist::Real(value))).collect()
}

fn chain(code: i64) -> Dictionary {
    let mut error = texts(&[("ErrorDomain", "MCMDMErrorDomain"), ("USEnglishDescription", "why")]);
    error.insert("ErrorCode".into(), Plist::Integer(code.into()));
    [("ErrorChain".to_owned(), Plist::Array(vec![Plist::Dictionary(error)]))].into_iter().collect()
}

impl AppleDevice {
    async fn refuse(&self, server: &TestServer, command: &str) -> Told {
        self.connect(server, "Error", Some(command), chain(12040)).await
    }

    /// An order to locate it that has just told it to be lost; its id.
    async fn is_being_located(&self, server: &TestServer, id: &str) -> String {
        let locate = task(server, "locate", json!({}), id).await;
        self.is_marked(server, &locate).await;
        locate
    }

    async fn is_marked(&self, server: &TestServer, locate: &str) {
        assert_eq!(self.idle(server).await.request(), (locate.to_owned(), "DeviceLocation".into()));
        assert_eq!(self.refuse(server, locate).await.request(), (format!("{locate}.1"), "EnableLostMode".into()));
    }
}

fn off(locate: &str) -> (String, String) {
    (format!("lost_mode_off.{locate}"), "DisableLostMode".into())
}

async fn alarms(server: &TestServer) -> Vec<Value> {
    let alarms = server.get("/alarms").await["items"].as_array().unwrap().clone();
    alarms.into_iter().filter(|alarm| alarm["kind"] == "lost_mode_kept").collect()
}

#[tokio::test]
async fn a_phone_that_was_being_located_is_called_and_found_again_when_the_order_ends_early() {
    let apns = StandIn::start(Clock::moved(START_MS, 8)).await.unwrap();
    let story = async |server: TestServer| {
        let phone = AppleDevice::named("A");
        let (own, mut pushes) = address(&apns);
        phone.authenticate(&server).await.expect(200);
        phone.token_update(&server, own).await.expect(200);
        let id = phone.id(&server).await;
        // Cancelled when it has been told, and before it has answered.
        let locate = phone.is_being_located(&server, &id).await;
        server.advance(60_000);
        while pushes.try_recv().is_ok() {}
        server.post(&format!("/tasks/{locate}/cancel"), json!({})).await.expect(200);
        assert!(is_nudged(&mut pushes).await, "it is called at once");
        assert_eq!(phone.idle(&server).await.request(), off(&locate));
        assert_eq!(phone.idle(&server).await.request(), off(&locate), "until it answers");
        assert!(phone.connect(&server, "NotNow", Some(&off(&locate).0), Dictionary::new()).await.command().is_none());
        let lock = task(&server, "lock", json!({}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, lock, "behind what operators order");
        assert_eq!(phone.acknowledge(&server, &lock).await.request(), off(&locate));
        assert!(phone.acknowledge(&server, &off(&locate).0).await.command().is_none());
        assert!(phone.idle(&server).await.command().is_none(), "once");
        // Its answer comes after the cancellation: it is told in the same conversation.
        let late = phone.is_being_located(&server, &id).await;
        server.post(&format!("/tasks/{late}/cancel"), json!({})).await.expect(200);
        assert_eq!(phone.acknowledge(&server, &format!("{late}.1")).await.request(), off(&late));
        assert!(phone.acknowledge(&server, &off(&late).0).await.command().is_none());
        assert_eq!(state(&server, &late).await, "cancelled");
        // Its time is over while it looks for itself.
        let order = json!({"kind": "locate", "target": {"devices": [id]}, "expires_in_s": 3600});
        let job = server.post("/jobs", order).await.expect(202);
        let tasks = server.get(&format!("/jobs/{}/tasks", job["id"].as_str().unwrap())).await;
        let expiring = tasks["items"][0]["id"].as_str().unwrap();
        phone.is_marked(&server, expiring).await;
        assert_eq!(phone.acknowledge(&server, &format!("{expiring}.1")).await.request().1, "DeviceLocation");
        while pushes.try_recv().is_ok() {}
        server.advance(HOUR_MS);
        server.until("it expires", async || state(&server, expiring).await == "expired").await;
        // The call comes at once, or, where its own point had just called it, a little later.
        server
            .until("it is called", async || {
                server.advance(5_000);
                pushes.try_recv().is_ok()
            })
            .await;
        assert_eq!(phone.idle(&server).await.request(), off(expiring));
        assert!(phone.acknowledge(&server, &off(expiring).0).await.command().is_none());
        assert_eq!(alarms(&server).await, Vec::<Value>::new());
        server.stop().await;
    };
    each(&apns, story).await;
}

#[tokio::test]
async fn a_phone_that_says_no_was_not_lost_unless_it_may_have_said_yes_before_and_one_that_stays_lost_alarms() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("B");
        let id = phone.enroll(&server).await;
        let refused = phone.is_being_located(&server, &id).await;
        assert!(phone.refuse(&server, &format!("{refused}.1")).await.command().is_none(), "it never was lost");
        assert_eq!(state(&server, &refused).await, "failed");
        // The answer to the first may have been lost, and the second says that it is lost already.
        let twice = phone.is_being_located(&server, &id).await;
        assert_eq!(phone.idle(&server).await.request().0, format!("{twice}.1"));
        assert_eq!(phone.refuse(&server, &format!("{twice}.1")).await.request(), off(&twice));
        assert!(phone.acknowledge(&server, &off(&twice).0).await.command().is_none());
        // It is lost, is told where, and does not let itself be found.
        let kept = phone.is_being_located(&server, &id).await;
        let (uuid, _) = phone.acknowledge(&server, &format!("{kept}.1")).await.request();
        let (uuid, request) = phone.connect(&server, "Acknowledged", Some(&uuid), place()).await.request();
        assert_eq!((uuid.as_str(), request.as_str()), (&*format!("{kept}.3"), "DisableLostMode"));
        assert!(phone.refuse(&server, &uuid).await.command().is_none());
        let shown = server.get(&format!("/tasks/{kept}")).await;
        assert_eq!((shown["state"].as_str(), &shown["result"]["lat"]), (Some("done"), &json!(48.0)));
        let open = alarms(&server).await;
        assert_eq!((open.len(), &open[0]["subject"]), (1, &json!(id)), "{open:?}");
        // What it says of itself ends that.
        task(&server, "refresh", json!({"what": "facts"}), &id).await;
        let (uuid, _) = phone.idle(&server).await.request();
        let lost: Dictionary = [("IsMDMLostModeEnabled".to_owned(), Plist::Boolean(false))].into_iter().collect();
        let answer: Dictionary = [("QueryResponses".to_owned(), Plist::Dictionary(lost))].into_iter().collect();
        assert!(phone.connect(&server, "Acknowledged", Some(&uuid), answer).await.command().is_none());
        assert_eq!(alarms(&server).await.iter().filter(|alarm| alarm["state"] != "closed").count(), 0);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_marked_as_lost_stays_so_and_one_that_is_retired_is_found_first() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("C");
        let id = phone.enroll(&server).await;
        let marks =
            async || task(&server, "apple_command", json!({"command": {"RequestType": "EnableLostMode", "Message": "call us"}}), &id).await;
        let mark = marks().await;
        assert_eq!(phone.idle(&server).await.request(), (mark.clone(), "EnableLostMode".into()));
        assert!(phone.acknowledge(&server, &mark).await.command().is_none());
        // Lost as it is, it does not know where: that is all there is to say.
        let locate = task(&server, "locate", json!({}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, locate);
        assert!(phone.refuse(&server, &locate).await.command().is_none());
        let failed = server.get(&format!("/tasks/{locate}")).await;
        assert_eq!((failed["state"].as_str(), failed["error"]["code"].as_str()), (Some("failed"), Some("MCMDMErrorDomain 12040")));
        let ends = task(&server, "apple_command", json!({"command": {"RequestType": "DisableLostMode"}}), &id).await;
        assert_eq!(phone.idle(&server).await.request().0, ends);
        assert!(phone.acknowledge(&server, &ends).await.command().is_none());
        // An operator marks it while it is being located.
        let locate = phone.is_being_located(&server, &id).await;
        let (uuid, _) = phone.acknowledge(&server, &format!("{locate}.1")).await.request();
        let mark = marks().await;
        assert_eq!(phone.connect(&server, "NotNow", Some(&uuid), Dictionary::new()).await.request().0, mark);
        assert_eq!(phone.acknowledge(&server, &mark).await.request().0, uuid);
        let (uuid, request) = phone.connect(&server, "Acknowledged", Some(&uuid), place()).await.request();
        assert_eq!(request, "DeviceLocation", "nothing ends what the operator wants");
        assert!(phone.connect(&server, "Acknowledged", Some(&uuid), place()).await.command().is_none());
        assert_eq!(state(&server, &locate).await, "done");
        let ends = task(&server, "apple_command", json!({"command": {"RequestType": "DisableLostMode"}}), &id).await;
        phone.idle(&server).await;
        assert!(phone.acknowledge(&server, &ends).await.command().is_none());
        // Whoever is managed no more can be found by nobody.
        let locate = phone.is_being_located(&server, &id).await;
        assert_eq!(phone.acknowledge(&server, &format!("{locate}.1")).await.request().1, "DeviceLocation");
        server.post(&format!("/tasks/{locate}/cancel"), json!({})).await.expect(200);
        server.post(&format!("/devices/{id}/retire"), json!({})).await.expect(202);
        assert_eq!(phone.idle(&server).await.request(), off(&locate));
        assert_eq!(phone.acknowledge(&server, &off(&locate).0).await.request().1, "RemoveProfile");
        server.stop().await;
    })
    .await;
}
