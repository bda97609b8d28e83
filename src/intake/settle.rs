//! What a group of visits takes in and gives out. Every step is one statement or a few for the whole group, in the order of the locks:
//! channels (held already), wakes, tasks, findings, feed.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::contacts::{Heard, Visit};
use crate::app::App;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::kind::Kind;
use crate::model::schedule::{self, DOCUMENT_PATIENCE_MS, OpenWork, PERIOD_S, Rhythm};
use crate::model::{Id, Lane};
use crate::ops::events::{self, Arrived};
use crate::ops::{findings, jobs, settle as documents};
use crate::protocol::agent::{
    DeniedMembers, EventsAnswer, Item, PolicyAnswer, ResultOutcome, SyncAnswer, SyncRequest, TASKS_MAX, TaskAnswer, TaskStatus, facts_hash,
};
use crate::store::contacts::{self, Carried, Changed, FactsChange};
use crate::store::feed::{self, Entry};
use crate::store::tasks::{self, Key, OpenTask, TaskChange};
use crate::store::wakes::{self, Readdress, Reset};
use crate::store::{Conn, devices, tallies};

/// Takes in everything that the visits brought; true where others may have work from it.
pub(super) async fn take_in(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    bring_up_to_date(conn, moment, visits).await?;
    addresses(conn, moment, visits).await?;
    results(conn, moment, visits).await?;
    let mut changed_facts = take_events(conn, moment, visits).await?;
    take_facts(conn, moment, visits, &mut changed_facts).await
}

/// Stale channels get their document's version now, and expanding jobs make their tasks for whoever is here.
async fn bring_up_to_date(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    let stale: Vec<Id> = visits
        .iter()
        .filter(|visit| visit.sync().is_some() && visit.standing.set_generation > visit.standing.generation)
        .map(|visit| visit.standing.id)
        .collect();
    if !stale.is_empty() {
        let mut settled: HashMap<Id, _> = documents::stale(conn, moment, &stale).await?.into_iter().map(|row| (row.id, row)).collect();
        for visit in visits.iter_mut() {
            if let Some(row) = settled.remove(&visit.standing.id) {
                visit.standing.desired = row.desired;
                visit.standing.hold = row.hold;
            }
        }
    }
    let came: Vec<(Id, i64)> = visits
        .iter()
        .filter(|visit| visit.sync().is_some())
        .map(|visit| (visit.standing.device_id, visit.standing.created_at_ms))
        .collect();
    if came.is_empty() { Ok(()) } else { jobs::make_early(conn, moment, &came).await }
}

/// New push addresses, promoted tokens, and what the agents report of their policy.
async fn addresses(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    let mut changes = Vec::new();
    let mut readdressed = Vec::new();
    let mut proved = Vec::new();
    let mut done = Vec::new();
    for visit in visits.iter_mut() {
        let before = visit.standing.clone();
        visit.standing.skew_ms = events::skew_ms(visit.contact.events(), before.skew_ms, moment.now_ms);
        let hash = &visit.contact.token_hash;
        let standing = &mut visit.standing;
        if standing.fresh_token_hash.as_ref() == Some(hash) {
            standing.token_hash = standing.fresh_token_hash.take();
        }
        let sync: Option<&SyncRequest> = match &visit.contact.said {
            super::contacts::Said::Sync(sync) => Some(sync),
            super::contacts::Said::Events(_) => None,
        };
        let mut push_changed = false;
        if let Some(push) = sync.and_then(|sync| sync.push.as_ref()) {
            let new = standing.push_value.as_deref() != Some(push.value.as_str());
            // A device that comes with its address proves it: quarantine ends. A dead address lives again only as another one.
            if new || standing.push_state == "quarantined" || standing.push_state == "none" {
                push_changed = true;
                standing.push_provider = Some(push.provider.name().into());
                standing.push_kind = Some(push.kind.name().into());
                standing.push_value = Some(push.value.clone());
                standing.push_state = "active".into();
                readdressed.push(Readdress {
                    bucket: standing.id.bucket(),
                    channel_id: standing.id,
                    sender: push.provider.sender().into(),
                });
            }
        }
        if let Some(sync) = sync {
            let proof = documents::proof(standing.desired.as_deref(), &sync.policy);
            standing.reported = proof.reported;
            standing.details = proof.details;
            if proof.applies && standing.applied != standing.desired {
                standing.applied.clone_from(&standing.desired);
                standing.applied_at_ms = Some(moment.now_ms);
                proved.push((standing.device_id, standing.applied.clone()));
            } else if standing.reported.is_none() {
                standing.applied = None;
            }
            if sync.action_done && standing.denied.is_some() {
                done.push(standing.device_id);
            }
        }
        let reported = (&standing.reported, &standing.applied, &standing.details) != (&before.reported, &before.applied, &before.details);
        let token = (&standing.token_hash, &standing.fresh_token_hash) != (&before.token_hash, &before.fresh_token_hash);
        visit.fruitful |= reported || push_changed;
        if reported || push_changed || token || visit.standing.skew_ms != before.skew_ms {
            changes.push(changed(visit, push_changed));
        }
    }
    contacts::change(conn, &changes, moment.now_ms).await?;
    wakes::readdress(conn, &readdressed, moment.now_ms).await?;
    let devices_proved: Vec<Id> = proved.iter().map(|(id, _)| *id).collect();
    findings::documents_proved(conn, moment, &devices_proved).await?;
    let mut entries: Vec<Entry> = proved
        .into_iter()
        .map(|(id, version)| Entry { kind: "policy.applied", actor: None, device_id: Some(id), data: json!({"version": version}) })
        .collect();
    for id in done {
        if devices::action_done(conn, id, moment.now_ms).await? {
            entries.push(Entry { kind: "device.action_done", actor: None, device_id: Some(id), data: json!({}) });
        }
    }
    feed::append(conn, moment, &entries).await
}

