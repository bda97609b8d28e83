//! Tasks end outside their own contact: cancelled, expired, or by what happens to their device.

use std::collections::HashMap;

use serde_json::json;

use crate::clock::Moment;
use crate::error::Result;
use crate::model::kind::Kind;
use crate::model::{Actor, Id, Lane};
use crate::ops::{alarms, jobs};
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Ended, Ending};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, apple, tallies};

/// More tasks than this that end together are not told one by one.
const TOLD_EACH_MAX: usize = 50;
const LOCATE: &str = "locate";
/// The alarm of a wipe that waits for an operator; its subject is the device.
pub const WIPE_UNDELIVERED: &str = "wipe_undelivered";

/// Why a channel's open tasks end all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// It enrolled anew.
    ReEnrolled,
    /// It checked out, or its device was deleted.
    Left,
    /// It is denied for good: what a denied device may still be given stays.
    Retired,
}

impl EndCause {
    fn code(self) -> &'static str {
        match self {
            EndCause::ReEnrolled => "re_enrolled",
            EndCause::Left => "left",
            EndCause::Retired => "retired",
        }
    }

    fn words(self) -> &'static str {
        match self {
            EndCause::ReEnrolled => "the device enrolled anew",
            EndCause::Left => "the device left",
            EndCause::Retired => "the device was retired",
        }
    }
}

/// Ends the open tasks of channels. After a re-enrollment a delivered wipe is proved by it, after a check-out it failed; an undelivered
/// one waits for an operator, with an alarm: the phone may be in other hands now. The rest is cancelled and can be ordered again.
pub async fn end_open(conn: &mut Conn, moment: &mut Moment, channels: &[Id], cause: EndCause) -> Result<()> {
    let mut endings = Vec::new();
    let gone = cause != EndCause::Retired;
    for was in tasks::open_of(conn, channels).await? {
        if !gone && Kind::named(&was.kind).is_some_and(|kind| kind.for_denied) {
            continue;
        }
        let (state, message) = match (was.kind.as_str(), is_delivered(&was.was)) {
            ("wipe", true) if cause == EndCause::ReEnrolled => ("done", "the device enrolled anew after the wipe was delivered"),
            // The device has removed its management, as it was told.
            ("retire", true) if cause == EndCause::Left => ("done", "the device left after it was told to"),
            ("wipe", true) if gone => ("failed", "the device left after the wipe was delivered"),
            ("wipe", false) if was.was == "awaiting_approval" => continue,
            ("wipe", false) => {
                ("awaiting_approval", "a wipe was not delivered before the device enrolled anew or left; decide whether it still shall be")
            }
            _ => ("cancelled", cause.words()),
        };
        if state == "awaiting_approval" {
            alarms::open(conn, moment, WIPE_UNDELIVERED, &was.device_id.to_string(), message).await?;
        }
        let is_done = state == "done";
        endings.push(Ending {
            ended: was,
            state,
            error: (!is_done).then(|| json!({"code": cause.code(), "message": message, "chain": []}).to_string()),
            result: is_done.then(|| json!({"evidence": cause.code()}).to_string()),
        });
    }
    // What the device has of them is over with its enrollment.
    finish(conn, moment, endings, None).await.map(drop)
}

/// A task that is cancelled, with honest words: what was delivered may be carried out all the same.
pub fn cancelling(ended: Ended) -> Ending {
    let message = if is_delivered(&ended.was) {
        "cancelled after delivery: the device may carry it out all the same, and its result is then kept as late"
    } else {
        "cancelled before delivery"
    };
    let error = json!({"code": "cancelled", "message": message, "chain": []}).to_string();
    Ending { ended, state: "cancelled", error: Some(error), result: None }
}

fn is_delivered(state: &str) -> bool {
    matches!(state, "delivered" | "received" | "running" | "not_now")
}

