//! Serves one connection, HTTP/1.1 or HTTP/2, and enforces time limits.
//!
//! # Design notes
//! hyper limits the header time of HTTP/1 only, with the same value as the idle time of a kept-alive
//! connection.  HTTP/2 has neither limit.  Here a watchdog tracks two facts, "a request is being handled"
//! and "bytes arrived since the last response", and closes connections that exceed a limit.  On HTTP/2
//! arriving bytes do not imply a request, because SETTINGS and PING frames are not requests.  There, an
//! unfinished header counts as idle time.
//!
//! # Closing
//! A client may still be sending a body when the response to its request is ready: 401, 405, 413 and 431
//! do not need the body.  If the server closed at once, the kernel would reset the connection and the
//! client might lose the response (RFC 9112 section 9.6).  So the server closes its sending half, and
//! then discards what arrives, within `LINGER_TIME` and `LINGER_BYTES`.

use std::future::{Future, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::http::admission::{self, Hosts, RequestLine};
use crate::http::frames::{Flood, FrameBudget};
use crate::http::reply::Reply;

/// Time for discarding what a client still sends after its last response.
const LINGER_TIME: Duration = Duration::from_secs(5);
/// Bytes that are discarded after the last response.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Limits of one connection.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Time from the first byte of an HTTP/1 request to the end of its header, and from the start of a
    /// connection to its first request.
    pub header_read: Duration,
    /// Time from the end of a response to the next request.
    pub idle: Duration,
    /// Time from the end of a request's header until its response is ready.
    pub request: Duration,
    /// Largest header of a request, in bytes.
    pub header_bytes: usize,
    /// Concurrent requests on an HTTP/2 connection.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_read: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            request: Duration::from_secs(30),
            header_bytes: 16 * 1024,
            streams: 64,
        }
    }
}

/// The negotiated protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Reasons why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Either side closed it, or an error of the protocol ended it.
    Closed,
    /// A time limit passed, or the process stops.
    TimedOut,
    /// The peer sent HTTP/2 control frames in place of requests.
    Flooded,
}

/// Serves `io` until one end closes it or a limit is exceeded.  After `stop` is signalled, requests that
/// are being handled are answered first.
pub async fn connection<IO, H, F>(
    io: IO,
    protocol: Protocol,
    hosts: Hosts,
    limits: &Limits,
    stop: CancellationToken,
    handler: H,
) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<RequestBody>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let activity = Arc::new(Activity::new(protocol));
    let mut io = ObservedIo::new(io, Arc::clone(&activity));
    let service = {
        let (activity, limit) = (Arc::clone(&activity), limits.request);
        service_fn(move |request: Request<Incoming>| {
            let guard = RequestGuard::begin(&activity);
            let is_http1 = activity.protocol == Protocol::Http1;
            activity.unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
            let has_fragment = activity.has_fragment.swap(false, Ordering::Relaxed);
            let body = |body| RequestBody { body: Some(body), activity: Arc::clone(&activity) };
            let reply = match admission::refusal(&request, &hosts, has_fragment) {
                Some(refusal) => Either::Left(ready(Ok(refusal))),
                // A timeout closes an HTTP/1 connection and resets an HTTP/2 stream.
                // Boxed: hyper keeps the space of this future for as long as the connection is open.
                None => Either::Right(timeout(limit, Box::pin(handler(request.map(body))))),
            };
            let activity = Arc::clone(&activity);
            async move {
                let mut reply = reply.await;
                if let Ok(reply) = &mut reply
                    && is_http1
                    && activity.unread.load(Ordering::Relaxed)
                {
                    reply
                        .headers_mut()
                        .insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                drop(guard);
                reply
            }
        })
    };
    let ended = match protocol {
        Protocol::Http1 => {
            let mut connection = http1::Builder::new()
                .timer(TokioTimer::new())
                // The watchdog limits the header time; hyper's own limit would apply to idle time too.
                .header_read_timeout(None)
                .max_buf_size(limits.header_bytes.max(8 * 1024))
                .serve_connection(TokioIo::new(&mut io), service);
            watch(
                Pin::new(&mut connection),
                http1::Connection::graceful_shutdown,
                &activity,
                limits,
                stop,
            )
            .await
        }
        Protocol::Http2 => {
            let mut connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.streams)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
                .max_send_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(&mut io), service);
            watch(
                Pin::new(&mut connection),
                http2::Connection::graceful_shutdown,
                &activity,
                limits,
                stop,
            )
            .await
        }
    };
    io.finish(ended).await
}

