//! Apple's commands and the types of their keys: what a device would not be able to read is told to whoever wrote it, before it is sent.
//! Commands and keys that are not known here are newer than this list, and pass.

use plist::{Dictionary, Value};

use crate::model::kind::OBLITERATION;

/// What a key holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Text,
    Whole,
    Flag,
    Data,
    Texts,
    Dict,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A dictionary of these keys.
    Of(Keys),
    /// A list of dictionaries of these keys.
    List(Keys),
    /// A list of dictionaries that are told apart by this key; each has keys of its own.
    Items(&'static str, &'static [(&'static str, Keys)]),
}

use Shape::{Data, Dict, Flag, Items, List, Of, Text, Texts, Whole, Word};

/// A key of a command.
#[derive(Clone, Copy, Debug)]
struct Key {
    name: &'static str,
    shape: Shape,
    is_needed: bool,
}

type Keys = &'static [Key];

const fn may(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, is_needed: false }
}

const fn must(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, is_needed: true }
}

const IDENTIFIER: Keys = &[must("Identifier", Text)];
const OF_APPS: Keys = &[must("Identifiers", Texts)];
const MANAGED: Keys = &[may("ManagedOnly", Flag)];
const ENABLED: Keys = &[must("Enabled", Flag)];

/// What Settings can set, by its Item.
const SETTINGS: &[(&str, Keys)] = &[
    ("ApplicationConfiguration", &[must("Identifier", Text), may("Configuration", Dict)]),
    ("ApplicationAttributes", &[must("Identifier", Text), may("Attributes", Dict)]),
    ("DeviceName", &[must("DeviceName", Text)]),
    ("Wallpaper", &[must("Image", Data), must("Where", Whole)]),
    ("Bluetooth", ENABLED),
    ("DataRoaming", ENABLED),
    ("VoiceRoaming", ENABLED),
    ("PersonalHotspot", ENABLED),
    ("TimeZone", &[must("TimeZone", Text)]),
    ("OrganizationInfo", &[must("OrganizationInfo", Of(&[must("OrganizationName", Text)]))]),
    ("MDMOptions", &[must("MDMOptions", Dict)]),
    ("SoftwareUpdateSettings", &[may("RecommendationCadence", Whole)]),
    ("HostName", &[must("HostName", Text)]),
];

const ASSET: Keys = &[must("url", Text), may("sha256-size", Whole), may("sha256s", Texts), may("md5-size", Whole), may("md5s", Texts)];

/// The manifest of an app that an organisation serves itself, where it stands in the command.
const MANIFEST: Keys = &[must(
    "items",
    List(&[
        must("assets", Items("kind", &[("software-package", ASSET), ("display-image", ASSET), ("full-size-image", ASSET)])),
        must(
            "metadata",
            Of(&[
                must("bundle-identifier", Text),
                must("kind", Word(&["software"])),
                must("title", Text),
                may("bundle-version", Text),
                may("subtitle", Text),
                may("sizeInBytes", Whole),
            ]),
        ),
    ]),
)];

/// The commands whose keys are known.
const REQUESTS: &[(&str, Keys)] = &[
    ("DeviceInformation", &[must("Queries", Texts), may("DeviceAttestationNonce", Data)]),
    ("InstalledApplicationList", &[may("Identifiers", Texts), may("ManagedAppsOnly", Flag), may("Items", Texts)]),
    ("ProfileList", MANAGED),
    ("CertificateList", MANAGED),
    ("InstallProfile", &[must("Payload", Data)]),
    ("RemoveProfile", IDENTIFIER),
    (
        "InstallApplication",
        &[
            may("iTunesStoreID", Whole),
            may("Identifier", Text),
            may("ManifestURL", Text),
            may("Options", Dict),
            may("ManagementFlags", Whole),
            may("Configuration", Dict),
            may("Attributes", Dict),
            may("ChangeManagementState", Word(&["Managed"])),
            may("InstallAsManaged", Flag),
            may("iOSApp", Flag),
        ],
    ),
    ("InstallEnterpriseApplication", &[may("Manifest", Of(MANIFEST)), may("ManifestURL", Text)]),
    ("RemoveApplication", IDENTIFIER),
    ("ManagedApplicationList", &[may("Identifiers", Texts)]),
    ("ManagedApplicationConfiguration", OF_APPS),
    ("ManagedApplicationAttributes", OF_APPS),
    ("ManagedApplicationFeedback", &[must("Identifiers", Texts), may("DeleteFeedback", Flag)]),
    ("Settings", &[must("Settings", Items("Item", SETTINGS))]),
    ("DeviceLock", &[may("Message", Text), may("PhoneNumber", Text), may("PIN", Text)]),
    ("ClearPasscode", &[must("UnlockToken", Data)]),
    (
        "EraseDevice",
        &[
            may("PIN", Text),
            may("PreserveDataPlan", Flag),
            may("DisallowProximitySetup", Flag),
            may("ObliterationBehavior", Word(OBLITERATION)),
            may("ReturnToService", Of(&[must("Enabled", Flag), may("WiFiProfileData", Data), may("MDMProfileData", Data)])),
        ],
    ),
    ("RestartDevice", &[may("RebuildKernelCache", Flag), may("KextPaths", Texts), may("NotifyUser", Flag)]),
    ("EnableLostMode", &[may("Message", Text), may("PhoneNumber", Text), may("Footnote", Text)]),
    ("Restrictions", &[may("ProfileRestrictions", Flag)]),
    ("DeclarativeManagement", &[may("Data", Data)]),
];

