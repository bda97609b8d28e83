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
    Dicts,
    Dict,
    /// One of these words.
    Word(&'static [&'static str]),
}

use Shape::{Data, Dict, Dicts, Flag, Text, Texts, Whole, Word};

type Keys = &'static [(&'static str, Shape)];

const IDENTIFIERS: Keys = &[("Identifiers", Texts)];
const IDENTIFIER: Keys = &[("Identifier", Text)];
const MANAGED: Keys = &[("ManagedOnly", Flag)];

/// The commands whose keys have types.
const REQUESTS: &[(&str, Keys)] = &[
    ("DeviceInformation", &[("Queries", Texts), ("DeviceAttestationNonce", Data)]),
    ("InstalledApplicationList", &[("Identifiers", Texts), ("ManagedAppsOnly", Flag), ("Items", Texts)]),
    ("ProfileList", MANAGED),
    ("CertificateList", MANAGED),
    ("InstallProfile", &[("Payload", Data)]),
    ("RemoveProfile", IDENTIFIER),
    (
        "InstallApplication",
        &[
            ("iTunesStoreID", Whole),
            ("Identifier", Text),
            ("ManifestURL", Text),
            ("Options", Dict),
            ("ManagementFlags", Whole),
            ("Configuration", Dict),
            ("Attributes", Dict),
            ("ChangeManagementState", Word(&["Managed"])),
            ("InstallAsManaged", Flag),
            ("iOSApp", Flag),
        ],
    ),
    ("InstallEnterpriseApplication", &[("Manifest", Dict), ("ManifestURL", Text)]),
    ("RemoveApplication", IDENTIFIER),
    ("ManagedApplicationList", IDENTIFIERS),
    ("ManagedApplicationConfiguration", IDENTIFIERS),
    ("ManagedApplicationAttributes", IDENTIFIERS),
    ("ManagedApplicationFeedback", &[("Identifiers", Texts), ("DeleteFeedback", Flag)]),
    ("Settings", &[("Settings", Dicts)]),
    ("DeviceLock", &[("Message", Text), ("PhoneNumber", Text), ("PIN", Text)]),
    ("ClearPasscode", &[("UnlockToken", Data)]),
    (
        "EraseDevice",
        &[
            ("PIN", Text),
            ("PreserveDataPlan", Flag),
            ("DisallowProximitySetup", Flag),
            ("ObliterationBehavior", Word(OBLITERATION)),
            ("ReturnToService", Dict),
        ],
    ),
    ("RestartDevice", &[("RebuildKernelCache", Flag), ("KextPaths", Texts), ("NotifyUser", Flag)]),
    ("EnableLostMode", &[("Message", Text), ("PhoneNumber", Text), ("Footnote", Text)]),
    ("Restrictions", &[("ProfileRestrictions", Flag)]),
    ("DeclarativeManagement", &[("Data", Data)]),
];

/// The first key of a command that no device could read: its name, and what it must be.
pub fn fault(command: &Dictionary) -> Option<(&'static str, String)> {
    let request = command.get("RequestType")?.as_string()?;
    let (_, keys) = REQUESTS.iter().find(|(name, _)| *name == request)?;
    let wrong = |(key, shape): &&(&'static str, Shape)| command.get(key).is_some_and(|value| !fits(*shape, value));
    keys.iter().find(wrong).map(|(key, shape)| (*key, format!("{request} takes {key} as {}", words(*shape))))
}

fn fits(shape: Shape, value: &Value) -> bool {
    match shape {
        Text => value.as_string().is_some(),
        Whole => value.as_signed_integer().is_some(),
        Flag => value.as_boolean().is_some(),
        Data => value.as_data().is_some(),
        Dict => value.as_dictionary().is_some(),
        Texts => value.as_array().is_some_and(|items| items.iter().all(|item| item.as_string().is_some())),
        Dicts => value.as_array().is_some_and(|items| items.iter().all(|item| item.as_dictionary().is_some())),
        Word(known) => value.as_string().is_some_and(|word| known.contains(&word)),
    }
}

fn words(shape: Shape) -> String {
    match shape {
        Text => "a text".into(),
        Whole => "a whole number".into(),
        Flag => "true or false".into(),
        Data => "bytes, {\"$data\": \"base64\"}".into(),
        Dict => "a dictionary".into(),
        Texts => "a list of texts".into(),
        Dicts => "a list of dictionaries".into(),
        Word(known) => format!("one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::apple::connect::dictionary_of;
    use serde_json::{Value as Json, json};

    fn key(command: Json) -> Option<&'static str> {
        fault(&dictionary_of(command.as_object().unwrap())).map(|(key, _)| key)
    }

    #[test]
    fn what_no_device_could_read_is_told_by_its_key_and_what_is_not_known_passes() {
        for right in [
            json!({"RequestType": "InstallProfile", "Payload": {"$data": "AQI="}}),
            json!({"RequestType": "DeviceInformation", "Queries": ["OSVersion"], "NewerKey": [1]}),
            json!({"RequestType": "NewerCommand", "Payload": 1}),
            json!({"RequestType": "EraseDevice", "ObliterationBehavior": "Always"}),
            json!({"RequestType": "Settings", "Settings": [{"Item": "DeviceName", "DeviceName": "x"}]}),
            json!({"RequestType": "ShutDownDevice"}),
        ] {
            assert_eq!(key(right.clone()), None, "{right}");
        }
        assert_eq!(key(json!({"RequestType": "InstallProfile", "Payload": "AQI="})), Some("Payload"));
        assert_eq!(key(json!({"RequestType": "DeviceInformation", "Queries": ["OSVersion", 1]})), Some("Queries"));
        assert_eq!(key(json!({"RequestType": "InstallApplication", "iTunesStoreID": "1"})), Some("iTunesStoreID"));
        assert_eq!(key(json!({"RequestType": "EraseDevice", "ObliterationBehavior": "Sometimes"})), Some("ObliterationBehavior"));
        assert_eq!(key(json!({"RequestType": "Settings", "Settings": {}})), Some("Settings"));
        assert_eq!(key(json!({"RequestType": "RestartDevice", "NotifyUser": 1})), Some("NotifyUser"));
    }
}
