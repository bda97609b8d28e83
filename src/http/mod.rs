//! HTTP: this file is the table of every URL; `error` chooses every status.

pub mod agent;
pub mod api;
pub mod auth;
pub mod console;
pub mod credentials;
pub mod error;
pub mod extract;
pub mod health;
pub mod mdm;
pub mod openapi;
pub mod page;
pub mod precondition;
pub mod serve;
pub mod tls;
pub mod trace;

use axum::routing::{delete, get, post, put};
use axum::{Extension, Router, middleware};

use crate::app::App;
use crate::config::Part;

/// Every URL that a listener with these parts serves; health is served by all.
pub fn router(app: App, parts: &[Part]) -> Router {
    let mut programs =
        Router::new().route("/healthz", get(health::alive)).route("/readyz", get(health::ready)).route("/metrics", get(health::metrics));
    if parts.contains(&Part::Agent) {
        programs = programs.nest("/agent/v1", agent());
    }
    if parts.contains(&Part::Agent) || parts.contains(&Part::Api) {
        programs = programs.route("/.well-known/jwks.json", get(api::introspect::keys));
    }
    if parts.contains(&Part::Api) {
        let api = api().layer(middleware::from_fn_with_state(app.clone(), precondition::untagged));
        programs = programs.nest("/api/v1", api).route("/api/openapi.json", get(openapi::json)).route("/api/docs", get(openapi::page));
    }
    let mut router = programs.layer(middleware::from_fn(error::as_problem));
    if parts.contains(&Part::Mdm) {
        router = router.nest("/mdm", mdm());
    }
    if parts.contains(&Part::Mdm) || parts.contains(&Part::Agent) {
        router = router.merge(enroll(&app));
    }
    router = router.merge(if parts.contains(&Part::Console) { console(&app) } else { bare(&app) });
    router.layer(middleware::from_fn(error::no_nul)).layer(middleware::from_fn_with_state(app.clone(), trace::request_id)).with_state(app)
}

/// The agent protocol.
fn agent() -> Router<App> {
    Router::new()
        .route("/activate", post(agent::activate::activate))
        .route("/sync", post(agent::sync::sync))
        .route("/events", post(agent::events::events))
        .route("/service-token", post(agent::service_token::issue))
}

/// Apple's MDM protocol.
fn mdm() -> Router<App> {
    Router::new()
        .route("/checkin", put(mdm::message).post(mdm::message))
        .route("/connect", put(mdm::message).post(mdm::message))
        .route("/assets/{hash}", get(mdm::assets::asset))
        .route("/scep", get(mdm::scep::operation).post(mdm::scep::operation))
        .layer(Extension(std::sync::Arc::new(mdm::scep::Gate::default())))
        .layer(middleware::from_fn(mdm::guard::guard))
}

/// What a person sees who got an enrollment link.
fn enroll(app: &App) -> Router<App> {
    Router::new()
        .route("/enroll/{token}", get(mdm::enroll::show))
        .route("/enroll/{token}/profile.mobileconfig", get(mdm::enroll::profile))
        .layer(middleware::from_fn_with_state(app.clone(), console::layout::headers))
}

/// What a listener serves that has no console: pages look alike everywhere, and what is nowhere is told alike.
fn bare(app: &App) -> Router<App> {
    Router::new()
        .route("/assets/{name}", get(console::assets::asset))
        .fallback(console::layout::missing)
        .layer(middleware::from_fn_with_state(app.clone(), console::layout::headers))
}

