//! The audit: what operators and keys did, newest first.

use askama::Template;
use axum::extract::State;

use super::form::Asked;
use super::layout::{Frame, Shown, page};
use super::line::{Line, lines};
use crate::app::App;
use crate::http::page::List;
use crate::store::feed;

const PAGE_ROWS: i64 = 100;

#[derive(Template)]
#[template(path = "audit.html")]
struct Audit {
    frame: Frame,
    actor: String,
    kind: String,
    lines: Vec<Line>,
    next: Option<String>,
}

/// The page.
pub async fn list(State(app): State<App>, asked: Asked) -> Shown {
    let (actor, kind) = (asked.fields.text("actor"), asked.fields.text("kind"));
    let mut conn = app.db.read().await?;
    let found = List::of(feed::audit(&mut conn, actor, kind, asked.cursor(), PAGE_ROWS + 1).await?, PAGE_ROWS, |row| row.seq);
    let shown = Audit {
        lines: lines(&mut conn, &found.items, app.clock.now_ms()).await?,
        next: found.next_cursor.map(|cursor| asked.next(&cursor)),
        actor: actor.to_owned(),
        kind: kind.to_owned(),
        frame: asked.visitor.frame("Audit"),
    };
    Ok(page(&shown))
}
