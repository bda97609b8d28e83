//! Each row of Apple's table of answers, on one server and one after another, so that none leaves anything behind for the next.

use std::time::Duration;

use muster::sim::apns::{Fault, Scope, Times};

use crate::support::apns::{Apns, GAP_MS};

/// What a row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The address is given up.
    Dead,
    /// The address is set aside for a day.
    SetAside,
    /// The phone is called again later; the attempt counts.
    Later,
    /// It goes out again at once, and nobody notices.
    AtOnce,
    /// The sender stops until a probe finds it mended.
    Stops,
    /// Our request is wrong: told, and the phone is called later.
    Ours,
}

const ROWS: [(u16, &str, Class); 28] = [
    (400, "BadDeviceToken", Class::SetAside),
    (400, "DeviceTokenNotForTopic", Class::SetAside),
    (400, "MissingDeviceToken", Class::Ours),
    (400, "BadCollapseId", Class::Ours),
    (400, "BadExpirationDate", Class::Ours),
    (400, "BadMessageId", Class::Ours),
    (400, "BadPriority", Class::Ours),
    (400, "DuplicateHeaders", Class::Ours),
    (400, "InvalidPushType", Class::Ours),
    (400, "MissingTopic", Class::Ours),
    (400, "PayloadEmpty", Class::Ours),
    (400, "BadTopic", Class::Stops),
    (400, "TopicDisallowed", Class::Stops),
    (400, "IdleTimeout", Class::AtOnce),
    (403, "BadCertificate", Class::Stops),
    (403, "BadCertificateEnvironment", Class::Stops),
    (403, "MissingProviderToken", Class::Stops),
    (403, "UnrelatedKeyIdInToken", Class::AtOnce),
    (403, "ExpiredProviderToken", Class::Stops),
    (404, "BadPath", Class::Ours),
    (405, "MethodNotAllowed", Class::Ours),
    (410, "Unregistered", Class::Dead),
    (413, "PayloadTooLarge", Class::Ours),
    (429, "TooManyRequests", Class::Later),
    (429, "TooManyProviderTokenUpdates", Class::Later),
    (500, "InternalServerError", Class::Later),
    (503, "ServiceUnavailable", Class::Later),
    (503, "Shutdown", Class::AtOnce),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_the_table_has_its_effect_and_no_other() {
    let world = Apns::start().await;
    for (n, (status, reason, class)) in ROWS.into_iter().enumerate() {
        let mut phone = world.iphone(&format!("row-{n}")).await;
        let id = phone.device.id.clone();
        world.apns.faults().set(Scope::Token(phone.device.push.clone()), Times::Next(1), Fault::reason(status, reason));
        let requests = world.apns.counts().requests;
        world.locate(&[&id]).await;
        world.server.until("the answer", async || world.apns.counts().requests > requests).await;
        match class {
            Class::Dead | Class::SetAside => {
                let state = if class == Class::Dead { "dead" } else { "quarantined" };
                world.server.until(&format!("{reason}: {state}"), async || world.push_state(&id).await == state).await;
                assert_eq!(world.sender("apns_app").await["state"], "ok", "{reason}");
                continue;
            }
            Class::Stops => {
                world.server.until(&format!("{reason} stops"), async || world.sender("apns_app").await["state"] == "fault").await;
                assert!(world.sender("apns_app").await["reason"].to_string().contains(reason), "{reason}");
            }
            Class::AtOnce | Class::Later | Class::Ours => {}
        }
        let step_ms = if class == Class::Ours { GAP_MS } else { 60_000 };
        let waited_ms = world.nudged_after_ms(&mut phone, step_ms, 4 * GAP_MS).await;
        assert_eq!(waited_ms == 0, class == Class::AtOnce, "{reason}: called after {waited_ms} ms");
        assert_eq!(world.push_state(&id).await, "active", "{reason}");
        assert_eq!(world.sender("apns_app").await["state"], "ok", "{reason}");
        let told = world.open_alarms().await.contains(&"push_request_refused".to_owned());
        assert!(told || class != Class::Ours, "{reason} is told");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_takes_half_a_minute_is_a_failed_attempt_of_one_phone() {
    let world = Apns::start().await;
    let mut slow = world.iphone("slow").await;
    let mut others = world.iphones(5).await;
    world.apns.faults().set(Scope::Token(slow.device.push.clone()), Times::Next(1), Fault::Slow(30_000));
    world.locate(&[&slow.device.id]).await;
    world.server.until("the request", async || world.apns.counts().requests == 1).await;
    world.locate_all(&others).await;
    world.each_is_nudged(&mut others).await;
    // The sender waits 20 s for an answer, by its own clock; the push itself comes later than that.
    let waits = tokio::time::timeout(Duration::from_secs(60), async {
        while world.sender("apns_app").await["in_flight"] != 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    waits.await.unwrap();
    let waited_ms = world.nudged_after_ms(&mut slow, 60_000, 3 * GAP_MS).await;
    assert!(waited_ms > 0, "it counts as an attempt");
    assert_eq!(world.push_state(&slow.device.id).await, "active");
    world.server.stop().await;
}
