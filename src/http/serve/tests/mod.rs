mod http2;
mod rest;

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
