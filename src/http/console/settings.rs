//! Settings: one's own password, push credentials, operators and API keys.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::confirm::confirm;
use super::form::Posted;
use super::format::{Badge, When, relative, span, who};
use super::layout::{Frame, Shown, Trouble, Visitor, cookie, page, to, told};
use super::overview::{SenderLine, senders};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::http::{auth, credentials};
use crate::model::{Id, Role};
use crate::ops::operators as ops;
use crate::store::canary::{self, CanaryRow};
use crate::store::{Class, console, operators};

const KEYS_SHOWN: i64 = 200;
const OPERATORS_SHOWN: i64 = 1000;

struct OperatorLine {
    id: Id,
    name: String,
    role: String,
    state: Badge,
    enabled: bool,
    made: When,
}

struct KeyLine {
    id: Id,
    name: String,
    role: String,
    by: String,
    made: When,
    live: bool,
}

/// A value that is shown this once.
struct Once {
    said: String,
    value: String,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Settings {
    frame: Frame,
    once: Option<Once>,
    has_password: bool,
    senders: Vec<SenderLine>,
    has_fcm: bool,
    operators: Vec<OperatorLine>,
    keys: Vec<KeyLine>,
    public_url: String,
}

/// The page.
pub async fn show(State(app): State<App>, visitor: Visitor) -> Shown {
    shown(&app, &visitor, None).await
}

/// Where the answer to a form is asked for again, by a reload or by what keeps it current: the page without what was shown once.
pub async fn home() -> Response {
    to("/settings")
}

/// Sets one's own password and ends one's other sessions.
pub async fn password(State(app): State<App>, headers: HeaderMap, posted: Posted) -> Shown {
    let actor = posted.visitor.actor();
    let keep = cookie(&headers, auth::cookie_name(&app)).unwrap_or_default().to_owned();
    let id: Id = posted.visitor.session.operator_id.parse().map_err(|_| Error::NotFound("operator"))?;
    let done = match hashed(&app, &posted).await {
        Ok(hash) => change!(app, Class::Operators, |conn, moment| ops::set_password(conn, moment, actor, id, &hash, &keep).await),
        Err(error) => Err(error),
    };
    told("/settings", done.map(|()| "Your password is set; your other sessions have ended.".into()))
}

async fn hashed(app: &App, posted: &Posted) -> Result<String> {
    let (password, again) = (posted.fields.text("password").to_owned(), posted.fields.text("again"));
    if password != again {
        return Err(Error::invalid("password", "the two passwords differ"));
    }
    let salt = app.clock.moment().secret();
    let hashing = tokio::task::spawn_blocking(move || ops::hash_password(&password, &salt));
    hashing.await.unwrap_or(Err(Error::Busy { retry_after_s: 1 }))
}

/// Replaces FCM's service account.
pub async fn fcm(State(app): State<App>, posted: Posted) -> Shown {
    let (account, forced) = (posted.fields.text("service_account").as_bytes(), posted.fields.text("force") == "on");
    let done = credentials::put_own(&app, posted.visitor.actor(), "push/fcm", account, forced).await;
    told("/settings", done.map(|()| "The credential is in use.".into()))
}

/// Calls one device in through a sender, to see whether the provider takes it.
pub async fn try_out(State(app): State<App>, posted: Posted) -> Shown {
    let name = posted.fields.text("sender");
    let done = credentials::try_out(&app, posted.visitor.actor(), name).await;
    told("/settings", done.map(|()| format!("One device is called through {name}; what comes of it is told here.")))
}

/// Adds an operator, or finds the one of that name, and shows a one-time sign-in link.
pub async fn add_operator(State(app): State<App>, posted: Posted) -> Shown {
    let (actor, name) = (posted.visitor.actor(), posted.fields.text("name"));
    // Whoever leaves the role as it is takes none away.
    let wanted = if posted.fields.text("role").is_empty() { Ok(None) } else { role(&posted).map(Some) };
    let done = match wanted {
        Ok(role) => change!(app, Class::Operators, |conn, moment| ops::link(conn, moment, actor, name, role).await),
        Err(error) => Err(error),
    };
    match done {
        Ok(linked) => {
            let value = format!("{}/sign-in/{}", app.config.public_url.trim_end_matches('/'), linked.secret.reveal());
            let mut said = format!("{} ({}) signs in once by this link, within 15 minutes:", linked.name, linked.role);
            for change in linked.changes() {
                said.insert_str(0, &format!("{change} "));
            }
            shown(&app, &posted.visitor, Some(Once { said, value })).await
        }
        Err(error) => told("/settings", Err(error)),
    }
}

/// Asks first.
pub async fn ask_disable(State(app): State<App>, visitor: Visitor, Path(id): Path<String>) -> Shown {
    let id: Id = id.parse().map_err(|_| Error::NotFound("operator"))?;
    let operator = operators::get(&mut app.db.read().await?, id).await?.ok_or(Error::NotFound("operator"))?;
    let mut text = format!("{} is signed out everywhere and can no longer sign in.", operator.name);
    let keys = operators::keys_of(&mut app.db.read().await?, &format!("operator:{}", operator.name), ops::KEYS_TOLD_MAX).await?;
    if !keys.is_empty() {
        text += &format!(" API keys that they made go on working until you revoke them: {}.", keys.join(", "));
    }
    Ok(confirm(&visitor, "Disable this operator?", &text, &format!("/settings/operators/{id}/disable"), "Disable", "/settings"))
}

/// Disables an operator.
pub async fn disable(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id: Id = id.parse().map_err(|_| Error::NotFound("operator"))?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::disable(conn, moment, actor, id).await);
    told("/settings", done.map(|()| "The operator is disabled.".into()))
}

