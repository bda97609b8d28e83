//! Commands as operators write them: `apple_command`; and what they give along with a wipe.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{command_id, own};
use crate::model::kind::APPLE_COMMAND;
use crate::model::{Fault, secrets, text};
use crate::protocol::apple::command::{Command, ReturnToService};
use crate::protocol::apple::connect::dictionary_of;
use crate::protocol::apple::reading;

/// Characters of a CommandUUID.
const UUID_CHARS_MAX: usize = 64;

/// The command of these parameters, and its own id where it has one: `{"command": {...}}`, or `{"plist": base64}` of the whole
/// `{Command, CommandUUID?}`.
pub fn command(params: &Value) -> Result<(Command, Option<String>), Fault> {
    let fault = |pointer: &str, detail: &str| Fault { pointer: format!("/params{pointer}"), detail: detail.to_owned() };
    let given = params.get("command_uuid").and_then(Value::as_str).map(str::to_owned);
    let (keys, own, pointer) = match (params.get("command"), params.get("plist").and_then(Value::as_str)) {
        (Some(Value::Object(map)), None) => (dictionary_of(map), None, "/command"),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text.trim()).map_err(|_| fault("/plist", "must be base64"))?;
            let mut outer = reading::dictionary(&bytes).map_err(|error| fault("/plist", &error.to_string()))?;
            let keys = outer.remove("Command").and_then(plist::Value::into_dictionary);
            let own = outer.remove("CommandUUID").and_then(plist::Value::into_string);
            (keys.ok_or_else(|| fault("/plist", "must hold a dictionary Command"))?, own, "/plist")
        }
        _ => return Err(fault("", "give either command or plist")),
    };
    let command = Command::given(keys).ok_or_else(|| fault(pointer, "the command needs a RequestType"))?;
    if !command.is_sayable() {
        return Err(fault(pointer, "holds what no XML property list can say: control characters, U+FFFE, U+FFFF, or a UID"));
    }
    if let Some((key, detail)) = command.fault() {
        let inside = if pointer == "/command" && !key.is_empty() { format!("/command/{key}") } else { pointer.to_owned() };
        return Err(fault(&inside, &detail));
    }
    let own = given.or(own).filter(|own| !own.is_empty());
    if own.as_ref().is_some_and(|own| own.chars().count() > UUID_CHARS_MAX || !own.chars().all(text::is_sayable)) {
        return Err(fault("/command_uuid", "take at most 64 characters, no control characters among them"));
    }
    Ok((command, own))
}

/// What is wrong with the parameters of this kind, beyond their types.
pub fn check(kind: &str, params: &Map<String, Value>) -> Option<Fault> {
    match kind {
        APPLE_COMMAND => match command(&Value::Object(params.clone())) {
            Ok((_, own)) => own.filter(|own| is_the_servers(own)).map(|own| {
                let detail =
                    format!("{own:?} is an id as the server gives them to its own commands; take another, such as a UUID in capitals");
                Fault { pointer: "/params/command_uuid".into(), detail }
            }),
            Err(fault) => Some(fault),
        },
        "wipe" => back(&Value::Object(params.clone())).err(),
        _ => None,
    }
}

/// True for an id that the server gives, to what it says by itself or to a task's command: what the device answers would be taken for the answer
/// to that.
fn is_the_servers(id: &str) -> bool {
    own::is_own(id) || command_id::read(id).is_some()
}

/// True where the command of these parameters, as they were given or as they are stored, erases the device or ends its management.
pub fn is_destructive(params: &Map<String, Value>) -> bool {
    let command = match params.get("command") {
        Some(Value::Object(keys)) => Command::given(dictionary_of(keys)),
        _ => command(&Value::Object(params.clone())).ok().map(|(command, _)| command),
    };
    command.is_some_and(|command| command.is_destructive())
}

