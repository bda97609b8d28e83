//! Service tokens: how an agent proves itself to another server, and how that server knows.

use muster::protocol::service_token::KeySet;
use serde_json::{Value, json};

use crate::support::device::TestDevice;
use crate::support::server::{Reply, TestServer, each_database, reply};

const DAY_MS: i64 = 86_400_000;

async fn ask(server: &TestServer, phone: &TestDevice, body: Value) -> Reply {
    reply(server.client.post(format!("{}/agent/v1/service-token", server.url)).bearer_auth(&phone.token).json(&body)).await
}

/// A token of the phone, whose user is named as the phone is.
pub async fn token(server: &TestServer, phone: &TestDevice) -> String {
    let email = format!("{}@example.org", phone.hardware_id);
    let said = ask(server, phone, json!({"audience": "storage", "email": email, "device_id": phone.id})).await.expect(200);
    said["token"].as_str().unwrap().to_owned()
}

async fn introspect(server: &TestServer, token: &str) -> Value {
    server.post("/introspect", json!({"token": token})).await.expect(200)
}

async fn keys(server: &TestServer) -> KeySet {
    let answer = server.client.get(format!("{}/.well-known/jwks.json", server.url)).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
    answer.json().await.unwrap()
}

#[tokio::test]
async fn an_agent_proves_itself_to_another_server_for_ten_minutes() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        let asked = json!({"audience": "storage", "email": "H@Example.org", "device_id": phone.id});
        let said = ask(&server, &phone, asked).await.expect(200);
        let now_ms = server.clock.now_ms();
        assert_eq!(said["expires_at_ms"], json!(now_ms + 600_000));
        let given = said["token"].as_str().unwrap();
        // By the keys alone, and by asking.
        let claims = keys(&server).await.verify_for("storage", given, now_ms).unwrap();
        assert_eq!((claims.device_id.as_str(), claims.email.as_str()), (phone.id.as_str(), "h@example.org"));
        assert_eq!(claims.iss, server.config.public_url);
        let active = introspect(&server, given).await;
        let expected = json!({"active": true, "sub": claims.sub, "aud": "storage", "exp": claims.exp, "device_id": phone.id,
            "email": "h@example.org", "iat": claims.iat, "iss": claims.iss, "jti": claims.jti});
        assert_eq!(active, expected);
        let url = format!("{}/api/v1/introspect", server.url);
        let form = server.client.post(&url).bearer_auth(&server.key).form(&[("token", given), ("token_type_hint", "access_token")]);
        assert_eq!(reply(form).await.expect(200), active, "a form is as good as JSON");
        server.advance(599_000);
        assert_eq!(introspect(&server, given).await["active"], json!(true));
        server.advance(1_000);
        assert_eq!(introspect(&server, given).await, json!({"active": false}));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_token_is_given_to_its_own_device_and_user_alone_and_every_refusal_says_what_to_do() {
    each_database(async |server| {
        let (phone, other) = (server.phone("h").await, server.phone("other").await);
        let body = |audience: &str, email: &str, device: &str| json!({"audience": audience, "email": email, "device_id": device});
        for (body, status, code) in [
            (body("storage", "other@example.org", &phone.id), 403, "user_mismatch"),
            (body("storage", "h@example.org", &other.id), 403, "device_mismatch"),
            (body("storage", "h@example.org", "nonsense"), 403, "device_mismatch"),
            (body("mail", "h@example.org", &phone.id), 422, "invalid"),
            (json!({"audience": "storage"}), 422, "invalid"),
        ] {
            let said = ask(&server, &phone, body.clone()).await.expect(status);
            assert_eq!(said["code"], code, "{body}");
            assert!(!said["detail"].as_str().unwrap().is_empty());
        }
        let stranger = TestDevice { token: format!("{}x", phone.token), ..phone.clone() };
        let said = ask(&server, &stranger, body("storage", "h@example.org", &phone.id)).await.expect(401);
        assert_eq!(said["code"], "token_replaced");
        // The question needs a key, and a form or JSON in which nothing is misspelt.
        let url = format!("{}/api/v1/introspect", server.url);
        let given = token(&server, &phone).await;
        assert_eq!(reply(server.client.post(&url).json(&json!({"token": given}))).await.expect(401)["code"], "key_unknown");
        assert_eq!(server.post("/introspect", json!({"tokn": given})).await.expect(422)["code"], "invalid");
        let plain = server.client.post(&url).bearer_auth(&server.key).header("content-type", "text/plain").body(given.clone());
        reply(plain).await.expect(415);
        let empty = server.client.post(&url).bearer_auth(&server.key).form(&[("token_type_hint", "x")]);
        assert_eq!(reply(empty).await.expect(422)["code"], "invalid");
        for nonsense in ["", "a.b.c", &phone.token, &format!("{given}x")] {
            assert_eq!(introspect(&server, nonsense).await, json!({"active": false}));
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_token_ends_with_its_user_its_device_or_its_address() {
    each_database(async |server| {
        for what in ["disabled", "renamed", "deleted", "unauthorized", "retired", "removed"] {
            let phone = server.phone(what).await;
            let given = token(&server, &phone).await;
            assert_eq!(introspect(&server, &given).await["active"], json!(true));
            let device = format!("/devices/{}", phone.id);
            let user = format!("/users/{}", server.get(&device).await["user_id"].as_str().unwrap());
            match what {
                "disabled" => server.call("PATCH", &user, Some(json!({"enabled": false}))).await.expect(200),
                "renamed" => server.call("PATCH", &user, Some(json!({"email": "renamed-since@example.org"}))).await.expect(200),
                "deleted" => server.delete(&user).await.expect(204),
                "unauthorized" => server.post(&format!("{device}/unauthorize"), json!({})).await.expect(200),
                "retired" => server.post(&format!("{device}/retire"), json!({})).await.expect(202),
                _ => server.delete(&device).await.expect(204),
            };
            assert_eq!(introspect(&server, &given).await, json!({"active": false}), "{what}");
            let email = format!("{what}@example.org");
            let said = ask(&server, &phone, json!({"audience": "storage", "email": email, "device_id": phone.id})).await;
            let (status, code, action) = match what {
                "renamed" => (403, "user_mismatch", None),
                "deleted" | "retired" => (403, "unauthorized", Some("wipe_app_data")),
                "removed" => (401, "device_unknown", None),
                _ => (403, "unauthorized", Some("sign_out")),
            };
            let said = said.expect(status);
            assert_eq!((said["code"].as_str(), said["action"].as_str()), (Some(code), action), "{what}");
        }
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_key_that_signs_next_is_known_a_month_before_and_the_last_one_is_not_forgotten() {
    each_database(async |server| {
        let phone = server.phone("h").await;
        let before = keys(&server).await;
        assert_eq!(before.keys.len(), 3);
        server.advance(30 * DAY_MS - 1_000);
        let last = token(&server, &phone).await;
        server.advance(1_000);
        let given = token(&server, &phone).await;
        before.verify(&given, server.clock.now_ms()).expect("a node that read the keys a month ago knows the one that signs now");
        assert_eq!(introspect(&server, &last).await["active"], json!(true), "signed by the key of the month before");
        let after = keys(&server).await;
        assert_eq!(before.keys[1..], after.keys[..2]);
        server.stop().await;
    })
    .await;
}
