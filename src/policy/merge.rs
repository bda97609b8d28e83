//! Several documents into one: the strongest that says something of a setting wins it whole; apps are won one by one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::apple::LISTS;
use super::applications::{AppId, app_id};

/// What a document says of one thing, and which document it was.
type Won<'a> = (usize, &'a Value);

/// What was won by whom: settings by name, apps by their id, declarations by list and Identifier.
#[derive(Default)]
struct Winners<'a> {
    settings: BTreeMap<&'a str, Won<'a>>,
    apps: BTreeMap<AppId, Won<'a>>,
    /// What stands under `apple` beside the declarations, by name.
    apple: BTreeMap<&'a str, Won<'a>>,
    declarations: BTreeMap<(&'a str, &'a str), Won<'a>>,
    /// The strongest document that has a list of apps, be it empty.
    list: Option<usize>,
}

impl<'a> Winners<'a> {
    fn of(documents: impl IntoIterator<Item = &'a Value>) -> Winners<'a> {
        let mut winners = Winners::default();
        for (at, document) in documents.into_iter().enumerate() {
            for (name, value) in document.as_object().into_iter().flatten() {
                match name.as_str() {
                    "applications" => winners.applications(at, value),
                    "apple" => winners.apple(at, value),
                    _ => drop(winners.settings.entry(name).or_insert((at, value))),
                }
            }
        }
        winners
    }

    fn applications(&mut self, at: usize, value: &'a Value) {
        self.list.get_or_insert(at);
        for app in value.as_array().into_iter().flatten() {
            if let Some(id) = app_id(app) {
                self.apps.entry(id).or_insert((at, app));
            }
        }
    }

    fn apple(&mut self, at: usize, value: &'a Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            if !LISTS.contains(&name.as_str()) {
                self.apple.entry(name).or_insert((at, value));
                continue;
            }
            for one in value.as_array().into_iter().flatten() {
                if let Some(identifier) = one["Identifier"].as_str() {
                    self.declarations.entry((name, identifier)).or_insert((at, one));
                }
            }
        }
    }

    /// Who won a setting that comes whole from one document.
    fn one(&self, setting: &str) -> Option<Won<'a>> {
        match setting.split_once('/') {
            Some(("applications", id)) => {
                [AppId::Package(id.to_owned()), AppId::Bundle(id.to_owned())].iter().find_map(|id| self.apps.get(id)).copied()
            }
            Some(("apple", name)) => self.apple.get(name).copied(),
            Some((list, identifier)) if LISTS.contains(&list) => self.declarations.get(&(list, identifier)).copied(),
            _ => self.settings.get(setting).copied(),
        }
    }

    /// The list of apps and who gives which; `None` where no document has a list.
    fn all_apps(&self) -> Option<(Value, BTreeMap<usize, Vec<String>>)> {
        let list = self.list?;
        let mut given: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (AppId::Package(id) | AppId::Bundle(id), (at, _)) in &self.apps {
            given.entry(*at).or_default().push(format!("applications/{id}"));
        }
        if given.is_empty() {
            given.insert(list, Vec::new());
        }
        Some((self.merged_apps(), given))
    }

    fn merged_apps(&self) -> Value {
        self.apps.values().map(|(_, app)| (*app).clone()).collect()
    }

    /// Who gives what of that which stands under `apple`; of one list of declarations where it is named.
    fn all_of_apple(&self, list: &str) -> BTreeMap<usize, Vec<String>> {
        let whole = self.apple.iter().filter(|_| list.is_empty()).map(|(name, (at, _))| (*at, format!("apple/{name}")));
        let listed = self.declarations.iter().filter(|((of, _), _)| list.is_empty() || *of == list);
        let mut given: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (at, name) in whole.chain(listed.map(|((of, identifier), (at, _))| (*at, format!("{of}/{identifier}")))) {
            given.entry(at).or_default().push(name);
        }
        given
    }

    /// What stands under `apple`; `None` where nothing does.
    fn merged_apple(&self) -> Option<Value> {
        let mut merged: Map<String, Value> = self.apple.iter().map(|(name, (_, value))| ((*name).to_owned(), (*value).clone())).collect();
        for ((list, _), (_, one)) in &self.declarations {
            if let Value::Array(listed) = merged.entry(*list).or_insert_with(|| Value::Array(Vec::new())) {
                listed.push((*one).clone());
            }
        }
        (!merged.is_empty()).then_some(Value::Object(merged))
    }
}