fn changed(visit: &Visit<'_>, push_changed: bool) -> Changed {
    let standing = &visit.standing;
    Changed {
        bucket: standing.id.bucket(),
        id: standing.id,
        token_hash: standing.token_hash.clone(),
        fresh_token_hash: standing.fresh_token_hash.clone(),
        push_provider: standing.push_provider.clone(),
        push_kind: standing.push_kind.clone(),
        push_value: standing.push_value.clone(),
        push_state: standing.push_state.clone(),
        push_changed: i64::from(push_changed),
        skew_ms: standing.skew_ms,
        reported: standing.reported.clone(),
        applied: standing.applied.clone(),
        applied_at_ms: standing.applied_at_ms,
        details: standing.details.clone(),
    }
}

/// Results against their tasks: the first final one wins, a repeat is answered alike, a late one is kept as such.
async fn results(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    let mut spoken = Vec::new();
    for visit in visits.iter() {
        for result in visit.sync().into_iter().flat_map(|sync| &sync.results) {
            if let Item::Ok(result) = result {
                spoken.push((visit.standing.id, result.task_id));
            }
        }
    }
    if spoken.is_empty() {
        // Items that could not be read still get their answer.
        for visit in visits.iter_mut() {
            visit.results = refused(visit);
        }
        return Ok(());
    }
    let known: HashMap<(Id, Id), tasks::TaskRow> =
        tasks::find(conn, &spoken).await?.into_iter().map(|row| ((row.channel_id, row.id), row)).collect();
    let mut changes: BTreeMap<(i64, Id), TaskChange> = BTreeMap::new();
    let mut moves = Vec::new();
    let mut entries = Vec::new();
    for visit in visits.iter_mut() {
        let mut outcomes = Vec::new();
        for item in visit.contact.results_said() {
            let result = match item {
                Item::Ok(result) => result,
                Item::Rejected { id, .. } => {
                    outcomes.push(outcome(id.clone(), "unknown"));
                    continue;
                }
            };
            let id = Some(result.task_id.to_string());
            let Some(task) = known.get(&(visit.standing.id, result.task_id)) else {
                outcomes.push(outcome(id, "unknown"));
                continue;
            };
            let key = (task.id.bucket(), task.id);
            let earlier = changes.get(&key).map(|change| change.state.clone());
            let ended = task.finished_at_ms.is_some() || earlier.as_deref().is_some_and(|state| matches!(state, "done" | "failed"));
            let state = state_of(result.status);
            let is_final = matches!(result.status, TaskStatus::Done | TaskStatus::Failed);
            let said = json!({"state": state, "code": result.code, "message": result.message, "data": result.data, "at_ms": result.at_ms})
                .to_string();
            if ended {
                let superseded = matches!(task.state.as_str(), "cancelled" | "expired" | "superseded");
                if superseded && is_final && task.late.is_none() {
                    changes.insert(key, change(key, "late", None, None, None, Some(said)));
                    entries.push(entry("task.late", visit.standing.device_id, task, json!({"state": state})));
                }
                let word = match (superseded, is_final) {
                    (true, _) => "late",
                    _ => "duplicate",
                };
                outcomes.push(outcome(id, word));
                continue;
            }
            let error = (result.status == TaskStatus::Failed)
                .then(|| error_of(result.code.as_deref(), result.message.as_deref(), result.data.as_ref()));
            let data = (result.status == TaskStatus::Done).then(|| result.data.clone().unwrap_or_else(|| json!({})).to_string());
            let progress = result.progress.as_ref().map(Value::to_string);
            // A result may overtake one of the same request: the count moves from what was counted last. Progress never goes back.
            let was = earlier.unwrap_or_else(|| task.state.clone());
            let repeats = !is_final && (was == state || was == "running");
            if !repeats || (was == state && progress.is_some()) {
                changes.insert(key, change(key, state, progress, error.clone(), data, None));
            }
            outcomes.push(outcome(id, if repeats { "duplicate" } else { "recorded" }));
            visit.fruitful |= !repeats;
            if !repeats {
                moves.push((task.job_id, task.id, was, state));
                let words =
                    if is_final { json!({"error": error.and_then(|text| serde_json::from_str::<Value>(&text).ok())}) } else { json!({}) };
                entries.push(entry(kind_of(state), visit.standing.device_id, task, words));
            }
        }
        visit.results = outcomes;
    }
    let rows: Vec<TaskChange> = changes.into_values().collect();
    let took: HashSet<Id> = tasks::apply(conn, &rows, moment.now_ms).await?.into_iter().map(|applied| applied.id).collect();
    let counts: Vec<(String, String, i64)> = moves
        .into_iter()
        .filter(|(_, id, _, _)| took.contains(id))
        .flat_map(|(job, _, was, state)| [(jobs::topic(job), was, -1), (jobs::topic(job), state.to_owned(), 1)])
        .collect();
    for (_, state, _) in counts.iter().filter(|(_, _, n)| *n > 0) {
        metrics::counter!("muster_results_total", "outcome" => state.clone()).increment(1);
    }
    tallies::add(conn, moment, &counts).await?;
    feed::append(conn, moment, &entries).await
}

