//! Serves one connection, HTTP/1.1 or HTTP/2, and enforces time limits.
//!
//! # Design notes
//! hyper limits the header time of HTTP/1 only, with the same value as the idle time of a kept-alive
//! connection.  HTTP/2 has neither limit.  Here a watchdog tracks two facts, "a request is being handled"
//! and "bytes arrived since the last response", and closes connections that exceed a limit.  On HTTP/2
//! arriving bytes do not imply a request, because SETTINGS and PING frames are not requests.  There, an
//! unfinished header counts as idle time.
//!
//! # Idle connections
//! hyper's buffers and state are half of the memory of an idle connection.  An HTTP/1 connection that
//! has been idle for `REST` gives them back: the hyper connection ends without closing the stream, and a
//! new one begins with the next bytes.  Bytes that it has read and not used are read again.
//!
//! # Closing
//! A client may still be sending a body when the response to its request is ready: 401, 405, 413 and 431
//! do not need the body.  If the server closed at once, the kernel would reset the connection and the
//! client might lose the response (RFC 9112 section 9.6).  So the server closes its sending half, and
//! then discards what arrives, within `LINGER_TIME` and `LINGER_BYTES`.

mod activity;
mod observed_io;
mod request_body;

use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::Either;
use http_body_util::Full;
use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::http::admission::{self, Hosts};
use crate::http::reply::Reply;
use crate::http::serve::activity::{Activity, RequestGuard};
use crate::http::serve::observed_io::ObservedIo;
pub use crate::http::serve::request_body::RequestBody;
use crate::runtime::tasks::Stop;

/// Time for discarding what a client still sends after its last response.
const LINGER_TIME: Duration = Duration::from_secs(5);
/// Time in which a peer must send the rest of its request when the process stops.
const RECEIVE_TIME: Duration = Duration::from_secs(2);
/// Bytes that are discarded after the last response.
const LINGER_BYTES: usize = 8 * 1024 * 1024;

/// Idle time after which an HTTP/1 connection gives its buffers back.
const REST: Duration = Duration::from_secs(2);

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
    /// The layer below HTTP failed otherwise than by an end: with TLS, an alert, or bytes that are not valid.
    Broken,
    /// A time limit passed, or the process stops.
    TimedOut,
    /// The process stops, and a request was not answered.
    Cut,
    /// The peer sent HTTP/2 control frames in place of requests.
    Flooded,
}

/// Signals that end a connection: after the requests in progress, and with the process.
struct Signals {
    graceful: CancellationToken,
    stop: Stop,
}

/// Serves `io` until one end closes it or a limit is exceeded.  After `graceful` is signalled, requests
/// that are being handled are answered first.  Once `stop` is announced, the next response is the last
/// one of the connection.
pub async fn connection<IO, H, F>(
    io: IO,
    protocol: Protocol,
    hosts: Hosts,
    limits: &Limits,
    graceful: CancellationToken,
    stop: Stop,
    handler: H,
) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<RequestBody>) -> F + Clone + Send + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let activity = Arc::new(Activity::new(protocol));
    let mut io = ObservedIo::new(io, Arc::clone(&activity));
    let requests = Requests {
        activity: Arc::clone(&activity),
        hosts,
        limit: limits.request,
        stop: stop.clone(),
    };
    // Boxed, because hyper gives the stream back only if the service can be moved.
    let handler = Box::new(handler);
    let service = service_fn(move |request| requests.respond(request, &*handler));
    let signals = Signals { graceful, stop };
    let ended = match protocol {
        Protocol::Http1 => loop {
            // Boxed, so that an idle connection does not keep the space.
            let busy = Box::pin(until_idle(&mut io, &service, &activity, limits, &signals));
            if let Some(ended) = busy.await {
                break ended;
            }
            if let Some(ended) = until_bytes_arrive(&mut io, &activity, limits, &signals).await {
                break ended;
            }
        },
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
                &signals,
                false,
            )
            .await
            .unwrap_or(Ended::Closed)
        }
    };
    io.finish(ended).await
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct Requests {
    activity: Arc<Activity>,
    hosts: Hosts,
    /// Time until a response must be ready.
    limit: Duration,
    stop: Stop,
}

