//! What a simulated iPhone does with a command, and what it reports.

use plist::{Dictionary, Value};

use super::declarative::profile_of;
use super::identity::Enrollment;
use super::{Iphone, texts};

/// Requests that need the phone's data, which a locked phone does not open.
const NEEDS_DATA: [&str; 5] = ["InstallProfile", "RemoveProfile", "InstallApplication", "Settings", "RemoveApplication"];
const UNKNOWN_REQUEST: i64 = 12021;
const NOT_LOST: i64 = 12040;
const NOT_MANAGED: i64 = 12027;
const NOT_INSTALLED: i64 = 12075;
const UNREADABLE: i64 = 4001;

impl Iphone {
    /// Carries a command out and says what became of it.
    pub(super) fn act(&mut self, command: &Dictionary) -> Dictionary {
        let text = |key: &str| command.get(key).and_then(Value::as_string).unwrap_or_default().to_owned();
        let request = text("RequestType");
        if self.state.locked && NEEDS_DATA.contains(&request.as_str()) {
            return texts(&[("Status", "NotNow")]);
        }
        let outcome = match request.as_str() {
            "DeviceInformation" => Ok(answer("QueryResponses", self.device_information(command))),
            "SecurityInfo" => Ok(answer("SecurityInfo", self.security_info())),
            "InstalledApplicationList" => Ok(answer("InstalledApplicationList", self.installed())),
            "ManagedApplicationList" => Ok(answer("ManagedApplicationList", self.managed(command))),
            "ProfileList" => Ok(answer("ProfileList", self.profiles())),
            "CertificateList" => Ok(answer("CertificateList", Value::Array(Vec::new()))),
            "DeviceLock" => {
                self.state.locked = true;
                Ok(texts(&[("MessageResult", if self.state.has_passcode { "Success" } else { "NoPasscodeSet" })]))
            }
            "ClearPasscode" => self.clear_passcode(command),
            "EraseDevice" => {
                self.state.erased = true;
                self.state.enrolled = false;
                self.state.profiles.clear();
                Ok(Dictionary::new())
            }
            "EnableLostMode" if self.state.supervised => {
                self.state.lost = true;
                Ok(Dictionary::new())
            }
            "DisableLostMode" if self.state.lost => {
                self.state.lost = false;
                Ok(Dictionary::new())
            }
            "DeviceLocation" if self.state.lost => Ok(location()),
            "EnableLostMode" | "DisableLostMode" | "DeviceLocation" => Err((NOT_LOST, "The device is not in lost mode.")),
            "InstallApplication" => {
                let app = text("Identifier");
                self.state.apps.insert(app.clone(), "Installing");
                Ok(texts(&[("Identifier", &app), ("State", "Queued")]))
            }
            "RemoveApplication" => match self.state.apps.remove(&text("Identifier")) {
                Some(_) => Ok(Dictionary::new()),
                None => Err((NOT_MANAGED, "The app is not managed.")),
            },
            "RemoveProfile" if text("Identifier") == self.state.profile => {
                self.state.enrolled = false;
                self.state.profiles.clear();
                Ok(Dictionary::new())
            }
            "RemoveProfile" => match self.state.profiles.remove(&text("Identifier")) {
                Some(_) => Ok(Dictionary::new()),
                None => Err((NOT_INSTALLED, "The profile is not installed.")),
            },
            "InstallProfile" => self.install_profile(command.get("Payload").and_then(Value::as_data).unwrap_or_default()),
            "DeclarativeManagement" if self.state.knows_declarations => {
                self.hear_of_declarations(command.get("Data").and_then(Value::as_data).unwrap_or_default());
                Ok(Dictionary::new())
            }
            "RestartDevice" | "ShutDownDevice" | "Settings" | "DeviceConfigured" => Ok(Dictionary::new()),
            _ => Err((UNKNOWN_REQUEST, "Unknown request type.")),
        };
        match outcome {
            Ok(mut answer) => {
                self.state.done.push(request);
                answer.insert("Status".into(), Value::String("Acknowledged".into()));
                answer
            }
            Err((code, words)) => failed(code, words),
        }
    }

    /// True for a profile that replaces its enrollment profile.
    fn is_own(&self, profile: &[u8]) -> bool {
        Enrollment::read(profile).is_ok_and(|enrollment| enrollment.identifier == self.state.profile)
    }

