//! One policy: its document and versions, what changed, whom it is for, how far it has come.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::Value;

use super::confirm::confirm;
use super::diff::{self, Change};
use super::form::{Asked, Fields, Posted};
use super::format::{Badge, Bar, When, pretty, span, who};
use super::layout::{Frame, Shown, Trouble, Visitor, page, segment, told};
use crate::app::App;
use crate::change;
use crate::error::Error;
use crate::model::{Fault, Precondition};
use crate::ops::policies::{self as ops, Assignments, PolicyInput};
use crate::store::policies::{self, Assignment};
use crate::store::{Class, Conn, labels};

const VERSIONS_SHOWN: i64 = 30;
/// Labels that the editor offers.
const LABELS_OFFERED: i64 = 500;
/// Rows for new assignments below those there are.
const NEW_ROWS: usize = 2;

struct VersionLine {
    n: i64,
    state: Badge,
    message: String,
    by: String,
    made: When,
    diff: String,
}

struct ConvergenceLine {
    version: i64,
    bar: Bar,
    to_50: String,
    to_90: String,
    to_99: String,
}

#[derive(Template)]
#[template(path = "policy.html")]
struct PolicyPage {
    frame: Frame,
    path: String,
    state: Badge,
    document: String,
    versions: Vec<VersionLine>,
    from: i64,
    to: i64,
    changes: Vec<Change>,
    convergence: Vec<ConvergenceLine>,
    assignments: Vec<Assignment>,
    assignment_faults: Vec<Fault>,
    labels: Vec<String>,
    /// What is being edited: as it was typed, or the newest version.
    text: String,
    message: String,
    base: i64,
    faults: Vec<Fault>,
}

/// What was typed and found wrong, for the page to show again.
#[derive(Default)]
struct Typed {
    text: Option<String>,
    message: String,
    faults: Vec<Fault>,
    assignments: Option<Vec<Assignment>>,
    assignment_faults: Vec<Fault>,
}

/// The page.
pub async fn show(State(app): State<App>, asked: Asked, Path(name): Path<String>) -> Shown {
    let mut conn = app.db.read().await?;
    shown(&mut conn, &asked.visitor, &asked.fields, &name, Typed::default(), app.clock.now_ms()).await
}

