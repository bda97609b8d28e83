//! Facts out of the answers to queries, by the keys that they carry: an answer does not say which command it is to.

use std::collections::BTreeMap;

use plist::{Dictionary, Value};
use serde_json::json;

use super::connect::Report;
use super::message::truth;
use crate::protocol::pki::Certificate;

/// Entries of a list that are kept.
const ENTRIES_MAX: usize = 2000;
/// Characters of a text that are kept.
const CHARS_MAX: usize = 256;
const GIGABYTE: f64 = 1_000_000_000.0;

type Facts = BTreeMap<String, serde_json::Value>;

/// Answers of DeviceInformation that are kept as they are.
const PLAIN: &[(&str, &str)] = &[
    ("OSVersion", "os_version"),
    ("SupplementalOSVersionExtra", "os_version_extra"),
    ("BuildVersion", "build_version"),
    ("SupplementalBuildVersion", "build_version_extra"),
    ("ModelNumber", "model_number"),
    ("SerialNumber", "serial"),
    ("DeviceName", "device_name"),
    ("ProductName", "product_name"),
    ("HostName", "host_name"),
    ("IsSupervised", "supervised"),
    ("IsMultiUser", "multi_user"),
    ("IsActivationLockEnabled", "activation_lock"),
    ("IsMDMLostModeEnabled", "lost_mode"),
    ("IsDeviceLocatorServiceEnabled", "locator_service"),
    ("IsCloudBackupEnabled", "cloud_backup"),
    ("IsAppleSilicon", "apple_silicon"),
    ("PINRequiredForEraseDevice", "wipe_needs_pin"),
    ("PINRequiredForDeviceLock", "lock_needs_pin"),
    ("TimeZone", "timezone"),
    ("WiFiMAC", "wifi_mac"),
    ("BluetoothMAC", "bluetooth_mac"),
    ("EthernetMAC", "ethernet_mac"),
    ("CellularTechnology", "cellular_technology"),
    ("DataRoamingEnabled", "data_roaming"),
    ("PersonalHotspotEnabled", "personal_hotspot"),
    ("iTunesStoreAccountIsActive", "store_account"),
];

/// Lists that are of everything, where the command asked for everything.
pub const LISTS: [&str; 4] = ["apps", "managed_apps", "profiles", "certificates"];

/// What a report tells of its device.
pub fn of(report: &Report) -> Facts {
    let mut facts = Facts::new();
    if let Some(answers) = dictionary(report, "QueryResponses") {
        device_information(answers, &mut facts);
    }
    if let Some(security) = dictionary(report, "SecurityInfo") {
        security_info(security, &mut facts);
    }
    if let Some(apps) = list(report, "InstalledApplicationList") {
        facts.insert("apps".into(), installed(apps));
    }
    if let Some(apps) = dictionary(report, "ManagedApplicationList") {
        facts.insert("managed_apps".into(), managed(apps));
    }
    if let Some(profiles) = list(report, "ProfileList") {
        facts.insert("profiles".into(), rows(profiles, profile));
    }
    if let Some(certificates) = list(report, "CertificateList") {
        facts.insert("certificates".into(), rows(certificates, certificate));
    }
    facts
}

/// Where an app stands, if the report says it.
pub fn managed_status(report: &Report, app: &str) -> Option<String> {
    let apps = dictionary(report, "ManagedApplicationList")?;
    text(apps.get(app)?.as_dictionary()?, "Status")
}

fn dictionary<'a>(report: &'a Report, key: &str) -> Option<&'a Dictionary> {
    report.get(key)?.as_dictionary()
}

fn list<'a>(report: &'a Report, key: &str) -> Option<&'a [Value]> {
    report.get(key)?.as_array().map(Vec::as_slice)
}

fn text(dictionary: &Dictionary, key: &str) -> Option<String> {
    let text = dictionary.get(key)?.as_string()?;
    Some(text.chars().filter(|c| *c != '\0').take(CHARS_MAX).collect())
}

fn number(dictionary: &Dictionary, key: &str) -> Option<f64> {
    let value = dictionary.get(key)?;
    value.as_real().or_else(|| value.as_signed_integer().map(|number| number as f64))
}

