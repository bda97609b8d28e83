//! A simulated iPhone carries out what operators order, whatever happens to it and to the server meanwhile.

use muster::protocol::apple::profile;
use muster::sim::apple::Iphone;
use serde_json::{Value, json};

use super::commands::{each, state, task};
use crate::support::apple::{AppleDevice, CERT_HEADER};
use crate::support::server::TestServer;

pub fn iphone(server: &TestServer, name: &str) -> Iphone {
    let phone = Iphone::new(&server.url, name, &profile::identifier(&server.config.public_url));
    phone.behind_proxy(CERT_HEADER, &AppleDevice::named(name).header())
}

#[tokio::test]
async fn a_simulated_iphone_carries_out_every_kind() {
    each(async |server| {
        let mut phone = iphone(&server, "A");
        phone.enroll(&[7; 32]).await.unwrap();
        assert_eq!(phone.session().await.unwrap(), 6, "the server asks six things by itself");
        let id = server.get(&format!("/devices/{}", phone.udid)).await["id"].as_str().unwrap().to_owned();
        let device = server.get(&format!("/devices/{id}")).await;
        assert_eq!((&device["facts"]["supervised"], &device["facts"]["encrypted"]), (&json!(true), &json!(true)));
        let order = async |kind: &str, params: Value| task(&server, kind, params, &id).await;
        let install = order("install_app", json!({"app": "org.example.app"})).await;
        let (locate, restart) = (order("locate", json!({})).await, order("restart", json!({})).await);
        phone.session().await.unwrap();
        assert_eq!((state(&server, &install).await, state(&server, &restart).await), ("running".into(), "done".into()));
        let found = server.get(&format!("/tasks/{locate}")).await;
        assert_eq!((&found["state"], &found["result"]["lat"], phone.state.lost), (&json!("done"), &json!(48.1), false));
        server.advance(60_000);
        phone.session().await.unwrap();
        assert_eq!(state(&server, &install).await, "done", "the second look says Managed");
        let (lock, remove) = (order("lock", json!({})).await, order("remove_app", json!({"app": "org.example.app"})).await);
        phone.session().await.unwrap();
        assert_eq!((state(&server, &lock).await, state(&server, &remove).await), ("done".into(), "not_now".into()), "the screen is locked");
        let clear = order("clear_passcode", json!({})).await;
        phone.session().await.unwrap();
        assert_eq!((state(&server, &clear).await, state(&server, &remove).await), ("done".into(), "done".into()));
        let (refresh, scan) = (order("refresh", json!({})).await, order("scan", json!({})).await);
        phone.session().await.unwrap();
        assert_eq!((state(&server, &refresh).await, state(&server, &scan).await), ("done".into(), "failed".into()));
        let device = server.get(&format!("/devices/{id}")).await;
        assert_eq!((&device["facts"]["password_set"], &device["facts"]["apps"]), (&json!(false), &json!([])));
        let findings = server.get("/findings").await.to_string();
        assert!(findings.contains("password_not_set") && findings.contains("encryption_off"), "{findings}");
        let wipe = order("wipe", json!({})).await;
        phone.session().await.unwrap();
        assert_eq!((state(&server, &wipe).await, phone.state.erased), ("delivered".into(), true));
        phone.enroll(&[8; 32]).await.unwrap();
        assert_eq!(state(&server, &wipe).await, "done", "it enrolled anew");
        server.post(&format!("/devices/{id}/retire"), json!({})).await.expect(202);
        phone.session().await.unwrap();
        assert!(!phone.state.enrolled);
        assert_eq!(server.get(&format!("/devices/{id}")).await["state"], "unmanaged");
        server.stop().await;
    })
    .await;
}
