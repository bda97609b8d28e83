//! Labels: the list, one with its devices, and who has it.

use askama::Template;
use axum::extract::{Path, State};

use super::confirm::confirm;
use super::devices::{Row, rows};
use super::form::{Asked, Posted};
use super::format::number;
use super::layout::{Frame, Shown, Visitor, page, segment, told};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::http::page::List;
use crate::model::Id;
use crate::ops::labels::{self as ops, Given, LabelInput, Membership};
use crate::store::{Class, labels};

const PAGE_ROWS: i64 = 100;
const MEMBERS_ROWS: i64 = 50;

struct Line {
    name: String,
    path: String,
    description: String,
    devices: String,
}

#[derive(Template)]
#[template(path = "labels.html")]
struct Labels {
    frame: Frame,
    lines: Vec<Line>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "label.html")]
struct LabelPage {
    frame: Frame,
    path: String,
    description: String,
    devices: String,
    rows: Vec<Row>,
    next: Option<String>,
}

/// The list.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let after: Option<String> = asked.cursor();
    let mut conn = app.db.read().await?;
    let found = labels::list(&mut conn, after.as_deref().unwrap_or(""), PAGE_ROWS + 1).await?;
    let found = List::of(found, PAGE_ROWS, |row| row.name.clone());
    let line = |label: ops::Label| Line {
        path: path_of(&label.name),
        devices: number(label.devices),
        name: label.name,
        description: label.description,
    };
    let lines = ops::views(&mut conn, found.items).await?.into_iter().map(line).collect();
    Ok(page(&Labels { lines, next: found.next_cursor.map(|cursor| asked.next(&cursor)), frame: asked.visitor.frame("Labels") }))
}

/// One label with its devices.
pub async fn show(State(app): State<App>, asked: Asked, Path(name): Path<String>) -> Shown {
    let mut conn = app.db.read().await?;
    let label = ops::get(&mut conn, &name).await?;
    let after: Option<Id> = asked.cursor();
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let found = List::of(labels::devices(&mut conn, label.id, &after, MEMBERS_ROWS + 1).await?, MEMBERS_ROWS, |id| *id);
    let shown = LabelPage {
        rows: rows(&mut conn, &found.items, app.clock.now_ms()).await?,
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        path: path_of(&name),
        description: label.description,
        devices: number(label.devices),
        frame: asked.visitor.frame(label.name),
    };
    Ok(page(&shown))
}

/// Makes a label, or describes the one of that name.
pub async fn put(State(app): State<App>, posted: Posted) -> Shown {
    let (fields, actor) = (&posted.fields, posted.visitor.actor());
    let name = fields.text("name");
    let input = LabelInput { description: Some(fields.text("description").to_owned()), rule: None };
    match change!(app, Class::Operators, |conn, moment| ops::put(conn, moment, actor, name, &input).await) {
        Ok((label, made)) => told(
            &path_of(&label.name),
            Ok(if made { "The label is made. Give it to devices below." } else { "The label is described anew." }.into()),
        ),
        Err(error) => told("/labels", Err(error)),
    }
}

/// Gives the label to devices, or takes it from them.
pub async fn members(State(app): State<App>, Path(name): Path<String>, posted: Posted) -> Shown {
    let (fields, actor) = (&posted.fields, posted.visitor.actor());
    let how = if fields.text("how") == "remove" { Membership::Remove } else { Membership::Add };
    let mut named = fields.all("device");
    named.extend(fields.text("typed").split([',', '\n', ' ']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    let done: Result<Given> = if named.is_empty() {
        Err(Error::invalid("/devices", "select devices, or type their serial numbers"))
    } else {
        change!(app, Class::Operators, |conn, moment| ops::change(conn, moment, actor, &name, how, &named).await)
    };
    let word = if how == Membership::Remove { "taken from" } else { "given to" };
    told(&path_of(&name), done.map(|given| said_of(word, &given)))
}

fn said_of(word: &str, given: &Given) -> String {
    let n = given.devices;
    let mut said = format!("The label is {word} {n} {}.", if n == 1 { "device" } else { "devices" });
    for (names, why) in [(&given.unknown_devices, "No device is named"), (&given.ambiguous_devices, "Several devices are named")] {
        if !names.is_empty() {
            said = format!("{said} {why} {}.", names.join(", "));
        }
    }
    said
}

/// Asks first.
pub async fn ask_delete(State(app): State<App>, visitor: Visitor, Path(name): Path<String>) -> Shown {
    let label = ops::get(&mut app.db.read().await?, &name).await?;
    let text = format!(
        "The label {name} is taken from {} devices; policies that were assigned to it no longer reach them.",
        number(label.devices)
    );
    let path = path_of(&name);
    Ok(confirm(&visitor, "Delete this label?", &text, &format!("{path}/delete"), "Delete", &path))
}

/// Deletes the label.
pub async fn delete(State(app): State<App>, Path(name): Path<String>, posted: Posted) -> Shown {
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::delete(conn, moment, actor, &name).await);
    told("/labels", done.map(|()| format!("The label {name} is deleted.")))
}

fn path_of(name: &str) -> String {
    format!("/labels/{}", segment(name))
}
