//! Settings of the webhooks.

use serde::{Deserialize, Serialize};

/// Which endpoints that are not public may be told of the feed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Host names, addresses or CIDRs; plain http is spoken to those on loopback alone.
    pub allow: Vec<String>,
    /// PEM file with further roots that endpoints' certificates may come from, beside the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<std::path::PathBuf>,
}
