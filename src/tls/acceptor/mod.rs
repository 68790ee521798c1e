//! Accepts TLS connections: a handshake under a time limit, then HTTP.

mod handshake;
mod ticket;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use hyper::Request;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tracing::debug;

use crate::http::connections::{Admission, Shares};
use crate::http::listen;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::http::serve::{Ended, Limits, Protocol, RequestBody};
use crate::runtime::audit;
use crate::runtime::live::{ListenerTls, Live};
use crate::runtime::log_limit::LogLimit;
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Stop;
use crate::tls::acceptor::handshake::{Completed, Edge, SLOW};
use crate::tls::closing::OpenConnections;
use crate::tls::handshakes::{Handshakes, Limits as HandshakeLimits};
use crate::tls::lingering::Lingering;
use crate::tls::metrics::Metrics;
use crate::tls::proxied;

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
    /// Limits on handshakes and connections.
    pub bounds: Bounds,
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
    let admission = Admission::new(edge.bounds.shares.clone(), edge.memory.clone(), shed);
    let limits = HandshakeLimits {
        starting: available_parallelism().map_or(1, usize::from),
        open: edge.bounds.handshakes,
        per_address: edge.bounds.handshakes_per_address,
        wait: edge.bounds.handshake_queue,
        slow: SLOW,
    };
    let handshakes = Handshakes::new(limits);
    edge.metrics.saturation.watch(edge.name, edge.bounds.shares.connections, &handshakes);
    let edge = Arc::new(Edge {
        listener: edge,
        handshakes,
        intermediates: Arc::default(),
        lingering: Lingering::default(),
        failures: LogLimit::new(FAILURES),
        ticket_hints: LogLimit::new(HINTS),
        stop: stop.clone(),
    });
    listen::accept(listener, admission, stop, |mut stream, address, connection| {
        let (edge, handler) = (Arc::clone(&edge), handler.clone());
        let number = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        async move {
            let _open = edge.listener.metrics.open(edge.listener.name);
            let Edge { listener, stop, .. } = &*edge;
            let (name, bounds) = (listener.name, &listener.bounds);
            let (proxies, limit) = (&bounds.shares.proxies, bounds.handshake);
            let addresses =
                proxied::addresses(&mut stream, address, &connection, proxies, limit, stop);
            let addresses = match addresses.await {
                Ok(addresses) => addresses,
                Err(reason) => {
                    listener.metrics.failed(name, reason);
                    debug!(connection = number, %address, reason, "connection not served");
                    return;
                }
            };
            let address = addresses.client;
            // The verifier audits refusals without knowing the connection.
            let connection_of_task = audit::Connection { number, address };
            let handshake = edge.handshake(stream, &connection, addresses, number);
            // Boxed, so that an idle connection does not keep the space that a handshake needs.
            let completed = Box::pin(audit::CONNECTION.scope(connection_of_task, handshake));
            let Completed { stream, peer, hosts, ticket } = match completed.await {
                Ok(completed) => completed,
                Err(Some(refused)) => {
                    connection.linger();
                    let dropped = connection.until_unwanted(&edge.stop);
                    return Box::pin(edge.lingering.close(refused, dropped)).await;
                }
                Err(None) => return,
            };
            // Boxed, because moving it would reserve its space in each future that it passes through.
            let stream = Box::new(stream);
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            if let Some(certificate) = &peer.certificate
                && connection.assign(&certificate.0).is_err()
            {
                return;
            }
            let _registration = match (&listener.open, &peer.chain) {
                (Some(open), Ok(chain)) => Some(open.register(number, chain, connection.closing())),
                _ => None,
            };
            let peer = Arc::new(peer);
            let requested = Arc::clone(&ticket.has_request);
            let handle = move |request| {
                requested.store(true, Ordering::Relaxed);
                handler(Arc::clone(&peer), request)
            };
            let (limits, unfinished) = (&bounds.http, bounds.unfinished);
            let served =
                connection.serve(stream, protocol, hosts, limits, stop, unfinished, handle);
            let ended = served.await;
            if ticket.ended(ended) {
                edge.closed_after_ticket(number, address);
            }
            if ended == Ended::Flooded {
                listener.metrics.flooded(name);
                debug!(connection = number, %address, "closed: too many HTTP/2 control frames");
            }
        }
    })
    .await;
}

#[cfg(test)]
pub(super) mod tests;
