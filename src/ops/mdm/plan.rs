//! How a task becomes commands: most kinds are one, some are several in a row. Pure: parameters and progress in, a command out; a
//! report in, progress or an end out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::protocol::apple::command::{Command, Erasure};
use crate::protocol::apple::connect::{chain, json_object, json_of};
use crate::protocol::apple::{Report, Status, facts};

use super::raw;

/// Between two looks at an app that is being installed: doubles from the first to the last.
const LOOK_FIRST_MS: i64 = 60_000;
const LOOK_LAST_MS: i64 = 30 * 60_000;
/// A result is kept up to this size.
const RESULT_BYTES_MAX: usize = 256 * 1024;
/// What Macs take for a PIN.
const PIN_DIGITS: usize = 6;
/// The phases of `locate` in which lost mode is turned on and off.
pub(super) const LOST_ON: u32 = 1;
pub(super) const LOST_OFF: u32 = 3;
/// What a lost device shows while it is located.
const LOST_MESSAGE: &str = "This device is being located by its organisation.";
/// The keys of a report that say nothing of the command.
const ENVELOPE: [&str; 10] = [
    "Status",
    "CommandUUID",
    "UDID",
    "EnrollmentID",
    "EnrollmentUserID",
    "UserID",
    "UserShortName",
    "UserLongName",
    "NotOnConsole",
    "RequestType",
];

/// How far a task has come; kept as the task's progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Commands that have had their final status; the next one's id ends with it.
    pub step: u32,
    /// Where in its kind's sequence the task stands.
    pub phase: u32,
    /// How often the present command of a `locate` was given.
    #[serde(skip_serializing_if = "is_zero")]
    pub given: u32,
    /// Looks at an app that were in vain.
    #[serde(skip_serializing_if = "is_zero")]
    pub looks: u32,
    /// No command before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_until_ms: Option<i64>,
    /// What an earlier command answered that the end needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_now: Option<NotNow>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How often and when the device said that it cannot do it now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotNow {
    pub count: u32,
    pub first_at_ms: i64,
    pub last_at_ms: i64,
    /// How often in the present conversation.
    pub in_this_session: u32,
}

impl Progress {
    /// As stored; what cannot be read begins anew.
    pub fn read(text: Option<&str>) -> Progress {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// As it is stored.
    pub fn text(&self) -> String {
        json!(self).to_string()
    }

    /// The device said NotNow.
    pub fn put_off(&mut self, now_ms: i64) {
        let before = self.not_now.take();
        let first_at_ms = before.as_ref().map_or(now_ms, |before| before.first_at_ms);
        let (count, in_this_session) = before.map_or((0, 0), |before| (before.count, before.in_this_session));
        self.not_now = Some(NotNow { count: count + 1, first_at_ms, last_at_ms: now_ms, in_this_session: in_this_session + 1 });
    }
}

/// What a command needs to know of its device.
#[derive(Clone, Debug, Default)]
pub struct Facing {
    pub platform: String,
    pub unlock_token: Option<Vec<u8>>,
    /// The identifier of the enrollment profile.
    pub profile: String,
    /// True where the device is lost by somebody else than a `locate`, whose business that is.
    pub is_lost: bool,
}

/// What comes next of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Send(Command),
    /// Nothing before this time.
    Wait(i64),
    /// It cannot be done: code and sentence.
    Fail(&'static str, &'static str),
}

/// What a report does to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Took {
    Goes(Progress),
    Done(Value),
    /// `{code, message, chain}`.
    Failed(Value),
}

