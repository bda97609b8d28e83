use super::*;
use crate::protocol::apple::Message;

fn report(status: &str, more: &str) -> Report {
    let text = format!(
        "<plist version=\"1.0\"><dict><key>UDID</key><string>U</string><key>Status</key><string>{status}</string><key>CommandUUID</key><string>c</string>{more}</dict></plist>"
    );
    Report::of(Message::parse(text.as_bytes()).unwrap()).unwrap()
}

fn error(code: i64) -> String {
    format!(
        "<key>ErrorChain</key><array><dict><key>ErrorCode</key><integer>{code}</integer><key>ErrorDomain</key><string>MCMDMErrorDomain</string><key>USEnglishDescription</key><string>why</string></dict></array>"
    )
}

/// Plays a task against a device that answers each request as told; answers the requests in order and the end.
fn play(kind: &str, params: Value, answers: &[(&str, &str, String)]) -> (Vec<String>, Option<Took>) {
    let (mut progress, mut asked, mut now_ms) = (Progress::default(), Vec::new(), 1_000);
    let facing = Facing { platform: "ios".into(), unlock_token: Some(vec![1]), profile: "org.example.enrollment".into(), is_lost: false };
    let mut answers = answers.iter();
    loop {
        let command = match next(kind, &params, &progress, &facing, now_ms) {
            Next::Send(command) => command,
            Next::Wait(until_ms) => {
                now_ms = until_ms;
                continue;
            }
            Next::Fail(code, _) => panic!("{code}"),
        };
        asked.push(command.request_type().to_owned());
        let Some((expected, status, more)) = answers.next() else { return (asked, None) };
        assert_eq!(command.request_type(), *expected);
        match take(kind, &params, &progress, &report(status, more), false, now_ms) {
            Took::Goes(onward) => {
                assert!(onward.step > progress.step);
                progress = Progress::read(Some(&onward.text()));
                assert_eq!(progress, onward);
            }
            end => return (asked, Some(end)),
        }
    }
}

#[test]
fn a_phone_that_is_not_lost_is_marked_as_lost_only_while_it_is_located() {
    let place = "<key>Latitude</key><real>1.5</real><key>Longitude</key><real>2.5</real><key>HorizontalAccuracy</key><real>10</real><key>Timestamp</key><string>2026-01-31T12:00:00Z</string>".to_owned();
    let found = json!({"lat": 1.5, "lon": 2.5, "accuracy_m": 10.0, "at_ms": 1_769_860_800_000_i64});
    let (asked, end) = play("locate", json!({}), &[("DeviceLocation", "Acknowledged", place.clone())]);
    assert_eq!((asked.len(), end), (1, Some(Took::Done(found.clone()))), "a phone that is lost already stays so");
    let steps = [
        ("DeviceLocation", "Error", error(12040)),
        ("EnableLostMode", "Acknowledged", String::new()),
        ("DeviceLocation", "Acknowledged", place),
        ("DisableLostMode", "Acknowledged", String::new()),
    ];
    assert_eq!(play("locate", json!({}), &steps).1, Some(Took::Done(found)));
    let unsupervised = [("DeviceLocation", "Error", error(12040)), ("EnableLostMode", "Error", error(12021))];
    let Some(Took::Failed(failed)) = play("locate", json!({}), &unsupervised).1 else { panic!("it fails") };
    assert_eq!(failed["code"], "MCMDMErrorDomain 12021");
    assert_eq!(failed["chain"][0]["message"], "why");
}

#[test]
fn an_app_is_installed_when_the_device_says_that_it_manages_it_and_not_before() {
    let status = |status: &str| {
        format!("<key>ManagedApplicationList</key><dict><key>a.b</key><dict><key>Status</key><string>{status}</string></dict></dict>")
    };
    let params = json!({"app": "a.b"});
    let steps = [
        ("InstallApplication", "Acknowledged", String::new()),
        ("ManagedApplicationList", "Acknowledged", status("Installing")),
        ("ManagedApplicationList", "Acknowledged", status("Installing")),
        ("ManagedApplicationList", "Acknowledged", status("Managed")),
    ];
    assert_eq!(play("install_app", params.clone(), &steps[..1]).1, None);
    assert_eq!(play("install_app", params.clone(), &steps).1, Some(Took::Done(json!({"status": "Managed"}))));
    let rejected = [steps[0].clone(), ("ManagedApplicationList", "Acknowledged", status("UserRejected"))];
    assert!(matches!(play("install_app", params.clone(), &rejected).1, Some(Took::Failed(error)) if error["code"] == "UserRejected"));
    let refused = [("InstallApplication", "Acknowledged", "<key>RejectionReason</key><string>AppStoreDisabled</string>".to_owned())];
    assert!(matches!(play("install_app", params, &refused).1, Some(Took::Failed(error)) if error["code"] == "AppStoreDisabled"));
}

#[test]
fn a_refresh_asks_everything_and_one_refused_part_does_not_fail_it() {
    let all = ["DeviceInformation", "SecurityInfo", "InstalledApplicationList", "ManagedApplicationList", "ProfileList", "CertificateList"];
    let mixed: Vec<(&str, &str, String)> =
        all.iter().map(|name| (*name, if *name == "ProfileList" { "Acknowledged" } else { "Error" }, String::new())).collect();
    assert_eq!(play("refresh", json!({}), &mixed).1, Some(Took::Done(json!({}))));
    let refused: Vec<(&str, &str, String)> = all.iter().map(|name| (*name, "Error", error(12021))).collect();
    assert!(matches!(play("refresh", json!({}), &refused).1, Some(Took::Failed(_))));
    assert_eq!(play("refresh", json!({"what": "apps"}), &[]).0, ["InstalledApplicationList"]);
}

#[test]
fn a_format_error_and_a_missing_unlock_token_say_what_they_are() {
    let failed = take("lock", &json!({}), &Progress::default(), &report("CommandFormatError", ""), false, 1);
    assert!(matches!(failed, Took::Failed(error) if error["code"] == "command_format_error"));
    let bare = Facing { platform: "ios".into(), ..Facing::default() };
    assert!(matches!(next("clear_passcode", &json!({}), &Progress::default(), &bare, 1), Next::Fail("unlock_token_missing", _)));
    let Next::Send(lock) = next("lock", &json!({"pin": "123456"}), &Progress::default(), &bare, 1) else { panic!("a lock") };
    assert_eq!(lock, Command::device_lock(None, None, None), "a PIN is for Macs");
}

#[test]
fn put_off_counts_and_keeps_the_first_time() {
    let mut progress = Progress::default();
    progress.put_off(10);
    progress.put_off(20);
    let not_now = progress.not_now.unwrap();
    assert_eq!((not_now.count, not_now.first_at_ms, not_now.last_at_ms, not_now.in_this_session), (2, 10, 20, 2));
}

#[test]
fn a_command_that_no_property_list_can_say_fails_instead_of_being_sent() {
    let facing = Facing { platform: "ios".into(), unlock_token: None, profile: "org.example.enrollment".into(), is_lost: false };
    for params in
        [json!({"command": {"RequestType": "X", "A": "\u{1}"}}), json!({"command": {"RequestType": "X"}, "command_uuid": "\u{1}"})]
    {
        let next = next("apple_command", &params, &Progress::default(), &facing, 0);
        assert!(matches!(next, Next::Fail("command_invalid", _)), "{next:?}");
    }
}
