//! What an Android agent is sent of a merged document.

use serde_json::Value;

/// The neutral document without what is another platform's: the agent maps neutral names itself.
pub fn compile(document: &Value) -> Value {
    let mut compiled = document.clone();
    if let Some(map) = compiled.as_object_mut() {
        map.remove("apple");
    }
    compiled
}
