//! The canary: one device is called through a sender, and what comes of it is told. After a credential was replaced it says within
//! seconds whether the provider takes calls under it, before the next three-hour points do.
//!
//! It is an ordinary change of the schedule, as if an operator had asked one device to sync: the wake of one channel that came lately
//! and may be called is raised. So there is at most one call of a channel under way, and the gap between two is kept; of a sender there is
//! at most one canary.

use serde_json::json;

use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Actor, Lane, Role};
use crate::store::Conn;
use crate::store::canary::{self, CanaryRow, Seen};
use crate::store::feed::{self, Entry};
use crate::store::wakes::{self, Raise};

/// How long the answer and the contact are waited for.
pub const WATCH_MS: i64 = 10 * 60_000;
/// A channel that has not come for so long may be off, and would prove nothing.
const SEEN_WITHIN_MS: i64 = 24 * 3_600_000;
/// Every process has followed a new credential by then.
const FOLLOW_MS: i64 = 6_000;

/// Orders a canary of `sender`. `fresh` is one for a credential that has just come: it takes the place of one that is under way, whose
/// answer would be about the former credential, and waits until every process has the new one. Otherwise one that is under way is left
/// alone.
pub async fn order(conn: &mut Conn, moment: &mut Moment, actor: &Actor, sender: &str, fresh: bool) -> Result<()> {
    actor.require(Role::Operator)?;
    let starts_at_ms = moment.now_ms + if fresh { FOLLOW_MS } else { 0 };
    if canary::put(conn, sender, starts_at_ms, starts_at_ms + WATCH_MS, !fresh).await? {
        tell(conn, moment, Some(actor), "push.canary_ordered", json!({"sender": sender})).await?;
    }
    Ok(())
}

/// Calls a device for a canary that is due, or ends it where none is fit.
pub async fn begin(conn: &mut Conn, moment: &mut Moment, row: &CanaryRow) -> Result<()> {
    let now_ms = moment.now_ms;
    let fit = canary::fit(conn, &row.sender, now_ms - SEEN_WITHIN_MS, now_ms).await?;
    if !canary::begin(conn, &row.sender, row.starts_at_ms, fit, now_ms).await? {
        return Ok(());
    }
    match fit {
        Some((channel_id, _)) => wakes::raise(conn, &[Raise { channel_id, lane: Lane::Change }], now_ms).await,
        None => tell(conn, moment, None, "push.canary_ended", json!({"sender": row.sender, "device_id": null})).await,
    }
}

/// What a look at the channel adds to a watched canary.
pub fn look(row: &CanaryRow, seen: Option<&Seen>, fault: Option<String>, now_ms: i64) -> CanaryRow {
    let mut row = row.clone();
    let since_ms = row.called_at_ms.unwrap_or(i64::MAX);
    if let Some(seen) = seen {
        let answer = match seen.push_state.as_str() {
            "dead" if seen.push_since_ms >= since_ms => Some("address_dead".to_owned()),
            "quarantined" if seen.push_since_ms >= since_ms => Some("address_suspect".to_owned()),
            _ if seen.nudged_at_ms.is_some_and(|at_ms| at_ms >= since_ms) => {
                Some(if seen.attempt > 0 { "failed" } else { "accepted" }.to_owned())
            }
            _ => fault.map(|detail| format!("fault: {detail}")),
        };
        if row.answer.is_none() && answer.is_some() {
            (row.answer, row.answered_at_ms) = (answer, Some(now_ms));
        }
        if row.contact_at_ms.is_none() && seen.last_contact_ms.is_some_and(|at_ms| at_ms >= since_ms) {
            (row.contact_at_ms, row.contact_cause) = (seen.last_contact_ms, seen.last_cause.clone());
        }
    }
    if (row.answer.is_some() && row.contact_at_ms.is_some()) || now_ms >= row.ends_at_ms || seen.is_none() {
        row.state = "ended".into();
    }
    row
}

/// Writes down what has been seen, and tells the end.
pub async fn watch(conn: &mut Conn, moment: &mut Moment, row: &CanaryRow) -> Result<()> {
    if canary::watch(conn, row).await? && row.state == "ended" {
        let data = json!({"sender": row.sender, "device_id": row.device_id, "answer": row.answer, "contact_at_ms": row.contact_at_ms});
        tell(conn, moment, None, "push.canary_ended", data).await?;
    }
    Ok(())
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: Option<&Actor>, kind: &'static str, data: serde_json::Value) -> Result<()> {
    let entry = Entry { kind, actor: actor.map(|actor| actor.name.clone()), device_id: None, data };
    feed::append(conn, moment, &[entry]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn row() -> CanaryRow {
        CanaryRow {
            sender: "fcm".into(),
            state: "watched".into(),
            starts_at_ms: NOW_MS,
            ends_at_ms: NOW_MS + WATCH_MS,
            device_id: None,
            channel_id: None,
            called_at_ms: Some(NOW_MS),
            answer: None,
            answered_at_ms: None,
            contact_at_ms: None,
            contact_cause: None,
        }
    }

    fn seen() -> Seen {
        Seen {
            nudged_at_ms: Some(NOW_MS - 1),
            attempt: 0,
            push_state: "active".into(),
            push_since_ms: NOW_MS - 1,
            last_contact_ms: Some(NOW_MS - 1),
            last_cause: Some("periodic".into()),
        }
    }

    #[test]
    fn what_happened_before_the_call_says_nothing() {
        let dead = Seen { push_state: "dead".into(), nudged_at_ms: None, ..seen() };
        for seen in [seen(), dead] {
            let looked = look(&row(), Some(&seen), None, NOW_MS + 1);
            assert_eq!((looked.state.as_str(), looked.answer, looked.contact_at_ms), ("watched", None, None));
        }
    }

    #[test]
    fn each_answer_has_its_word_and_the_first_one_stays() {
        let nudged = Seen { nudged_at_ms: Some(NOW_MS), ..seen() };
        let gone = |state: &str| Seen { push_state: state.into(), push_since_ms: NOW_MS, ..nudged.clone() };
        for (seen, fault, word) in [
            (nudged.clone(), None, "accepted"),
            (Seen { attempt: 1, ..nudged.clone() }, None, "failed"),
            (gone("dead"), None, "address_dead"),
            (gone("quarantined"), None, "address_suspect"),
            (seen(), Some("BadCertificate: no".to_owned()), "fault: BadCertificate: no"),
        ] {
            let looked = look(&row(), Some(&seen), fault, NOW_MS + 1);
            assert_eq!((looked.answer.as_deref(), looked.answered_at_ms), (Some(word), Some(NOW_MS + 1)));
            assert_eq!(look(&looked, Some(&nudged), None, NOW_MS + 2).answer, looked.answer);
        }
    }

    #[test]
    fn it_ends_with_both_answers_with_its_time_or_with_its_device() {
        let came = Seen { nudged_at_ms: Some(NOW_MS), last_contact_ms: Some(NOW_MS + 5), last_cause: Some("push".into()), ..seen() };
        let looked = look(&row(), Some(&came), None, NOW_MS + 6);
        assert_eq!(
            (looked.state.as_str(), looked.contact_at_ms, looked.contact_cause.as_deref()),
            ("ended", Some(NOW_MS + 5), Some("push"))
        );
        assert_eq!(look(&row(), Some(&seen()), None, NOW_MS + WATCH_MS).state, "ended");
        assert_eq!(look(&row(), None, None, NOW_MS + 1).state, "ended");
    }
}
