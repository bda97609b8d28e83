//! The listener: HTTP/1.1 and HTTP/2, plain or TLS, with connections that can be closed or reset without an answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::goaway::{Dismissable, LastWords};

/// FCM allows 100 streams a connection.
const STREAMS_MAX: u32 = 100;
/// Many small bodies at once must not stall on the connection's window.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The body of an answer, whole or cut off in the middle.
pub(super) struct Answer {
    bytes: Option<Bytes>,
    cut: bool,
    /// A cut body waits once after its half, so that the half is flushed.
    flushed: bool,
}

impl Answer {
    pub(super) fn whole(bytes: Bytes) -> Answer {
        Answer { bytes: Some(bytes), cut: false, flushed: false }
    }

    pub(super) fn cut(bytes: Bytes) -> Answer {
        Answer { bytes: Some(bytes), cut: true, flushed: false }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.bytes.take() {
            Some(bytes) if self.cut => Poll::Ready(Some(Ok(Frame::data(bytes.slice(..bytes.len() / 2))))),
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.cut && !self.flushed => {
                self.flushed = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if self.cut => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.cut && self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// What the stand-in does with a request.
pub(super) enum Outcome {
    Answer(Response<Answer>),
    /// The answer, while the connection says that it goes away (GOAWAY on HTTP/2).
    LastAnswer(Response<Answer>),
    /// The answer and then, on HTTP/2, a GOAWAY with this code and these words, with which the connection ends.
    Dismissal(Response<Answer>, u32, &'static str),
    Close,
    Reset,
    /// RST_STREAM with this code.
    ResetStream(u32),
}

/// Why a stream is reset: hyper looks for the code behind the error of a service.
#[derive(Debug, thiserror::Error)]
#[error("the stream is reset")]
struct StreamReset(#[source] h2::Error);

/// The ordinary window of a stream (RFC 9113, 6.9.2).
pub(super) const STREAM_WINDOW_BYTES: u32 = 65_535;

/// Serves until `stop`, with which every connection ends. `connected` is asked of each connection how large the windows of its streams are.
pub(super) async fn run<S, F>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: CancellationToken,
    connected: impl Fn() -> u32,
    service: S,
) where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors: the backlog waits.
                Err(_) => { tokio::task::yield_now().await; continue }
            },
        };
        let window = connected();
        let _ = stream.set_nodelay(true);
        let reset = Arc::new(AtomicBool::new(false));
        let stream = Resettable { stream, reset: reset.clone() };
        let (stop, service, acceptor) = (stop.clone(), service.clone(), acceptor.clone());
        tokio::spawn(async move {
            let served = async {
                match acceptor {
                    None => serve(stream, window, reset, service).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, window, reset, service).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = served => {}
            }
        });
    }
}

async fn serve<I, S, F>(stream: I, window: u32, reset: Arc<AtomicBool>, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS_MAX).initial_connection_window_size(WINDOW_BYTES).initial_stream_window_size(window);
    let leaving = Arc::new(Notify::new());
    let leave = leaving.clone();
    let last = LastWords::default();
    let words_of = last.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let is_http2 = request.version() == Version::HTTP_2;
        let outcome = service(request);
        let (reset, leave, last) = (reset.clone(), leave.clone(), words_of.clone());
        async move {
            match outcome.await {
                Outcome::Answer(response) => Ok(response),
                Outcome::LastAnswer(response) => {
                    leave.notify_one();
                    Ok(response)
                }
                Outcome::Dismissal(response, code, words) if is_http2 => {
                    last.set(code, words);
                    Ok(response)
                }
                Outcome::Dismissal(response, ..) => {
                    leave.notify_one();
                    Ok(response)
                }
                Outcome::Close => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                Outcome::Reset => {
                    reset.store(true, Ordering::SeqCst);
                    Err(io::ErrorKind::ConnectionReset.into())
                }
                Outcome::ResetStream(code) => Err(io::Error::other(StreamReset(h2::Reason::from(code).into()))),
            }
        }
    });
    let connection = builder.serve_connection(TokioIo::new(Dismissable::new(stream, last)), service);
    tokio::pin!(connection);
    // A connection that ends badly has ended: that is what some faults are for.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = leaving.notified() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Listens on `addr`.
pub(super) async fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await
}

/// As [`listen`], where the listener before may not have let go of the port yet.
pub(super) async fn listen_again(addr: SocketAddr) -> io::Result<TcpListener> {
    for _ in 0..100 {
        match listen(addr).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(Duration::from_millis(10)).await,
            outcome => return outcome,
        }
    }
    listen(addr).await
}

/// A connection that ends with RST instead of FIN once its flag is set.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::SeqCst) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A FIN before the RST would make it an orderly end.
        if this.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
