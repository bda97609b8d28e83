//! Policy documents, pure: checked, merged, their variables resolved, compiled for a channel.

pub mod android;
pub mod apple;
pub mod applications;
pub mod catalog;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn equal_documents_have_one_hash_however_they_are_written() {
        let one: Value = serde_json::from_str(r#"{"b": {"y": 1, "x": [true]}, "a": "\u0041"}"#).unwrap();
        let two: Value = serde_json::from_str(r#" {"a":"A","b":{"x":[true],"y":1}} "#).unwrap();
        assert_eq!(hash(&one), hash(&two));
        assert_ne!(hash(&one), hash(&json!({"a": "A"})));
    }

    #[test]
    fn a_version_is_of_the_document_and_of_the_values_it_references() {
        let document = json!({"t": "{{user.email}}"});
        let value = |text: &str| vec![("user.email".to_owned(), text.to_owned())];
        let versions = [
            version(&json!({}), &[]),
            version(&document, &[]),
            version(&document, &value("one@example.org")),
            version(&document, &value("two@example.org")),
        ];
        assert_eq!(versions.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert!(versions.iter().all(|version| version.len() == 16));
        assert_eq!(version(&document, &value("one@example.org")), versions[2]);
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|b| json!(b)),
            any::<i64>().prop_map(|n| json!(n)),
            "[a-z{}]{0,9}".prop_map(|s| json!(s))
        ];
        leaf.prop_recursive(20, 60, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
                proptest::collection::hash_map("[a-zA-Z]{1,12}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_stored_and_read_again_is_equal(document in documents()) {
            let again: Value = serde_json::from_str(&document.to_string()).unwrap();
            prop_assert_eq!((hash(&again), version(&again, &[])), (hash(&document), version(&document, &[])));
        }

        #[test]
        fn whatever_is_checked_is_answered_and_what_passes_can_be_merged(document in documents(), name in proptest::sample::select(catalog::SETTINGS)) {
            let document = json!({(name.name): document});
            let faults = document::check(&document, "/document");
            prop_assert!(faults.iter().all(|fault| fault.pointer.starts_with("/document")));
            if faults.is_empty() {
                prop_assert_eq!(document::check(&merge::merge([&document]), ""), []);
            }
        }
    }
}
