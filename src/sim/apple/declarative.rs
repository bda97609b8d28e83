//! How a simulated iPhone follows its declarations: it compares tokens, fetches what is new, drops what is gone, and says how it stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{CHECKIN, Iphone, Trouble, texts};

/// The types that this system knows, by kind.
const KNOWN: [(&str, &[&str]); 4] = [
    ("activations", &["com.apple.activation.simple"]),
    ("assets", &["com.apple.asset.data"]),
    (
        "configurations",
        &[
            "com.apple.configuration.management.status-subscriptions",
            "com.apple.configuration.management.test",
            "com.apple.configuration.passcode.settings",
        ],
    ),
    ("management", &["com.apple.management.organization-info", "com.apple.management.properties"]),
];
/// The manifest's lists and the words of paths for them.
const LISTS: [(&str, &str); 4] =
    [("Activations", "activation"), ("Assets", "asset"), ("Configurations", "configuration"), ("Management", "management")];

/// A declaration that the phone has.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// `activation`, `asset`, `configuration` or `management`.
    pub kind: String,
    pub server_token: String,
    pub declaration_type: String,
    pub payload: Value,
}

/// What it has of declarative management.
#[derive(Clone, Debug, Default)]
pub struct Declarations {
    /// The token of what it has; empty before it was ever told of any.
    pub token: String,
    /// By identifier.
    pub held: BTreeMap<String, Declaration>,
    /// True where it was told of another token and has not fetched yet.
    pub is_behind: bool,
    /// True where it has said what it is able to do.
    introduced: bool,
    /// How many declarations it has fetched.
    pub fetched: u64,
}

impl Iphone {
    /// The command: its data says which token is the server's.
    pub(super) fn hear_of_declarations(&mut self, tokens: &[u8]) {
        let tokens: Value = serde_json::from_slice(tokens).unwrap_or_default();
        self.state.declarations.is_behind |= tokens["SyncTokens"]["DeclarationsToken"] != json!(self.state.declarations.token);
    }

    /// Fetches what is new, drops what is gone, and reports.
    pub async fn follow_declarations(&mut self) -> Result<(), Trouble> {
        let items: Value = serde_json::from_slice(&self.declarative("declaration-items", None).await?).map_err(|_| Trouble::Nonsense)?;
        let mut held = BTreeMap::new();
        for (list, kind) in LISTS {
            for item in items["Declarations"][list].as_array().ok_or(Trouble::Nonsense)? {
                let text = |key: &str| item[key].as_str().map(str::to_owned).ok_or(Trouble::Nonsense);
                let (identifier, server_token) = (text("Identifier")?, text("ServerToken")?);
                let known =
                    self.state.declarations.held.get(&identifier).filter(|one| one.kind == kind && one.server_token == server_token);
                let one = match known {
                    Some(known) => known.clone(),
                    None => match self.fetch_declaration(kind, &identifier).await? {
                        Some(one) => one,
                        None => continue,
                    },
                };
                held.insert(identifier, one);
            }
        }
        let declarations = &mut self.state.declarations;
        declarations.held = held;
        declarations.token = items["DeclarationsToken"].as_str().ok_or(Trouble::Nonsense)?.to_owned();
        declarations.is_behind = false;
        let report = self.status_report();
        self.declarative("status", Some(report.to_string().into_bytes())).await?;
        self.state.declarations.introduced = true;
        Ok(())
    }

    /// One declaration; `None` where the server does not assign it.
    async fn fetch_declaration(&mut self, kind: &str, identifier: &str) -> Result<Option<Declaration>, Trouble> {
        let bytes = match self.declarative(&format!("declaration/{kind}/{identifier}"), None).await {
            Err(Trouble::Refused(404, _)) => return Ok(None),
            answer => answer?,
        };
        self.state.declarations.fetched += 1;
        let one: Value = serde_json::from_slice(&bytes).map_err(|_| Trouble::Nonsense)?;
        let text = |key: &str| one[key].as_str().map(str::to_owned).ok_or(Trouble::Nonsense);
        let (declaration_type, server_token) = (text("Type")?, text("ServerToken")?);
        Ok(Some(Declaration { kind: kind.into(), server_token, declaration_type, payload: one["Payload"].clone() }))
    }

    /// What it says of itself: what it is able to do once, how its declarations stand always.
    fn status_report(&self) -> Value {
        let declarations = &self.state.declarations;
        let referenced: BTreeSet<&str> = declarations
            .held
            .values()
            .filter(|one| one.kind == "activation")
            .filter_map(|one| one.payload["StandardConfigurations"].as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let stands = |identifier: &str, one: &Declaration| {
            let is_known = KNOWN.iter().any(|(_, types)| types.contains(&one.declaration_type.as_str()));
            let (active, valid, reason) = match one.kind.as_str() {
                _ if !is_known => (false, "invalid", Some("Error.ConfigurationNotSupported")),
                "configuration" if one.payload.get("Broken").is_some() => (false, "invalid", Some("Error.UnknownPayloadKeys")),
                "configuration" if !referenced.contains(identifier) => (false, "valid", Some("Info.NotReferencedByActivation")),
                "management" | "asset" => (false, "valid", None),
                _ => (true, "valid", None),
            };
            let reasons: Vec<Value> = reason.map(|code| json!({"code": code})).into_iter().collect();
            json!({"identifier": identifier, "server-token": one.server_token, "active": active, "valid": valid, "reasons": reasons})
        };
        let list = |kind: &str| {
            let of_kind = declarations.held.iter().filter(|(_, one)| one.kind == kind);
            of_kind.map(|(identifier, one)| stands(identifier, one)).collect::<Vec<_>>()
        };
        let mut management = json!({"declarations": {"activations": list("activation"), "assets": list("asset"),
            "configurations": list("configuration"), "management": list("management")}});
        if !declarations.introduced {
            let types: BTreeMap<&str, &[&str]> = KNOWN.into_iter().collect();
            management["client-capabilities"] = json!({"supported-versions": ["1.0.0"], "supported-features": {}, "supported-payloads": {"declarations": types, "status-items": []}});
        }
        let passcode = json!({"is-present": self.state.has_passcode, "is-compliant": self.state.has_passcode});
        json!({"StatusItems": {"management": management, "passcode": passcode}, "Errors": []})
    }

    async fn declarative(&self, endpoint: &str, data: Option<Vec<u8>>) -> Result<Vec<u8>, Trouble> {
        let mut body = texts(&[("MessageType", "DeclarativeManagement"), ("Endpoint", endpoint)]);
        if let Some(data) = data {
            body.insert("Data".into(), plist::Value::Data(data));
        }
        self.send("checkin", CHECKIN, body).await
    }
}