/// Drives a connection, and closes it when it exceeds a limit or the process stops.
async fn watch<C>(
    mut connection: Pin<&mut C>,
    close: fn(Pin<&mut C>),
    activity: &Activity,
    limits: &Limits,
    stop: CancellationToken,
) -> Ended
where
    C: Future,
{
    let mut closing = false;
    // At most one header time ahead: a request that begins in the meantime has an earlier deadline, and no
    // event wakes this task then.
    let next = || activity.deadline(limits).min(Instant::now() + limits.header_read);
    let mut alarm = pin!(sleep_until(next()));
    loop {
        tokio::select! {
            // The result is not used: each request on the connection was answered and logged.
            _ = connection.as_mut() => {
                return if closing { Ended::TimedOut } else { Ended::Closed };
            }
            () = stop.cancelled(), if !closing => {
                closing = true;
                close(connection.as_mut());
            }
            () = alarm.as_mut() => {
                if activity.deadline(limits) > Instant::now() {
                    alarm.as_mut().reset(next());
                } else if closing || activity.is_reading() {
                    return Ended::TimedOut;
                } else {
                    closing = true;
                    close(connection.as_mut());
                    // If the graceful shutdown takes longer than this, drop the connection.
                    alarm.as_mut().reset(Instant::now() + limits.header_read);
                }
            }
        }
    }
}

/// The facts that the watchdog checks.
struct Activity {
    start: Instant,
    protocol: Protocol,
    /// Requests whose header was read and whose response is not ready.
    handling: AtomicUsize,
    /// Bytes arrived while no request was handled: a request has begun.
    reading: AtomicBool,
    /// Time of the last change of `handling` or `reading`, in milliseconds since `start`.
    since: AtomicU64,
    /// The target of the request that is being read has a fragment.
    has_fragment: AtomicBool,
    /// On HTTP/1: the body of the current request has not been read to its end.
    unread: AtomicBool,
}

impl Activity {
    fn new(protocol: Protocol) -> Self {
        Self {
            start: Instant::now(),
            protocol,
            handling: AtomicUsize::new(0),
            // The header limit also applies to the first request of a connection.
            reading: AtomicBool::new(true),
            since: AtomicU64::new(0),
            has_fragment: AtomicBool::new(false),
            unread: AtomicBool::new(false),
        }
    }

    fn mark(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(ms, Ordering::Relaxed);
    }

    fn deadline(&self, limits: &Limits) -> Instant {
        if self.handling.load(Ordering::Relaxed) > 0 {
            // Each request that is handled has its own limit.  Check again after it.
            return Instant::now() + limits.request;
        }
        let since = self.start + Duration::from_millis(self.since.load(Ordering::Relaxed));
        since + if self.is_reading() { limits.header_read } else { limits.idle }
    }

    /// True if a request has begun.  There is nothing to finish gracefully then.
    fn is_reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }
}

/// The body of a request.
///
/// On HTTP/2, the rest of a body that is dropped early is discarded within the bounds of closing.
/// Otherwise h2 would reset the stream, and clients that are still sending lose the response.
pub struct RequestBody {
    /// `None` only after it was dropped.
    body: Option<Incoming>,
    activity: Arc<Activity>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if frame.is_none() || self.is_end_stream() {
            self.activity.unread.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.activity.protocol == Protocol::Http2
            && let Some(body) = self.body.take()
            && !body.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(LINGER_TIME, discard(body)));
        }
    }
}

/// Reads and drops at most [`LINGER_BYTES`] of a body.
async fn discard(mut body: Incoming) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(fewer) => left = fewer,
            None => return,
        }
    }
}

/// Counts one request as being handled until it is dropped.
struct RequestGuard {
    activity: Arc<Activity>,
}

