//! Several documents into one: the strongest that says something of a setting wins it whole; apps are won one by one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::document::app_id;

/// Merges documents, strongest first. Each top-level setting comes whole from the first that has it; `applications` has an entry for
/// each app that any of them names, whole from the first that names it, sorted by its id.
pub fn merge<'a>(documents: impl IntoIterator<Item = &'a Value>) -> Value {
    let mut merged = Map::new();
    let mut apps: BTreeMap<String, Value> = BTreeMap::new();
    let mut has_apps = false;
    for document in documents {
        for (name, value) in document.as_object().into_iter().flatten() {
            if name == "applications" {
                has_apps = true;
                for app in value.as_array().into_iter().flatten() {
                    let id = app_id(app).unwrap_or("").to_owned();
                    apps.entry(id).or_insert_with(|| app.clone());
                }
            } else if !merged.contains_key(name) {
                merged.insert(name.clone(), value.clone());
            }
        }
    }
    if has_apps {
        merged.insert("applications".into(), Value::Array(apps.into_values().collect()));
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_strongest_wins_each_setting_and_each_app() {
        let strong = json!({"cameraAccess": "A", "applications": [{"packageName": "b", "installType": "BLOCKED"}]});
        let weak = json!({"cameraAccess": "B", "printingPolicy": "P", "applications": [{"packageName": "b"}, {"packageName": "a"}]});
        assert_eq!(
            merge([&strong, &weak]),
            json!({"cameraAccess": "A", "printingPolicy": "P", "applications": [{"packageName": "a"}, {"packageName": "b", "installType": "BLOCKED"}]})
        );
        assert_eq!(merge([]), json!({}));
    }

    fn documents() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[ab]", 0..3_i64, 0..3).prop_map(|map| json!(map))
    }

    proptest! {
        #[test]
        fn merging_is_associative(a in documents(), b in documents(), c in documents()) {
            let all = merge([&a, &b, &c]);
            prop_assert_eq!(&merge([&merge([&a, &b]), &c]), &all);
            prop_assert_eq!(&merge([&a, &merge([&b, &c])]), &all);
        }
    }
}
