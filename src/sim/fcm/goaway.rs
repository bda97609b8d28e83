//! A connection that can end with a GOAWAY of any code and words, which no HTTP/2 library lets its user say.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const GOAWAY: u8 = 7;
const LAST_STREAM: u32 = 0x7fff_ffff;

/// What a connection still has to say; once it is said, the connection ends.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWords(Arc<Mutex<Option<Vec<u8>>>>);

impl LastWords {
    /// A GOAWAY frame (RFC 9113, 6.8) is the next thing that the peer reads, and the last.
    pub(super) fn set(&self, code: u32, words: &str) {
        let mut frame = (8 + words.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([GOAWAY, 0, 0, 0, 0, 0]);
        frame.extend(LAST_STREAM.to_be_bytes());
        frame.extend(code.to_be_bytes());
        frame.extend(words.as_bytes());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(frame);
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The bytes of a connection. The library flushes only between frames, so that is where the last words have their place.
pub(super) struct Dismissable<I> {
    io: I,
    last: LastWords,
    leaving: Option<Vec<u8>>,
}

impl<I> Dismissable<I> {
    pub(super) fn new(io: I, last: LastWords) -> Dismissable<I> {
        Dismissable { io, last, leaving: None }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Dismissable<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Dismissable<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaving.is_none() {
            this.leaving = this.last.take();
        }
        let Some(frame) = &mut this.leaving else { return Pin::new(&mut this.io).poll_flush(cx) };
        while !frame.is_empty() {
            let written = ready!(Pin::new(&mut this.io).poll_write(cx, frame))?;
            frame.drain(..written);
        }
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
