//! The phone's side of the wire.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Identity;
use crate::sim::uplink::{Ask, Outcome, Uplink};

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
    uplink: Option<Arc<Uplink>>,
}

impl Talk {
    pub fn new(client: reqwest::Client, server: &str, enrollment_token: &str) -> Talk {
        Talk {
            client,
            server: server.trim_end_matches('/').to_owned(),
            enrollment_token: enrollment_token.to_owned(),
            device_token: None,
            uplink: None,
        }
    }

    /// Sends everything over this way from now on.
    pub fn over(&mut self, uplink: Arc<Uplink>) {
        self.uplink = Some(uplink);
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
            "device": {
                "platform": who.kind.platform(), "hardware_id": who.hardware_id, "serial": who.serial, "model": who.model,
                "os_version": who.os_version, "agent_version": env!("CARGO_PKG_VERSION"), "management_mode": who.kind.management_mode(),
            },
        });
        if !who.email.is_empty() {
            body["email"] = json!(who.email);
        }
        if !push.is_empty() {
            body["push"] = who.push(push);
        }
        if let Some(app) = who.kind.app() {
            body["device"]["app"] = json!(app);
        }
        let request = self.client.post(format!("{}/agent/v1/activate", self.server)).json(&body);
        let Some((status, _, answer)) = self.exchange(Ask::Activate, request).await else { return false };
        if !status.is_success() {
            return false;
        }
        self.device_token = answer["device_token"].as_str().map(str::to_owned);
        self.device_token.is_some()
    }

    pub async fn sync(&self, body: &Value) -> Heard {
        self.post(Ask::Sync, body).await
    }

    pub async fn events(&self, body: &Value) -> Heard {
        self.post(Ask::Events, body).await
    }

    async fn post(&self, ask: Ask, body: &Value) -> Heard {
        let Some(token) = &self.device_token else { return Heard::Unknown };
        let request = self.client.post(format!("{}/agent/v1/{}", self.server, ask.name())).bearer_auth(token).json(body);
        let Some((status, retry_after, answer)) = self.exchange(ask, request).await else { return Heard::Nothing };
        match status {
            StatusCode::OK => Heard::Answer(answer),
            StatusCode::UNAUTHORIZED => Heard::Unknown,
            StatusCode::FORBIDDEN => Heard::SignOut { action: answer["action"].as_str().unwrap_or("sign_out").to_owned() },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Heard::Later(retry_after.unwrap_or(5)),
            _ => Heard::Nothing,
        }
    }

    /// Sends a request: its status, after how many seconds to come back if it says so, its body; `None` where nothing came back.
    async fn exchange(&self, ask: Ask, request: reqwest::RequestBuilder) -> Option<(StatusCode, Option<u64>, Value)> {
        let exchange = async {
            let response = request.send().await.ok()?;
            let status = response.status();
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            Some((status, retry_after, response.json().await.unwrap_or(Value::Null)))
        };
        match &self.uplink {
            Some(uplink) => {
                let outcome = |answer: &Option<(StatusCode, Option<u64>, Value)>| {
                    let code = answer.as_ref().and_then(|(.., body)| body["code"].as_str());
                    Outcome::of(answer.as_ref().map(|(status, ..)| status.as_u16()), code)
                };
                uplink.send(ask, exchange, outcome).await
            }
            None => exchange.await,
        }
    }
}
