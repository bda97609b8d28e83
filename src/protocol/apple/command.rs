//! Commands: what a device is told to do, as the property list that it gets.

use plist::{Dictionary, Value};

use super::connect::json_object;
use super::profile::is_enrollment;
use super::requests;
use super::sayable::{are_sayable, is_sayable, sayable};

/// The queries of DeviceInformation whose answers become facts. A device leaves out what it does not know or may not tell.
const QUERIES: &[&str] = &[
    "DeviceName",
    "OSVersion",
    "BuildVersion",
    "SupplementalOSVersionExtra",
    "SupplementalBuildVersion",
    "ModelName",
    "Model",
    "ModelNumber",
    "ProductName",
    "SerialNumber",
    "DeviceCapacity",
    "AvailableDeviceCapacity",
    "BatteryLevel",
    "IsSupervised",
    "IsMultiUser",
    "IsActivationLockEnabled",
    "IsMDMLostModeEnabled",
    "IsDeviceLocatorServiceEnabled",
    "IsCloudBackupEnabled",
    "TimeZone",
    "WiFiMAC",
    "BluetoothMAC",
    "EthernetMAC",
    "CellularTechnology",
    "ServiceSubscriptions",
    "DataRoamingEnabled",
    "PersonalHotspotEnabled",
    "iTunesStoreAccountIsActive",
    "HostName",
    "IsAppleSilicon",
    "PINRequiredForEraseDevice",
    "PINRequiredForDeviceLock",
];

/// How a device is erased.
#[derive(Clone, Debug, Default)]
pub struct Erasure<'a> {
    /// Six digits, for Macs.
    pub pin: Option<&'a str>,
    /// One of `kind::OBLITERATION`, for Macs.
    pub obliteration: Option<&'a str>,
    /// The eSIM's plan stays, on iPhones and iPads.
    pub keeps_data_plan: bool,
    /// Setup Assistant does not offer to take everything from a device nearby.
    pub forbids_proximity_setup: bool,
    /// It sets itself up again and is managed anew, without anybody touching it; iPhones, iPads and Apple TVs.
    pub return_to_service: Option<ReturnToService>,
}

/// What a device that was erased needs to be back by itself.
#[derive(Clone, Debug, Default)]
pub struct ReturnToService {
    /// A profile of the Wi-Fi that it joins.
    pub wifi: Option<Vec<u8>>,
    /// The enrollment profile; a device that Apple knows as its organisation's needs none.
    pub enrollment: Option<Vec<u8>>,
}

/// A command: `RequestType` and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Command(Dictionary);

impl Command {
    /// A command without further keys.
    pub fn new(request_type: &str) -> Command {
        let mut keys = Dictionary::new();
        keys.insert("RequestType".into(), Value::String(request_type.into()));
        Command(keys)
    }

    /// A command as an operator wrote it; `None` without a `RequestType`.
    pub fn given(keys: Dictionary) -> Option<Command> {
        keys.get("RequestType")?.as_string().filter(|name| !name.is_empty())?;
        Some(Command(keys))
    }

