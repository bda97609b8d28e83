//! Operators come and go; somebody who may do everything stays.

use muster::model::Role;
use serde_json::{Value, json};

use crate::support::server::{TestServer, each_database};

async fn id_of(server: &TestServer, name: &str) -> String {
    let all = server.get("/operators").await;
    let found = all["items"].as_array().unwrap().iter().find(|operator| operator["name"] == name).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_last_administrator_can_neither_be_disabled_nor_lose_the_role() {
    each_database(async |server| {
        for (name, role) in [("first", "admin"), ("second", "admin"), ("third", "operator")] {
            server.post("/operators", json!({"name": name, "role": role})).await.expect(201);
        }
        let (first, second) = (id_of(&server, "first").await, id_of(&server, "second").await);
        // Both at once: one goes, one stays.
        let (first_path, second_path) = (format!("/operators/{first}"), format!("/operators/{second}"));
        let (a, b) = tokio::join!(server.call("DELETE", &first_path, None), server.call("DELETE", &second_path, None));
        let mut answers = [(a.status, a.body["code"].clone()), (b.status, b.body["code"].clone())];
        answers.sort_by_key(|(status, _)| *status);
        assert_eq!(answers, [(204, Value::Null), (409, json!("last_admin"))]);
        let last = if answers[0].0 == a.status { "second" } else { "first" };
        let demoted = server.post("/operators", json!({"name": last, "role": "operator"})).await;
        assert_eq!((demoted.status, &demoted.body["code"]), (409, &json!("last_admin")));
        server.call("DELETE", &format!("/operators/{}", id_of(&server, "third").await), None).await.expect(204);
        // With another one it may go.
        server.post("/operators", json!({"name": "third", "role": "admin"})).await.expect(201);
        server.call("DELETE", &format!("/operators/{}", id_of(&server, last).await), None).await.expect(204);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_new_sign_in_link_at_the_console_leaves_a_role_as_it_is_unless_another_is_chosen() {
    let server = TestServer::on_sqlite().await;
    let anna = server.operator("anna", Role::Admin).await;
    server.operator("bert", Role::Admin).await;
    let page = anna.get("/settings").await.text;
    let form = page.split("action=\"/settings/operators\"").nth(1).unwrap().split("</form>").next().unwrap();
    assert!(form.contains("<option value=\"\" selected>"), "{form}");
    let role = async |name: &str| {
        let all = server.get("/operators").await;
        all["items"].as_array().unwrap().iter().find(|operator| operator["name"] == name).unwrap()["role"].clone()
    };
    for (name, chosen, then) in [("bert", "", "admin"), ("carl", "", "operator"), ("bert", "viewer", "viewer")] {
        let page = anna.post("/settings/operators", &[("name", name), ("role", chosen)]).await;
        assert!(page.text.contains("/sign-in/"), "{}", page.text);
        assert_eq!(page.text.contains("bert was admin and is viewer now"), chosen == "viewer", "{}", page.text);
        assert_eq!(role(name).await, then);
    }
    server.stop().await;
}

#[tokio::test]
async fn only_administrators_change_operators_and_keys_and_everybody_sees_them_without_their_secrets() {
    let server = TestServer::on_sqlite().await;
    let made = server.post("/keys", json!({"name": "board", "role": "viewer"})).await.expect(201);
    for role in [Role::Viewer, Role::Operator] {
        let browser = server.operator(role.name(), role).await;
        for (path, name, fields) in [
            ("/operators", role.name(), &["created_at_ms", "enabled", "id", "name", "role"][..]),
            ("/keys", "board", &["created_at_ms", "created_by", "id", "name", "revoked_at_ms", "role"][..]),
        ] {
            let list = browser.call("GET", path, None).await.expect(200);
            let one = list["items"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
            assert_eq!(one.as_object().unwrap().keys().collect::<Vec<_>>(), fields, "{path}");
            assert!(!list.to_string().contains(made["key"].as_str().unwrap()));
        }
        for (method, path, body) in [
            ("POST", "/operators", Some(json!({"name": "x", "role": "admin"}))),
            ("POST", "/keys", Some(json!({"name": "x", "role": "admin"}))),
            ("DELETE", "/operators/00000000-0000-7000-8000-000000000000", None),
            ("DELETE", "/keys/00000000-0000-7000-8000-000000000000", None),
        ] {
            let refused = browser.call(method, path, body).await;
            assert_eq!((refused.status, &refused.body["code"]), (403, &json!("role_insufficient")), "{role} {method} {path}");
        }
    }
    server.stop().await;
}
