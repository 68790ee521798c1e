//! Accepts TLS connections: a handshake under a time limit, then HTTP.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::thread::available_parallelism;
use std::time::Duration;

use hyper::Request;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use rustls::{Error as TlsError, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::http::Hosts;
use crate::http::connections::{Admission, Connection, Shares};
use crate::http::listen;
use crate::http::peer::Peer;
use crate::http::proxy_protocol::Addresses;
use crate::http::reply::Reply;
use crate::http::serve::{Ended, Limits, Protocol, RequestBody};
use crate::runtime::audit::{self, Event, Outcome, Record};
use crate::runtime::live::{ListenerTls, Live};
use crate::runtime::log_limit::LogLimit;
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Stop;
use crate::tls::closing::OpenConnections;
use crate::tls::handshakes::{Handshake, Handshakes, Limits as HandshakeLimits};
use crate::tls::lingering::Lingering;
use crate::tls::metrics::Metrics;
use crate::tls::peer_chain::{self, Intermediates};
use crate::tls::proxied;
use crate::tls::verifier::refused;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::Fingerprint;

/// Age from which a handshake makes room for another one if no more may begin.
const SLOW: Duration = Duration::from_secs(1);
/// A client that cannot read a ticket closes the connection within this time.
const AFTER_TICKET: Duration = Duration::from_secs(5);
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
    /// Keep the chain of each peer, to judge it for every request.  Otherwise only the hash of its
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
    let edge = Arc::new(Edge {
        listener: edge,
        handshakes: Handshakes::new(limits),
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
            let (stream, peer, hosts) = match completed.await {
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
            let ticket = Ticket::of(&stream, &edge.listener);
            let asked = Arc::clone(&ticket.has_request);
            let handle = move |request| {
                asked.store(true, Ordering::Relaxed);
                handler(Arc::clone(&peer), request)
            };
            let (limits, unfinished) = (&bounds.http, bounds.unfinished);
            let served =
                connection.serve(stream, protocol, hosts, limits, stop, unfinished, handle);
            let ended = served.await;
            if ended == Ended::Closed && ticket.was_last() {
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

/// A listener and the state that its connections share.
struct Edge {
    listener: TlsListener,
    handshakes: Arc<Handshakes>,
    intermediates: Arc<Intermediates>,
    lingering: Lingering,
    failures: LogLimit,
    ticket_hints: LogLimit,
    stop: Stop,
}

/// A handshake that did not complete.
enum Incomplete {
    /// It failed.  On the stream, the peer is to receive an alert.
    Failed(io::Error, Option<TcpStream>),
    /// It was given up, for this reason.
    Dropped(&'static str),
}

impl From<io::Error> for Incomplete {
    fn from(error: io::Error) -> Self {
        Self::Failed(error, None)
    }
}

impl Edge {
    /// Completes the handshake.  The error is the connection of a refused peer, which has to receive
    /// the alert.
    async fn handshake(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
        number: u64,
    ) -> Result<(TlsStream<TcpStream>, Peer, Hosts), Option<TcpStream>> {
        let Self { listener, intermediates, .. } = self;
        let (started, address) = (Instant::now(), addresses.client);
        let accepted = self.accept(stream, connection, addresses, started);
        let (accepted, verified) = peer_chain::collect(intermediates, accepted).await;
        let (error, stream) = match accepted {
            Ok((stream, hosts)) => {
                let tls = stream.get_ref().1;
                let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                listener.metrics.completed(listener.name, resumed);
                if let Some(group) = tls.negotiated_key_exchange_group() {
                    listener.metrics.group(listener.name, group.name());
                }
                let presented = tls.peer_certificates();
                let chain = match listener.keeps_chains {
                    true => peer_chain(presented, verified, intermediates),
                    false => Err(Refusal::new(Code::CertificateMissing, "no chain is kept")),
                };
                let certificate = match &chain {
                    Ok(chain) => Some(chain.leaf().fingerprint),
                    Err(_) => presented.and_then(<[_]>::first).map(|leaf| Fingerprint::of(leaf)),
                };
                let connection = number;
                return Ok((
                    stream,
                    Peer { address, connection, certificate, chain, resumed },
                    hosts,
                ));
            }
            Err(Incomplete::Dropped(reason)) => {
                listener.metrics.failed(listener.name, reason);
                let after = started.elapsed();
                debug!(connection = number, %address, reason, ?after, "handshake not completed");
                return Err(None);
            }
            Err(Incomplete::Failed(error, stream)) => (error, stream),
        };
        match error.get_ref().and_then(|e| e.downcast_ref::<TlsError>()) {
            // The verifier knows the refusal code and has counted and audited it.
            Some(TlsError::InvalidCertificate(_)) => {}
            Some(TlsError::NoCertificatesPresented) => {
                refused(&listener.metrics, &no_certificate(), None, None);
            }
            Some(error) => {
                listener.metrics.failed(listener.name, "tls");
                debug!(connection = number, %address, %error, "handshake failed");
                self.audit_failure(error);
            }
            None => {
                listener.metrics.failed(listener.name, "io");
                debug!(connection = number, %address, %error, "handshake aborted");
                return Err(None);
            }
        }
        Err(stream)
    }

    /// Audits a handshake that failed before a certificate was judged.  Strangers can cause any number of
    /// these, so one in each [`FAILURES`] is written.
    fn audit_failure(&self, error: &TlsError) {
        let Some(suppressed) = self.failures.permit() else { return };
        let mut detail =
            format!("the TLS handshake with the {} listener failed: {error}", self.listener.name);
        if suppressed > 0 {
            detail += &format!("; {suppressed} failures before it are not in the log");
        }
        Record { detail: Some(&detail), ..Record::new(Event::Handshake, Outcome::Refused) }.emit();
    }

    /// Counts a client that closed the connection after its session ticket, and tells the operator about
    /// clients that cannot read tickets.
    fn closed_after_ticket(&self, connection: u64, address: SocketAddr) {
        self.listener.metrics.closed_after_ticket(self.listener.name);
        if self.ticket_hints.permit().is_some() {
            warn!(
                connection,
                %address,
                listener = self.listener.name,
                "client closed the connection after its TLS 1.3 session ticket, without a request. wolfSSL \
                 as built by default cannot read these tickets: if such clients get no token, set \
                 `tls.resumption = \"1.2\"`. anchorgate_closed_after_ticket_total counts these connections"
            );
        }
    }

    async fn accept(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
        started: Instant,
    ) -> Result<(TlsStream<TcpStream>, Hosts), Incomplete> {
        // The time runs from accept, so that all silent peers time out together.
        let deadline = started + self.listener.bounds.handshake;
        let accepted = async {
            tokio::select! {
                biased;
                ready = stream.readable() => ready?,
                () = connection.until_unwanted(&self.stop) => {
                    return Err(Incomplete::Dropped("silent"));
                }
            }
            let _work = connection.begin();
            tokio::select! {
                accepted = self.negotiate(stream, connection, addresses) => accepted,
                () = connection.until_overdue(&self.stop) => Err(Incomplete::Dropped("slow")),
            }
        };
        timeout_at(deadline, accepted).await.unwrap_or(Err(Incomplete::Dropped("timeout")))
    }

    /// Completes the handshake of a connection on which data has arrived.
    async fn negotiate(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
    ) -> Result<(TlsStream<TcpStream>, Hosts), Incomplete> {
        let address = addresses.client;
        let handshake = tokio::select! {
            biased;
            handshake = self.turn(connection, address) => handshake?,
            ended = given_up(&stream) => {
                ended?;
                return Err(Incomplete::Dropped("gone"));
            }
        };
        // A client that has given up meanwhile costs no cryptography.
        if handshake.has_waited() && is_closed(&stream).await? {
            return Err(Incomplete::Dropped("gone"));
        }
        // Boxed, so that a connection that waits or is idle does not keep the space that this needs.
        Box::pin(self.answer(stream, connection, addresses, handshake)).await
    }

    async fn turn(
        &self,
        connection: &Connection,
        address: SocketAddr,
    ) -> Result<Handshake, Incomplete> {
        let turn = self.handshakes.turn(address.ip(), connection.closing()).await;
        turn.ok_or(Incomplete::Dropped("queue"))
    }

    /// Completes the handshake of a connection whose turn it is.
    async fn answer(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
        mut handshake: Handshake,
    ) -> Result<(TlsStream<TcpStream>, Hosts), Incomplete> {
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = match poll_once(&mut hello).await {
            Poll::Ready(start) => start,
            // A part of the ClientHello is missing, and waiting for it must not use up a turn.
            Poll::Pending => {
                drop(handshake);
                let start = (&mut hello).await;
                handshake = self.turn(connection, addresses.client).await?;
                start
            }
        };
        let start = match start {
            Ok(start) => start,
            Err(error) => return Err(Incomplete::Failed(error, hello.take_io())),
        };
        let tls = Arc::clone(&self.listener.live.current().tls);
        let hosts = Hosts::Of(Arc::clone(&tls.hosts), addresses.server.ip());
        let mut accept = start.into_stream(Arc::clone((self.listener.tls)(&tls))).into_fallible();
        let answered = poll_once(&mut accept).await;
        yield_now().await;
        handshake.answered();
        let accepted = match answered {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => accept.await,
        };
        match accepted {
            Ok(stream) => Ok((stream, hosts)),
            Err((error, stream)) => Err(Incomplete::Failed(error, Some(stream))),
        }
    }
}

/// Facts about a connection and its session ticket.
struct Ticket {
    /// A TLS 1.3 ticket was sent.
    is_sent: bool,
    completed: Instant,
    has_request: Arc<AtomicBool>,
}

impl Ticket {
    fn of(stream: &TlsStream<TcpStream>, listener: &TlsListener) -> Self {
        let is_tls13 = stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let tls = &listener.live.current().tls;
        let is_sent = is_tls13 && (listener.tls)(tls).send_tls13_tickets > 0;
        Self { is_sent, completed: Instant::now(), has_request: Arc::default() }
    }

    /// Returns true if the connection has just ended and the ticket was the last message that its client
    /// read.
    fn was_last(&self) -> bool {
        self.is_sent
            && !self.has_request.load(Ordering::Relaxed)
            && self.completed.elapsed() < AFTER_TICKET
    }
}

/// Returns when a client that waits for its turn has closed the connection.  This is noticed up to
/// [`SLOW`] later.
async fn given_up(stream: &TcpStream) -> io::Result<()> {
    loop {
        sleep(SLOW).await;
        if is_closed(stream).await? {
            return Ok(());
        }
    }
}

/// Returns true if the peer has closed a connection on which data has arrived.
async fn is_closed(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.ready(Interest::READABLE).await?.is_read_closed())
}

/// Polls `future` once, so that it does what it can do now.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
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
pub(super) mod tests {
    use super::*;
    use crate::http::reply;
    use crate::tls::Resumption;
    use crate::tls::closing::tests::{Issuer, authority_params, live, live_with, snapshot};
    use hyper::StatusCode;
    use rcgen::{
        CertificateParams, CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm,
    };
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, SignatureScheme};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;
    use tokio_rustls::TlsConnector;
    use tokio_util::sync::CancellationToken;

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

    /// Returns a client that presents a new certificate below `issuer`, with a key for `algorithm`.
    pub(in crate::tls) fn client(
        issuer: &Issuer,
        algorithm: &'static SignatureAlgorithm,
    ) -> ClientConfig {
        let params = CertificateParams::new(["device.example".to_owned()]).expect("a name");
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let leaf = params.signed_by(&key, issuer).expect("a leaf").der().clone();
        let chain = vec![leaf, issuer.der().clone()];
        let key = key.serialize_der().try_into().expect("a key");
        ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(chain, key)
            .expect("a configuration")
    }

    fn device(issuer: &Issuer) -> TlsConnector {
        TlsConnector::from(Arc::new(client(issuer, &PKCS_ECDSA_P256_SHA256)))
    }

    /// Sends a request on a new connection and returns the cipher suite of the connection.
    async fn request(device: &TlsConnector, address: SocketAddr) -> CipherSuite {
        let stream = TcpStream::connect(address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = device.connect(name, stream).await.expect("a handshake");
        let suite = stream.get_ref().1.negotiated_cipher_suite().expect("negotiated").suite();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("a response");
        assert!(response.starts_with(b"HTTP/1.1 200"));
        suite
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
            keeps_chains: true,
            memory: Pressure::default(),
            open: None,
        };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(edge, listener, stop.clone(), handler));
        let (first, second) = (device(&issuer), device(&issuer));
        let mut chains = Vec::new();
        for (device, resumed) in [(&first, false), (&second, false), (&first, true)] {
            // The client prefers AES-256 with SHA-384.
            let suite = request(device, address).await;
            assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
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

    #[tokio::test]
    async fn clients_that_close_after_their_ticket_are_counted() {
        let (trust, root) = snapshot(None);
        for (resumption, is_silent, expected) in [
            (Resumption::Both, true, 1),
            (Resumption::Both, false, 0),
            (Resumption::Tls12, true, 0),
        ] {
            let config = crate::tls::Config { resumption, ..crate::tls::Config::default() };
            let (live, _writer) = live_with(trust.clone(), &config);
            let metrics = Metrics::default();
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let edge = TlsListener {
                name: "token",
                tls: |tls| &tls.token,
                bounds: Bounds::default(),
                live,
                metrics: metrics.clone(),
                keeps_chains: true,
                memory: Pressure::default(),
                open: None,
            };
            let stop = CancellationToken::new();
            let handler = |_, _| async { reply::empty(StatusCode::OK) };
            let server = tokio::spawn(serve(edge, listener, stop.clone(), handler));
            let device = device(&root);
            if is_silent {
                let stream = TcpStream::connect(address).await.expect("connected");
                let name = ServerName::try_from("localhost").expect("a name");
                let mut stream = device.connect(name, stream).await.expect("a handshake");
                stream.shutdown().await.expect("closed");
                assert_eq!(stream.read_to_end(&mut Vec::new()).await.expect("the end"), 0);
            } else {
                request(&device, address).await;
            }
            stop.cancel();
            server.await.expect("ended");
            assert_eq!(metrics.count_closed_after_ticket("token"), expected, "{resumption:?}");
        }
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
