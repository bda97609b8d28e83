//! Devices that a person brought along, which never tell who they are, and iPads that several people share.

use muster::model::Role;
use plist::{Dictionary, Value as Plist};
use serde_json::json;

use super::commands::{state, task};
use crate::support::apple::{AppleDevice, TOPIC, Told, bytes, each_quiet, texts};
use crate::support::server::TestServer;

const ENROLLMENT: &str = "0D1E2F30-user-enrollment";
/// What every Shared iPad says in the place of a user's id.
const SHARED: &str = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF";

/// Says something under the identifiers of a user enrollment, by the certificate of `by`.
async fn says(server: &TestServer, by: &AppleDevice, pairs: &[(&str, &str)]) -> Told {
    let mut body = texts(&[("EnrollmentID", ENROLLMENT), ("Topic", TOPIC)]);
    body.extend(texts(pairs));
    if pairs.contains(&("MessageType", "TokenUpdate")) {
        body.extend(texts(&[("PushMagic", "magic words")]));
        body.insert("Token".into(), Plist::Data(vec![0xcd; 32]));
    }
    by.send(server, "connect", "", bytes(body)).await
}

#[tokio::test]
async fn a_device_that_a_person_brought_along_is_known_by_its_enrollment_alone() {
    each_quiet(async |server| {
        let phone = AppleDevice::named("A");
        says(&server, &phone, &[("MessageType", "Authenticate"), ("ProductName", "iPhone15,2"), ("OSVersion", "18.1")]).await.expect(200);
        says(&server, &phone, &[("MessageType", "TokenUpdate")]).await.expect(200);
        let listed = server.get("/devices").await;
        let device = &listed["items"][0];
        assert_eq!(
            (&device["state"], &device["serial"], &device["management_mode"]),
            (&json!("active"), &json!(null), &json!("user_enrollment"))
        );
        let id = device["id"].as_str().unwrap().to_owned();
        let lock = task(&server, "lock", json!({}), &id).await;
        assert_eq!(says(&server, &phone, &[("Status", "Idle")]).await.request(), (lock.clone(), "DeviceLock".into()));
        assert!(says(&server, &phone, &[("Status", "Acknowledged"), ("CommandUUID", &lock)]).await.command().is_none());
        assert_eq!(state(&server, &lock).await, "done");
        // What only the owner of a phone may do is not even tried, nor offered.
        let page = server.operator("anna", Role::Admin).await.get(&format!("/devices/{id}")).await.text;
        assert!(page.contains("/jobs/new?kind=lock&amp;device="));
        for kind in ["wipe", "clear_passcode", "restart", "locate"] {
            let refused = server.get(&format!("/tasks/{}", task(&server, kind, json!({}), &id).await)).await;
            assert_eq!((&refused["state"], &refused["error"]["code"]), (&json!("failed"), &json!("unsupported")), "{kind}");
            assert!(!page.contains(&format!("/jobs/new?kind={kind}&amp;device=")), "{kind}");
        }
        // What a Mac's user is called there.
        let user = [("EnrollmentUserID", "a user")];
        says(&server, &phone, &[("Status", "Idle"), user[0]]).await.expect(403);
        says(&server, &phone, &[("MessageType", "TokenUpdate"), user[0]]).await.expect(200);
        assert!(says(&server, &phone, &[("Status", "Idle"), user[0]]).await.command().is_none());
        // A UDID of the same letters is another device, and so is nobody to this certificate.
        let same = AppleDevice { udid: ENROLLMENT.into(), ..phone.clone() };
        same.idle(&server).await.expect(403);
        same.authenticate(&server).await.expect(403);
        let another = AppleDevice { udid: ENROLLMENT.into(), ..AppleDevice::named("B") };
        assert!(another.authenticate(&server).await.status == 200);
        assert_eq!(server.get("/devices").await["items"].as_array().unwrap().len(), 2);
        says(&server, &phone, &[("MessageType", "CheckOut")]).await.expect(200);
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "unmanaged");
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_users_of_a_shared_ipad_are_told_apart_by_their_accounts() {
    each_quiet(async |server| {
        let ipad = AppleDevice { product: "iPad14,1".into(), ..AppleDevice::named("C") };
        ipad.enroll(&server).await;
        let user = |account: &str| texts(&[("UserID", SHARED), ("UserShortName", account), ("UserLongName", "somebody")]);
        ipad.token_update(&server, texts(&[("UserID", SHARED)])).await.expect(400);
        for account in ["ada@example.org", "grace@example.org"] {
            ipad.connect(&server, "Idle", None, user(account)).await.expect(403);
            ipad.token_update(&server, user(account)).await.expect(200);
        }
        assert_eq!(server.get(&format!("/devices/{}", ipad.udid)).await["channels"].as_array().unwrap().len(), 3);
        // One who waits to be let in is, behind what was ordered, and once.
        let mut waiting = user("ada@example.org");
        waiting.insert("AwaitingConfiguration".into(), Plist::Boolean(true));
        ipad.token_update(&server, waiting).await.expect(200);
        let certificates = task(&server, "refresh", json!({"what": "certificates"}), &format!("{}:ada@example.org", ipad.udid)).await;
        assert_eq!(ipad.connect(&server, "Idle", None, user("ada@example.org")).await.request().0, certificates);
        let told = ipad.connect(&server, "Acknowledged", Some(&certificates), user("ada@example.org")).await;
        let (uuid, request) = told.request();
        assert_eq!(request, "UserConfigured");
        assert_eq!(ipad.connect(&server, "Idle", None, user("ada@example.org")).await.request().0, uuid, "until it is heard");
        assert!(ipad.connect(&server, "Acknowledged", Some(&uuid), user("ada@example.org")).await.command().is_none());
        let profiles = task(&server, "refresh", json!({"what": "profiles"}), &format!("{}:grace@example.org", ipad.udid)).await;
        assert!(ipad.idle(&server).await.command().is_none());
        assert!(ipad.connect(&server, "Idle", None, user("ada@example.org")).await.command().is_none());
        let told = ipad.connect(&server, "Idle", None, user("grace@example.org")).await;
        assert_eq!(told.request(), (profiles.clone(), "ProfileList".into()));
        assert!(ipad.connect(&server, "Acknowledged", Some(&profiles), user("ada@example.org")).await.command().is_none());
        assert_eq!(state(&server, &profiles).await, "delivered", "nobody answers for another");
        let mut answer = user("grace@example.org");
        answer.extend([("ProfileList".to_owned(), Plist::Array(Vec::new()))].into_iter().collect::<Dictionary>());
        assert!(ipad.connect(&server, "Acknowledged", Some(&profiles), answer).await.command().is_none());
        assert_eq!(state(&server, &profiles).await, "done");
        server.stop().await;
    })
    .await;
}
