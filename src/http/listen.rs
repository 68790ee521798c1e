//! Listening sockets and the accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::http::serve::{Limits, Protocol as Http, connection};

/// Connections the kernel holds for us while all permits are taken: a reconnect storm waits here.
const BACKLOG: i32 = 4096;

/// Binds a listening socket.
///
/// # Errors
/// The operating system's, with the address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart need not wait for old connections to time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(named)
}

/// Accepts connections until `stop`, one for each free permit of `connections`, and starts
/// `handle` on each.
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
        // Permit first: what cannot be served stays in the kernel's queue and costs nothing here.
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
                // Replies are small and whole: waiting to fill a segment only delays them.
                let _ = stream.set_nodelay(true);
                tokio::spawn(handle(stream, address, permit));
            }
            Err(error) => {
                // Out of descriptors, or a peer gone before it was accepted: neither is the end.
                warn!(%error, "cannot accept a connection; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// Serves plain HTTP, for listeners on loopback and for CRLs.
pub async fn serve_plain<H, F, B>(
    listener: TcpListener,
    limits: Limits,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const AT_ONCE: u32 = 1_024;
    let connections = Arc::new(Semaphore::new(AT_ONCE as usize));
    let all = Arc::clone(&connections);
    let stopping = stop.clone();
    accept(listener, connections, stop, |stream, _, permit| {
        let (limits, handler, stop) = (limits.clone(), handler.clone(), stopping.clone());
        async move {
            let _permit = permit;
            connection(stream, Http::Http1, &limits, stop, handler).await;
        }
    })
    .await;
    let _ = all.acquire_many(AT_ONCE).await;
}
