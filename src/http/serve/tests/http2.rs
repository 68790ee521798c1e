//! HTTP/2: floods, idle connections and bodies.

use super::*;

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
