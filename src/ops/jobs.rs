//! Jobs: one task for each device they aim at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::kind::{self, Kind};
use crate::model::{Actor, BULK_ABOVE, Fault, Id, Lane, Role};
use crate::ops::tasks::{self as task_ops, cancelled};
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::jobs::{self, Aim, JobRow};
use crate::store::tasks::{self, Ending, NewTask};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, devices, labels, tallies};

/// A job for more devices than this is accepted at once and expanded in the background.
pub const AT_ONCE_MAX: usize = 500;
/// Devices that a job may list.
const LISTED_MAX: usize = 10_000;
/// How long an Idempotency-Key is remembered.
const REMEMBERED_MS: i64 = 7 * 86_400_000;
const KEY_CHARS_MAX: usize = 256;

/// A job to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    pub kind: String,
    #[serde(default)]
    pub params: Map<String, Value>,
    pub target: Target,
    #[serde(default)]
    pub expires_in_s: Option<i64>,
    #[serde(default)]
    pub lane: Option<Lane>,
}

/// What a job aims at: exactly one of the three.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Ids, serial numbers or UDIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// A label's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// A job as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Job {
    pub id: Id,
    pub kind: String,
    /// Secrets are masked.
    pub params: Value,
    pub lane: String,
    /// `awaiting_approval`, `expanding`, `running`, `done`, `cancelled` or `rejected`.
    pub state: String,
    pub tasks: i64,
    /// Tasks by state; one that was ordered again counts as what was ordered.
    pub counts: BTreeMap<String, i64>,
    /// Open tasks by reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<BTreeMap<String, i64>>,
    pub unknown_devices: Vec<String>,
    pub duplicate_devices: Vec<String>,
    pub created_by: String,
    pub created_at_ms: i64,
    pub expires_at_ms: i64,
    pub finished_at_ms: Option<i64>,
}

impl NewJob {
    /// A job without parameters for one device.
    pub fn one(kind: &str, device: Id) -> NewJob {
        let target = Target { devices: Some(vec![device.to_string()]), ..Target::default() };
        NewJob { kind: kind.to_owned(), params: Map::new(), target, expires_in_s: None, lane: None }
    }
}

/// The topic under which a job's tasks are counted.
pub fn topic(job: Id) -> String {
    format!("job:{job}")
}

