//! An operator at the console as a value: a cookie, and forms that repeat the page's token.

use muster::model::{Actor, Role};
use muster::ops::operators;
use muster::store::Class;
use reqwest::header::{CONTENT_SECURITY_POLICY, COOKIE, HeaderMap, LOCATION, SET_COOKIE};

use super::server::{Reply, TestServer, reply};

/// A browser without scripts.
#[derive(Clone, Debug)]
pub struct Browser {
    url: String,
    client: reqwest::Client,
    pub cookie: String,
    csrf: String,
}

/// What a browser was shown.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Page {
    /// Where it is sent on to.
    pub fn location(&self) -> &str {
        self.headers.get(LOCATION).map_or("", |value| value.to_str().unwrap())
    }

    /// The cookies that it sets, each with its attributes.
    pub fn cookies(&self) -> Vec<String> {
        self.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    pub fn policy(&self) -> &str {
        self.headers.get(CONTENT_SECURITY_POLICY).map_or("", |value| value.to_str().unwrap())
    }
}

impl TestServer {
    /// A browser that nobody has signed in with.
    pub fn stranger(&self) -> Browser {
        Browser { url: self.url.clone(), client: self.client.clone(), cookie: String::new(), csrf: String::new() }
    }

    /// The path of a fresh one-time sign-in link.
    pub async fn sign_in_link(&self, name: &str, role: Role) -> String {
        let mut moment = self.clock.moment();
        let mut conn = self.app.db.begin(Class::Operators).await.unwrap();
        let linked = operators::link(&mut conn, &mut moment, &Actor::server(), name, Some(role)).await.unwrap();
        conn.commit().await.unwrap();
        format!("/sign-in/{}", linked.secret.reveal())
    }

    /// The browser of an operator of this role, signed in.
    pub async fn operator(&self, name: &str, role: Role) -> Browser {
        let link = self.sign_in_link(name, role).await;
        let mut browser = self.stranger();
        let page = browser.get(&link).await;
        assert_eq!((page.status, page.location()), (303, "/"), "{}", page.text);
        browser.keep(&page).await;
        browser
    }
}

impl Browser {
    /// Takes the session of an answer that signed in, and the token of its pages.
    pub async fn keep(&mut self, page: &Page) {
        let session = page.cookies().into_iter().find(|cookie| !cookie.contains("_flash")).unwrap();
        self.cookie = session.split(';').next().unwrap().to_owned();
        let settings = self.get("/settings").await;
        assert_eq!(settings.status, 200, "{}", settings.text);
        let (_, rest) = settings.text.split_once("name=\"csrf\" value=\"").unwrap();
        self.csrf = rest.split('"').next().unwrap().to_owned();
    }

    pub async fn get(&self, path: &str) -> Page {
        self.send(self.client.get(format!("{}{path}", self.url))).await
    }

    /// Sends a form with the page's token.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut all = vec![("csrf", self.csrf.as_str())];
        all.extend_from_slice(fields);
        self.post_bare(path, &all).await
    }

    /// Sends a form as it is.
    pub async fn post_bare(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        self.send(self.client.post(format!("{}{path}", self.url)).form(fields)).await
    }

    /// Sends a form and looks at the page that it leads to, with the message that was left for it.
    pub async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let answer = self.post(path, fields).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.text);
        let flash = answer.cookies().into_iter().find(|cookie| cookie.starts_with("muster_flash")).unwrap_or_default();
        let mut next = self.clone();
        next.cookie = format!("{}; {}", self.cookie, flash.split(';').next().unwrap());
        next.get(answer.location()).await
    }

    /// A call of the operator API with the session of this browser.
    pub async fn call(&self, method: &str, path: &str, body: Option<serde_json::Value>) -> Reply {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.url)).header("x-csrf-token", &self.csrf);
        if let Some(body) = body {
            request = request.json(&body);
        }
        reply(request.header(COOKIE, &self.cookie)).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Page {
        let response = request.header(COOKIE, &self.cookie).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Page { status, headers, text: response.text().await.unwrap() }
    }
}
