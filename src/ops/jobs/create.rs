//! A job is ordered.

use serde_json::json;

use super::make::{self, Wanted};
use super::params::store_params;
use super::{AT_ONCE_MAX, AWAITING, Job, NewJob, RETIRE, Selector, Target, budget, close_if_done, get};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::kind::Kind;
use crate::model::token::hash;
use crate::model::{Actor, BULK_ABOVE, Fault, Id, Lane, Role};
use crate::ops::devices as device_ops;
use crate::ops::mdm::raw;
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::jobs::{self, JobRow, Remembered};
use crate::store::{Conn, devices, labels};

/// Devices that a job may list.
const LISTED_MAX: usize = 10_000;
/// How long an Idempotency-Key is remembered.
const REMEMBERED_MS: i64 = 7 * 86_400_000;
/// A set is counted so far before it is accepted.
const COUNTED_MAX: i64 = 10_000;
const KEY_CHARS_MAX: usize = 256;
/// Devices that the audit names one by one; the job's tasks name all of them.
const TOLD_MAX: usize = 20;
/// The longest time that a job may ask for.
const EXPIRES_IN_S_MAX: i64 = 366 * 86_400;

/// Makes a job. With an `Idempotency-Key` the same body makes it once; the same key with another body is refused.
///
/// A name that several devices have is refused with their ids (`ambiguous_device`): an order for one of them must not go to the other, nor be
/// lost. Devices that are named and have not activated get a task that is failed at once (`no_channel`), so that nobody waits for it; sets
/// (labels, everybody) leave them out.
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
    if let Some(key) = idempotency_key
        && let Some(job) = known(conn, moment, actor, new, key, id).await?
    {
        return get(conn, job, None).await;
    }
    let mut aimed = aim(conn, moment, &new.target).await?;
    let mut waits = false;
    if budget::is_destructive(kind, &new.params) {
        freeze(conn, moment, &mut aimed).await?;
        waits = !budget::spend(conn, moment, id, aimed.devices).await?;
    }
    let Aimed { found, users, unknown, selector, devices } = aimed;
    let expires_in_ms = new.expires_in_s.map_or_else(|| kind.expires_in_ms(), |seconds| seconds * 1000);
    let mut job = JobRow {
        id,
        kind: kind.name.into(),
        params: store_params(moment, new, id, seal),
        lane: new.lane.unwrap_or(kind.lane).name().into(),
        selector: json!(selector).to_string(),
        state: "expanding".into(),
        tasks: devices,
        unknown_devices: json!(unknown).to_string(),
        duplicate_devices: "[]".into(),
        created_by: actor.name.clone(),
        created_at_ms: moment.now_ms,
        expires_at_ms: moment.now_ms + expires_in_ms,
        finished_at_ms: None,
        walk: jobs::MAKE.into(),
        walk_at_ms: moment.now_ms,
        expand_after: String::new(),
    };
    if waits {
        job.state = AWAITING.into();
        job.walk.clear();
    } else if found.is_some() {
        job.state = "running".into();
        job.walk.clear();
    }
    jobs::insert(conn, &job).await?;
    let named: Vec<&Id> = found.iter().flatten().take(TOLD_MAX).collect();
    let data = json!({
        "job_id": id, "kind": kind.name, "target": shown(&new.target), "devices": found.as_ref().map(Vec::len), "device_ids": named,
    });
    feed::append(conn, moment, &[Entry { kind: "job.created", actor: Some(actor.name.clone()), device_id: None, data }]).await?;
    if waits {
        budget::tell(conn, moment, actor, &job).await?;
    }
    if !users.is_empty() {
        let wanted: Vec<Wanted> = users.iter().map(|(device, channel)| Wanted::of_user(*device, *channel)).collect();
        make::make(conn, moment, &job, &wanted).await?;
    }
    if let Some(found) = found {
        let wanted: Vec<Wanted> = found.iter().copied().map(Wanted::first).collect();
        make::make(conn, moment, &job, &wanted).await?;
        if kind.name == RETIRE && !waits {
            device_ops::retired(conn, moment, actor, &found).await?;
        }
        close_if_done(conn, moment, id).await?;
    }
    get(conn, id, None).await
}

/// The job that a key has made; `None` where the key is new and now stands for `id`.
async fn known(conn: &mut Conn, moment: &Moment, actor: &Actor, new: &NewJob, key: &str, id: Id) -> Result<Option<Id>> {
    if key.is_empty() || key.chars().count() > KEY_CHARS_MAX {
        return Err(Error::invalid("Idempotency-Key", format!("take 1 to {KEY_CHARS_MAX} characters")));
    }
    // The key is not kept, and the body's hash depends on it: a hash of a body with a password in it would give it to a guesser.
    // Maps of this JSON are sorted, so that the order of the fields does not matter.
    let remembered = Remembered {
        actor: &actor.name,
        key_hash: hash(&format!("idempotency {key}")),
        body_hash: hash(&format!("{key}\n{}", json!(new))),
        job_id: id,
        expires_at_ms: moment.now_ms + REMEMBERED_MS,
    };
    let (body_hash, job) = jobs::remember(conn, &remembered, moment.now_ms).await?;
    if body_hash != remembered.body_hash {
        return Err(Error::refused("idempotency_mismatch", "this Idempotency-Key was used with another body; take a new key"));
    }
    Ok((job != id).then_some(job))
}

