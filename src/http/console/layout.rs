//! What every page has around it, who may see it, and how forms come in.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};

use crate::app::App;
use crate::error::Error;
use crate::http::auth::{self, Session};
use crate::http::error::Problem;
use crate::model::{Actor, Role};
use crate::store::alarms;

/// Characters of a message that is carried to the next page.
const FLASH_CHARS_MAX: usize = 400;
const FLASH: &str = "muster_flash";
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     base-uri 'none'; frame-ancestors 'none'";

/// Puts the headers on every page of the console.
pub async fn headers(State(app): State<App>, request: Request, next: Next) -> Response {
    let was_told = flash_of(request.headers()).is_some() && request.method() == Method::GET;
    let mut response = next.run(request).await;
    let is_page = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let headers = response.headers_mut();
    // A message is shown once: by the page that was asked for with it.
    if was_told && is_page {
        headers.append(header::SET_COOKIE, HeaderValue::from_static("muster_flash=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"));
    }
    if app.config.public_url_is_https() {
        secure(headers);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Behind https the message of [`told`] goes over https alone, as the session's cookie does.
fn secure(headers: &mut HeaderMap) {
    if let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) {
        for cookie in cookies.iter_mut().filter(|cookie| cookie.as_bytes().starts_with(FLASH.as_bytes())) {
            if let Ok(value) = HeaderValue::from_bytes(&[cookie.as_bytes(), b"; Secure"].concat()) {
                *cookie = value;
            }
        }
    }
}

/// A message that the page before left for this one.
#[derive(Clone, Debug)]
pub struct Flash {
    pub good: bool,
    pub text: String,
}

/// What the layout shows around a page.
#[derive(Clone, Debug)]
pub struct Frame {
    pub title: String,
    /// The first word of the path: which entry of the navigation is the present one.
    pub place: String,
    pub operator: String,
    pub role: Role,
    pub csrf: String,
    pub flash: Option<Flash>,
    /// Alarms that are not closed.
    pub alarms: i64,
}

impl Frame {
    pub fn is(&self, place: &str) -> bool {
        self.place == place
    }

    /// True for those who may do more than read.
    pub fn may_act(&self) -> bool {
        self.role >= Role::Operator
    }

    pub fn is_admin(&self) -> bool {
        self.role >= Role::Admin
    }
}

/// A signed-in operator; strangers are sent to the sign-in page.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub session: Session,
    flash: Option<Flash>,
    place: String,
    alarms: i64,
}

impl Visitor {
    pub fn actor(&self) -> &Actor {
        &self.session.actor
    }

    /// The frame of a page.
    pub fn frame(&self, title: impl Into<String>) -> Frame {
        let name = &self.session.actor.name;
        Frame {
            title: title.into(),
            place: self.place.clone(),
            operator: name.strip_prefix("operator:").unwrap_or(name).to_owned(),
            role: self.session.actor.role,
            csrf: self.session.csrf.clone(),
            flash: self.flash.clone(),
            alarms: self.alarms,
        }
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Visitor, Response> {
        match auth::session(app, &parts.headers).await {
            Ok(Some(session)) => {
                let place = parts.uri.path().split('/').nth(1).unwrap_or_default().to_owned();
                let alarms = open_alarms(app).await.map_err(|error| Trouble(error.into()).into_response())?;
                Ok(Visitor { session, flash: flash_of(&parts.headers), place, alarms })
            }
            Ok(None) => Err(to("/sign-in")),
            Err(problem) => Err(Trouble(problem).into_response()),
        }
    }
}

/// Every page says how many alarms stand: a short read along an index of those alone.
async fn open_alarms(app: &App) -> Result<i64, Error> {
    alarms::open_count(&mut app.db.read().await?).await
}

/// Anything that keeps a page from being shown, as a page.
#[derive(Debug)]
pub struct Trouble(pub Problem);

/// What a page answers.
pub type Shown = Result<Response, Trouble>;

impl<E: Into<Problem>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble(error.into())
    }
}

#[derive(askama::Template)]
#[template(path = "trouble.html")]
struct TroublePage {
    title: String,
    detail: String,
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let Problem { status, detail, retry_after_s, .. } = self.0;
        let title = if status == StatusCode::NOT_FOUND { "Not found" } else { status.canonical_reason().unwrap_or("Trouble") };
        let mut response = page(&TroublePage { title: title.to_owned(), detail });
        *response.status_mut() = status;
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What is nowhere in the URL table: a page for people, a problem document for programs.
pub async fn missing(uri: Uri) -> Response {
    let is_program = ["/api/", "/agent/", "/mdm/"].iter().any(|prefix| uri.path().starts_with(prefix));
    if is_program {
        Problem::from(Error::NotFound("address")).into_response()
    } else {
        Trouble::from(Error::NotFound("page")).into_response()
    }
}

/// A page that is there, asked for in a way that it does not take: a form's address that was typed, as a rule.
pub async fn wrong_method() -> Response {
    let detail = "this address only takes what a form of the console sends; go there by the navigation";
    Trouble(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)).into_response()
}

/// A template as an answer, which takes a message that was left for it with it.
pub fn page(template: &impl askama::Template) -> Response {
    match template.render() {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// On to another page, after a POST or instead of this one.
pub fn to(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

/// On to another page, which says what was done, or why not. Faults of the server become a page of their own.
pub fn told(path: &str, outcome: Result<String, Error>) -> Shown {
    let flash = match outcome {
        Ok(text) => Flash { good: true, text },
        Err(Error::Database(error)) => return Err(Error::Database(error).into()),
        // Where it is wrong is a field of a form, which has no pointer.
        Err(Error::Invalid(faults)) if !faults.is_empty() => Flash { good: false, text: faults[0].detail.clone() },
        Err(error) => Flash { good: false, text: Problem::from(error).detail },
    };
    let mut response = to(path);
    let text: String = flash.text.chars().take(FLASH_CHARS_MAX).collect();
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let kind = if flash.good { "1" } else { "0" };
    let cookie = format!("{FLASH}={kind}{encoded}; Path=/; Max-Age=30; HttpOnly; SameSite=Lax");
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// A local path out of a form, to come back to; `otherwise` where it is none.
pub fn local<'a>(path: &'a str, otherwise: &'a str) -> &'a str {
    let is_local = path.starts_with('/') && !path.starts_with("//") && !path.contains(['\\', '\r', '\n']);
    if is_local { path } else { otherwise }
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    // '+' stands for a space in queries only.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn flash_of(headers: &HeaderMap) -> Option<Flash> {
    let value = cookie(headers, FLASH).filter(|value| !value.is_empty())?;
    let (kind, encoded) = value.split_at_checked(1)?;
    let text = form_urlencoded::parse(format!("t={encoded}").as_bytes()).next().map(|(_, text)| text.into_owned())?;
    Some(Flash { good: kind == "1", text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_this_server_is_come_back_to() {
        assert_eq!(local("/devices?q=a", "/"), "/devices?q=a");
        for elsewhere in ["https://example.org", "//example.org", "/\\example.org", "javascript:x", "/a\r\nb"] {
            assert_eq!(local(elsewhere, "/"), "/");
        }
    }

    #[test]
    fn a_message_survives_its_cookie() {
        let response = told("/x", Ok("Größe; \"a\" = 100 %".into())).unwrap();
        let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookie.parse().unwrap());
        let flash = flash_of(&headers).unwrap();
        assert!(flash.good);
        assert_eq!(flash.text, "Größe; \"a\" = 100 %");
    }
}
