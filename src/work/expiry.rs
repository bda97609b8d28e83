//! Push certificates end after a year, and with them every call to the devices: operators are told in time.

use crate::app::App;
use crate::change;
use crate::error::Result;
use crate::ops::alarms;
use crate::store::Class;

/// Days before the end at which the alarm is opened and told anew.
const DAYS: [i64; 4] = [1, 7, 14, 30];
const DAY_MS: i64 = 86_400_000;
const KIND: &str = "push_certificate_ends";

/// Opens, sharpens and closes the alarms of all senders' certificates.
pub async fn pass(app: &App) -> Result<()> {
    for sender in app.senders.all() {
        let Some(ends_at_ms) = sender.status().credential_ends_at_ms else { continue };
        let detail = detail(sender.name(), ends_at_ms - app.clock.now_ms());
        let name = sender.name();
        change!(app, Class::Background, |conn, moment| match &detail {
            Some(detail) => alarms::open(conn, moment, KIND, name, detail).await,
            None => alarms::close(conn, moment, KIND, name).await,
        })?;
    }
    Ok(())
}

/// What is told so long before the end; `None` while there is time.
fn detail(name: &str, left_ms: i64) -> Option<String> {
    if left_ms <= 0 {
        return Some(format!("the push certificate of {name} has ended: no device of it hears us; renew it at identity.apple.com"));
    }
    let days = DAYS.into_iter().find(|days| left_ms <= days * DAY_MS)?;
    let unit = if days == 1 { "day" } else { "days" };
    Some(format!("the push certificate of {name} ends in less than {days} {unit}: renew it under the same Apple account"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_of_the_four_marks_is_told() {
        for (left_ms, expected) in [
            (31 * DAY_MS, None),
            (30 * DAY_MS, Some("30 days")),
            (8 * DAY_MS, Some("14 days")),
            (7 * DAY_MS, Some("7 days")),
            (1, Some("1 day")),
        ] {
            let said = detail("apns_mdm/x", left_ms);
            match expected {
                None => assert_eq!(said, None),
                Some(expected) => assert!(said.unwrap().contains(&format!("less than {expected}:")), "{left_ms}"),
            }
        }
        assert!(detail("apns_mdm/x", 0).unwrap().contains("has ended"));
    }
}