fn check(new: &NewJob) -> Result<&'static Kind> {
    let Some(kind) = Kind::named(&new.kind) else { return Err(Error::invalid("/kind", Kind::unknown(&new.kind))) };
    let mut faults = kind.check(&new.params);
    if faults.is_empty() {
        faults.extend(raw::check(kind.name, &new.params));
    }
    let Target { devices, label, all } = &new.target;
    if usize::from(devices.is_some()) + usize::from(label.is_some()) + usize::from(all.is_some()) != 1 || *all == Some(false) {
        faults.push(Fault { pointer: "/target".into(), detail: "name exactly one of devices, label, all".into() });
    }
    if devices.as_ref().is_some_and(|devices| devices.is_empty() || devices.len() > LISTED_MAX) {
        faults.push(Fault { pointer: "/target/devices".into(), detail: format!("name 1 to {LISTED_MAX} devices; use a label for more") });
    }
    if new.expires_in_s.is_some_and(|seconds| !(1..=EXPIRES_IN_S_MAX).contains(&seconds)) {
        faults.push(Fault { pointer: "/expires_in_s".into(), detail: format!("take 1 to {EXPIRES_IN_S_MAX} seconds (366 days)") });
    }
    if matches!(new.lane, Some(Lane::Retry | Lane::Periodic)) {
        faults.push(Fault { pointer: "/lane".into(), detail: "take urgent, change or bulk".into() });
    }
    if faults.is_empty() { Ok(kind) } else { Err(Error::Invalid(faults)) }
}

/// Whom a target means.
struct Aimed {
    /// Its devices, where they are few enough to be given their tasks at once.
    found: Option<Vec<Id>>,
    /// Users of devices who have a channel: (device, channel).
    users: Vec<(Id, Id)>,
    /// Names that stand for no device.
    unknown: Vec<String>,
    selector: Selector,
    /// How many devices, counted up to [`COUNTED_MAX`]; all of them where they count against the budget.
    devices: i64,
}

async fn aim(conn: &mut Conn, moment: &Moment, target: &Target) -> Result<Aimed> {
    if let Some(names) = &target.devices {
        let (mut found, mut unknown, ambiguous) = devices::resolve_many(conn, names).await?;
        if let Some(name) = ambiguous.first() {
            // Says which devices it may mean.
            devices::resolve(conn, name).await?;
        }
        let users = users_of(conn, &mut unknown).await?;
        found.sort_unstable();
        found.dedup();
        unknown.sort_unstable();
        unknown.dedup();
        let selector = Selector { devices: Some(found.clone()), label: None, bulk: found.len() > BULK_ABOVE };
        let devices = count_of(found.len() + users.len());
        return Ok(Aimed { found: (found.len() <= AT_ONCE_MAX).then_some(found), users, unknown, selector, devices });
    }
    let mut selector = Selector::default();
    if let Some(name) = &target.label {
        let label = labels::by_name(conn, name).await?;
        selector.label = Some(label.ok_or_else(|| Error::invalid("/target/label", format!("there is no label {name:?}")))?.id);
    }
    let devices = jobs::count(conn, selector.label, COUNTED_MAX).await?;
    selector.bulk = devices > count_of(BULK_ABOVE);
    let most = count_of(AT_ONCE_MAX);
    if devices > most {
        return Ok(Aimed { found: None, users: Vec::new(), unknown: Vec::new(), selector, devices });
    }
    let found = match selector.label {
        Some(label) => jobs::labelled(conn, label, "", moment.now_ms, most).await?,
        None => jobs::everybody(conn, "", moment.now_ms, most).await?,
    };
    Ok(Aimed { devices: count_of(found.len()), found: Some(found), users: Vec::new(), unknown: Vec::new(), selector })
}

/// Names the devices of a set one by one: what a second operator approves must not grow meanwhile. A set of [`COUNTED_MAX`] and more
/// stays one, and is counted to its end.
async fn freeze(conn: &mut Conn, moment: &Moment, aimed: &mut Aimed) -> Result<()> {
    if aimed.selector.devices.is_some() {
        return Ok(());
    }
    let listed = match (&aimed.found, aimed.selector.label) {
        (Some(found), _) => found.clone(),
        (None, Some(label)) => jobs::labelled(conn, label, "", moment.now_ms, COUNTED_MAX).await?,
        (None, None) => jobs::everybody(conn, "", moment.now_ms, COUNTED_MAX).await?,
    };
    if count_of(listed.len()) < COUNTED_MAX {
        aimed.devices = count_of(listed.len());
        aimed.selector.devices = Some(listed);
        aimed.selector.label = None;
    } else {
        aimed.devices = jobs::count(conn, aimed.selector.label, i64::MAX).await?;
    }
    Ok(())
}

/// The names that mean a user of a device, `UDID:USER`, taken out of those that no device has.
async fn users_of(conn: &mut Conn, unknown: &mut Vec<String>) -> Result<Vec<(Id, Id)>> {
    let mut users = Vec::new();
    let mut left = Vec::new();
    for name in unknown.drain(..) {
        match devices::user_channel(conn, &name).await? {
            Some(found) => users.push(found),
            None => left.push(name),
        }
    }
    *unknown = left;
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

fn count_of(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// What the audit says of a target.
fn shown(target: &Target) -> serde_json::Value {
    match (&target.devices, &target.label) {
        (Some(devices), _) => json!({"devices": devices.len()}),
        (_, Some(label)) => json!({"label": label}),
        _ => json!({"all": true}),
    }
}