/// Makes an API key and shows it this once.
pub async fn add_key(State(app): State<App>, posted: Posted) -> Shown {
    let (actor, name) = (posted.visitor.actor(), posted.fields.text("name"));
    let done = match role(&posted) {
        Ok(role) => change!(app, Class::Operators, |conn, moment| ops::make_key(conn, moment, actor, name, role).await),
        Err(error) => Err(error),
    };
    match done {
        Ok(made) => shown(&app, &posted.visitor, Some(Once { said: format!("The key {}:", made.name), value: made.key })).await,
        Err(error) => told("/settings", Err(error)),
    }
}

/// Asks first.
pub async fn ask_revoke(visitor: Visitor, Path(id): Path<String>) -> Shown {
    let id: Id = id.parse().map_err(|_| Error::NotFound("key"))?;
    let text = "Programs that use this key are refused from now on.";
    Ok(confirm(&visitor, "Revoke this key?", text, &format!("/settings/keys/{id}/revoke"), "Revoke", "/settings"))
}

/// Revokes an API key.
pub async fn revoke(State(app): State<App>, Path(id): Path<String>, posted: Posted) -> Shown {
    let id: Id = id.parse().map_err(|_| Error::NotFound("key"))?;
    let actor = posted.visitor.actor();
    let done = change!(app, Class::Operators, |conn, moment| ops::revoke_key(conn, moment, actor, id).await);
    told("/settings", done.map(|()| "The key is revoked.".into()))
}

fn role(posted: &Posted) -> Result<Role> {
    posted.fields.text("role").parse().map_err(|detail: String| Error::invalid("role", detail))
}

async fn shown(app: &App, visitor: &Visitor, once: Option<Once>) -> std::result::Result<Response, Trouble> {
    let now_ms = app.clock.now_ms();
    let mut conn = app.db.read().await?;
    let all = operators::list(&mut conn, "", OPERATORS_SHOWN).await?;
    let has_password = all.iter().any(|row| row.id.to_string() == visitor.session.operator_id && row.password_hash.is_some());
    let keys = operators::keys(&mut conn, "", KEYS_SHOWN).await?;
    let addresses = console::addresses(&mut conn).await?;
    let canaries = canary::list(&mut conn).await?;
    let mut senders = senders(app, &addresses, now_ms);
    for line in &mut senders {
        line.canary = canaries.iter().find(|row| row.sender == line.name).map_or_else(String::new, |row| canary_said(row, now_ms));
    }
    Ok(page(&Settings {
        once,
        has_password,
        senders,
        has_fcm: app.senders.named("fcm").is_some(),
        operators: all.into_iter().map(|row| operator_line(row, now_ms)).collect(),
        keys: keys.into_iter().map(|row| key_line(row, now_ms)).collect(),
        public_url: app.config.public_url.clone(),
        frame: visitor.frame("Settings"),
    }))
}

/// A canary as a sentence.
fn canary_said(row: &CanaryRow, now_ms: i64) -> String {
    let Some(called_at_ms) = row.called_at_ms else {
        let said = if row.state == "ended" {
            "no device came within a day that could be called"
        } else {
            "waits until every process has the credential"
        };
        return format!("canary: {said}");
    };
    let answer = match row.answer.as_deref() {
        None if row.state == "ended" => "no answer came".to_owned(),
        None => "the answer is waited for".to_owned(),
        Some("accepted") => "the provider took it".to_owned(),
        Some("failed") => "the try failed; it is repeated like any other".to_owned(),
        Some("address_dead" | "address_suspect") => "the provider took the credential, but not the device's address".to_owned(),
        Some(fault) => fault.to_owned(),
    };
    let contact = match row.contact_at_ms {
        Some(at_ms) => format!("the device came {} later", span(at_ms - called_at_ms)),
        None if row.state == "ended" => format!("the device did not come within {}", span(row.ends_at_ms - row.starts_at_ms)),
        None => "the device is waited for".to_owned(),
    };
    format!("canary of {}: {answer}; {contact}", relative(called_at_ms, now_ms))
}

fn operator_line(row: operators::OperatorRow, now_ms: i64) -> OperatorLine {
    let enabled = row.disabled_at_ms.is_none();
    let state = Badge::of(if enabled { "enabled" } else { "disabled" });
    OperatorLine { id: row.id, name: row.name, role: row.role, state, enabled, made: When::new(row.created_at_ms, now_ms) }
}

fn key_line(row: operators::KeyRow, now_ms: i64) -> KeyLine {
    let (by, made) = (who(&row.created_by), When::new(row.created_at_ms, now_ms));
    KeyLine { id: row.id, name: row.name, role: row.role, by, made, live: row.revoked_at_ms.is_none() }
}
