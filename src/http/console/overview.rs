//! The first page: how the fleet stands, what is under way, what needs somebody.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use askama::Template;
use axum::extract::{Extension, Path, State};

use super::Console;
use super::form::Posted;
use super::format::{Badge, Bar, When, number, reason, sentence, span};
use super::jobs::{JobLine, job_line};
use super::layout::{Frame, Shown, Visitor, page, segment, told};
use super::line::{Line, lines};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::model::Id;
use crate::ops;
use crate::ops::jobs;
use crate::ops::settle::StackItem;
use crate::push::{CredentialSource, SenderState, SenderStatus};
use crate::store::feed::{self, Reading};
use crate::store::stacks::Standing;
use crate::store::{Class, Conn, alarms, console, funnel, liveness, policies, stacks, tasks};

const FEED_SHOWN: i64 = 30;
const JOBS_SHOWN: i64 = 8;
const ALARMS_SHOWN: i64 = 50;
const POLICIES_MAX: i64 = 500;
/// Open tasks that are counted by reason; beyond it the page says "or more".
const TASKS_COUNTED_MAX: i64 = 100_000;
/// Sums are kept for so many times the time that they took, and for a second at least: many open pages must not cost many sums.
const KEPT_FACTOR: u32 = 20;
const KEPT_MIN: Duration = Duration::from_secs(1);

/// The last sums and when they were made.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<(Instant, Duration, Arc<Sums>)>>);

/// What has to be summed up over everything.
#[derive(Debug)]
pub struct Sums {
    devices: Vec<(String, i64)>,
    findings: Vec<console::FindingCount>,
    reasons: Vec<(String, i64)>,
    addresses: Vec<(String, String, i64)>,
    policies: Vec<Progress>,
    funnel: Vec<funnel::Step>,
}

/// How far the version in force of a policy has come.
#[derive(Clone, Debug)]
struct Progress {
    name: String,
    version: i64,
    channels: Bar,
    applied_percent: i64,
}

impl Progress {
    fn path(&self) -> String {
        format!("/policies/{}", segment(&self.name))
    }
}

/// A push credential in use.
pub struct SenderLine {
    pub name: String,
    pub state: Badge,
    pub said: String,
    pub addresses: String,
    /// What came of the last canary; shown among the settings.
    pub canary: String,
    /// Where its credential came from and when it ends, and the last answer that nobody described; shown among the settings.
    pub credential: String,
    pub is_configured: bool,
}

struct AlarmLine {
    id: Id,
    kind: String,
    state: Badge,
    detail: String,
    opened: When,
    is_open: bool,
}

struct ReasonLine {
    word: String,
    said: &'static str,
    n: String,
}

struct FindingLine {
    kind: String,
    name: String,
    open: String,
    overdue: i64,
}

/// A stage of the way from an order to its proof.
struct StageLine {
    name: String,
    said: &'static str,
    hour: String,
    day: String,
}

struct Tile {
    state: String,
    badge: Badge,
    n: String,
    said: &'static str,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    tiles: Vec<Tile>,
    devices: i64,
    alarms: Vec<AlarmLine>,
    /// How many more stand.
    more_alarms: i64,
    findings: Vec<FindingLine>,
    reasons: Vec<ReasonLine>,
    reasons_full: bool,
    senders: Vec<SenderLine>,
    jobs: Vec<JobLine>,
    policies: Vec<Progress>,
    funnel: Vec<StageLine>,
    feed: Vec<Line>,
}

