//! Contacts: results, reports and events in, tasks and documents out, in a handful of statements for the whole group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::group::Kind;
use super::{answers, apple, settle};
use crate::app::{App, Stage};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Id, Lane};
use crate::ops::mdm::own::Unsigned;
use crate::protocol::agent::{DeniedMembers, Event, EventOutcome, EventsAnswer, Item, ResultOutcome, SyncAnswer, SyncRequest, TaskResult};
use crate::protocol::apple::{Report, Status};
use crate::store::contacts::{self, Standing, Touch, Way};
use crate::store::{Class, Conn, Seat};

/// One contact of a channel.
#[derive(Clone, Debug)]
pub struct Contact {
    pub device_id: Id,
    pub way: Way,
    /// Hash of the device token that came with it, or of the certificate.
    pub token_hash: String,
    pub said: Said,
}

/// What was said.
#[derive(Clone, Debug)]
pub enum Said {
    Sync(Box<SyncRequest>),
    /// An Apple device reports a command and asks for the next.
    Report(Box<Report>),
    /// Events alone: recorded, but no visit: tasks and documents wait for a sync.
    Events(Vec<Item<Event>>),
}

/// What it is answered.
#[derive(Clone, Debug)]
pub enum Heard {
    Sync(Box<SyncAnswer>),
    /// The next command as a property list; none where there is nothing to do.
    Command(Option<Vec<u8>>),
    /// The next command, of this id, installs a profile: [`super::authority::installation`] signs it.
    Profile(String, Box<Unsigned>),
    /// 403, upon which the device itself ends its management.
    Unrecognized,
    Events(EventsAnswer),
    /// 403, with what to do about it.
    Denied(Box<DeniedMembers>),
    /// 401: no such device.
    DeviceUnknown,
    /// 401: the token was replaced.
    TokenReplaced,
}

impl Contact {
    /// True where the contact carries nothing that must not be lost: shed first.
    pub fn is_idle(&self) -> bool {
        match &self.said {
            Said::Sync(sync) => sync.results.is_empty() && sync.events.is_empty(),
            Said::Report(report) => report.status == Status::Idle,
            Said::Events(events) => events.is_empty(),
        }
    }

    pub(super) fn results_said(&self) -> &[Item<TaskResult>] {
        match &self.said {
            Said::Sync(sync) => &sync.results,
            Said::Events(_) | Said::Report(_) => &[],
        }
    }

    pub(super) fn events(&self) -> &[Item<Event>] {
        match &self.said {
            Said::Sync(sync) => &sync.events,
            Said::Events(events) => events,
            Said::Report(_) => &[],
        }
    }
}

/// The contacts' way of committing.
pub struct Contacts {
    pub app: App,
    /// Where its connection waits.
    pub seat: Arc<Seat>,
}

impl Kind for Contacts {
    type Item = Contact;
    type Outcome = Heard;

    fn key(item: &Contact) -> String {
        item.device_id.to_string()
    }

    async fn commit(&self, items: &[Contact]) -> Result<Vec<Heard>> {
        let class = if items.iter().all(Contact::is_idle) { Class::Contacts } else { Class::Results };
        let mut moment = self.app.clock.moment();
        let mut conn = self.app.db.begin_at(&self.seat, class).await?;
        let outcome = apply(&self.app, &mut conn, &mut moment, items).await;
        match outcome {
            Ok((heard, more_work, steps)) => {
                conn.commit().await?;
                steps.count(&self.app);
                if more_work {
                    self.app.bells.ring();
                }
                Ok(heard)
            }
            Err(error) => {
                // The error at hand says more than a failure to undo.
                conn.rollback().await.ok();
                Err(error)
            }
        }
    }

    fn heed(&self, error: &Error) {
        self.app.heed(error);
    }

    fn split(item: &Contact) -> Option<(Contact, Contact)> {
        let with = |results: Vec<_>, events: Vec<_>| match &item.said {
            Said::Sync(sync) => Contact { said: Said::Sync(Box::new(SyncRequest { results, events, ..(**sync).clone() })), ..item.clone() },
            Said::Events(_) | Said::Report(_) => Contact { said: Said::Events(events), ..item.clone() },
        };
        let (results, events) = match &item.said {
            Said::Sync(sync) => (sync.results.clone(), sync.events.clone()),
            Said::Events(events) => (Vec::new(), events.clone()),
            // One command, one status: there is nothing to be split.
            Said::Report(_) => return None,
        };
        if results.len() + events.len() < 2 {
            return None;
        }
        let (mut first_results, mut first_events) = (results, events);
        let later_results = first_results.split_off(first_results.len() / 2);
        // With a single result left in the later half, all events stay in the first, so that both halves are smaller than the whole.
        let middle = if first_results.is_empty() && !later_results.is_empty() { first_events.len() } else { first_events.len() / 2 };
        let later_events = first_events.split_off(middle);
        Some((with(first_results, first_events), with(later_results, later_events)))
    }