/// The next command of a task.
pub fn next(kind: &str, params: &Value, progress: &Progress, facing: &Facing, now_ms: i64) -> Next {
    if let Some(until_ms) = progress.wait_until_ms.filter(|until_ms| *until_ms > now_ms) {
        return Next::Wait(until_ms);
    }
    let text = |name: &str| params.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let is_set = |name: &str| params.get(name).and_then(Value::as_bool).unwrap_or_default();
    let is_mac = facing.platform == "macos";
    let pin = text("pin").filter(|_| is_mac);
    if pin.is_some_and(|pin| pin.len() != PIN_DIGITS || !pin.bytes().all(|byte| byte.is_ascii_digit())) {
        return Next::Fail("pin_invalid", "a Mac takes a PIN of six digits");
    }
    let app = text("app").unwrap_or_default();
    let command = match (kind, progress.phase) {
        ("lock", _) => Command::device_lock(text("message"), text("phone"), pin),
        ("clear_passcode", _) => match &facing.unlock_token {
            Some(token) => Command::clear_passcode(token.clone()),
            None => return Next::Fail("unlock_token_missing", "the device never gave the token by which its passcode is cleared"),
        },
        ("restart", _) => Command::new("RestartDevice"),
        ("wipe", _) => Command::erase_device(&Erasure {
            pin,
            obliteration: text("obliteration").filter(|_| is_mac),
            keeps_data_plan: is_set("keep_data_plan") && !is_mac,
            forbids_proximity_setup: is_set("forbid_proximity_setup") && !is_mac,
            return_to_service: raw::back(params).ok().flatten().filter(|_| !is_mac),
        }),
        ("retire", _) => Command::remove_profile(&facing.profile),
        ("locate", 0 | 2) => Command::new("DeviceLocation"),
        ("locate", LOST_ON) => Command::enable_lost_mode(LOST_MESSAGE),
        // Somebody has marked it as lost meanwhile: it stays so, and the answer to this ends the task as well.
        ("locate", _) if facing.is_lost => Command::new("DeviceLocation"),
        ("locate", _) => Command::new("DisableLostMode"),
        ("install_app", 0) => {
            if text("url").is_some_and(|url| !url.starts_with("https://")) {
                return Next::Fail("url_invalid", "Apple's devices fetch a manifest over https:// alone");
            }
            let Ok(store_id) = text("store_id").map(str::parse).transpose() else {
                return Next::Fail("store_id_invalid", "the App Store's ids are numbers");
            };
            Command::install_application(app, text("url"), store_id)
        }
        ("install_app", _) => Command::managed_application_list(Some(app)),
        ("remove_app", _) => Command::remove_application(app),
        ("refresh", phase) => match refresh(text("what")).into_iter().nth(usize::try_from(phase).unwrap_or(usize::MAX)) {
            Some(command) => command,
            None => return Next::Fail("plan", "there is nothing left to ask"),
        },
        ("apple_command", _) => match raw::command(params) {
            Ok((command, _)) => command,
            Err(_) => return Next::Fail("command_invalid", "the command cannot be read any more"),
        },
        _ => return Next::Fail("unsupported", "Apple's MDM has no such command"),
    };
    Next::Send(command)
}

/// What the server asks a device about itself: one part, or everything.
pub fn refresh(what: Option<&str>) -> Vec<Command> {
    let facts = || Command::device_information();
    let apps = || vec![Command::new("InstalledApplicationList"), Command::managed_application_list(None)];
    match what {
        Some("facts") => vec![facts()],
        Some("security") => vec![Command::new("SecurityInfo")],
        Some("apps") => apps(),
        Some("profiles") => vec![Command::new("ProfileList")],
        Some("certificates") => vec![Command::new("CertificateList")],
        _ => {
            let mut all = vec![facts(), Command::new("SecurityInfo")];
            all.extend(apps());
            all.extend([Command::new("ProfileList"), Command::new("CertificateList")]);
            all
        }
    }
}

/// What a final status does to a task. `is_lost` as in [`Facing`].
pub fn take(kind: &str, params: &Value, progress: &Progress, report: &Report, is_lost: bool, now_ms: i64) -> Took {
    let acknowledged = report.status == Status::Acknowledged;
    let onward = |phase: u32| Progress { step: progress.step + 1, phase, given: 0, wait_until_ms: None, not_now: None, ..progress.clone() };
    match (kind, progress.phase, acknowledged) {
        ("locate", 0, true) => Took::Done(location(report)),
        // Where it is lost already, it does not know where it is.
        ("locate", 0, false) if report.status == Status::Error && !is_lost => Took::Goes(onward(LOST_ON)),
        ("locate", LOST_ON, true) => Took::Goes(onward(2)),
        ("locate", 2, _) => {
            let kept = if acknowledged { json!({"done": location(report)}) } else { json!({"failed": failure(report)}) };
            Took::Goes(Progress { kept: Some(kept), ..onward(LOST_OFF) })
        }
        ("locate", LOST_OFF, _) => match progress.kept.as_ref().map(|kept| (kept.get("done"), kept.get("failed"))) {
            Some((Some(found), _)) => Took::Done(found.clone()),
            Some((_, Some(failed))) => Took::Failed(failed.clone()),
            _ => Took::Failed(failure(report)),
        },
        ("install_app", 0, true) => match report.get("RejectionReason").and_then(plist::Value::as_string) {
            Some(reason) => Took::Failed(json!({"code": reason, "message": "the device rejects the app", "chain": report.chain})),
            None => Took::Goes(onward(1)),
        },
        ("install_app", 1.., true) => installing(params, progress, onward(1), report, now_ms),
        ("refresh", phase, _) => {
            // One part that a device may not tell does not fail the others.
            let heard = acknowledged || progress.kept.is_some();
            let what = params.get("what").and_then(Value::as_str);
            let is_last = usize::try_from(phase).unwrap_or(usize::MAX).saturating_add(1) >= refresh(what).len();
            match (is_last, heard) {
                (true, true) => Took::Done(json!({})),
                (true, false) => Took::Failed(failure(report)),
                (false, heard) => Took::Goes(Progress { kept: heard.then_some(json!(true)), ..onward(phase + 1) }),
            }
        }
        (_, _, true) => match unset(report) {
            Some(error) => Took::Failed(error),
            None => Took::Done(answer(report)),
        },
        (_, _, false) => Took::Failed(failure(report)),
    }
}