/// The operator API.
pub(crate) fn api() -> Router<App> {
    Router::new()
        // Users and admission
        .route("/users", get(api::users::list).post(api::users::create))
        .route("/users/{id}", get(api::users::get).patch(api::users::patch).delete(api::users::delete))
        .route("/users/{id}/offboarding", get(api::users::get_offboarding))
        .route("/users/{id}/activation", get(api::mail::activation).post(api::mail::activate))
        .route("/enrollment-tokens", get(api::enrollment_tokens::list).post(api::enrollment_tokens::create))
        .route("/enrollment-tokens/{id}", get(api::enrollment_tokens::get))
        .route("/enrollment-tokens/{id}/revoke", post(api::enrollment_tokens::revoke))
        // Devices
        .route("/devices", get(api::devices::list).post(api::devices::create))
        .route("/devices/{id}", get(api::devices::get).patch(api::devices::patch).delete(api::devices::delete))
        .route("/devices/{id}/sync", post(api::devices::sync))
        .route("/devices/{id}/merge", post(api::devices::merge))
        .route("/devices/{id}/unauthorize", post(api::devices::unauthorize))
        .route("/devices/{id}/authorize", post(api::devices::authorize))
        .route("/devices/{id}/retire", post(api::devices::retire))
        .route("/devices/{id}/tasks", get(api::devices::tasks))
        .route("/devices/{id}/contacts", get(api::devices::contacts))
        .route("/devices/{id}/document", get(api::devices::document))
        .route("/devices/{id}/declarations", get(api::devices::declarations))
        .route("/devices/{id}/explain", get(api::devices::explain))
        // Jobs and tasks
        .route("/jobs", get(api::jobs::list).post(api::jobs::create))
        .route("/jobs/{id}", get(api::jobs::get))
        .route("/jobs/{id}/tasks", get(api::jobs::tasks))
        .route("/jobs/{id}/cancel", post(api::jobs::cancel))
        .route("/jobs/{id}/retry", post(api::jobs::retry))
        .route("/jobs/{id}/approve", post(api::jobs::approve))
        .route("/jobs/{id}/reject", post(api::jobs::reject))
        .route("/tasks", get(api::tasks::list))
        .route("/tasks/{id}", get(api::tasks::get))
        .route("/tasks/{id}/cancel", post(api::tasks::cancel))
        .route("/tasks/{id}/retry", post(api::tasks::retry))
        // Labels and policies
        .route("/labels", get(api::labels::list))
        .route("/labels/{name}", get(api::labels::get).put(api::labels::put).delete(api::labels::delete))
        .route(
            "/labels/{name}/devices",
            get(api::labels::devices).put(api::labels::replace).post(api::labels::add).delete(api::labels::remove),
        )
        .route("/policies", get(api::policies::list))
        .route("/policies/{name}", get(api::policies::get).put(api::policies::put).delete(api::policies::delete))
        .route("/policies/{name}/versions/{n}", get(api::policies::version))
        .route("/policies/{name}/assignments", get(api::policies::assignments).put(api::policies::assign))
        .route("/policies/{name}/convergence", get(api::policies::convergence))
        // The server
        .route("/push", get(api::push::get))
        .route("/push/fcm", put(api::push::put_fcm).delete(api::push::delete_fcm))
        .route("/push/apns-app", put(api::push::put_apns_app).delete(api::push::delete_apns_app))
        .route("/push/apns-mdm", put(api::push::put_apns_mdm).delete(api::push::delete_apns_mdm))
        .route("/push/{name}/canary", post(api::push::post_canary))
        .route("/overview", get(api::push::overview))
        .route("/introspect", post(api::introspect::introspect))
        .route("/operators", get(api::operators::list).post(api::operators::create).delete(api::operators::delete_named))
        .route("/operators/{id}", delete(api::operators::delete))
        .route("/keys", get(api::operators::keys).post(api::operators::create_key).delete(api::operators::delete_named_key))
        .route("/keys/{id}", delete(api::operators::delete_key))
        // Events, findings, alarms, the feed
        .route("/events", get(api::events::list))
        .route("/devices/{id}/events", get(api::events::of_device))
        .route("/findings", get(api::findings::list))
        .route("/alarms", get(api::alarms::list))
        .route("/alarms/{id}/acknowledge", post(api::alarms::acknowledge))
        .route("/mail", get(api::mail::list))
        .route("/mail/{id}", get(api::mail::get))
        .route("/mail/{id}/resend", post(api::mail::resend))
        .route("/feed", get(api::feed::list))
        .route("/feed/stream", get(api::feed::stream::stream))
        .route("/audit", get(api::feed::audit))
        .route("/webhooks", get(api::webhooks::list).post(api::webhooks::create).delete(api::webhooks::delete_named))
        .route("/webhooks/{id}", get(api::webhooks::get).delete(api::webhooks::delete))
        .route("/webhooks/{id}/deliveries", get(api::webhooks::deliveries))
        .route("/webhooks/{id}/redeliver", post(api::webhooks::redeliver))
        .route("/webhooks/{id}/rotate", post(api::webhooks::rotate))
        .route("/webhooks/{id}/enable", post(api::webhooks::enable))
}

