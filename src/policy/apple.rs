//! What a document says to Apple's own MDM clients: declarations for a device, and for its users.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::catalog::DECLARATION;
use super::settings::{self, fault};
use crate::model::Fault;

const KINDS: [&str; 4] = ["activation", "asset", "configuration", "management"];
/// Declarations of a list at most.
const DECLARATIONS_MAX: usize = 500;
/// Payloads of a profile at most.
const PAYLOADS_MAX: usize = 200;
/// How the identifiers of the server's own declarations begin.
const OWN: &str = "muster.";
/// Octets of an identifier at most (Apple's limit).
const IDENTIFIER_BYTES_MAX: usize = 64;

/// Whose declarations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Device,
    Users,
}

impl Whose {
    /// The name of the list.
    pub const fn list(self) -> &'static str {
        match self {
            Whose::Device => "declarations",
            Whose::Users => "userDeclarations",
        }
    }
}

/// The lists whose elements are won one by one, by their Identifier.
pub const LISTS: [&str; 2] = [Whose::Device.list(), Whose::Users.list()];

/// What a channel is given of a merged document: `{"declarations": [...]}`, and for a device `"payloads"` where there are any.
pub fn compile(document: &Value, whose: Whose) -> Value {
    let listed = |name: &str| document["apple"][name].as_array().cloned().unwrap_or_default();
    let mut compiled = json!({"declarations": listed(whose.list())});
    let payloads = if whose == Whose::Device { listed("payloads") } else { Vec::new() };
    if !payloads.is_empty() {
        compiled["payloads"] = payloads.into();
    }
    compiled
}

/// Checks the payloads of a profile.
pub fn check_payloads(value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(payloads) = value.as_array() else { return fault(faults, pointer, "must be a list") };
    if payloads.len() > PAYLOADS_MAX {
        return fault(faults, pointer, format!("at most {PAYLOADS_MAX} payloads"));
    }
    for (at, payload) in payloads.iter().enumerate() {
        match payload["PayloadType"].as_str() {
            Some("com.apple.mdm") => {
                fault(faults, &format!("{pointer}/{at}/PayloadType"), "a device has one management, which its enrollment brought")
            }
            Some(kind) if !kind.is_empty() => {}
            _ => fault(faults, &format!("{pointer}/{at}"), "a payload needs a PayloadType, such as \"com.apple.wifi.managed\""),
        }
    }
}

/// An asset's data stands in it, or somewhere else: never both, and never what is no base64.
fn check_reference(reference: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let given = ["Data", "Text", "DataURL"].into_iter().filter(|key| reference.get(key).is_some()).count();
    if given > 1 {
        fault(faults, pointer, "give one of Data, Text and DataURL");
    }
    if let Some(data) = reference.get("Data") {
        let is_base64 = data.as_str().is_some_and(|text| STANDARD.decode(text.trim()).is_ok());
        if !is_base64 {
            fault(faults, &format!("{pointer}/Data"), "must be base64");
        }
    }
    if reference.get("Text").is_some_and(|text| !text.is_string()) {
        fault(faults, &format!("{pointer}/Text"), "must be a text");
    }
}

/// An activation names what it puts in force; its predicate is evaluated by devices alone, but one that cannot be read is found here.
fn check_activation(payload: &Map<String, Value>, pointer: &str, faults: &mut Vec<Fault>) {
    let names = payload.get("StandardConfigurations").and_then(Value::as_array);
    if !names.is_some_and(|names| names.iter().all(Value::is_string)) {
        fault(faults, &format!("{pointer}/StandardConfigurations"), "an activation needs a list of configurations' Identifiers");
    }
    let Some(predicate) = payload.get("Predicate") else { return };
    let why = predicate.as_str().map_or(Some("must be a text"), unreadable);
    why.into_iter().for_each(|why| fault(faults, &format!("{pointer}/Predicate"), why));
}

/// Why no device could read a predicate: its parentheses and quotes do not match, or what it asks for has no name.
fn unreadable(predicate: &str) -> Option<&'static str> {
    let (mut quote, mut depth) = (None, 0_u32);
    let mut rest = predicate.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(rest.next()),
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => return Some("a parenthesis closes that was not opened"),
            (None, ')') => depth -= 1,
            (None, '@') if ["status()", "property()", "key()"].iter().any(|empty| rest.as_str().starts_with(empty)) => {
                return Some("@status, @property and @key need a name in their parentheses");
            }
            _ => {}
        }
    }
    match (quote, depth) {
        (Some(_), _) => Some("a quoted text has no end"),
        (None, 1..) => Some("a parenthesis is not closed"),
        _ => None,
    }
}

