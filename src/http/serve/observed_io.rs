//! The stream below hyper: sees what arrives, and closes so that the peer can read the last response.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use crate::http::admission::RequestLine;
use crate::http::frames::{Flood, FrameBudget};
use crate::http::serve::activity::Activity;
use crate::http::serve::{Ended, LINGER_BYTES, LINGER_TIME, Protocol};

/// An I/O stream that records when bytes arrive, and counts the frames of HTTP/2.
pub(super) struct ObservedIo<IO> {
    io: IO,
    activity: Arc<Activity>,
    /// Budget of control frames, on HTTP/2.
    budget: Option<Box<FrameBudget>>,
    /// On HTTP/1.
    request_line: RequestLine,
    flooded: bool,
    /// A read failed, and not because the connection ended.
    broken: bool,
    /// Bytes that were read and are to be read again.
    again: Vec<u8>,
    /// The peer sends nothing more.
    at_end: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ObservedIo<IO> {
    pub(super) fn new(io: IO, activity: Arc<Activity>) -> Self {
        let budget = match activity.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => Some(Box::new(FrameBudget::new(Instant::now()))),
        };
        Self {
            io,
            activity,
            budget,
            flooded: false,
            broken: false,
            again: Vec::new(),
            at_end: false,
            request_line: RequestLine::default(),
        }
    }

    /// Returns `bytes` in front of those that arrive.  They were read while a request was handled, and
    /// are the beginning of the next one.
    pub(super) fn read_again(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.observe_request(bytes);
            self.again.splice(..0, bytes.iter().copied());
        }
    }

    /// Waits until there are bytes to read.  Returns false at the end of the stream.
    pub(super) async fn arrival(&mut self) -> io::Result<bool> {
        if self.again.is_empty() {
            let arrived = poll_fn(|context| {
                // On the stack of this function, so that the wait needs no buffer.
                let mut space = [0; 2048];
                let mut buffer = ReadBuf::new(&mut space);
                ready!(Pin::new(&mut *self).poll_read(context, &mut buffer))?;
                Poll::Ready(Ok::<_, io::Error>(buffer.filled().to_vec()))
            });
            self.again = arrived.await?;
        }
        Ok(!self.again.is_empty())
    }

    /// Closes the connection so that the peer can read the last response or GOAWAY frame.
    pub(super) async fn finish(mut self, ended: Ended) -> Ended {
        let ended = if self.flooded { Ended::Flooded } else { ended };
        // After a time limit, the peer has had its time.
        if !matches!(ended, Ended::TimedOut | Ended::Cut) && !self.at_end {
            // Boxed: most connections never need the space.
            let lingered = Box::pin(timeout(LINGER_TIME, self.linger())).await;
            self.broken |= matches!(lingered, Ok(Err(error)) if is_broken(&error));
        }
        if ended == Ended::Closed && self.broken { Ended::Broken } else { ended }
    }

    async fn linger(&mut self) -> io::Result<()> {
        if self.flooded
            && let Some(frame) = self.budget.as_ref().and_then(|budget| budget.go_away())
        {
            self.io.write_all(&frame).await?;
        }
        let shutdown = self.io.shutdown().await;
        if self.broken {
            return shutdown;
        }
        // A peer that has reset the connection may have sent an alert before.
        let mut buffer = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES;
        loop {
            let read = self.io.read(&mut buffer).await?;
            match left.checked_sub(read) {
                Some(fewer) if read > 0 => left = fewer,
                _ => return Ok(()),
            }
        }
    }
}

/// True for an error that is not the end of the connection.
fn is_broken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

impl<IO> ObservedIo<IO> {
    fn observe_request(&mut self, bytes: &[u8]) {
        if !self.activity.reading.swap(true, Ordering::Relaxed) {
            self.activity.mark();
            self.request_line = RequestLine::default();
        }
        if self.request_line.has_fragment(bytes) {
            self.activity.has_fragment.store(true, Ordering::Relaxed);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ObservedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.again.is_empty() {
            let part = this.again.len().min(buf.remaining());
            buf.put_slice(&this.again[..part]);
            this.again.drain(..part);
            if this.again.is_empty() {
                this.again = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.io).poll_read(cx, buf));
        this.broken |= read.as_ref().is_err_and(is_broken);
        read?;
        let bytes = &buf.filled()[before..];
        if bytes.is_empty() {
            this.at_end |= buf.remaining() > 0;
            return Poll::Ready(Ok(()));
        }
        match &mut this.budget {
            Some(budget) => {
                if let Err(Flood) = budget.received(bytes, Instant::now) {
                    this.flooded = true;
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
            None if this.activity.handling.load(Ordering::Relaxed) == 0 => {
                this.observe_request(bytes);
            }
            None => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ObservedIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.note_unsent(written.is_pending());
        let written = ready!(written)?;
        if let Some(budget) = &mut self.budget {
            budget.sent(&buf[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.note_unsent(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.note_unsent(written.is_pending());
        let written = ready!(written)?;
        if let Some(budget) = &mut self.budget {
            let mut left = written;
            for buf in bufs {
                let part = left.min(buf.len());
                budget.sent(&buf[..part]);
                left -= part;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