/// Merges documents, strongest first. Each top-level setting comes whole from the first that has it; `applications` has an entry for
/// each app that any of them names, whole from the first that names it, with its managed configuration, sorted by its id; `apple` has each
/// declaration that any of them names, likewise.
pub fn merge<'a>(documents: impl IntoIterator<Item = &'a Value>) -> Value {
    let winners = Winners::of(documents);
    let mut merged: Map<String, Value> = winners.settings.iter().map(|(name, (_, value))| ((*name).to_owned(), (*value).clone())).collect();
    if winners.list.is_some() {
        merged.insert("applications".into(), winners.merged_apps());
    }
    if let Some(apple) = winners.merged_apple() {
        merged.insert("apple".into(), apple);
    }
    Value::Object(merged)
}

/// What several documents make of a setting, and who said it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub value: Value,
    /// The place of each document that gives something, strongest first. Of a setting that is merged one by one, with the names of what it
    /// gives, as they are asked for; of any other setting the one that won it, without names.
    pub given: BTreeMap<usize, Vec<String>>,
}

/// What documents, strongest first, make of a setting; `None` where none says anything of it. A setting is named as in a document, and what
/// stands under `apple` as `apple/payloads`; an app by `applications/` and its package or bundle id, a declaration by `declarations/` or
/// `userDeclarations/` and its Identifier.
pub fn outcome<'a>(documents: impl IntoIterator<Item = &'a Value>, setting: &str) -> Option<Outcome> {
    let winners = Winners::of(documents);
    let (value, given) = match setting.split_once('/') {
        None if setting == "applications" => winners.all_apps()?,
        None if setting == "apple" => (winners.merged_apple()?, winners.all_of_apple("")),
        Some(("apple", list)) if LISTS.contains(&list) => (winners.merged_apple()?.get(list)?.clone(), winners.all_of_apple(list)),
        _ => {
            let (at, value) = winners.one(setting)?;
            (value.clone(), BTreeMap::from([(at, Vec::new())]))
        }
    };
    Some(Outcome { value, given })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn winner(documents: &[Value], setting: &str) -> Option<(usize, Value)> {
        let outcome = outcome(documents, setting)?;
        assert!(outcome.given.values().all(Vec::is_empty), "{setting} is won by one");
        Some((*outcome.given.first_key_value()?.0, outcome.value))
    }

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

    #[test]
    fn declarations_are_won_one_by_one_in_each_list() {
        let one =
            |identifier: &str, n: i64| json!({"Type": "com.apple.management.properties", "Identifier": identifier, "Payload": {"n": n}});
        let documents = [
            json!({"apple": {"declarations": [one("b", 1)], "payloads": [{}]}}),
            json!({"apple": {"declarations": [one("b", 2), one("a", 2)], "userDeclarations": [one("b", 2)], "payloads": []}}),
        ];
        let merged = json!({"declarations": [one("a", 2), one("b", 1)], "userDeclarations": [one("b", 2)], "payloads": [{}]});
        assert_eq!(merge(&documents), json!({"apple": merged}));
        assert_eq!(winner(&documents, "declarations/b"), Some((0, one("b", 1))));
        assert_eq!(winner(&documents, "userDeclarations/b"), Some((1, one("b", 2))));
        assert_eq!(winner(&documents, "declarations/c"), None);
    }

    #[test]
    fn an_id_names_one_app_on_each_platform() {
        let documents = [
            json!({"applications": [{"bundleId": "org.example.a", "installType": "AVAILABLE"}]}),
            json!({"applications": [{"packageName": "org.example.a", "installType": "BLOCKED"}, {"bundleId": "org.example.a"}]}),
        ];
        let apps =
            json!([{"packageName": "org.example.a", "installType": "BLOCKED"}, {"bundleId": "org.example.a", "installType": "AVAILABLE"}]);
        assert_eq!(merge(&documents), json!({"applications": apps}));
    }

    #[test]
    fn whoever_asks_learns_which_document_won() {
        let documents =
            [json!({"cameraAccess": "A"}), json!({"cameraAccess": "B", "printingPolicy": "P", "applications": [{"packageName": "a"}]})];
        assert_eq!(winner(&documents, "cameraAccess"), Some((0, json!("A"))));
        assert_eq!(winner(&documents, "printingPolicy"), Some((1, json!("P"))));
        assert_eq!(winner(&documents, "applications/a"), Some((1, json!({"packageName": "a"}))));
        assert_eq!(winner(&documents, "applications/b"), None);
        assert_eq!(winner(&documents, "usbFileTransferDisabled"), None);
    }

    #[test]
    fn of_what_is_merged_one_by_one_each_document_is_told_with_what_it_gives() {
        let app = |id: &str, n: i64| json!({"packageName": id, "installPriority": n});
        let declared = |identifier: &str, n: i64| json!({"Identifier": identifier, "Payload": {"n": n}});
        let documents = [
            json!({"applications": [], "apple": {"declarations": [declared("d", 0)]}}),
            json!({"applications": [app("b", 1)], "apple": {"payloads": [{}], "userDeclarations": [declared("u", 1)]}}),
            json!({"applications": [app("b", 2), app("a", 2)], "apple": {"declarations": [declared("d", 2), declared("c", 2)], "payloads": []}}),
        ];
        let merged = merge(&documents);
        let given = |setting: &str, value: &Value, names: &[(usize, &[&str])]| {
            let outcome = outcome(&documents, setting).unwrap();
            let names = names.iter().map(|(at, names)| (*at, names.iter().map(|name| (*name).to_owned()).collect()));
            assert_eq!(outcome, Outcome { value: value.clone(), given: names.collect() }, "{setting}");
        };
        given("applications", &merged["applications"], &[(1, &["applications/b"]), (2, &["applications/a"])]);
        let all: &[(usize, &[&str])] =
            &[(0, &["declarations/d"]), (1, &["apple/payloads", "userDeclarations/u"]), (2, &["declarations/c"])];
        given("apple", &merged["apple"], all);
        given("apple/declarations", &merged["apple"]["declarations"], &[(0, &["declarations/d"]), (2, &["declarations/c"])]);
        given("apple/payloads", &json!([{}]), &[(1, &[])]);
        assert_eq!(outcome(&documents[..1], "applications"), Some(Outcome { value: json!([]), given: BTreeMap::from([(0, Vec::new())]) }));
        for setting in ["applications", "apple", "apple/declarations", "apple/payloads"] {
            assert_eq!(outcome([&json!({"cameraAccess": "A"})], setting), None, "{setting}");
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let app = ("[ab]", any::<bool>(), 0..3_i64).prop_map(|(id, apple, mark)| match apple {
            true => json!({"bundleId": id, "installPriority": mark}),
            false => json!({"packageName": id, "installPriority": mark}),
        });
        let apps = proptest::option::of(proptest::collection::vec(app, 0..4));
        (proptest::collection::btree_map("[abc]", 0..3_i64, 0..3), apps).prop_map(|(settings, apps)| {
            let mut document = json!(settings);
            if let Some(apps) = apps {
                document["applications"] = json!(apps);
            }
            document
        })
    }

    proptest! {
        #[test]
        fn merging_is_associative(a in documents(), b in documents(), c in documents()) {
            let all = merge([&a, &b, &c]);
            prop_assert_eq!(&merge([&merge([&a, &b]), &c]), &all);
            prop_assert_eq!(&merge([&a, &merge([&b, &c])]), &all);
        }

        #[test]
        fn every_value_is_that_of_its_winner(all in proptest::collection::vec(documents(), 0..4)) {
            let merged = merge(&all);
            for (name, value) in merged.as_object().unwrap().iter().filter(|(name, _)| *name != "applications") {
                let (at, won) = winner(&all, name).unwrap();
                prop_assert_eq!((&won, all[..at].iter().any(|stronger| stronger.get(name).is_some())), (value, false));
            }
            prop_assert_eq!(merge([&merged]), merged.clone());
            prop_assert_eq!(merge([&merged, &merged]), merged);
        }
    }
}
