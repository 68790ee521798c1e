//! Listening sockets and the accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::Request;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::http::admission::Hosts;
use crate::http::connections::{Admission, Connection, Shares};
use crate::http::reply::Reply;
use crate::http::serve::{Limits, Protocol as Http, RequestBody};

/// Connections that the kernel queues while there is no room, as after a mass reconnect.
const BACKLOG: i32 = 4096;
/// Largest future of a connection, in bytes.  Every connection keeps one, also while it waits or is
/// idle, and a storm of connections pays for the first use of that memory.
const MAX_FUTURE: usize = 6 * 1024;

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

/// Accepts connections until `stop`, as `admission` allows, and spawns `handle` for each.  Returns when
/// all of them have ended.
pub async fn accept<H, F>(
    listener: TcpListener,
    admission: Arc<Admission>,
    stop: CancellationToken,
    handle: H,
) where
    H: Fn(TcpStream, SocketAddr, Connection) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    // Box the parts that a waiting connection does not need.
    const { assert!(size_of::<F>() <= MAX_FUTURE, "the future of a connection is too large") };
    let admit = |stream: TcpStream, address: SocketAddr| {
        // Responses are small and written at once: Nagle's algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        if let Ok(connection) = admission.admit(address.ip()) {
            tokio::spawn(handle(stream, address, connection));
        }
    };
    let mut pause = Duration::from_millis(10);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = Duration::from_millis(10);
                // Until there is room, further connections wait in the kernel's queue at no cost here.
                tokio::select! {
                    () = admission.room() => {}
                    () = stop.cancelled() => {}
                }
                admit(stream, address);
            }
            Err(error) => {
                // No free descriptor, or the peer closed before it was accepted: both are temporary.
                warn!(%error, "connection not accepted; next attempt in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
    // The kernel would reset the connections in its queue.
    for _ in 0..BACKLOG {
        let Some(Ok((stream, address))) = listener.accept().now_or_never() else { break };
        admit(stream, address);
    }
    drop(listener);
    admission.ended().await;
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
    const MAX_CONNECTIONS: usize = 1_024;
    let admission = Admission::new(Shares::new(MAX_CONNECTIONS), |_| {});
    let stopping = stop.clone();
    accept(listener, admission, stop, |stream, _, connection| {
        let (limits, handler, stop) = (limits.clone(), handler.clone(), stopping.clone());
        async move {
            let (hosts, unfinished) = (Hosts::Any, limits.request);
            connection.serve(stream, Http::Http1, hosts, &limits, &stop, unfinished, handler).await;
        }
    })
    .await;
}
