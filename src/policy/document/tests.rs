use serde_json::json;

use super::*;

fn faults(document: Value) -> Vec<Fault> {
    check(&document, "/document")
}

fn pointers(document: Value) -> Vec<String> {
    faults(document).into_iter().map(|fault| fault.pointer).collect()
}

#[test]
fn a_good_document_has_no_fault() {
    let document = json!({
        "cameraAccess": "CAMERA_ACCESS_DISABLED", "screenCaptureDisabled": true, "printingPolicy": "PRINTING_DISALLOWED",
        "usbFileTransferDisabled": true, "maximumTimeToLock": "300000",
        "passwordPolicies": [{"passwordQuality": "COMPLEXITY_HIGH", "passwordExpirationTimeout": "86400s"}],
        "crossProfilePolicies": {"crossProfileCopyPaste": "COPY_FROM_WORK_TO_PERSONAL_DISALLOWED"},
        "applications": [
            {"packageName": "org.example.mail", "installType": "FORCE_INSTALLED",
                "managedConfiguration": {"EMAIL": "{{user.email}}", "ports": ["1", "2"], "servers": [{"host": "a", "port": 1, "tags": ["x"]}], "on": true}},
            {"bundleId": "org.example.mail", "managedConfiguration": {}},
        ],
        "messages": {"shortSupportMessage": "Ask the desk."},
        "longSupportMessage": {"defaultMessage": "Ask the desk.", "localizedMessages": {"de-DE": "Am Schalter fragen."}},
        "systemUpdate": {"type": "WINDOWED", "startMinutes": 60, "endMinutes": 300},
        "deviceConnectivityManagement": {"usbDataAccess": "DISALLOW_USB_DATA_TRANSFER"},
        "apple": {"payloads": [{"PayloadType": "com.apple.applicationaccess", "ratio": 1.5}], "declarations": []},
    });
    assert_eq!(faults(document), []);
    assert_eq!(faults(json!({})), []);
}

#[test]
fn every_fault_is_named_with_its_place_and_the_nearest_name() {
    let faults = faults(json!({"cameraAcces": 1, "printingPolicy": "PRINTING_DISALOWED"}));
    assert!(faults[0].detail.contains("did you mean \"cameraAccess\""), "{faults:?}");
    assert!(faults[1].detail.contains("did you mean \"PRINTING_DISALLOWED\""), "{faults:?}");
    assert_eq!(pointers(json!([])), ["/document"]);
    assert_eq!(pointers(json!({"messages": {"shortSupportMessage": "{{user.emial}}"}})), ["/document/messages/shortSupportMessage"]);
    assert_eq!(pointers(json!({"passwordPolicies": [{"passwordQuality": "STRONG"}]})), ["/document/passwordPolicies/0/passwordQuality"]);
    assert_eq!(pointers(json!({"a/b~c": 1})), ["/document/a~1b~0c"]);
    assert_eq!(pointers(json!({"screenCaptureDisabled": null})), ["/document/screenCaptureDisabled"]);
}

#[test]
fn an_app_is_told_only_what_a_bundle_can_hold() {
    let configuration = json!({"x": 1.5, "y": null, "z": [1, 2], "w": 5_000_000_000_i64, "v": ["a", true], "a/b": null,
        "deep": {"a": {"b": {"c": 1}, "d": ["x"]}}, "list": [{"in": {"too": 1}}]});
    assert_eq!(
        pointers(json!({"applications": [{"packageName": "a", "managedConfiguration": configuration}]})),
        ["a~1b", "deep/a/b", "list/0/in", "v", "w", "x", "y", "z"].map(|at| format!("/document/applications/0/managedConfiguration/{at}"))
    );
    let long = |n: usize| json!({"applications": [{"packageName": "a", "managedConfiguration": {"t": "x".repeat(n)}}]});
    assert_eq!((faults(long(65_535)).len(), faults(long(65_536)).len()), (0, 1));
}

#[test]
fn an_entry_is_about_one_app_and_an_app_has_one_entry() {
    let apps = json!([{"packageName": "a"}, {"bundleId": "a"}, {"packageName": "a"}, {"installType": "BLOCKED"}, {"packageName": "b", "bundleId": "b"}, 7,
        {"packageName": "no id at all"}, {"packageName": "c", "instalType": "KIOSK"}]);
    assert_eq!(
        pointers(json!({"applications": apps})),
        ["2", "3", "4", "5", "5", "6/packageName", "7/instalType"].map(|at| format!("/document/applications/{at}"))
    );
}

#[test]
fn a_document_has_its_limits_and_their_answer_is_short() {
    assert_eq!(pointers(json!({"apple": {"payloads": ["x".repeat(DOCUMENT_BYTES_MAX)]}})), ["/document"]);
    let mut deep = json!(1);
    for _ in 0..DEPTH_MAX {
        deep = json!({"a": deep});
    }
    assert_eq!(pointers(json!({"apple": deep})), ["/document"]);
    assert_eq!(pointers(json!({"apple": {"a": "\0"}})), ["/document"]);
    assert_eq!(pointers(json!({"messages": {"shortSupportMessage": "\\u0000 in words"}})), [""; 0]);
    let many: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("s{n}"), json!(1))).collect();
    assert_eq!(faults(Value::Object(many)).len(), 100);
    let long = faults(json!({("n".repeat(200_000)): 1}));
    assert!(long[0].detail.len() < 300);
}

#[test]
fn what_no_property_list_can_say_is_refused_of_what_goes_to_apples_devices() {
    let payload = json!({"PayloadType": "com.apple.applicationaccess", "text": "a\u{1}", "list": ["a\n", {"na\u{b}me": 1}]});
    let declaration = json!({"Type": "com.apple.configuration.passcode.settings", "Identifier": "a", "Payload": {"text": "\u{fffe}"}});
    let apple = json!({"payloads": [payload], "declarations": [declaration], "userDeclarations": [declaration]});
    assert_eq!(
        pointers(json!({"apple": apple, "longSupportMessage": {"defaultMessage": "a\u{1}"}})),
        [
            "/document/apple/declarations/0/Payload/text",
            "/document/apple/payloads/0/list/1/na\u{b}me",
            "/document/apple/payloads/0/text",
            "/document/apple/userDeclarations/0/Payload/text",
        ]
    );
}
