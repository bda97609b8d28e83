//! What devices say of their commands. The first final status of a command counts; a repeat changes nothing and is answered alike.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::super::contacts::Visit;
use crate::app::App;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::ops::mdm::declarative::{assigned, profile_answered};
use crate::ops::mdm::lost::{self, Lost};
use crate::ops::mdm::plan::{self, Progress, Took};
use crate::ops::mdm::profiles::{self, Listed};
use crate::ops::mdm::{command_id, own};
use crate::ops::{alarms, jobs};
use crate::protocol::apple::{Report, Status, facts};
use crate::store::apple::declarative::{self, Told};
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Command, Spoken, TaskChange};
use crate::store::{Conn, apple as store, tallies};

/// A device could not read a command: a fault of the server, or of the operator who wrote it. The subject is the device.
pub const FORMAT_ALARM: &str = "apple_command_format";

/// What the reports of a group change.
#[derive(Default)]
struct Changes {
    tasks: Vec<TaskChange>,
    /// (job, task, state before, state after)
    moves: Vec<(Id, Id, String, String)>,
    entries: Vec<Entry>,
    refreshes: Vec<store::Refresh>,
    configured: Vec<Id>,
    /// Channels of users who were told the same.
    users_configured: Vec<Id>,
    /// Devices that are lost by somebody else now: before and after.
    lost: Vec<(Id, Option<Lost>, Option<Lost>)>,
    alarms: Vec<(Id, String)>,
    /// Channels that have heard of their declarations.
    told: Vec<Told>,
    /// Channels that cannot have any, with the version that they were told of and their own words.
    refused: Vec<(Id, String, Vec<Value>)>,
    /// Answers about profiles: the device and its channel, whether it was to be installed, its PayloadUUID.
    profiles: Vec<(Id, Id, bool, String, Report)>,
}

