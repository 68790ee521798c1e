//! Accepts TLS connections: a handshake under a time limit, then HTTP.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Request;
use rustls::pki_types::CertificateDer;
use rustls::{Error as TlsError, HandshakeKind, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::http::Hosts;
use crate::http::listen;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::http::serve::{Ended, Limits, Protocol, RequestBody, connection};
use crate::runtime::audit;
use crate::runtime::live::{ListenerTls, Live};
use crate::tls::closing::OpenConnections;
use crate::tls::metrics::Metrics;
use crate::tls::peer_chain::{self, Intermediates};
use crate::tls::per_address::AddressLimits;
use crate::tls::verifier::refused;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::{Code, Refusal};

/// Bounds of one TLS listener.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Time from accept to the end of the handshake, including the wait for a permit.
    pub handshake: Duration,
    /// Concurrent connections.  Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Concurrent handshakes.
    pub handshakes: usize,
    /// Concurrent handshakes with one address.  Further ones wait for one of the same address to
    /// end.
    pub handshakes_per_address: usize,
    /// Limits of HTTP on the connection.
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
    /// Register of connections to close when their certificate is refused; `None` closes none.
    pub open: Option<OpenConnections>,
}

/// Number of the next connection.  All log records of a connection carry its number.
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Accepts and serves connections until `stop`.  Returns when the last one has ended.
pub async fn serve<H, F>(
    edge: TlsListener,
    listener: TcpListener,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Arc<Peer>, Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    edge.metrics.start(edge.name);
    let connections = Arc::new(Semaphore::new(edge.bounds.connections));
    let handshakes = Arc::new(Handshakes {
        permits: Semaphore::new(edge.bounds.handshakes),
        addresses: AddressLimits::new(edge.bounds.handshakes_per_address),
        intermediates: Arc::default(),
    });
    let limit = u32::try_from(edge.bounds.connections).unwrap_or(u32::MAX);
    let edge = Arc::new(edge);
    let all = Arc::clone(&connections);
    let stopping = stop.clone();
    listen::accept(listener, connections, stop, |stream, address, permit| {
        let (edge, handler, stop) = (Arc::clone(&edge), handler.clone(), stopping.clone());
        let handshakes = Arc::clone(&handshakes);
        let number = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        async move {
            let _permit = permit;
            let _open = edge.metrics.open(edge.name);
            // The verifier audits refusals without knowing the connection.
            let connection_of_task = audit::Connection { number, address };
            // Boxed, so that an idle connection does not keep the space that a handshake needs.
            let handshake =
                Box::pin(audit::CONNECTION.scope(
                    connection_of_task,
                    handshake(&edge, &handshakes, stream, address, number),
                ));
            let Some((stream, peer, hosts)) = handshake.await else { return };
            // Boxed, because moving it would reserve its space in each future that it passes through.
            let stream = Box::new(stream);
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            let peer = Arc::new(peer);
            let stop = stop.child_token();
            let _registration = match (&edge.open, &peer.chain) {
                (Some(open), Ok(chain)) => Some(open.register(number, chain, &stop)),
                _ => None,
            };
            let handle = move |request| handler(Arc::clone(&peer), request);
            let ended = connection(stream, protocol, hosts, &edge.bounds.http, stop, handle).await;
            if ended == Ended::Flooded {
                edge.metrics.flooded(edge.name);
                debug!(connection = number, %address, "closed: too many HTTP/2 control frames");
            }
        }
    })
    .await;
    // Every permit is free once all connections have ended.
    let _ = all.acquire_many(limit).await;
}

/// State that the handshakes of one listener share.
struct Handshakes {
    permits: Semaphore,
    addresses: AddressLimits,
    intermediates: Arc<Intermediates>,
}

async fn handshake(
    edge: &TlsListener,
    handshakes: &Handshakes,
    stream: TcpStream,
    address: SocketAddr,
    number: u64,
) -> Option<(TlsStream<TcpStream>, Peer, Hosts)> {
    // The time runs from accept, so that all silent peers time out together and not one batch of
    // handshakes after the other.
    let accepted = timeout(edge.bounds.handshake, async {
        let entry = handshakes.addresses.entry(address.ip());
        // The permit of the address comes first, so that waiting for it holds no permit that other
        // addresses need.
        let _address_permit = entry.acquire().await.map_err(io::Error::other)?;
        let _permit = handshakes.permits.acquire().await.map_err(io::Error::other)?;
        let tls = Arc::clone(&edge.live.current().tls);
        let hosts = Hosts::Of(Arc::clone(&tls.hosts), stream.local_addr()?.ip());
        let accept = TlsAcceptor::from(Arc::clone((edge.tls)(&tls))).accept(stream);
        let (stream, chain) = peer_chain::collect(&handshakes.intermediates, accept).await;
        Ok::<_, io::Error>((stream?, chain, hosts))
    });
    let (stream, verified, hosts) = match accepted.await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            match error.get_ref().and_then(|e| e.downcast_ref::<TlsError>()) {
                // The verifier knows the refusal code and has counted and audited it.
                Some(TlsError::InvalidCertificate(_)) => {}
                Some(TlsError::NoCertificatesPresented) => {
                    refused(&edge.metrics, &no_certificate(), None, None);
                }
                Some(error) => {
                    edge.metrics.failed(edge.name, "tls");
                    debug!(connection = number, %address, %error, "handshake failed");
                }
                None => {
                    edge.metrics.failed(edge.name, "io");
                    debug!(connection = number, %address, %error, "handshake aborted");
                }
            }
            return None;
        }
        Err(_) => {
            edge.metrics.failed(edge.name, "timeout");
            let limit = edge.bounds.handshake;
            debug!(connection = number, %address, "handshake not completed within {limit:?}");
            return None;
        }
    };
    let tls = stream.get_ref().1;
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    edge.metrics.completed(edge.name, resumed);
    let chain = peer_chain(tls.peer_certificates(), verified, &handshakes.intermediates);
    Some((stream, Peer { address, connection: number, chain, resumed }, hosts))
}

