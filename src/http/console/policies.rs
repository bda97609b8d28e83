//! The list of policies, and a new one.

use askama::Template;
use axum::extract::State;
use serde_json::json;

use super::form::{Asked, Posted};
use super::format::When;
use super::layout::{Frame, Shown, page, segment, told};
use crate::app::App;
use crate::change;
use crate::http::page::List;
use crate::ops::policies::{self as ops, PolicyInput};
use crate::store::{Class, policies};

const PAGE_ROWS: i64 = 100;

struct Line {
    name: String,
    path: String,
    version: Option<i64>,
    latest: i64,
    assigned: String,
    changed: When,
}

#[derive(Template)]
#[template(path = "policies.html")]
struct Policies {
    frame: Frame,
    lines: Vec<Line>,
    next: Option<String>,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let after: Option<String> = asked.cursor();
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let rows = policies::list(&mut conn, after.as_deref().unwrap_or(""), PAGE_ROWS + 1).await?;
    let found = List::of(rows, PAGE_ROWS, |row| row.name.clone());
    let word = |mode: &str| if mode == "exclude" { "not " } else { "" };
    let line = |policy: ops::Policy| Line {
        path: format!("/policies/{}", segment(&policy.name)),
        version: policy.version,
        latest: policy.latest_version,
        assigned: policy.assignments.iter().map(|one| format!("{}{}", word(&one.mode), one.label)).collect::<Vec<_>>().join(", "),
        changed: When::new(policy.updated_at_ms, now_ms),
        name: policy.name,
    };
    let lines = ops::views(&mut conn, found.items).await?.into_iter().map(line).collect();
    Ok(page(&Policies { lines, next: found.next_cursor.map(|cursor| asked.next(&cursor)), frame: asked.visitor.frame("Policies") }))
}

/// Makes a policy as an empty draft, which nobody gets.
pub async fn create(State(app): State<App>, posted: Posted) -> Shown {
    let (actor, name) = (posted.visitor.actor(), posted.fields.text("name"));
    let input = PolicyInput { document: json!({}), message: String::new() };
    // Without this a form for a new policy would put an empty draft on an old one.
    let known = !name.is_empty() && policies::by_name(&mut app.db.read().await?, name).await?.is_some();
    if known {
        return told(&format!("/policies/{}", segment(name)), Ok("There is a policy of this name: here it is.".into()));
    }
    match change!(app, Class::Operators, |conn, moment| ops::put(conn, moment, actor, name, &input, true, None).await) {
        Ok(_) => told(&format!("/policies/{}", segment(name)), Ok("A draft: write its document, publish it, assign it to a label.".into())),
        Err(error) => told("/policies", Err(error)),
    }
}