fn refused(visit: &Visit<'_>) -> Vec<ResultOutcome> {
    let of = |item: &Item<_>| match item {
        Item::Rejected { id, .. } => outcome(id.clone(), "unknown"),
        Item::Ok(_) => outcome(None, "unknown"),
    };
    visit.contact.results_said().iter().map(of).collect()
}

fn outcome(task_id: Option<String>, outcome: &'static str) -> ResultOutcome {
    ResultOutcome { task_id, outcome }
}

fn change(
    (bucket, id): (i64, Id),
    state: &str,
    progress: Option<String>,
    error: Option<String>,
    result: Option<String>,
    late: Option<String>,
) -> TaskChange {
    TaskChange { bucket, id, state: state.to_owned(), progress, error, result, late }
}

fn state_of(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Done => "done",
        TaskStatus::Failed => "failed",
        TaskStatus::Received => "received",
        TaskStatus::Running => "running",
    }
}

fn kind_of(state: &str) -> &'static str {
    match state {
        "done" => "task.done",
        "failed" => "task.failed",
        _ => "task.progressed",
    }
}

/// The device's own error with its chain, whatever it sent of it.
fn error_of(code: Option<&str>, message: Option<&str>, data: Option<&Value>) -> String {
    let chain = data.and_then(|data| data.get("chain")).filter(|chain| chain.is_array()).cloned().unwrap_or_else(|| json!([]));
    json!({"code": code.unwrap_or("failed"), "message": message.unwrap_or(""), "chain": chain}).to_string()
}

fn entry(kind: &'static str, device: Id, task: &tasks::TaskRow, more: Value) -> Entry {
    let mut data = json!({"task_id": task.id, "job_id": task.job_id, "kind": task.kind});
    if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
        data.extend(more);
    }
    Entry { kind, actor: None, device_id: Some(device), data }
}

