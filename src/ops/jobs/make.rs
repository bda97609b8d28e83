//! Tasks come to be: in the job's own transaction, in a chunk of the background, or in the contact of a phone that comes in early.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::json;

use super::{AWAITING, Selector, topic};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::kind::Kind;
use crate::model::{Id, Lane};
use crate::ops::mdm::{USER_ENROLLMENT, raw};
use crate::ops::tasks as task_ops;
use crate::store::feed::{self, Entry};
use crate::store::jobs::{self, Aim, JobRow};
use crate::store::tasks::{self, Ending, NewTask, Of, Over};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, channels_lock, labels, tallies};

/// More new tasks than this are not told one by one.
const TOLD_EACH_MAX: usize = 50;

/// A device for which a task is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    device: Id,
    /// The one channel that is meant, where it is a user's.
    channel: Option<Id>,
    /// The task that is ordered again.
    again: Option<Id>,
}

impl Wanted {
    pub(super) fn first(device: Id) -> Wanted {
        Wanted { device, channel: None, again: None }
    }

    /// For a user of a device, who has a channel.
    pub(super) fn of_user(device: Id, channel: Id) -> Wanted {
        Wanted { device, channel: Some(channel), again: None }
    }

    pub(super) fn again(over: &Over) -> Wanted {
        Wanted { device: over.device_id, channel: Some(over.channel_id), again: Some(over.id) }
    }
}

/// A task that was made, and the one that it was made for again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) id: Id,
    pub(super) again: Option<Id>,
}

/// Makes a job's tasks, counts them and raises their channels: a constant number of statements. What is there already stays as it is,
/// so the same devices twice do no harm. A task that is ordered again is made only for a device that can do it now.
pub(super) async fn make(conn: &mut Conn, moment: &mut Moment, job: &JobRow, wanted: &[Wanted]) -> Result<Vec<Made>> {
    let (fresh, made) = insert(conn, moment, job, wanted).await?;
    note_duplicates(conn, job, wanted).await?;
    let lane = if Selector::of(job).bulk { Lane::Bulk } else { lane_of(job) };
    let raises: Vec<Raise> =
        fresh.iter().filter(|task| task.state == "queued").map(|task| Raise { channel_id: task.channel_id, lane }).collect();
    wakes::raise(conn, &raises, moment.now_ms).await?;
    if Kind::named(&job.kind).is_some_and(|kind| kind.supersedes) {
        supersede(conn, moment, job, &fresh).await?;
    }
    if fresh.len() <= TOLD_EACH_MAX {
        let entries: Vec<Entry> = fresh.iter().map(|task| entry(job, task)).collect();
        feed::append(conn, moment, &entries).await?;
    }
    Ok(made)
}

/// Ends equal tasks of other jobs on the same channels that were not delivered yet: one answer serves both.
async fn supersede(conn: &mut Conn, moment: &mut Moment, job: &JobRow, fresh: &[NewTask]) -> Result<()> {
    let channels: Vec<Id> = fresh.iter().filter(|task| task.finished_at_ms.is_none()).map(|task| task.channel_id).collect();
    let error = json!({"code": "superseded", "message": "a later job asks for the same", "chain": [], "by": job.id}).to_string();
    let equal = tasks::undelivered_like(conn, &channels, job.id, &job.kind, &job.params).await?;
    let endings = equal.into_iter().map(|ended| Ending { ended, state: "superseded", error: Some(error.clone()), result: None }).collect();
    task_ops::end(conn, moment, endings, None).await.map(drop)
}

/// Makes the tasks of jobs under way for devices that come in before their chunk: (device, when it was made). The channels that are
/// `here` need no wake; a device's other channel that is to do it does. The caller holds the locks of the former. One read where no
/// job is under way.
pub async fn make_early(conn: &mut Conn, moment: &mut Moment, came: &[(Id, i64)], here: &[Id]) -> Result<()> {
    for job in jobs::making(conn).await? {
        let selector = Selector::of(&job);
        let mut covered: Vec<Id> = came.iter().filter(|(_, made_ms)| *made_ms <= job.created_at_ms).map(|(id, _)| *id).collect();
        // What the background has passed by has its task.
        covered.retain(|id| {
            id.to_string() > job.expand_after && selector.devices.as_ref().is_none_or(|listed| listed.binary_search(id).is_ok())
        });
        if let Some(label) = selector.label
            && !covered.is_empty()
        {
            let members: HashSet<Id> =
                labels::of_devices(conn, &covered).await?.into_iter().filter(|(_, of)| *of == label).map(|(device, _)| device).collect();
            covered.retain(|id| members.contains(id));
        }
        if !covered.is_empty() {
            let wanted: Vec<Wanted> = covered.into_iter().map(Wanted::first).collect();
            let (fresh, _) = insert(conn, moment, &job, &wanted).await?;
            let elsewhere = fresh.iter().filter(|task| task.finished_at_ms.is_none() && !here.contains(&task.channel_id));
            let raises: Vec<Raise> = elsewhere.map(|task| Raise { channel_id: task.channel_id, lane: lane_of(&job) }).collect();
            wakes::raise(conn, &raises, moment.now_ms).await?;
        }
    }
    Ok(())
}

