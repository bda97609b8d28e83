//! What a group of visits takes in. Every step is one statement or a few for the whole group, in the order of the locks:
//! channels (held already), wakes, tasks, findings, feed.

use std::collections::HashMap;

use serde_json::json;

use super::apple;
use super::contacts::Visit;
use super::results::{self, Taken};
use crate::app::App;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::ops::audit::{self, Listed};
use crate::ops::events::{self, Arrived};
use crate::ops::facts::{self, Told};
use crate::ops::{findings, jobs, settle as documents};
use crate::protocol::agent::{SyncRequest, facts_hash};
use crate::store::contacts::{self, Changed};
use crate::store::feed::{self, Entry};
use crate::store::wakes::{self, Readdress};
use crate::store::{Conn, devices};

/// Takes in everything that the visits brought; answers what is still to be counted and told of their results.
pub(super) async fn take_in(app: &App, conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<Taken> {
    bring_up_to_date(conn, moment, visits).await?;
    addresses(conn, moment, visits).await?;
    let taken = results::take(conn, moment, visits).await?;
    let told = apple::take(app, conn, moment, visits).await?;
    let mut changed_facts = take_events(conn, moment, visits).await?;
    let device_channels = visits.iter().filter(|visit| visit.report().is_some() && visit.standing.subject.is_empty());
    let listed: Vec<Listed> = device_channels
        .filter_map(|visit| {
            let (device_id, channel_id) = (visit.standing.device_id, visit.standing.id);
            Some(Listed::of(device_id, channel_id, told.get(&device_id)?.get("apps")?))
        })
        .collect();
    changed_facts.extend(told.into_iter().map(|(device_id, facts)| (device_id, Told { facts, ..Told::default() })));
    take_facts(conn, moment, visits, &mut changed_facts).await?;
    audit::apps(conn, moment, &listed).await?;
    Ok(taken)
}

/// Stale channels get their document's version now, and expanding jobs make their tasks for whoever is here.
async fn bring_up_to_date(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<()> {
    let stale: Vec<Id> = visits
        .iter()
        .filter(|visit| visit.serves() && visit.standing.set_generation > visit.standing.generation)
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
    if visits.iter().all(|visit| visit.standing.making == 0) {
        return Ok(());
    }
    let serving = visits.iter().filter(|visit| visit.serves());
    let (came, here): (Vec<(Id, i64)>, Vec<Id>) =
        serving.map(|visit| ((visit.standing.device_id, visit.standing.created_at_ms), visit.standing.id)).unzip();
    if came.is_empty() { Ok(()) } else { jobs::make_early(conn, moment, &came, &here).await }
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
        if visit.report().is_some() {
            // Which certificates open it is said by check-ins alone.
            continue;
        }
        let standing = &mut visit.standing;
        if standing.fresh_token_hash.as_ref() == Some(hash) {
            standing.token_hash = standing.fresh_token_hash.take();
        }
        let sync: Option<&SyncRequest> = match &visit.contact.said {
            super::contacts::Said::Sync(sync) => Some(sync),
            super::contacts::Said::Events(_) | super::contacts::Said::Report(_) => None,
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
            standing.reported.clone_from(&proof.reported);
            standing.details.clone_from(&proof.details);
            if proof.applies && standing.applied != standing.desired {
                standing.applied.clone_from(&standing.desired);
                standing.applied_at_ms = Some(moment.now_ms);
                proved.push((standing.device_id, standing.applied.clone()));
                visit.steps.acknowledged += 1;
                visit.steps.verified += 1;
            } else if !proof.leaves(standing.applied.as_deref()) {
                (standing.applied, standing.applied_at_ms) = (None, None);
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

/// Events, with the facts that they changed.
async fn take_events(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>]) -> Result<HashMap<Id, Told>> {
    let mut news: HashMap<Id, Told> = HashMap::new();
    let bringing: Vec<usize> = (0..visits.len()).filter(|at| !visits[*at].contact.events().is_empty()).collect();
    if bringing.is_empty() {
        return Ok(news);
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
                told_ms: standing.last_facts_ms,
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
        let told = news.entry(fact.device_id).or_default();
        let facts = if fact.is_late { &mut told.late } else { &mut told.facts };
        facts.insert(fact.key, fact.value);
    }
    Ok(news)
}

/// Facts that differ from the stored ones; an inventory that is known by its hash writes nothing.
async fn take_facts(conn: &mut Conn, moment: &mut Moment, visits: &mut [Visit<'_>], news: &mut HashMap<Id, Told>) -> Result<()> {
    let mut said: HashMap<Id, Told> = HashMap::new();
    for visit in visits.iter() {
        let standing = &visit.standing;
        let mut told = news.remove(&standing.device_id).unwrap_or_default();
        told.by_app = visit.report().is_none();
        if let Some(inventory) = visit.inventory() {
            // Taken when the request was made, after every event in it.
            told.facts.retain(|key, _| !inventory.contains_key(key));
            told.late.retain(|key, _| !inventory.contains_key(key));
            let hash = facts_hash(inventory);
            let is_known = hash == standing.facts_hash;
            if !is_known {
                told.facts.extend(inventory.clone());
            }
            // With nothing beside it a known one is no news.
            told.hash = Some(hash).filter(|_| !is_known || !told.is_empty());
        }
        // What an Apple device answers has no hash of its own: where nothing in it differs, nothing is written.
        if !told.is_empty() || told.hash.is_some() {
            said.insert(standing.device_id, told);
        }
    }
    if said.is_empty() {
        return Ok(());
    }
    let news = facts::take(conn, moment, said).await?;
    for visit in visits.iter_mut() {
        visit.fruitful |= news.iter().any(|(id, _)| *id == visit.standing.device_id);
    }
    Ok(())
}