fn device_information(answers: &Dictionary, facts: &mut Facts) {
    for (key, name) in PLAIN {
        let value = match answers.get(key) {
            Some(Value::String(_)) => text(answers, key).map(|text| json!(text)),
            Some(Value::Boolean(flag)) => Some(json!(flag)),
            Some(Value::Integer(number)) => number.as_signed().map(|number| json!(number)),
            _ => None,
        };
        facts.extend(value.map(|value| ((*name).to_owned(), value)));
    }
    if let Some(model) = text(answers, "ProductName").or_else(|| text(answers, "ModelName")).or_else(|| text(answers, "Model")) {
        facts.insert("model".into(), json!(model));
    }
    if let Some(Value::Array(subscriptions)) = answers.get("ServiceSubscriptions") {
        facts.insert("sims".into(), rows(subscriptions, subscription));
    }
    if let Some(level) = number(answers, "BatteryLevel") {
        // -1 stands for not known.
        let percent = if (0.0..=1.0).contains(&level) { json!((level * 100.0).round() as i64) } else { json!(null) };
        facts.insert("battery_percent".into(), percent);
    }
    for (key, name) in [("DeviceCapacity", "storage_total_bytes"), ("AvailableDeviceCapacity", "storage_free_bytes")] {
        if let Some(gigabytes) = number(answers, key).filter(|gigabytes| (0.0..1e6).contains(gigabytes)) {
            facts.insert(name.into(), json!((gigabytes * GIGABYTE).round() as i64));
        }
    }
}

fn security_info(security: &Dictionary, facts: &mut Facts) {
    let flag = |key: &str| security.get(key).and_then(truth);
    let present = flag("PasscodePresent");
    // The rules of profiles and those of accounts: whoever breaks one of them does not comply.
    let compliant = flag("PasscodeCompliant").map(|all| all && flag("PasscodeCompliantWithProfiles") != Some(false));
    let firewall = security.get("FirewallSettings").and_then(Value::as_dictionary);
    // Data protection of an iPhone works with a passcode alone.
    let protected = number(security, "HardwareEncryptionCaps").map(|caps| caps >= 3.0 && present == Some(true));
    let status = security.get("ManagementStatus").and_then(Value::as_dictionary);
    let enrolled = |key: &str| status.and_then(|status| status.get(key)).and_then(truth);
    let known = [
        ("password_set", present),
        ("passcode_compliant", compliant),
        ("passcode_compliant_with_profiles", flag("PasscodeCompliantWithProfiles")),
        ("encrypted", flag("FDE_Enabled").or(protected)),
        ("system_integrity_protection", flag("SystemIntegrityProtectionEnabled")),
        ("recovery_key_personal", flag("FDE_HasPersonalRecoveryKey")),
        ("recovery_key_institutional", flag("FDE_HasInstitutionalRecoveryKey")),
        ("firewall", firewall.and_then(|settings| settings.get("FirewallEnabled")).and_then(truth)),
        ("remote_desktop", flag("RemoteDesktopEnabled")),
        ("recovery_lock", flag("IsRecoveryLockEnabled")),
        ("enrolled_automatically", enrolled("EnrolledViaDEP")),
        ("user_approved_enrollment", enrolled("UserApprovedEnrollment")),
        ("user_enrollment", enrolled("IsUserEnrollment")),
    ];
    facts.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))));
}

/// Apps by id: a device lists them in any order, and the order means nothing.
fn installed(apps: &[Value]) -> serde_json::Value {
    let mut known: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for app in apps.iter().take(ENTRIES_MAX).filter_map(Value::as_dictionary) {
        let Some(id) = text(app, "Identifier").filter(|id| !id.is_empty()) else { continue };
        let version = text(app, "ShortVersion").or_else(|| text(app, "Version"));
        known.insert(id.clone(), json!({"id": id, "name": text(app, "Name"), "version": version}));
    }
    known.into_values().collect()
}

fn managed(apps: &Dictionary) -> serde_json::Value {
    let app = |(id, app): (&String, &Value)| Some((short(id), json!(text(app.as_dictionary()?, "Status")?)));
    let known: BTreeMap<String, serde_json::Value> = apps.iter().take(ENTRIES_MAX).filter_map(app).collect();
    json!(known)
}

fn short(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(CHARS_MAX).collect()
}

fn rows(values: &[Value], row: fn(&Dictionary) -> serde_json::Value) -> serde_json::Value {
    let mut rows: Vec<serde_json::Value> = values.iter().take(ENTRIES_MAX).filter_map(Value::as_dictionary).map(row).collect();
    rows.sort_by_cached_key(serde_json::Value::to_string);
    rows.into()
}