/// Keys of which a command has one, and whether it may have more.
const ALTERNATIVES: &[(&str, &[&str], bool)] = &[
    ("InstallApplication", &["iTunesStoreID", "Identifier", "ManifestURL"], false),
    ("InstallEnterpriseApplication", &["Manifest", "ManifestURL"], false),
    ("EnableLostMode", &["Message", "PhoneNumber"], true),
];

/// The first place of a command that no device could read, and what must be there. The place is a path of keys with `/` between them; it is
/// empty where the command as a whole lacks something.
pub fn fault(command: &Dictionary) -> Option<(String, String)> {
    let request = command.get("RequestType")?.as_string()?;
    let (_, keys) = REQUESTS.iter().find(|(name, _)| *name == request)?;
    let inside = wrong(keys, command).map(|(path, what)| (path, format!("{request} {what}")));
    inside.or_else(|| {
        let (_, names, may_have_more) = ALTERNATIVES.iter().find(|(name, ..)| *name == request)?;
        let has = names.iter().filter(|name| command.contains_key(name)).count();
        let needed = if *may_have_more { "one or more" } else { "exactly one" };
        (has == 0 || (has > 1 && !may_have_more)).then(|| (String::new(), format!("{request} needs {needed} of {}", names.join(", "))))
    })
}

/// The first key of a dictionary that is missing or is not what it must be.
fn wrong(keys: Keys, of: &Dictionary) -> Option<(String, String)> {
    keys.iter().find_map(|key| match of.get(key.name) {
        None => key.is_needed.then(|| (key.name.to_owned(), format!("needs {}, {}", key.name, words(key.shape)))),
        Some(value) if !fits(key.shape, value) => Some((key.name.to_owned(), format!("takes {} as {}", key.name, words(key.shape)))),
        Some(value) => deeper(key.shape, value).map(|(path, what)| (format!("{}/{path}", key.name), what)),
    })
}

fn deeper(shape: Shape, value: &Value) -> Option<(String, String)> {
    match shape {
        Of(keys) => wrong(keys, value.as_dictionary()?),
        List(keys) => value
            .as_array()?
            .iter()
            .filter_map(Value::as_dictionary)
            .enumerate()
            .find_map(|(at, item)| wrong(keys, item).map(|(path, what)| (format!("{at}/{path}"), what))),
        Items(by, known) => value.as_array()?.iter().filter_map(Value::as_dictionary).enumerate().find_map(|(at, item)| {
            let Some(name) = item.get(by).and_then(Value::as_string) else {
                return Some((format!("{at}/{by}"), format!("needs {by}, a text, in each of its items")));
            };
            let (_, keys) = known.iter().find(|(known, _)| *known == name)?;
            wrong(keys, item).map(|(path, what)| (format!("{at}/{path}"), format!("of {name} {what}")))
        }),
        _ => None,
    }
}

fn fits(shape: Shape, value: &Value) -> bool {
    match shape {
        Text => value.as_string().is_some(),
        Whole => value.as_signed_integer().is_some(),
        Flag => value.as_boolean().is_some(),
        Data => value.as_data().is_some(),
        Dict | Of(_) => value.as_dictionary().is_some(),
        Texts => value.as_array().is_some_and(|items| items.iter().all(|item| item.as_string().is_some())),
        List(_) | Items(..) => value.as_array().is_some_and(|items| items.iter().all(|item| item.as_dictionary().is_some())),
        Word(known) => value.as_string().is_some_and(|word| known.contains(&word)),
    }
}