    /// The enrollment's own renews its identity; any other takes the place of the one of its identifier, as a whole or not at all.
    fn install_profile(&mut self, bytes: &[u8]) -> Result<Dictionary, (i64, &'static str)> {
        if self.is_own(bytes) {
            self.state.renewal = self.identity.is_some().then(|| bytes.to_vec());
            return Ok(Dictionary::new());
        }
        let Some(profile) = profile_of(bytes) else { return Err((UNREADABLE, "The profile cannot be read.")) };
        let text = |key: &str| profile.get(key).and_then(Value::as_string).map(str::to_owned);
        let payloads = profile.get("PayloadContent").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_dictionary);
        let is_broken = payloads.into_iter().any(|payload| payload.contains_key("Broken"));
        match (text("PayloadIdentifier"), text("PayloadUUID")) {
            (Some(identifier), Some(uuid)) if !is_broken => {
                self.state.profiles.insert(identifier, uuid);
                Ok(Dictionary::new())
            }
            _ => Err((UNREADABLE, "The profile could not be installed.")),
        }
    }

    fn clear_passcode(&mut self, command: &Dictionary) -> Result<Dictionary, (i64, &'static str)> {
        let token = command.get("UnlockToken").and_then(Value::as_data);
        if token != Some(format!("unlock {}", self.udid).as_bytes()) {
            return Err((UNKNOWN_REQUEST, "The unlock token is wrong."));
        }
        self.state.has_passcode = false;
        self.state.locked = false;
        Ok(Dictionary::new())
    }

    fn device_information(&self, command: &Dictionary) -> Value {
        let mut known =
            texts(&[("OSVersion", "18.1"), ("ProductName", "iPhone17,1"), ("SerialNumber", &self.serial), ("DeviceName", "iPhone")]);
        known.insert("BatteryLevel".into(), Value::Real(0.8));
        known.insert("DeviceCapacity".into(), Value::Real(128.0));
        known.insert("AvailableDeviceCapacity".into(), Value::Real(64.0));
        known.insert("IsSupervised".into(), Value::Boolean(self.state.supervised));
        known.insert("IsMDMLostModeEnabled".into(), Value::Boolean(self.state.lost));
        let queries = command.get("Queries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        known.retain(|key, _| queries.iter().any(|query| query.as_string() == Some(key)));
        Value::Dictionary(known)
    }

    fn security_info(&self) -> Value {
        let mut known = Dictionary::new();
        known.insert("HardwareEncryptionCaps".into(), Value::Integer(3.into()));
        known.insert("PasscodePresent".into(), Value::Boolean(self.state.has_passcode));
        known.insert("PasscodeCompliant".into(), Value::Boolean(self.state.has_passcode));
        Value::Dictionary(known)
    }

    fn installed(&self) -> Value {
        let app = |(id, _): (&String, &&str)| Value::Dictionary(texts(&[("Identifier", id), ("Name", id), ("ShortVersion", "1.0")]));
        Value::Array(self.state.apps.iter().filter(|(_, status)| **status == "Managed").map(app).collect())
    }

    /// Every look finds an app one step further.
    fn managed(&mut self, command: &Dictionary) -> Value {
        let asked = command.get("Identifiers").and_then(Value::as_array);
        let is_asked = |id: &str| asked.is_none_or(|asked| asked.iter().any(|one| one.as_string() == Some(id)));
        let mut list = Dictionary::new();
        for (id, status) in self.state.apps.iter_mut().filter(|(id, _)| is_asked(id)) {
            list.insert(id.clone(), Value::Dictionary(texts(&[("Status", status)])));
            *status = "Managed";
        }
        Value::Dictionary(list)
    }

    fn profiles(&self) -> Value {
        let profile =
            texts(&[("PayloadIdentifier", &self.state.profile), ("PayloadUUID", "1"), ("PayloadDisplayName", "Device management")]);
        let mut profiles = vec![Value::Dictionary(profile)];
        for (identifier, uuid) in &self.state.profiles {
            profiles.push(Value::Dictionary(texts(&[("PayloadIdentifier", identifier), ("PayloadUUID", uuid)])));
        }
        for (identifier, uuid) in self.declared_profiles() {
            let declared =
                texts(&[("PayloadIdentifier", &identifier), ("PayloadUUID", &uuid), ("Source", "Declarative Device Management")]);
            profiles.push(Value::Dictionary(declared));
        }
        Value::Array(profiles)
    }
}

fn answer(key: &str, value: Value) -> Dictionary {
    let mut answer = Dictionary::new();
    answer.insert(key.into(), value);
    answer
}

fn location() -> Dictionary {
    let mut place = texts(&[("Timestamp", "2026-01-31T12:00:00Z")]);
    for (key, value) in [("Latitude", 48.1), ("Longitude", 11.6), ("HorizontalAccuracy", 12.0)] {
        place.insert(key.into(), Value::Real(value));
    }
    place
}

fn failed(code: i64, words: &str) -> Dictionary {
    let mut error = texts(&[("ErrorDomain", "MCMDMErrorDomain"), ("LocalizedDescription", words), ("USEnglishDescription", words)]);
    error.insert("ErrorCode".into(), Value::Integer(code.into()));
    let mut report = texts(&[("Status", "Error")]);
    report.insert("ErrorChain".into(), Value::Array(vec![Value::Dictionary(error)]));
    report
}
