//! One connection: its streams, and how many of them APNs lets a client have.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::course::Outcome;
use super::faults::Canned;
use super::token::Seen;
use super::wire::{Slip, Wire};
use super::{Inner, STREAMS_MAX};

/// A pushed body has at most 4 KiB; more than this is not even read.
const BODY_BYTES_MAX: usize = 65_536;
/// Many small bodies at once must not stall on the connection's window.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
const ALL_STREAMS: u32 = u32::MAX >> 1;

/// What the streams of a connection share.
pub(super) struct Link {
    /// The topic of the client certificate, if one came.
    pub(super) certificate_topic: Option<String>,
    pub(super) seen: Mutex<Seen>,
    pub(super) slip: Arc<Slip>,
    limit: Mutex<Limit>,
    /// Ends the streams that a lower limit leaves no room for.
    squeezed: Notify,
    /// Streams above this one are not processed.
    last_stream: AtomicU32,
    over: AtomicBool,
}

struct Limit {
    streams_max: u32,
    open: u32,
}

impl Link {
    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more stream.
    fn enter(&self) -> bool {
        let mut limit = self.limit();
        let enters = limit.open < limit.streams_max;
        limit.open += u32::from(enters);
        enters
    }

    /// A stream is answered. A rejection leaves room for a single stream, an accepted push for all again; 410 is no rejection.
    fn leave(&self, status: Option<u16>) {
        let mut limit = self.limit();
        limit.open = limit.open.saturating_sub(1);
        let streams_max = match status {
            Some(200) => STREAMS_MAX,
            Some(400..=499) if status != Some(410) => 1,
            _ => return,
        };
        if limit.streams_max != streams_max {
            limit.streams_max = streams_max;
            self.slip.streams_max(streams_max);
            if streams_max == 1 {
                self.squeezed.notify_waiters();
            }
        }
    }

    /// GOAWAY with `last` as the last stream that is processed.
    pub(super) fn go_away(&self, last: u32, code: u32, debug: &[u8]) {
        self.last_stream.fetch_min(last, Ordering::SeqCst);
        self.slip.go_away(last, code, debug);
    }

    fn end(&self, reset: bool) {
        self.over.store(true, Ordering::SeqCst);
        self.slip.end(reset);
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve(inner: Arc<Inner>, stream: TlsStream<TcpStream>) {
    let certificate_topic = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(super::credentials::topic_of);
    // APNs trusts a certificate from the start, and a token once it has seen a good one.
    let streams_max = if certificate_topic.is_some() { STREAMS_MAX } else { 1 };
    let slip = Arc::<Slip>::default();
    let link = Arc::new(Link {
        certificate_topic,
        seen: Mutex::default(),
        slip: slip.clone(),
        limit: Mutex::new(Limit { streams_max, open: 0 }),
        squeezed: Notify::new(),
        last_stream: AtomicU32::new(ALL_STREAMS),
        over: AtomicBool::new(false),
    });
    let wire = Wire::new(inner.clone(), stream, streams_max, slip.clone());
    let mut builder = h2::server::Builder::new();
    builder.initial_connection_window_size(WINDOW_BYTES).max_concurrent_reset_streams(STREAMS_MAX as usize * 4);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(wire).await else { return };
    loop {
        tokio::select! {
            // Polled again, the connection sends what was slipped in.
            () = slip.changed.notified() => if link.over.load(Ordering::SeqCst) { return },
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (inner, link) = (inner.clone(), link.clone());
                    tokio::spawn(stream_of(inner, link, request, respond));
                }
                _ => return,
            },
        }
    }
}

/// Serves one stream.
async fn stream_of(inner: Arc<Inner>, link: Arc<Link>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    inner.counts.requests.fetch_add(1, Ordering::Relaxed);
    let id = respond.stream_id().as_u32();
    if !link.enter() {
        refuse(&inner.counts.refused_streams, &mut respond);
        return;
    }
    let squeezed = link.squeezed.notified();
    let (head, body) = request.into_parts();
    let course = async {
        let body = drain(body).await?;
        // After its own GOAWAY, APNs does not look at later streams.
        if id > link.last_stream.load(Ordering::SeqCst) {
            return None;
        }
        Some(inner.handle(&link, id, &head, &body).await)
    };
    let outcome = tokio::select! {
        biased;
        // Before the course has a turn: what is refused was not processed.
        () = squeezed => {
            link.leave(None);
            refuse(&inner.counts.refused_streams, &mut respond);
            return;
        }
        outcome = course => outcome,
    };
    match outcome {
        Some(Outcome::Answer(canned, apns_id)) => answer(&link, respond, canned, &apns_id),
        Some(Outcome::ResetStream(code)) => {
            link.leave(None);
            respond.send_reset(code.into());
        }
        Some(Outcome::ResetAfterHeaders(status)) => {
            link.leave(None);
            let Ok(head) = Response::builder().status(status).body(()) else { return };
            if let Ok(mut body) = respond.send_response(head, false) {
                // The head has to be on the wire before the reset overtakes it.
                body.reserve_capacity(1);
                let _ = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                let _ = body.send_data(Bytes::from_static(b"{"), false);
                tokio::task::yield_now().await;
                body.send_reset(Reason::INTERNAL_ERROR);
            }
        }
        Some(Outcome::Close) => {
            link.end(false);
            hold(respond).await;
        }
        Some(Outcome::Reset) => {
            link.end(true);
            hold(respond).await;
        }
        Some(Outcome::Silence) | None => {
            hold(respond).await;
            link.leave(None);
        }
    }
}

/// Waits for the end of a stream that gets no answer: a handle that is dropped would reset it.
async fn hold(mut respond: SendResponse<Bytes>) {
    std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok();
}

fn refuse(counter: &AtomicU64, respond: &mut SendResponse<Bytes>) {
    counter.fetch_add(1, Ordering::Relaxed);
    respond.send_reset(Reason::REFUSED_STREAM);
}

fn answer(link: &Link, mut respond: SendResponse<Bytes>, canned: Canned, apns_id: &str) {
    // Before the answer, so that a client that sends at once finds the room that it was told of.
    link.leave(Some(canned.status));
    let mut head = Response::builder().status(canned.status).header("apns-id", apns_id);
    if !canned.body.is_empty() {
        head = head.header("content-type", canned.content_type);
    }
    if let Some(value) = &canned.retry_after {
        head = head.header("retry-after", value);
    }
    let Ok(head) = head.body(()) else { return };
    // A client that has gone away needs no answer.
    if let Ok(mut body) = respond.send_response(head, canned.body.is_empty())
        && !canned.body.is_empty()
    {
        let _ = body.send_data(canned.body, true);
    }
}

/// Reads a body to its end; `None` where the stream ends before it, or the body is far too large.
async fn drain(mut body: RecvStream) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        let _ = body.flow_control().release_capacity(part.len());
        if whole.len() < BODY_BYTES_MAX {
            whole.extend_from_slice(&part);
        }
    }
    Some(whole)
}