/// Declarations that keep their Identifier and change their Type: devices compare by Identifier and would keep the one as the other. Each is
/// told by its place in the document.
pub fn retyped(before: &Value, after: &Value, pointer: &str) -> Vec<Fault> {
    let of_list = |list| retyped_in(&before["apple"][list], &after["apple"][list], &format!("{pointer}/apple/{list}"));
    LISTS.into_iter().flat_map(of_list).collect()
}

fn retyped_in(before: &Value, after: &Value, pointer: &str) -> Vec<Fault> {
    let listed = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let before: BTreeMap<String, String> =
        listed(before).iter().filter_map(|one| Some((one["Identifier"].as_str()?.to_owned(), one["Type"].as_str()?.to_owned()))).collect();
    let is_other = |one: &Value| before.get(one["Identifier"].as_str().unwrap_or_default()).is_some_and(|was| one["Type"] != was.as_str());
    let mut faults = Vec::new();
    for (at, one) in listed(after).iter().enumerate().filter(|(_, one)| is_other(one)) {
        let was = one["Identifier"].as_str().map(|identifier| before[identifier].clone()).unwrap_or_default();
        fault(
            &mut faults,
            &format!("{pointer}/{at}/Type"),
            format!("this Identifier is a {was} in the version before; take another for another Type"),
        );
    }
    faults
}

