//! The HTTP/2 frames between the h2 library and the socket. APNs changes MAX_CONCURRENT_STREAMS while a connection lives and sends
//! GOAWAY with limits and reasons of its own; the library can do neither, so such frames are slipped in between its own here.
//! RFC 9113.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::Inner;

/// What a client sends first.
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const READ_BYTES: usize = 16_384;
/// More waits in the library.
const OUT_BYTES_MAX: usize = 65_536;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
const INITIAL_WINDOW_SIZE: u16 = 0x4;

/// Where frames for one connection are handed in; shared by the connection's streams.
#[derive(Default)]
pub(super) struct Slip {
    frames: Mutex<VecDeque<Bytes>>,
    reset: AtomicBool,
    /// Woken when a frame waits or the connection shall end.
    pub(super) changed: Notify,
}

impl Slip {
    /// SETTINGS that say how many streams the client may have open.
    pub(super) fn streams_max(&self, streams: u32) {
        self.push(settings(MAX_CONCURRENT_STREAMS, streams));
    }

    /// SETTINGS that say how many bytes the client may send on a stream; 0 stalls every body.
    pub(super) fn window(&self, bytes: u32) {
        self.push(settings(INITIAL_WINDOW_SIZE, bytes));
    }

    /// GOAWAY: streams above `last_stream` were not processed.
    pub(super) fn go_away(&self, last_stream: u32, code: u32, debug: &[u8]) {
        let mut frame = head(8 + debug.len(), GOAWAY);
        frame.put_u32(last_stream);
        frame.put_u32(code);
        frame.put_slice(debug);
        self.push(frame.freeze());
    }

    /// Ends the connection, with RST instead of FIN if `reset`.
    pub(super) fn end(&self, reset: bool) {
        self.reset.store(reset, Ordering::SeqCst);
        self.changed.notify_one();
    }

    fn push(&self, frame: Bytes) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push_back(frame);
        self.changed.notify_one();
    }

    fn pop(&self) -> Option<Bytes> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

fn head(length: usize, kind: u8) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_uint(length as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(0);
    frame.put_u32(0);
    frame
}

fn settings(id: u16, value: u32) -> Bytes {
    let mut frame = head(6, SETTINGS);
    frame.put_u16(id);
    frame.put_u32(value);
    frame.freeze()
}

/// The number of streams that a frame of [`settings`] allows, if it speaks of them.
fn streams_max_of(frame: &[u8]) -> Option<u32> {
    let (id, value) = frame.get(HEAD_BYTES..)?.split_first_chunk::<2>()?;
    (u16::from_be_bytes(*id) == MAX_CONCURRENT_STREAMS).then(|| value.first_chunk().map(|value| u32::from_be_bytes(*value))).flatten()
}

/// The length of the whole frame at the beginning of `bytes`, once it is all there.
fn whole_frame(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<3>()?;
    let length = HEAD_BYTES + u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
    (bytes.len() >= length).then_some(length)
}

/// The stream that a whole frame belongs to.
fn stream_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]) & (u32::MAX >> 1)
}

/// A SETTINGS frame that the client has still to acknowledge.
struct Unacknowledged {
    from_library: bool,
    /// The number of streams that it allows, if it speaks of them.
    streams_max: Option<u32>,
}

/// A TLS connection whose frames can be added to.
pub(super) struct Wire {
    inner: Arc<Inner>,
    stream: TlsStream<TcpStream>,
    slip: Arc<Slip>,
    /// Added to the library's first SETTINGS.
    streams_at_first: Option<u32>,
    preface_left: usize,
    from_client: BytesMut,
    to_library: BytesMut,
    from_library: BytesMut,
    to_client: BytesMut,
    unacknowledged: VecDeque<Unacknowledged>,
    /// The limit that the client has acknowledged.
    streams_max: u32,
    /// Streams that the client opened and nobody has ended.
    open: HashSet<u32>,
}

