//! HTTP/2 as the server's own listeners speak it: chosen by ALPN over TLS, with prior knowledge without; PINGs are answered.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::Request;
use muster::config::Tls;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::support::server::TestServer;

fn address(server: &TestServer) -> String {
    server.url.split_once("://").unwrap().1.to_owned()
}

/// A connection that is driven until it ends.
async fn connect(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> (SendRequest<Bytes>, PingPong) {
    let (requests, mut connection) = h2::client::handshake(io).await.unwrap();
    let pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    (requests, pings)
}

/// The status of `/healthz` on this connection.
async fn health(requests: &SendRequest<Bytes>, scheme: &str, authority: &str) -> u16 {
    let request = Request::get(format!("{scheme}://{authority}/healthz")).body(()).unwrap();
    let (answer, _) = requests.clone().ready().await.unwrap().send_request(request, true).unwrap();
    answer.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_plain_listener_takes_http2_with_prior_knowledge_beside_http1_and_answers_pings() {
    let server = TestServer::on_sqlite().await;
    let authority = address(&server);
    let (requests, mut pings) = connect(TcpStream::connect(&authority).await.unwrap()).await;
    // A PING before the first request, between two, and while the connection is idle.
    pings.ping(Ping::opaque()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(health(&requests, "http", &authority).await, 200);
        pings.ping(Ping::opaque()).await.unwrap();
    }
    // The same listener, HTTP/1.1: an offer to change to h2c is passed over, and the answer is HTTP/1.1.
    let request =
        server.client.get(format!("{}/healthz", server.url)).header("upgrade", "h2c").header("connection", "Upgrade, HTTP2-Settings");
    let answer = request.header("http2-settings", "AAMAAABkAAQAAP__").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_11));
    server.stop().await;
}

#[tokio::test]
async fn a_tls_listener_takes_http2_where_alpn_says_so_and_answers_pings() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let server = TestServer::with(|config| config.tls = Some(Tls { cert, key })).await;
    let authority = address(&server);
    for (offered, agreed) in
        [(vec![b"h2".to_vec(), b"http/1.1".to_vec()], Some(&b"h2"[..])), (vec![b"http/1.1".to_vec()], Some(b"http/1.1"))]
    {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = offered;
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, TcpStream::connect(&authority).await.unwrap()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        if agreed == Some(b"h2") {
            let (requests, mut pings) = connect(stream).await;
            assert_eq!(health(&requests, "https", &authority).await, 200);
            pings.ping(Ping::opaque()).await.unwrap();
        }
    }
    server.stop().await;
}
