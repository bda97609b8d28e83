//! How a simulated iPhone follows its declarations: it compares tokens, fetches what is new, drops what is gone, and says how it stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{CHECKIN, Iphone, Trouble, texts};
use crate::protocol::apple::reading;
use crate::protocol::cms::SignedData;

/// The declaration that brings a profile.
const PROFILE: &str = "com.apple.configuration.legacy";
/// The types that this system knows, by kind.
const KNOWN: [(&str, &[&str]); 4] = [
    ("activations", &["com.apple.activation.simple"]),
    ("assets", &["com.apple.asset.data"]),
    (
        "configurations",
        &[
            PROFILE,
            "com.apple.configuration.management.status-subscriptions",
            "com.apple.configuration.management.test",
            "com.apple.configuration.passcode.settings",
        ],
    ),
    ("management", &["com.apple.management.organization-info", "com.apple.management.properties"]),
];
/// The status items that this system has.
const ITEMS: [&str; 6] = [
    "device.model.identifier",
    "device.operating-system.family",
    "device.operating-system.version",
    "mdm.app",
    "passcode.is-compliant",
    "passcode.is-present",
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
    /// What assets and profiles hold, by the ServerToken of the declaration that refers to it; none for what could not be had.
    pub contents: BTreeMap<String, Result<Vec<u8>, &'static str>>,
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
        let contents = self.fetch_contents(&held).await?;
        let declarations = &mut self.state.declarations;
        declarations.contents = contents;
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

    /// What these declarations refer to on its server; what it has already is not fetched again.
    async fn fetch_contents(
        &self,
        held: &BTreeMap<String, Declaration>,
    ) -> Result<BTreeMap<String, Result<Vec<u8>, &'static str>>, Trouble> {
        let mut contents = BTreeMap::new();
        for one in held.values() {
            let reference = &one.payload["Reference"];
            let Some(url) = reference["DataURL"].as_str().or_else(|| one.payload["ProfileURL"].as_str()) else { continue };
            let known = self.state.declarations.contents.get(&one.server_token).filter(|known| known.is_ok()).cloned();
            let content = match known {
                Some(known) => known,
                None => self.fetch_content(url).await?.and_then(|bytes| verified(reference, bytes)),
            };
            contents.insert(one.server_token.clone(), content);
        }
        Ok(contents)
    }

    /// One of them, by the identity that everything else is said with.
    async fn fetch_content(&self, url: &str) -> Result<Result<Vec<u8>, &'static str>, Trouble> {
        let request = self.client.get(self.at_server(url)).headers(self.proofs(&[])?);
        let answer = request.send().await?;
        if answer.status().as_u16() != 200 {
            return Ok(Err("Error.AssetCannotBeDownloaded"));
        }
        Ok(Ok(answer.bytes().await?.to_vec()))
    }

    /// The profiles that its declarations have installed: identifier and UUID.
    pub fn declared_profiles(&self) -> Vec<(String, String)> {
        let declarations = &self.state.declarations;
        let legacy = declarations.held.values().filter(|one| one.declaration_type == PROFILE);
        legacy.filter_map(|one| name_of(declarations.contents.get(&one.server_token)?.as_ref().ok()?)).collect()
    }

    /// Its managed apps as a status item.
    fn apps(&self) -> Value {
        let word = |status: &str| if status == "Managed" { "managed" } else { "installing" };
        self.state.apps.iter().map(|(id, status)| json!({"identifier": id, "name": id, "state": word(status)})).collect()
    }

    /// The types that its system knows.
    fn known(&self) -> BTreeMap<&'static str, Vec<&'static str>> {
        let is_known = |one: &&str| !self.state.lacks_profiles || *one != PROFILE;
        KNOWN.into_iter().map(|(kind, types)| (kind, types.iter().copied().filter(is_known).collect())).collect()
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
        let fault = |one: &Declaration| match declarations.contents.get(&one.server_token)? {
            Err(code) => Some(*code),
            Ok(bytes) if one.payload.get("ProfileURL").is_some() && name_of(bytes).is_none() => Some("Error.ConfigurationCannotBeApplied"),
            Ok(_) => None,
        };
        let stands = |identifier: &str, one: &Declaration| {
            let is_known = self.known().values().any(|types| types.contains(&one.declaration_type.as_str()));
            let (active, valid, reason) = match one.kind.as_str() {
                _ if !is_known => (false, "invalid", Some("Error.ConfigurationNotSupported")),
                _ if fault(one).is_some() => (false, "invalid", fault(one)),
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
            let types = self.known();
            management["client-capabilities"] = json!({"supported-versions": ["1.0.0"], "supported-features": {}, "supported-payloads": {"declarations": types, "status-items": ITEMS}});
        }
        let passcode = json!({"is-present": self.state.has_passcode, "is-compliant": self.state.has_passcode});
        let mut items = json!({"management": management, "passcode": passcode});
        let subscribed = declarations.held.values().filter_map(|one| one.payload["StatusItems"].as_array()).flatten();
        for name in subscribed.filter_map(|item| item["Name"].as_str()) {
            match name {
                "device.operating-system.family" => items["device"]["operating-system"]["family"] = json!("iOS"),
                "device.operating-system.version" => items["device"]["operating-system"]["version"] = json!("18.1"),
                "device.model.identifier" => items["device"]["model"]["identifier"] = json!("iPhone17,1"),
                "mdm.app" => items["mdm"]["app"] = self.apps(),
                _ => {}
            }
        }
        json!({"StatusItems": items, "Errors": []})
    }

    async fn declarative(&self, endpoint: &str, data: Option<Vec<u8>>) -> Result<Vec<u8>, Trouble> {
        let mut body = texts(&[("MessageType", "DeclarativeManagement"), ("Endpoint", endpoint)]);
        if let Some(data) = data {
            body.insert("Data".into(), plist::Value::Data(data));
        }
        self.send("checkin", CHECKIN, body).await
    }
}

/// The data of an asset is what its declaration says, or it is not used.
fn verified(reference: &Value, bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let fits = |key: &str, is: Value| reference.get(key).is_none_or(|said| *said == is);
    if fits("Hash-SHA-256", json!(hash)) && fits("Size", json!(bytes.len())) { Ok(bytes) } else { Err("Error.AssetCannotBeVerified") }
}

/// A profile, signed or not.
pub(super) fn profile_of(bytes: &[u8]) -> Option<plist::Dictionary> {
    let plain = match SignedData::parse(bytes) {
        Ok(signed) => signed.verify(None).ok()?.content,
        Err(_) => bytes.to_vec(),
    };
    reading::dictionary(&plain).ok()
}

/// Identifier and UUID of a profile.
fn name_of(bytes: &[u8]) -> Option<(String, String)> {
    let profile = profile_of(bytes)?;
    let text = |key: &str| profile.get(key).and_then(plist::Value::as_string).map(str::to_owned);
    Some((text("PayloadIdentifier")?, text("PayloadUUID")?))
}
