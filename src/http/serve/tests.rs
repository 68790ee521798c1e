use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::http::reply;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::StatusCode;
use hyper::body::{Bytes, Frame};
use hyper::client::conn::http2 as client;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

fn start(limits: Limits, graceful: CancellationToken) -> DuplexStream {
    let stop = Stop::default();
    let (client, server) = duplex(4096);
    tokio::spawn(async move {
        connection(server, Protocol::Http1, Hosts::Any, &limits, graceful, stop, |_| async {
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

/// Serves a handler that reads the body and then takes `work`, and returns how the connection ended.
fn stoppable(
    stop: Stop,
    signal: CancellationToken,
    work: Duration,
) -> (DuplexStream, tokio::task::JoinHandle<Ended>) {
    let (client, server) = duplex(4096);
    let handler = move |request: Request<RequestBody>| async move {
        let _ = request.into_body().collect().await;
        tokio::time::sleep(work).await;
        reply::empty(StatusCode::NO_CONTENT)
    };
    let served = tokio::spawn(async move {
        let limits = Limits::default();
        connection(server, Protocol::Http1, Hosts::Any, &limits, signal, stop, handler).await
    });
    (client, served)
}

#[tokio::test(start_paused = true)]
async fn the_response_after_the_announcement_of_a_stop_is_the_last() {
    let stop = Stop::default();
    let (mut client, _served) = stoppable(stop.clone(), CancellationToken::new(), Duration::ZERO);
    assert!(!request(&mut client).await.contains("connection: close"));
    stop.announce();
    let last = request(&mut client).await;
    assert!(last.starts_with("HTTP/1.1 204") && last.contains("connection: close"), "{last}");
    assert_eq!(closes_after(&mut client).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_holds_a_stop_for_a_short_time_only() {
    let signal = CancellationToken::new();
    let (mut client, served) = stoppable(signal.clone().into(), signal.clone(), Duration::ZERO);
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc";
    client.write_all(post).await.expect("sent");
    tokio::time::advance(Duration::from_millis(1)).await;
    signal.cancel();
    assert_eq!(closes_after(&mut client).await, RECEIVE_TIME.as_secs());
    assert_eq!(served.await.expect("no panic"), Ended::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_processed_during_a_stop_is_answered() {
    let signal = CancellationToken::new();
    let work = RECEIVE_TIME * 5;
    let (mut client, served) = stoppable(signal.clone().into(), signal.clone(), work);
    let post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
    client.write_all(post).await.expect("sent");
    tokio::time::advance(Duration::from_millis(1)).await;
    signal.cancel();
    let mut response = String::new();
    client.read_to_string(&mut response).await.expect("a response");
    assert!(response.starts_with("HTTP/1.1 204"), "{response}");
    assert_ne!(served.await.expect("no panic"), Ended::Cut);
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
        connection(server, Protocol::Http1, Hosts::Any, &limits, stop, Stop::default(), handler)
            .await
    });
    for framing in
        ["content-length: 3\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"]
    {
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
        connection(far, Protocol::Http2, Hosts::Any, &limits, stop, Stop::default(), handler).await
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
            Stop::default(),
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

/// A stream that records the space of the last read, which tells whether hyper's buffer is there.
struct Spacious {
    io: DuplexStream,
    space: Arc<AtomicUsize>,
}

impl AsyncRead for Spacious {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.space.store(buf.remaining(), Ordering::Relaxed);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Spacious {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Starts a connection whose responses have `body`, and returns the space of its last read.
fn start_spacious(
    body: &'static str,
    stop: CancellationToken,
) -> (DuplexStream, Arc<AtomicUsize>, tokio::task::JoinHandle<Ended>) {
    let (client, io) = duplex(4096);
    let space = Arc::new(AtomicUsize::new(0));
    let io = Spacious { io, space: Arc::clone(&space) };
    let served = tokio::spawn(async move {
        let body = Bytes::from_static(body.as_bytes());
        let handler = move |_| {
            let body = body.clone();
            async move { reply::typed(StatusCode::OK, "text/plain", body) }
        };
        connection(
            io,
            Protocol::Http1,
            Hosts::Any,
            &Limits::default(),
            stop,
            Stop::default(),
            handler,
        )
        .await
    });
    (client, space, served)
}

fn is_at_rest(space: &AtomicUsize) -> bool {
    space.load(Ordering::Relaxed) <= 2048
}

/// Reads up to the end of the response with this body.
async fn response(client: &mut DuplexStream, body: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(body) {
        let mut buf = [0; 1024];
        let n = client.read(&mut buf).await.expect("read");
        assert!(n > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buf[..n]).expect("text"));
    }
    text
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_gives_its_buffers_back_and_serves_the_next_request() {
    let (mut client, space, served) = start_spacious("hello", CancellationToken::new());
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        assert!(response(&mut client, "hello").await.starts_with("HTTP/1.1 200"));
        assert!(!is_at_rest(&space));
        tokio::time::sleep(3 * REST).await;
        assert!(is_at_rest(&space));
    }
    // A header that arrives byte by byte has its own limit.
    client.write_all(b"G").await.expect("sent");
    tokio::time::sleep(3 * REST).await;
    assert!(!is_at_rest(&space));
    client.write_all(b"ET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    assert!(response(&mut client, "hello").await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(3 * REST).await;
    assert!(is_at_rest(&space));
    drop(client);
    assert_eq!(served.await.expect("ended"), Ended::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_connection_at_rest_closes_at_the_idle_limit_and_on_stop() {
    let stop = CancellationToken::new();
    for stops in [false, true] {
        let (mut client, space, served) = start_spacious("hello", stop.clone());
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        response(&mut client, "hello").await;
        tokio::time::sleep(10 * REST).await;
        assert!(is_at_rest(&space));
        if stops {
            stop.cancel();
        }
        assert_eq!(closes_after(&mut client).await, if stops { 0 } else { 40 });
        assert_eq!(served.await.expect("ended"), Ended::TimedOut);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_second_request_are_not_lost_at_rest() {
    let (mut client, space, _served) = start_spacious("hello", CancellationToken::new());
    let both = b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nho";
    client.write_all(both).await.expect("sent");
    response(&mut client, "hello").await;
    tokio::time::sleep(5 * REST).await;
    client.write_all(b"st: x\r\n\r\n").await.expect("sent");
    assert!(response(&mut client, "hello").await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(3 * REST).await;
    assert!(is_at_rest(&space));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_read_slowly_does_not_end_the_connection() {
    let body: &str = Box::leak("x".repeat(64 * 1024).into_boxed_str());
    let (mut client, space, _served) = start_spacious(body, CancellationToken::new());
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        tokio::time::sleep(5 * REST).await;
        assert!(!is_at_rest(&space));
        assert!(response(&mut client, body).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(5 * REST).await;
        assert!(is_at_rest(&space));
    }
}
