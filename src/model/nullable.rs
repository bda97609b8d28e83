//! Members of a change that tell "absent" from "null".

use serde::{Deserialize, Deserializer};

/// For `#[serde(default, deserialize_with = "nullable::given")]` on an `Option<Option<T>>`: absent is `None` and leaves things as they
/// are, null is `Some(None)` and clears them.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
