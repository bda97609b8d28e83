//! Push certificates end after a year, and with them every call to the devices; the device CA ends too, and with it every enrollment.
//! Operators are told in time.

use crate::app::App;
use crate::change;
use crate::error::Result;
use crate::ops::alarms;
use crate::ops::ca::Pair;
use crate::ops::ca::authority;
use crate::push::SenderState;
use crate::store::{Class, alarms as store};

/// Days before the end at which the alarm is opened and told anew.
const DAYS: [i64; 4] = [1, 7, 14, 30];
const DAY_MS: i64 = 86_400_000;
const PUSH: &str = "push_certificate_ends";
const CA: &str = "device_ca_ends";
/// Alarms of what has happened, which has no end of its own.
const MOMENTARY: [&str; 4] = ["push_request_refused", "push_death_rush", "push_mass_death", "apple_command_format"];
/// Of each kind so many are closed in one pass.
const QUIET_MAX: i64 = 100;

/// Closes the alarms of what happens in an instant, once it has not happened for a day; they open again when it does.
pub async fn quiet(app: &App) -> Result<()> {
    let before_ms = app.clock.now_ms() - DAY_MS;
    for kind in MOMENTARY {
        let mut conn = app.db.read().await?;
        let subjects = store::quiet(&mut conn, kind, before_ms, QUIET_MAX).await?;
        drop(conn);
        for subject in subjects {
            change!(app, Class::Background, |conn, moment| alarms::close(conn, moment, kind, &subject).await)?;
        }
    }
    Ok(())
}

/// Opens, sharpens and closes the alarms of all senders' certificates and of the device CA.
pub async fn pass(app: &App) -> Result<()> {
    let now_ms = app.clock.now_ms();
    let mut told = Vec::new();
    for sender in app.senders.all() {
        let status = sender.status();
        let detail = status.credential_ends_at_ms.and_then(|ends_at_ms| push_certificate(sender.name(), ends_at_ms - now_ms));
        // A topic whose certificate was taken away is told of by another alarm.
        if status.credential_ends_at_ms.is_some() || status.state == SenderState::Unconfigured {
            told.push((PUSH, sender.name().to_owned(), detail));
        }
    }
    if let Some(ca) = device_ca_in_use(app).await? {
        let ends_at_ms = ca.certificate().until_ms();
        metrics::gauge!("muster_device_ca_expiry_timestamp").set(ends_at_ms as f64 / 1_000.0);
        told.push((CA, "device_ca".to_owned(), device_ca(ends_at_ms - now_ms)));
    }
    for (kind, subject, detail) in told {
        change!(app, Class::Background, |conn, moment| match &detail {
            Some(detail) => alarms::sharpen(conn, moment, kind, &subject, detail).await,
            None => alarms::close(conn, moment, kind, &subject).await,
        })?;
    }
    Ok(())
}

/// The device CA, also where this process has not needed it yet; none is made for this.
async fn device_ca_in_use(app: &App) -> Result<Option<Pair>> {
    match (app.authorities.at_hand(), app.authorities.given()) {
        (Some(authority), _) => Ok(Some(authority.ca.clone())),
        (None, Some(given)) => Ok(Some(given.clone())),
        (None, None) => authority::stored_ca(&mut app.db.read().await?, &app.seal).await,
    }
}

/// What is told of a push certificate so long before its end; `None` while there is time.
fn push_certificate(name: &str, left_ms: i64) -> Option<String> {
    if left_ms <= 0 {
        return Some(format!("the push certificate of {name} has ended: no device of it hears us; renew it at identity.apple.com"));
    }
    let within = within(left_ms)?;
    Some(format!("the push certificate of {name} ends in less than {within}: renew it under the same Apple account"))
}

/// The same of the device CA.
fn device_ca(left_ms: i64) -> Option<String> {
    if left_ms <= 0 {
        return Some(
            "the device CA has ended: no device can enroll or renew its identity; run `muster ca rotate`, or replace [mdm] ca_cert".into(),
        );
    }
    let within = within(left_ms)?;
    Some(format!("the device CA ends in less than {within}: run `muster ca rotate`, or replace [mdm] ca_cert"))
}

/// The nearest mark before the end, if one is reached.
fn within(left_ms: i64) -> Option<String> {
    let days = DAYS.into_iter().find(|days| left_ms <= days * DAY_MS)?;
    Some(format!("{days} {}", if days == 1 { "day" } else { "days" }))
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::clock::Clock;
    use crate::store::testing::each_database;

    #[test]
    fn the_nearest_of_the_four_marks_is_told() {
        for (left_ms, expected) in [
            (31 * DAY_MS, None),
            (30 * DAY_MS, Some("30 days")),
            (8 * DAY_MS, Some("14 days")),
            (7 * DAY_MS, Some("7 days")),
            (1, Some("1 day")),
        ] {
            for said in [push_certificate("apns_mdm/x", left_ms), device_ca(left_ms)] {
                match expected {
                    None => assert_eq!(said, None),
                    Some(expected) => assert!(said.unwrap().contains(&format!("less than {expected}:")), "{left_ms}"),
                }
            }
        }
        assert!(push_certificate("apns_mdm/x", 0).unwrap().contains("has ended") && device_ca(0).unwrap().contains("has ended"));
    }

    #[tokio::test]
    async fn each_mark_tells_anew_whoever_has_acknowledged_the_one_before() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 3);
            let app = App::for_tests(&db, &clock);
            let made = Pair::make_ca(&mut clock.moment()).unwrap();
            change!(app, Class::Operators, |conn, moment| authority::keep_ca(conn, moment, &app.seal, &made).await).unwrap();
            let ends_at_ms = made.certificate().until_ms();
            let mut mailed = 0;
            for left_days in [31, 30, 29, 14, 13, 7, 1, 0] {
                clock.advance(ends_at_ms - left_days * DAY_MS - clock.now_ms());
                pass(&app).await.unwrap();
                let mut conn = app.db.begin(Class::Background).await.unwrap();
                let untold = store::untold(&mut conn, "", 10).await.unwrap();
                for alarm in &untold {
                    assert!(store::told(&mut conn, alarm.id, clock.now_ms()).await.unwrap());
                    assert!(store::acknowledge(&mut conn, alarm.id, clock.now_ms()).await.unwrap(), "it is open again");
                }
                conn.commit().await.unwrap();
                mailed += untold.len();
                assert_eq!(untold.len(), usize::from([30, 14, 7, 1, 0].contains(&left_days)), "{left_days} days before");
            }
            assert_eq!(mailed, 5);
        })
        .await;
    }

    #[tokio::test]
    async fn the_end_of_a_device_ca_is_shown_that_this_process_has_not_needed_yet() {
        each_database(async |db| {
            let clock = Clock::moved(1_800_000_000_000, 3);
            let app = App::for_tests(&db, &clock);
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            let _shown = metrics::set_default_local_recorder(&recorder);
            pass(&app).await.unwrap();
            assert!(!handle.render().contains("muster_device_ca_expiry_timestamp"), "there is none, and none is made for this");
            let made = Pair::make_ca(&mut clock.moment()).unwrap();
            change!(app, Class::Operators, |conn, moment| authority::keep_ca(conn, moment, &app.seal, &made).await).unwrap();
            pass(&app).await.unwrap();
            let ends = format!("muster_device_ca_expiry_timestamp {}", made.certificate().until_ms() / 1_000);
            assert!(handle.render().contains(&ends), "{ends} is not in {}", handle.render());
        })
        .await;
    }
}
