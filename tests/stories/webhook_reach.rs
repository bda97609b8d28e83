//! Where webhooks lead: https under an authority of one's own, no redirects, and no answer that is read without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::post;
use futures_util::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use crate::support::server::TestServer;

/// An answer goes on in pieces of this size.
const PIECE_BYTES: usize = 16_384;

fn allow(config: &mut muster::config::Config) {
    config.webhooks.allow = vec!["127.0.0.0/8".into()];
}

async fn listen(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// Makes the endpoint and something to tell; answers its id.
async fn told(server: &TestServer, url: &str) -> String {
    let made = server.post("/webhooks", json!({"url": url, "kinds": ["user.created"]})).await.expect(201);
    server.user("user@example.org").await;
    made["id"].as_str().unwrap().to_owned()
}

async fn attempted(server: &TestServer, id: &str) -> Value {
    let mut first = Value::Null;
    server
        .until("an attempt is stored", async || {
            let listed = server.get(&format!("/webhooks/{id}/deliveries")).await;
            first = listed["items"][0].clone();
            first["attempts"].as_i64().is_some_and(|attempts| attempts > 0)
        })
        .await;
    first
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_its_target_hears_nothing() {
    let server = TestServer::with(allow).await;
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    let target = listen(Router::new().fallback(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { StatusCode::OK }
    }))
    .await;
    let from = listen(Router::new().route("/hook", post(move || async move { Redirect::temporary(&target).into_response() }))).await;
    let id = told(&server, &format!("{from}/hook")).await;
    let first = attempted(&server, &id).await;
    assert_eq!((first["status"].as_i64(), first["state"].as_str()), (Some(307), Some("pending")), "{first}");
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_whose_body_drips_was_given_with_its_status() {
    let server = TestServer::with(allow).await;
    let hook = post(|| async {
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"drop ")), ()))
        });
        (StatusCode::OK, Body::from_stream(drops)).into_response()
    });
    let at = listen(Router::new().route("/hook", hook)).await;
    let id = told(&server, &format!("{at}/hook")).await;
    let first = attempted(&server, &id).await;
    assert_eq!((first["status"].as_i64(), first["state"].as_str(), first["attempts"].as_i64()), (Some(200), Some("delivered"), Some(1)));
    assert!(first["answer"].as_str().unwrap().starts_with("drop drop"), "{first}");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_without_end_is_read_for_64_kibibytes_and_kept_for_200() {
    let server = TestServer::with(allow).await;
    let pieces = Arc::new(AtomicUsize::new(0));
    let counter = pieces.clone();
    let endless = move || async move {
        Body::from_stream(stream::unfold((), move |()| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Some((Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; PIECE_BYTES])), ())) }
        }))
    };
    let url = listen(Router::new().route("/hook", post(endless))).await;
    let id = told(&server, &format!("{url}/hook")).await;
    let first = attempted(&server, &id).await;
    assert_eq!((first["status"].as_i64(), first["state"].as_str()), (Some(200), Some("delivered")), "{first}");
    assert_eq!(first["answer"].as_str().unwrap(), "x".repeat(200));
    // What lies in the sockets' buffers was sent as well, but it ends: the connection is closed.
    let mut before = usize::MAX;
    server
        .until("the answer ends", async || {
            let now = pieces.load(Ordering::SeqCst);
            std::mem::replace(&mut before, now) == now
        })
        .await;
    // Read for as long as its body may take, it would be a hundred times as many.
    assert!(before < 1_500, "{before} pieces");
    server.stop().await;
}

#[tokio::test]
async fn https_is_spoken_to_an_endpoint_of_a_known_authority_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&ca_file, certified.cert.pem()).unwrap();
    let heard = Arc::new(AtomicUsize::new(0));
    let url = listen_tls(&certified, heard.clone()).await;
    let strange = TestServer::with(allow).await;
    let id = told(&strange, &url).await;
    let first = attempted(&strange, &id).await;
    assert!(first["status"].is_null() && first["answer"].as_str().unwrap().contains("certificate"), "{first}");
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    strange.stop().await;
    let server = TestServer::with(|config| {
        allow(config);
        config.webhooks.ca_file = Some(ca_file);
    })
    .await;
    let id = told(&server, &url).await;
    let first = attempted(&server, &id).await;
    assert_eq!((first["status"].as_i64(), first["state"].as_str()), (Some(204), Some("delivered")), "{first}");
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    server.stop().await;
}

async fn listen_tls(certified: &rcgen::CertifiedKey<rcgen::KeyPair>, heard: Arc<AtomicUsize>) -> String {
    rustls::crypto::ring::default_provider().install_default().ok();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let builder = rustls::ServerConfig::builder().with_no_client_auth();
    let tls = builder.with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().fallback(move || {
        heard.fetch_add(1, Ordering::SeqCst);
        async { StatusCode::NO_CONTENT }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await.ok();
            });
        }
    });
    url
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_waited_for_no_longer_than_ten_seconds() {
    let server = TestServer::with(allow).await;
    let url = listen(Router::new().route("/hook", post(std::future::pending::<StatusCode>))).await;
    let began = std::time::Instant::now();
    let id = told(&server, &format!("{url}/hook")).await;
    let first = attempted(&server, &id).await;
    assert!(first["status"].is_null() && first["answer"].as_str().unwrap().contains("no answer within 10 s"), "{first}");
    assert!(began.elapsed() >= std::time::Duration::from_secs(10));
    assert_eq!(first["state"], "pending");
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_is_allowed_no_more_hears_nothing_whenever_its_endpoint_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("muster.db").display());
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    let url = listen(Router::new().fallback(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { StatusCode::OK }
    }))
    .await;
    let server = TestServer::at(&database, None, allow).await;
    let made = server.post("/webhooks", json!({"url": format!("{url}/hook"), "kinds": ["user.created"]})).await.expect(201);
    server.stop().await;
    let server = TestServer::at(&database, None, |_| {}).await;
    server.user("user@example.org").await;
    let first = attempted(&server, made["id"].as_str().unwrap()).await;
    assert!(first["status"].is_null() && first["state"] == "pending", "{first}");
    assert_eq!(heard.load(Ordering::SeqCst), 0, "{first}");
    server.stop().await;
}