impl Requests {
    fn respond<H, F>(
        &self,
        request: Request<Incoming>,
        handler: &H,
    ) -> impl Future<Output = Result<Reply, Elapsed>> + Send + Unpin + use<H, F>
    where
        H: Fn(Request<RequestBody>) -> F,
        F: Future<Output = Reply> + Send + 'static,
    {
        let (activity, stop) = (Arc::clone(&self.activity), self.stop.clone());
        let guard = RequestGuard::begin(&activity);
        let is_http1 = activity.protocol == Protocol::Http1;
        activity.unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
        let has_fragment = activity.has_fragment.swap(false, Ordering::Relaxed);
        let body = |body| RequestBody::new(body, &activity);
        let reply = match admission::refusal(&request, &self.hosts, has_fragment) {
            Some(refusal) => Either::Left(ready(Ok(refusal))),
            // A timeout closes an HTTP/1 connection and resets an HTTP/2 stream.
            None => Either::Right(timeout(self.limit, handler(request.map(body)))),
        };
        // Boxed: hyper keeps the space of this future for as long as the connection is open.
        Box::pin(async move {
            let mut reply = reply.await;
            let is_last = stop.is_announced();
            if let Ok(reply) = &mut reply
                && is_http1
                && (is_last || activity.unread.load(Ordering::Relaxed))
            {
                let close = HeaderValue::from_static("close");
                reply.headers_mut().insert(header::CONNECTION, close);
            }
            if is_last && !is_http1 {
                activity.last_request.notify_one();
            }
            drop(guard);
            reply
        })
    }
}

/// Serves HTTP/1 until the connection has been idle for [`REST`], and returns `None` then.
async fn until_idle<IO, S>(
    io: &mut ObservedIo<IO>,
    service: &S,
    activity: &Activity,
    limits: &Limits,
    signals: &Signals,
) -> Option<Ended>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
    S: HttpService<Incoming, ResBody = Full<Bytes>> + Clone + Unpin,
    S::Future: Unpin,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The watchdog limits the header time; hyper's own limit would apply to idle time too.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(8 * 1024))
        .serve_connection(TokioIo::new(&mut *io), service.clone());
    let close = http1::Connection::graceful_shutdown;
    let watched = watch(Pin::new(&mut connection), close, activity, limits, signals, true);
    if let Some(ended) = watched.await {
        return Some(ended);
    }
    Pin::new(&mut connection).graceful_shutdown();
    match poll_fn(|context| Poll::Ready(connection.poll_without_shutdown(context))).await {
        Poll::Ready(Ok(())) => {
            let unused = connection.into_parts().read_buf;
            io.read_again(&unused);
            None
        }
        Poll::Ready(Err(_)) => Some(Ended::Closed),
        // It is not idle for hyper, and closes after what it is doing.
        Poll::Pending => {
            watch(Pin::new(&mut connection), close, activity, limits, signals, false).await
        }
    }
}

/// Waits for the next bytes of an idle connection.  Returns `None` when they have arrived.
async fn until_bytes_arrive<IO>(
    io: &mut ObservedIo<IO>,
    activity: &Activity,
    limits: &Limits,
    signals: &Signals,
) -> Option<Ended>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let ended = tokio::select! {
        biased;
        arrived = io.arrival() => match arrived {
            Ok(true) => return None,
            Ok(false) | Err(_) => Ended::Closed,
        },
        () = signals.graceful.cancelled() => Ended::TimedOut,
        () = sleep_until(activity.deadline(limits)) => Ended::TimedOut,
    };
    Box::pin(timeout(limits.header_read, io.shutdown())).await.ok();
    Some(ended)
}

/// Drives a connection, and closes it when it exceeds a limit or the process stops.  If it `rests`,
/// returns `None` when it has been idle for [`REST`], at most as long again later.
async fn watch<C>(
    mut connection: Pin<&mut C>,
    close: fn(Pin<&mut C>),
    activity: &Activity,
    limits: &Limits,
    signals: &Signals,
    rests: bool,
) -> Option<Ended>
where
    C: Future,
{
    let Signals { graceful, stop } = signals;
    let (mut closing, mut stopping) = (false, false);
    // At most one header time ahead: a request that begins in the meantime has an earlier deadline, and no
    // event wakes this task then.
    let ahead = if rests { limits.header_read.min(REST) } else { limits.header_read };
    let next = || activity.deadline(limits).min(Instant::now() + ahead);
    let mut alarm = pin!(sleep_until(next()));
    loop {
        tokio::select! {
            // The result is not used: each request on the connection was answered and logged.
            _ = connection.as_mut() => {
                return Some(if closing { Ended::TimedOut } else { Ended::Closed });
            }
            () = graceful.cancelled(), if !stopping => {
                (closing, stopping) = (true, true);
                close(connection.as_mut());
                if stop.is_cancelled() {
                    alarm.as_mut().reset(Instant::now() + RECEIVE_TIME);
                }
            }
            () = activity.last_request.notified(), if !closing => {
                closing = true;
                close(connection.as_mut());
            }
            () = alarm.as_mut() => {
                if stop.is_cancelled() && stopping && activity.waits_for_peer() {
                    return Some(Ended::Cut);
                }
                if rests && !closing && activity.is_idle_for(REST) {
                    return None;
                }
                if activity.deadline(limits) > Instant::now() {
                    alarm.as_mut().reset(next());
                } else if closing || activity.is_reading() {
                    return Some(Ended::TimedOut);
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

#[cfg(test)]
mod tests;
