//! The destructive budget: above so many devices an hour, wipes and retirements wait for a second operator, by whatever kind of task.
//!
//! The budget lies in the database, so that it is one for all processes; its row is locked by who counts, so that orders that come at
//! the same time are counted one after the other. What a second operator approved counts as well.

use serde_json::{Map, Value, json};

use super::JobRow;
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::kind::{APPLE_COMMAND, Kind};
use crate::model::{Actor, Id};
use crate::ops::alarms;
use crate::ops::mdm::raw;
use crate::store::feed::{self, Entry};
use crate::store::{Conn, budget};

/// The alarm of a job that waits for a second operator; its subject is the job.
pub const WAITING: &str = "approval_waiting";
/// The time that the budget is counted over.
const HOUR_MS: i64 = 3_600_000;
/// The budget of a database that no server has opened yet.
const DEFAULT_PER_HOUR: i64 = 10;

/// True where an order ends what nobody can bring back: by its kind, or by the command that its parameters are, as they were given or as they are
/// stored.
pub fn is_destructive(kind: &Kind, params: &Map<String, Value>) -> bool {
    kind.destructive || (kind.name == APPLE_COMMAND && raw::is_destructive(params))
}

/// Sets the budget, devices an hour; 0 means that nothing waits. The audit has a change: it decides whether a second person is asked.
pub async fn put(conn: &mut Conn, moment: &mut Moment, per_hour: i64) -> Result<()> {
    let before = budget::lock(conn).await?;
    budget::put(conn, per_hour).await?;
    let Some(before) = before.filter(|before| *before != per_hour) else { return Ok(()) };
    let data = json!({"before": {"wipes_per_hour": before}, "after": {"wipes_per_hour": per_hour}});
    let actor = Some(Actor::server().name);
    feed::append(conn, moment, &[Entry { kind: "server.budget_changed", actor, device_id: None, data }]).await
}

/// Counts `devices` of a job against the budget; false where they are too many, and then nothing is counted.
pub(super) async fn spend(conn: &mut Conn, moment: &mut Moment, job: Id, devices: i64) -> Result<bool> {
    let per_hour = budget::lock(conn).await?.unwrap_or(DEFAULT_PER_HOUR);
    let spent = budget::spent(conn, moment.now_ms - HOUR_MS).await?;
    if per_hour > 0 && devices > 0 && spent + devices > per_hour {
        return Ok(false);
    }
    approved(conn, moment, job, devices).await?;
    Ok(true)
}

/// Counts what goes out, whatever the budget.
pub(super) async fn approved(conn: &mut Conn, moment: &mut Moment, job: Id, devices: i64) -> Result<()> {
    let id = moment.id();
    budget::spend(conn, id, job, devices, moment.now_ms).await
}

/// True for a job whose tasks count against the budget.
pub(super) fn counts(job: &JobRow) -> bool {
    let params = serde_json::from_str(&job.params).unwrap_or_default();
    Kind::named(&job.kind).is_some_and(|kind| is_destructive(kind, &params))
}

/// Counts what is ordered again of a job that counts. Above the budget it is refused: what a second operator shall decide is a new order of one
/// person.
pub(super) async fn spend_again(conn: &mut Conn, moment: &mut Moment, job: &JobRow, devices: i64) -> Result<()> {
    if !spend(conn, moment, job.id, devices).await? {
        return Err(Error::refused(
            "budget_exceeded",
            "this is more than [limits] wipes_per_hour allows; order it as a new job, which a second operator can approve",
        ));
    }
    Ok(())
}

/// Tells that a job waits.
pub(super) async fn tell(conn: &mut Conn, moment: &mut Moment, actor: &Actor, job: &JobRow) -> Result<()> {
    let data = json!({"job_id": job.id, "kind": job.kind, "devices": job.tasks});
    let entry = Entry { kind: "job.awaiting_approval", actor: Some(actor.name.clone()), device_id: None, data };
    feed::append(conn, moment, &[entry]).await?;
    let detail = format!("{} of {} devices, ordered by {}, waits for a second operator", job.kind, job.tasks, actor.name);
    alarms::open(conn, moment, WAITING, &job.id.to_string(), &detail).await
}
