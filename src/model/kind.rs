//! The kinds of tasks: who can do them, how urgently, with which parameters.

use serde_json::{Map, Value};

use super::{Fault, Lane, below, text};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// What a parameter must be.
#[derive(Clone, Copy, Debug)]
enum Param {
    /// A text of at most so many characters.
    Text(usize),
    Bool,
    /// One of these words.
    Word(&'static [&'static str]),
    Object,
}

/// A kind of task.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    pub lane: Lane,
    /// Platforms whose agent can do it; empty where only Apple's own MDM channel can.
    pub agents: &'static [&'static str],
    /// Platforms whose own MDM channel can do it; where a device has both, this one does.
    pub apple: &'static [&'static str],
    /// Waits for a second operator above the budget; its job aims at the devices that were there when it was ordered. Of a command that an
    /// operator wrote it depends on the command: `ops::jobs::is_destructive` knows both.
    pub destructive: bool,
    /// True where a device that is denied still gets it; `store::tasks` names the same kinds where it tells why a task waits.
    pub for_denied: bool,
    /// True where a fresh order takes the place of an equal one that was not delivered yet: one answer serves both.
    pub supersedes: bool,
    patience_min: i64,
    params: &'static [(&'static str, bool, Param)],
}

/// A property list in base64 at most.
const PROFILE_CHARS_MAX: usize = 1_000_000;

/// The kind that is a command of Apple's protocol as an operator wrote it.
pub const APPLE_COMMAND: &str = "apple_command";

const BOTH: &[&str] = &["android", "ios"];
const ANDROID: &[&str] = &["android"];
const APPLE: &[&str] = &["ios", "macos", "tvos", "visionos", "watchos"];
const PHONES_AND_MACS: &[&str] = &["ios", "macos"];

const fn kind(
    name: &'static str,
    lane: Lane,
    agents: &'static [&'static str],
    patience_min: i64,
    params: &'static [(&'static str, bool, Param)],
) -> Kind {
    Kind { name, lane, agents, apple: &[], destructive: false, for_denied: false, supersedes: false, patience_min, params }
}

/// The names of every kind.
pub const NAMES: [&str; KINDS.len()] = {
    let mut names = [""; KINDS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = KINDS[at].name;
        at += 1;
    }
    names
};

/// What a Mac does that cannot erase itself by throwing its keys away, in Apple's words.
pub const OBLITERATION: &[&str] = &["Default", "DoNotObliterate", "ObliterateWithWarning", "Always"];

const APP: &[(&str, bool, Param)] = &[
    ("app", true, Param::Text(256)),
    ("url", false, Param::Text(2048)),
    ("store_id", false, Param::Text(256)),
    ("version", false, Param::Text(64)),
    ("sha256", false, Param::Text(64)),
];

/// Every kind. An iOS app enforces nothing: what it cannot do is left to the MDM channel.
pub const KINDS: &[Kind] = &[
    Kind {
        apple: PHONES_AND_MACS,
        for_denied: true,
        ..kind(
            "lock",
            Lane::Urgent,
            ANDROID,
            5,
            &[("message", false, Param::Text(1000)), ("phone", false, Param::Text(64)), ("pin", false, Param::Text(16))],
        )
    },
    kind("unlock", Lane::Urgent, ANDROID, 5, &[]),
    Kind { apple: &["ios", "visionos", "watchos"], ..kind("clear_passcode", Lane::Urgent, &[], 5, &[]) },
    kind("reset_password", Lane::Urgent, ANDROID, 5, &[("password", true, Param::Text(256))]),
    Kind { apple: &["ios", "macos", "tvos"], ..kind("restart", Lane::Urgent, ANDROID, 5, &[]) },
    Kind {
        apple: APPLE,
        destructive: true,
        for_denied: true,
        ..kind(
            "wipe",
            Lane::Urgent,
            ANDROID,
            5,
            &[
                ("reason", false, Param::Text(1000)),
                ("keep_reset_protection", false, Param::Bool),
                ("external_storage", false, Param::Bool),
                ("pin", false, Param::Text(16)),
                ("obliteration", false, Param::Word(OBLITERATION)),
                ("keep_data_plan", false, Param::Bool),
                ("forbid_proximity_setup", false, Param::Bool),
                ("return_to_service", false, Param::Bool),
                ("wifi_profile", false, Param::Text(PROFILE_CHARS_MAX)),
                ("mdm_profile", false, Param::Text(PROFILE_CHARS_MAX)),
            ],
        )
    },
    Kind { apple: APPLE, destructive: true, for_denied: true, ..kind("retire", Lane::Urgent, BOTH, 5, &[]) },
    Kind { apple: &["ios"], for_denied: true, ..kind("locate", Lane::Urgent, BOTH, 5, &[]) },
    kind("scan", Lane::Change, ANDROID, 60, &[("scope", false, Param::Text(256))]),
    kind("message", Lane::Change, BOTH, 10, &[("text", true, Param::Text(4096)), ("title", false, Param::Text(256))]),
    Kind { apple: PHONES_AND_MACS, ..kind("install_app", Lane::Change, ANDROID, 60, APP) },
    Kind { apple: PHONES_AND_MACS, for_denied: true, ..kind("remove_app", Lane::Change, ANDROID, 10, APP) },
    Kind {
        apple: APPLE,
        supersedes: true,
        ..kind(
            "refresh",
            Lane::Change,
            BOTH,
            10,
            &[("what", false, Param::Word(&["facts", "apps", "profiles", "security", "certificates"]))],
        )
    },
    Kind {
        apple: APPLE,
        ..kind(
            APPLE_COMMAND,
            Lane::Change,
            &[],
            10,
            &[
                ("command", false, Param::Object),
                ("plist", false, Param::Text(PROFILE_CHARS_MAX)),
                ("command_uuid", false, Param::Text(64)),
            ],
        )
    },
];