/// The console's pages.
fn console(app: &App) -> Router<App> {
    Router::new()
        .route("/assets/{name}", get(console::assets::asset))
        .route("/live", get(console::live::stream))
        .route("/sign-in", get(console::sign_in::form).post(console::sign_in::password))
        .route("/sign-in/{secret}", get(console::sign_in::link).head(console::sign_in::look))
        .route("/sign-out", post(console::sign_in::sign_out))
        .route("/", get(console::overview::show))
        .route("/alarms/{id}/acknowledge", post(console::overview::acknowledge))
        .route("/devices", get(console::devices::list))
        .route("/devices/{id}", get(console::device::show))
        .route("/devices/{id}/sync", post(console::device::sync))
        .route("/devices/{id}/authorize", post(console::device::authorize))
        .route("/devices/{id}/unauthorize", get(console::device::ask_unauthorize).post(console::device::unauthorize))
        .route("/devices/{id}/merge", post(console::device::merge))
        .route("/devices/{id}/retire", get(console::device::ask_retire).post(console::device::retire))
        .route("/labels", get(console::labels::list).post(console::labels::put))
        .route("/labels/{name}", get(console::labels::show))
        .route("/labels/{name}/devices", post(console::labels::members))
        .route("/labels/{name}/delete", get(console::labels::ask_delete).post(console::labels::delete))
        .route("/users", get(console::users::list).post(console::users::create))
        .route("/users/{id}/activation", post(console::users::activate))
        .route("/users/{id}/enable", post(console::users::enable))
        .route("/users/{id}/disable", get(console::users::ask_disable).post(console::users::disable))
        .route("/users/{id}/delete", get(console::users::ask_delete).post(console::users::delete))
        .route("/enrollment", get(console::enrollment::list).post(console::enrollment::create))
        .route("/enrollment/{id}", get(console::enrollment::show))
        .route("/enrollment/{id}/revoke", get(console::enrollment::ask_revoke).post(console::enrollment::revoke))
        .route("/events", get(console::events::list))
        .route("/audit", get(console::audit::list))
        .route("/settings", get(console::settings::show))
        .route("/settings/password", post(console::settings::password))
        .route("/settings/fcm", post(console::settings::fcm))
        .route("/settings/canary", post(console::settings::try_out))
        .route("/settings/operators", get(console::settings::home).post(console::settings::add_operator))
        .route("/settings/operators/{id}/disable", get(console::settings::ask_disable).post(console::settings::disable))
        .route("/settings/keys", get(console::settings::home).post(console::settings::add_key))
        .route("/settings/keys/{id}/revoke", get(console::settings::ask_revoke).post(console::settings::revoke))
        .route("/settings/mail", get(console::mail::list))
        .route("/settings/mail/{id}/resend", post(console::mail::resend))
        .route("/settings/webhooks", get(console::webhooks::list).post(console::webhooks::create))
        .route("/settings/webhooks/{id}", get(console::webhooks::show))
        .route("/settings/webhooks/{id}/rotate", get(console::webhooks::home).post(console::webhooks::rotate))
        .route("/settings/webhooks/{id}/enable", post(console::webhooks::enable))
        .route("/settings/webhooks/{id}/redeliver", post(console::webhooks::redeliver))
        .route("/settings/webhooks/{id}/delete", get(console::webhooks::ask_delete).post(console::webhooks::delete))
        .route("/policies", get(console::policies::list).post(console::policies::create))
        .route("/policies/{name}", get(console::policy::show).post(console::policy::put))
        .route("/policies/{name}/assignments", post(console::policy::assign))
        .route("/policies/{name}/delete", get(console::policy::ask_delete).post(console::policy::delete))
        .route("/jobs", get(console::jobs::list))
        .route("/jobs/new", get(console::order::form).post(console::order::create))
        .route("/jobs/{id}", get(console::jobs::show))
        .route("/jobs/{id}/cancel", get(console::jobs::ask_cancel).post(console::jobs::cancel))
        .route("/jobs/{id}/retry", post(console::jobs::retry))
        .route("/jobs/{id}/approve", get(console::jobs::ask_approve).post(console::jobs::approve))
        .route("/jobs/{id}/reject", post(console::jobs::reject))
        .route("/tasks", get(console::tasks::list))
        .route("/tasks/{id}/cancel", post(console::tasks::cancel))
        .route("/tasks/{id}/retry", post(console::tasks::retry))
        .fallback(console::layout::missing)
        .method_not_allowed_fallback(console::layout::wrong_method)
        .layer(Extension(console::Console::default()))
        .layer(middleware::from_fn_with_state(app.clone(), console::layout::headers))
}