/// The page.
pub async fn show(State(app): State<App>, Extension(shared): Extension<Console>, visitor: Visitor) -> Shown {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let sums = shared.overview.get(&app, &mut conn).await?;
    let rows = console::jobs_under_way(&mut conn, JOBS_SHOWN).await?;
    let jobs = jobs::views(&mut conn, rows).await?.iter().map(|job| job_line(job, now_ms)).collect();
    let alarms = alarms::not_closed(&mut conn, ALARMS_SHOWN).await?.into_iter().map(|row| AlarmLine {
        id: row.id,
        kind: sentence(&row.kind),
        is_open: row.state == "open",
        state: Badge::of(&row.state),
        detail: row.detail,
        opened: When::new(row.opened_at_ms, now_ms),
    });
    let alarms: Vec<AlarmLine> = alarms.collect();
    let (_, newest) = feed::range(&mut conn).await?;
    let reading = Reading { after: newest - FEED_SHOWN, kind: String::new(), rows_max: FEED_SHOWN };
    let mut rows = feed::read(&mut conn, &reading).await?.rows;
    rows.reverse();
    let frame = visitor.frame("Overview");
    let shown = Overview {
        tiles: tiles(&sums.devices),
        devices: sums.devices.iter().map(|(_, n)| n).sum(),
        more_alarms: (frame.alarms - alarms.len() as i64).max(0),
        alarms,
        findings: sums.findings.iter().map(finding_line).collect(),
        reasons_full: sums.reasons.iter().map(|(_, n)| n).sum::<i64>() >= TASKS_COUNTED_MAX,
        reasons: sums.reasons.iter().map(|(word, n)| ReasonLine { word: word.clone(), said: reason(word), n: number(*n) }).collect(),
        senders: senders(&app, &sums.addresses, now_ms),
        jobs,
        policies: sums.policies.clone(),
        funnel: sums.funnel.iter().map(stage_line).collect(),
        feed: lines(&mut conn, &rows, now_ms).await?,
        frame,
    };
    Ok(page(&shown))
}

/// Says that somebody has seen an alarm.
pub async fn acknowledge(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id: Id = id.parse().map_err(|_| Error::NotFound("alarm"))?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::alarms::acknowledge(conn, moment, actor, id).await);
    told("/", done.map(|_| "Acknowledged. It stays until what it tells of is over.".into()))
}

impl Kept {
    async fn get(&self, app: &App, conn: &mut Conn) -> Result<Arc<Sums>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((made, took, sums)) = kept
            && made.elapsed() < (took * KEPT_FACTOR).max(KEPT_MIN)
        {
            return Ok(sums);
        }
        let started = Instant::now();
        let sums = Arc::new(sum(app, conn).await?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), started.elapsed(), sums.clone()));
        Ok(sums)
    }
}

async fn sum(app: &App, conn: &mut Conn) -> Result<Sums> {
    Ok(Sums {
        devices: liveness::counts(conn).await?,
        findings: console::findings(conn).await?,
        reasons: tasks::reasons(conn, None, &app.callers().names, TASKS_COUNTED_MAX).await?,
        addresses: console::addresses(conn).await?,
        policies: progress(conn).await?,
        funnel: funnel::steps(conn, app.clock.now_ms()).await?,
    })
}

/// The policies in force, the least applied first.
async fn progress(conn: &mut Conn) -> Result<Vec<Progress>> {
    let mut by_stack: HashMap<String, Vec<Standing>> = HashMap::new();
    for row in stacks::all_standings(conn).await? {
        by_stack.entry(row.stack_id.clone()).or_default().push(row);
    }
    let mut by_policy: HashMap<(Id, i64), BTreeMap<String, i64>> = HashMap::new();
    for stack in stacks::stacks(conn).await? {
        let Some(standings) = by_stack.get(&stack.id) else { continue };
        let items: Vec<StackItem> = serde_json::from_str(&stack.items).unwrap_or_default();
        for item in items {
            let sums = by_policy.entry((item.policy, item.version)).or_default();
            for standing in standings {
                standing.to(item.policy).into_iter().for_each(|state| *sums.entry(state.to_owned()).or_default() += standing.n);
            }
        }
    }
    let mut progress = Vec::new();
    for row in policies::list(conn, "", POLICIES_MAX).await? {
        let Some(version) = row.published else { continue };
        let states = by_policy.remove(&(row.id, version)).unwrap_or_default();
        let applied = states.get("applied").copied().unwrap_or(0);
        let channels = Bar::of(&states);
        let applied_percent = if channels.total() > 0 { applied * 100 / channels.total() } else { 100 };
        progress.push(Progress { name: row.name, version, channels, applied_percent });
    }
    progress.sort_by_key(|one| one.applied_percent);
    Ok(progress)
}

