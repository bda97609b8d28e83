//! What a device is assigned: declarations with their tokens, and the answers that it gets about them.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::content::{self, Content};
use super::status::Status;
use super::subscriptions;

/// The four kinds, by the third word of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Activation,
    Asset,
    Configuration,
    Management,
}

impl Kind {
    const ALL: [(Kind, &'static str, &'static str); 4] = [
        (Kind::Activation, "activation", "Activations"),
        (Kind::Asset, "asset", "Assets"),
        (Kind::Configuration, "configuration", "Configurations"),
        (Kind::Management, "management", "Management"),
    ];

    /// The kind of a type: `com.apple.configuration.passcode.settings` is a configuration.
    pub fn of(declaration_type: &str) -> Option<Kind> {
        Kind::named(declaration_type.strip_prefix("com.apple.")?.split('.').next()?)
    }

    /// True for what does nothing before an activation is in force; assets and management need nobody to activate them.
    pub fn needs_activation(self) -> bool {
        matches!(self, Kind::Activation | Kind::Configuration)
    }

    /// The kind as paths name it.
    pub fn named(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|(_, name, _)| *name == word).map(|(kind, ..)| kind)
    }
}

/// One declaration of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    pub kind: Kind,
    pub declaration_type: String,
    pub identifier: String,
    pub payload: Value,
    /// SHA-256 of everything in it, lower-case hex: it changes with the declaration and with nothing else.
    pub server_token: String,
    /// What it refers to, where this server holds that.
    pub content: Option<Content>,
}

/// All declarations of a device, by their identifiers. Tokens, items and declarations are answered from one of these, so they agree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest(Vec<Declaration>);

/// What a device asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Tokens,
    Items,
    Declaration(Kind, String),
    Status,
}

impl Asked {
    /// Reads an endpoint. An identifier may hold slashes.
    pub fn of(endpoint: &str) -> Option<Asked> {
        match endpoint {
            "tokens" => Some(Asked::Tokens),
            "declaration-items" => Some(Asked::Items),
            "status" => Some(Asked::Status),
            _ => {
                let (kind, identifier) = endpoint.strip_prefix("declaration/")?.split_once('/')?;
                Some(Asked::Declaration(Kind::named(kind)?, identifier.to_owned()))
            }
        }
    }
}

impl Manifest {
    /// The declarations of a resolved document: `{"declarations": [{"Type", "Identifier", "Payload"}...], "payloads"?: [...]}`, on a server
    /// of this address. Of a device that has said what it supports only those types are there.
    pub fn of(document: &Value, supported: Option<&BTreeSet<String>>, base: &str) -> Manifest {
        let listed = document["declarations"].as_array().into_iter().flatten().cloned();
        let mut given: Vec<(Value, Option<Content>)> = listed.map(|one| with_content(one, base)).collect();
        if let Some(payloads) = document["payloads"].as_array().filter(|payloads| !payloads.is_empty()) {
            given.extend(content::profile(payloads, base));
        }
        let mut declarations: Vec<Declaration> = given
            .into_iter()
            .filter_map(|(one, content)| declaration(&one, content))
            .filter(|one| supported.is_none_or(|supported| supported.contains(&one.declaration_type)))
            .collect();
        // Whatever order they come in, the token is the same.
        declarations.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        Manifest(declarations)
    }

    /// The same with the server's own: it asks the device to tell by itself what it otherwise would be asked. Where nothing is declared, that is
    /// not either.
    #[must_use]
    pub fn with_subscriptions(&self, status: &Status) -> Manifest {
        let mut declarations = self.0.clone();
        if !declarations.is_empty() {
            let own = subscriptions::declarations(status.supported().as_ref(), &status.items_supported());
            declarations.extend(own.iter().filter_map(|one| declaration(one, None)));
            declarations.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        }
        Manifest(declarations)
    }

    /// The same without what brings the policy's profile: a device gets that by command.
    #[must_use]
    pub fn without_profile(&self) -> Manifest {
        Manifest(self.0.iter().filter(|one| !content::is_of_profile(&one.identifier)).cloned().collect())
    }

    pub fn declarations(&self) -> &[Declaration] {
        &self.0
    }

    /// A content that one of them refers to.
    pub fn content(&self, hash: &str) -> Option<&Content> {
        self.0.iter().filter_map(|one| one.content.as_ref()).find(|content| content.hash == hash)
    }

    /// Says of which declarations it is made; lower-case hex.
    pub fn token(&self) -> String {
        let mut digest = Sha256::new();
        for one in &self.0 {
            for part in [&one.declaration_type, &one.identifier, &one.server_token] {
                digest.update(part.len().to_be_bytes());
                digest.update(part);
            }
        }
        hex(&digest.finalize())
    }