/// Notes the devices that were passed over because their channel has a command of that id.
async fn note_duplicates(conn: &mut Conn, job: &JobRow, wanted: &[Wanted]) -> Result<()> {
    let Some(command_uuid) = raw::own_uuid(&job.kind, &job.params) else { return Ok(()) };
    let kind = Kind::named(&job.kind);
    let rows: Vec<NewTask> = aims(conn, wanted)
        .await?
        .iter()
        .flat_map(|(aim, _)| doers(kind, aim).into_iter().filter_map(|doer| new_task(job, kind, aim, Some(doer), None, job.created_at_ms)))
        .map(|row| NewTask { command_uuid: Some(command_uuid.clone()), ..row })
        .collect();
    let taken = tasks::taken(conn, &rows).await?;
    if taken.is_empty() {
        return Ok(());
    }
    let before = jobs::get(conn, job.id).await?.map(|job| job.duplicate_devices).unwrap_or_default();
    let mut known: Vec<Id> = serde_json::from_str(&before).unwrap_or_default();
    known.extend(taken);
    known.sort_unstable();
    known.dedup();
    jobs::put_duplicates(conn, job.id, &json!(known).to_string()).await
}

/// Stores and counts what was not there yet.
async fn insert(conn: &mut Conn, moment: &mut Moment, job: &JobRow, wanted: &[Wanted]) -> Result<(Vec<NewTask>, Vec<Made>)> {
    let aims = aims(conn, wanted).await?;
    let kind = Kind::named(&job.kind);
    let locked: Vec<Id> = aims.iter().flat_map(|(aim, _)| doers(kind, aim)).collect();
    channels_lock(conn, &locked).await?;
    let command_uuid = raw::own_uuid(&job.kind, &job.params);
    let mut rows = Vec::with_capacity(aims.len());
    let mut again: HashMap<Id, Id> = HashMap::new();
    for (aim, overs) in &aims {
        for (doer, over) in parts(&doers(kind, aim), overs) {
            let Some(row) = new_task(job, kind, aim, doer, over, moment.now_ms) else { continue };
            again.extend(over.map(|over| (row.id, over)));
            // A command that is ordered again is another one, with an id of its own.
            rows.push(NewTask { command_uuid: command_uuid.clone().filter(|_| over.is_none()), ..row });
        }
    }
    let of = Of { job_id: job.id, kind: &job.kind, lane: lane_of(job).rank() };
    let stored: HashSet<Id> = tasks::insert(conn, of, &rows, moment.now_ms).await?.into_iter().collect();
    let fresh: Vec<NewTask> = rows.into_iter().filter(|row| stored.contains(&row.id)).collect();
    let counts: Vec<(String, String, i64)> = fresh.iter().map(|row| (topic(job.id), row.state.clone(), 1)).collect();
    tallies::add(conn, moment, &counts).await?;
    let made = fresh.iter().map(|row| Made { id: row.id, again: again.get(&row.id).copied() }).collect();
    Ok((fresh, made))
}

/// A task that is ordered again: the channel that had it, and its id.
type Former = (Id, Id);

/// Who is to have a task, and in whose place: each that can do it, or of those that are ordered again each where it was.
fn parts(doers: &[Id], overs: &[Former]) -> Vec<(Option<Id>, Option<Id>)> {
    if overs.is_empty() {
        return if doers.is_empty() { vec![(None, None)] } else { doers.iter().map(|doer| (Some(*doer), None)).collect() };
    }
    let had_or_first = |channel: &Id| doers.iter().find(|doer| *doer == channel).or(doers.first()).copied();
    overs.iter().map(|(channel, task)| (had_or_first(channel), Some(*task))).collect()
}