/// Events, with the facts that they changed.
async fn take_events(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<HashMap<Id, BTreeMap<String, Value>>> {
    let mut facts: HashMap<Id, BTreeMap<String, Value>> = HashMap::new();
    let bringing: Vec<usize> = (0..visits.len()).filter(|at| !visits[*at].contact.events().is_empty()).collect();
    if bringing.is_empty() {
        return Ok(facts);
    }
    let batch: Vec<Arrived> = bringing
        .iter()
        .map(|at| {
            let Visit { contact, standing, .. } = &visits[*at];
            Arrived {
                channel_id: standing.id,
                device_id: standing.device_id,
                activation: standing.activation,
                skew_ms: standing.skew_ms,
                events: contact.events().to_vec(),
            }
        })
        .collect();
    let applied = events::apply(conn, moment, &batch).await?;
    for (at, outcomes) in bringing.into_iter().zip(applied.outcomes) {
        visits[at].fruitful |= outcomes.iter().any(|outcome| outcome.outcome == "recorded");
        for outcome in &outcomes {
            metrics::counter!("muster_events_total", "outcome" => outcome.outcome).increment(1);
        }
        visits[at].events = outcomes;
    }
    for fact in applied.facts {
        facts.entry(fact.device_id).or_default().insert(fact.key, fact.value);
    }
    Ok(facts)
}

/// Facts that differ from the stored ones; an inventory that is known by its hash writes nothing.
async fn take_facts(
    conn: &mut Conn,
    moment: &mut Moment,
    visits: &mut [Visit<'_>],
    by_event: &mut HashMap<Id, BTreeMap<String, Value>>,
) -> Result<()> {
    let mut said: HashMap<Id, (BTreeMap<String, Value>, String)> = HashMap::new();
    for visit in visits.iter() {
        let mut facts = visit.sync().map(|sync| sync.facts.clone()).unwrap_or_default();
        let hash = if facts.is_empty() { visit.standing.facts_hash.clone() } else { facts_hash(&facts) };
        let news = by_event.remove(&visit.standing.device_id).unwrap_or_default();
        if hash == visit.standing.facts_hash && news.is_empty() {
            continue;
        }
        facts.extend(news);
        said.insert(visit.standing.device_id, (facts, hash));
    }
    if said.is_empty() {
        return Ok(());
    }
    let ids: Vec<Id> = said.keys().copied().collect();
    let mut changes = Vec::with_capacity(ids.len());
    let mut differing = Vec::new();
    for row in contacts::facts(conn, &ids).await? {
        let Some((facts, hash)) = said.remove(&row.id) else { continue };
        let mut stored: BTreeMap<String, Value> = serde_json::from_str(&row.facts).unwrap_or_default();
        let new: Vec<(String, Value)> = facts.into_iter().filter(|(key, value)| stored.get(key) != Some(value)).collect();
        stored.extend(new.iter().cloned());
        let text = |key: &str| stored.get(key).and_then(Value::as_str).map(str::to_owned);
        changes.push(FactsChange {
            bucket: row.id.bucket(),
            id: row.id,
            model: text("model").unwrap_or(row.model),
            os_version: text("os_version").unwrap_or(row.os_version),
            serial: text("serial").or(row.serial),
            facts: json!(stored).to_string(),
            facts_hash: hash,
        });
        if !new.is_empty() {
            differing.push((row.id, new));
        }
    }
    contacts::put_facts(conn, &changes, moment.now_ms).await?;
    for visit in visits.iter_mut() {
        visit.fruitful |= differing.iter().any(|(id, _)| *id == visit.standing.device_id);
    }
    // What a document may reference has changed: model, version, serial number.
    let named: Vec<Id> = differing
        .iter()
        .filter(|(_, new)| new.iter().any(|(key, _)| matches!(key.as_str(), "model" | "os_version" | "serial")))
        .map(|(id, _)| *id)
        .collect();
    for id in &named {
        crate::ops::devices::reindex_by_id(conn, *id).await?;
    }
    documents::devices(conn, moment, &named, Lane::Change).await?;
    findings::from_facts(conn, moment, &differing).await
}

/// Gives every visit its answer and sets its wake.
pub(super) async fn give_out(app: &App, conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<Vec<(usize, Heard)>> {
    let syncing: Vec<Key> = visits
        .iter()
        .filter_map(|visit| {
            let have = visit.sync()?.have.len();
            Some(Key { id: visit.standing.id, most: i64::try_from(TASKS_MAX + 1 + have).unwrap_or(i64::MAX) })
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
        delivered = documents::documents(conn, &wanting).await?.into_iter().map(|document| (document.channel_id, document)).collect();
    }
    let mut out = Out::default();
    let mut answers = Vec::with_capacity(visits.len());
    for visit in visits.iter_mut() {
        let tasks = open.remove(&visit.standing.id).unwrap_or_default();
        let document = delivered.remove(&visit.standing.id);
        let heard = answer(app, moment, visit, tasks, document, &mut out);
        answers.push((visit.at, heard));
    }
    out.write(conn, moment).await?;
    Ok(answers)
}

fn wants_document(visit: &Visit<'_>) -> bool {
    let standing = &visit.standing;
    visit.sync().is_some_and(|sync| {
        standing.denied.is_none() && standing.hold.is_none() && standing.desired.is_some() && sync.policy.version != standing.desired
    })
}

/// What the answers of a group write.
#[derive(Default)]
struct Out {
    deliveries: Vec<TaskChange>,
    counts: Vec<(String, String, i64)>,
    resets: Vec<Reset>,
    carried: Vec<Carried>,
    entries: Vec<Entry>,
}

impl Out {
    async fn write(mut self, conn: &mut Conn, moment: &mut Moment) -> Result<()> {
        // Wakes before tasks, the order of the locks.
        wakes::reset(conn, &self.resets).await?;
        self.deliveries.sort_by_key(|change| (change.bucket, change.id));
        tasks::apply(conn, &self.deliveries, moment.now_ms).await?;
        tallies::add(conn, moment, &self.counts).await?;
        contacts::carry(conn, &self.carried, moment.now_ms).await?;
        feed::append(conn, moment, &self.entries).await
    }
}

fn answer(
    app: &App,
    moment: &mut Moment,
    visit: &mut Visit<'_>,
    open: Vec<OpenTask>,
    document: Option<documents::Delivered>,
    out: &mut Out,
) -> Heard {
    let now_ms = moment.now_ms;
    let Some(sync) = visit.sync() else {
        note(moment, visit, 0, None, out);
        if visit.standing.denied.is_some() {
            return Heard::Denied(Box::new(denied(visit, Vec::new())));
        }
        return Heard::Events(EventsAnswer { events: std::mem::take(&mut visit.events) });
    };
    let have: HashSet<Id> = sync.have.iter().copied().collect();
    let is_denied = visit.standing.denied.is_some();
    // What a denied device is not given is no work that it is called for.
    let deliverable = |task: &OpenTask| !is_denied || Kind::named(&task.kind).is_some_and(|kind| kind.for_denied);
    let open: Vec<OpenTask> = open.into_iter().filter(deliverable).collect();
    let wanted: Vec<&OpenTask> = open.iter().filter(|task| !have.contains(&task.id)).collect();
    let more = wanted.len() > TASKS_MAX;
    let mut tasks = Vec::with_capacity(wanted.len().min(TASKS_MAX));
    let mut fresh = 0;
    for task in wanted.iter().take(TASKS_MAX) {
        out.deliveries.push(change((task.id.bucket(), task.id), "delivered", None, None, None, None));
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
    reset(moment, visit, &open, &have, policy.is_some(), out);
    note(moment, visit, fresh, policy.as_ref().map(|policy| policy.version.clone()), out);
    if is_denied {
        return Heard::Denied(Box::new(denied(visit, tasks)));
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

/// Sets the wake by what the visit leaves open. A visit of a channel that has nothing open and was not called needs no write.
fn reset(moment: &Moment, visit: &Visit<'_>, open: &[OpenTask], have: &HashSet<Id>, document: bool, out: &mut Out) {
    let standing = &visit.standing;
    let now_ms = moment.now_ms;
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
    let untouched = standing.open_work == 0 && standing.step == 0 && standing.attempt == 0 && standing.unanswered == 0;
    if work.is_empty() && untouched && standing.lane == Lane::Periodic.rank() && standing.lazy == 1 {
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
fn note(moment: &mut Moment, visit: &Visit<'_>, tasks: i64, policy: Option<String>, out: &mut Out) {
    let standing = &visit.standing;
    let answered = visit.sync().is_some() && standing.unanswered > 0;
    let after_nudge_ms = if answered { standing.nudged_at_ms.map(|at| (moment.now_ms - at).max(0)) } else { None };
    if let Some(ms) = after_nudge_ms {
        let lane = Lane::from_rank(standing.lane).name();
        metrics::histogram!("muster_nudge_to_contact_seconds", "platform" => standing.platform.clone(), "lane" => lane)
            .record(ms as f64 / 1000.0);
    }
    let count = |outcomes: usize| i64::try_from(outcomes).unwrap_or(i64::MAX);
    let (results, events) = (count(visit.results.len()), count(visit.events.len()));
    if results + events + tasks > 0 || policy.is_some() || after_nudge_ms.is_some() {
        out.carried.push(Carried {
            bucket: standing.id.bucket(),
            id: moment.id_beside(standing.device_id),
            device_id: standing.device_id,
            channel_id: standing.id,
            cause: visit.sync().map_or("event", |sync| sync.cause).to_owned(),
            after_nudge_ms,
            results,
            events,
            tasks,
            policy,
        });
    }
}

fn denied(visit: &mut Visit<'_>, tasks: Vec<TaskAnswer>) -> DeniedMembers {
    let action = match visit.standing.denied.as_deref() {
        Some("retired" | "user_deleted") => "wipe_app_data",
        _ => "sign_out",
    };
    DeniedMembers {
        action,
        remove_apps: Vec::new(),
        tasks,
        results: std::mem::take(&mut visit.results),
        events: std::mem::take(&mut visit.events),
    }
}
