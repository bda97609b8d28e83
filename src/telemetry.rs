//! Logs for people on a terminal and JSON otherwise; metrics for Prometheus.

#[cfg(feature = "otel")]
mod otel;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// A line of the log that a fleet would have written a thousand times a second: once in ten seconds is enough.
#[derive(Debug, Default)]
pub struct Seldom(AtomicU64);

impl Seldom {
    pub const fn new() -> Seldom {
        Seldom(AtomicU64::new(0))
    }

    /// True where it was not in the last ten seconds.
    pub fn is_time(&self) -> bool {
        static START: OnceLock<Instant> = OnceLock::new();
        // From 1 on: 0 is never.
        let now = START.get_or_init(Instant::now).elapsed().as_secs() + 1;
        let last = self.0.load(Ordering::Relaxed);
        let is_due = last == 0 || now - last.min(now) >= SELDOM_S;
        is_due && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

const SELDOM_S: u64 = 10;
/// What the log shows unless `MUSTER_LOG` says otherwise (the syntax of `RUST_LOG`).
const LOG_DEFAULT: &str = "info,sqlx=warn,hyper=warn,h2=warn,tokio_cron_scheduler=warn";

/// Starts the log on standard error; a second call changes nothing.
pub fn start_log() {
    let filter = EnvFilter::try_from_env("MUSTER_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() { lines.with_target(false).boxed() } else { lines.json().boxed() };
    // The layers take what the filter lets through; that of the traces is empty until `trace_to`.
    #[cfg(feature = "otel")]
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![otel::layer(), lines];
    #[cfg(not(feature = "otel"))]
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![lines];
    tracing_subscriber::registry().with(layers).with(filter).try_init().ok();
}

/// Sends spans to the OTLP collector at `endpoint` from now on. Must be called in the runtime that then carries them.
#[cfg(feature = "otel")]
pub fn trace_to(endpoint: &str) -> anyhow::Result<()> {
    check(endpoint)?;
    otel::export(endpoint)
}

/// Refuses: this program can send no spans.
#[cfg(not(feature = "otel"))]
pub fn trace_to(endpoint: &str) -> anyhow::Result<()> {
    check(endpoint)
}

/// Refuses an endpoint to which this program could send no spans.
pub fn check(endpoint: &str) -> anyhow::Result<()> {
    let shown = crate::config::hide_password(endpoint);
    anyhow::ensure!(cfg!(feature = "otel"), "[telemetry] otlp_endpoint is {shown}, but this program was built without the feature otel");
    let is_base = endpoint.parse::<http::Uri>().is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
    anyhow::ensure!(is_base, "[telemetry] otlp_endpoint is {shown}: take the collector's base URL, http://127.0.0.1:4318");
    Ok(())
}

/// Sends what spans are left, at the end of the process.
pub fn finish() {
    #[cfg(feature = "otel")]
    otel::finish();
}

/// Bounds of the histograms in seconds: from a commit to a day, because a nudge may be answered only when the phone is back.
const SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 10_800.0, 86_400.0];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Every family, so that each appears from the start, at zero.
const COUNTERS: &[(&str, &str)] = &[
    ("muster_http_requests_total", "Requests by path and status."),
    ("muster_contacts_total", "Contacts by channel kind, cause and outcome."),
    ("muster_contacts_shed_total", "Contacts answered 503 because the backlog was full, by class."),
    ("muster_events_total", "Events by outcome."),
    ("muster_results_total", "Task results by outcome."),
    ("muster_activations_total", "Activations by outcome."),
    ("muster_service_tokens_total", "Requests of agents for service tokens, by outcome."),
    ("muster_introspections_total", "Service tokens that other servers asked about, by whether they stood."),
    ("muster_scep_requests_total", "Requests for devices' identities by outcome."),
    ("muster_nudges_total", "Nudges by provider, lane, result and reason."),
    ("muster_nudges_coalesced_total", "Changes that had no nudge of their own because one called for several, by lane."),
    ("muster_nudges_saved_total", "Nudges not sent because the device had come before, by provider and lane."),
    ("muster_nudges_postponed_total", "Overdue calls spread by phase after a time in which none was sent, by provider and lane."),
    ("muster_nudged_no_contact_total", "Nudges to channels that had been nudged for the same work and had not come, by platform and lane."),
    ("muster_retries_total", "Nudges sent again after a failure, by provider and lane."),
    (
        "muster_retry_budget_exhausted",
        "Nudges put off because a tenth of the sends of a minute were retries already, by provider and lane.",
    ),
    ("muster_token_deaths_total", "Push addresses lost, by reason."),
    ("muster_database_full_total", "Requests answered 503 because the disk of the database was full."),
    ("muster_webhook_deliveries_total", "Attempts to deliver to webhooks, by outcome."),
    ("muster_mail_attempts_total", "Attempts to hand mail to the mail server, by outcome."),
    ("muster_oauth_mints_total", "Access tokens fetched from the OAuth endpoint."),
    ("muster_provider_tokens_total", "Provider tokens minted for APNs."),
    ("muster_refused_stream_total", "Pushes that APNs did not look at and that were sent again."),
    ("muster_goaway_total", "Connections to APNs that ended, by reason."),
    ("muster_connects_total", "Connections to a provider, opened or failed."),
    ("muster_reconnects", "Connections to APNs opened, or tried, in the place of one that ended or failed."),
];
const GAUGES: &[(&str, &str)] = &[
    ("muster_queue_depth", "Due wakes by provider and lane."),
    ("muster_queue_oldest_seconds", "Age of the oldest due wake by provider and lane."),
    ("muster_in_flight", "Nudges on the wire."),
    ("muster_concurrency_limit", "Requests that the sender may have in flight."),
    ("muster_connections", "Connections to APNs."),
    ("muster_stream_limit", "Streams that APNs allows on all connections together."),
    ("muster_credential_expiry_timestamp", "Unix seconds at which the push certificate ends."),
    ("muster_device_ca_expiry_timestamp", "Unix seconds at which the device CA ends."),
    ("muster_breaker_state", "0 closed, 1 half open, 2 open or a credential at fault."),
    ("muster_paused_until", "Unix seconds at which a sender that is paused or at fault tries again; 0 while it sends."),
    ("muster_provider_token_age_seconds", "Age of the provider token or access token in use."),
    ("muster_fcm_quota_used_ratio", "What the present second has used of FCM's quota as set."),
    ("muster_clock_skew", "Our clock against that of Google's token endpoint in seconds; above 0 ours is ahead."),
    ("muster_tokens", "Push addresses by state."),
    ("muster_armed_devices", "Channels that were nudged and have not come since."),
    ("muster_overdue_devices", "Of these, channels nudged three times or more in vain."),
    ("muster_stale_devices", "Channels whose document is behind the policies in force."),
    ("muster_devices", "Devices by state."),
    ("muster_servers", "Servers that share the database."),
    ("muster_headroom_ratio", "How much of its pace each sender may use, by the room that the server has for contacts: 1 is all of it."),
    ("muster_intake_backlog", "Contacts waiting for a commit."),
    ("muster_feed_unsequenced", "Feed entries that have no number yet."),
    ("muster_alarms_open", "Open alarms."),
    ("muster_webhook_pending", "Deliveries that wait for their webhook."),
    ("muster_mail_queued", "Mail that waits for the mail server."),
    ("muster_webhooks_failing", "Webhooks that fail or are disabled."),
];
const HISTOGRAMS: &[(&str, &str)] = &[
    ("muster_nudge_to_contact_seconds", "From a nudge to the device's serving contact, by platform and the nudge's lane."),
    ("muster_send_seconds", "From sending a nudge to its answer, by provider and lane."),
    ("muster_intake_batch_size", "Contacts committed together."),
    ("muster_writer_turn_seconds", "How long SQLite's one writer was held, by class."),
    ("muster_commit_seconds", "Time of one intake transaction."),
];

/// The Prometheus registry of this process.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".into()), SIZES))
            .unwrap_or_else(|_| PrometheusBuilder::new())
            .build_recorder();
        let handle = recorder.handle();
        // Somebody else's recorder can only be a test's; ours then stays empty.
        metrics::set_global_recorder(recorder).ok();
        for (name, help) in COUNTERS {
            metrics::describe_counter!(*name, *help);
            metrics::counter!(*name).increment(0);
        }
        for (name, help) in GAUGES {
            metrics::describe_gauge!(*name, *help);
            metrics::gauge!(*name).set(0.0);
        }
        for (name, help) in HISTOGRAMS {
            metrics::describe_histogram!(*name, *help);
            let _registered = metrics::histogram!(*name);
        }
        handle
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_and_the_alert_rules_ask_for_what_is_there() {
        let text = metrics().render();
        let families: std::collections::BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let board: serde_json::Value = serde_json::from_str(include_str!("../examples/grafana.json")).unwrap();
        assert!(board["panels"].as_array().unwrap().len() > 10);
        let mut asked = 0;
        for file in [include_str!("../examples/grafana.json"), include_str!("../examples/alerts.yml")] {
            for word in file.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).filter(|word| word.starts_with("muster_")) {
                assert!(families.contains(word.trim_end_matches("_bucket")), "{word} is no metric of ours");
                asked += 1;
            }
        }
        assert!(asked > 30, "{asked}");
    }
}