impl RequestGuard {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.handling.fetch_add(1, Ordering::Relaxed);
        activity.reading.store(false, Ordering::Relaxed);
        activity.mark();
        Self { activity: Arc::clone(activity) }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.handling.fetch_sub(1, Ordering::Relaxed);
        self.activity.mark();
    }
}

/// An I/O stream that records when bytes arrive, and counts the frames of HTTP/2.
struct ObservedIo<IO> {
    io: IO,
    activity: Arc<Activity>,
    /// Budget of control frames, on HTTP/2.
    budget: Option<Box<FrameBudget>>,
    /// On HTTP/1.
    request_line: RequestLine,
    flooded: bool,
    /// The peer sends nothing more.
    at_end: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ObservedIo<IO> {
    fn new(io: IO, activity: Arc<Activity>) -> Self {
        let budget = match activity.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => Some(Box::new(FrameBudget::new(Instant::now()))),
        };
        Self {
            io,
            activity,
            budget,
            flooded: false,
            at_end: false,
            request_line: RequestLine::default(),
        }
    }

    /// Closes the connection so that the peer can read the last response or GOAWAY frame.
    async fn finish(mut self, ended: Ended) -> Ended {
        let ended = if self.flooded { Ended::Flooded } else { ended };
        // After a time limit, the peer has had its time.
        if ended != Ended::TimedOut && !self.at_end {
            // Boxed: most connections never need the space.
            Box::pin(timeout(LINGER_TIME, self.linger())).await.ok();
        }
        ended
    }