/// Takes the reports in; answers the facts that they told, by device.
pub(in crate::intake) async fn take(
    app: &App,
    conn: &mut Conn,
    moment: &mut Moment,
    visits: &mut [Visit<'_>],
) -> Result<HashMap<Id, BTreeMap<String, Value>>> {
    let mut told = HashMap::new();
    let spoken: Vec<Spoken> = visits.iter().filter_map(spoken).collect();
    let mut by_id: HashMap<(Id, String), Command> = HashMap::new();
    for command in tasks::commands(conn, &spoken).await? {
        let name = command.command_uuid.clone().unwrap_or_else(|| command.id.to_string());
        by_id.insert((command.channel_id, name), command);
    }
    let heard = heard(app, conn, moment.now_ms, visits).await?;
    let mut changes = Changes::default();
    for visit in visits.iter_mut() {
        let Some(report) = visit.report().cloned() else { continue };
        let Some(uuid) = report.command_uuid.clone() else { continue };
        let mut facts = if report.status == Status::Acknowledged { facts::of(&report) } else { BTreeMap::new() };
        let is_lost = facts.get("lost_mode").and_then(Value::as_bool);
        changes.note_lost(visit, |was| lost::told(was, is_lost));
        let named = command_id::read(&uuid);
        let step = named.map_or(0, |(_, step)| step);
        let key = |name: String| (visit.standing.id, name);
        let command = by_id.get(&key(uuid.clone())).or_else(|| by_id.get(&key(named?.0.to_string())));
        // Before such ids were refused an operator could give one to a command: that ends its task, or it would be given for ever.
        if command.is_none() && own::is_own(&uuid) {
            if !facts.is_empty() {
                told.insert(visit.standing.device_id, facts);
            }
            asked(visit, &report, &uuid, heard.contains(&visit.standing.id), moment.now_ms, &mut changes);
            continue;
        }
        let params =
            command.map(|command| jobs::load_params(&app.seal, &command.kind, command.job_id, &command.params)).unwrap_or_default();
        if command.is_none_or(|command| !plan::is_whole(&command.kind, &params)) {
            // A list of some apps is not the list of apps.
            facts.retain(|name, _| !facts::LISTS.contains(&name.as_str()));
        }
        if !facts.is_empty() {
            told.insert(visit.standing.device_id, facts);
        }
        match command {
            Some(command) => of_task(visit, command, step, &report, &params, moment.now_ms, &mut changes),
            None => tracing::debug!(device = %visit.standing.device_id, "a report names a command that is not known"),
        }
    }
    changes.write(app, conn, moment).await?;
    listed(app, conn, moment, visits, &told).await?;
    Ok(told)
}

/// Devices that have listed their profiles have what stands there.
async fn listed(
    app: &App,
    conn: &mut Conn,
    moment: &Moment,
    visits: &mut [Visit<'_>],
    told: &HashMap<Id, BTreeMap<String, Value>>,
) -> Result<()> {
    let lists: Vec<Listed> = visits
        .iter()
        .filter(|visit| visit.report().is_some() && visit.standing.subject.is_empty())
        .filter_map(|visit| {
            let standing = &visit.standing;
            let profiles = told.get(&standing.device_id)?.get("profiles")?.clone();
            let declared = standing.declared.clone().filter(|_| standing.declared == standing.desired);
            Some(Listed { channel: standing.id, declared, profiles })
        })
        .collect();
    if lists.is_empty() {
        return Ok(());
    }
    let changed = profiles::listed(conn, moment, &app.config.public_url, &lists).await?;
    for visit in visits.iter_mut().filter(|visit| changed.contains(&visit.standing.id)) {
        (visit.standing.declared, visit.standing.applied) = (None, None);
    }
    Ok(())
}

fn spoken(visit: &Visit<'_>) -> Option<Spoken> {
    let command_uuid = visit.report()?.command_uuid.clone()?;
    let id = command_id::read(&command_uuid).map(|(id, _)| id);
    Some(Spoken { bucket: visit.standing.id.bucket(), channel_id: visit.standing.id, id, command_uuid })
}

/// The channels that answer the announcement of just those declarations that they are to have now. An answer that comes late, or twice,
/// may be about a list that has been exchanged since.
async fn heard(app: &App, conn: &mut Conn, now_ms: i64, visits: &[Visit<'_>]) -> Result<HashSet<Id>> {
    let answered: HashMap<Id, &str> = visits
        .iter()
        .filter_map(|visit| {
            let (version, token) = own::announced(visit.report()?.command_uuid.as_deref()?)?;
            (visit.standing.desired.as_deref() == Some(version)).then_some((visit.standing.id, token))
        })
        .collect();
    if answered.is_empty() {
        return Ok(HashSet::new());
    }
    let channels: Vec<Id> = answered.keys().copied().collect();
    let assigned = assigned(conn, &app.seal, &channels, now_ms).await?;
    let is_now = |(id, token): &(Id, &str)| assigned.get(id).is_some_and(|assigned| assigned.served.token().starts_with(token));
    Ok(answered.into_iter().filter(is_now).map(|(id, _)| id).collect())
}

/// The answer to a question of the server itself. `is_heard` says that it is about the declarations of now.
fn asked(visit: &mut Visit<'_>, report: &Report, uuid: &str, is_heard: bool, now_ms: i64, changes: &mut Changes) {
    if report.status == Status::NotNow {
        visit.reported.own_put_off = true;
        return;
    }
    if let Some((installs, profile)) = own::profile_of(uuid) {
        visit.reported.results = 1;
        visit.fruitful = true;
        changes.profiles.push((visit.standing.device_id, visit.standing.id, installs, profile.to_owned(), report.clone()));
        return;
    }
    if uuid == own::user_configured_id(visit.standing.id) {
        visit.reported.results = 1;
        visit.fruitful = true;
        visit.standing.awaiting_configuration = 0;
        changes.users_configured.push(visit.standing.id);
        return;
    }
    if let Some(task) = own::lost_mode_of(uuid) {
        visit.reported.results = 1;
        visit.fruitful = true;
        let is_off = report.status == Status::Acknowledged;
        changes.note_lost(visit, |was| if was == Some(Lost::Locate(task)) { (!is_off).then_some(Lost::Kept) } else { was });
        return;
    }
    if own::announced(uuid).is_some() {
        if is_heard {
            told(visit, report, changes);
        }
        return;
    }
    let Some(enrollment) = &mut visit.reported.enrollment else { return };
    match own::take(enrollment, uuid, &visit.reported.covered, now_ms) {
        None => return,
        Some(own::Took::Configured) => {
            enrollment.awaiting_configuration = 0;
            changes.configured.push(enrollment.device_id);
        }
        Some(own::Took::Refresh(row)) => {
            enrollment.refresh_started_ms = row.started_ms;
            enrollment.refresh_step = row.step;
            enrollment.refreshed_at_ms = row.refreshed_at_ms;
            changes.refreshes.push(row);
        }
    }
    visit.reported.results = 1;
    visit.fruitful = true;
}

/// A channel has answered the announcement of its declarations: it fetches them by itself, or it cannot.
fn told(visit: &mut Visit<'_>, report: &Report, changes: &mut Changes) {
    visit.reported.results = 1;
    visit.fruitful = true;
    let standing = &mut visit.standing;
    let Some(version) = standing.desired.clone() else { return };
    if report.status != Status::Acknowledged {
        changes.refused.push((standing.id, version, report.chain.clone()));
        return;
    }
    standing.declared = Some(version);
    changes.told.push(Told { bucket: standing.id.bucket(), id: standing.id, version: standing.declared.clone() });
}

fn of_task(visit: &mut Visit<'_>, task: &Command, step: u32, report: &Report, params: &Value, now_ms: i64, changes: &mut Changes) {
    visit.reported.results = 1;
    let mut progress = Progress::read(task.progress.as_deref());
    let is_present = progress.step == step || task.command_uuid.is_some();
    let is_lost = lost::is_not_ours(visit.reported.enrollment.as_ref());
    if is_present {
        changes.note_lost(visit, |was| lost::after(was, task, params, &progress, report.status));
    }
    if task.finished_at_ms.is_some() {
        // What comes after a cancelling or an expiry is kept; a repeat of the end says nothing new.
        if task.late.is_none() && !matches!(task.state.as_str(), "done" | "failed") && report.status != Status::NotNow {
            let said = json!({"status": format!("{:?}", report.status), "chain": report.chain, "at_ms": now_ms}).to_string();
            changes.tasks.push(change(task.id, "late", None, None, None, Some(said)));
            changes.entries.push(entry("task.late", task, json!({})));
        }
        return;
    }
    if !is_present {
        return;
    }
    visit.fruitful = true;
    visit.steps.acknowledged += 1;
    if report.status == Status::NotNow {
        progress.put_off(now_ms);
        changes.tasks.push(change(task.id, "not_now", Some(progress.text()), None, None, None));
        if task.state != "not_now" {
            changes.moves.push((task.job_id, task.id, task.state.clone(), "not_now".into()));
            changes.entries.push(entry("task.not_now", task, json!({})));
        }
        return;
    }
    if report.status == Status::CommandFormatError {
        changes.alarms.push((task.device_id, format!("the device cannot read the command of task {} ({})", task.id, task.kind)));
    }
    let (state, progress, error, result) = match plan::take(&task.kind, params, &progress, report, is_lost, now_ms) {
        Took::Goes(progress) => ("running", Some(progress.text()), None, None),
        Took::Done(result) => ("done", None, None, Some(result.to_string())),
        Took::Failed(error) => ("failed", None, Some(error), None),
    };
    visit.steps.verified += i64::from(state != "running");
    if task.state != state {
        changes.moves.push((task.job_id, task.id, task.state.clone(), state.into()));
        let kind = match state {
            "done" => "task.done",
            "failed" => "task.failed",
            _ => "task.progressed",
        };
        changes.entries.push(entry(kind, task, error.as_ref().map_or_else(|| json!({}), |error| json!({"error": error}))));
    }
    changes.tasks.push(change(task.id, state, progress, error.map(|error| error.to_string()), result, None));
}

impl Changes {
    /// Notes who has the device in lost mode now.
    fn note_lost(&mut self, visit: &mut Visit<'_>, now: impl FnOnce(Option<Lost>) -> Option<Lost>) {
        let Some(enrollment) = visit.reported.enrollment.as_mut().filter(|_| visit.standing.subject.is_empty()) else { return };
        let was = Lost::of(enrollment);
        let is = now(was);
        if is != was {
            enrollment.lost_mode = is.map(Lost::text);
            self.lost.push((enrollment.device_id, was, is));
        }
    }

    async fn write(self, app: &App, conn: &mut Conn, moment: &mut Moment) -> Result<()> {
        let mut rows = self.tasks;
        rows.sort_by_key(|row| (row.bucket, row.id));
        let took: HashSet<Id> = tasks::apply(conn, &rows, moment.now_ms).await?.into_iter().map(|applied| applied.id).collect();
        store::refresh(conn, &self.refreshes).await?;
        for device in self.configured {
            store::configured(conn, device).await?;
        }
        for channel in self.users_configured {
            store::awaits(conn, channel, false).await?;
        }
        for (device, was, is) in self.lost {
            store::lost_mode(conn, device, is.map(Lost::text).as_deref()).await?;
            let subject = device.to_string();
            if is == Some(Lost::Kept) {
                let detail = "the device answered DisableLostMode with an error after it was located: it may still be in lost mode";
                alarms::open(conn, moment, lost::ALARM, &subject, detail).await?;
            } else if was == Some(Lost::Kept) {
                alarms::close(conn, moment, lost::ALARM, &subject).await?;
            }
        }
        let counts: Vec<(String, String, i64)> = self
            .moves
            .into_iter()
            .filter(|(_, id, _, _)| took.contains(id))
            .flat_map(|(job, _, was, state)| [(jobs::topic(job), was, -1), (jobs::topic(job), state, 1)])
            .collect();
        for (_, state, _) in counts.iter().filter(|(_, _, n)| *n > 0) {
            metrics::counter!("muster_results_total", "outcome" => state.clone()).increment(1);
        }
        tallies::add(conn, moment, &counts).await?;
        feed::append(conn, moment, &self.entries).await?;
        declarative::told(conn, &self.told).await?;
        declarative::heard(conn, &self.told, moment.now_ms).await?;
        for (channel, version, chain) in &self.refused {
            profiles::refused(conn, moment, *channel, version, chain).await?;
        }
        for (device, channel, installs, uuid, report) in &self.profiles {
            profiles::answered(conn, *channel, *installs, uuid, report).await?;
            profile_answered(conn, moment, &app.seal, *device, *channel).await?;
        }
        for (device, detail) in &self.alarms {
            alarms::open(conn, moment, FORMAT_ALARM, &device.to_string(), detail).await?;
        }
        Ok(())
    }
}

fn change(
    id: Id,
    state: &str,
    progress: Option<String>,
    error: Option<String>,
    result: Option<String>,
    late: Option<String>,
) -> TaskChange {
    TaskChange { bucket: id.bucket(), id, state: state.to_owned(), progress, error, result, late }
}

fn entry(kind: &'static str, task: &Command, more: Value) -> Entry {
    let mut data = json!({"task_id": task.id, "job_id": task.job_id, "kind": task.kind});
    if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
        data.extend(more);
    }
    Entry { kind, actor: None, device_id: Some(task.device_id), data }
}
