//! Signing in, by a one-time link or by name and password, and out.

use std::net::IpAddr;

use askama::Template;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::Console;
use super::form::{Fields, Posted};
use super::layout::{Shown, Trouble, cookie, page, to};
use crate::app::App;
use crate::change;
use crate::error::{Error, Result};
use crate::http::auth::{self, SESSION_MS};
use crate::http::error::Problem;
use crate::http::serve::Peer;
use crate::model::token::hash;
use crate::ops::operators;
use crate::store::{self, Class};

/// Characters of a name that a try is counted by.
const NAME_CHARS_MAX: usize = 64;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    name: String,
    trouble: String,
}

/// The form; those who have a session go on.
pub async fn form(State(app): State<App>, headers: HeaderMap) -> Shown {
    if auth::session(&app, &headers).await?.is_some() {
        return Ok(to("/"));
    }
    Ok(page(&SignIn { name: String::new(), trouble: String::new() }))
}

/// Who only looks at what a link leads to, as mail gateways and previews do, opens nothing: it stays good for the person it is for.
pub async fn look() -> StatusCode {
    StatusCode::OK
}

/// True for a page that the browser fetches ahead of its person.
fn is_ahead(headers: &HeaderMap) -> bool {
    let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("prefetch"));
    says("sec-purpose") || says("purpose") || says("x-moz")
}

/// Opens a one-time link.
pub async fn link(
    State(app): State<App>,
    Extension(console): Extension<Console>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    Path(secret): Path<String>,
) -> Shown {
    if is_ahead(&headers) {
        // What is no success is thrown away, and asked for anew when the person goes there.
        let detail = "this link is opened by going to it, not ahead of that";
        return Err(Trouble(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ahead", detail)));
    }
    // Links have 256 bits and cannot be guessed: those that lead nowhere are counted, so that they cost a look-up and no more.
    if !store::operators::knows_link(&mut app.db.read().await?, &hash(&secret)).await? {
        console.throttle.count_address(auth::client_address(&app, peer.ip(), &headers))?;
        return Err(link_used());
    }
    match change!(app, Class::Operators, |conn, moment| operators::open_link(conn, moment, &secret).await)? {
        Some(opened) => Ok(signed_in(&app, &opened)),
        None => Err(link_used()),
    }
}

fn link_used() -> Trouble {
    let detail = "this link was used before, has expired, or is another server's; `muster operator add NAME` makes one";
    Trouble(Problem::new(StatusCode::FORBIDDEN, "link_used", detail))
}

/// Signs in with name and password.
pub async fn password(
    State(app): State<App>,
    Extension(console): Extension<Console>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    request: Request,
) -> Shown {
    same_site(&headers)?;
    let fields = Fields::read(request).await?;
    let name: String = fields.text("name").chars().take(NAME_CHARS_MAX).collect();
    match try_password(&app, &console, auth::client_address(&app, peer.ip(), &headers), &name, fields.text("password")).await {
        Ok(opened) => Ok(signed_in(&app, &opened)),
        Err(Error::Database(error)) => Err(Error::Database(error).into()),
        Err(error) => {
            let problem = Problem::from(error);
            let mut response = page(&SignIn { name, trouble: problem.detail });
            *response.status_mut() = problem.status;
            if let Some(seconds) = problem.retry_after_s {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Ok(response)
        }
    }
}

async fn try_password(app: &App, console: &Console, address: IpAddr, name: &str, password: &str) -> Result<operators::Opened> {
    console.throttle.count(address, name)?;
    let operator = store::operators::by_name(&mut app.db.read().await?, name).await?.filter(|row| row.disabled_at_ms.is_none());
    let (id, stored) = operator.map_or((None, None), |row| (Some(row.id), row.password_hash));
    let password = password.to_owned();
    let fits = tokio::task::spawn_blocking(move || operators::verify_password(&password, stored.as_deref())).await.unwrap_or(false);
    let opened = match id.filter(|_| fits) {
        Some(id) => change!(app, Class::Operators, |conn, moment| operators::open_session(conn, moment, id, "password").await)?,
        None => None,
    };
    opened.ok_or_else(|| Error::refused("session_unknown", "name or password is wrong"))
}

/// Ends the session.
pub async fn sign_out(State(app): State<App>, headers: HeaderMap, _posted: Posted) -> Shown {
    let secret = cookie(&headers, auth::cookie_name(&app)).unwrap_or_default().to_owned();
    change!(app, Class::Operators, |conn, _moment| operators::sign_out(conn, &secret).await)?;
    let mut response = to("/sign-in");
    set_cookie(&app, &mut response, "", 0);
    Ok(response)
}

fn signed_in(app: &App, opened: &operators::Opened) -> Response {
    let mut response = to("/");
    set_cookie(app, &mut response, opened.secret.reveal(), SESSION_MS / 1000);
    response
}

fn set_cookie(app: &App, response: &mut Response, value: &str, max_age_s: i64) {
    let secure = if app.config.public_url_is_https() { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}{secure}", auth::cookie_name(app));
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// A form that another site sends must not sign anybody in: there is no session yet whose token it could repeat.
fn same_site(headers: &HeaderMap) -> std::result::Result<(), Trouble> {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok()).unwrap_or("same-origin");
    if matches!(site, "same-origin" | "none") {
        return Ok(());
    }
    Err(Error::refused("csrf_mismatch", "sign in from this server's own page").into())
}
