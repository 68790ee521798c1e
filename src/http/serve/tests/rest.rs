//! Connections at rest, which keep no buffers.

use super::*;

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
