//! Spans over OTLP (HTTP, protobuf), as OpenTelemetry's collectors take them. Requests, groups of the intake and nudges are spans; a group
//! is linked to the requests that it answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing_subscriber::{Layer, Registry, reload};

/// A collector that takes longer has lost these spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

type Boxed = Box<dyn Layer<Registry> + Send + Sync>;

static LAYER: OnceLock<reload::Handle<Vec<Boxed>, Registry>> = OnceLock::new();
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// A layer that does nothing until [`export`] fills it.
pub(super) fn layer() -> Boxed {
    let (layer, handle) = reload::Layer::new(Vec::new());
    LAYER.set(handle).ok();
    layer.boxed()
}

/// Sends spans to `endpoint`; a second call changes nothing.
pub(super) fn export(endpoint: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(EXPORT_TIMEOUT).no_proxy().build().context("the client of the traces")?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client { client, runtime: Handle::current() })
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .context("[telemetry] otlp_endpoint")?;
    let resource = Resource::builder().with_service_name("muster").build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let tracer = provider.tracer("muster");
    if PROVIDER.set(provider).is_err() {
        return Ok(());
    }
    let Some(handle) = LAYER.get() else { return Ok(()) };
    handle.modify(|layers| layers.push(tracing_opentelemetry::layer().with_tracer(tracer).boxed())).context("the layer of the traces")
}

/// Sends what is left.
pub(super) fn finish() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        tracing::warn!(%error, "the last spans were not sent");
    }
}

/// Our own HTTP client. The exporter works on a thread of its own, where no runtime is: requests are carried by the server's.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let (head, body) = request.into_parts();
            let request = client.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
            let answer = request.send().await?.error_for_status()?;
            let status = answer.status();
            let mut response = Response::new(answer.bytes().await?);
            *response.status_mut() = status;
            Ok::<_, reqwest::Error>(response)
        });
        Box::pin(async move { Ok(sent.await??) })
    }
}