/// Checks a list of declarations.
pub fn check(value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(declarations) = value.as_array() else { return fault(faults, pointer, "must be a list") };
    if declarations.len() > DECLARATIONS_MAX {
        return fault(faults, pointer, format!("at most {DECLARATIONS_MAX} declarations"));
    }
    let mut seen = BTreeSet::new();
    for (at, one) in declarations.iter().enumerate() {
        let at = format!("{pointer}/{at}");
        settings::check_object(DECLARATION, one, &at, faults);
        let kind = one["Type"].as_str().and_then(|name| name.strip_prefix("com.apple.")?.split_once('.')).map(|(kind, _)| kind);
        if !kind.is_some_and(|kind| KINDS.contains(&kind)) {
            let wanted = "name the type of a declaration, such as \"com.apple.configuration.passcode.settings\"";
            fault(faults, &format!("{at}/Type"), wanted);
        }
        match one["Identifier"].as_str() {
            Some(identifier) if !(1..=IDENTIFIER_BYTES_MAX).contains(&identifier.len()) => {
                fault(faults, &format!("{at}/Identifier"), format!("must have 1 to {IDENTIFIER_BYTES_MAX} bytes"));
            }
            Some(identifier) if !seen.insert(identifier) => fault(faults, &at, "this list has a declaration of that Identifier already"),
            Some(_) => {}
            None => fault(faults, &at, "a declaration needs an Identifier"),
        }
        if kind == Some("asset")
            && let Some(reference) = one.get("Payload").and_then(|payload| payload.get("Reference"))
        {
            check_reference(reference, &format!("{at}/Payload/Reference"), faults);
        }
        if kind == Some("activation")
            && let Some(payload) = one.get("Payload").and_then(Value::as_object)
        {
            check_activation(payload, &format!("{at}/Payload"), faults);
        }
        if one["Identifier"].as_str().is_some_and(|identifier| identifier.starts_with(OWN)) {
            fault(faults, &format!("{at}/Identifier"), format!("{OWN} is how the server's own begin"));
        }
        if one.get("Payload").is_none() {
            fault(faults, &at, "a declaration needs a Payload");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(value: Value) -> Vec<String> {
        let mut faults = Vec::new();
        check(&value, "", &mut faults);
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn a_declaration_has_a_type_an_identifier_of_its_own_and_a_payload() {
        let right = json!({"Type": "com.apple.configuration.passcode.settings", "Identifier": "a", "Payload": {}});
        assert_eq!(pointers(json!([right])), [""; 0]);
        assert_eq!(pointers(json!([right, right])), ["/1"]);
        let wrong = json!({"Type": "com.apple.profile", "Identifier": "x".repeat(65), "Payload": [], "ServerToken": "t"});
        let mut found = pointers(json!([wrong]));
        found.sort();
        assert_eq!(found, ["/0/Identifier", "/0/Payload", "/0/ServerToken", "/0/Type"]);
        assert_eq!(pointers(json!([{"Type": "com.apple.asset.data"}])), ["/0", "/0"]);
        assert_eq!((pointers(json!({})), pointers(json!(vec![right; 501]))), (vec![String::new()], vec![String::new()]));
    }

    #[test]
    fn an_assets_data_stands_in_one_place_and_a_payload_has_a_type() {
        let asset = |identifier: &str, reference: Value| json!([{"Type": "com.apple.asset.data", "Identifier": identifier, "Payload": {"Reference": reference}}]);
        assert_eq!(pointers(asset("a", json!({"Data": "AQI="}))), [""; 0]);
        assert_eq!(pointers(asset("a", json!({"Data": "%"}))), ["/0/Payload/Reference/Data"]);
        assert_eq!(pointers(asset("a", json!({"Data": "AQI=", "DataURL": "https://example.org"}))), ["/0/Payload/Reference"]);
        assert_eq!(pointers(asset("muster.a", json!({"Text": "x"}))), ["/0/Identifier"]);
        let mut faults = Vec::new();
        check_payloads(&json!([{"PayloadType": "com.apple.wifi.managed"}, {}, {"PayloadType": "com.apple.mdm"}, 5]), "", &mut faults);
        assert_eq!(faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>(), ["/1", "/2/PayloadType", "/3"]);
    }

    #[test]
    fn an_activation_names_configurations_and_its_predicate_can_be_read() {
        let activation = |payload: Value| pointers(json!([{"Type": "com.apple.activation.simple", "Identifier": "a", "Payload": payload}]));
        let with = |predicate: &str| activation(json!({"StandardConfigurations": ["b"], "Predicate": predicate}));
        for right in [
            "(@status(device.operating-system.family) == 'iOS') AND (@status(passcode.is-present) == TRUE)",
            "@property(ring) <= 25",
            "SUBQUERY(@status(mdm.app), $a, ($a.@key(identifier) == 'org.example.app') AND ($a.@key(state) == \"managed\")).@count > 0",
            "@property(x) == ':-) it\\'s'",
            "",
        ] {
            assert_eq!(with(right), [""; 0], "{right}");
        }
        for wrong in ["(@property(ring) <= 25", "TRUE)", ") TRUE (", "@property(x) == 'y", "@status() == 1", "'a' == \"b'"] {
            assert_eq!(with(wrong), ["/0/Payload/Predicate"], "{wrong}");
        }
        assert_eq!(activation(json!({"Predicate": 5})), ["/0/Payload/StandardConfigurations", "/0/Payload/Predicate"]);
        assert_eq!(activation(json!({"StandardConfigurations": [1]})), ["/0/Payload/StandardConfigurations"]);
    }

    #[test]
    fn an_identifier_keeps_its_type() {
        let one = |identifier: &str, kind: &str| json!({"Identifier": identifier, "Type": kind});
        let of = |list: &str, declared: Value| json!({"apple": {list: declared}});
        let before = of("declarations", json!([one("a", "x"), one("b", "x")]));
        let places = |after: Value| retyped(&before, &after, "/d").into_iter().map(|fault| fault.pointer).collect::<Vec<_>>();
        let after = json!([one("b", "x"), one("c", "y"), one("a", "y")]);
        assert_eq!(places(of("declarations", after.clone())), ["/d/apple/declarations/2/Type"]);
        assert_eq!(places(of("userDeclarations", after)), [""; 0], "a user's are others");
        assert_eq!((places(json!(null)), places(of("declarations", json!([5, {}])))), (vec![], vec![]));
    }

    #[test]
    fn each_channel_is_given_its_own() {
        let document = json!({"apple": {"userDeclarations": [1]}, "cameraAccess": "A"});
        assert_eq!(compile(&document, Whose::Users), json!({"declarations": [1]}));
        assert_eq!(compile(&document, Whose::Device), json!({"declarations": []}));
        assert_eq!(compile(&json!({}), Whose::Device), json!({"declarations": []}));
    }
}
