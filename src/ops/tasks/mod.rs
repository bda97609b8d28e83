//! Tasks: cancelled, ordered again, ended by what happens to their device.

mod end;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Callers, Id, Lane, Role, schedule, secrets};
use crate::ops::jobs;
use crate::store::Conn;
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Ended, Over, TaskView};

/// How often a task is looked at again that contacts keep moving while it is cancelled.
const LOOKS_MAX: u32 = 5;

pub use end::{EndCause, WIPE_UNDELIVERED, cancelling, end, end_open, expire};

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
    /// Why an open task waits: `awaiting_contact`, `push_unconfigured`, `push_dead`, `no_push_address`, `device_silent`, `device_locked`,
    /// `device_unauthorized`, `held_by_budget` (its job is above the budget for destructive tasks), `awaiting_approval` (a wipe whose device
    /// enrolled anew before it came). A delivered one waits for the contact that brings its result. Derived at reading, so never out of date.
    pub reason: Option<String>,
    pub reason_since_ms: Option<i64>,
    /// When the device is called next, not before a sender that stands still goes on; null for what waits for a second operator, and at
    /// the end.
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

impl Task {
    /// A stored task as the API shows it at `now_ms`. Where the server cannot nudge, the next attempt is the channel's own next point.
    pub fn of(row: TaskView, now_ms: i64) -> Task {
        let waits = row.finished_at_ms.is_none() && row.state != "awaiting_approval";
        let own_point_ms = row.phase_s.filter(|_| waits).map(|phase_s| schedule::next_point_ms(now_ms, phase_s));
        let parsed = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
        Task {
            id: row.id,
            job_id: row.job_id,
            device_id: row.device_id,
            channel: row.channel,
            params: secrets::masked(&row.kind, serde_json::from_str(&row.params).unwrap_or_default()),
            kind: row.kind,
            lane: Lane::from_rank(row.lane).name(),
            state: row.state,
            reason: row.reason,
            reason_since_ms: row.reason_since_ms,
            next_attempt_at_ms: row.next_attempt_at_ms.or(own_point_ms),
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

/// Cancels a task. One that was delivered may be carried out all the same; its result is then kept as late. Cancelling again changes
/// nothing.
pub async fn cancel(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, callers: &Callers) -> Result<Task> {
    actor.require(Role::Operator)?;
    // A contact may move the task between the look and the change: it is looked at again.
    for _ in 0..LOOKS_MAX {
        let task = found(conn, id, callers).await?;
        if task.state == "cancelled" {
            return Ok(Task::of(task, moment.now_ms));
        }
        if task.finished_at_ms.is_some() {
            return Err(Error::refused("task_finished", format!("the task is {} already", task.state)));
        }
        let TaskView { id, job_id, device_id, channel_id, kind, state: was, .. } = task;
        let ended = Ended { id, job_id, device_id, channel_id, kind, was };
        if end::end(conn, moment, vec![cancelling(ended)], Some(actor)).await? == 1 {
            break;
        }
    }
    get(conn, moment, id, callers).await
}

/// One task.
pub async fn get(conn: &mut Conn, moment: &Moment, id: Id, callers: &Callers) -> Result<Task> {
    Ok(Task::of(found(conn, id, callers).await?, moment.now_ms))
}

/// A task by its id, or by the one that it had before its device was merged into another.
async fn found(conn: &mut Conn, id: Id, callers: &Callers) -> Result<TaskView> {
    if let Some(task) = tasks::get(conn, id, callers).await? {
        return Ok(task);
    }
    let moved = tasks::moved(conn, id).await?.ok_or(Error::NotFound("task"))?;
    tasks::get(conn, moved, callers).await?.ok_or(Error::NotFound("task"))
}

/// Orders a task again that failed, expired or was cancelled: a new task of the same job. The old one keeps its state and names the
/// new one.
pub async fn retry(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, callers: &Callers) -> Result<Task> {
    actor.require(Role::Operator)?;
    let task = found(conn, id, callers).await?;
    if let Some(by) = task.retried_by {
        let mut members = serde_json::Map::new();
        members.insert("retried_by".into(), json!(by));
        return Err(Error::refused_with("task_retried", "the task was ordered again before; see retried_by", members));
    }
    if !matches!(task.state.as_str(), "failed" | "expired" | "cancelled") {
        return Err(Error::refused("task_not_retryable", "only a task that failed, expired or was cancelled can be ordered again"));
    }
    let over = Over { id: task.id, device_id: task.device_id, channel_id: task.channel_id, state: task.state };
    let Some(fresh) = jobs::again(conn, moment, task.job_id, over).await? else {
        return Err(Error::refused("task_not_retryable", "the device cannot do this now, or the task was ordered again in this instant"));
    };
    let data = json!({"task_id": task.id, "by": fresh});
    feed::append(conn, moment, &[Entry { kind: "task.retried", actor: Some(actor.name.clone()), device_id: Some(task.device_id), data }])
        .await?;
    get(conn, moment, fresh, callers).await
}
