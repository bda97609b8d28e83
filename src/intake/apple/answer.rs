//! The next command: one an answer, the urgent first, each again under the same id until its final status has come.

use serde_json::{Value, json};

use super::super::answers::{Out, note, reset};
use super::super::contacts::{Heard, Visit};
use crate::app::App;
use crate::clock::Moment;
use crate::model::kind::Kind;
use crate::model::schedule::{DOCUMENT_PATIENCE_MS, OpenWork};
use crate::model::{Denial, Id, Lane};
use crate::ops::mdm::lost::{self, Lost};
use crate::ops::mdm::own::{self, Keep, Own, Renewal, Words};
use crate::ops::mdm::plan::{self, Facing, Next, Progress};
use crate::ops::mdm::{checkin, command_id};
use crate::ops::{ca, jobs};
use crate::protocol::apple::{Report, Status, profile};
use crate::store::feed::Entry;
use crate::store::tasks::{OpenTask, TaskChange};

/// NotNow as the last word: the device comes by itself when it can; the server asks after so long, doubling.
const LOCKED_FIRST_MS: i64 = 30 * 60_000;
/// NotNow and then something else: the device does not come by itself.
const PUT_OFF_FIRST_MS: i64 = 5 * 60_000;
const PUT_OFF_LAST_MS: i64 = 6 * 3_600_000;
/// A command that was put off is given once more in the same conversation, not oftener.
const PER_SESSION_MAX: u32 = 2;
const LOCATE: &str = "locate";
const RETIRE: &str = "retire";

/// A command on its way.
struct Going {
    uuid: String,
    words: Words,
    task: Option<usize>,
}

/// Gives the visit its next command and sets its wake by what is left open.
pub(in crate::intake) fn answer(app: &App, moment: &mut Moment, visit: &mut Visit<'_>, open: Vec<OpenTask>, out: &mut Out) -> Heard {
    let now_ms = moment.now_ms;
    let status = visit.report().map_or(Status::Idle, |report| report.status);
    let is_denied = visit.standing.denied.is_some();
    let mut open: Vec<OpenTask> =
        open.into_iter().filter(|task| !is_denied || Kind::named(&task.kind).is_some_and(|kind| kind.for_denied)).collect();
    let facing = facing(app, visit);
    let lost_by = lost::left_by(visit.reported.enrollment.as_ref().filter(|_| visit.standing.subject.is_empty()), &open);
    let mut going = None;
    // Between Authenticate and TokenUpdate what was ordered waits: the enrollment may still fail.
    let is_enrolled = visit.reported.enrollment.as_ref().is_some_and(|enrollment| enrollment.state == "enrolled");
    let mut at = if is_enrolled { 0 } else { open.len() };
    while going.is_none() && at < open.len() {
        let task = &open[at];
        if task.kind == RETIRE && lost_by.is_some() && speaks(visit, status) {
            // Nobody could end its lost mode once it is managed no more.
            break;
        }
        let progress = Progress::read(task.progress.as_deref());
        if is_skipped(task, &progress, status) {
            at += 1;
            continue;
        }
        let params = jobs::load_params(&app.seal, &task.kind, task.job_id, &task.params);
        match plan::next(&task.kind, &params, &progress, &facing, now_ms) {
            Next::Send(command) => {
                let uuid = command_id::of(task.id, task.command_uuid.as_deref(), progress.step);
                going = Some(Going { uuid, words: Words::Command(command), task: Some(at) });
            }
            Next::Wait(_) => at += 1,
            Next::Fail(code, message) => {
                let task = open.remove(at);
                fail(visit, &task, code, message, out);
            }
        }
    }
    if going.is_none() {
        let own = by_itself(app, moment, visit, (status, lost_by), &facing, out);
        going = own.map(|own| Going { uuid: own.uuid, words: own.words, task: None });
    }
    let fresh = going.as_ref().map_or(0, |going| deliver(visit, going, &open, status, out));
    visit.fruitful |= fresh > 0;
    visit.steps.served += fresh;
    let asks = lost_by.is_some() || visit.reported.own_put_off || going.as_ref().is_some_and(|going| going.task.is_none());
    let work = left_open(&open, asks, status, now_ms);
    reset(moment, visit, work, out);
    note(moment, visit, fresh, None, out);
    match going {
        None if keeps_its_management(visit) => Heard::Unrecognized,
        None => Heard::Command(None),
        Some(Going { uuid, words: Words::Command(command), .. }) => Heard::Command(Some(command.to_xml(&uuid))),
        Some(Going { uuid, words: Words::Profile(profile), .. }) => Heard::Profile(uuid, Box::new(profile)),
    }
}

