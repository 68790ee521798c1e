//! Closes the connection of a refused peer so that the peer receives the alert.
//!
//! # Design notes
//! A client of TLS 1.3 sends its request together with its certificate.  If the gateway closes the
//! socket with that request unread, the kernel sends a reset, and the client's kernel discards the
//! alert that it has not read yet (RFC 9112 section 9.6 describes the same for HTTP).  So the gateway
//! ends its own direction first, and reads until the client closes.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest time for which a connection lingers.
const TIME: Duration = Duration::from_millis(500);
/// Most bytes that are read from a connection that lingers.
const BYTES: usize = 256 * 1024;
/// Connections of one listener that linger at a time.  Further ones close at once.
const CONNECTIONS: usize = 256;

/// The connections of one listener that linger.
pub(super) struct Lingering {
    permits: Semaphore,
}

impl Default for Lingering {
    fn default() -> Self {
        Self { permits: Semaphore::new(CONNECTIONS) }
    }
}

impl Lingering {
    /// Closes `stream`, on which an alert was sent.  Closes at once when `dropped` returns.
    pub(super) async fn close(&self, stream: TcpStream, dropped: impl Future<Output = ()>) {
        let Ok(_permit) = self.permits.try_acquire() else { return };
        tokio::select! {
            _ = timeout(TIME, discard(stream)) => {}
            () = dropped => {}
        }
    }
}

async fn discard(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut left = BYTES;
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connected");
        (client, listener.accept().await.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_peer_that_still_sends_receives_the_last_bytes() {
        let lingering = Lingering::default();
        let (mut client, mut server) = pair().await;
        client.write_all(&[0; 4096]).await.expect("sent");
        server.readable().await.expect("data");
        server.write_all(b"alert").await.expect("sent");
        let client = async move {
            client.write_all(&[0; 4096]).await.expect("sent");
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.expect("no reset");
            received
        };
        let ((), received) = tokio::join!(lingering.close(server, pending()), client);
        assert_eq!(received, b"alert");
    }

    #[tokio::test]
    async fn a_peer_that_sends_without_end_is_cut_off() {
        let (mut client, server) = pair().await;
        let sender =
            tokio::spawn(async move { while client.write_all(&[0; 64 * 1024]).await.is_ok() {} });
        tokio::time::pause();
        let before = tokio::time::Instant::now();
        discard(server).await;
        sender.await.expect("the client sees the end");
        assert!(before.elapsed() < TIME, "by bytes, not by time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_closed_in_time_or_when_its_place_is_needed() {
        let lingering = Lingering::default();
        let (_client, server) = pair().await;
        let before = tokio::time::Instant::now();
        lingering.close(server, pending()).await;
        assert_eq!(before.elapsed(), TIME);
        let (_client, server) = pair().await;
        lingering.close(server, async {}).await;
        assert_eq!(before.elapsed(), TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_linger() {
        let lingering = Lingering { permits: Semaphore::new(0) };
        let (_client, server) = pair().await;
        let before = tokio::time::Instant::now();
        lingering.close(server, pending()).await;
        assert!(before.elapsed().is_zero());
    }
}
