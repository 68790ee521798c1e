//! Listening sockets and the accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tracing::warn;

use crate::http::admission::Hosts;
use crate::http::connections::{Admission, Connection, Shares};
use crate::http::gate::{BACKLOG, Backlog, Gate};
use crate::http::reply::Reply;
use crate::http::serve::{Limits, Protocol as Http, RequestBody};
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Stop;

/// Connections that are accepted before others have had their turn to run.  What these connections
/// have sent has then been seen.
const BATCH: usize = 8;
/// Largest future of a connection, in bytes.  Every connection keeps one, also while it waits or is
/// idle, and a storm of connections pays for the first use of that memory.
const MAX_FUTURE: usize = 6 * 1024;

/// Connections of a listener of plain HTTP.
pub(crate) const MAX_CONNECTIONS: usize = 1_024;

/// Binds a listening socket.
///
/// # Errors
/// An error of the operating system, with the address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    open(address, false)
}

/// Like [`bind`].  Other sockets of the same user can listen on the same address, if all of them are
/// bound in this way.
///
/// # Errors
/// As for [`bind`].
pub(crate) fn bind_shared(address: SocketAddr) -> io::Result<TcpListener> {
    open(address, true)
}

fn open(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart does not wait for old connections to time out.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(is_shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(named)
}

/// Accepts connections until `stop`, as `gate` and `admission` allow, and spawns `handle` for each.
/// Returns when all of them have ended.
pub(crate) async fn accept<H, F>(
    listener: TcpListener,
    gate: Arc<Gate>,
    admission: Arc<Admission>,
    stop: Stop,
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
    let mut backlog = Backlog::new(Arc::clone(&gate));
    for number in 1_usize.. {
        if let Some(length) = backlog.change() {
            set_backlog(&listener, length);
        }
        if number.is_multiple_of(BATCH) {
            yield_now().await;
        }
        let accepted = tokio::select! {
            accepted = async {
                gate.open().await;
                listener.accept().await
            } => accepted,
            () = backlog.due() => continue,
            () = admission.relieve() => continue,
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
    // The socket may be in use after this process.
    set_backlog(&listener, BACKLOG);
    accept_queued(listener, admit);
    admission.ended().await;
}

fn set_backlog(listener: &TcpListener, length: i32) {
    if let Err(error) = SockRef::from(listener).listen(length) {
        warn!(%error, length, "length of the kernel's queue not changed");
    }
}

/// Accepts the connections in the kernel's queue, which the kernel would reset, and closes the socket.
///
/// The blocking interface closes at once after the queue was seen empty.  A connection that arrives
/// between the two is lost, unless the socket is shared or `net.ipv4.tcp_migrate_req` is set.
fn accept_queued(listener: TcpListener, admit: impl Fn(TcpStream, SocketAddr)) {
    let Ok(listener) = listener.into_std() else { return };
    let mut queued = Vec::new();
    while queued.len() < BACKLOG as usize
        && let Ok(accepted) = listener.accept()
    {
        queued.push(accepted);
    }
    drop(listener);
    for (stream, address) in queued {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            admit(stream, address);
        }
    }
}

/// Serves HTTP without TLS, for listeners on loopback and for CRLs.
pub async fn serve_plain<H, F>(
    listener: TcpListener,
    limits: Limits,
    stop: impl Into<Stop>,
    handler: H,
) where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let admission = Admission::new(Shares::new(MAX_CONNECTIONS), Pressure::default(), |_| {});
    serve_plain_within(listener, admission, limits, stop, handler).await;
}

/// Like [`serve_plain`], with the connections that `admission` allows.
pub(crate) async fn serve_plain_within<H, F>(
    listener: TcpListener,
    admission: Arc<Admission>,
    limits: Limits,
    stop: impl Into<Stop>,
    handler: H,
) where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let stop = stop.into();
    let stopping = stop.clone();
    accept(listener, Arc::default(), admission, stop, |stream, _, connection| {
        let (limits, handler, stop) = (limits.clone(), handler.clone(), stopping.clone());
        async move {
            let (hosts, unfinished) = (Hosts::Any, limits.request);
            connection.serve(stream, Http::Http1, hosts, &limits, &stop, unfinished, handler).await;
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    struct Listener {
        address: SocketAddr,
        gate: Arc<Gate>,
        stop: CancellationToken,
        handled: mpsc::UnboundedReceiver<SocketAddr>,
        accepting: JoinHandle<()>,
    }

    /// Starts a listener that reports the clients of accepted connections.
    fn listener() -> Listener {
        let socket = bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let address = socket.local_addr().expect("bound");
        let admission = Admission::new(Shares::new(64), Pressure::default(), |_| {});
        let (gate, stop) = (Arc::<Gate>::default(), CancellationToken::new());
        let (report, handled) = mpsc::unbounded_channel();
        let handle = move |_, client, _| {
            let report = report.clone();
            async move { report.send(client).expect("the test waits") }
        };
        let stopping = Stop::from(stop.clone());
        let accepting =
            tokio::spawn(accept(socket, Arc::clone(&gate), admission, stopping, handle));
        Listener { address, gate, stop, handled, accepting }
    }

    impl Listener {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("connected")
        }

        /// Waits for the next accepted connection, which must be one of `client`.
        async fn expect(&mut self, client: &TcpStream) {
            let handled = self.handled.recv().await.expect("accepted");
            assert_eq!(handled, client.local_addr().expect("connected"));
        }

        /// Closes the gate.  The listener, which waits for a connection then, accepts one more.
        async fn close_gate(&mut self) {
            let first = self.connect().await;
            self.expect(&first).await;
            self.gate.set_waiting(usize::MAX);
            let last = self.connect().await;
            self.expect(&last).await;
        }
    }

    #[tokio::test]
    async fn connections_wait_in_the_kernel_until_the_gate_opens() {
        let (mut closed, mut other) = (listener(), listener());
        closed.close_gate().await;
        let [first, second] = [closed.connect().await, closed.connect().await];
        // Another listener accepts meanwhile.
        for _ in 0..16 {
            let client = other.connect().await;
            other.expect(&client).await;
        }
        assert!(closed.handled.try_recv().is_err());
        closed.gate.set_waiting(0);
        closed.expect(&first).await;
        closed.expect(&second).await;
    }

    #[tokio::test]
    async fn connections_behind_a_closed_gate_are_served_at_a_stop() {
        let mut listener = listener();
        listener.close_gate().await;
        let clients = [listener.connect().await, listener.connect().await];
        listener.stop.cancel();
        for client in &clients {
            listener.expect(client).await;
        }
        listener.accepting.await.expect("stopped");
    }
}