fn facing(app: &App, visit: &Visit<'_>) -> Facing {
    let standing = &visit.standing;
    let name = checkin::secret_name(standing.device_id, "unlock_token");
    let sealed = visit.reported.enrollment.as_ref().and_then(|enrollment| enrollment.unlock_token.as_ref());
    let unlock_token = sealed.and_then(|sealed| app.seal.open(&name, sealed).ok());
    let is_lost = lost::is_not_ours(visit.reported.enrollment.as_ref());
    Facing { platform: standing.platform.clone(), unlock_token, profile: profile::identifier(&app.config.public_url), is_lost }
}

/// True where the server may say something by itself in this conversation.
fn speaks(visit: &Visit<'_>, status: Status) -> bool {
    status != Status::NotNow && !visit.reported.own_put_off
}

/// True where a device that was dismissed for good has just refused to remove its management, as one does whose profile nobody may remove.
fn keeps_its_management(visit: &Visit<'_>) -> bool {
    let refuses = |report: &Report| report.status == Status::Error && report.command_uuid.as_deref().is_some_and(own::is_removal);
    let denial = visit.standing.denied.as_deref().and_then(Denial::named);
    denial.is_some_and(Denial::is_for_good) && visit.report().is_some_and(refuses)
}

/// After a NotNow nothing that was put off is given; after any other status it is, but not for ever in one conversation.
fn is_skipped(task: &OpenTask, progress: &Progress, status: Status) -> bool {
    let Some(not_now) = progress.not_now.as_ref().filter(|_| task.state == "not_now") else { return false };
    match status {
        Status::NotNow => true,
        Status::Idle => false,
        _ => not_now.in_this_session >= PER_SESSION_MAX,
    }
}

/// What the server wants by itself, behind every task: what a `locate` has left lost is found, a management that is over is removed, a device
/// is asked about itself.
fn by_itself(
    app: &App,
    moment: &mut Moment,
    visit: &mut Visit<'_>,
    (status, lost_by): (Status, Option<Id>),
    facing: &Facing,
    out: &mut Out,
) -> Option<Own> {
    if !speaks(visit, status) {
        return None;
    }
    if let Some(task) = lost_by {
        return Some(own::lost_mode_off(task));
    }
    let news = visit.reported.news.take();
    let enrollment = visit.reported.enrollment.as_ref()?;
    if !visit.standing.subject.is_empty() {
        // A user is told of declarations, then that this was everything, and asked nothing.
        let configured = (visit.standing.awaiting_configuration == 1).then(|| own::user_configured(visit.standing.id));
        return news.map(own::tell).or(configured).filter(|_| enrollment.state == "enrolled");
    }
    if let Some(denied) = &visit.standing.denied {
        // Once a conversation: its own report asks for the next command too.
        let is_over = Denial::named(denied).is_some_and(Denial::is_for_good) && status == Status::Idle;
        return is_over.then(|| own::removal(enrollment, &facing.profile));
    }
    // Only a profile that goes out has a challenge.
    let renewal = visit.reported.is_to_be_renewed.then(|| {
        let (challenge, row) = ca::unkept_challenge(moment, enrollment.token_id, Some(enrollment.device_id));
        out.challenges.push(row);
        Renewal { topic: enrollment.topic.clone(), challenge }
    });
    let own = own::next(enrollment, app.config.mdm.refresh_every_s, renewal, news, moment.now_ms)?;
    match &own.keep {
        Keep::Nothing => {}
        Keep::Refresh(row) => out.refreshes.push(row.clone()),
        Keep::RenewAt(at_ms) => out.renewals.push((enrollment.device_id, *at_ms)),
    }
    Some(own)
}