/// What is known of everybody who is wanted, with the tasks that are ordered again.
async fn aims(conn: &mut Conn, wanted: &[Wanted]) -> Result<Vec<(Aim, Vec<Former>)>> {
    let channels: Vec<Id> = wanted.iter().filter_map(|wanted| wanted.channel).collect();
    let mut of_users: HashMap<Id, Aim> = HashMap::new();
    if !channels.is_empty() {
        of_users = jobs::aims_of_users(conn, &channels).await?.into_iter().filter_map(|aim| Some((aim.mdm_id?, aim))).collect();
    }
    let (users, devices): (Vec<&Wanted>, Vec<&Wanted>) =
        wanted.iter().partition(|wanted| wanted.channel.is_some_and(|channel| of_users.contains_key(&channel)));
    let former = |wanted: &Wanted| wanted.channel.zip(wanted.again);
    let mut aims: Vec<(Aim, Vec<Former>)> =
        users.iter().filter_map(|wanted| Some((of_users.get(&wanted.channel?)?.clone(), former(wanted).into_iter().collect()))).collect();
    let mut again: HashMap<Id, Vec<Former>> = HashMap::new();
    for wanted in &devices {
        again.entry(wanted.device).or_default().extend(former(wanted));
    }
    let ids: Vec<Id> = again.keys().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let of_devices = if ids.is_empty() { Vec::new() } else { jobs::aims(conn, &ids).await? };
    aims.extend(of_devices.into_iter().map(|aim| {
        let again = again.remove(&aim.device_id).unwrap_or_default();
        (aim, again)
    }));
    Ok(aims)
}

/// The task of a device; `None` where ordering it again would only fail again.
fn new_task(job: &JobRow, kind: Option<&Kind>, aim: &Aim, doer: Option<Id>, again: Option<Id>, now_ms: i64) -> Option<NewTask> {
    let refusal = match kind {
        _ if aim.is_nobody() => Some(("no_channel", "the device has not activated: there is nobody to carry it out")),
        _ if doer.is_none() => Some(("unsupported", "this device cannot do this")),
        Some(kind) if aim.denied.is_some() && !kind.for_denied => Some(("unauthorized", "the device may not go on; authorize it first")),
        _ => None,
    };
    if refusal.is_some() && again.is_some() {
        return None;
    }
    // A device without a channel keeps its failed task under its own id.
    let channel_id = doer.or(aim.agent_id).or(aim.mdm_id).unwrap_or(aim.device_id);
    // Ordering the same task again twice makes one.
    let order = again.map_or_else(|| "1".to_owned(), |task| task.to_string());
    Some(NewTask {
        bucket: aim.device_id.bucket(),
        id: Id::derived(job.created_at_ms, aim.device_id, &[&job.id.to_string(), &channel_id.to_string(), &order]),
        device_id: aim.device_id,
        channel_id,
        state: match refusal {
            Some(_) => "failed",
            None if job.state == AWAITING => AWAITING,
            None => "queued",
        }
        .into(),
        // A fresh order has a fresh time to live, as long as the first one had.
        expires_at_ms: if again.is_some() { now_ms + (job.expires_at_ms - job.created_at_ms) } else { job.expires_at_ms },
        finished_at_ms: refusal.map(|_| now_ms),
        error: refusal.map(|(code, message)| json!({"code": code, "message": message, "chain": []}).to_string()),
        command_uuid: None,
    })
}

/// Who carries a kind out: Apple's own channel before the agent, or both.
fn doers(kind: Option<&Kind>, aim: &Aim) -> Vec<Id> {
    let Some(kind) = kind else { return Vec::new() };
    let apple = aim.mdm_id.filter(|_| kind.fits_apple(&aim.platform, aim.management_mode == USER_ENROLLMENT));
    let agent = aim.agent_id.filter(|_| kind.fits(&aim.platform));
    apple.into_iter().chain(agent).take(if kind.is_for_each_channel() { 2 } else { 1 }).collect()
}

pub(super) fn lane_of(job: &JobRow) -> Lane {
    Lane::ALL.into_iter().find(|lane| lane.name() == job.lane).unwrap_or(Lane::Change)
}

fn entry(job: &JobRow, task: &NewTask) -> Entry {
    let kind = match task.state.as_str() {
        "failed" => "task.failed",
        AWAITING => "task.awaiting_approval",
        _ => "task.queued",
    };
    let error: Option<serde_json::Value> = task.error.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let data = json!({"task_id": task.id, "job_id": job.id, "kind": job.kind, "error": error});
    Entry { kind, actor: None, device_id: Some(task.device_id), data }
}
