//! Listening sockets and the accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::http::admission::Hosts;
use crate::http::reply::Reply;
use crate::http::serve::{Limits, Protocol as Http, RequestBody, connection};

/// Connections that the kernel queues while all permits are taken, as after a mass reconnect.
const BACKLOG: i32 = 4096;

/// Binds a listening socket.
///
/// # Errors
/// An error of the operating system, with the address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart does not wait for old connections to time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(named)
}

/// Accepts connections until `stop`, one for each free permit of `connections`, and spawns `handle` for
/// each.
pub async fn accept<H, F>(
    listener: TcpListener,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    handle: H,
) where
    H: Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut pause = Duration::from_millis(10);
    loop {
        // Take the permit first: further connections wait in the kernel's queue at no cost here.
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = Duration::from_millis(10);
                // Responses are small and written at once: Nagle's algorithm would only delay them.
                let _ = stream.set_nodelay(true);
                tokio::spawn(handle(stream, address, permit));
            }
            Err(error) => {
                // No free descriptor, or the peer closed before it was accepted: both are temporary.
                warn!(%error, "connection not accepted; next attempt in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// Serves HTTP without TLS, for listeners on loopback and for CRLs.
pub async fn serve_plain<H, F>(
    listener: TcpListener,
    limits: Limits,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    const MAX_CONNECTIONS: u32 = 1_024;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let all = Arc::clone(&connections);
    let stopping = stop.clone();
    accept(listener, connections, stop, |stream, _, permit| {
        let (limits, handler, stop) = (limits.clone(), handler.clone(), stopping.clone());
        async move {
            let _permit = permit;
            connection(stream, Http::Http1, Hosts::Any, &limits, stop, handler).await;
        }
    })
    .await;
    let _ = all.acquire_many(MAX_CONNECTIONS).await;
}
