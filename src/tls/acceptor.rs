//! From an accepted connection to a served one: handshake under a time limit, then HTTP.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use rustls::{Error as TlsError, HandshakeKind, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span};

use crate::http::listen;
use crate::http::peer::Peer;
use crate::http::serve::{Limits, Protocol, connection};
use crate::runtime::live::{EdgeTls, Live};
use crate::runtime::log::AUDIT;
use crate::tls::closing::OpenConnections;
use crate::tls::metrics::Metrics;
use crate::tls::per_address::Shares;
use crate::tls::verifier::refused;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::{Code, Refusal};

/// Bounds of one TLS listener.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// From accept to the end of the handshake, the wait for its permit included.
    pub handshake: Duration,
    /// Connections at once; the next waits in the kernel's queue.
    pub connections: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Handshakes at once with one address; the next waits for one of its own to end.
    pub handshakes_per_address: usize,
    /// Limits of the HTTP that follows.
    pub http: Limits,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connections: 20_000,
            handshakes: 1_024,
            handshakes_per_address: 256,
            http: Limits::default(),
        }
    }
}

/// One TLS listener: its name in metrics, which of the edge's configurations it uses, its bounds.
pub struct Edge {
    /// Name in metrics and logs.
    pub name: &'static str,
    /// Chooses the TLS configuration.
    pub tls: fn(&EdgeTls) -> &Arc<ServerConfig>,
    /// Limits.
    pub bounds: Bounds,
    /// What is in force.
    pub live: Live,
    /// Counters.
    pub metrics: Metrics,
    /// Where open connections are entered, to be closed when they are no longer good.
    pub open: Option<OpenConnections>,
}

/// Numbers connections, so that all log lines of one can be found.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Accepts and serves connections until `stop`; returns when the last one has ended.
pub async fn serve<H, F, B>(edge: Edge, listener: TcpListener, stop: CancellationToken, handler: H)
where
    H: Fn(Arc<Peer>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connections = Arc::new(Semaphore::new(edge.bounds.connections));
    let handshakes = Arc::new(Handshakes {
        all: Semaphore::new(edge.bounds.handshakes),
        shares: Shares::new(edge.bounds.handshakes_per_address),
    });
    let limit = u32::try_from(edge.bounds.connections).unwrap_or(u32::MAX);
    let edge = Arc::new(edge);
    let all = Arc::clone(&connections);
    let stopping = stop.clone();
    listen::accept(listener, connections, stop, |stream, address, permit| {
        let (edge, handler, stop) = (Arc::clone(&edge), handler.clone(), stopping.clone());
        let handshakes = Arc::clone(&handshakes);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        async move {
            let _permit = permit;
            let _open = edge.metrics.open(edge.name);
            // In the audit's target, so that its filter shows where a refused peer is.
            let span = info_span!(target: AUDIT, "handshake", connection = number, %address);
            let shaken = handshake(&edge, &handshakes, stream, address, number);
            let Some((stream, peer)) = shaken.instrument(span).await else { return };
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let peer = Arc::new(peer);
            let stop = stop.child_token();
            let _entry = match (&edge.open, &peer.chain) {
                (Some(open), Ok(chain)) => Some(open.enter(number, chain, &stop)),
                _ => None,
            };
            let handle = move |request| handler(Arc::clone(&peer), request);
            connection(stream, protocol, &edge.bounds.http, stop, handle).await;
        }
    })
    .await;
    // All permits back: all connections ended.
    let _ = all.acquire_many(limit).await;
}

/// The permits that a handshake takes.
struct Handshakes {
    all: Semaphore,
    shares: Shares,
}

async fn handshake(
    edge: &Edge,
    handshakes: &Handshakes,
    stream: TcpStream,
    address: SocketAddr,
    number: u64,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    // The limit counts from accept: a crowd that says nothing is gone when it ends, and not one
    // batch of handshakes after the other.
    let shaken = timeout(edge.bounds.handshake, async {
        let share = handshakes.shares.of(address.ip());
        // Its own address's first: who waits for that holds up nobody else.
        let _own = share.acquire().await.map_err(io::Error::other)?;
        let _permit = handshakes.all.acquire().await.map_err(io::Error::other)?;
        let config = Arc::clone((edge.tls)(&edge.live.current().tls));
        TlsAcceptor::from(config).accept(stream).await
    });
    let stream = match shaken.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            match error.get_ref().and_then(|e| e.downcast_ref::<TlsError>()) {
                // Counted and audited by the verifier, which knows the code.
                Some(TlsError::InvalidCertificate(_)) => {}
                Some(TlsError::NoCertificatesPresented) => {
                    refused(&edge.metrics, &no_certificate(), None, None);
                }
                Some(error) => {
                    edge.metrics.failed(edge.name, "tls");
                    debug!(%error, "handshake failed");
                }
                None => {
                    edge.metrics.failed(edge.name, "io");
                    debug!(%error, "handshake broke off");
                }
            }
            return None;
        }
        Err(_) => {
            edge.metrics.failed(edge.name, "timeout");
            debug!("handshake not done within {:?}", edge.bounds.handshake);
            return None;
        }
    };
    let tls = stream.get_ref().1;
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    edge.metrics.completed(edge.name, resumed);
    let chain = match tls.peer_certificates() {
        Some(presented) => UnverifiedChain::from_der(presented).map(Arc::new),
        None => Err(no_certificate()),
    };
    Some((stream, Peer { address, connection: number, chain, resumed }))
}

fn no_certificate() -> Refusal {
    Refusal::new(Code::CertificateMissing, "no certificate was presented")
}
