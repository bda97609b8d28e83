//! Jobs: one task for each device they aim at.
//!
//! Lock order: a job's row first, then channels, wakes, tasks. The intake never locks a job; a task it makes early for a job that is
//! cancelled in the same instant is not delivered, and the folding of counts has it cancelled.

mod approval;
mod budget;
mod create;
mod make;
mod params;
mod walk;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::kind;
use crate::model::{Id, Lane, secrets};
use crate::ops::alarms;
use crate::store::feed::{self, Entry};
use crate::store::jobs::{self, JobRow};
use crate::store::{Conn, tallies, tasks};

pub use approval::{approve, expire_waiting, may_approve, reject};
pub use budget::{WAITING, is_destructive, put as put_budget};
pub use create::create;
pub use make::make_early;
pub use params::load_params;
pub use walk::{cancel, retry, step};

pub(super) use walk::again;

/// A job for more devices than this is accepted at once and expanded in the background, in chunks of so many.
pub const AT_ONCE_MAX: usize = 500;
/// The state of a job, and of a task, that waits for a second operator.
pub const AWAITING: &str = "awaiting_approval";
/// The kind that also ends a device's management on the server's side.
const RETIRE: &str = "retire";
/// Open tasks looked at for the reasons of a job; beyond it they are those of the first so many.
const REASONS_COUNTED_MAX: i64 = 100_000;

/// A job to be made.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    pub kind: String,
    #[serde(default)]
    pub params: Map<String, Value>,
    pub target: Target,
    /// Seconds until what is not finished expires; by its kind where absent.
    #[serde(default)]
    pub expires_in_s: Option<i64>,
    /// `urgent`, `change` or `bulk`; by its kind where absent.
    #[serde(default)]
    pub lane: Option<Lane>,
}

impl std::fmt::Debug for NewJob {
    /// Without its parameters: a PIN or a password may be among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJob").field("kind", &self.kind).field("target", &self.target).finish_non_exhaustive()
    }
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
    /// How many tasks it has; one that was ordered again counts once. While it expands: as many as are known to come (counted up to
    /// ten thousand), or as many as are made if that is more.
    pub tasks: i64,
    /// Tasks by state; one that was ordered again counts as what was ordered.
    pub counts: BTreeMap<String, i64>,
    /// Open tasks by reason; only where one job is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<BTreeMap<String, i64>>,
    /// Names of the target that no device has.
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

/// Whom a stored job aims at.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Selector {
    /// Sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<Id>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<Id>,
    /// More than a thousand: their wakes go in lane `bulk`, whatever was asked.
    #[serde(default)]
    bulk: bool,
}

impl Selector {
    fn of(job: &JobRow) -> Selector {
        serde_json::from_str(&job.selector).unwrap_or_default()
    }
}

/// The topic under which a job's tasks are counted.
pub fn topic(job: Id) -> String {
    format!("job:{job}")
}

/// The job of a counted topic, if it is a job's.
pub fn of_topic(topic: &str) -> Option<Id> {
    topic.strip_prefix("job:")?.parse().ok()
}

/// One job with its counts. With the configured senders (`" fcm apns_app "`) also the reasons of its open tasks.
pub async fn get(conn: &mut Conn, id: Id, senders: Option<&str>) -> Result<Job> {
    let row = jobs::get(conn, id).await?.ok_or(Error::NotFound("job"))?;
    let mut job = view(conn, row).await?;
    if let Some(senders) = senders {
        job.reasons = Some(tasks::reasons(conn, Some(id), senders, REASONS_COUNTED_MAX).await?.into_iter().collect());
    }
    Ok(job)
}

/// A stored job as the API shows it.
pub async fn view(conn: &mut Conn, row: JobRow) -> Result<Job> {
    let counts = tallies::read(conn, &topic(row.id)).await?;
    Ok(Job::of(row, counts))
}

/// Stored jobs as the API shows them, in two statements whatever their number.
pub async fn views(conn: &mut Conn, rows: Vec<JobRow>) -> Result<Vec<Job>> {
    let topics: Vec<String> = rows.iter().map(|row| topic(row.id)).collect();
    let mut counts: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for (topic, state, n) in tallies::read_many(conn, &topics).await? {
        if n != 0 {
            counts.entry(topic).or_default().insert(state, n);
        }
    }
    Ok(rows.into_iter().zip(topics).map(|(row, topic)| Job::of(row, counts.remove(&topic).unwrap_or_default())).collect())
}

impl Job {
    fn of(row: JobRow, counts: BTreeMap<String, i64>) -> Job {
        let made: i64 = counts.values().sum();
        let is_to_come = row.walk == jobs::MAKE || row.state == AWAITING;
        Job {
            id: row.id,
            params: secrets::masked(&row.kind, serde_json::from_str(&row.params).unwrap_or_default()),
            kind: row.kind,
            lane: row.lane,
            state: row.state,
            tasks: if is_to_come { made.max(row.tasks) } else { made },
            counts,
            reasons: None,
            unknown_devices: serde_json::from_str(&row.unknown_devices).unwrap_or_default(),
            duplicate_devices: serde_json::from_str(&row.duplicate_devices).unwrap_or_default(),
            created_by: row.created_by,
            created_at_ms: row.created_at_ms,
            expires_at_ms: row.expires_at_ms,
            finished_at_ms: row.finished_at_ms,
        }
    }
}

/// Ends a running job whose tasks are all final, and goes on with a cancelled one that has an open task after all; true where the job
/// was changed. Asked after its counts have moved and after a walk has ended.
pub async fn close_if_done(conn: &mut Conn, moment: &mut Moment, id: Id) -> Result<bool> {
    let Some(mut job) = jobs::lock(conn, id).await? else { return Ok(false) };
    if !job.walk.is_empty() || !matches!(job.state.as_str(), "running" | "cancelled" | AWAITING) {
        return Ok(false);
    }
    let counts = tallies::read(conn, &topic(id)).await?;
    let open: i64 = counts.iter().filter(|(state, _)| kind::OPEN_STATES.contains(&state.as_str())).map(|(_, n)| n).sum();
    if job.state == AWAITING {
        // Its tasks ended one by one while it waited; one whose tasks are not made yet has none.
        if open > 0 || counts.is_empty() {
            return Ok(false);
        }
        alarms::close(conn, moment, WAITING, &id.to_string()).await?;
    }
    if job.state == "cancelled" {
        // A phone came in early while the job was cancelled: what was made for it ends too.
        if open > 0 && !tasks::open_of_job(conn, id, "", 1).await?.is_empty() {
            job.begin_walk(jobs::CANCEL, moment.now_ms);
            jobs::put(conn, &job).await?;
            return Ok(true);
        }
        return Ok(false);
    }
    if open > 0 {
        return Ok(false);
    }
    job.state = "done".into();
    job.finished_at_ms = Some(moment.now_ms);
    jobs::put(conn, &job).await?;
    let data = json!({"job_id": id, "kind": job.kind, "counts": counts});
    feed::append(conn, moment, &[Entry { kind: "job.done", actor: None, device_id: None, data }]).await?;
    Ok(true)
}
