//! Listeners: bytes to requests, with a limit on everything that a peer can hold on to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 20_000;
/// How long a peer may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to send the head of a request; a connection that says nothing for so long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a peer may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of a request of HTTP/2 at most; that of HTTP/1.1 has its limit in hyper.
const HEADERS_BYTES_MAX: u32 = 96 * 1024;
/// How long requests in hand may take to end once the server stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);
/// After an accept that failed (too many open files): how long to leave the listener alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of the peer, as an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The certificate that the peer proved its key for at the TLS handshake, DER, as an extension of every request. Whose it is, who issued it
/// and when it ended is not checked: that is for the handler.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Bytes);

/// How much a listener bears from its peers. Tests are less patient.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub connections_max: usize,
    pub handshake: Duration,
    pub header: Duration,
    /// Given to the handlers as an extension of every request.
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { connections_max: CONNECTIONS_MAX, handshake: HANDSHAKE_TIMEOUT, header: HEADER_TIMEOUT, body: BODY_TIMEOUT }
    }
}

/// One bound address, ready to serve.
pub struct Bound {
    pub listener: TcpListener,
    pub tls: Option<TlsAcceptor>,
    pub router: Router,
    pub patience: Patience,
}

/// Serves one address until `stop`, then drains.
pub async fn serve(bound: Bound, stop: CancellationToken) {
    let Bound { listener, tls, router, patience } = bound;
    let slots = Arc::new(Semaphore::new(patience.connections_max));
    let graceful = GracefulShutdown::new();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                // A peer on IPv4 is the same at a listener on `::`.
                Ok((stream, peer)) => (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (tls, router, watcher) = (tls.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            connection(stream, peer, tls, router, patience, watcher).await;
            drop(slot);
        });
    }
    drop(listener);
    // Idle kept-alive connections end at once, requests in hand within the limit.
    tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.ok();
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>, router: Router, patience: Patience, watcher: Watcher) {
    // Small answers leave at once; a socket that refuses the option still works.
    stream.set_nodelay(true).ok();
    let spoke = CancellationToken::new();
    let heard = spoke.clone();
    let service = move |shown: Option<PeerCertificate>| {
        TowerToHyperService::new(tower::service_fn(move |mut request: Request<Incoming>| {
            heard.cancel();
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(patience);
            if let Some(shown) = &shown {
                request.extensions_mut().insert(shown.clone());
            }
            router.clone().oneshot(request.map(Body::new))
        }))
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.header);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(60))).max_concurrent_streams(128);
    // As much as a URI may have: a SCEP message stands in one.
    builder.http2().max_header_list_size(HEADERS_BYTES_MAX);
    let outcome = match tls {
        None => {
            let served = watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service(None)).into_owned());
            unless_silent(served, &spoke, patience.header).await
        }
        Some(acceptor) => match tokio::time::timeout(patience.handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let shown = shown.map(|certificate| PeerCertificate(Bytes::copy_from_slice(certificate)));
                let served = watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service(shown)).into_owned());
                unless_silent(served, &spoke, patience.header).await
            }
            // A peer that cannot or will not shake hands is everyday life on an open port.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if let Some(Err(error)) = outcome {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// Ends a connection whose first request does not come in time. The library's own limit begins only once it knows the version of HTTP,
/// and so never for a peer that says nothing at all, or half of a word.
async fn unless_silent<T>(served: impl Future<Output = T>, spoke: &CancellationToken, limit: Duration) -> Option<T> {
    tokio::select! {
        outcome = served => Some(outcome),
        () = async {
            if tokio::time::timeout(limit, spoke.cancelled()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        } => None,
    }
}

#[cfg(test)]
mod tests;
