//! What the server tells of itself beside its log and its metrics.

use serde::{Deserialize, Serialize};

/// Traces.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Where spans go, OTLP over HTTP: the collector's base URL (`http://127.0.0.1:4318`). Only in programs built with the feature `otel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}
