//! Policy documents, pure: checked, merged, their variables resolved, compiled for a channel.

pub mod android;
pub mod document;
pub mod merge;
pub mod settings;
pub mod variables;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 in hex over the canonical text of a document: keys are sorted, so equal documents have equal hashes.
pub fn hash(document: &Value) -> String {
    Sha256::digest(document.to_string().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The version that an agent is told: 16 hex digits over the document and the values that it references.
pub fn version(document: &Value, values: &[(String, String)]) -> String {
    let mut digest = Sha256::new();
    digest.update(document.to_string().as_bytes());
    for (name, value) in values {
        digest.update([0]);
        digest.update(name.as_bytes());
        digest.update([0]);
        digest.update(value.as_bytes());
    }
    digest.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