    fn join(first: Heard, second: Heard) -> Heard {
        match (first, second) {
            (Heard::Sync(first), Heard::Sync(mut second)) => {
                second.results.splice(0..0, first.results);
                second.events.splice(0..0, first.events);
                Heard::Sync(second)
            }
            (Heard::Events(mut first), Heard::Events(second)) => {
                first.events.extend(second.events);
                Heard::Events(first)
            }
            (_, second) => second,
        }
    }

    fn without_poison(item: &Contact) -> Option<Contact> {
        let reject_event = |event: &Item<Event>| match event {
            Item::Ok(event) => Item::rejected(Some(event.event_id.to_string()), "data_invalid", "the database refuses its values"),
            rejected => rejected.clone(),
        };
        let said = match &item.said {
            Said::Report(report) => Said::Report(Box::new(apple::bare(report)?)),
            Said::Sync(sync) if sync.results.is_empty() && sync.events.is_empty() => {
                // Nothing but facts and reports is left: without the facts, of which something cannot be stored.
                if sync.facts.is_empty() {
                    return None;
                }
                Said::Sync(Box::new(SyncRequest { facts: BTreeMap::new(), ..(**sync).clone() }))
            }
            Said::Sync(sync) => Said::Sync(Box::new(SyncRequest {
                results: sync
                    .results
                    .iter()
                    .map(|result| match result {
                        Item::Ok(result) => {
                            Item::rejected(Some(result.task_id.to_string()), "data_invalid", "the database refuses its values")
                        }
                        rejected => rejected.clone(),
                    })
                    .collect(),
                events: sync.events.iter().map(reject_event).collect(),
                ..(**sync).clone()
            })),
            Said::Events(events) if events.iter().all(|event| matches!(event, Item::Rejected { .. })) => return None,
            Said::Events(events) => Said::Events(events.iter().map(reject_event).collect()),
        };
        Some(Contact { said, ..item.clone() })
    }
}

/// One admitted contact while its group is applied.
pub(super) struct Visit<'a> {
    /// Where its answer belongs in the group.
    pub at: usize,
    pub contact: &'a Contact,
    pub standing: Standing,
    /// The nudge that was on its way when it came: since when, and its lane.
    pub on_its_way: Option<(i64, i64)>,
    pub results: Vec<ResultOutcome>,
    pub events: Vec<EventOutcome>,
    /// What an Apple device's report did.
    pub reported: apple::Reported,
    /// True where the contact changed something: results, a report, facts, an address.
    pub fruitful: bool,
    /// What the funnel counts of it once it is committed.
    pub steps: Steps,
}

/// Tasks and documents of a visit by how far they came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steps {
    pub served: i64,
    pub acknowledged: i64,
    pub verified: i64,
    contacted: i64,
}

impl Steps {
    fn sum(visits: &[Visit<'_>]) -> Steps {
        visits.iter().fold(Steps::default(), |sum, visit| Steps {
            served: sum.served + visit.steps.served,
            acknowledged: sum.acknowledged + visit.steps.acknowledged,
            verified: sum.verified + visit.steps.verified,
            contacted: sum.contacted + i64::from(visit.serves()),
        })
    }

    fn count(self, app: &App) {
        app.funnel.add(Stage::Contacted, self.contacted);
        app.funnel.add(Stage::Served, self.served);
        app.funnel.add(Stage::Acknowledged, self.acknowledged);
        app.funnel.add(Stage::Verified, self.verified);
    }
}

impl Visit<'_> {
    /// The sync, where it is one.
    pub fn sync(&self) -> Option<&SyncRequest> {
        match &self.contact.said {
            Said::Sync(sync) => Some(sync),
            Said::Events(_) | Said::Report(_) => None,
        }
    }

    /// The facts that an agent tells, where it tells any.
    pub fn inventory(&self) -> Option<&BTreeMap<String, Value>> {
        self.sync().map(|sync| &sync.facts).filter(|facts| !facts.is_empty())
    }

