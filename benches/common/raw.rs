//! The ceiling of contacts: a handler that does nothing, asked by the same client.

use serde_json::{Value, json};

use crate::common::Plan;
use crate::table::{Row, load};

/// The same client against a handler that parses JSON and answers JSON, and nothing else.
pub async fn ceiling(plan: &Plan) -> anyhow::Result<Row> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let handler = axum::routing::post(async |axum::Json(body): axum::Json<Value>| axum::Json(json!({"cause": body["cause"]})));
    let serving = tokio::spawn(axum::serve(listener, axum::Router::new().route("/", handler)).into_future());
    let client = reqwest::Client::builder().pool_max_idle_per_host(plan.connections).build()?;
    let row = load(plan.connections, None, plan.seconds.min(5), move |_| {
        let request = client.post(&url).json(&json!({"cause": "periodic"}));
        async move {
            request.send().await?.error_for_status()?.bytes().await?;
            Ok(())
        }
    })
    .await?;
    serving.abort();
    Ok(row)
}
