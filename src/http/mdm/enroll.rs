//! `/enroll/{token}`: what a person sees who got an enrollment link, and the profile for an Apple device.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::qr;
use crate::app::App;
use crate::change;
use crate::http::console::layout::{Shown, Trouble, page};
use crate::http::error::Problem;
use crate::intake::authority;
use crate::model::token;
use crate::ops::ca;
use crate::store::tokens::{self, TokenRow};
use crate::store::{Class, Conn};

/// How the senders of Apple's MDM are named: the topic follows.
const SENDER: &str = "apns_mdm/";

#[derive(Template)]
#[template(path = "enroll.html")]
struct EnrollPage {
    name: String,
    profile: String,
    link: String,
    has_apple: bool,
    /// The modules of the code, each a path of dark squares.
    qr: String,
    qr_size: usize,
}

/// The page: the profile for Apple, the code and the link for Android. It works without scripts.
pub async fn show(State(app): State<App>, Path(value): Path<String>) -> Shown {
    let row = good_token(&app, &mut app.db.read().await?, &value).await?;
    let link = format!("{}/enroll/{value}", app.config.public_url.trim_end_matches('/'));
    let code = qr::Code::of(link.as_bytes());
    let (qr, qr_size) = code.map(|code| (code.path(), code.size())).unwrap_or_default();
    let profile = format!("/enroll/{value}/profile.mobileconfig");
    Ok(page(&EnrollPage { name: row.name, profile, link, has_apple: topic(&app).is_some(), qr, qr_size }))
}

/// The profile. Each download has a challenge of its own; the token's use counts when the device enrolls.
pub async fn profile(State(app): State<App>, Path(value): Path<String>) -> Result<Response, Trouble> {
    let row = good_token(&app, &mut app.db.read().await?, &value).await?;
    let Some(topic) = topic(&app) else {
        let detail = "this server has no push certificate for Apple devices yet; ask an operator";
        return Err(Trouble(Problem::new(StatusCode::CONFLICT, "push_unconfigured", detail)));
    };
    let authority = authority::authority(&app).await?;
    let secret = change!(app, Class::Operators, |conn, moment| ca::challenge(conn, moment, row.id).await)?;
    let profile = authority::profile(&app.config, &authority, app.clock.now_ms(), &topic, secret.reveal());
    let headers = [
        (header::CONTENT_TYPE, "application/x-apple-aspen-config"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"enroll.mobileconfig\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, profile).into_response())
}

/// The topic of the push certificate in use.
fn topic(app: &App) -> Option<String> {
    app.senders.all().iter().find_map(|sender| sender.name().strip_prefix(SENDER).map(str::to_owned))
}

/// The token of a link, if it still opens the door.
async fn good_token(app: &App, conn: &mut Conn, value: &str) -> Result<TokenRow, Trouble> {
    let now_ms = app.clock.now_ms();
    let refused = |code, detail: &str| Trouble(Problem::new(StatusCode::NOT_FOUND, code, detail));
    let row = tokens::by_hash(conn, &token::hash(value)).await?;
    // A token that was derived for an app opens no enrollment of the device itself.
    let row =
        row.filter(|row| row.parent_id.is_none()).ok_or_else(|| refused("token_unknown", "this link is not known; ask for another"))?;
    let is_over = row.revoked_at_ms.is_some() || row.expires_at_ms.is_some_and(|at| at <= now_ms);
    let is_used = row.max_uses.is_some_and(|most| row.uses >= most);
    match (is_over, is_used) {
        (true, _) => Err(refused("token_expired", "this link is no longer good; ask for another")),
        (_, true) => Err(refused("token_exhausted", "this link was used before; ask for another")),
        _ => Ok(row),
    }
}