/// What may be seen of a property list, in the words of a command that is given as JSON.
pub fn shown(kind: &str, params: &Map<String, Value>) -> Option<Map<String, Value>> {
    if kind != APPLE_COMMAND || !params.contains_key("plist") {
        return None;
    }
    let (command, own) = command(&Value::Object(params.clone())).ok()?;
    let mut shown = Map::from_iter([("command".to_owned(), command.to_json())]);
    shown.extend(own.map(|own| ("command_uuid".to_owned(), own.into())));
    match secrets::masked(kind, Value::Object(shown)) {
        Value::Object(shown) => Some(shown),
        _ => None,
    }
}

/// Takes away what [`shown`] has put beside a property list: the list is what the device gets.
pub fn hide(kind: &str, params: &mut Value) {
    if let Some(params) = params.as_object_mut().filter(|params| kind == APPLE_COMMAND && params.contains_key("plist")) {
        params.remove("command");
    }
}

/// What the parameters of a wipe say of the device's return.
pub fn back(params: &Value) -> Result<Option<ReturnToService>, Fault> {
    let fault = |name: &str, detail: &str| Fault { pointer: format!("/params/{name}"), detail: detail.to_owned() };
    let profile = |name: &str| match params.get(name).and_then(Value::as_str) {
        None | Some("") => Ok(None),
        Some(text) => STANDARD.decode(text.trim()).map(Some).map_err(|_| fault(name, "must be base64")),
    };
    let back = ReturnToService { wifi: profile("wifi_profile")?, enrollment: profile("mdm_profile")? };
    let is_wanted = params.get("return_to_service").and_then(Value::as_bool).unwrap_or_default();
    if !is_wanted && (back.wifi.is_some() || back.enrollment.is_some()) {
        return Err(fault("return_to_service", "must be true where profiles are given for it"));
    }
    Ok(is_wanted.then_some(back))
}

