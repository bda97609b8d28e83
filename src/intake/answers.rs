//! What a group of visits is given: tasks, documents, outcomes; and where its wakes then stand.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::apple;
use super::contacts::{Heard, Visit};
use super::results::{Taken, here};
use crate::app::App;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::kind::Kind;
use crate::model::schedule::{self, DOCUMENT_PATIENCE_MS, OpenWork, PERIOD_S, Rhythm};
use crate::model::{Denial, Id, Lane};
use crate::ops::mdm::lost::Lost;
use crate::ops::{audit, jobs, settle as documents};
use crate::protocol::agent::{DeniedMembers, EventsAnswer, PolicyAnswer, SyncAnswer, TASKS_MAX, TaskAnswer};
use crate::store::apple::{self as store, Refresh};
use crate::store::certificates::{self, Challenge};
use crate::store::contacts::Carried;
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Key, OpenTask, TaskChange};
use crate::store::wakes::{self, Reset};
use crate::store::{Conn, tallies};

/// Gives every visit its answer and sets its wake; `taken` is counted and told with what is given. Answers what is to be kept in history.
pub(super) async fn give_out(
    app: &App,
    conn: &mut Conn,
    moment: &mut Moment,
    visits: &mut [Visit<'_>],
    taken: Taken,
) -> Result<(Vec<(usize, Heard)>, Vec<Carried>)> {
    let syncing: Vec<Key> = visits
        .iter()
        .filter_map(|visit| {
            let have = visit.sync().map_or(0, |sync| sync.have.len());
            visit
                .serves()
                .then_some(())
                .map(|()| Key { id: visit.standing.id, most: i64::try_from(TASKS_MAX + 1 + have).unwrap_or(i64::MAX) })
        })
        .collect();
    let mut open: HashMap<Id, Vec<OpenTask>> = HashMap::new();
    if !syncing.is_empty() {
        for task in tasks::open_for(conn, &syncing, moment.now_ms).await? {
            open.entry(task.channel_id).or_default().push(task);
        }
    }
    let wanting: Vec<Id> = visits.iter().filter(|visit| wants_document(visit)).map(|visit| visit.standing.id).collect();
    let mut delivered: HashMap<Id, documents::Delivered> = HashMap::new();
    if !wanting.is_empty() {
        let found = documents::documents(conn, documents::Reader::Device(&app.seal), &wanting, moment.now_ms).await?;
        // One that is kept as it is for want of a value is not delivered.
        delivered = found.into_iter().filter(|one| !one.document.is_null()).map(|one| (one.channel_id, one)).collect();
        documents::mint(conn, moment, delivered.values().flat_map(|one| &one.tokens)).await?;
    }
    let mut to_remove = apps_to_remove(conn, visits).await?;
    let mut out = Out { counts: taken.counts, entries: taken.entries, ..Out::default() };
    let mut answers = Vec::with_capacity(visits.len());
    for visit in visits.iter_mut() {
        let tasks = open.remove(&visit.standing.id).unwrap_or_default();
        let document = delivered.remove(&visit.standing.id);
        let heard = match visit.report() {
            Some(_) => apple::answer(app, moment, visit, tasks, &mut out),
            None => {
                let remove_apps = to_remove.remove(&visit.standing.id).unwrap_or_default();
                answer(app, moment, visit, tasks, document, remove_apps, &mut out)
            }
        };
        answers.push((visit.at, heard));
    }
    let carried = std::mem::take(&mut out.carried);
    out.write(conn, moment).await?;
    Ok((answers, carried))
}

/// What the denied ones among the visits have to take off their phones: the apps that their policies gave them.
async fn apps_to_remove(conn: &mut Conn, visits: &[Visit<'_>]) -> Result<HashMap<Id, Vec<String>>> {
    let takes_apps = |visit: &&Visit<'_>| visit.standing.denied.as_deref().and_then(Denial::named).is_some_and(Denial::takes_apps);
    // What an Apple device loses it is told by commands.
    let agents = visits.iter().filter(|visit| visit.report().is_none()).filter(takes_apps);
    let denied: HashMap<Id, &str> = agents.map(|visit| (visit.standing.id, visit.standing.platform.as_str())).collect();
    if denied.is_empty() {
        return Ok(HashMap::new());
    }
    audit::given(conn, &denied).await
}

fn wants_document(visit: &Visit<'_>) -> bool {
    let standing = &visit.standing;
    visit.sync().is_some_and(|sync| {
        standing.denied.is_none()
            && !documents::is_kept(standing.hold.as_deref())
            && standing.desired.is_some()
            && sync.policy.version != standing.desired
    })
}

/// What the answers of a group write.
#[derive(Default)]
pub(super) struct Out {
    pub deliveries: Vec<TaskChange>,
    pub counts: Vec<(String, String, i64)>,
    resets: Vec<Reset>,
    carried: Vec<Carried>,
    pub entries: Vec<Entry>,
    pub refreshes: Vec<Refresh>,
    /// Devices whose identity is renewed, and when it is tried again.
    pub renewals: Vec<(Id, i64)>,
    /// The challenges of the profiles that renew them.
    pub challenges: Vec<Challenge>,
    /// Devices that a `locate` marks as lost.
    pub lost: Vec<(Id, Lost)>,
}

impl Out {
    async fn write(mut self, conn: &mut Conn, moment: &mut Moment) -> Result<()> {
        // Wakes before tasks, the order of the locks.
        wakes::reset(conn, &self.resets).await?;
        self.deliveries.sort_by_key(|change| (change.bucket, change.id));
        // What goes out was locked when it was read.
        tasks::apply_held(conn, &self.deliveries, moment.now_ms).await?;
        store::refresh(conn, &self.refreshes).await?;
        for (device, at_ms) in &self.renewals {
            store::renew_at(conn, *device, *at_ms).await?;
        }
        for challenge in &self.challenges {
            certificates::put_challenge(conn, challenge).await?;
        }
        for (device, lost) in &self.lost {
            store::lost_mode(conn, *device, Some(&lost.text())).await?;
        }
        tallies::add(conn, moment, &self.counts).await?;
        feed::append(conn, moment, &self.entries).await
    }
}

fn answer(
    app: &App,
    moment: &mut Moment,
    visit: &mut Visit<'_>,
    open: Vec<OpenTask>,
    document: Option<documents::Delivered>,
    remove_apps: Vec<String>,
    out: &mut Out,
) -> Heard {
    let now_ms = moment.now_ms;
    let Some(sync) = visit.sync() else {
        note(moment, visit, 0, None, out);
        if visit.standing.denied.is_some() {
            return Heard::Denied(Box::new(denied(visit, Vec::new(), remove_apps)));
        }
        return Heard::Events(EventsAnswer { events: std::mem::take(&mut visit.events) });
    };
    let have: HashSet<Id> = sync.have.iter().map(|id| here(visit, *id)).collect();
    let is_denied = visit.standing.denied.is_some();
    // What a denied device is not given is no work that it is called for.
    let deliverable = |task: &OpenTask| !is_denied || Kind::named(&task.kind).is_some_and(|kind| kind.for_denied);
    let open: Vec<OpenTask> = open.into_iter().filter(deliverable).collect();
    let wanted: Vec<&OpenTask> = open.iter().filter(|task| !have.contains(&task.id)).collect();
    let more = wanted.len() > TASKS_MAX;
    let mut tasks = Vec::with_capacity(wanted.len().min(TASKS_MAX));
    let mut fresh = 0;
    for task in wanted.iter().take(TASKS_MAX) {
        out.deliveries.push(TaskChange::delivered(task.id));
        if task.state == "queued" {
            fresh += 1;
            out.counts.push((jobs::topic(task.job_id), "queued".into(), -1));
            out.counts.push((jobs::topic(task.job_id), "delivered".into(), 1));
            let data = json!({"task_id": task.id, "job_id": task.job_id, "kind": task.kind});
            out.entries.push(Entry { kind: "task.delivered", actor: None, device_id: Some(visit.standing.device_id), data });
        }
        tasks.push(TaskAnswer {
            id: task.id.to_string(),
            kind: task.kind.clone(),
            params: jobs::load_params(&app.seal, &task.kind, task.job_id, &task.params),
            expires_at_ms: task.expires_at_ms,
            attempt: task.attempt + 1,
        });
    }
    let policy = document.map(|document| PolicyAnswer { version: document.version, document: document.document });
    visit.fruitful |= fresh > 0;
    visit.steps.served += fresh + i64::from(policy.is_some());
    reset(moment, visit, work_of(&open, &have, policy.is_some(), now_ms), out);
    note(moment, visit, fresh, policy.as_ref().map(|policy| policy.version.clone()), out);
    if is_denied {
        return Heard::Denied(Box::new(denied(visit, tasks, remove_apps)));
    }
    Heard::Sync(Box::new(SyncAnswer {
        server_time_ms: now_ms,
        sync_every_s: PERIOD_S,
        next_sync_in_s: schedule::next_sync_in_s(now_ms, visit.standing.phase_s),
        more,
        policy,
        tasks,
        results: std::mem::take(&mut visit.results),
        events: std::mem::take(&mut visit.events),
    }))
}

/// What an agent's visit leaves open.
fn work_of(open: &[OpenTask], have: &HashSet<Id>, document: bool, now_ms: i64) -> Vec<OpenWork> {
    let mut work: Vec<OpenWork> = open
        .iter()
        .map(|task| {
            let delivered_ms = if have.contains(&task.id) { task.delivered_at_ms } else { Some(now_ms) };
            OpenWork {
                last_ms: delivered_ms.max(task.progressed_at_ms).unwrap_or(now_ms),
                patience_ms: Kind::named(&task.kind).map_or(DOCUMENT_PATIENCE_MS, Kind::patience_ms),
                urgent: task.lane == Lane::Urgent.rank(),
            }
        })
        .collect();
    if document {
        work.push(OpenWork { last_ms: now_ms, patience_ms: DOCUMENT_PATIENCE_MS, urgent: false });
    }
    work
}

/// Sets the wake by what the visit leaves open. A visit of a channel that has nothing open and was not called needs no write.
pub(super) fn reset(moment: &Moment, visit: &Visit<'_>, work: Vec<OpenWork>, out: &mut Out) {
    let standing = &visit.standing;
    let now_ms = moment.now_ms;
    let untouched =
        standing.open_work == 0 && standing.step == 0 && standing.attempt == 0 && standing.unanswered == 0 && visit.on_its_way.is_none();
    if work.is_empty() && untouched && standing.lane == Lane::Periodic.rank() && (standing.lazy == 1 || visit.report().is_some()) {
        return;
    }
    let fruitless = if visit.fruitful || work.is_empty() { 0 } else { standing.fruitless + 1 };
    let rhythm = Rhythm { phase_s: standing.phase_s, lazy: standing.lazy == 1, gap_ms: standing.gap_ms, last_serving_ms: Some(now_ms) };
    let (lane, due_at_ms) = schedule::after_contact(&rhythm, &work, fruitless, standing.nudged_at_ms, now_ms);
    out.resets.push(Reset {
        bucket: standing.id.bucket(),
        channel_id: standing.id,
        seen: standing.work_seq,
        lane: lane.rank(),
        due_at_ms,
        open_work: i64::from(!work.is_empty()),
        urgent_open: i64::from(work.iter().any(|work| work.urgent)),
        fruitless,
    });
}

/// Keeps the visit in history if it carried something, and measures what its nudge took.
pub(super) fn note(moment: &mut Moment, visit: &Visit<'_>, tasks: i64, policy: Option<String>, out: &mut Out) {
    let standing = &visit.standing;
    let answered = visit.answered_nudge().map(|(at_ms, lane)| ((moment.now_ms - at_ms).max(0), lane));
    let after_nudge_ms = answered.map(|(ms, _)| ms);
    if let Some((ms, lane)) = answered {
        metrics::histogram!("muster_nudge_to_contact_seconds", "platform" => standing.platform.clone(), "lane" => lane.name())
            .record(ms as f64 / 1000.0);
    }
    let count = |outcomes: usize| i64::try_from(outcomes).unwrap_or(i64::MAX);
    let (results, events) = (count(visit.results.len()) + visit.reported.results, count(visit.events.len()));
    if results + events + tasks > 0 || policy.is_some() || after_nudge_ms.is_some() {
        out.carried.push(Carried {
            bucket: standing.id.bucket(),
            id: moment.id_beside(standing.device_id),
            device_id: standing.device_id,
            channel_id: standing.id,
            cause: visit.cause().to_owned(),
            after_nudge_ms,
            results,
            events,
            tasks,
            policy,
        });
    }
}

fn denied(visit: &mut Visit<'_>, tasks: Vec<TaskAnswer>, remove_apps: Vec<String>) -> DeniedMembers {
    let action = visit.standing.denied.as_deref().and_then(Denial::named).unwrap_or(Denial::Operator).action();
    DeniedMembers { action, remove_apps, tasks, results: std::mem::take(&mut visit.results), events: std::mem::take(&mut visit.events) }
}
