//! Apple's table of answers, from the phone's side and the operator's.

use muster::sim::apns::{Fault, Scope, Times};

use crate::support::apns::{Apns, GAP_MS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_is_gone_is_dead_until_it_registers_again_and_a_doubtful_one_is_set_aside() {
    let world = Apns::start().await;
    let now_ms = world.server.clock.now_ms();
    for (name, fault, state) in [
        ("gone", Fault::unregistered(now_ms + 1_000_000), "dead"),
        ("seconds", Fault::unregistered(now_ms / 1_000 + 1_000), "dead"),
        ("came-back", Fault::unregistered(now_ms - 1_000_000), "active"),
        ("expired", Fault::reason(410, "ExpiredToken"), "dead"),
        ("bad", Fault::reason(400, "BadDeviceToken"), "quarantined"),
        ("other-topic", Fault::reason(400, "DeviceTokenNotForTopic"), "quarantined"),
    ] {
        let phone = world.iphone(name).await;
        world.apns.faults().set(Scope::Token(phone.device.push.clone()), Times::Next(1), fault);
        let requests = world.apns.counts().requests;
        world.locate(&[&phone.device.id]).await;
        world.server.until("the answer", async || world.apns.counts().requests > requests).await;
        world.server.until(&format!("{name} is {state}"), async || world.push_state(&phone.device.id).await == state).await;
        assert_eq!(world.sender("apns_app").await["state"], "ok", "{name}");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_apple_refuses_stops_its_sender_with_an_alarm_and_no_other() {
    for (status, reason) in [
        (403, "InvalidProviderToken"),
        (403, "Forbidden"),
        (403, "BadEnvironmentKeyIdInToken"),
        (400, "TopicDisallowed"),
        (400, "BadTopic"),
    ] {
        let world = Apns::start().await;
        let mut phone = world.iphone("app").await;
        let android = world.server.phone("android").await;
        let mut android_pushes = world.server.fcm.connect(&android.push);
        world.apns.faults().set(Scope::Send, Times::UntilCleared, Fault::reason(status, reason));
        world.locate(&[&phone.device.id, &android.id]).await;
        world.server.until("the sender's fault", async || world.sender("apns_app").await["state"] == "fault").await;
        let told = world.sender("apns_app").await["reason"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains(reason), "{told}");
        world.server.until("an alarm", async || world.open_alarms().await.contains(&"push_fault".to_owned())).await;
        let push = tokio::time::timeout(std::time::Duration::from_secs(60), android_pushes.recv()).await.unwrap();
        assert!(push.is_some(), "FCM goes on");
        assert_eq!(world.push_state(&phone.device.id).await, "active", "no token is blamed");
        world.apns.faults().clear();
        // The next probe finds it mended, and the phone's wait counted no attempt.
        world.nudged_after_ms(&mut phone, 30_000, 30 * 60_000).await;
        world.server.until("the alarm's end", async || world.open_alarms().await.is_empty()).await;
        world.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_apple_calls_malformed_is_our_bug_and_blames_no_phone() {
    let world = Apns::start().await;
    for (n, (status, reason)) in
        [(400, "BadPriority"), (404, "BadPath"), (413, "PayloadTooLarge"), (418, "SomethingNew")].into_iter().enumerate()
    {
        let mut phone = world.iphone(&format!("phone-{n}")).await;
        world.apns.faults().set(Scope::Token(phone.device.push.clone()), Times::Next(1), Fault::reason(status, reason));
        let requests = world.apns.counts().requests;
        world.locate(&[&phone.device.id]).await;
        world.server.until("the answer", async || world.apns.counts().requests > requests).await;
        world.nudged_after_ms(&mut phone, 60_000, 4 * GAP_MS).await;
        assert_eq!(world.push_state(&phone.device.id).await, "active", "{reason}");
    }
    assert!(world.open_alarms().await.contains(&"push_request_refused".to_owned()));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_retry_after_is_understood_and_none_silences_a_phone_for_long() {
    let world = Apns::start().await;
    for (n, value) in [Some("30"), Some("Fri, 15 Jan 2027 08:02:00 GMT"), None, Some("-7"), Some("1000000000")].into_iter().enumerate() {
        let mut phone = world.iphone(&format!("phone-{n}")).await;
        let mut other = world.iphone(&format!("other-{n}")).await;
        let fault = Fault::too_many_requests(value);
        world.apns.faults().set(Scope::Token(phone.device.push.clone()), Times::Next(1), fault);
        world.locate(&[&phone.device.id]).await;
        world.locate(&[&other.device.id]).await;
        assert_eq!(world.nudged_after_ms(&mut other, 60_000, 1).await, 0, "one phone's limit is no other's");
        let waited_ms = world.nudged_after_ms(&mut phone, 60_000, 3 * 3_600_000).await;
        assert!((60_000..=2 * 3_600_000).contains(&waited_ms), "{value:?}: {waited_ms}");
    }
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_of_bad_tokens_stops_the_sender_and_loses_no_token() {
    let world = Apns::start().await;
    let mut phones = world.iphones(120).await;
    world.apns.faults().set(Scope::Send, Times::UntilCleared, Fault::reason(400, "BadDeviceToken"));
    world.locate_all(&phones).await;
    world.server.until("the alarm", async || world.open_alarms().await.contains(&"push_mass_death".to_owned())).await;
    assert!(world.apns.counts().requests < 120, "it stops before it has tried all");
    world.apns.faults().clear();
    for _ in 0..4 {
        world.server.advance(GAP_MS);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    for phone in &mut phones {
        world.nudged_after_ms(phone, GAP_MS, 6 * GAP_MS).await;
        assert_eq!(world.push_state(&phone.device.id).await, "active");
    }
    world.server.stop().await;
}
