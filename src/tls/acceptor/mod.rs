//! Accepts TLS connections: a handshake under a time limit, then HTTP.

mod closers;
mod connection;
mod handshake;
mod ticket;

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use hyper::Request;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::http::connections::{Admission, Shares};
use crate::http::listen;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::http::serve::{Limits, RequestBody};
use crate::runtime::live::{ListenerTls, Live};
use crate::runtime::log_limit::LogLimit;
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Stop;
use crate::tls::acceptor::handshake::{Edge, SLOW};
use crate::tls::closing::OpenConnections;
use crate::tls::handshakes::{Handshakes, Limits as HandshakeLimits};
use crate::tls::lingering::Lingering;
use crate::tls::metrics::Metrics;

/// Shortest interval between two log lines about failed handshakes, and between two hints about tickets.
const FAILURES: Duration = Duration::from_secs(1);
const HINTS: Duration = Duration::from_secs(3600);

/// Bounds of one TLS listener.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Time from accept to the end of the handshake, including the wait for its turn.
    pub handshake: Duration,
    /// Longest wait of a ClientHello for its turn.  After it, the connection closes before any
    /// cryptography.
    pub handshake_queue: Duration,
    /// Numbers of connections.
    pub shares: Shares,
    /// Concurrent handshakes whose ClientHello was answered.
    pub handshakes: usize,
    /// Concurrent handshakes with one address.  Further ones wait for one of the same address to
    /// end.
    pub handshakes_per_address: usize,
    /// Time in which requests in progress must end when the process stops.
    pub unfinished: Duration,
    /// Limits of HTTP on the connection.
    pub http: Limits,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            handshake_queue: Duration::from_secs(8),
            shares: Shares::new(20_000),
            handshakes: 1_024,
            handshakes_per_address: 256,
            unfinished: Duration::from_secs(5),
            http: Limits::default(),
        }
    }
}

/// One TLS listener.
pub struct TlsListener {
    /// Name in metrics and logs.
    pub name: &'static str,
    /// Selects the listener's TLS configuration.
    pub tls: fn(&ListenerTls) -> &Arc<ServerConfig>,
    /// Limits on handshakes and connections.  A change applies to the next connection.
    pub bounds: watch::Receiver<Bounds>,
    /// The published state.
    pub live: Live,
    /// Counters of handshakes and connections.
    pub metrics: Metrics,
    /// Keep the leaf and path of each peer, to judge it for every request.  Otherwise only the hash of its
    /// certificate is kept.
    pub keeps_chains: bool,
    /// Memory pressure of the process.
    pub memory: Pressure,
    /// Register of connections to close when their certificate is refused; `None` closes none.
    pub open: Option<OpenConnections>,
}

/// Number of the next connection.  All log records of a connection carry its number.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Accepts and serves connections until `stop`.  Returns when the last one has ended.
pub async fn serve<H, F>(
    edge: TlsListener,
    listener: TcpListener,
    stop: impl Into<Stop>,
    handler: H,
) where
    H: Fn(Arc<Peer>, Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let stop = stop.into();
    edge.metrics.start(edge.name);
    let shed = edge.metrics.not_kept(edge.name);
    let bounds = edge.bounds.clone();
    let (shares, limits) = limits(&bounds.borrow());
    let admission = Admission::new(shares, edge.memory.clone(), shed);
    let handshakes = Handshakes::new(limits);
    let follow = follow(bounds, Arc::clone(&admission), Arc::clone(&handshakes));
    let gate = Arc::clone(handshakes.gate());
    let limit = edge.bounds.clone();
    let limit = move || limit.borrow().shares.connections;
    edge.metrics.saturation.watch(edge.name, limit, &handshakes);
    let edge = Arc::new(Edge {
        listener: edge,
        handshakes,
        intermediates: Arc::default(),
        lingering: Lingering::default(),
        failures: LogLimit::new(FAILURES),
        ticket_hints: LogLimit::new(HINTS),
        closers: closers::Closers::default(),
        stop: stop.clone(),
    });
    let accept = listen::accept(listener, gate, admission, stop, |stream, address, connection| {
        let (edge, handler) = (Arc::clone(&edge), handler.clone());
        let number = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        async move {
            let _open = edge.listener.metrics.open(edge.listener.name);
            // Boxed, so that an idle connection does not keep the space that a handshake needs.
            let completed = Box::pin(edge.establish(stream, address, &connection, number)).await;
            if let Some(completed) = completed {
                edge.serve(completed, &connection, number, handler).await;
            }
        }
    });
    tokio::select! {
        () = accept => {}
        () = follow => {}
    }
}

/// Applies changed limits.  Never returns.
async fn follow(
    mut bounds: watch::Receiver<Bounds>,
    admission: Arc<Admission>,
    handshakes: Arc<Handshakes>,
) {
    while bounds.changed().await.is_ok() {
        let (shares, limits) = limits(&bounds.borrow_and_update());
        admission.limit(shares);
        handshakes.limit(limits);
    }
    pending::<()>().await;
}

fn limits(bounds: &Bounds) -> (Shares, HandshakeLimits) {
    let limits = HandshakeLimits {
        starting: available_parallelism().map_or(1, usize::from),
        open: bounds.handshakes,
        per_address: bounds.handshakes_per_address,
        wait: bounds.handshake_queue,
        slow: SLOW,
    };
    (bounds.shares.clone(), limits)
}

#[cfg(test)]
pub(super) mod tests;
