//! The description of the API, generated from the code: as JSON for programs and as a page for people.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::auth::Caller;
use super::error::Problem;
use super::serve::Peer;
use super::{agent, api, health};
use crate::app::App;

/// Every path of the agent protocol and the operator API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Muster",
        description = "A push-notification MDM policy server: the agent protocol and the operator API.\n\nBodies are JSON without \
            Content-Encoding (415 `encoding_unsupported`); where an object is meant a list does not do (422). Policies have an ETag, the version \
            in force, and PUT and DELETE of a policy and PUT of its assignments obey If-Match. Nothing else has an ETag: PUT, PATCH and DELETE \
            with an If-Match other than `*` answer 412 `precondition_failed` there."
    ),
    paths(
        health::alive,
        health::ready,
        health::metrics,
        agent::activate::activate,
        agent::sync::sync,
        agent::events::events,
        agent::service_token::issue,
        api::introspect::keys,
        api::introspect::introspect,
        api::users::list,
        api::users::create,
        api::users::get,
        api::users::patch,
        api::users::delete,
        api::users::get_offboarding,
        api::enrollment_tokens::list,
        api::enrollment_tokens::create,
        api::enrollment_tokens::get,
        api::enrollment_tokens::revoke,
        api::devices::list,
        api::devices::create,
        api::devices::get,
        api::devices::patch,
        api::devices::delete,
        api::devices::sync,
        api::devices::merge,
        api::devices::unauthorize,
        api::devices::authorize,
        api::devices::retire,
        api::devices::tasks,
        api::devices::contacts,
        api::devices::document,
        api::devices::declarations,
        api::devices::explain,
        api::events::of_device,
        api::jobs::list,
        api::jobs::create,
        api::jobs::get,
        api::jobs::tasks,
        api::jobs::cancel,
        api::jobs::retry,
        api::jobs::approve,
        api::jobs::reject,
        api::tasks::list,
        api::tasks::get,
        api::tasks::cancel,
        api::tasks::retry,
        api::labels::list,
        api::labels::get,
        api::labels::put,
        api::labels::delete,
        api::labels::devices,
        api::labels::replace,
        api::labels::add,
        api::labels::remove,
        api::policies::list,
        api::policies::get,
        api::policies::put,
        api::policies::delete,
        api::policies::version,
        api::policies::assignments,
        api::policies::assign,
        api::policies::convergence,
        api::push::get,
        api::push::put_fcm,
        api::push::put_apns_app,
        api::push::put_apns_mdm,
        api::push::delete_fcm,
        api::push::delete_apns_app,
        api::push::delete_apns_mdm,
        api::push::post_canary,
        api::push::overview,
        api::operators::list,
        api::operators::create,
        api::operators::delete,
        api::operators::delete_named,
        api::operators::keys,
        api::operators::create_key,
        api::operators::delete_key,
        api::operators::delete_named_key,
        api::events::list,
        api::findings::list,
        api::alarms::list,
        api::alarms::acknowledge,
        api::mail::activate,
        api::mail::activation,
        api::mail::list,
        api::mail::get,
        api::mail::resend,
        api::feed::list,
        api::feed::stream::stream,
        api::feed::audit,
        api::webhooks::list,
        api::webhooks::create,
        api::webhooks::delete_named,
        api::webhooks::get,
        api::webhooks::delete,
        api::webhooks::deliveries,
        api::webhooks::redeliver,
        api::webhooks::rotate,
        api::webhooks::enable,
    )
)]
struct Description;

/// The description as JSON.
fn document() -> Value {
    let mut description = Description::openapi();
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let mut document = serde_json::to_value(description).unwrap_or_default();
    name_operations(&mut document);
    document
}

/// Names each operation by method and path, `get_devices_id_tasks`: programs that are generated from the description make a function of
/// each, and the handlers' own names (`list`, `get`) are there many times.
fn name_operations(document: &mut Value) {
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        let path = path.strip_prefix("/api/v1").unwrap_or(path);
        let words: Vec<&str> = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                operation.insert("operationId".into(), format!("{method}_{}", words.join("_")).into());
            }
        }
    }
}

/// `GET /api/openapi.json`: OpenAPI 3.1, without a credential.
pub async fn json() -> Json<Value> {
    Json(document())
}

/// `GET /api/docs`: the same for people; needs a key or a session unless the connection is from this machine and no proxy forwarded it.
pub async fn page(
    State(_app): State<App>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    caller: Result<Caller, Problem>,
) -> Response {
    if !health::is_local(peer, &headers)
        && let Err(problem) = caller
    {
        return problem.into_response();
    }
    let mut response = axum::response::Html(render(&document())).into_response();
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"),
    );
    response
}

fn render(document: &Value) -> String {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Muster's API</title><link rel=\"stylesheet\" href=\"/assets/console.css\"></head><body><main><h1>Muster's API</h1>\
         <p>Send <code>Authorization: Bearer mk_...</code>. The same as OpenAPI 3.1: <a href=\"/api/openapi.json\">/api/openapi.json</a>.</p>",
    );
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            html += &format!(
                "<details><summary><b>{}</b> <code>{}</code> {}</summary><p>{}</p>",
                method.to_uppercase(),
                escaped(path),
                escaped(operation["summary"].as_str().unwrap_or("")),
                escaped(operation["description"].as_str().unwrap_or(""))
            );
            for (title, part) in
                [("Parameters", &operation["parameters"]), ("Request", &operation["requestBody"]), ("Answers", &operation["responses"])]
            {
                if !part.is_null() {
                    let text = serde_json::to_string_pretty(part).unwrap_or_default();
                    html += &format!("<h3>{title}</h3><pre>{}</pre>", escaped(&text));
                }
            }
            html += "</details>";
        }
    }
    html += "<h2>Shapes</h2>";
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let text = serde_json::to_string_pretty(schema).unwrap_or_default();
        html += &format!("<details id=\"{0}\"><summary><code>{0}</code></summary><pre>{1}</pre></details>", escaped(name), escaped(&text));
    }
    html + "</main></body></html>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every route of the table and every path of the description name each other.
    #[test]
    fn the_table_of_urls_and_the_description_agree() {
        let source = include_str!("mod.rs");
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let described: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        let mut routed = 0;
        for (section, prefix) in [("fn agent()", "/agent/v1"), ("fn api()", "/api/v1")] {
            let body = source.split(section).nth(1).unwrap().split("\n}\n").next().unwrap();
            for route in body.split(".route(").skip(1) {
                let path = route.split('"').nth(1).unwrap();
                let full = format!("{prefix}{path}");
                assert!(described.contains(&&full), "{full} is not described");
                for method in ["get", "post", "put", "patch", "delete"] {
                    let routes = route.contains(&format!("{method}(api::")) || route.contains(&format!("{method}(agent::"));
                    assert_eq!(document["paths"][&full].get(method).is_some(), routes, "{method} {full}");
                }
                routed += 1;
            }
        }
        assert_eq!(described.len(), routed + 4, "health, readiness, metrics and keys beside the two tables");
    }
}
