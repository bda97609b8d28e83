//! What FCM keeps for phones that are away.

use muster::push::{Answer, Nudge};

use crate::support::push::{Fcm, START_MS};

#[tokio::test]
async fn one_message_waits_for_a_phone_that_is_away_until_its_ttl() {
    let fcm = Fcm::start().await;
    let nudge = fcm.device();
    for _ in 0..5 {
        assert_eq!(fcm.send(&nudge).await, Answer::Accepted);
    }
    assert_eq!(fcm.stand_in.stored(&nudge.address.value), 1);
    let mut phone = fcm.stand_in.connect(&nudge.address.value);
    assert!(phone.try_recv().is_ok() && phone.try_recv().is_err());

    drop(phone);
    let short = Nudge { expires_at_ms: START_MS + 30_000, ..nudge.clone() };
    assert_eq!(fcm.send(&short).await, Answer::Accepted);
    fcm.clock.advance(29_999);
    assert_eq!(fcm.stand_in.stored(&nudge.address.value), 1);
    fcm.clock.advance(1);
    assert_eq!(fcm.stand_in.stored(&nudge.address.value), 0);
    assert!(fcm.stand_in.connect(&nudge.address.value).try_recv().is_err());
}

#[tokio::test]
async fn a_lost_push_is_accepted_and_reaches_nobody() {
    let fcm = Fcm::start().await;
    let nudge = fcm.device();
    let mut phone = fcm.stand_in.connect(&nudge.address.value);
    fcm.stand_in.set_loss_per_million(1_000_000);
    assert_eq!(fcm.send(&nudge).await, Answer::Accepted);
    assert!(phone.try_recv().is_err());
    assert_eq!((fcm.stand_in.counts().lost, fcm.stand_in.stored(&nudge.address.value)), (1, 0));
}

#[tokio::test]
async fn a_nudge_for_another_app_is_not_delivered() {
    let fcm = Fcm::start().await;
    fcm.stand_in.register_as("app:token", muster::sim::fcm::PROJECT, Some("org.example.agent"));
    let mut phone = fcm.stand_in.connect("app:token");
    let right = crate::support::push::nudge_to("app:token");
    let wrong = Nudge { app: "org.example.other".into(), ..right.clone() };
    assert_eq!(fcm.send(&wrong).await, Answer::Accepted);
    assert!(phone.try_recv().is_err());
    assert_eq!(fcm.send(&right).await, Answer::Accepted);
    assert!(phone.try_recv().is_ok());
}