    async fn linger(&mut self) -> io::Result<()> {
        if self.flooded
            && let Some(frame) = self.budget.as_ref().and_then(|budget| budget.go_away())
        {
            self.io.write_all(&frame).await?;
        }
        self.io.shutdown().await?;
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

impl<IO: AsyncRead + Unpin> AsyncRead for ObservedIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
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
                if !this.activity.reading.swap(true, Ordering::Relaxed) {
                    this.activity.mark();
                    this.request_line = RequestLine::default();
                }
                if this.request_line.has_fragment(bytes) {
                    this.activity.has_fragment.store(true, Ordering::Relaxed);
                }
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
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        if let Some(budget) = &mut self.budget {
            budget.sent(&buf[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::http::reply;
    use http_body_util::{Empty, StreamBody};
    use hyper::StatusCode;
    use hyper::client::conn::http2 as client;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn start(limits: Limits, stop: CancellationToken) -> DuplexStream {
        let (client, server) = duplex(4096);
        tokio::spawn(async move {
            connection(server, Protocol::Http1, Hosts::Any, &limits, stop, |_| async {
                reply::empty(StatusCode::NO_CONTENT)
            })
            .await;
        });
        client
    }

    async fn request(client: &mut DuplexStream) -> String {
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut buf = [0; 256];
        let n = client.read(&mut buf).await.expect("read");
        String::from_utf8_lossy(&buf[..n]).into_owned()
    }

    /// Returns the seconds until the server closes.
    async fn closes_after(client: &mut DuplexStream) -> u64 {
        let before = Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("closed");
        before.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn closes_a_silent_connection_at_the_header_limit() {
        let mut client = start(Limits::default(), CancellationToken::new());
        assert_eq!(closes_after(&mut client).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn closes_a_connection_with_a_slow_header() {
        let mut client = start(Limits::default(), CancellationToken::new());
        assert!(request(&mut client).await.starts_with("HTTP/1.1 204"));
        tokio::time::advance(Duration::from_secs(30)).await;
        client.write_all(b"GET / HT").await.expect("sent");
        assert_eq!(closes_after(&mut client).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn closes_an_idle_connection_at_the_idle_limit() {
        let mut client = start(Limits::default(), CancellationToken::new());
        assert!(request(&mut client).await.starts_with("HTTP/1.1 204"));
        assert_eq!(closes_after(&mut client).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn closes_an_idle_connection_at_once_on_stop() {
        let stop = CancellationToken::new();
        let mut client = start(Limits::default(), stop.clone());
        assert!(request(&mut client).await.starts_with("HTTP/1.1 204"));
        stop.cancel();
        assert_eq!(closes_after(&mut client).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_stays_open_after_a_body_that_was_read() {
        let (mut client, server) = duplex(4096);
        tokio::spawn(async move {
            let (limits, stop) = (Limits::default(), CancellationToken::new());
            let handler = |request: Request<RequestBody>| async {
                let _ = request.into_body().collect().await;
                reply::empty(StatusCode::NO_CONTENT)
            };
            connection(server, Protocol::Http1, Hosts::Any, &limits, stop, handler).await
        });
        for framing in [
            "content-length: 3\r\n\r\nabc",
            "transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        ] {
            let post = format!("POST / HTTP/1.1\r\nhost: x\r\n{framing}");
            client.write_all(post.as_bytes()).await.expect("sent");
            let mut buf = [0; 256];
            let n = client.read(&mut buf).await.expect("read");
            let response = String::from_utf8_lossy(&buf[..n]);
            assert!(response.starts_with("HTTP/1.1 204"), "{framing}: {response}");
            assert!(!response.contains("connection: close"), "{framing}: {response}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rejects_a_target_with_a_fragment() {
        let mut client = start(Limits::default(), CancellationToken::new());
        for (target, status) in [("/", "204"), ("/a?b", "204"), ("/a#b", "400")] {
            let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
            client.write_all(request.as_bytes()).await.expect("sent");
            let mut buf = [0; 256];
            let n = client.read(&mut buf).await.expect("read");
            let response = String::from_utf8_lossy(&buf[..n]);
            assert_eq!(&response["HTTP/1.1 ".len()..][..3], status, "{target}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rejects_a_header_above_the_limit() {
        let client = start(Limits::default(), CancellationToken::new());
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(17 * 1024));
        let (mut read, mut write) = tokio::io::split(client);
        let sent = tokio::spawn(async move { write.write_all(long.as_bytes()).await });
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        let _ = sent.await;
        assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }

    /// Sends the header of a request with a body of `length` bytes, which the handler does not read.
    async fn begin_upload(client: &mut DuplexStream, length: usize) {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("sent");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_reads_the_response_after_it_sent_a_body_that_was_not_read() {
        let mut client = start(Limits::default(), CancellationToken::new());
        let length = 4 * 1024 * 1024;
        begin_upload(&mut client, length).await;
        client.write_all(&vec![b'x'; length]).await.expect("the server reads the body");
        let mut response = String::new();
        client.read_to_string(&mut response).await.expect("a response");
        assert!(response.starts_with("HTTP/1.1 204"), "{response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_reads_431_after_it_sent_the_body() {
        let mut client = start(Limits::default(), CancellationToken::new());
        let long = format!("POST / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
        client.write_all(long.as_bytes()).await.expect("the server reads the header");
        client.write_all(&[b'x'; 100 * 1024]).await.expect("the server reads the body");
        let mut response = String::new();
        // The client closes its sending half only after it has read the response.
        client.read_to_string(&mut response).await.expect("a response");
        assert!(response.starts_with("HTTP/1.1 431"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn discards_a_bounded_number_of_bytes_for_a_bounded_time() {
        let mut client = start(Limits::default(), CancellationToken::new());
        begin_upload(&mut client, usize::MAX >> 1).await;
        let piece = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        while client.write_all(&piece).await.is_ok() {
            sent += piece.len();
            assert!(sent < 2 * LINGER_BYTES, "the server still reads");
        }
        assert!(sent >= LINGER_BYTES, "only {sent} bytes");

        let mut client = start(Limits::default(), CancellationToken::new());
        begin_upload(&mut client, 10).await;
        let before = Instant::now();
        while client.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(before.elapsed() < Duration::from_secs(60), "the server still reads");
        }
        assert_eq!(before.elapsed().as_secs(), 5);
    }

    /// Returns the frames that the server sends to a client that sends `frame` until the server closes.
    async fn flood(frame: &[u8]) -> (Vec<(u8, Vec<u8>)>, Ended) {
        let (client, far) = duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let (limits, stop) = (Limits::default(), CancellationToken::new());
            let handler = |_| async { reply::empty(StatusCode::NO_CONTENT) };
            connection(far, Protocol::Http2, Hosts::Any, &limits, stop, handler).await
        });
        let (mut read, mut write) = tokio::io::split(client);
        let received = tokio::spawn(async move {
            let mut received = Vec::new();
            let _ = read.read_to_end(&mut received).await;
            received
        });
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat();
        write.write_all(&preface).await.expect("sent");
        let (mut sent, batch) = (0, frame.repeat(100));
        // The server discards what comes after GOAWAY, within its bounds.
        while write.write_all(&batch).await.is_ok() && sent < 2 * LINGER_BYTES {
            sent += batch.len();
        }
        let ended = server.await.expect("no panic");
        let bytes = received.await.expect("no panic");
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while let [l0, l1, l2, kind, _, _, _, _, _, after @ ..] = rest {
            let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
            frames.push((*kind, after[..length].to_vec()));
            rest = &after[length..];
        }
        (frames, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn ends_a_flood_of_control_frames_with_enhance_your_calm() {
        for (name, frame) in [
            ("PING", &b"\0\0\x08\x06\0\0\0\0\0pingpong"[..]),
            ("SETTINGS", b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
            ("PRIORITY", b"\0\0\x05\x02\0\0\0\0\x03\0\0\0\0\x10"),
            ("WINDOW_UPDATE", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"),
            ("unknown", b"\0\0\0\xee\0\0\0\0\0"),
        ] {
            let (frames, ended) = flood(frame).await;
            assert_eq!(ended, Ended::Flooded, "{name}");
            let (kind, payload) = frames.last().expect("frames");
            assert_eq!((*kind, &payload[4..]), (7, &[0, 0, 0, 11][..]), "{name}");
            // The frames that the budget allows are answered at most once each.
            assert!(frames.len() < 300, "{name}: {} frames", frames.len());
        }
    }

    type Sent = http_body_util::combinators::BoxBody<Bytes, Infallible>;

    /// Returns an HTTP/2 client of a server that reads bodies, and a task that ends when the server
    /// closes.
    async fn start_http2() -> (client::SendRequest<Sent>, tokio::task::JoinHandle<()>) {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(async move {
            let (limits, stop) = (Limits::default(), CancellationToken::new());
            connection(
                far,
                Protocol::Http2,
                Hosts::Any,
                &limits,
                stop,
                |request: Request<RequestBody>| async {
                    let _ = request.into_body().collect().await;
                    reply::empty(StatusCode::NO_CONTENT)
                },
            )
            .await;
        });
        // The client sends PING frames, as clients do to keep a path open.  These are not requests.
        let (sender, driver) = client::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(7))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(near))
            .await
            .expect("HTTP/2");
        let closed = tokio::spawn(async move {
            let _ = driver.await;
        });
        (sender, closed)
    }

    fn post(body: Sent) -> Request<Sent> {
        Request::post("http://x/").body(body).expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn closes_an_idle_http2_connection_at_the_idle_limit() {
        let (mut sender, closed) = start_http2().await;
        let answer = sender.send_request(post(Empty::new().boxed())).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let before = Instant::now();
        closed.await.expect("no panic");
        assert_eq!(before.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn resets_a_request_whose_body_never_ends_despite_concurrent_requests() {
        let (mut sender, _closed) = start_http2().await;
        let endless = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let before = Instant::now();
        let slow = sender.send_request(post(StreamBody::new(endless).boxed()));
        let slow = tokio::spawn(async move { slow.await.map(|_| before.elapsed()) });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            if slow.is_finished() {
                break;
            }
            let answer = sender.send_request(post(Empty::new().boxed())).await;
            assert_eq!(answer.expect("an answer").status(), StatusCode::NO_CONTENT);
        }
        assert!(slow.is_finished(), "the limit is 30 s, and 60 s have passed");
        assert!(slow.await.expect("no panic").is_err(), "a response was sent");
        // The connection still serves other requests.
        let answer = sender.send_request(post(Empty::new().boxed())).await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::NO_CONTENT);
    }
}