/// A parameter as a form asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub required: bool,
    /// `text`, `bool`, `word` or `object`.
    pub shape: &'static str,
    /// What a `word` may be.
    pub words: &'static [&'static str],
}

impl Kind {
    /// What to say of a name that is no kind.
    pub fn unknown(name: &str) -> String {
        format!("there is no kind {name:?}{}; take one of {}", did_you_mean(name, &NAMES), NAMES.join(", "))
    }

    /// The parameters, in the order in which a form asks for them.
    pub fn fields(&self) -> Vec<Field> {
        let field = |(name, required, param): &(&'static str, bool, Param)| {
            let (shape, words): (_, &'static [&'static str]) = match param {
                Param::Text(_) => ("text", &[]),
                Param::Bool => ("bool", &[]),
                Param::Word(words) => ("word", words),
                Param::Object => ("object", &[]),
            };
            Field { name, required: *required, shape, words }
        };
        self.params.iter().map(field).collect()
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// How long to wait for the next sign of a delivered task.
    pub fn patience_ms(&self) -> i64 {
        self.patience_min * MINUTE_MS
    }

    /// How long a task may wait unless its job says otherwise. An urgent order that comes weeks late does harm (a lock of a phone that
    /// was found again), and the provider holds its nudge for seven days; a change is still wanted after a month. A refresh that
    /// waits for more than a day would only tell what the next contact tells anyway.
    pub fn expires_in_ms(&self) -> i64 {
        match (self.lane, self.destructive) {
            // A stolen phone may be switched off for weeks.
            (_, true) => 90 * DAY_MS,
            _ if self.name == "refresh" => DAY_MS,
            (Lane::Urgent, _) => 7 * DAY_MS,
            _ => 30 * DAY_MS,
        }
    }

    /// True where every channel of a device does it: each knows of the device what the others do not.
    pub fn is_for_each_channel(&self) -> bool {
        self.name == "refresh"
    }

    /// True where the agent of this platform can do it.
    pub fn fits(&self, platform: &str) -> bool {
        self.agents.contains(&platform)
    }

    /// True where this platform's own MDM channel can do it. On a device that is `theirs`, a person's who brought it along (user enrollment),
    /// nobody but its owner takes its passcode away, erases, restarts or finds it, or locks a Mac.
    pub fn fits_apple(&self, platform: &str, theirs: bool) -> bool {
        let is_the_owners = match self.name {
            "clear_passcode" | "wipe" | "restart" | "locate" => true,
            "lock" => platform == "macos",
            _ => false,
        };
        self.apple.contains(&platform) && !(theirs && is_the_owners)
    }

    /// True where a device of this platform with channels of these kinds (`agent`, `mdm`) can do it; `theirs` as in [`Kind::fits_apple`].
    pub fn is_for<'a>(&self, platform: &str, theirs: bool, channels: impl IntoIterator<Item = &'a str>) -> bool {
        channels.into_iter().any(|channel| if channel == "agent" { self.fits(platform) } else { self.fits_apple(platform, theirs) })
    }

    /// Everything that is wrong with parameters.
    pub fn check(&self, params: &Map<String, Value>) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |name: &str, detail: String| faults.push(Fault { pointer: below("/params", name), detail });
        for (name, value) in params {
            match self.params.iter().find(|(known, _, _)| known == name) {
                None => {
                    let known: Vec<&str> = self.params.iter().map(|(known, _, _)| *known).collect();
                    let takes = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
                    fault(name, format!("{} takes no {name:?}{}; it takes: {takes}", self.name, did_you_mean(name, &known)));
                }
                Some((_, _, shape)) => {
                    if let Err(detail) = shape.check(value) {
                        fault(name, detail);
                    }
                }
            }
        }
        for (name, _, _) in self.params.iter().filter(|(name, required, _)| *required && !params.contains_key(*name)) {
            fault(name, "is needed".into());
        }
        if faults.is_empty() && !self.apple.is_empty() {
            // Apple's devices get them in a property list.
            params.iter().for_each(|(name, value)| text::unsayable(value, &below("/params", name), &mut |fault| faults.push(fault)));
        }
        faults
    }
}

