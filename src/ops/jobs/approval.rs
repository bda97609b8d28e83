//! A second operator decides on what waits: a whole job above the budget, or wipes whose devices enrolled anew before they came.

use serde_json::json;

use super::make::lane_of;
use super::walk::walk;
use super::{AT_ONCE_MAX, AWAITING, Job, RETIRE, Selector, WAITING, budget, close_if_done, get};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Role};
use crate::ops::{alarms, devices as device_ops, tasks as task_ops};
use crate::store::feed::{self, Entry};
use crate::store::jobs::{self, JobRow};
use crate::store::tasks::{self, Ended, Ending};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, channels_lock, operators};

/// What a task that may go on has for an error: the words of its waiting are over.
const NO_ERROR: &str = "null";

/// Lets what waits of a job go on. The second is a person, and another than the one who ordered it or made the key that did.
pub async fn approve(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Job> {
    actor.require(Role::Operator)?;
    let mut job = jobs::lock(conn, id).await?.ok_or(Error::NotFound("job"))?;
    let whole = job.state == AWAITING;
    let waiting = waiting(conn, &job).await?;
    if job.expires_at_ms <= moment.now_ms {
        return Err(not_waiting(&job));
    }
    if !may_approve(conn, actor, &job.created_by).await? {
        let detail = "another person than the one who ordered it must approve it, at the console; an API key is never the second";
        return Err(Error::refused("second_operator_needed", detail));
    }
    let is_large = job.tasks > i64::try_from(AT_ONCE_MAX).unwrap_or(i64::MAX);
    let state = if whole && is_large { "expanding" } else { "running" };
    if whole && !jobs::decide(conn, id, state, moment.now_ms).await? {
        return Err(not_waiting(&job));
    }
    let devices = if whole { job.tasks } else { i64::try_from(waiting.len()).unwrap_or(i64::MAX) };
    budget::approved(conn, moment, id, devices).await?;
    let after = if whole { state } else { &job.state };
    let data = json!({"job_id": id, "kind": job.kind, "devices": devices, "before": {"state": job.state}, "after": {"state": after}});
    tell(conn, moment, actor, "job.approved", data).await?;
    let lane = if Selector::of(&job).bulk { crate::model::Lane::Bulk } else { lane_of(&job) };
    for chunk in waiting.chunks(AT_ONCE_MAX) {
        let raises: Vec<Raise> = chunk.iter().map(|task| Raise { channel_id: task.channel_id, lane }).collect();
        let going = |ended: &Ended| Ending { ended: ended.clone(), state: "queued", error: Some(NO_ERROR.into()), result: None };
        let goings = chunk.iter().map(going).collect();
        let channels: Vec<Id> = chunk.iter().map(|task| task.channel_id).collect();
        channels_lock(conn, &channels).await?;
        wakes::raise(conn, &raises, moment.now_ms).await?;
        task_ops::end(conn, moment, goings, Some(actor)).await?;
    }
    if whole {
        alarms::close(conn, moment, WAITING, &id.to_string()).await?;
        state.clone_into(&mut job.state);
        if is_large {
            job.begin_walk(jobs::MAKE, moment.now_ms);
            jobs::put(conn, &job).await?;
            walk(conn, moment, job, AT_ONCE_MAX).await?;
        } else if job.kind == RETIRE {
            device_ops::retired(conn, moment, actor, &Selector::of(&job).devices.unwrap_or_default()).await?;
        }
    }
    get(conn, id, None).await
}

/// Ends what waits of a job. Whoever may order may reject, also who ordered it.
pub async fn reject(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Job> {
    actor.require(Role::Operator)?;
    let job = jobs::lock(conn, id).await?.ok_or(Error::NotFound("job"))?;
    if job.state == "rejected" {
        return get(conn, id, None).await;
    }
    let waiting = waiting(conn, &job).await?;
    let whole = job.state == AWAITING;
    if whole && !jobs::decide(conn, id, "rejected", moment.now_ms).await? {
        return Err(not_waiting(&job));
    }
    let after = if whole { "rejected" } else { &job.state };
    let data = json!({"job_id": id, "kind": job.kind, "tasks": waiting.len(), "before": {"state": job.state}, "after": {"state": after}});
    tell(conn, moment, actor, "job.rejected", data).await?;
    let error = json!({"code": "rejected", "message": "an operator rejected it before it was delivered", "chain": []}).to_string();
    for chunk in waiting.chunks(AT_ONCE_MAX) {
        let ending = |ended: &Ended| Ending { ended: ended.clone(), state: "cancelled", error: Some(error.clone()), result: None };
        task_ops::end(conn, moment, chunk.iter().map(ending).collect(), Some(actor)).await?;
    }
    alarms::close(conn, moment, WAITING, &id.to_string()).await?;
    close_if_done(conn, moment, id).await?;
    get(conn, id, None).await
}

/// Ends up to `limit` jobs that waited until their time was over; answers how many. Their tasks expire by themselves.
pub async fn expire_waiting(conn: &mut Conn, moment: &mut Moment, limit: usize) -> Result<usize> {
    let mut ended = 0;
    for id in jobs::waited_in_vain(conn, moment.now_ms, i64::try_from(limit).unwrap_or(i64::MAX)).await? {
        if jobs::lock(conn, id).await?.is_some() && jobs::decide(conn, id, "rejected", moment.now_ms).await? {
            ended += 1;
            let data = json!({"job_id": id, "because": "expired", "before": {"state": AWAITING}, "after": {"state": "rejected"}});
            feed::append(conn, moment, &[Entry { kind: "job.rejected", actor: None, device_id: None, data }]).await?;
            alarms::close(conn, moment, WAITING, &id.to_string()).await?;
        }
    }
    Ok(ended)
}

/// True where this actor may be the second to what `orderer` ordered.
pub async fn may_approve(conn: &mut Conn, actor: &Actor, orderer: &str) -> Result<bool> {
    if !actor.person || actor.role < Role::Operator || actor.name == orderer {
        return Ok(false);
    }
    // Who makes a key and orders with it is one person, also through a key that the key has made.
    match orderer.strip_prefix("key:") {
        Some(key) => Ok(!operators::made_key(conn, key, &actor.name).await?),
        None => Ok(true),
    }
}

/// The tasks of a job that wait; refuses where neither the job nor any of them does.
async fn waiting(conn: &mut Conn, job: &JobRow) -> Result<Vec<Ended>> {
    let waiting = tasks::awaiting_of_job(conn, job.id, i64::MAX).await?;
    if waiting.is_empty() && job.state != AWAITING { Err(not_waiting(job)) } else { Ok(waiting) }
}

fn not_waiting(job: &JobRow) -> Error {
    Error::refused("job_not_waiting", format!("nothing of this job waits for a second operator; it is {}", job.state))
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, kind: &'static str, data: serde_json::Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: Some(actor.name.clone()), device_id: None, data }]).await
}