/// One tile for each state, also for those that no device is in.
fn tiles(counts: &[(String, i64)]) -> Vec<Tile> {
    const STATES: [(&str, &str); 6] = [
        ("active", "came within 48 h"),
        ("idle", "not for 48 h"),
        ("silent", "not for 7 days, or deaf to nudges"),
        ("unmanaged", "checked out or retired"),
        ("expected", "announced, not yet come"),
        ("pending_approval", "waits to be admitted"),
    ];
    let count = |state: &str| counts.iter().find(|(word, _)| word == state).map_or(0, |(_, n)| *n);
    STATES.iter().map(|(state, said)| Tile { state: (*state).into(), badge: Badge::of(state), n: number(count(state)), said }).collect()
}

fn stage_line(step: &funnel::Step) -> StageLine {
    let said = match step.stage {
        "queued" => "tasks and documents to be fetched",
        "sent" => "nudges put on the wire",
        "accepted" => "nudges that the provider took",
        "contacted" => "devices that came, whatever called them",
        "served" => "tasks and documents handed out",
        "acknowledged" => "of which the device spoke",
        _ => "ended with a proof",
    };
    StageLine { name: sentence(step.stage), said, hour: number(step.last_hour), day: number(step.last_day) }
}

fn finding_line(row: &console::FindingCount) -> FindingLine {
    FindingLine { kind: row.kind.clone(), name: sentence(&row.kind), open: number(row.open), overdue: row.overdue }
}

/// The senders with the addresses that wait for each, then the addresses of providers without a sender.
pub fn senders(app: &App, addresses: &[(String, String, i64)], now_ms: i64) -> Vec<SenderLine> {
    let counted = |provider: &str| {
        let parts = addresses.iter().filter(|(of, _, _)| of == provider).map(|(_, state, n)| format!("{} {state}", number(*n)));
        parts.collect::<Vec<_>>().join(", ")
    };
    let mut shown = Vec::new();
    for sender in app.senders.all() {
        let status = sender.status();
        let (word, said) = match status.state {
            SenderState::Ok => ("ok", String::new()),
            SenderState::Paused => ("paused", status.reason.clone().unwrap_or_default()),
            SenderState::Fault => ("fault", status.reason.clone().unwrap_or_default()),
            SenderState::Unconfigured => ("unconfigured", "no credential".to_owned()),
        };
        let until = status.paused_until_ms.filter(|at_ms| *at_ms > now_ms).map(|at_ms| format!("tries again in {}", span(at_ms - now_ms)));
        let said = [Some(said), until].into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        let is_configured = status.state != SenderState::Unconfigured;
        let (addresses, credential) = (counted(&status.name), credential_said(&status, now_ms));
        let (canary, state) = (String::new(), Badge::of(word));
        shown.push(SenderLine { addresses, name: status.name, state, said, canary, credential, is_configured });
    }
    let mut others: Vec<&str> =
        addresses.iter().map(|(provider, _, _)| provider.as_str()).filter(|provider| !provider.is_empty()).collect();
    others.dedup();
    for provider in others.into_iter().filter(|provider| app.senders.named(provider).is_none()) {
        let said = "devices come at their three-hour points only".to_owned();
        let (canary, credential) = <(String, String)>::default();
        let (addresses, state) = (counted(provider), Badge::of("unconfigured"));
        shown.push(SenderLine { name: provider.into(), state, said, addresses, canary, credential, is_configured: false });
    }
    shown
}

fn credential_said(status: &SenderStatus, now_ms: i64) -> String {
    let from = status.credential_from.map(|from| match from {
        CredentialSource::File => "credential of a file in the settings",
        CredentialSource::Api => "credential set by an operator",
    });
    let ends = status.credential_ends_at_ms.map(|at_ms| match at_ms - now_ms {
        left_ms if left_ms > 0 => format!("ends in {}", span(left_ms)),
        past_ms => format!("ended {} ago", span(-past_ms)),
    });
    let strange = status.strange_answer.as_ref().map(|words| format!("an answer that nobody described: {words}"));
    [from.map(str::to_owned), ends, strange].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
