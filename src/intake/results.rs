//! What agents say of their tasks.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::contacts::Visit;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::ops::jobs;
use crate::protocol::agent::{Item, ResultOutcome, TaskResult, TaskStatus};
use crate::store::Conn;
use crate::store::feed::Entry;
use crate::store::tasks::{self, TaskChange};

/// What results are counted as and told of, together with what the same contacts are given.
#[derive(Default)]
pub(super) struct Taken {
    pub counts: Vec<(String, String, i64)>,
    pub entries: Vec<Entry>,
}

/// Results against their tasks: the first final one wins, a repeat is answered alike, a late one is kept as such.
pub(super) async fn take(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<Taken> {
    let mut spoken = Vec::new();
    for visit in visits.iter() {
        for result in visit.sync().into_iter().flat_map(|sync| &sync.results) {
            if let Item::Ok(result) = result {
                spoken.push((visit.standing.id, here(visit, result.task_id)));
            }
        }
    }
    if spoken.is_empty() {
        // Items that could not be read still get their answer.
        for visit in visits.iter_mut() {
            visit.results = refused(visit);
        }
        return Ok(Taken::default());
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
            let Some(task) = known.get(&(visit.standing.id, here(visit, result.task_id))) else {
                outcomes.push(outcome(id, "unknown"));
                continue;
            };
            let key = (task.id.bucket(), task.id);
            let earlier = changes.get(&key).map(|change| change.state.clone());
            let ended = task.finished_at_ms.is_some() || earlier.as_deref().is_some_and(|state| matches!(state, "done" | "failed"));
            let state = state_of(result.status);
            let is_final = matches!(result.status, TaskStatus::Done | TaskStatus::Failed);
            let said = json!({"state": state, "code": result.code, "message": result.message, "data": result.data, "at_ms": result.at_ms});
            if ended {
                let superseded = matches!(task.state.as_str(), "cancelled" | "expired" | "superseded");
                if superseded && is_final && task.late.is_none() {
                    changes.insert(key, change(key, "late", None, None, None, Some(noted(said, result))));
                    entries.push(entry("task.late", visit.standing.device_id, task, json!({"state": state})));
                }
                let word = match (superseded, is_final) {
                    (true, _) => "late",
                    _ => "duplicate",
                };
                outcomes.push(outcome(id, word));
                continue;
            }
            let error = (result.status == TaskStatus::Failed).then(|| error_of(result));
            let data = (result.status == TaskStatus::Done).then(|| noted(result.data.clone().unwrap_or_else(|| json!({})), result));
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
                visit.steps.acknowledged += 1;
                visit.steps.verified += i64::from(is_final);
                moves.push((task.job_id, task.id, was, state));
                let words =
                    if is_final { json!({"error": error.and_then(|text| serde_json::from_str::<Value>(&text).ok())}) } else { json!({}) };
                entries.push(entry(kind_of(state), visit.standing.device_id, task, words));
            }
        }
        visit.results = outcomes;
    }
    let rows: Vec<TaskChange> = changes.into_values().collect();
    let took: HashSet<Id> = tasks::apply_held(conn, &rows, moment.now_ms).await?.into_iter().map(|applied| applied.id).collect();
    let counts: Vec<(String, String, i64)> = moves
        .into_iter()
        .filter(|(_, id, _, _)| took.contains(id))
        .flat_map(|(job, _, was, state)| [(jobs::topic(job), was, -1), (jobs::topic(job), state.to_owned(), 1)])
        .collect();
    for (_, state, _) in counts.iter().filter(|(_, _, n)| *n > 0) {
        metrics::counter!("muster_results_total", "outcome" => state.clone()).increment(1);
    }
    Ok(Taken { counts, entries })
}

/// The id that a task has now which an agent names. The tasks of an app whose device became a part of another were given ids in the bucket
/// of that one; the app still knows those it was given before, and is answered in its own words.
pub(super) fn here(visit: &Visit<'_>, task_id: Id) -> Id {
    task_id.in_bucket_of(visit.standing.id)
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
fn error_of(result: &TaskResult) -> String {
    let chain = result.data.as_ref().and_then(|data| data.get("chain")).filter(|chain| chain.is_array()).cloned();
    let (code, message) = (result.code.as_deref().unwrap_or("failed"), result.message.as_deref().unwrap_or(""));
    noted(json!({"code": code, "message": message, "chain": chain.unwrap_or_else(|| json!([]))}), result)
}

/// What is kept of a result, as text; it says so where the result's data is not in it.
fn noted(mut kept: Value, result: &TaskResult) -> String {
    if let (Some(why), Some(kept)) = (&result.left_out, kept.as_object_mut()) {
        kept.insert("left_out".into(), json!({"data": why}));
    }
    kept.to_string()
}

fn entry(kind: &'static str, device: Id, task: &tasks::TaskRow, more: Value) -> Entry {
    let mut data = json!({"task_id": task.id, "job_id": task.job_id, "kind": task.kind});
    if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
        data.extend(more);
    }
    Entry { kind, actor: None, device_id: Some(device), data }
}
