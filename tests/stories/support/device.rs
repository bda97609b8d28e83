//! A phone as a value: it says exactly what the test tells it to say.

use serde_json::{Value, json};

use super::server::{Reply, TestServer, reply};

/// An activated phone.
#[derive(Clone, Debug)]
pub struct TestDevice {
    pub id: String,
    pub token: String,
    pub push: String,
    pub hardware_id: String,
}

/// The body of an activation.
pub fn activation(token: &str, email: &str, hardware_id: &str, push: Option<&str>) -> Value {
    let mut body = json!({
        "token": token, "email": email,
        "device": {"platform": "android", "hardware_id": hardware_id, "serial": format!("S-{hardware_id}"), "model": "Pixel 9",
            "os_version": "16", "agent_version": "1.0", "management_mode": "device_owner"},
    });
    if let Some(push) = push {
        body["push"] = json!({"provider": "fcm", "kind": "token", "value": push});
    }
    body
}

impl TestServer {
    /// Any activation.
    pub async fn activate(&self, body: &Value, bearer: Option<&str>) -> Reply {
        let mut request = self.client.post(format!("{}/agent/v1/activate", self.url)).json(body);
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        reply(request).await
    }

    /// A phone of a new user, activated, registered at the stand-in, with its first sync behind it.
    pub async fn phone(&self, name: &str) -> TestDevice {
        let email = format!("{name}@example.org");
        self.user(&email).await;
        let token = self.enrollment_token().await;
        let device = self.phone_with(&token, &email, name).await;
        let first = device.sync(self, json!({"cause": "launch", "policy": {"version": null}})).await.expect(200);
        let version = first["policy"]["version"].clone();
        device.sync(self, json!({"cause": "launch", "policy": {"version": version, "details": []}})).await.expect(200);
        device
    }

    /// A phone activated with a token, registered at the stand-in.
    pub async fn phone_with(&self, token: &str, email: &str, hardware_id: &str) -> TestDevice {
        let push = self.fcm.register();
        let answer = self.activate(&activation(token, email, hardware_id, Some(&push)), None).await.expect(201);
        TestDevice {
            id: answer["device_id"].as_str().unwrap().to_owned(),
            token: answer["device_token"].as_str().unwrap().to_owned(),
            push,
            hardware_id: hardware_id.to_owned(),
        }
    }
}

impl TestDevice {
    /// A sync that says `body`.
    pub async fn sync(&self, server: &TestServer, body: Value) -> Reply {
        reply(server.client.post(format!("{}/agent/v1/sync", server.url)).bearer_auth(&self.token).json(&body)).await
    }

    /// A sync of a phone that has nothing to say but its policy version.
    pub async fn visit(&self, server: &TestServer, cause: &str) -> Value {
        self.sync(server, json!({"cause": cause})).await.expect(200)
    }

    /// Events alone.
    pub async fn events(&self, server: &TestServer, events: Value) -> Reply {
        reply(server.client.post(format!("{}/agent/v1/events", server.url)).bearer_auth(&self.token).json(&json!({"events": events}))).await
    }

    /// Reports tasks with this status, and nothing else.
    pub async fn report(&self, server: &TestServer, tasks: &[Value], status: &str) -> Value {
        let results: Vec<Value> = tasks.iter().map(|task| json!({"task_id": task["id"], "status": status, "at_ms": 1})).collect();
        self.sync(server, json!({"cause": "push", "results": results})).await.expect(200)
    }
}