fn words(shape: Shape) -> String {
    match shape {
        Text => "a text".into(),
        Whole => "a whole number".into(),
        Flag => "true or false".into(),
        Data => "bytes, {\"$data\": \"base64\"}".into(),
        Dict | Of(_) => "a dictionary".into(),
        Texts => "a list of texts".into(),
        List(_) | Items(..) => "a list of dictionaries".into(),
        Word(known) => format!("one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::apple::connect::dictionary_of;
    use serde_json::{Value as Json, json};

    fn found(command: Json) -> Option<(String, String)> {
        fault(&dictionary_of(command.as_object().unwrap()))
    }

    fn place(command: Json) -> String {
        found(command.clone()).unwrap_or_else(|| panic!("{command}")).0
    }

    #[test]
    fn what_a_device_can_read_passes_and_so_does_what_is_not_known() {
        for right in [
            json!({"RequestType": "InstallProfile", "Payload": {"$data": "AQI="}}),
            json!({"RequestType": "DeviceInformation", "Queries": ["OSVersion"], "NewerKey": [1]}),
            json!({"RequestType": "NewerCommand", "Payload": 1}),
            json!({"RequestType": "EraseDevice", "ObliterationBehavior": "Always"}),
            json!({"RequestType": "EraseDevice", "ReturnToService": {"Enabled": true, "WiFiProfileData": {"$data": "AQI="}, "Newer": 1}}),
            json!({"RequestType": "Settings", "Settings": [{"Item": "DeviceName", "DeviceName": "x"}, {"Item": "Newer", "Enabled": 1}]}),
            json!({"RequestType": "InstallApplication", "Identifier": "org.example.app"}),
            json!({"RequestType": "EnableLostMode", "Message": "lost", "PhoneNumber": "1"}),
            json!({"RequestType": "ShutDownDevice"}),
        ] {
            assert_eq!(found(right.clone()), None, "{right}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_by_its_place() {
        assert_eq!(place(json!({"RequestType": "InstallProfile", "Payload": "AQI="})), "Payload");
        assert_eq!(place(json!({"RequestType": "InstallProfile"})), "Payload");
        assert_eq!(place(json!({"RequestType": "DeviceInformation", "Queries": ["OSVersion", 1]})), "Queries");
        assert_eq!(place(json!({"RequestType": "ManagedApplicationFeedback", "DeleteFeedback": true})), "Identifiers");
        assert_eq!(place(json!({"RequestType": "InstallApplication", "iTunesStoreID": "1"})), "iTunesStoreID");
        assert_eq!(place(json!({"RequestType": "EraseDevice", "ObliterationBehavior": "Sometimes"})), "ObliterationBehavior");
        assert_eq!(place(json!({"RequestType": "EraseDevice", "ReturnToService": {}})), "ReturnToService/Enabled");
        let named = json!({"RequestType": "EraseDevice", "ReturnToService": {"Enabled": true, "MDMProfileData": "AQI="}});
        assert_eq!(place(named), "ReturnToService/MDMProfileData");
        assert_eq!(place(json!({"RequestType": "Settings", "Settings": {}})), "Settings");
        assert_eq!(place(json!({"RequestType": "Settings", "Settings": [{"Enabled": true}]})), "Settings/0/Item");
        let second = json!([{"Item": "Bluetooth", "Enabled": true}, {"Item": "OrganizationInfo", "OrganizationInfo": {"Email": "x"}}]);
        let (path, what) = found(json!({"RequestType": "Settings", "Settings": second})).unwrap();
        assert_eq!(path, "Settings/1/OrganizationInfo/OrganizationName");
        assert_eq!(what, "Settings of OrganizationInfo needs OrganizationName, a text");
        assert_eq!(place(json!({"RequestType": "RestartDevice", "NotifyUser": 1})), "NotifyUser");
        assert_eq!(place(json!({"RequestType": "InstallApplication", "Options": {}})), "");
        assert_eq!(place(json!({"RequestType": "InstallApplication", "Identifier": "a.b", "ManifestURL": "https://example.org"})), "");
        assert_eq!(place(json!({"RequestType": "InstallEnterpriseApplication"})), "");
        let inline = |item: Json| json!({"RequestType": "InstallEnterpriseApplication", "Manifest": {"items": [item]}});
        let metadata = json!({"bundle-identifier": "org.example.app", "kind": "software", "title": "App"});
        let package = json!({"kind": "software-package", "url": "https://example.org/app.pkg", "sha256-size": 10, "sha256s": ["00"]});
        assert_eq!(found(inline(json!({"assets": [package], "metadata": metadata}))), None);
        let without = json!({"assets": [{"kind": "software-package"}], "metadata": metadata});
        assert_eq!(place(inline(without)), "Manifest/items/0/assets/0/url");
        assert_eq!(place(inline(json!({"assets": [package], "metadata": {}}))), "Manifest/items/0/metadata/bundle-identifier");
        assert_eq!(place(json!({"RequestType": "InstallEnterpriseApplication", "Manifest": {}})), "Manifest/items");
        assert_eq!(place(json!({"RequestType": "EnableLostMode", "Footnote": "x"})), "");
    }
}