/// Notes that a task goes out, where one does; answers 1 where it does so for the first time.
fn deliver(visit: &Visit<'_>, going: &Going, open: &[OpenTask], status: Status, out: &mut Out) -> i64 {
    let Some(task) = going.task.and_then(|at| open.get(at)) else { return 0 };
    let mut change = TaskChange::delivered(task.id);
    let mut progress = Progress::read(task.progress.as_deref());
    if status == Status::Idle
        && let Some(not_now) = progress.not_now.as_mut()
        && not_now.in_this_session > 0
    {
        // A new conversation: what it may be given is counted anew. Its state stays as it is.
        not_now.in_this_session = 0;
        change.progress = Some(progress.text());
    }
    if task.kind == LOCATE {
        progress.given += 1;
        change.progress = Some(progress.text());
        let marks = matches!(&going.words, Words::Command(command) if command.request_type() == "EnableLostMode");
        if marks && visit.standing.subject.is_empty() {
            // It may hear it and its answer be lost: from now on it is the task's.
            out.lost.push((visit.standing.device_id, Lost::Locate(task.id)));
        }
    }
    out.deliveries.push(change);
    if task.state != "queued" {
        return 0;
    }
    out.counts.push((jobs::topic(task.job_id), "queued".into(), -1));
    out.counts.push((jobs::topic(task.job_id), "delivered".into(), 1));
    let data = json!({"task_id": task.id, "job_id": task.job_id, "kind": task.kind});
    out.entries.push(Entry { kind: "task.delivered", actor: None, device_id: Some(visit.standing.device_id), data });
    1
}

/// A task that cannot become a command ends here, with its reason.
fn fail(visit: &Visit<'_>, task: &OpenTask, code: &str, message: &str, out: &mut Out) {
    let error = json!({"code": code, "message": message, "chain": []});
    let (id, bucket) = (task.id, task.id.bucket());
    out.deliveries.push(TaskChange {
        bucket,
        id,
        state: "failed".into(),
        progress: None,
        error: Some(error.to_string()),
        result: None,
        late: None,
    });
    out.counts.push((jobs::topic(task.job_id), task.state.clone(), -1));
    out.counts.push((jobs::topic(task.job_id), "failed".into(), 1));
    let data: Value = json!({"task_id": task.id, "job_id": task.job_id, "kind": task.kind, "error": error});
    out.entries.push(Entry { kind: "task.failed", actor: None, device_id: Some(visit.standing.device_id), data });
}

fn left_open(open: &[OpenTask], asks: bool, status: Status, now_ms: i64) -> Vec<OpenWork> {
    let mut work: Vec<OpenWork> = open
        .iter()
        .map(|task| {
            let progress = Progress::read(task.progress.as_deref());
            let patience_ms = match (&progress.not_now, progress.wait_until_ms) {
                (Some(not_now), _) if task.state == "not_now" => put_off_ms(not_now.count, status),
                (_, Some(until_ms)) if until_ms > now_ms => until_ms - now_ms,
                _ => Kind::named(&task.kind).map_or(DOCUMENT_PATIENCE_MS, Kind::patience_ms),
            };
            OpenWork { last_ms: now_ms, patience_ms, urgent: task.lane == Lane::Urgent.rank() && task.state != "not_now" }
        })
        .collect();
    if asks {
        work.push(OpenWork { last_ms: now_ms, patience_ms: DOCUMENT_PATIENCE_MS, urgent: false });
    }
    work
}

/// How long to wait for a device that said NotNow so often, and this last.
fn put_off_ms(count: u32, last: Status) -> i64 {
    let first_ms = if last == Status::NotNow { LOCKED_FIRST_MS } else { PUT_OFF_FIRST_MS };
    (first_ms << count.saturating_sub(1).min(8)).min(PUT_OFF_LAST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_device_is_asked_after_half_an_hour_one_that_went_on_after_five_minutes_each_doubling_to_six_hours() {
        let minutes = |last| [1, 2, 3, 8, 100].map(|count| put_off_ms(count, last) / 60_000);
        assert_eq!(minutes(Status::NotNow), [30, 60, 120, 360, 360]);
        assert_eq!(minutes(Status::Acknowledged), [5, 10, 20, 360, 360]);
    }
}
