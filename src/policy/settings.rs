//! The settings that a policy may have, with the names and values of the Android Management API where they fit.

use serde_json::Value;

use crate::model::Fault;

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Bool,
    /// A text of at most so many characters.
    Text(usize),
    /// A whole number in a range.
    Number(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A length of time such as `86400s`.
    Seconds,
    /// An object with these fields and no others.
    Object(&'static [Setting]),
    /// A list of at most so many of them.
    List(&'static Shape, usize),
    /// An app: [`super::document`] checks its managed configuration.
    Applications,
    /// Passed through to another platform as it is.
    Through,
}

/// A named setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub name: &'static str,
    pub shape: Shape,
    /// One line for people.
    pub about: &'static str,
}

const fn setting(name: &'static str, shape: Shape, about: &'static str) -> Setting {
    Setting { name, shape, about }
}

const QUALITIES: &[&str] = &[
    "BIOMETRIC_WEAK",
    "SOMETHING",
    "NUMERIC",
    "NUMERIC_COMPLEX",
    "ALPHABETIC",
    "ALPHANUMERIC",
    "COMPLEX",
    "COMPLEXITY_LOW",
    "COMPLEXITY_MEDIUM",
    "COMPLEXITY_HIGH",
];

const PASSWORD: &[Setting] = &[
    setting("passwordScope", Shape::Word(&["SCOPE_DEVICE", "SCOPE_PROFILE"]), "What the password protects"),
    setting("passwordQuality", Shape::Word(QUALITIES), "How strong it must be"),
    setting("passwordMinimumLength", Shape::Number(0, 64), "Characters at least"),
    setting("passwordMinimumLetters", Shape::Number(0, 64), "Letters at least"),
    setting("passwordMinimumLowerCase", Shape::Number(0, 64), "Lower-case letters at least"),
    setting("passwordMinimumUpperCase", Shape::Number(0, 64), "Upper-case letters at least"),
    setting("passwordMinimumNonLetter", Shape::Number(0, 64), "Digits and symbols at least"),
    setting("passwordMinimumNumeric", Shape::Number(0, 64), "Digits at least"),
    setting("passwordMinimumSymbols", Shape::Number(0, 64), "Symbols at least"),
    setting("passwordHistoryLength", Shape::Number(0, 100), "Former passwords that may not come back"),
    setting("maximumFailedPasswordsForWipe", Shape::Number(0, 1000), "Wrong tries before the phone wipes itself; 0 for never"),
    setting("passwordExpirationTimeout", Shape::Seconds, "How long a password is good"),
    setting("requirePasswordUnlock", Shape::Word(&["USE_DEFAULT_DEVICE_TIMEOUT", "REQUIRE_EVERY_DAY"]), "How often it is asked for"),
    setting("unifiedLockSettings", Shape::Word(&["ALLOW_UNIFIED_WORK_AND_PERSONAL_LOCK", "REQUIRE_SEPARATE_WORK_LOCK"]), "One lock or two"),
];

const CROSS_PROFILE: &[Setting] = &[
    setting(
        "crossProfileCopyPaste",
        Shape::Word(&["COPY_FROM_WORK_TO_PERSONAL_DISALLOWED", "CROSS_PROFILE_COPY_PASTE_ALLOWED"]),
        "Copying text out of the work profile",
    ),
    setting(
        "showWorkContactsInPersonalProfile",
        Shape::Word(&["SHOW_WORK_CONTACTS_IN_PERSONAL_PROFILE_DISALLOWED", "SHOW_WORK_CONTACTS_IN_PERSONAL_PROFILE_ALLOWED"]),
        "Work contacts in the personal profile",
    ),
    setting(
        "crossProfileDataSharing",
        Shape::Word(&[
            "CROSS_PROFILE_DATA_SHARING_DISALLOWED",
            "DATA_SHARING_FROM_WORK_TO_PERSONAL_DISALLOWED",
            "CROSS_PROFILE_DATA_SHARING_ALLOWED",
        ]),
        "Opening work data in personal apps",
    ),
];

const MESSAGES: &[Setting] = &[
    setting("shortSupportMessage", Shape::Text(200), "Shown where a setting is locked"),
    setting("longSupportMessage", Shape::Text(4096), "Shown on the device administrator's page"),
    setting("deviceOwnerLockScreenInfo", Shape::Text(200), "Shown on the lock screen"),
];

/// Every setting of a document.
pub const SETTINGS: &[Setting] = &[
    setting("applications", Shape::Applications, "Apps that are installed, allowed or blocked, with their configuration"),
    setting(
        "cameraAccess",
        Shape::Word(&["CAMERA_ACCESS_USER_CHOICE", "CAMERA_ACCESS_DISABLED", "CAMERA_ACCESS_ENFORCED"]),
        "Whether the camera may be used",
    ),
    setting("screenCaptureDisabled", Shape::Bool, "No screenshots and recordings"),
    setting("usbFileTransferDisabled", Shape::Bool, "No files over USB"),
    setting("printingPolicy", Shape::Word(&["PRINTING_DISALLOWED", "PRINTING_ALLOWED"]), "Whether apps may print"),
    setting("crossProfilePolicies", Shape::Object(CROSS_PROFILE), "What may cross between the work and the personal profile"),
    setting("passwordPolicies", Shape::List(&Shape::Object(PASSWORD), 4), "What the lock screen's password must be"),
    setting("messages", Shape::Object(MESSAGES), "What people read on the phone"),
    setting("apple", Shape::Through, "Payloads and declarations for Apple devices, passed through"),
];

/// Checks the fields of an object against the settings it may have.
pub fn check_object(settings: &[Setting], value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    let Some(map) = value.as_object() else {
        return fault(faults, pointer, "must be an object");
    };
    for (name, value) in map {
        let at = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
        match settings.iter().find(|setting| setting.name == name) {
            Some(setting) => check(setting.shape, value, &at, faults),
            None => {
                let nearest = nearest(name, settings.iter().map(|setting| setting.name));
                fault(faults, &at, format!("there is no setting {name:?}{nearest}"));
            }
        }
    }
}

/// Checks one value.
pub fn check(shape: Shape, value: &Value, pointer: &str, faults: &mut Vec<Fault>) {
    match shape {
        Shape::Bool if !value.is_boolean() => fault(faults, pointer, "must be true or false"),
        Shape::Text(most) => match value.as_str() {
            Some(text) if text.chars().nth(most).is_none() => {}
            Some(_) => fault(faults, pointer, format!("at most {most} characters")),
            None => fault(faults, pointer, "must be a text"),
        },
        Shape::Number(least, most) if !value.as_i64().is_some_and(|n| (least..=most).contains(&n)) => {
            fault(faults, pointer, format!("must be a whole number from {least} to {most}"));
        }
        Shape::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => {}
            Some(word) => {
                let hint = nearest(word, words.iter().copied());
                fault(faults, pointer, format!("must be one of {}{hint}", words.join(", ")));
            }
            None => fault(faults, pointer, format!("must be one of {}", words.join(", "))),
        },
        Shape::Seconds => {
            let seconds = value.as_str().and_then(|text| text.strip_suffix('s')).and_then(|digits| digits.parse::<u32>().ok());
            if seconds.is_none() {
                fault(faults, pointer, "must be a length of time in seconds, such as \"86400s\"");
            }
        }
        Shape::Object(settings) => check_object(settings, value, pointer, faults),
        Shape::List(inner, most) => match value.as_array() {
            Some(items) if items.len() <= most => {
                for (at, item) in items.iter().enumerate() {
                    check(*inner, item, &format!("{pointer}/{at}"), faults);
                }
            }
            Some(_) => fault(faults, pointer, format!("at most {most} items")),
            None => fault(faults, pointer, "must be a list"),
        },
        Shape::Applications => super::document::check_applications(value, pointer, faults),
        Shape::Through if !value.is_object() => fault(faults, pointer, "must be an object"),
        Shape::Bool | Shape::Number(..) | Shape::Through => {}
    }
}

/// Notes a fault.
pub fn fault(faults: &mut Vec<Fault>, pointer: &str, detail: impl Into<String>) {
    faults.push(Fault { pointer: pointer.to_owned(), detail: detail.into() });
}

/// `; did you mean "..."?` where a known name is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    known
        .map(|other| (likeness(other), other))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, other)| format!("; did you mean {other:?}?"))
}