impl Param {
    fn check(self, value: &Value) -> Result<(), String> {
        match self {
            Param::Text(most) => match value.as_str() {
                Some(text) if text.contains('\0') => Err("U+0000 is not allowed".into()),
                Some(text) if text.chars().nth(most).is_none() => Ok(()),
                Some(_) => Err(format!("at most {most} characters")),
                None => Err("must be a text".into()),
            },
            Param::Bool if value.is_boolean() => Ok(()),
            Param::Bool => Err("must be true or false".into()),
            Param::Word(words) if value.as_str().is_some_and(|word| words.contains(&word)) => Ok(()),
            Param::Word(words) => Err(format!("must be one of {}", words.join(", "))),
            Param::Object if value.is_object() => Ok(()),
            Param::Object => Err("must be an object".into()),
        }
    }
}

/// `; did you mean ...` where a known name is near.
fn did_you_mean(name: &str, known: &[&str]) -> String {
    const NEAR: f64 = 0.7;
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    nearest.filter(|near| strsim::jaro_winkler(name, near) > NEAR).map_or_else(String::new, |near| format!("; did you mean {near:?}"))
}

/// Every state of a task.
pub const STATES: [&str; 11] =
    ["queued", "delivered", "not_now", "received", "running", "done", "failed", "expired", "cancelled", "superseded", "awaiting_approval"];

/// States in which a task can still change.
pub const OPEN_STATES: &[&str] = &["queued", "delivered", "not_now", "received", "running", "awaiting_approval"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(kind: &str, params: Value) -> Vec<(String, String)> {
        let faults = Kind::named(kind).unwrap().check(params.as_object().unwrap());
        faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
    }

    #[test]
    fn a_wrong_parameter_is_named_by_its_place_and_an_unknown_one_by_its_nearest() {
        assert_eq!(faults("lock", json!({"message": "lost", "pin": "1234"})), []);
        assert_eq!(faults("lock", json!({"message": 5})), [("/params/message".to_owned(), "must be a text".to_owned())]);
        assert_eq!(
            faults("wipe", json!({"external_storage": "yes"})),
            [("/params/external_storage".to_owned(), "must be true or false".to_owned())]
        );
        assert_eq!(faults("message", json!({})), [("/params/text".to_owned(), "is needed".to_owned())]);
        let [(pointer, detail)] = &faults("lock", json!({"mesage": "x"}))[..] else { panic!("one fault") };
        assert_eq!(pointer, "/params/mesage");
        assert!(detail.contains("did you mean \"message\""), "{detail}");
        assert!(Kind::unknown("unlok").contains("did you mean \"unlock\""));
        assert!(faults("lock", json!({"message": "x".repeat(1001)}))[0].1.contains("1000"));
        assert!(faults("refresh", json!({"what": "faces"}))[0].1.contains("facts"));
    }

    #[test]
    fn what_a_property_list_cannot_say_is_refused_of_the_kinds_that_go_into_one() {
        let pointers = |kind: &str, params: Value| faults(kind, params).into_iter().map(|(pointer, _)| pointer).collect::<Vec<_>>();
        assert_eq!(
            pointers("lock", json!({"message": "a\u{1}b", "phone": "\u{b}", "pin": "\u{fffe}"})),
            ["/params/message", "/params/phone", "/params/pin"]
        );
        assert_eq!(pointers("lock", json!({"message": "line\nline\ttab\r"})), [""; 0]);
        let nested = json!({"command": {"RequestType": "X", "List": [{"Text": "\u{1f}"}], "Na/me\u{2}": 1}, "command_uuid": "\u{1}"});
        assert_eq!(
            pointers("apple_command", nested),
            ["/params/command/List/0/Text", "/params/command/Na~1me\u{2}", "/params/command_uuid"]
        );
        assert_eq!(pointers("message", json!({"text": "\u{7}"})), [""; 0], "an agent's texts are JSON");
    }

    #[test]
    fn the_kinds_for_denied_devices_are_those_of_the_agent_protocol() {
        let names: Vec<&str> = KINDS.iter().filter(|kind| kind.for_denied).map(|kind| kind.name).collect();
        assert_eq!(names, ["lock", "wipe", "retire", "locate", "remove_app"]);
    }
}
