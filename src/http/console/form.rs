//! What comes in: forms of signed-in operators, and the filters in a page's address.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::layout::{Trouble, Visitor};
use crate::app::App;
use crate::error::Error;
use crate::http::extract;
use crate::http::page;

/// How large a form may be: a policy document of a megabyte, escaped.
const FORM_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A form of a signed-in operator, whose token was compared.
#[derive(Debug)]
pub struct Posted {
    pub visitor: Visitor,
    pub fields: Fields,
}

impl FromRequest<App> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Posted, Response> {
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, app).await?;
        let fields = Fields::read(Request::from_parts(parts, body)).await.map_err(IntoResponse::into_response)?;
        if !bool::from(fields.text("csrf").as_bytes().ct_eq(visitor.session.csrf.as_bytes())) {
            let detail = "this form does not belong to your session; go back, load the page again and repeat";
            return Err(Trouble(Error::refused("csrf_mismatch", detail).into()).into_response());
        }
        Ok(Posted { visitor, fields })
    }
}

/// The fields of a form. Their order is the page's.
#[derive(Default)]
pub struct Fields(Vec<(String, String)>);

impl std::fmt::Debug for Fields {
    /// Their names: a password is among the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Fields {
    /// Reads a body of `application/x-www-form-urlencoded`.
    pub async fn read(request: Request) -> Result<Fields, Trouble> {
        let bytes = extract::body(request, FORM_BYTES_MAX).await?;
        Ok(Fields::of(&bytes))
    }

    /// The pairs without U+0000, which nobody types and PostgreSQL does not take.
    fn of(encoded: &[u8]) -> Fields {
        Fields(form_urlencoded::parse(encoded).map(|(key, value)| (key.replace('\0', ""), value.replace('\0', ""))).collect())
    }

    /// The value of a field, trimmed.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim())
    }

    /// The value of a field, trimmed; "" where there is none.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// The value of a field unless it is empty.
    pub fn some(&self, name: &str) -> Option<String> {
        Some(self.text(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// Every value of a field that may come several times.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, value)| key == name && !value.trim().is_empty()).map(|(_, value)| value.trim().to_owned()).collect()
    }

    /// A whole number, if one was given.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        self.some(name).map(|text| text.parse().map_err(|_| Error::invalid(name, "must be a whole number"))).transpose()
    }
}

/// A page that an operator looks at, with what its address asks for.
#[derive(Debug)]
pub struct Asked {
    pub visitor: Visitor,
    pub fields: Fields,
    path: String,
}

impl Asked {
    /// The address of the next page of a list, which begins behind `cursor`.
    pub fn next(&self, cursor: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, value) in self.fields.0.iter().filter(|(key, _)| key != "cursor") {
            query.append_pair(key, value);
        }
        query.append_pair("cursor", cursor);
        format!("{}?{}", self.path, query.finish())
    }

    /// What the address's cursor stands for; nothing where there is none or it is of another list.
    pub fn cursor<K: serde::de::DeserializeOwned>(&self) -> Option<K> {
        page::decode(self.fields.some("cursor").as_deref()).ok().flatten()
    }
}

impl FromRequestParts<App> for Asked {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Asked, Response> {
        let visitor = Visitor::from_request_parts(parts, app).await?;
        let query = parts.uri.query().unwrap_or("");
        let fields = Fields::of(query.as_bytes());
        Ok(Asked { visitor, fields, path: parts.uri.path().to_owned() })
    }
}