/// A SIM and its subscription. What changes on every journey is left out: it would write the facts anew each time.
fn subscription(one: &Dictionary) -> serde_json::Value {
    json!({
        "slot": text(one, "Slot"), "label": text(one, "Label"), "imei": text(one, "IMEI"), "meid": text(one, "MEID"),
        "eid": text(one, "EID"), "iccid": text(one, "ICCID"), "phone_number": text(one, "PhoneNumber"),
        "carrier": text(one, "SIMCarrierNetwork"), "data": one.get("IsDataPreferred").and_then(truth),
    })
}

fn profile(profile: &Dictionary) -> serde_json::Value {
    json!({
        "identifier": text(profile, "PayloadIdentifier"), "uuid": text(profile, "PayloadUUID"), "name": text(profile, "PayloadDisplayName"),
        "managed": profile.get("IsManaged").and_then(truth),
    })
}

fn certificate(certificate: &Dictionary) -> serde_json::Value {
    let read = certificate.get("Data").and_then(Value::as_data).and_then(|der| Certificate::from_der(der).ok());
    json!({
        "name": text(certificate, "CommonName"), "identity": certificate.get("IsIdentity").and_then(truth),
        "sha256": read.as_ref().map(Certificate::hash), "expires_at_ms": read.as_ref().map(Certificate::until_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::apple::message::Message;

    fn facts(answer: &str) -> serde_json::Value {
        let text = format!(
            "<plist version=\"1.0\"><dict><key>UDID</key><string>U</string><key>Status</key><string>Acknowledged</string><key>CommandUUID</key><string>c</string>{answer}</dict></plist>"
        );
        json!(of(&Report::of(Message::parse(text.as_bytes()).unwrap()).unwrap()))
    }

    #[test]
    fn answers_become_facts_in_the_words_that_agents_use() {
        let device = "<key>QueryResponses</key><dict><key>OSVersion</key><string>18.1</string><key>ProductName</key><string>iPhone15,2</string><key>BatteryLevel</key><real>0.57</real><key>DeviceCapacity</key><real>128</real><key>IsSupervised</key><true/></dict>";
        assert_eq!(
            facts(device),
            json!({"os_version": "18.1", "product_name": "iPhone15,2", "model": "iPhone15,2", "battery_percent": 57, "storage_total_bytes": 128_000_000_000_i64, "supervised": true})
        );
        let security = "<key>SecurityInfo</key><dict><key>HardwareEncryptionCaps</key><integer>3</integer><key>PasscodePresent</key><false/><key>PasscodeCompliant</key><string>false</string></dict>";
        assert_eq!(facts(security), json!({"password_set": false, "passcode_compliant": false, "encrypted": false}));
        let mac = "<key>SecurityInfo</key><dict><key>FDE_Enabled</key><true/><key>FirewallSettings</key><dict><key>FirewallEnabled</key><true/></dict></dict>";
        assert_eq!(facts(mac), json!({"encrypted": true, "firewall": true}));
        let sims = "<key>QueryResponses</key><dict><key>ServiceSubscriptions</key><array><dict><key>Slot</key><string>CTSubscriptionSlotOne</string><key>IMEI</key><string>35 000000 000000 0</string><key>PhoneNumber</key><string>+490000</string><key>IsRoaming</key><true/><key>IsDataPreferred</key><true/></dict><string>no</string></array></dict>";
        let known = facts(sims)["sims"][0].clone();
        assert_eq!(
            (&known["slot"], &known["phone_number"], &known["data"]),
            (&json!("CTSubscriptionSlotOne"), &json!("+490000"), &json!(true))
        );
        assert!(known["iccid"].is_null() && known.get("roaming").is_none());
        let apps = "<key>InstalledApplicationList</key><array><dict><key>Identifier</key><string>b</string></dict><dict><key>Identifier</key><string>a</string><key>ShortVersion</key><string>2</string><key>Name</key><string>A</string></dict><string>no</string></array>";
        assert_eq!(facts(apps)["apps"], json!([{"id": "a", "name": "A", "version": "2"}, {"id": "b", "name": null, "version": null}]));
        let managed = "<key>ManagedApplicationList</key><dict><key>a</key><dict><key>Status</key><string>Managed</string></dict></dict>";
        assert_eq!(facts(managed), json!({"managed_apps": {"a": "Managed"}}));
    }

    #[test]
    fn wrong_types_tell_nothing() {
        assert_eq!(
            facts("<key>QueryResponses</key><array/><key>SecurityInfo</key><string>x</string><key>ProfileList</key><dict/>"),
            json!({})
        );
        assert_eq!(facts("<key>QueryResponses</key><dict><key>BatteryLevel</key><real>-1</real></dict>"), json!({"battery_percent": null}));
    }
}
