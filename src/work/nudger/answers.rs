//! What became of the nudges is written back in groups: the leases end, the schedule goes on.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{DAY_MS, Outcome, Sent, TICK};
use crate::app::{App, Stage};
use crate::error::Result;
use crate::model::Lane;
use crate::model::schedule::{LEASE_MS, Next, after_accepted, after_failure};
use crate::push::Answer;
use crate::store::Class;
use crate::store::wakes::{self, Answered, Died};

/// Answers written back in one statement.
pub(super) const ANSWERS_MAX: usize = 500;

/// How long the first answer of a group waits for others: a lease has a minute, and the database writes a hundred nearly as fast as ten.
const GATHER: Duration = Duration::from_millis(50);

/// Writes answers back as they come, those of a moment in one statement. The database may be away for a while: they wait.
pub(super) async fn write_back(app: App, mut answers: mpsc::Receiver<Outcome>) {
    let mut group = Vec::with_capacity(ANSWERS_MAX);
    while answers.recv_many(&mut group, ANSWERS_MAX).await > 0 {
        if group.len() < ANSWERS_MAX {
            tokio::time::sleep(GATHER).await;
            group.extend(std::iter::from_fn(|| answers.try_recv().ok()).take(ANSWERS_MAX - group.len()));
        }
        while let Err(error) = write_group(&app, &group).await {
            app.heed(&error);
            tracing::warn!(%error, "answers of the push providers cannot be written; trying again");
            tokio::time::sleep(TICK).await;
            // Past the lease the wakes are somebody else's; what is dropped here is nudged once more, which harms nobody.
            let now_ms = app.clock.now_ms();
            group.retain(|outcome| match &outcome.sent {
                Sent::Answered { at_ms, .. } => now_ms - at_ms < LEASE_MS,
                Sent::Saved { .. } | Sent::Unsealed { .. } => false,
            });
        }
        group.clear();
    }
}

pub(super) async fn write_group(app: &App, group: &[Outcome]) -> Result<()> {
    let mut moment = app.clock.moment();
    let now_ms = moment.now_ms;
    let mut rows = Vec::with_capacity(group.len());
    let (mut dead, mut suspect) = (Vec::new(), Vec::new());
    for outcome in group {
        if let Sent::Answered { answer, address, registered_at_ms, .. } = &outcome.sent {
            let died = Died { channel_id: outcome.wake.channel_id, value: address.value.clone(), since_ms: *registered_at_ms };
            match answer {
                Answer::Dead { .. } => dead.push(died),
                Answer::Suspect { .. } => suspect.push(died),
                _ => {}
            }
        }
        rows.push(answered(outcome, now_ms, moment.below(1000)));
    }
    // The answers first: they end the leases and keep when each nudge left; then the addresses that died lose their sender.
    let mut conn = app.db.begin(Class::Nudger).await?;
    wakes::answer(&mut conn, &rows).await?;
    conn.commit().await?;
    let left = |outcome: &&Outcome| matches!(&outcome.sent, Sent::Answered { answer, .. } if !matches!(answer, Answer::GivenBack { .. }));
    let taken = |outcome: &&Outcome| matches!(&outcome.sent, Sent::Answered { answer: Answer::Accepted, .. });
    let number = |of: usize| i64::try_from(of).unwrap_or(i64::MAX);
    app.funnel.add(Stage::Sent, number(group.iter().filter(left).count()));
    app.funnel.add(Stage::Accepted, number(group.iter().filter(taken).count()));
    for (state, addresses) in [("dead", &dead), ("quarantined", &suspect)] {
        if !addresses.is_empty() {
            let mut conn = app.db.begin(Class::Nudger).await?;
            wakes::kill(&mut conn, state, addresses, now_ms).await?;
            conn.commit().await?;
        }
    }
    group.iter().for_each(count);
    Ok(())
}

/// What the metrics say of an answer, once it is written: one that has to be written again is counted once.
fn count(outcome: &Outcome) {
    let Sent::Answered { answer, platform, .. } = &outcome.sent else { return };
    let (wake, lane) = (&outcome.wake, Lane::from_rank(outcome.wake.lane).name());
    match answer {
        Answer::Dead { reason } => {
            metrics::counter!("muster_token_deaths_total", "state" => "dead", "reason" => reason.to_string()).increment(1);
        }
        Answer::Suspect { reason } => {
            metrics::counter!("muster_token_deaths_total", "state" => "quarantined", "reason" => reason.to_string()).increment(1);
        }
        Answer::Accepted => {
            let others = u64::try_from(wake.work_seq - wake.told_seq - 1).unwrap_or(0);
            metrics::counter!("muster_nudges_coalesced_total", "lane" => lane).increment(others);
        }
        Answer::Failed { .. } => {}
        Answer::GivenBack { .. } => return,
    }
    // Called before, and either the provider did not take it or the device did not come.
    if wake.attempt == 0 && wake.step > 0 {
        metrics::counter!("muster_nudged_no_contact_total", "platform" => platform.clone(), "lane" => lane).increment(1);
    }
}

/// Where a wake goes on after its answer.
fn answered(outcome: &Outcome, now_ms: i64, jitter: i64) -> Answered {
    let wake = &outcome.wake;
    let lane = Lane::from_rank(wake.lane);
    let open_work = wake.open_work == 1;
    let stay = |due_at_ms| Next { lane, due_at_ms, step: wake.step, attempt: wake.attempt };
    let (next, nudged_at_ms, accepted, high) = match &outcome.sent {
        Sent::Saved { rhythm } => (stay(rhythm.next_call_ms(now_ms)), None, 0, false),
        Sent::Unsealed { due_ms } => (stay(*due_ms), None, 0, false),
        Sent::Answered { answer, rhythm, high, at_ms, .. } => match answer {
            Answer::Accepted => (after_accepted(rhythm, lane, open_work, wake.step, now_ms), Some(*at_ms), 1, *high),
            Answer::Failed { retry_after_ms, .. } => {
                (after_failure(rhythm, lane, wake.step, wake.attempt, *retry_after_ms, jitter, now_ms), Some(*at_ms), 0, *high)
            }
            Answer::GivenBack { due_ms, .. } => (stay((*due_ms).max(now_ms)), None, 0, false),
            // Without a sender the wake is not claimed; should the device register again, it is due at its next call.
            Answer::Dead { .. } | Answer::Suspect { .. } => (stay(rhythm.next_call_ms(now_ms)), Some(*at_ms), 0, false),
        },
    };
    let today = now_ms / DAY_MS;
    let used = if wake.high_day == today { wake.high_count } else { 0 };
    Answered {
        bucket: wake.channel_id.bucket(),
        channel_id: wake.channel_id,
        lease_id: outcome.lease_id,
        lane: next.lane.rank(),
        due_at_ms: next.due_at_ms,
        step: next.step,
        attempt: next.attempt,
        nudged_at_ms,
        accepted,
        told_seq: wake.work_seq,
        high_day: today,
        high_count: used + i64::from(high),
    }
}
