//! What goes on with a job after it was accepted, one chunk a transaction: its tasks are made, cancelled, or ordered again.

use std::collections::HashMap;

use serde_json::json;

use super::make::{self, Wanted};
use super::{AT_ONCE_MAX, AWAITING, Job, RETIRE, Selector, WAITING, budget, close_if_done, get, topic};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Role};
use crate::ops::{alarms, devices as device_ops, tasks as task_ops};
use crate::store::feed::{self, Entry};
use crate::store::jobs::{self, JobRow};
use crate::store::tasks::{self, Again, Ending, Over};
use crate::store::{Conn, tallies};

/// A number of rows as the store asks for it.
fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl JobRow {
    /// Begins a walk at its beginning.
    pub(super) fn begin_walk(&mut self, walk: &str, now_ms: i64) {
        self.walk = walk.to_owned();
        self.walk_at_ms = now_ms;
        self.expand_after.clear();
    }
}

/// Cancels a job: what is open ends, what is not made is never made. A task that was delivered may be carried out all the same, and
/// says so. Cancelling again changes nothing.
pub async fn cancel(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Job> {
    actor.require(Role::Operator)?;
    let mut job = jobs::lock(conn, id).await?.ok_or(Error::NotFound("job"))?;
    match job.state.as_str() {
        "cancelled" => return get(conn, id, None).await,
        AWAITING => alarms::close(conn, moment, WAITING, &id.to_string()).await?,
        "done" | "rejected" => return Err(Error::refused("job_finished", format!("the job is {}: nothing of it is open", job.state))),
        _ => {}
    }
    let was = std::mem::replace(&mut job.state, "cancelled".into());
    job.finished_at_ms = Some(moment.now_ms);
    job.begin_walk(jobs::CANCEL, moment.now_ms);
    jobs::put(conn, &job).await?;
    let data = json!({"job_id": id, "kind": job.kind, "before": {"state": was}, "after": {"state": job.state}});
    feed::append(conn, moment, &[Entry { kind: "job.cancelled", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    walk(conn, moment, job, AT_ONCE_MAX).await?;
    get(conn, id, None).await
}

/// Orders everything again that failed, expired or was cancelled and was not ordered again yet. More than 500 go in the background.
pub async fn retry(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Job> {
    actor.require(Role::Operator)?;
    let mut job = jobs::lock(conn, id).await?.ok_or(Error::NotFound("job"))?;
    retryable(&job)?;
    if !job.walk.is_empty() {
        return Err(Error::refused("job_expanding", "the job's tasks are still being made; try again when it is running"));
    }
    if budget::counts(&job) {
        let over = tasks::over_count(conn, id, moment.now_ms).await?;
        budget::spend_again(conn, moment, &job, over).await?;
    }
    let was = std::mem::replace(&mut job.state, "expanding".into());
    job.finished_at_ms = None;
    job.begin_walk(jobs::RETRY, moment.now_ms);
    jobs::put(conn, &job).await?;
    let data = json!({"job_id": id, "kind": job.kind, "before": {"state": was}, "after": {"state": job.state}});
    feed::append(conn, moment, &[Entry { kind: "job.retried", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    walk(conn, moment, job, AT_ONCE_MAX).await?;
    get(conn, id, None).await
}

/// Refuses where nothing of a job may be ordered again.
fn retryable(job: &JobRow) -> Result<()> {
    match job.state.as_str() {
        "rejected" | AWAITING => Err(Error::refused("job_not_approved", format!("the job is {}; order a new one", job.state))),
        "cancelled" if job.walk == jobs::CANCEL => {
            Err(Error::refused("job_cancelling", "the job's tasks are still being cancelled; try again in a moment"))
        }
        _ => Ok(()),
    }
}

/// Orders one task again; answers the new one, or `None` where it was ordered again before.
pub(in crate::ops) async fn again(conn: &mut Conn, moment: &mut Moment, job: Id, over: Over) -> Result<Option<Id>> {
    let mut job = jobs::lock(conn, job).await?.ok_or(Error::NotFound("job"))?;
    retryable(&job)?;
    if budget::counts(&job) {
        budget::spend_again(conn, moment, &job, 1).await?;
    }
    let made = make_again(conn, moment, &job, &[over]).await?;
    if !made.is_empty() && job.walk.is_empty() {
        job.state = "running".into();
        job.finished_at_ms = None;
        jobs::put(conn, &job).await?;
    }
    Ok(made.first().copied())
}

/// Takes the next chunk, `limit` rows at most, of the job whose turn it is; true where there was one.
pub async fn step(conn: &mut Conn, moment: &mut Moment, limit: usize) -> Result<bool> {
    match jobs::next_walk(conn).await? {
        Some(job) => walk(conn, moment, job, limit).await.map(|()| true),
        None => Ok(false),
    }
}

/// One chunk of a locked job's walk.
pub(super) async fn walk(conn: &mut Conn, moment: &mut Moment, mut job: JobRow, limit: usize) -> Result<()> {
    let ended = match job.walk.as_str() {
        jobs::MAKE => expand(conn, moment, &mut job, limit).await?,
        jobs::CANCEL => cancel_chunk(conn, moment, &mut job, limit).await?,
        _ => retry_chunk(conn, moment, &mut job, limit).await?,
    };
    if ended {
        job.walk.clear();
        if job.state == "expanding" {
            job.state = "running".into();
        }
    }
    jobs::put(conn, &job).await?;
    if ended {
        close_if_done(conn, moment, job.id).await?;
    }
    Ok(())
}

/// Makes tasks for the next devices; true at the end.
async fn expand(conn: &mut Conn, moment: &mut Moment, job: &mut JobRow, limit: usize) -> Result<bool> {
    let selector = Selector::of(job);
    let (found, ended);
    if let Some(listed) = &selector.devices {
        let from = listed.partition_point(|id| id.to_string() <= job.expand_after);
        found = listed[from..].iter().take(limit).copied().collect::<Vec<Id>>();
        ended = from + found.len() >= listed.len();
    } else if let Some(label) = selector.label {
        found = jobs::labelled(conn, label, &job.expand_after, job.created_at_ms, rows(limit)).await?;
        ended = found.len() < limit;
    } else {
        found = jobs::everybody(conn, &job.expand_after, job.created_at_ms, rows(limit)).await?;
        ended = found.len() < limit;
    }
    if let Some(last) = found.last()
        && !ended
    {
        job.expand_after = last.to_string();
    }
    let wanted: Vec<Wanted> = found.iter().copied().map(Wanted::first).collect();
    let made = make::make(conn, moment, job, &wanted).await?;
    if job.kind == RETIRE {
        let orderer = Actor { name: job.created_by.clone(), ..Actor::server() };
        device_ops::retired(conn, moment, &orderer, &found).await?;
    }
    let data = json!({"job_id": job.id, "tasks": made.len()});
    feed::append(conn, moment, &[Entry { kind: "job.expanded", actor: None, device_id: None, data }]).await?;
    Ok(ended)
}

/// Cancels the next open tasks; true at the end.
async fn cancel_chunk(conn: &mut Conn, moment: &mut Moment, job: &mut JobRow, limit: usize) -> Result<bool> {
    let open = tasks::open_of_job(conn, job.id, &job.expand_after, rows(limit)).await?;
    let ended = open.len() < limit;
    if let Some(last) = open.last() {
        job.expand_after = last.id.to_string();
    }
    let endings: Vec<Ending> = open.into_iter().map(task_ops::cancelling).collect();
    task_ops::end(conn, moment, endings, None).await?;
    Ok(ended)
}

/// Orders the next ended tasks again; true at the end.
async fn retry_chunk(conn: &mut Conn, moment: &mut Moment, job: &mut JobRow, limit: usize) -> Result<bool> {
    let over = tasks::over_of_job(conn, job.id, &job.expand_after, job.walk_at_ms, rows(limit)).await?;
    let ended = over.len() < limit;
    if let Some(last) = over.last() {
        job.expand_after = last.id.to_string();
    }
    make_again(conn, moment, job, &over).await?;
    Ok(ended)
}

/// Makes a new task in the place of each; the old one keeps its state and names the new one, and is counted no more.
async fn make_again(conn: &mut Conn, moment: &mut Moment, job: &JobRow, over: &[Over]) -> Result<Vec<Id>> {
    let wanted: Vec<Wanted> = over.iter().map(Wanted::again).collect();
    let made = make::make(conn, moment, job, &wanted).await?;
    let pairs: Vec<Again> =
        made.iter().filter_map(|made| made.again.map(|old| Again { bucket: old.bucket(), id: old, by: made.id })).collect();
    let states: HashMap<Id, &str> = over.iter().map(|over| (over.id, over.state.as_str())).collect();
    let counts: Vec<(String, String, i64)> = tasks::retried(conn, &pairs)
        .await?
        .into_iter()
        .filter_map(|old| Some((topic(job.id), (*states.get(&old)?).to_owned(), -1)))
        .collect();
    tallies::add(conn, moment, &counts).await?;
    Ok(made.into_iter().map(|made| made.id).collect())
}
