//! What of a task's parameters nobody is shown, and what is sealed at rest.

use serde_json::Value;

use super::below;
use super::kind::APPLE_COMMAND;

/// Parameters that are secret as a whole.
const WHOLE: &[(&str, &str)] = &[
    ("reset_password", "password"),
    ("lock", "pin"),
    ("wipe", "pin"),
    ("wipe", "wifi_profile"),
    ("wipe", "mdm_profile"),
    (APPLE_COMMAND, "plist"),
];
/// The parameter with a command as an operator wrote it: some of its values are secret.
const COMMAND: &str = "command";
/// The keys of those values, in small letters. A profile holds passwords of networks and accounts.
const KEYS: [&str; 5] = ["pin", "payload", "wifiprofiledata", "mdmprofiledata", "privatekeyexport"];
/// How other such keys end: `UnlockToken`, `NewPassword`, `passwordHash`.
const ENDINGS: [&str; 5] = ["password", "passwordhash", "passcode", "secret", "token"];
/// What is shown in a secret's place.
const MASK: &str = "***";

/// The parameters of a kind that are secret as a whole.
pub fn whole(kind: &str) -> impl Iterator<Item = &'static str> + use<'_> {
    WHOLE.iter().filter(move |(secret_kind, _)| *secret_kind == kind).map(|(_, name)| *name)
}

/// Shows every secret inside a command with its place, so that it can be exchanged.
pub fn inside(kind: &str, params: &mut Value, see: &mut impl FnMut(&str, &mut Value)) {
    if kind == APPLE_COMMAND
        && let Some(command) = params.get_mut(COMMAND)
    {
        walk(command, COMMAND, see);
    }
}

/// Parameters as people may see them.
pub fn masked(kind: &str, mut params: Value) -> Value {
    for name in whole(kind) {
        if let Some(value) = params.get_mut(name) {
            *value = MASK.into();
        }
    }
    inside(kind, &mut params, &mut |_, value| *value = MASK.into());
    params
}

fn walk(value: &mut Value, place: &str, see: &mut impl FnMut(&str, &mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().enumerate().for_each(|(at, item)| walk(item, &format!("{place}/{at}"), see)),
        Value::Object(map) => map.iter_mut().for_each(|(key, item)| {
            let place = below(place, key);
            if is_secret(key, item) { see(&place, item) } else { walk(item, &place, see) }
        }),
        _ => {}
    }
}

/// Whether there is one is no secret, and neither are the flags that say so.
fn is_secret(key: &str, value: &Value) -> bool {
    let key = key.to_ascii_lowercase();
    let is_named = KEYS.contains(&key.as_str()) || ENDINGS.iter().any(|ending| key.ends_with(ending));
    is_named && !value.is_boolean() && !value.is_null()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_and_nothing_else_is() {
        assert_eq!(masked("reset_password", json!({"password": "abc"})), json!({"password": "***"}));
        assert_eq!(masked("lock", json!({"pin": "1", "message": "m"})), json!({"pin": "***", "message": "m"}));
        assert_eq!(masked("message", json!({"text": "t"})), json!({"text": "t"}));
        assert_eq!(masked("message", json!({"command": {"PIN": "1"}})), json!({"command": {"PIN": "1"}}));
    }

    #[test]
    fn a_commands_secrets_are_masked_at_every_depth_and_the_rest_can_be_read() {
        let command = json!({
            "RequestType": "X", "PIN": 987_654, "UnlockToken": {"$data": "AQI="}, "Password": "a", "Passcode": "b",
            "Payload": {"PayloadContent": [{"Password": "c"}]}, "Queries": ["Password"], "requirePasscode": true, "Passwordless": "n",
            "Accounts": [{"shortName": "admin", "passwordHash": {"$data": "AQI="}}],
        });
        let shown = json!({
            "RequestType": "X", "PIN": "***", "UnlockToken": "***", "Password": "***", "Passcode": "***", "Payload": "***",
            "Queries": ["Password"], "requirePasscode": true, "Passwordless": "n",
            "Accounts": [{"shortName": "admin", "passwordHash": "***"}],
        });
        let params = json!({"command": command, "command_uuid": "u", "plist": "AAAA"});
        assert_eq!(masked(APPLE_COMMAND, params), json!({"command": shown, "command_uuid": "u", "plist": "***"}));
    }
}