/// The id that the operator chose for the command of a job, from its stored parameters.
pub fn own_uuid(kind: &str, params: &str) -> Option<String> {
    if kind != APPLE_COMMAND {
        return None;
    }
    let params: Value = serde_json::from_str(params).ok()?;
    params.get("command_uuid").and_then(Value::as_str).filter(|own| !own.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_comes_as_json_or_as_a_property_list_and_its_faults_have_places() {
        let (json_form, own) =
            command(&json!({"command": {"RequestType": "X", "Payload": {"$data": "AQI="}}, "command_uuid": "u1"})).unwrap();
        assert_eq!((json_form.request_type(), own.as_deref()), ("X", Some("u1")));
        let text = "<plist><dict><key>CommandUUID</key><string>u2</string><key>Command</key><dict><key>RequestType</key><string>X</string><key>Payload</key><data>AQI=</data></dict></dict></plist>";
        let (plist_form, own) = command(&json!({"plist": STANDARD.encode(text)})).unwrap();
        assert_eq!((&plist_form, own.as_deref()), (&json_form, Some("u2")));
        let pointer = |params: Value| command(&params).unwrap_err().pointer;
        assert_eq!(pointer(json!({})), "/params");
        assert_eq!(pointer(json!({"command": {"A": 1}})), "/params/command");
        assert_eq!(pointer(json!({"command": {"RequestType": "InstallProfile", "Payload": "text"}})), "/params/command/Payload");
        assert_eq!(pointer(json!({"command": {"RequestType": "DeviceInformation"}})), "/params/command/Queries");
        assert_eq!(pointer(json!({"command": {"RequestType": "EnableLostMode"}})), "/params/command");
        let lacking = "<plist><dict><key>Command</key><dict><key>RequestType</key><string>RemoveProfile</string></dict></dict></plist>";
        assert_eq!(pointer(json!({"plist": STANDARD.encode(lacking)})), "/params/plist");
        assert_eq!(pointer(json!({"plist": "%"})), "/params/plist");
        assert_eq!(pointer(json!({"plist": "AAAA"})), "/params/plist");
    }

    /// The whole as a binary list, which can hold what XML cannot.
    fn binary(uuid: &str, key: &str, value: plist::Value) -> Value {
        let text = |text: &str| plist::Value::String(text.to_owned());
        let command = [("RequestType".to_owned(), text("X")), (key.to_owned(), value)].into_iter().collect();
        let whole: plist::Dictionary =
            [("CommandUUID".to_owned(), text(uuid)), ("Command".to_owned(), plist::Value::Dictionary(command))].into_iter().collect();
        let mut bytes = Vec::new();
        plist::Value::Dictionary(whole).to_writer_binary(&mut bytes).unwrap();
        json!({"plist": STANDARD.encode(bytes)})
    }

    fn refused(params: &Value) -> Option<String> {
        check(APPLE_COMMAND, params.as_object().unwrap()).map(|fault| fault.pointer)
    }

    #[test]
    fn an_id_of_the_servers_own_is_refused_wherever_it_stands_and_another_is_not() {
        let task = crate::model::Id::v7(1, [0xab; 10]);
        let ids = ["refresh.1.0", "configured.1", "renew.1", "declare.v.t", "remove.1", "install.x", "uninstall.x", "lost_mode_off.x"];
        for id in ids.map(str::to_owned).into_iter().chain([task.to_string(), format!("{task}.3")]) {
            assert_eq!(refused(&json!({"command": {"RequestType": "X"}, "command_uuid": id})), Some("/params/command_uuid".into()), "{id}");
            assert_eq!(refused(&binary(&id, "A", true.into())), Some("/params/command_uuid".into()), "{id}");
        }
        for id in ["MY-OWN", "refresh", "my.refresh", "6b6f0a4e-54a5-4f6c-9d2c-0f2f5b1b8f60", &task.to_string().to_uppercase()] {
            assert_eq!(refused(&json!({"command": {"RequestType": "X"}, "command_uuid": id})), None, "{id}");
        }
    }

    #[test]
    fn a_property_list_that_xml_cannot_say_is_refused() {
        assert_eq!(refused(&binary("u", "A", "b\n".into())), None);
        assert_eq!(refused(&binary("u", "A", "b\u{1}".into())), Some("/params/plist".into()));
        assert_eq!(refused(&binary("u", "A\u{fffe}", "b".into())), Some("/params/plist".into()));
        assert_eq!(refused(&binary("u", "A", plist::Value::Uid(plist::Uid::new(1)))), Some("/params/plist".into()));
        assert_eq!(refused(&binary("\u{1}", "A", "b".into())), Some("/params/command_uuid".into()));
        let escaped = "<plist><dict><key>Command</key><dict><key>RequestType</key><string>X&#1;</string></dict></dict></plist>";
        assert_eq!(refused(&json!({"plist": STANDARD.encode(escaped)})), Some("/params/plist".into()));
    }

    #[test]
    fn what_erases_a_device_or_ends_its_management_is_destructive_in_either_form() {
        let is = |params: Value| is_destructive(params.as_object().unwrap());
        let given = |request: &str, identifier: &str| json!({"RequestType": request, "Identifier": identifier});
        let listed = |request: &str, identifier: &str| {
            let text = format!(
                "<plist><dict><key>Command</key><dict><key>RequestType</key><string>{request}</string><key>Identifier</key><string>{identifier}</string></dict></dict></plist>"
            );
            json!({"plist": STANDARD.encode(text)})
        };
        for (request, identifier, expected) in [
            ("EraseDevice", "x", true),
            ("RemoveProfile", "org.example.mdm.muster.enrollment", true),
            ("RemoveProfile", "org.example.wifi", false),
            ("InstallApplication", "org.example.mdm.muster.enrollment", false),
            ("DeviceLock", "x", false),
        ] {
            assert_eq!(is(json!({"command": given(request, identifier)})), expected, "{request} {identifier}");
            assert_eq!(is(listed(request, identifier)), expected, "{request} {identifier}");
        }
    }
}