    /// The same with one more key.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Command {
        self.0.insert(key.into(), value.into());
        self
    }

    /// The same with one more key where there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<&str>) -> Command {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// True where it asks for a part of a list: what the answer does not name may be there all the same.
    pub fn is_partial(&self) -> bool {
        ["Identifiers", "Items", "ManagedAppsOnly", "ManagedOnly"].iter().any(|key| self.0.contains_key(key))
    }

    /// The first place that no device could read, and what is wrong there.
    pub fn fault(&self) -> Option<(String, String)> {
        requests::fault(&self.0)
    }

    /// True where a property list can say it.
    pub fn is_sayable(&self) -> bool {
        are_sayable(&self.0)
    }

    /// True where it erases the device, or ends its management: nobody can undo that.
    pub fn is_destructive(&self) -> bool {
        match self.request_type() {
            "EraseDevice" => true,
            "RemoveProfile" => self.0.get("Identifier").and_then(Value::as_string).is_some_and(is_enrollment),
            _ => false,
        }
    }

    /// The same as JSON; data is base64.
    pub fn to_json(&self) -> serde_json::Value {
        json_object(&self.0).into()
    }

    /// What it is called.
    pub fn request_type(&self) -> &str {
        self.0.get("RequestType").and_then(Value::as_string).unwrap_or_default()
    }

    /// The XML property list that is answered.
    pub fn to_xml(&self, command_uuid: &str) -> Vec<u8> {
        let mut outer = Dictionary::new();
        outer.insert("CommandUUID".into(), Value::String(command_uuid.into()));
        outer.insert("Command".into(), Value::Dictionary(self.0.clone()));
        xml(&Value::Dictionary(outer))
    }

    /// What the device is asked about itself.
    pub fn device_information() -> Command {
        Command::new("DeviceInformation").with("Queries", texts(QUERIES.iter().copied()))
    }

    /// Which of these apps are managed, and how far they have come; of all managed ones without a name.
    pub fn managed_application_list(app: Option<&str>) -> Command {
        let command = Command::new("ManagedApplicationList");
        match app {
            Some(app) => command.with("Identifiers", texts([app].into_iter())),
            None => command,
        }
    }

    /// Locks the screen, with words for whoever finds it. The PIN is for Macs, which stay locked until it is typed.
    pub fn device_lock(message: Option<&str>, phone: Option<&str>, pin: Option<&str>) -> Command {
        Command::new("DeviceLock").with_some("Message", message).with_some("PhoneNumber", phone).with_some("PIN", pin)
    }

    /// Takes the passcode away, by the token that the device gave when it enrolled.
    pub fn clear_passcode(unlock_token: Vec<u8>) -> Command {
        Command::new("ClearPasscode").with("UnlockToken", Value::Data(unlock_token))
    }

    /// Erases everything.
    pub fn erase_device(erasure: &Erasure<'_>) -> Command {
        let command = Command::new("EraseDevice").with_some("PIN", erasure.pin).with_some("ObliterationBehavior", erasure.obliteration);
        let flag = |command: Command, key: &str, is_set: bool| if is_set { command.with(key, Value::Boolean(true)) } else { command };
        let command = flag(command, "PreserveDataPlan", erasure.keeps_data_plan);
        let command = flag(command, "DisallowProximitySetup", erasure.forbids_proximity_setup);
        let Some(back) = &erasure.return_to_service else { return command };
        let mut keys = Dictionary::new();
        keys.insert("Enabled".into(), Value::Boolean(true));
        for (key, profile) in [("WiFiProfileData", &back.wifi), ("MDMProfileData", &back.enrollment)] {
            keys.extend(profile.iter().map(|profile| (key.to_owned(), Value::Data(profile.clone()))));
        }
        command.with("ReturnToService", Value::Dictionary(keys))
    }

    /// Removes a profile; the enrollment's own ends the management.
    pub fn remove_profile(identifier: &str) -> Command {
        Command::new("RemoveProfile").with("Identifier", identifier)
    }

    /// Installs or replaces a profile.
    pub fn install_profile(profile: Vec<u8>) -> Command {
        Command::new("InstallProfile").with("Payload", Value::Data(profile))
    }

    /// Tells the device which declarations it has, and that it shall fetch what it does not have.
    pub fn declarative_management(tokens: Vec<u8>) -> Command {
        Command::new("DeclarativeManagement").with("Data", Value::Data(tokens))
    }

    /// Installs an app as a managed one that goes with the enrollment: from a manifest, by its number in the store, or by its bundle id.
    pub fn install_application(bundle_id: &str, manifest_url: Option<&str>, store_id: Option<i64>) -> Command {
        let command = Command::new("InstallApplication").with("ManagementFlags", Value::Integer(1.into()));
        match (manifest_url, store_id) {
            (Some(url), _) => command.with("ManifestURL", url),
            (None, Some(number)) => command.with("iTunesStoreID", Value::Integer(number.into())),
            (None, None) => command.with("Identifier", bundle_id),
        }
    }

    /// Removes a managed app.
    pub fn remove_application(bundle_id: &str) -> Command {
        Command::new("RemoveApplication").with("Identifier", bundle_id)
    }

    /// Marks a supervised device as lost: only then does it tell where it is.
    pub fn enable_lost_mode(message: &str) -> Command {
        Command::new("EnableLostMode").with("Message", message)
    }
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(texts.map(|text| Value::String(text.to_owned())).collect())
}

/// A value as an XML property list.
pub fn xml(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Orders and policies with what XML cannot say are refused, but not what variables stand for: a list with a hole in it can be read, and one
    // that is none would hold up everything behind it. Writing into memory does not fail.
    if is_sayable(value) {
        value.to_writer_xml(&mut bytes).ok();
    } else if let Some(value) = sayable(value) {
        value.to_writer_xml(&mut bytes).ok();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::apple::reading;

    #[test]
    fn a_command_stands_beside_its_id() {
        let bytes = Command::device_lock(Some("lost & found"), None, Some("123456")).to_xml("id-1");
        let read = reading::dictionary(&bytes).unwrap();
        assert_eq!(read.get("CommandUUID").and_then(Value::as_string), Some("id-1"));
        let command = read.get("Command").and_then(Value::as_dictionary).unwrap();
        assert_eq!(command.get("RequestType").and_then(Value::as_string), Some("DeviceLock"));
        assert_eq!(command.get("Message").and_then(Value::as_string), Some("lost & found"));
        assert!(command.get("PhoneNumber").is_none());
        assert_eq!(Command::given(Dictionary::new()), None);
    }

    #[test]
    fn what_xml_cannot_say_is_left_out_and_the_list_can_be_read() {
        let uid = Value::Uid(plist::Uid::new(1));
        let command = Command::new("X").with("Te\u{1}xt", "a\u{0}\u{b}\u{fffe}\u{ffff}\tb\u{1f600}").with("Uid", uid.clone());
        let bytes = command.with("List", Value::Array(vec![uid, "\u{1f}".into()])).to_xml("id\u{2}-1");
        assert!(std::str::from_utf8(&bytes).unwrap().chars().all(crate::model::text::is_sayable));
        let read = reading::dictionary(&bytes).unwrap();
        assert_eq!(read.get("CommandUUID").and_then(Value::as_string), Some("id-1"));
        let command = read.get("Command").and_then(Value::as_dictionary).unwrap();
        assert_eq!(command.get("Text").and_then(Value::as_string), Some("a\tb\u{1f600}"));
        assert_eq!((command.get("Uid"), command.get("List")), (None, Some(&Value::Array(vec!["".into()]))));
    }
}