/// Stores the document as a draft, or publishes it; shows the page again where it is wrong.
pub async fn put(State(app): State<App>, Path(name): Path<String>, posted: Posted) -> Shown {
    let (fields, actor) = (&posted.fields, posted.visitor.actor());
    let draft = fields.text("how") == "draft";
    let path = format!("/policies/{}", segment(&name));
    let (text, message) = (fields.text("document").to_owned(), fields.text("message").to_owned());
    let base = fields.number("base").ok().flatten().filter(|n| *n > 0).map(Precondition::tag);
    let done = match serde_json::from_str::<Value>(&text) {
        Ok(document) => {
            let input = PolicyInput { document, message: message.clone() };
            change!(app, Class::Operators, |conn, moment| ops::put(conn, moment, actor, &name, &input, draft, base.as_ref()).await)
        }
        Err(error) => Err(Error::invalid("/document", format!("this is no JSON: {error}"))),
    };
    match done {
        Ok(stored) if !stored.made => told(&path, Ok("Nothing has changed: this document was there already.".into())),
        Ok(stored) if stored.published => told(&path, Ok(format!("Version {} is published; devices are being called in.", stored.version))),
        Ok(stored) => told(&path, Ok(format!("Version {} is stored as a draft; nobody gets it.", stored.version))),
        Err(Error::Invalid(faults)) => again(&app, &posted, &name, Typed { text: Some(text), message, faults, ..Typed::default() }).await,
        Err(Error::Refused(refusal)) => {
            let faults = vec![Fault { pointer: String::new(), detail: refusal.detail }];
            again(&app, &posted, &name, Typed { text: Some(text), message, faults, ..Typed::default() }).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Replaces the assignments; shows the page again where they are wrong.
pub async fn assign(State(app): State<App>, Path(name): Path<String>, posted: Posted) -> Shown {
    let actor = posted.visitor.actor();
    let (assignments, mut faults) = assignments(&posted.fields);
    let input = Assignments { assignments: assignments.clone() };
    if faults.is_empty() {
        match change!(app, Class::Operators, |conn, moment| ops::assign(conn, moment, actor, &name, &input).await) {
            Err(Error::Invalid(found)) => faults = found,
            done => return told(&format!("/policies/{}", segment(&name)), done.map(|_| "The assignments are in force.".into())),
        }
    }
    again(&app, &posted, &name, Typed { assignments: Some(assignments), assignment_faults: faults, ..Typed::default() }).await
}

/// Asks first.
pub async fn ask_delete(State(app): State<App>, visitor: Visitor, Path(name): Path<String>) -> Shown {
    policies::by_name(&mut app.db.read().await?, &name).await?.ok_or(Error::NotFound("policy"))?;
    let text = format!("The policy {name} and all its versions go; what it gave is taken from its devices. This cannot be undone.");
    let path = format!("/policies/{}", segment(&name));
    Ok(confirm(&visitor, "Delete this policy?", &text, &format!("{path}/delete"), "Delete", &path))
}

/// Deletes the policy.
pub async fn delete(State(app): State<App>, Path(name): Path<String>, posted: Posted) -> Shown {
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, actor, &name).await);
    told("/policies", done.map(|()| format!("The policy {name} is deleted.")))
}

async fn again(app: &App, posted: &Posted, name: &str, typed: Typed) -> Shown {
    let mut conn = app.db.read().await?;
    let mut response = shown(&mut conn, &posted.visitor, &Fields::default(), name, typed, app.clock.now_ms()).await?;
    *response.status_mut() = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

async fn shown(conn: &mut Conn, visitor: &Visitor, asked: &Fields, name: &str, typed: Typed, now_ms: i64) -> Result<Response, Trouble> {
    let row = policies::by_name(conn, name).await?.ok_or(Error::NotFound("policy"))?;
    let policy = ops::view(conn, row.clone()).await?;
    let versions = policies::versions(conn, row.id, VERSIONS_SHOWN).await?;
    let path = format!("/policies/{}", segment(name));
    let to = asked.number("to").ok().flatten().unwrap_or(row.latest);
    let from = asked.number("from").ok().flatten().unwrap_or(to - 1);
    let (before, after) = (document(conn, &row, from).await?, document(conn, &row, to).await?);
    let newest = document(conn, &row, row.latest).await?;
    let convergence = ops::convergence(conn, name).await?.versions;
    let mut assignments = typed.assignments.unwrap_or(policy.assignments);
    assignments.extend((0..NEW_ROWS).map(|_| Assignment { label: String::new(), mode: "include".into(), rank: 0 }));
    Ok(page(&PolicyPage {
        state: Badge::of(if row.published.is_some() { "published" } else { "draft" }),
        document: pretty(&policy.document),
        versions: versions.iter().map(|version| version_line(version, &row, &path, now_ms)).collect(),
        from,
        to,
        changes: diff::lines(&before, &after),
        convergence: convergence.into_iter().filter(|one| one.states.values().any(|n| *n > 0)).map(convergence_line).collect(),
        assignments,
        assignment_faults: typed.assignment_faults,
        labels: labels::list(conn, "", LABELS_OFFERED).await?.into_iter().map(|label| label.name).collect(),
        text: typed.text.unwrap_or(newest),
        message: typed.message,
        base: row.published.unwrap_or(0),
        faults: typed.faults,
        path,
        frame: visitor.frame(name),
    }))
}

/// A version's document for people to read; "" for a version that there is not.
async fn document(conn: &mut Conn, row: &policies::PolicyRow, n: i64) -> Result<String, Error> {
    let version = policies::version(conn, row.id, n).await?;
    Ok(version.map(|version| pretty(&serde_json::from_str(&version.document).unwrap_or(Value::Null))).unwrap_or_default())
}

fn version_line(version: &policies::VersionRow, row: &policies::PolicyRow, path: &str, now_ms: i64) -> VersionLine {
    let state = match (row.published == Some(version.n), version.published_at_ms) {
        (true, _) => "published",
        (false, Some(_)) => "former",
        (false, None) => "draft",
    };
    VersionLine {
        n: version.n,
        state: Badge::of(state),
        message: version.message.clone(),
        by: who(&version.created_by),
        made: When::new(version.created_at_ms, now_ms),
        diff: format!("{path}?from={}&to={}#changes", version.n - 1, version.n),
    }
}

fn convergence_line(one: ops::VersionConvergence) -> ConvergenceLine {
    let to = |share: &str| match one.seconds_to.get(share).copied().flatten() {
        Some(seconds) if seconds < 60.0 => format!("in {seconds:.1} s"),
        Some(seconds) => format!("in {}", span((seconds * 1000.0) as i64)),
        None => "not yet".into(),
    };
    ConvergenceLine { version: one.version, to_50: to("50"), to_90: to("90"), to_99: to("99"), bar: Bar::of(&one.states) }
}

/// The rows of the editor that name a label; emptied ones are taken away.
fn assignments(fields: &Fields) -> (Vec<Assignment>, Vec<Fault>) {
    let (mut assignments, mut faults) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(label) = fields.get(&format!("label_{at}")) {
        let rank = fields.number(&format!("rank_{at}"));
        if !label.is_empty() {
            if rank.is_err() {
                faults.push(Fault { pointer: format!("/assignments/{}/rank", assignments.len()), detail: "take a whole number".into() });
            }
            let rank = rank.ok().flatten().unwrap_or(0);
            assignments.push(Assignment { label: label.to_owned(), mode: fields.text(&format!("mode_{at}")).to_owned(), rank });
        }
        at += 1;
    }
    (assignments, faults)
}
