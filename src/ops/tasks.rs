//! Tasks: cancelled, ordered again, ended by what happens to their device.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Lane, Role, kind};
use crate::ops::{alarms, jobs};
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Ended, Ending, TaskView};
use crate::store::{Conn, tallies};

/// A task as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Task {
    pub id: Id,
    pub job_id: Id,
    pub device_id: Id,
    /// `agent` or `mdm`.
    pub channel: String,
    pub kind: String,
    /// Secrets are masked.
    pub params: Value,
    pub lane: &'static str,
    pub state: String,
    /// Why an open task waits.
    pub reason: Option<String>,
    pub reason_since_ms: Option<i64>,
    /// When the device is called next.
    pub next_attempt_at_ms: Option<i64>,
    /// How often it was delivered.
    pub attempt: i64,
    pub created_at_ms: i64,
    pub delivered_at_ms: Option<i64>,
    pub finished_at_ms: Option<i64>,
    pub expires_at_ms: i64,
    pub progress: Value,
    /// {code, message, chain}: the device's own words.
    pub error: Value,
    pub result: Value,
    /// A result that came after the end.
    pub late: Value,
    /// The task that was ordered in its place.
    pub retried_by: Option<Id>,
    /// The device in words: serial number, model, the user's e-mail address.
    pub device: DeviceWords,
}

/// A device in words.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceWords {
    pub serial: Option<String>,
    pub model: String,
    pub email: Option<String>,
}

impl From<TaskView> for Task {
    fn from(row: TaskView) -> Task {
        let parsed = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
        Task {
            id: row.id,
            job_id: row.job_id,
            device_id: row.device_id,
            channel: row.channel,
            params: kind::masked(&row.kind, serde_json::from_str(&row.params).unwrap_or_else(|_| json!({}))),
            kind: row.kind,
            lane: Lane::from_rank(row.lane).name(),
            state: row.state,
            reason: row.reason,
            reason_since_ms: row.reason_since_ms,
            next_attempt_at_ms: row.next_attempt_at_ms,
            attempt: row.attempt,
            created_at_ms: row.created_at_ms,
            delivered_at_ms: row.delivered_at_ms,
            finished_at_ms: row.finished_at_ms,
            expires_at_ms: row.expires_at_ms,
            progress: parsed(row.progress),
            error: parsed(row.error),
            result: parsed(row.result),
            late: parsed(row.late),
            retried_by: row.retried_by,
            device: DeviceWords { serial: row.serial, model: row.model, email: row.email },
        }
    }
}

/// Why a channel's open tasks end all at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// It enrolled anew.
    ReEnrolled,
    /// It checked out.
    Left,
}