/// Makes a job. With an `Idempotency-Key` the same body makes it once; the same key with another body is refused.
pub async fn create(
    conn: &mut Conn,
    moment: &mut Moment,
    actor: &Actor,
    new: &NewJob,
    idempotency_key: Option<&str>,
    seal: Option<&Seal>,
) -> Result<Job> {
    actor.require(Role::Operator)?;
    let kind = check(new)?;
    let id = moment.id();
    if let Some(key) = idempotency_key {
        if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
            return Err(Error::invalid("Idempotency-Key", format!("take 1 to {KEY_CHARS_MAX} characters")));
        }
        let body_hash = crate::model::token::hash(&json!(new).to_string());
        let (known_hash, job) =
            jobs::remember(conn, &actor.name, key, &body_hash, id, moment.now_ms + REMEMBERED_MS, moment.now_ms).await?;
        if known_hash != body_hash {
            return Err(Error::refused("idempotency_mismatch", "this Idempotency-Key was used with another body; take a new key"));
        }
        if job != id {
            return get(conn, job, None).await;
        }
    }
    let (found, unknown, selector) = aim(conn, &new.target).await?;
    let expires_in_ms = new.expires_in_s.map_or_else(|| kind.expires_in_ms(), |seconds| seconds * 1000);
    let mut job = JobRow {
        id,
        kind: kind.name.into(),
        params: store_params(moment, new, id, seal),
        lane: new.lane.unwrap_or(kind.lane).name().into(),
        selector: selector.to_string(),
        state: "expanding".into(),
        tasks: 0,
        unknown_devices: json!(unknown).to_string(),
        duplicate_devices: "[]".into(),
        created_by: actor.name.clone(),
        created_at_ms: moment.now_ms,
        expires_at_ms: moment.now_ms + expires_in_ms,
        finished_at_ms: None,
        expand_bucket: -1,
        expand_after: String::new(),
    };
    let found = match found {
        Some(found) => Some(found),
        // A label or everybody: small enough to be made at once?
        None => {
            let label = label_of(&job);
            let some = jobs::targets(conn, &job, label, AT_ONCE_MAX as i64 + 1).await?;
            (some.len() <= AT_ONCE_MAX).then_some(some)
        }
    };
    let at_once = found.filter(|found| found.len() <= AT_ONCE_MAX);
    if at_once.is_some() {
        job.state = "running".into();
    }
    jobs::insert(conn, &job).await?;
    if let Some(found) = &at_once {
        let made = make(conn, moment, &job, found, lane_of(&job, found.len()), 1).await?;
        jobs::add_tasks(conn, id, made.len() as i64).await?;
        if made.is_empty() {
            jobs::set_state(conn, id, "done", Some(moment.now_ms)).await?;
        }
    }
    let data = json!({"job_id": id, "kind": kind.name, "target": selector_shown(&new.target), "devices": at_once.as_ref().map(Vec::len)});
    feed::append(conn, moment, &[Entry { kind: "job.created", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    get(conn, id, None).await
}

fn check(new: &NewJob) -> Result<&'static Kind> {
    let Some(kind) = Kind::named(&new.kind) else {
        let known: Vec<&str> = kind::KINDS.iter().map(|kind| kind.name).collect();
        return Err(Error::invalid("/kind", format!("take one of {}", known.join(", "))));
    };
    let mut faults = kind.check(&new.params);
    let Target { devices, label, all } = &new.target;
    if usize::from(devices.is_some()) + usize::from(label.is_some()) + usize::from(all.is_some()) != 1 || *all == Some(false) {
        faults.push(Fault { pointer: "/target".into(), detail: "name exactly one of devices, label, all".into() });
    }
    if devices.as_ref().is_some_and(|devices| devices.is_empty() || devices.len() > LISTED_MAX) {
        faults.push(Fault { pointer: "/target/devices".into(), detail: format!("name 1 to {LISTED_MAX} devices; use a label for more") });
    }
    if new.expires_in_s.is_some_and(|seconds| !(1..=366 * 86_400).contains(&seconds)) {
        faults.push(Fault { pointer: "/expires_in_s".into(), detail: "take 1 second to 366 days".into() });
    }
    if matches!(new.lane, Some(Lane::Retry | Lane::Periodic)) {
        faults.push(Fault { pointer: "/lane".into(), detail: "take urgent, change or bulk".into() });
    }
    if faults.is_empty() { Ok(kind) } else { Err(Error::Invalid(faults)) }
}

/// Whom a target means: the devices it lists, the names that nobody has, and what is stored of it.
async fn aim(conn: &mut Conn, target: &Target) -> Result<(Option<Vec<Id>>, Vec<String>, Value)> {
    if let Some(names) = &target.devices {
        let (found, mut unknown, ambiguous) = devices::resolve_many(conn, names).await?;
        unknown.extend(ambiguous);
        let selector = json!({"devices": found});
        return Ok((Some(found), unknown, selector));
    }
    if let Some(name) = &target.label {
        let label = labels::by_name(conn, name).await?;
        let label = label.ok_or_else(|| Error::invalid("/target/label", format!("there is no label {name:?}")))?;
        return Ok((None, Vec::new(), json!({"label": label.id})));
    }
    Ok((None, Vec::new(), json!({"all": true})))
}

/// Makes the tasks of a job for devices, counts them and raises their channels. `attempt` is 1 but for tasks that are ordered again.
async fn make(conn: &mut Conn, moment: &mut Moment, job: &JobRow, found: &[Id], lane: Lane, attempt: i64) -> Result<Vec<Id>> {
    let aims = jobs::aims(conn, found).await?;
    let channels: Vec<Id> = aims.iter().filter_map(|aim| aim.channel_id).collect();
    crate::store::channels_lock(conn, &channels).await?;
    let kind = Kind::named(&job.kind);
    let rows: Vec<NewTask> = aims.iter().map(|aim| new_task(job, kind, aim, lane, attempt, moment.now_ms)).collect();
    wakes::lock(conn, &channels).await?;
    let made = tasks::insert(conn, &rows, moment.now_ms).await?;
    let is_made: std::collections::HashSet<Id> = made.iter().copied().collect();
    let fresh: Vec<&NewTask> = rows.iter().filter(|row| is_made.contains(&row.id)).collect();
    let counts: Vec<(String, String, i64)> = fresh.iter().map(|row| (topic(job.id), row.state.clone(), 1)).collect();
    tallies::add(conn, moment, &counts).await?;
    let raises: Vec<Raise> =
        fresh.iter().filter(|row| row.finished_at_ms.is_none()).map(|row| Raise { channel_id: row.channel_id, lane }).collect();
    wakes::raise(conn, &raises, moment.now_ms).await?;
    Ok(made)
}

fn new_task(job: &JobRow, kind: Option<&Kind>, aim: &Aim, lane: Lane, attempt: i64, now_ms: i64) -> NewTask {
    let refusal = match (kind, aim.channel_id) {
        (_, None) => Some(("unsupported", "the device has not activated: there is nobody to carry it out")),
        (Some(kind), _) if !kind.fits(&aim.platform) => Some(("unsupported", "this device's agent cannot do this")),
        (Some(kind), _) if aim.denied.is_some() && !kind.for_denied => {
            Some(("unauthorized", "the device may not go on; authorize it first"))
        }
        _ => None,
    };
    // A device without a channel keeps its failed task under its own id.
    let channel_id = aim.channel_id.unwrap_or(aim.device_id);
    let parts = [job.id.to_string(), channel_id.to_string(), attempt.to_string()];
    NewTask {
        bucket: aim.device_id.bucket(),
        id: Id::derived(job.created_at_ms, aim.device_id, &[&parts[0], &parts[1], &parts[2]]),
        job_id: job.id,
        device_id: aim.device_id,
        channel_id,
        kind: job.kind.clone(),
        lane: lane.rank(),
        state: if refusal.is_some() { "failed" } else { "queued" }.into(),
        attempt: 0,
        created_at_ms: now_ms,
        expires_at_ms: job.expires_at_ms.max(now_ms + 1),
        finished_at_ms: refusal.map(|_| now_ms),
        error: refusal.map(|(code, message)| json!({"code": code, "message": message, "chain": []}).to_string()),
    }
}

fn lane_of(job: &JobRow, devices: usize) -> Lane {
    let lane = Lane::ALL.into_iter().find(|lane| lane.name() == job.lane).unwrap_or(Lane::Change);
    if devices > BULK_ABOVE { Lane::Bulk } else { lane }
}

/// Expands a job by up to `limit` devices in the caller's transaction; true where there is more to do.
pub async fn expand(conn: &mut Conn, moment: &mut Moment, id: Id, limit: usize) -> Result<bool> {
    let Some(job) = jobs::get(conn, id).await?.filter(|job| job.state == "expanding") else { return Ok(false) };
    let selector: Value = serde_json::from_str(&job.selector).unwrap_or_default();
    let found = match selector["devices"].as_array() {
        Some(listed) => {
            let after = (job.expand_bucket, job.expand_after.as_str());
            let mut ids: Vec<Id> = listed.iter().filter_map(|id| id.as_str()?.parse().ok()).collect();
            ids.sort_unstable_by_key(|id| (id.bucket(), *id));
            ids.into_iter().filter(|id| (id.bucket(), id.to_string().as_str()) > after).take(limit).collect()
        }
        None => jobs::targets(conn, &job, label_of(&job), limit as i64).await?,
    };
    // A job is expanded because it is large; beyond a thousand its lane is bulk, below it is what was asked.
    let large = selector["devices"].as_array().map_or(BULK_ABOVE + 1, Vec::len);
    let made = make(conn, moment, &job, &found, lane_of(&job, large), 1).await?;
    let more = found.len() == limit;
    let (bucket, after) = found.last().map_or((job.expand_bucket, job.expand_after.clone()), |id| (id.bucket(), id.to_string()));
    if !jobs::expanded(conn, id, bucket, &after, made.len() as i64, if more { "expanding" } else { "running" }).await? {
        // Cancelled in this instant: undo this chunk with the caller's transaction.
        return Err(Error::NotFound("expanding job"));
    }
    let data = json!({"job_id": id, "tasks": made.len()});
    feed::append(conn, moment, &[Entry { kind: "job.expanded", actor: None, device_id: None, data }]).await?;
    Ok(more)
}

/// Makes the tasks of expanding jobs for devices that come in early: (device, when it was made).
pub async fn make_early(conn: &mut Conn, moment: &mut Moment, came: &[(Id, i64)]) -> Result<()> {
    for job in jobs::expanding(conn).await? {
        let selector: Value = serde_json::from_str(&job.selector).unwrap_or_default();
        let label = label_of(&job);
        let candidates: Vec<Id> = came.iter().filter(|(_, made_ms)| *made_ms <= job.created_at_ms).map(|(id, _)| *id).collect();
        let covered: Vec<Id> = match (label, selector["devices"].as_array()) {
            (Some(label), _) => {
                labels::of_devices(conn, &candidates).await?.into_iter().filter(|(_, id)| *id == label).map(|(id, _)| id).collect()
            }
            (None, Some(listed)) => candidates.into_iter().filter(|id| listed.iter().any(|other| *other == json!(id))).collect(),
            (None, None) => candidates,
        };
        if !covered.is_empty() {
            let made = make(conn, moment, &job, &covered, lane_of(&job, BULK_ABOVE + 1), 1).await?;
            if !made.is_empty() {
                tallies::add(conn, moment, &[(topic(job.id), "early".into(), made.len() as i64)]).await?;
            }
        }
    }
    Ok(())
}

/// Makes tasks anew in the place of ended ones: (old task, its device, its state). Answers the new ones.
pub async fn again(conn: &mut Conn, moment: &mut Moment, job: Id, old: &[(Id, Id, String)]) -> Result<Vec<Id>> {
    let mut job = jobs::get(conn, job).await?.ok_or(Error::NotFound("job"))?;
    // A fresh order has a fresh time to live, as long as the first one had.
    job.expires_at_ms = moment.now_ms + (job.expires_at_ms - job.created_at_ms);
    let mut made = Vec::with_capacity(old.len());
    let lane = lane_of(&job, old.len());
    for (id, device, state) in old {
        let fresh = make_again(conn, moment, &job, *device, *id, lane).await?;
        for fresh in fresh {
            if tasks::retried(conn, *id, fresh).await? {
                tallies::add(conn, moment, &[(topic(job.id), state.clone(), -1)]).await?;
            }
            made.push(fresh);
        }
    }
    if !made.is_empty() {
        jobs::reopen(conn, job.id).await?;
    }
    Ok(made)
}

async fn make_again(conn: &mut Conn, moment: &mut Moment, job: &JobRow, device: Id, old: Id, lane: Lane) -> Result<Vec<Id>> {
    // The old task's own id makes the new one's: ordering it again twice makes one.
    let attempt = i64::from_be_bytes(old.as_bytes()[8..].try_into().unwrap_or_default());
    make(conn, moment, job, &[device], lane, attempt).await
}

/// Cancels a job: what is open ends, what is not made is never made.
pub async fn cancel(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Job> {
    actor.require(Role::Operator)?;
    let job = jobs::get(conn, id).await?.ok_or(Error::NotFound("job"))?;
    if job.state == "done" || !jobs::set_state(conn, id, "cancelled", Some(moment.now_ms)).await? {
        return Err(Error::refused("job_finished", format!("the job is {} already", job.state)));
    }
    let data = json!({"job_id": id});
    feed::append(conn, moment, &[Entry { kind: "job.cancelled", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    cancel_some(conn, moment, id, AT_ONCE_MAX as i64).await?;
    get(conn, id, None).await
}

/// Cancels up to `limit` open tasks of a cancelled job; answers how many. The background calls it until none is left.
pub async fn cancel_some(conn: &mut Conn, moment: &mut Moment, id: Id, limit: i64) -> Result<usize> {
    let open = tasks::open_of_job(conn, id, limit).await?;
    let endings = open.into_iter().map(|ended| Ending { error: Some(cancelled(&ended.was)), ended, state: "cancelled" }).collect();
    let ended = tasks::end(conn, endings, moment.now_ms).await?;
    task_ops::told(conn, moment, &ended, "cancelled", None).await?;
    Ok(ended.len())
}

/// Orders everything again that failed, expired or was cancelled, up to 500 tasks a call.
pub async fn retry(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<Job> {
    actor.require(Role::Operator)?;
    jobs::get(conn, id).await?.ok_or(Error::NotFound("job"))?;
    let old: Vec<(Id, Id, String)> = tasks::of_job(conn, id, "", AT_ONCE_MAX as i64)
        .await?
        .into_iter()
        .map(|(task, device, _, state, _)| (task, device, state))
        .collect();
    let made = again(conn, moment, id, &old).await?;
    let data = json!({"job_id": id, "tasks": made.len()});
    feed::append(conn, moment, &[Entry { kind: "job.retried", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    get(conn, id, None).await
}

/// One job with its counts; with the senders' list also the reasons of its open tasks.
pub async fn get(conn: &mut Conn, id: Id, senders: Option<&str>) -> Result<Job> {
    const REASONS_COUNTED_MAX: i64 = 100_000;
    let row = jobs::get(conn, id).await?.ok_or(Error::NotFound("job"))?;
    let mut job = view(conn, row).await?;
    if let Some(senders) = senders {
        job.reasons = Some(tasks::reasons(conn, Some(id), senders, REASONS_COUNTED_MAX).await?.into_iter().collect());
    }
    Ok(job)
}

/// A stored job as the API shows it.
pub async fn view(conn: &mut Conn, row: JobRow) -> Result<Job> {
    let mut counts = tallies::read(conn, &topic(row.id)).await?;
    let early = counts.remove("early").unwrap_or(0);
    let params = serde_json::from_str(&row.params).unwrap_or_else(|_| json!({}));
    Ok(Job {
        id: row.id,
        params: kind::masked(&row.kind, params),
        kind: row.kind,
        lane: row.lane,
        state: row.state,
        tasks: row.tasks + early,
        counts,
        reasons: None,
        unknown_devices: serde_json::from_str(&row.unknown_devices).unwrap_or_default(),
        duplicate_devices: serde_json::from_str(&row.duplicate_devices).unwrap_or_default(),
        created_by: row.created_by,
        created_at_ms: row.created_at_ms,
        expires_at_ms: row.expires_at_ms,
        finished_at_ms: row.finished_at_ms,
    })
}

/// Ends a job whose tasks are all final; true where that was so.
pub async fn close_if_done(conn: &mut Conn, moment: &mut Moment, id: Id) -> Result<bool> {
    let Some(job) = jobs::get(conn, id).await?.filter(|job| job.state == "running") else { return Ok(false) };
    let counts = tallies::read(conn, &topic(id)).await?;
    let open: i64 = counts.iter().filter(|(state, _)| kind::OPEN_STATES.contains(&state.as_str())).map(|(_, n)| n).sum();
    if open > 0 || !jobs::set_state(conn, id, "done", Some(moment.now_ms)).await? {
        return Ok(false);
    }
    let data = json!({"job_id": id, "kind": job.kind, "counts": counts});
    feed::append(conn, moment, &[Entry { kind: "job.done", actor: None, device_id: None, data }]).await?;
    Ok(true)
}

fn label_of(job: &JobRow) -> Option<Id> {
    let selector: Value = serde_json::from_str(&job.selector).unwrap_or_default();
    selector["label"].as_str().and_then(|id| id.parse().ok())
}

fn selector_shown(target: &Target) -> Value {
    match (&target.devices, &target.label) {
        (Some(devices), _) => json!({"devices": devices.len()}),
        (_, Some(label)) => json!({"label": label}),
        _ => json!({"all": true}),
    }
}

/// The parameters as they are stored: secrets sealed under the job's id.
fn store_params(moment: &mut Moment, new: &NewJob, job: Id, seal: Option<&Seal>) -> String {
    let mut params = new.params.clone();
    for name in kind::secrets(&new.kind) {
        if let Some(Value::String(secret)) = params.get(name) {
            let sealed = seal.map(|seal| seal.seal(moment, &sealed_name(job, name), secret.as_bytes())).unwrap_or_default();
            params.insert(name.to_owned(), Value::String(sealed));
        }
    }
    Value::Object(params).to_string()
}

/// The parameters as the device gets them.
pub fn load_params(seal: &Seal, kind: &str, job: Id, stored: &str) -> Value {
    let mut params: Value = serde_json::from_str(stored).unwrap_or_else(|_| json!({}));
    for name in kind::secrets(kind) {
        if let Some(Value::String(sealed)) = params.get(name) {
            let opened = seal.open(&sealed_name(job, name), sealed).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            params[name] = opened.map_or(Value::Null, Value::String);
        }
    }
    params
}

fn sealed_name(job: Id, name: &str) -> String {
    format!("job/{job}/{name}")
}