impl Wire {
    pub(super) fn new(inner: Arc<Inner>, stream: TlsStream<TcpStream>, streams_at_first: u32, slip: Arc<Slip>) -> Wire {
        Wire {
            inner,
            stream,
            slip,
            streams_at_first: Some(streams_at_first),
            preface_left: PREFACE_BYTES,
            from_client: BytesMut::new(),
            to_library: BytesMut::new(),
            from_library: BytesMut::new(),
            to_client: BytesMut::new(),
            unacknowledged: VecDeque::new(),
            streams_max: streams_at_first,
            open: HashSet::new(),
        }
    }

    /// Passes on what came from the client, but for acknowledgements of SETTINGS that the library knows nothing of.
    fn take_in(&mut self) {
        let preface = self.preface_left.min(self.from_client.len());
        self.to_library.unsplit(self.from_client.split_to(preface));
        self.preface_left -= preface;
        if self.preface_left > 0 {
            return;
        }
        while let Some(length) = whole_frame(&self.from_client) {
            let frame = self.from_client.split_to(length);
            let acknowledged = (frame[3] == SETTINGS && frame[4] & ACK != 0).then(|| self.unacknowledged.pop_front()).flatten();
            match frame[3] {
                HEADERS => self.opened(stream_of(&frame)),
                RST_STREAM => self.ended(stream_of(&frame)),
                _ => {}
            }
            if let Some(streams_max) = acknowledged.as_ref().and_then(|settings| settings.streams_max) {
                self.streams_max = streams_max;
            }
            if acknowledged.is_none_or(|settings| settings.from_library) {
                self.to_library.extend_from_slice(&frame);
            }
        }
    }

    /// The client opened a stream. One that it knew to be too many is counted: no client may do that, whatever the timing.
    fn opened(&mut self, stream: u32) {
        if self.open.insert(stream) && self.open.len() > self.streams_max as usize {
            self.inner.counts.over_limit.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ended(&mut self, stream: u32) {
        self.open.remove(&stream);
    }

    /// Lines up what the library wrote, with the slipped frames between its own.
    fn line_up(&mut self) {
        while let Some(length) = whole_frame(&self.from_library) {
            let mut frame = self.from_library.split_to(length);
            match frame[3] {
                RST_STREAM => self.ended(stream_of(&frame)),
                DATA | HEADERS if frame[4] & END_STREAM != 0 => self.ended(stream_of(&frame)),
                _ => {}
            }
            if frame[3] == SETTINGS && frame[4] & ACK == 0 {
                self.unacknowledged.push_back(Unacknowledged { from_library: true, streams_max: self.streams_at_first });
                if let Some(streams) = self.streams_at_first.take() {
                    let added = settings(MAX_CONCURRENT_STREAMS, streams);
                    frame.put_slice(&added[HEAD_BYTES..]);
                    let length = (frame.len() - HEAD_BYTES) as u32;
                    frame[..3].copy_from_slice(&length.to_be_bytes()[1..]);
                }
            } else {
                self.slip_in();
            }
            self.to_client.unsplit(frame);
        }
        self.slip_in();
    }

    fn slip_in(&mut self) {
        // Nothing may come before the library's first SETTINGS.
        while self.streams_at_first.is_none()
            && let Some(frame) = self.slip.pop()
        {
            if frame[3] == SETTINGS {
                self.unacknowledged.push_back(Unacknowledged { from_library: false, streams_max: streams_max_of(&frame) });
            }
            self.to_client.put_slice(&frame);
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.to_client.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.to_client))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.to_client.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.slip.reset.load(Ordering::SeqCst) {
            let _ = self.stream.get_ref().0.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.to_library.is_empty() {
            let mut read = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut read);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.from_client.extend_from_slice(read.filled());
            this.take_in();
        }
        let fits = this.to_library.len().min(buf.remaining());
        buf.put_slice(&this.to_library.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.to_client.len() > OUT_BYTES_MAX {
            ready!(this.send(cx))?;
        }
        this.from_library.extend_from_slice(bytes);
        this.line_up();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.line_up();
        ready!(this.send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An orderly end before the RST would make it none.
        if this.slip.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        ready!(this.send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