    /// The answer to `tokens`, which is also the data of a DeclarativeManagement command.
    pub fn tokens(&self, now_ms: i64) -> Vec<u8> {
        let at = DateTime::from_timestamp_millis(now_ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
        json!({"SyncTokens": {"DeclarationsToken": self.token(), "Timestamp": at}}).to_string().into_bytes()
    }

    /// The answer to `declaration-items`: all four lists, also those of nothing.
    pub fn items(&self) -> Vec<u8> {
        let mut lists = serde_json::Map::new();
        for (kind, _, list) in Kind::ALL {
            let items = self.0.iter().filter(|one| one.kind == kind);
            lists.insert(list.into(), items.map(|one| json!({"Identifier": one.identifier, "ServerToken": one.server_token})).collect());
        }
        json!({"Declarations": lists, "DeclarationsToken": self.token()}).to_string().into_bytes()
    }

    /// The answer to `declaration/KIND/IDENTIFIER`; `None` where it is not assigned, upon which a device drops it.
    pub fn declaration(&self, kind: Kind, identifier: &str) -> Option<Vec<u8>> {
        let one = self.0.iter().find(|one| one.kind == kind && one.identifier == identifier)?;
        let Declaration { declaration_type, identifier, payload, server_token, .. } = one;
        let text = json!({"Type": declaration_type, "Identifier": identifier, "ServerToken": server_token, "Payload": payload});
        Some(text.to_string().into_bytes())
    }
}

/// An asset's data is taken out of it; everything else is as it is.
fn with_content(mut one: Value, base: &str) -> (Value, Option<Content>) {
    let is_asset = one["Type"].as_str().and_then(Kind::of) == Some(Kind::Asset);
    let content = one.get_mut("Payload").filter(|_| is_asset).and_then(|payload| content::taken(payload, base));
    (one, content)
}

fn declaration(value: &Value, content: Option<Content>) -> Option<Declaration> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let (declaration_type, identifier, payload) = (text("Type")?, text("Identifier")?, value.get("Payload")?.clone());
    // The text of a JSON object here has its keys in order.
    let whole = json!({"Identifier": identifier, "Payload": payload, "Type": declaration_type}).to_string();
    let server_token = hex(&Sha256::digest(whole.as_bytes()));
    Some(Declaration { kind: Kind::of(&declaration_type)?, declaration_type, identifier, payload, server_token, content })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document() -> Value {
        json!({"declarations": [
            {"Type": "com.apple.configuration.passcode.settings", "Identifier": "b/c", "Payload": {"RequirePasscode": true, "MinimumLength": 6}},
            {"Type": "com.apple.activation.simple", "Identifier": "a", "Payload": {"StandardConfigurations": ["b/c"]}},
        ]})
    }

    #[test]
    fn a_device_is_answered_the_same_tokens_wherever_it_asks() {
        let manifest = Manifest::of(&document(), None, "https://mdm.example.org");
        let tokens: Value = serde_json::from_slice(&manifest.tokens(1_800_000_000_999)).unwrap();
        let items: Value = serde_json::from_slice(&manifest.items()).unwrap();
        assert_eq!(tokens["SyncTokens"], json!({"DeclarationsToken": manifest.token(), "Timestamp": "2027-01-15T08:00:00Z"}));
        assert_eq!(items["DeclarationsToken"], manifest.token());
        assert_eq!((&items["Declarations"]["Assets"], &items["Declarations"]["Management"]), (&json!([]), &json!([])));
        let item = &items["Declarations"]["Configurations"][0];
        let one: Value = serde_json::from_slice(&manifest.declaration(Kind::Configuration, "b/c").unwrap()).unwrap();
        assert_eq!((&item["Identifier"], &item["ServerToken"]), (&one["Identifier"], &one["ServerToken"]));
        assert_eq!(item.as_object().unwrap().len(), 2);
        assert_eq!(one["ServerToken"].as_str().unwrap().len(), 64);
        assert_eq!((&one["Type"], &one["Payload"]["MinimumLength"]), (&json!("com.apple.configuration.passcode.settings"), &json!(6)));
        for (kind, identifier) in [(Kind::Activation, "b/c"), (Kind::Configuration, "b"), (Kind::Configuration, "")] {
            assert_eq!(manifest.declaration(kind, identifier), None);
        }
    }

    #[test]
    fn a_token_changes_with_what_it_is_of_and_with_nothing_else() {
        let manifest = Manifest::of(&document(), None, "https://mdm.example.org");
        let mut turned = document();
        turned["declarations"].as_array_mut().unwrap().reverse();
        assert_eq!(Manifest::of(&turned, None, "https://mdm.example.org"), manifest);
        let mut other = document();
        other["declarations"][0]["Payload"]["MinimumLength"] = json!(7);
        let other = Manifest::of(&other, None, "https://mdm.example.org");
        assert_ne!(other.token(), manifest.token());
        assert_eq!(other.declarations()[0], manifest.declarations()[0], "the activation is as it was");
        let supported = BTreeSet::from(["com.apple.activation.simple".to_owned()]);
        let less = Manifest::of(&document(), Some(&supported), "https://mdm.example.org");
        assert_eq!((less.declarations().len(), less.token() == manifest.token()), (1, false));
        assert_eq!(Manifest::of(&json!({}), None, "https://mdm.example.org"), Manifest::default());
    }

    #[test]
    fn an_endpoint_is_split_at_its_first_two_slashes() {
        assert_eq!(Asked::of("declaration/asset/a/b/c"), Some(Asked::Declaration(Kind::Asset, "a/b/c".into())));
        assert_eq!(Asked::of("declaration-items"), Some(Asked::Items));
        for strange in ["", "declaration/", "declaration/asset", "declaration/profile/x", "tokens/", "Status"] {
            assert_eq!(Asked::of(strange), None, "{strange}");
        }
    }

    proptest! {
        #[test]
        fn any_endpoint_is_read_or_not(endpoint in ".{0,80}") {
            if let Some(Asked::Declaration(_, identifier)) = Asked::of(&endpoint) {
                prop_assert!(endpoint.ends_with(&identifier));
            }
        }
    }
}