/// Returns the parsed chain of a completed handshake.  The verifier has parsed it, unless the
/// session was resumed or the verifier accepts every certificate.
fn peer_chain(
    presented: Option<&[CertificateDer<'static>]>,
    verified: Option<Arc<UnverifiedChain>>,
    intermediates: &Intermediates,
) -> Result<Arc<UnverifiedChain>, Refusal> {
    let presented = presented.ok_or_else(no_certificate)?;
    let chain = match verified {
        Some(chain) if presented.first().is_some_and(|leaf| **leaf == *chain.leaf().der()) => chain,
        _ => Arc::new(intermediates.parse(presented)?),
    };
    intermediates.add(&chain);
    Ok(chain)
}

fn no_certificate() -> Refusal {
    Refusal::new(Code::CertificateMissing, "no certificate was presented")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply;
    use crate::tls::closing::tests::{Issuer, authority_params, live, snapshot};
    use hyper::StatusCode;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;
    use tokio_rustls::TlsConnector;

    /// Accepts every server certificate.
    #[derive(Debug)]
    struct AnyServer;

    impl ServerCertVerifier for AnyServer {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, TlsError> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, TlsError> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, TlsError> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            crate::tls::provider().signature_verification_algorithms.supported_schemes()
        }
    }

    /// Returns a connector that presents a new certificate below `issuer`.
    fn device(issuer: &Issuer) -> TlsConnector {
        let params = CertificateParams::new(["device.example".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, issuer).expect("a leaf").der().clone();
        let chain = vec![leaf, issuer.der().clone()];
        let key = key.serialize_der().try_into().expect("a key");
        let config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(chain, key)
            .expect("a configuration");
        TlsConnector::from(Arc::new(config))
    }

    async fn request(device: &TlsConnector, address: SocketAddr) {
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = device.connect(name, stream).await.expect("a handshake");
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("a response");
        assert!(response.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn connections_share_their_intermediates() {
        let (trust, root) = snapshot(None);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::signed_by(authority_params("intermediate"), key, &root);
        let issuer = issuer.expect("an intermediate");
        let (live, _writer) = live(trust);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (peers, mut served) = mpsc::unbounded_channel();
        let handler = move |peer, _| {
            let _ = peers.send(peer);
            async { reply::empty(StatusCode::OK) }
        };
        let edge = TlsListener {
            name: "token",
            tls: |tls| &tls.token,
            bounds: Bounds::default(),
            live,
            metrics: Metrics::default(),
            open: None,
        };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(edge, listener, stop.clone(), handler));
        let (first, second) = (device(&issuer), device(&issuer));
        let mut chains = Vec::new();
        for (device, resumed) in [(&first, false), (&second, false), (&first, true)] {
            request(device, address).await;
            let peer: Arc<Peer> = served.recv().await.expect("a request");
            assert_eq!(peer.resumed, resumed);
            chains.push(peer.chain.clone().expect("a chain"));
        }
        let [a, b, again] = &chains[..] else { panic!("{} chains", chains.len()) };
        assert_ne!(a.leaf().fingerprint, b.leaf().fingerprint);
        assert_eq!(a.leaf().fingerprint, again.leaf().fingerprint);
        for other in [b, again] {
            assert!(Arc::ptr_eq(&a.certificates()[1], &other.certificates()[1]));
        }
        stop.cancel();
        server.await.expect("ended");
    }

    #[test]
    fn uses_the_chain_that_the_verifier_parsed() {
        let der = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new([name.to_owned()]).expect("a name");
            params.self_signed(&key).expect("a certificate").der().clone()
        };
        let (presented, other) = ([der("a")], [der("b")]);
        let intermediates = Intermediates::default();
        let verified = Arc::new(intermediates.parse(&presented).expect("readable"));
        let chain = |presented| peer_chain(presented, Some(Arc::clone(&verified)), &intermediates);
        let used = chain(Some(&presented[..])).expect("a chain");
        assert!(Arc::ptr_eq(&used, &verified));
        let parsed = chain(Some(&other[..])).expect("a chain");
        assert_eq!(parsed.leaf().der(), other[0].as_ref());
        assert_eq!(chain(None).map(drop).map_err(|r| r.code), Err(Code::CertificateMissing));
    }
}