/// An app counts as installed only when the device says that it manages it.
fn installing(params: &Value, progress: &Progress, onward: Progress, report: &Report, now_ms: i64) -> Took {
    let app = params.get("app").and_then(Value::as_str).unwrap_or_default();
    let status = facts::managed_status(report, app);
    match status.as_deref() {
        Some("Managed") => Took::Done(json!({"status": "Managed"})),
        Some(
            end @ ("Failed" | "UserRejected" | "UpdateRejected" | "ManagementRejected" | "ManagedButUninstalled" | "UserInstalledApp"),
        ) => Took::Failed(json!({"code": end, "message": "the app was not installed as a managed app", "chain": []})),
        _ => {
            let wait_ms = (LOOK_FIRST_MS << progress.looks.min(8)).min(LOOK_LAST_MS);
            Took::Goes(Progress {
                looks: progress.looks + 1,
                wait_until_ms: Some(now_ms + wait_ms),
                kept: status.map(Value::from),
                ..onward
            })
        }
    }
}

/// The items of a Settings command that a device did not take, where there are any: the command as a whole is acknowledged all the same. What
/// devices send is a list; Apple's description of it is a dictionary by item.
fn unset(report: &Report) -> Option<Value> {
    let results: Vec<&plist::Dictionary> = match report.get("Settings")? {
        plist::Value::Array(results) => results.iter().filter_map(plist::Value::as_dictionary).collect(),
        plist::Value::Dictionary(one) if one.contains_key("Status") => vec![one],
        plist::Value::Dictionary(by_item) => by_item.values().filter_map(plist::Value::as_dictionary).collect(),
        _ => return None,
    };
    let text = |result: &plist::Dictionary, key: &str| result.get(key).and_then(plist::Value::as_string).unwrap_or_default().to_owned();
    let (mut failed, mut errors) = (Vec::new(), Vec::new());
    for result in results.iter().filter(|result| text(result, "Status") == "Error") {
        failed.push(
            [text(result, "Item"), text(result, "Identifier")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        );
        errors.extend(chain(result.get("ErrorChain")));
    }
    let message = format!("{} of {} items were not taken: {}", failed.len(), results.len(), failed.join(", "));
    (!failed.is_empty()).then(|| json!({"code": "settings_failed", "message": message, "chain": errors, "result": answer(report)}))
}

/// True where an answer to a task names everything that there is of its kind.
pub fn is_whole(kind: &str, params: &Value) -> bool {
    match kind {
        "refresh" => true,
        "apple_command" => raw::command(params).is_ok_and(|(command, _)| !command.is_partial()),
        _ => false,
    }
}

fn location(report: &Report) -> Value {
    let value = |key: &str| report.get(key).map(json_of);
    json!({"lat": value("Latitude"), "lon": value("Longitude"), "accuracy_m": value("HorizontalAccuracy"), "at_ms": value("Timestamp").and_then(|at| at_ms(&at))})
}

/// RFC 3339 as Unix milliseconds.
fn at_ms(value: &Value) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|at| at.timestamp_millis())
}

/// What the device answered, without the envelope.
fn answer(report: &Report) -> Value {
    let mut answer: Map<String, Value> = json_object(&report.body);
    answer.retain(|key, _| !ENVELOPE.contains(&key.as_str()));
    let answer = Value::Object(answer);
    let bytes = answer.to_string().len();
    if bytes <= RESULT_BYTES_MAX { answer } else { json!({"too_large": true, "bytes": bytes}) }
}

/// The device's own words for why it failed.
pub fn failure(report: &Report) -> Value {
    let (code, message) = match report.status {
        Status::CommandFormatError => ("command_format_error".to_owned(), "the device cannot read the command".to_owned()),
        _ => report.error(),
    };
    json!({"code": code, "message": message, "chain": report.chain})
}

#[cfg(test)]
mod tests;