/// Ends the open tasks of channels: a delivered wipe is proved by the re-enrollment, or failed where the device left; an undelivered
/// one waits for an operator, with an alarm; the rest is cancelled and can be ordered again.
pub async fn end_open(conn: &mut Conn, moment: &mut Moment, channels: &[Id], cause: EndCause) -> Result<()> {
    let code = if cause == EndCause::ReEnrolled { "re_enrolled" } else { "left" };
    let mut endings = Vec::new();
    for (ended, kind) in tasks::open_of(conn, channels).await? {
        let delivered = matches!(ended.was.as_str(), "delivered" | "received" | "running" | "not_now");
        let (state, message) = match (kind.as_str(), delivered, cause) {
            ("wipe", true, EndCause::ReEnrolled) => ("done", "the device enrolled anew after the wipe was delivered"),
            ("wipe", true, EndCause::Left) => ("failed", "the device left after the wipe was delivered"),
            ("wipe", false, _) if ended.was == "awaiting_approval" => continue,
            ("wipe", false, _) => {
                ("awaiting_approval", "the device enrolled anew before the wipe was delivered; decide whether it still shall")
            }
            (_, _, EndCause::ReEnrolled) => ("cancelled", "the device enrolled anew"),
            (_, _, EndCause::Left) => ("cancelled", "the device left"),
        };
        if state == "awaiting_approval" {
            alarms::open(conn, moment, "wipe_undelivered", &ended.device_id.to_string(), message).await?;
        }
        let error = (state != "done").then(|| json!({"code": code, "message": message, "chain": []}).to_string());
        endings.push(Ending { ended, state, error });
    }
    let states: Vec<(Id, &'static str)> = endings.iter().map(|ending| (ending.ended.id, ending.state)).collect();
    let ended = tasks::end(conn, endings, moment.now_ms).await?;
    for (id, state) in states {
        let of_state: Vec<Ended> = ended.iter().filter(|one| one.id == id).cloned().collect();
        told(conn, moment, &of_state, state, None).await?;
    }
    Ok(())
}

/// Cancels a task. One that was delivered may be carried out all the same; its result is then recorded as late.
pub async fn cancel(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, senders: &str) -> Result<Task> {
    actor.require(Role::Operator)?;
    let task = tasks::get(conn, id, senders).await?.ok_or(Error::NotFound("task"))?;
    if task.finished_at_ms.is_some() {
        return Err(Error::refused("task_finished", format!("the task is {} already", task.state)));
    }
    let ended = Ended { id, job_id: task.job_id, device_id: task.device_id, channel_id: id, was: task.state };
    let ending = Ending { error: Some(cancelled(&ended.was)), ended, state: "cancelled" };
    let done = tasks::end(conn, vec![ending], moment.now_ms).await?;
    told(conn, moment, &done, "cancelled", Some(actor)).await?;
    Ok(tasks::get(conn, id, senders).await?.ok_or(Error::NotFound("task"))?.into())
}

/// What a cancelled task says of itself.
pub fn cancelled(was: &str) -> String {
    let message =
        if was == "queued" { "cancelled before delivery" } else { "cancelled after delivery: the device may have carried it out" };
    json!({"code": "cancelled", "message": message, "chain": []}).to_string()
}

/// Orders a task again that failed, expired or was cancelled: a new task of the same job. The old one keeps its state.
pub async fn retry(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, senders: &str) -> Result<Task> {
    actor.require(Role::Operator)?;
    let task = tasks::get(conn, id, senders).await?.ok_or(Error::NotFound("task"))?;
    if !matches!(task.state.as_str(), "failed" | "expired" | "cancelled") || task.retried_by.is_some() {
        return Err(Error::refused("task_not_retryable", "only a task that failed, expired or was cancelled can be ordered again, once"));
    }
    let made = jobs::again(conn, moment, task.job_id, &[(id, task.device_id, task.state)]).await?;
    let data = json!({"task_id": id, "by": made});
    feed::append(conn, moment, &[Entry { kind: "task.retried", actor: Some(actor.name.clone()), device_id: Some(task.device_id), data }])
        .await?;
    let fresh = made.first().copied().ok_or(Error::NotFound("task"))?;
    Ok(tasks::get(conn, fresh, senders).await?.ok_or(Error::NotFound("task"))?.into())
}

/// Ends tasks whose time is over; answers how many.
pub async fn expire(conn: &mut Conn, moment: &mut Moment, limit: i64) -> Result<usize> {
    let ended = tasks::expire(conn, moment.now_ms, limit).await?;
    told(conn, moment, &ended, "expired", None).await?;
    Ok(ended.len())
}

/// Moves the counts of ended tasks and tells of them: one entry each for a few, one for all of many.
pub async fn told(conn: &mut Conn, moment: &mut Moment, ended: &[Ended], state: &'static str, actor: Option<&Actor>) -> Result<()> {
    const TOLD_EACH_MAX: usize = 50;
    let mut counts = Vec::with_capacity(ended.len() * 2);
    for one in ended {
        counts.push((jobs::topic(one.job_id), one.was.clone(), -1));
        counts.push((jobs::topic(one.job_id), state.to_owned(), 1));
    }
    tallies::add(conn, moment, &counts).await?;
    let kind = match state {
        "done" => "task.done",
        "failed" => "task.failed",
        "expired" => "task.expired",
        "awaiting_approval" => "task.awaiting_approval",
        _ => "task.cancelled",
    };
    let actor = actor.map(|actor| actor.name.clone());
    let entries: Vec<Entry> = if ended.len() <= TOLD_EACH_MAX {
        let entry = |one: &Ended| Entry {
            kind,
            actor: actor.clone(),
            device_id: Some(one.device_id),
            data: json!({"task_id": one.id, "job_id": one.job_id, "was": one.was}),
        };
        ended.iter().map(entry).collect()
    } else {
        vec![Entry { kind, actor, device_id: None, data: json!({"tasks": ended.len()}) }]
    };
    feed::append(conn, moment, &entries).await
}
