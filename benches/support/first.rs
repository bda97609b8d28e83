//! The first phone of a fleet, from which the others are copied.

use serde_json::{Value, json};

/// Enrolls it, with this push address, and lets it have its document.
pub async fn enroll(base: &str, key: &str, push: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let post = async |path: &str, token: &str, body: Value| -> anyhow::Result<Value> {
        Ok(client.post(format!("{base}{path}")).bearer_auth(token).json(&body).send().await?.error_for_status()?.json().await?)
    };
    post("/api/v1/users", key, json!({"email": "user@example.org", "name": "A user"})).await?;
    let token = post("/api/v1/enrollment-tokens", key, json!({"name": "bench"})).await?["token"].clone();
    let body = json!({"token": token, "email": "user@example.org",
        "device": {"platform": "android", "hardware_id": "first", "model": "Pixel 9", "os_version": "16", "agent_version": "1",
            "management_mode": "device_owner"},
        "push": {"provider": "fcm", "kind": "token", "value": push}});
    let made = post("/agent/v1/activate", "", body).await?;
    let token = made["device_token"].as_str().unwrap_or_default();
    let answer = post("/agent/v1/sync", token, json!({"cause": "launch", "policy": {"version": null}})).await?;
    let version = &answer["policy"]["version"];
    post("/agent/v1/sync", token, json!({"cause": "launch", "policy": {"version": version, "details": []}})).await?;
    Ok(())
}
