//! What a document says to Apple's own MDM clients: declarations for a device, and for its users.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::catalog::DECLARATION;
use super::settings::{self, fault};
use crate::model::Fault;

const KINDS: [&str; 4] = ["activation", "asset", "configuration", "management"];
/// Declarations of a list at most.
const DECLARATIONS_MAX: usize = 500;
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

/// What a channel is given of a merged document: `{"declarations": [...]}`.
pub fn compile(document: &Value, whose: Whose) -> Value {
    let listed = document["apple"][whose.list()].as_array().cloned().unwrap_or_default();
    json!({"declarations": listed})
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
    fn each_channel_is_given_its_own() {
        let document = json!({"apple": {"userDeclarations": [1]}, "cameraAccess": "A"});
        assert_eq!(compile(&document, Whose::Users), json!({"declarations": [1]}));
        assert_eq!(compile(&document, Whose::Device), json!({"declarations": []}));
        assert_eq!(compile(&json!({}), Whose::Device), json!({"declarations": []}));
    }
}