    /// The report, where it is one.
    pub fn report(&self) -> Option<&Report> {
        match &self.contact.said {
            Said::Report(report) => Some(report),
            Said::Events(_) | Said::Sync(_) => None,
        }
    }

    /// True where the channel came for its work.
    pub fn serves(&self) -> bool {
        !matches!(self.contact.said, Said::Events(_))
    }

    /// Why it came. An Apple device does not say it: after a nudge it is taken for the nudge's.
    pub fn cause(&self) -> &'static str {
        match &self.contact.said {
            Said::Sync(sync) => sync.cause,
            Said::Report(_) if self.standing.unanswered > 0 || self.on_its_way.is_some() => "push",
            Said::Report(_) => "unknown",
            Said::Events(_) => "event",
        }
    }

    /// The nudge that it answers: when it left, and its lane. One that is on its way is answered by who says that a push called it, or
    /// says nothing: else the device came by itself in the same instant.
    pub fn answered_nudge(&self) -> Option<(i64, Lane)> {
        if !self.serves() {
            return None;
        }
        let standing = &self.standing;
        let on_its_way = self.on_its_way.filter(|_| self.cause() == "push");
        let left = || Some((standing.nudged_at_ms?, standing.nudged_lane.unwrap_or(standing.lane)));
        let (at_ms, lane) = on_its_way.or_else(|| left().filter(|_| standing.unanswered > 0))?;
        Some((at_ms, Lane::from_rank(lane)))
    }
}

/// Applies a group in the caller's transaction: one answer for each contact, whether wakes or background work came of it, and what is
/// to be counted after the commit.
async fn apply(app: &App, conn: &mut Conn, moment: &mut Moment, items: &[Contact]) -> Result<(Vec<Heard>, bool, Steps)> {
    let channels: Vec<(Id, &Way)> = items.iter().map(|item| (item.device_id, &item.way)).collect();
    let mut standings: HashMap<Id, Standing> =
        contacts::open(conn, &channels).await?.into_iter().map(|standing| (standing.device_id, standing)).collect();
    let mut heard: Vec<Option<Heard>> = items.iter().map(|_| None).collect();
    let mut visits = Vec::with_capacity(items.len());
    for (at, contact) in items.iter().enumerate() {
        match standings.remove(&contact.device_id) {
            None => heard[at] = Some(Heard::DeviceUnknown),
            Some(standing) if !admits(&standing, &contact.token_hash) => heard[at] = Some(Heard::TokenReplaced),
            Some(standing) => {
                let (results, events, reported, steps) = Default::default();
                let on_its_way = standing.on_its_way(moment.now_ms);
                visits.push(Visit { at, contact, standing, on_its_way, results, events, reported, fruitful: false, steps });
            }
        }
    }
    let mut work = false;
    if !visits.is_empty() {
        apple::open(app, conn, moment, &mut visits).await?;
        let taken = settle::take_in(app, conn, moment, &mut visits).await?;
        apple::announce(app, conn, moment, &mut visits).await?;
        let (answers, carried) = answers::give_out(app, conn, moment, &mut visits, taken).await?;
        for (at, answer) in answers {
            heard[at] = Some(answer);
        }
        let touches: Vec<Touch> = visits
            .iter()
            .map(|visit| Touch {
                bucket: visit.standing.id.bucket(),
                id: visit.standing.id,
                cause: visit.cause().to_owned(),
                serving: i64::from(visit.serves()),
                facts: i64::from(visit.inventory().is_some()),
            })
            .collect();
        contacts::visited(conn, &touches, &carried, moment.now_ms).await?;
        for visit in &visits {
            metrics::counter!("muster_contacts_total", "channel" => visit.contact.way.kind(), "cause" => visit.cause()).increment(1);
            work |= !visit.contact.is_idle();
        }
    }
    // Every contact was given an answer above; a gap would be a fault of this function.
    let heard = heard.into_iter().map(|answer| answer.ok_or(Error::NotFound("answer"))).collect::<Result<Vec<_>>>()?;
    Ok((heard, work, Steps::sum(&visits)))
}

/// True where the token is the channel's present one, or the fresh one that takes its place by being used.
fn admits(standing: &Standing, token_hash: &str) -> bool {
    let is = |known: &Option<String>| known.as_deref().is_some_and(|known| crate::model::token::same(known, token_hash));
    is(&standing.token_hash) || is(&standing.fresh_token_hash)
}
