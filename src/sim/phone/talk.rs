//! The phone's side of the wire.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Identity;

/// What came back from the server.
pub enum Heard {
    Answer(Value),
    /// 403: this phone may not go on.
    SignOut {
        action: String,
    },
    /// 401: the device token does not stand.
    Unknown,
    /// 429 or 503: come back in so many seconds.
    Later(u64),
    /// Nothing, or nothing that can be understood.
    Nothing,
}

/// Credentials and the way to the server.
pub struct Talk {
    client: reqwest::Client,
    server: String,
    enrollment_token: String,
    device_token: Option<String>,
}

impl Talk {
    pub fn new(client: reqwest::Client, server: &str, enrollment_token: &str) -> Talk {
        Talk { client, server: server.trim_end_matches('/').to_owned(), enrollment_token: enrollment_token.to_owned(), device_token: None }
    }

    pub fn is_activated(&self) -> bool {
        self.device_token.is_some()
    }

    pub fn forget_device_token(&mut self) {
        self.device_token = None;
    }

    /// Silent activation; true where the server admitted the phone.
    pub async fn activate(&mut self, who: &Identity, push: &str, _now_ms: i64) -> bool {
        let mut body = json!({
            "token": self.enrollment_token,
            "email": who.email,
            "device": {
                "platform": who.kind.platform(), "hardware_id": who.hardware_id, "serial": who.serial, "model": who.model,
                "os_version": who.os_version, "agent_version": env!("CARGO_PKG_VERSION"), "management_mode": who.kind.management_mode(),
            },
            "push": {"provider": who.kind.push_provider(), "kind": "token", "value": push},
        });
        if let Some(app) = who.kind.app() {
            body["device"]["app"] = json!(app);
        }
        let request = self.client.post(format!("{}/agent/v1/activate", self.server)).json(&body);
        let Ok(response) = request.send().await else { return false };
        if !response.status().is_success() {
            return false;
        }
        let answer: Value = response.json().await.unwrap_or(Value::Null);
        self.device_token = answer["device_token"].as_str().map(str::to_owned);
        self.device_token.is_some()
    }

    pub async fn sync(&self, body: &Value) -> Heard {
        self.post("sync", body).await
    }

    pub async fn events(&self, body: &Value) -> Heard {
        self.post("events", body).await
    }

    async fn post(&self, what: &str, body: &Value) -> Heard {
        let Some(token) = &self.device_token else { return Heard::Unknown };
        let request = self.client.post(format!("{}/agent/v1/{what}", self.server)).bearer_auth(token).json(body);
        let Ok(response) = request.send().await else { return Heard::Nothing };
        let status = response.status();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        let answer: Value = response.json().await.unwrap_or(Value::Null);
        match status {
            StatusCode::OK => Heard::Answer(answer),
            StatusCode::UNAUTHORIZED => Heard::Unknown,
            StatusCode::FORBIDDEN => Heard::SignOut { action: answer["action"].as_str().unwrap_or("sign_out").to_owned() },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Heard::Later(retry_after.unwrap_or(5)),
            _ => Heard::Nothing,
        }
    }
}
