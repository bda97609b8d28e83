//! `POST /api/v1/introspect`, and the keys by which others check service tokens themselves.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::error::{Answer, Problem};
use crate::http::extract::{self, BODY_BYTES_MAX};
use crate::ops::service_tokens::{self, Introspection};

/// How long another server may keep the key set: much less than the next key stands in it before it signs.
const CACHE: &str = "public, max-age=300";

/// The token that is asked about.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    token: String,
    /// As RFC 7662 has it; there is one kind.
    #[serde(default)]
    #[expect(dead_code, reason = "clients of RFC 7662 may send it, and nothing hangs on it")]
    token_type_hint: Option<String>,
}

/// Whether a service token stands now (RFC 7662): a form or JSON. Inactive at once when its user or device ends.
#[utoipa::path(post, path = "/api/v1/introspect", tag = "server", request_body = Asked, responses(
    (status = 200, description = "`active`, and where it is what the token says", body = Introspection),
))]
pub async fn introspect(State(app): State<App>, _caller: Caller, request: Request) -> Answer<Json<Introspection>> {
    let is_form = is_form(request.headers());
    let bytes = if is_form { extract::body(request, BODY_BYTES_MAX).await? } else { extract::json_bytes(request).await? };
    let asked: Asked = if is_form { form(&bytes)? } else { extract::parse(&bytes)? };
    let found = service_tokens::introspect(&mut app.db.read().await?, &app.seal, app.clock.now_ms(), &asked.token).await?;
    metrics::counter!("muster_introspections_total", "active" => if found.active { "true" } else { "false" }).increment(1);
    Ok(Json(found))
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn form(bytes: &[u8]) -> Answer<Asked> {
    serde_urlencoded::from_bytes(bytes).map_err(|error| Problem::invalid(vec![extract::fault("", &error.to_string())]))
}

/// The keys by which service tokens are checked (RFC 7517), without a credential.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "server", responses(
    (status = 200, description = "the present key, the former and the next", body = crate::protocol::service_token::KeySet),
))]
pub async fn keys(State(app): State<App>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, CACHE)], Json(service_tokens::keys(&app.seal, app.clock.now_ms())))
}
