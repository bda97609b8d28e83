//! Parameters at rest: every way in and out of the store goes through here.

use serde_json::{Value, json};

use super::NewJob;
use crate::clock::Moment;
use crate::model::{Id, secrets};
use crate::ops::mdm::raw;
use crate::seal::Seal;

/// The parameters as they are stored: secrets sealed under the job's id. Beside a property list, which is sealed as a whole, stands what of it
/// may be seen.
pub(super) fn store_params(moment: &mut Moment, new: &NewJob, job: Id, seal: Option<&Seal>) -> String {
    let mut params = Value::Object(new.params.clone());
    let shown = raw::shown(&new.kind, &new.params);
    let mut sealed = |place: &str, secret: &[u8]| {
        Value::String(seal.map(|seal| seal.seal(moment, &sealed_name(job, place), secret)).unwrap_or_default())
    };
    for name in secrets::whole(&new.kind) {
        if let Some(Value::String(secret)) = params.get(name) {
            params[name] = sealed(name, secret.as_bytes());
        }
    }
    secrets::inside(&new.kind, &mut params, &mut |place, value| *value = sealed(place, value.to_string().as_bytes()));
    if let (Some(params), Some(shown)) = (params.as_object_mut(), shown) {
        params.extend(shown);
    }
    params.to_string()
}

/// The parameters as the device gets them.
pub fn load_params(seal: &Seal, kind: &str, job: Id, stored: &str) -> Value {
    let mut params: Value = serde_json::from_str(stored).unwrap_or_else(|_| json!({}));
    let open = |place: &str, sealed: &str| seal.open(&sealed_name(job, place), sealed).ok();
    for name in secrets::whole(kind) {
        if let Some(Value::String(sealed)) = params.get(name) {
            let opened = open(name, sealed).and_then(|bytes| String::from_utf8(bytes).ok());
            params[name] = opened.map_or(Value::Null, Value::String);
        }
    }
    raw::hide(kind, &mut params);
    let mut is_open = true;
    secrets::inside(kind, &mut params, &mut |place, value| {
        let opened = value.as_str().and_then(|sealed| open(place, sealed)).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        is_open &= opened.is_some();
        *value = opened.unwrap_or_default();
    });
    if !is_open {
        // A command without its PIN would be another command.
        params = json!({});
    }
    params
}

fn sealed_name(job: Id, name: &str) -> String {
    format!("job/{job}/{name}")
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::model::kind::APPLE_COMMAND;
    use crate::model::kind::Kind;
    use crate::ops::jobs::is_destructive;

    const JOB: [u8; 10] = [3; 10];

    /// As it is stored, as it is shown, as the device gets it.
    fn kept(params: &Value) -> (Value, Value, Value) {
        let (seal, job, moment) = (Seal::new(&[7; 32]), Id::v7(1, JOB), &mut Moment::fixed(1, 1));
        let new = NewJob { params: params.as_object().unwrap().clone(), ..NewJob::one(APPLE_COMMAND, job) };
        let stored = store_params(moment, &new, job, Some(&seal));
        assert_eq!(load_params(&Seal::new(&[8; 32]), APPLE_COMMAND, job, &stored).get("command"), None, "another key opens nothing");
        let shown = secrets::masked(APPLE_COMMAND, serde_json::from_str(&stored).unwrap());
        (serde_json::from_str(&stored).unwrap(), shown, load_params(&seal, APPLE_COMMAND, job, &stored))
    }

    #[test]
    fn a_commands_secrets_are_sealed_shown_to_nobody_and_given_to_the_device() {
        let command = json!({"RequestType": "X", "PIN": "987654", "Number": 5, "Items": [{"Password": 987_654, "UnlockToken": {"$data": "OTg3NjU0"}}]});
        let params = json!({"command": command, "command_uuid": "u"});
        let (stored, shown, given) = kept(&params);
        assert!(!stored.to_string().contains("987654") && !stored.to_string().contains("OTg3NjU0"), "{stored}");
        let masked = json!({"RequestType": "X", "PIN": "***", "Number": 5, "Items": [{"Password": "***", "UnlockToken": "***"}]});
        assert_eq!(shown, json!({"command": masked, "command_uuid": "u"}));
        assert_eq!(given, params);
    }

    #[test]
    fn of_a_property_list_what_may_be_seen_stands_beside_it() {
        let text = "<plist><dict><key>CommandUUID</key><string>u2</string><key>Command</key><dict><key>RequestType</key><string>EraseDevice</string><key>PIN</key><string>987654</string></dict></dict></plist>";
        let params = json!({"plist": STANDARD.encode(text)});
        let (stored, shown, given) = kept(&params);
        assert!(!stored.to_string().contains("987654") && !stored.to_string().contains(&STANDARD.encode(text)), "{stored}");
        assert_eq!(shown, json!({"plist": "***", "command": {"RequestType": "EraseDevice", "PIN": "***"}, "command_uuid": "u2"}));
        assert_eq!(given, json!({"plist": params["plist"], "command_uuid": "u2"}));
        assert!(raw::command(&given).is_ok());
        assert!(is_destructive(Kind::named(APPLE_COMMAND).unwrap(), stored.as_object().unwrap()), "known without the seal");
    }
}