/// Ends tasks that are still in the state they were seen in, moves their counts and tells of them; answers how many.
///
/// A device that one of them has marked as lost is called: the server ends that by itself.
pub async fn end(conn: &mut Conn, moment: &mut Moment, endings: Vec<Ending>, actor: Option<&Actor>) -> Result<usize> {
    let locating: Vec<(Id, Id)> =
        endings.iter().map(|ending| &ending.ended).filter(|ended| ended.kind == LOCATE).map(|ended| (ended.device_id, ended.id)).collect();
    if !locating.is_empty() {
        let lost = apple::lost_to(conn, &locating).await?;
        let raises: Vec<Raise> = lost.into_iter().map(|channel_id| Raise { channel_id, lane: Lane::Urgent }).collect();
        wakes::raise(conn, &raises, moment.now_ms).await?;
    }
    finish(conn, moment, endings, actor).await
}

async fn finish(conn: &mut Conn, moment: &mut Moment, endings: Vec<Ending>, actor: Option<&Actor>) -> Result<usize> {
    let states: HashMap<Id, &'static str> = endings.iter().map(|ending| (ending.ended.id, ending.state)).collect();
    let ended = tasks::end(conn, endings, moment.now_ms).await?;
    let ended: Vec<(Ended, &'static str)> =
        ended.into_iter().filter_map(|ended| states.get(&ended.id).map(|state| (ended, *state))).collect();
    told(conn, moment, &ended, actor).await?;
    Ok(ended.len())
}

/// Ends up to `limit` tasks whose time is over; answers how many. Wakes are left alone but for what was being located: the next contact
/// finds nothing open.
pub async fn expire(conn: &mut Conn, moment: &mut Moment, limit: i64) -> Result<usize> {
    let over = tasks::expired(conn, moment.now_ms, limit).await?;
    end(conn, moment, over, None).await
}

/// Moves counts and tells: one entry each for a few, one for each kind of end of many.
async fn told(conn: &mut Conn, moment: &mut Moment, ended: &[(Ended, &'static str)], actor: Option<&Actor>) -> Result<()> {
    let mut counts = Vec::with_capacity(ended.len() * 2);
    for (one, state) in ended {
        counts.push((jobs::topic(one.job_id), one.was.clone(), -1));
        counts.push((jobs::topic(one.job_id), (*state).to_owned(), 1));
    }
    tallies::add(conn, moment, &counts).await?;
    let actor = actor.map(|actor| actor.name.clone());
    let mut entries = Vec::new();
    if ended.len() <= TOLD_EACH_MAX {
        for (one, state) in ended {
            let mut data = json!({"task_id": one.id, "job_id": one.job_id, "was": one.was});
            if actor.is_some() {
                data["before"] = json!({"state": one.was});
                data["after"] = json!({"state": state});
            }
            entries.push(Entry { kind: kind_of(state), actor: actor.clone(), device_id: Some(one.device_id), data });
        }
    } else {
        let mut sums: HashMap<&'static str, usize> = HashMap::new();
        for (_, state) in ended {
            *sums.entry(kind_of(state)).or_default() += 1;
        }
        entries.extend(sums.into_iter().map(|(kind, n)| Entry { kind, actor: actor.clone(), device_id: None, data: json!({"tasks": n}) }));
    }
    feed::append(conn, moment, &entries).await?;
    // A wipe that waited for a decision has got one.
    for (one, _) in ended.iter().filter(|(one, _)| one.was == "awaiting_approval") {
        alarms::close(conn, moment, WIPE_UNDELIVERED, &one.device_id.to_string()).await?;
    }
    Ok(())
}

fn kind_of(state: &str) -> &'static str {
    match state {
        "done" => "task.done",
        "failed" => "task.failed",
        "expired" => "task.expired",
        "awaiting_approval" => "task.awaiting_approval",
        "superseded" => "task.superseded",
        "queued" => "task.queued",
        _ => "task.cancelled",
    }
}
